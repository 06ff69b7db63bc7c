"""Read the network pickles of EG3D, StyleGAN2-ADA and StyleGAN3 without running any of their code.

Such a file is a pickle of whole modules: classes embed the source code of their module, which the
official loader executes, and tensors call `torch.load`. Here a file is read in three steps:

1. `_scan` follows the opcodes on an abstract stack. It rejects unknown opcodes, names outside the
   allow-list, and sizes, memo indices and keys that would exhaust memory or time.
2. `pickle.Unpickler` builds the objects. `find_class` imports nothing: a name becomes a `Stub`,
   which stores its arguments and state and does nothing else.
3. `Reader` replaces each stub by a plain value: a dict, a number, a tensor, or a `Record`.
"""

import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

from lightning_gan3d.checkpoints.pickled_objects import (
    MAGIC,
    Name,
    Reader,
    Stub,
    UnsafePickle,
    damaged,
    printable,
)
from lightning_gan3d.checkpoints.store import CheckpointError

MAX_OPCODES = 1_000_000
"""The largest published networks take about a hundred thousand."""
MAX_INT_BITS = 2048
"""Pickle allows integers as long as the file, which cannot be printed."""
_OPCODES = {
    *("PROTO", "FRAME", "STOP", "MARK", "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD"),
    *("GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"),
    *("NONE", "NEWTRUE", "NEWFALSE", "FLOAT", "BINFLOAT"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("EMPTY_SET", "ADDITEMS", "FROZENSET"),
}
"""Opcodes that picklers write; not DUP, POP, INST, OBJ, NEWOBJ_EX, PERSID, EXT and buffers."""
_KEYS = {
    *(pickletools.pyint, pickletools.pyinteger_or_bool, pickletools.pybool, pickletools.pynone),
}
"""Kinds of values that may be keys, besides texts."""


def read_pickle(path: str | Path, max_bytes: int = 8 * 2**30) -> Any:
    """Return the content of a network pickle; modules become `Record`s, and nothing is executed.

    Everything else is plain: dict (of any kind), list, tuple, set, text, number, None and torch
    tensors on the CPU. NumPy's scalars become numbers, its arrays tensors, and devices text.
    Parameters are tensors without gradient; tensors that shared memory still do.

    Args:
        path: the file, which is not changed.
        max_bytes: largest file to read; memory grows to about twice the file's size.

    Raises:
        UnsafePickle: the pickle names something outside the allow-list (exit code 3).
        CheckpointError: no file, another kind of file, or a damaged one (exit code 2).
    """
    path = Path(path)
    if not path.is_file():  # a pipe or a device could block
        raise CheckpointError(f"{path}: no such file; name a network pickle (.pkl)")
    try:
        with _File(io.FileIO(path)) as file:
            if file.size > max_bytes:
                raise CheckpointError(
                    f"{file.size} bytes, more than max_bytes={max_bytes}; raise max_bytes if it "
                    "is a network"
                )
            _reject_other_formats(file.read(min(file.size, 512)))
            file.seek(0)
            return _read(file)
    except UnsafePickle as error:
        raise UnsafePickle(f"{path} asks for {error}; nothing was executed") from None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except MemoryError:
        raise CheckpointError(f"{path}: needs more memory than this machine has") from None


class _File(io.BufferedReader):
    """A file whose reads beyond its end fail before memory is allocated."""

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw)
        self.size = os.fstat(raw.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > 512 and size > (left := self.size - self.tell()):
            raise damaged(f"it ends early: {size} bytes declared, {left} left")
        return super().read(size)


def _reject_other_formats(head: bytes) -> None:
    if not head:
        raise CheckpointError("the file is empty; download or export it again")
    if head.lstrip().startswith(b"<"):
        raise CheckpointError("a web page, not a network pickle; download the file itself")
    if head[8:10] == b'{"':
        raise CheckpointError("a safetensors file, not a pickle; it needs no import")
    other = "not a network pickle; name the .pkl that EG3D or StyleGAN wrote"
    for start, message in {
        b"PK": f"a zip (a data set, or a torch checkpoint such as .pt), {other}",
        b"version https://git-lfs": "only a pointer; fetch the file itself with git lfs pull",
        b"\x1f\x8b": "compressed by gzip; unpack it first",
        pickle.dumps(MAGIC, 2): f"weights alone (torch.save before version 1.6), {other}",
    }.items():
        if head.startswith(start):
            raise CheckpointError(message)


def _read(file: _File) -> Any:
    try:
        _scan(file)
        if file.tell() != file.size:
            raise damaged(f"{file.size - file.tell()} bytes follow its end")
        file.seek(0)
        return Reader(2 * file.size + 2**20).value(_Unpickler(file).load())
    except (CheckpointError, MemoryError, OSError):
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise damaged(printable(f"{type(error).__name__}: {error}")) from None


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return a new subclass of `Stub`; nothing is imported."""
        return type("Stub", (Stub,), {"__slots__": (), "name": Name(module, name).check()})


def _scan(file: _File) -> None:
    """Check a pickle, up to its STOP."""
    stack = _AbstractStack()
    for count, (op, argument, _) in enumerate(pickletools.genops(file)):
        if op.name == "INST":
            Name(*str(argument).split(" ", 1)).check()
        if op.name.startswith("EXT"):
            raise UnsafePickle(f"extension code {argument} of copyreg")
        if op.name not in _OPCODES:
            raise damaged(f"opcode {op.name}, which network pickles do not use")
        if count > MAX_OPCODES:
            raise damaged(f"more than {MAX_OPCODES} opcodes")
        if isinstance(argument, int) and argument.bit_length() > MAX_INT_BITS:
            raise damaged("a number of more than 600 digits")
        if isinstance(argument, str):
            argument.encode()  # a lone surrogate could be neither hashed nor printed
        stack.step(op, argument)


class _AbstractStack:
    """Abstract stack: texts and names by value, all else by its kind in `pickletools`."""

    def __init__(self) -> None:
        self._values: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def step(self, op: pickletools.OpcodeInfo, argument: Any) -> None:
        """Pop the operands of an opcode, check them, and push its result."""
        count, members = len(op.stack_before), []
        if pickletools.markobject in op.stack_before:
            count = op.stack_before.index(pickletools.markobject)
            members = self._pop(self._marks.pop())
        operands = self._pop(len(self._values) - count)
        self._values += self._result(op, argument, operands, members)

    def _pop(self, start: int) -> list[Any]:
        if start < (self._marks[-1] if self._marks else 0):
            raise damaged("a value is missing")
        values = self._values[start:]
        del self._values[start:]
        return values

    def _result(
        self, op: pickletools.OpcodeInfo, argument: Any, operands: list[Any], members: list[Any]
    ) -> list[Any]:
        match op.name:
            case "MARK":
                self._marks.append(len(self._values))
                return []
            case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                index = len(self._memo) if argument is None else argument
                if index > MAX_OPCODES:  # Python's memo is an array
                    raise damaged(f"memo index {index}")
                self._memo[index] = (operands or self._values)[-1]
                return operands
            case "GET" | "BINGET" | "LONG_BINGET":
                return [self._memo[argument]]
            case "GLOBAL":
                return [Name(*str(argument).split(" ", 1)).check()]
            case "STACK_GLOBAL":
                if not all(isinstance(x, str) for x in operands):
                    raise damaged("a name that is not text")
                return [Name(*operands).check()]
            case "REDUCE" | "NEWOBJ":
                name = operands[0]
                if not isinstance(name, Name) or name.is_class != (op.name == "NEWOBJ"):
                    raise damaged("a call of a value that is not a function")
            case "BUILD" if isinstance(operands[0], Name):
                raise UnsafePickle(f"a change of {operands[0].path}")
            case "SETITEM" | "SETITEMS" | "DICT":
                _check_keys(operands[1:2] + members[::2])
            case "ADDITEMS" | "FROZENSET":
                _check_keys(members)
            case "STOP" if self._values or self._marks:
                raise damaged("values are left over at its end")
        if op.name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"):
            return operands[:1]
        if isinstance(argument, str):
            return [argument]
        if isinstance(argument, int) and argument.bit_length() > 32 and op.stack_after:
            return [pickletools.anyobject]
        return list(op.stack_after)


def _check_keys(keys: list[Any]) -> None:
    """Check that keys are texts and small integers.

    Others can be made to collide, and then a dict takes quadratic time; and the hash of a deep
    tuple overflows the C stack.
    """
    if not all(isinstance(x, str) or x in _KEYS for x in keys):
        raise damaged("a key that is neither text nor a small integer")
