"""A pickle machine that builds plain values and calls nothing that a file names.

Python's own unpickler looks up functions by name, calls them and sets attributes, and is made safe
only by hiding what must not be found. Here the opcodes (decoded by the standard library's
`pickletools`) act on a stack of our own values: a global stays a name, and what a name does is a
method of this machine. There is no import, no call and no `setattr` to reach.
"""

import pickletools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from lightning_gan3d.checkpoints.source import (
    MAX_OPCODES,
    Allowance,
    Global,
    Source,
    UnsafePickle,
    damaged,
    shown,
)
from lightning_gan3d.checkpoints.store import CheckpointError

MAX_INT_BITS = 2048
"""Longest whole number; pickle allows numbers as long as the file, which cannot be printed."""


@dataclass(slots=True, eq=False)
class Pending:
    """A stand-in for an object whose value is known only when its state arrives (BUILD)."""

    memo: list[int] = field(default_factory=list)


class Machine:
    """The opcodes that network pickles use; a subclass says which globals there are."""

    def __init__(self, source: Source, allowance: Allowance) -> None:
        """Read one pickle from the source, up to its STOP."""
        self.source = source
        self.allowance = allowance
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks under each MARK
        self._memo: dict[int, Any] = {}  # a dict: an index of 2**32 - 1 costs one entry

    def find(self, name: Global) -> Global:
        """Return a global that is known; the first that is not ends the reading."""
        raise UnsafePickle(str(name))

    def call(self, function: Global, args: tuple[Any, ...]) -> Any:
        """Return what stands for the result of a call (REDUCE)."""
        del args
        raise damaged(f"it calls {function}")

    def new(self, cls: Global) -> Any:
        """Return what stands for a new instance without arguments (NEWOBJ)."""
        raise damaged(f"it makes a {cls}")

    def build(self, target: Any, state: Any) -> Any:
        """Give an object its state (BUILD), and return it, or what a `Pending` has become."""
        del state
        raise damaged(f"it gives a state to a {type(target).__name__}")

    def persistent(self, name: Any) -> Any:
        """Return what an id stands for that is defined outside the pickle."""
        del name
        raise damaged("it refers to objects outside the file")

    def run(self) -> Any:
        """Return the value of the pickle."""
        while True:
            code = self.source.read(1)
            if code == b".":
                value = self._pop()
                if self._stack or self._below:
                    raise damaged("values are left over at its end")
                return value
            self.allowance.opcodes -= 1
            if self.allowance.opcodes < 0:
                raise damaged(f"it takes more than {MAX_OPCODES} steps")
            try:
                name, read = _OPCODES[code]
            except KeyError:
                raise damaged(f"unknown opcode at byte {self.source.position - 1}") from None
            if name in _DATA:  # bytes may be a whole storage: they are left in the file
                self._stack.append(
                    self.source.part(int.from_bytes(self.source.read(_DATA[name]), "little"))
                )
                continue
            argument = self._argument(read) if read else None
            if name in _VALUES:
                self._stack.append(argument)
            elif name in _ACTIONS:
                _ACTIONS[name](self, argument)
            else:
                raise damaged(f"opcode {name}, which network pickles do not use")

    def _argument(self, read: Callable[[Any], Any]) -> Any:
        try:
            value = read(self.source)
            if isinstance(value, str):
                value.encode()  # a lone surrogate could be neither hashed nor printed
        except CheckpointError:
            raise
        except ValueError:
            raise damaged(f"unreadable value before byte {self.source.position}") from None
        if isinstance(value, int) and value.bit_length() > MAX_INT_BITS:
            raise damaged("a number of more than 600 digits")
        return value

    def _pop(self) -> Any:
        if not self._stack:
            raise damaged("a value is missing")
        return self._stack.pop()

    def _top(self, kind: type) -> Any:
        if not self._stack or type(self._stack[-1]) is not kind:
            raise damaged(f"a {kind.__name__} is missing")
        return self._stack[-1]

    def _pop_mark(self) -> list[Any]:
        if not self._below:
            raise damaged("a mark is missing")
        items, self._stack = self._stack, self._below.pop()
        return items

    def _mark(self, _: Any) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _drop(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def _drop_marked(self, _: Any) -> None:
        self._pop_mark()

    def _double(self, _: Any) -> None:
        value = self._pop()
        self._stack += [value, value]

    def _put(self, index: int) -> None:
        value = self._pop()
        self._stack.append(value)
        self._memo[index] = value
        if isinstance(value, Pending):
            value.memo.append(index)

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise damaged(f"value {shown(str(index))} is used but not stored")
        self._stack.append(self._memo[index])

    def _tuple(self, size: int) -> None:
        items = [self._pop() for _ in range(size)]
        self._stack.append(tuple(reversed(items)))

    def _append(self, _: Any) -> None:
        value = self._pop()
        self._top(list).append(value)

    def _append_all(self, _: Any) -> None:
        items = self._pop_mark()
        self._top(list).extend(items)

    def _add_all(self, _: Any) -> None:
        items = self._pop_mark()
        self._top(set).update(keys(items))

    def _set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._top(dict).update(pairs([key, value]))

    def _set_all(self, _: Any) -> None:
        items = self._pop_mark()
        self._top(dict).update(pairs(items))

    def _global(self, name: str) -> None:
        module, _, attribute = name.partition(" ")  # pickletools joins the two lines by a space
        self._stack.append(self.find(Global(module, attribute)))

    def _stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise damaged("a global without a name")
        self._stack.append(self.find(Global(module, name)))

    def _inst(self, name: str) -> None:
        self._global(name)
        raise damaged("opcode INST, which network pickles do not use")

    def _extension(self, code: int) -> None:
        raise UnsafePickle(f"extension {code} of the registry of code")

    def _callee(self) -> tuple[Global, tuple[Any, ...]]:
        args, function = self._pop(), self._pop()
        if type(args) is not tuple or not isinstance(function, Global):
            raise damaged("a call of something that is no function")
        return function, args

    def _reduce(self, _: Any) -> None:
        self._stack.append(self.call(*self._callee()))

    def _new(self, _: Any) -> None:
        cls, args = self._callee()
        if args:
            raise damaged(f"it makes a {cls} with arguments")
        self._stack.append(self.new(cls))

    def _build(self, _: Any) -> None:
        state, target = self._pop(), self._pop()
        if isinstance(target, Global):
            raise UnsafePickle(f"a change of {target}")
        value = self.build(target, state)
        self._stack.append(value)
        if isinstance(target, Pending):
            self._memo.update(dict.fromkeys(target.memo, value))

    def _ignore(self, _: Any) -> None:
        pass

    def _protocol(self, number: int) -> None:
        if number > 5:
            raise damaged(f"protocol {number}; 5 is the newest")


def keys(items: list[Any]) -> list[Hashable]:
    """Return what may be a key or in a set.

    Text and short whole numbers only: tuples and long numbers can be made to collide, and then a
    dict takes quadratic time.
    """
    for key in items:
        if not (isinstance(key, str | None) or (isinstance(key, int) and key.bit_length() < 33)):
            raise damaged(f"a {type(key).__name__} as a key")
    return items


def pairs(items: list[Any]) -> dict[Any, Any]:
    """Return alternating keys and values as a dict."""
    if len(items) % 2:
        raise damaged("a key without a value")
    return dict(zip(keys(items[::2]), items[1::2], strict=True))


def _constant(value: Any) -> Callable[[Machine, Any], None]:
    return lambda machine, _: machine._stack.append(value)


def _made(make: Callable[[list[Any]], Any], marked: bool) -> Callable[[Machine, Any], None]:
    def act(machine: Machine, _: Any) -> None:
        value = make(machine._pop_mark() if marked else [])
        machine._stack.append(value)

    return act


_OPCODES = {
    op.code.encode("latin1"): (op.name, op.arg.reader if op.arg else None)
    for op in pickletools.opcodes
}
_DATA = {"SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8}
"""Opcodes of raw bytes, and the bytes of their length."""
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}
"""Opcodes that push what follows them."""
_ACTIONS: dict[str, Callable[[Machine, Any], None]] = {
    "PROTO": Machine._protocol,
    "FRAME": Machine._ignore,  # a hint for buffering
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_LIST": _made(list, marked=False),
    "EMPTY_DICT": _made(pairs, marked=False),
    "EMPTY_SET": _made(set, marked=False),
    "LIST": _made(list, marked=True),
    "DICT": _made(pairs, marked=True),
    "TUPLE": _made(tuple, marked=True),
    "FROZENSET": _made(lambda items: frozenset(keys(items)), marked=True),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "MARK": Machine._mark,
    "POP": Machine._drop,
    "POP_MARK": Machine._drop_marked,
    "DUP": Machine._double,
    "PUT": Machine._put,
    "BINPUT": Machine._put,
    "LONG_BINPUT": Machine._put,
    "MEMOIZE": lambda machine, _: machine._put(len(machine._memo)),
    "GET": Machine._get,
    "BINGET": Machine._get,
    "LONG_BINGET": Machine._get,
    "APPEND": Machine._append,
    "APPENDS": Machine._append_all,
    "ADDITEMS": Machine._add_all,
    "SETITEM": Machine._set_item,
    "SETITEMS": Machine._set_all,
    "GLOBAL": Machine._global,
    "STACK_GLOBAL": Machine._stack_global,
    "INST": Machine._inst,
    "EXT1": Machine._extension,
    "EXT2": Machine._extension,
    "EXT4": Machine._extension,
    "REDUCE": Machine._reduce,
    "NEWOBJ": Machine._new,
    "BUILD": Machine._build,
    "BINPERSID": lambda machine, _: machine._stack.append(machine.persistent(machine._pop())),
    "PERSID": lambda machine, name: machine._stack.append(machine.persistent(name)),
}
