"""The objects in network pickles: inert stubs while a file is read, then plain values and records.

The storages of tensors are old `torch.save` streams, nested as bytes: five small pickles (a magic
number, the format version, the platform, the storage's type, key and length, the list of
keys), the number of values, and the values.
"""

import hashlib
import io
import math
import pickletools
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_gan3d.checkpoints.store import CheckpointError

MAX_DEPTH = 200
"""Maximum nesting depth of a file's objects; a generator reaches about 50."""
MAX_MODULE_DEPTH = 50
"""Maximum nesting depth of modules."""
MAX_ENTRIES = 20_000
"""Maximum number of modules and tensors of a network, each counted wherever it is used."""
MAX_NAME = 200
"""Maximum length of the name of one module or tensor."""
MAX_DIMENSIONS = 16
MAGIC, FORMAT = 0x1950A86A20F9469CFC6C, 1001
"""Of `torch.save` before version 1.6."""

_CLASSES = ("training.", "torch.nn.modules.")
"""Packages of the classes whose instances become records."""
_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")
"""NumPy dtypes that torch supports."""


class UnsafePickle(CheckpointError):
    """A pickle that requests code; none of it was looked up, imported or called."""

    exit_code: ClassVar[int] = 3


def damaged(reason: str) -> CheckpointError:
    """Return the error for a damaged file."""
    return CheckpointError(f"not a complete network pickle ({reason}); download or export it again")


def printable(text: str) -> str:
    """Escape and shorten text of a file to one line of a message."""
    return text.encode("unicode_escape").decode("ascii")[:100]


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """An instance of a class in a pickle: inert, compared by identity."""

    module: str
    """Module of the class; empty if the class is embedded as source code (`persistent`)."""
    name: str
    """Name of the class."""
    state: dict[str, Any] = field(default_factory=dict, repr=False)
    """Attributes; those of a module include `_parameters`, `_buffers` and `_modules`."""
    source_sha256: str | None = None
    """Hash of the embedded source code, which is neither compiled nor run."""
    persistent: bool = False
    """The class is embedded as source code."""


class Name(NamedTuple):
    """A class or function that a pickle names."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """The dotted name, as Python 3 and NumPy 1 write it."""
        module = self.module.replace("numpy._core.", "numpy.core.")
        return f"{'builtins' if module == '__builtin__' else module}.{self.name}"

    @property
    def is_class(self) -> bool:
        """Whether NEWOBJ creates instances of it."""
        of_network = self.module.startswith(_CLASSES) and self.name.isidentifier()
        return of_network or self.path == "dnnlib.util.EasyDict"

    def check(self) -> "Name":
        """Return a name of the allow-list; reject others."""
        if self.is_class or self.path in _FUNCTIONS or self.path == "numpy.ndarray":
            return self
        if self.module == "dnnlib.tflib.network":
            raise CheckpointError(
                "TensorFlow networks (StyleGAN, or StyleGAN2 of 2019); convert the file with "
                "legacy.py of NVlabs/stylegan3 first"
            )
        raise UnsafePickle(printable(f"{self.module}.{self.name}"))


class Stub:
    """Inert placeholder of an object while a file is read: arguments, items and state.

    Each class and function of a file becomes a subclass, so that calling it makes an instance.
    """

    __slots__ = ("args", "items", "state")
    name: ClassVar[Name]
    args: tuple[Any, ...]
    items: dict[Any, Any]
    state: Any

    def __new__(cls, *args: Any) -> "Stub":
        """Store the arguments."""
        stub = super().__new__(cls)
        stub.args, stub.items, stub.state = args, {}, None
        return stub

    def __setitem__(self, key: Any, value: Any) -> None:
        """Store an item (SETITEM)."""
        self.items[key] = value

    def __setstate__(self, state: Any) -> None:
        """Store the state (BUILD)."""
        self.state = state


@dataclass(frozen=True, slots=True, eq=False)
class _Storage:
    """The values that tensors are views of, in one dimension."""

    values: Tensor


_PLAIN = (type(None), bool, int, float, str, list, tuple, dict, set, frozenset, Tensor, Record)
Bytes = bytes | bytearray | memoryview
_NONE = type(None)
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "torch._utils._rebuild_tensor_v2": (_Storage, int, tuple, tuple),
    "torch._utils._rebuild_parameter": (Tensor, bool),
    "torch.storage._load_from_bytes": (Bytes,),
    "torch.Size": (tuple,),
    "torch.device": (str,),
    "torch_utils.persistence._reconstruct_persistent_obj": (dict,),
    "collections.OrderedDict": (),
    "builtins.set": (list,),
    "builtins.bytes": (),
    "_codecs.encode": (str, str),  # bytes in protocol 2
    "numpy.dtype": (str,),
    "numpy.core.multiarray.scalar": (np.dtype, Bytes),
    "numpy.core.multiarray._reconstruct": (type,),
    "numpy.core.numeric._frombuffer": (Bytes, np.dtype, tuple, str),
}
"""The functions that pickles may name, with the types of their arguments; more may follow."""
_STATES: dict[str, tuple[Any, ...]] = {
    "numpy.dtype": (int, str, _NONE, _NONE, _NONE),
    "numpy.core.multiarray._reconstruct": (int, tuple, np.dtype, bool, Bytes),
}
"""The functions whose results have a state, with its types."""
_META = {"type": str, "version": int, "module_src": str, "class_name": str, "state": (dict, _NONE)}
"""The description of an object of NVIDIA's `torch_utils.persistence`."""


class Reader:
    """Converts stubs to values, each once, so that shared objects stay shared."""

    def __init__(self, allowance: int) -> None:
        """`allowance`: bytes to copy at most, so that references to one value cannot multiply."""
        self._allowance = allowance
        self._hashes: dict[str, str] = {}  # classes of one module share its source

    def value(self, root: Any) -> Any:
        """Return the plain value of an object; without recursion, since files may nest deeply."""
        done: dict[int, tuple[Any, int]] = {}  # by identity: the value and its height
        opened: set[int] = set()
        todo = [root]
        while todo:
            x = todo[-1]
            parts = _parts(x)
            missing = [p for p in parts if id(p) not in done]
            if missing:
                if id(x) in opened:
                    raise damaged("a value contains itself")
                opened.add(id(x))
                todo += missing
                continue
            todo.pop()
            if id(x) not in done:
                height = 1 + max((done[id(p)][1] for p in parts), default=0)
                if height > MAX_DEPTH:
                    raise damaged(f"its values nest deeper than {MAX_DEPTH}")
                done[id(x)] = self._convert(x, [done[id(p)][0] for p in parts]), height
        return _plain(done[id(root)][0])

    def _convert(self, x: Any, parts: list[Any]) -> Any:
        if isinstance(x, dict):
            return dict(zip(x, map(_plain, parts), strict=True))
        if isinstance(x, list | tuple | set | frozenset):
            return type(x)(map(_plain, parts))
        if not isinstance(x, Stub):
            return x
        n, path = len(x.args), x.name.path
        args, items, state = parts[:n], parts[n], parts[n + 1 :]
        if not isinstance(x.state, tuple):
            (state,) = state
        if path in ("collections.OrderedDict", "dnnlib.util.EasyDict") and not args:
            return items  # without attributes such as _metadata
        if not items and x.name.is_class and not args and isinstance(state, dict | None):
            return Record(*x.name, _attributes(state))
        expected = _STATES.get(path)
        stateless = state is None and expected is None
        if items or x.name.is_class or not (stateless or _typed(state, expected)):
            raise damaged(f"unexpected contents of a {printable(path)}")
        if not _typed(args, _FUNCTIONS.get(path)):
            raise damaged(f"unexpected arguments of {path}")
        return self._call(path, args, state)

    def _call(self, path: str, args: list[Any], state: Any) -> Any:
        """Return the result of a function, for arguments and a state of the types above."""
        match path.rpartition(".")[2]:
            case "_rebuild_tensor_v2":  # further arguments are for training
                return _view(args[0].values, *args[1:4])
            case "_rebuild_parameter" | "Size":
                return args[0]
            case "_load_from_bytes":
                return self._storage(args[0])
            case "device":
                return ":".join(str(x) for x in args if isinstance(x, str | int))
            case "_reconstruct_persistent_obj":
                return self._persistent(args[0])
            case "set":
                self._spend(len(args[0]))
                if all(type(x) is str or (type(x) is int and x < 2**32) for x in args[0]):
                    return set(args[0])
            case "bytes" if not args:
                return b""
            case "encode" if args[1] in ("latin1", "latin-1"):
                self._spend(len(args[0]))
                data = args[0].encode("latin1", "ignore")
                if len(data) == len(args[0]):
                    return data
            case "dtype" if args[0] in _DTYPES and state[1] in ("<", "|", "="):
                return np.dtype(args[0])
            case "scalar":
                return self._array(args[1], args[0], ()).item()
            case "_reconstruct":
                _, shape, dtype, fortran, data = state
                return self._array(data, dtype, shape, "F" if fortran else "C")
            case "_frombuffer":
                return self._array(*args[:4])
        raise damaged(f"unexpected arguments of {path}")

    def _spend(self, size: int) -> None:
        self._allowance -= size
        if self._allowance < 0:
            raise damaged("it expands to far more than its own size")

    def _persistent(self, meta: dict[str, Any]) -> Record:
        """Return an object whose class is embedded as source code."""
        if not _typed([meta.get(key) for key in _META], tuple(_META.values())):
            raise damaged("the description of an embedded class is malformed")
        if meta["type"] != "class" or meta["version"] != 6:
            raise damaged("its classes are embedded in a version other than 6")
        source = meta["module_src"]
        if source not in self._hashes:
            self._spend(len(source))
            self._hashes[source] = hashlib.sha256(source.encode()).hexdigest()
        attributes = _attributes(meta["state"])
        return Record("", meta["class_name"], attributes, self._hashes[source], persistent=True)

    def _storage(self, data: Bytes) -> _Storage:
        """Return a storage; its declared length is compared with the bytes before allocation."""
        stream = io.BytesIO(data)
        magic, version, system, declared, keys = (_constants(stream) for _ in range(5))
        if magic != [MAGIC] or version != [FORMAT]:
            raise damaged("a storage in a format other than that of torch.save before version 1.6")
        if ["little_endian", True] not in (system[i : i + 2] for i in range(len(system))):
            raise damaged("a storage of a big-endian machine")
        # The location, e.g. cuda:0, is ignored: values go to the CPU.
        if not _typed(declared, (str, torch.dtype, str, str, int)) or keys != declared[2:3]:
            raise damaged("the description of a storage is malformed")
        numel = int.from_bytes(stream.read(8), "little", signed=True)
        values = memoryview(data)[stream.tell() :]
        if numel < 0 or numel != declared[4] or numel * declared[1].itemsize != len(values):
            raise damaged(f"a storage declares {numel} values, but holds {len(values)} bytes")
        copied = self._copy(values, declared[1] == torch.bool)
        return _Storage(torch.from_numpy(copied).view(declared[1]))

    def _array(
        self, data: Bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any = "C"
    ) -> Tensor:
        """Return a NumPy array as a tensor; `reshape` checks the size."""
        copied = self._copy(data, dtype.kind == "b").view(dtype)
        return torch.from_numpy(copied.reshape(shape, order=order))

    def _copy(self, data: Bytes, is_bool: bool) -> NDArray[np.uint8]:
        self._spend(len(data))
        copied = np.frombuffer(bytearray(data), np.uint8)
        if is_bool and copied.max(initial=0) > 1:
            raise damaged("booleans other than 0 and 1")
        return copied


def _constants(stream: io.BytesIO) -> list[Any]:
    """Return the constants in the next pickle of a stream, which is not loaded."""
    constants: list[Any] = []
    for op, argument, _ in pickletools.genops(stream):
        if op.name in ("GLOBAL", "INST"):
            module, name = str(argument).split(" ", 1)
            if module not in ("torch", "torch.cuda") or name not in _STORAGES:
                raise UnsafePickle(printable(f"{module}.{name}"))
            constants.append(_STORAGES[name])
        elif op.name == "NEWTRUE" or (argument is not None and op.stack_after):
            constants.append(True if argument is None else argument)
    return constants


def _parts(x: Any) -> list[Any]:
    if isinstance(x, Stub):
        return [*x.args, x.items, *(x.state if isinstance(x.state, tuple) else [x.state])]
    if isinstance(x, dict):
        return list(x.values())
    return list(x) if isinstance(x, list | tuple | set | frozenset) else []


def _plain(value: Any) -> Any:
    """Return a value that may stand outside the arguments of a call."""
    if type(value) not in _PLAIN:
        raise damaged(f"a {type(value).__name__} as a value")
    return value


def _typed(values: Any, types: tuple[Any, ...] | None) -> bool:
    """Whether the first values are of these types."""
    return (
        isinstance(values, list)
        and types is not None
        and len(values) >= len(types)
        and all(isinstance(x, kind) for x, kind in zip(values, types, strict=False))
    )


def _attributes(state: dict[Any, Any] | None) -> dict[str, Any]:
    if not all(isinstance(name, str) for name in state or {}):
        raise damaged("an attribute whose name is not text")
    return state or {}


def _view(values: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Return a tensor as a view of a storage, in units of values.

    torch checks the bounds, but a stride of 0 turns one value into a tensor of any size.
    """
    if len(size) > MAX_DIMENSIONS or any(type(n) is not int for n in (*size, *stride)):
        raise damaged(f"the sizes of a tensor are not at most {MAX_DIMENSIONS} whole numbers")
    if math.prod(size) > values.numel() or math.prod(max(n, 1) for n in size) >= 2**62:
        raise damaged(f"a tensor of {size} values in a storage of {values.numel()}")
    return values.as_strided(size, stride, offset)


def tensors_of(record: Record) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by dotted name, as the module's `state_dict` did.

    Tensors are those of the record, not copies. A module used twice appears under both names.

    Raises:
        CheckpointError: the tree is not of modules, contains itself, or is larger than any network.
    """
    tensors: dict[str, Tensor] = {}
    entries = 0
    todo = [("", record, 0)]
    while todo:
        prefix, module, depth = todo.pop()
        if depth > MAX_MODULE_DEPTH:
            raise _malformed(record, f"deeper than {MAX_MODULE_DEPTH}, or nested in themselves")
        children = []
        left_out = module.state.get("_non_persistent_buffers_set") or ()
        for part in ("_parameters", "_buffers", "_modules"):
            values = module.state.get(part, {})
            if not isinstance(values, dict):
                raise _malformed(module, f"whose {part} is not a dict")
            entries += len(values)
            for name, value in values.items():
                if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or "." in name:
                    raise _malformed(module, f"with an entry of {part} that has no proper name")
                if not isinstance(value, (Record if part == "_modules" else Tensor) | None):
                    kind = type(value).__name__
                    raise _malformed(module, f"whose {part[1:]} {printable(name)} is a {kind}")
                if isinstance(value, Record):
                    children.append((f"{prefix}{name}.", value, depth + 1))
                elif value is not None and (part == "_parameters" or name not in left_out):
                    tensors[prefix + name] = value
        if entries > MAX_ENTRIES:
            raise _malformed(record, f"with more than {MAX_ENTRIES} entries")
        todo += reversed(children)  # depth first, in the order of registration
    return tensors


def _malformed(record: Record, fault: str) -> CheckpointError:
    return CheckpointError(
        f"{printable(record.name)} holds modules {fault}; no network does: export it again"
    )
