"""What the names in network pickles stand for: the fixed list, and our own stand-ins for them."""

import hashlib
import io
from collections.abc import Callable
from typing import Any

from torch import Tensor

from lightning_gan3d.checkpoints import arrays, storages
from lightning_gan3d.checkpoints.inert import Machine, Pending, keys
from lightning_gan3d.checkpoints.records import Record
from lightning_gan3d.checkpoints.source import Allowance, Global, Source, damaged
from lightning_gan3d.checkpoints.store import CheckpointError

_CLASSES = ("training.", "torch.nn.modules.")
"""Where the classes lie whose instances become records."""
_PERSISTENCE_VERSION = 6
"""Version of the embedding of classes, of all three projects."""


class NetworkMachine(Machine):
    """Knows the names that the three projects' pickles use."""

    def __init__(self, source: Source, allowance: Allowance) -> None:
        """Read one network pickle from the source."""
        super().__init__(source, allowance)
        self._hashes: dict[str, str] = {}  # classes of one module share its source

    def find(self, name: Global) -> Global:
        """Accept the names of `_FUNCTIONS`, and classes of networks."""
        if (name.module, name.name) in _FUNCTIONS or name in (_EASYDICT, _NDARRAY):
            return name
        if name.module.startswith(_CLASSES) and name.name.isidentifier():
            return name
        if name.module == "dnnlib.tflib.network":
            raise CheckpointError(
                "TensorFlow networks (StyleGAN, or StyleGAN2 of 2019); convert the file with "
                "legacy.py of NVlabs/stylegan3 first"
            )
        return super().find(name)

    def call(self, function: Global, args: tuple[Any, ...]) -> Any:
        """Return our stand-in for what the function would have returned."""
        act = _FUNCTIONS.get((function.module, function.name))
        if act is None:
            return super().call(function, args)
        return act(self, args)

    def new(self, cls: Global) -> Any:
        """Return a dict for an `EasyDict`, and a record for a module."""
        if cls == _EASYDICT:
            return {}
        if cls.module.startswith(_CLASSES):
            return Record(cls.module, cls.name)
        return super().new(cls)

    def build(self, target: Any, state: Any) -> Any:
        """Give records, dicts, and NumPy's dtypes and arrays their pickled state."""
        match target, state:
            case Record(), dict():
                self.allowance.spend(len(state))
                target.state.update(_attributes(state))
            case dict(), _:
                pass  # attributes of an OrderedDict, such as _metadata, are none of its items
            case arrays.Dtype(), tuple():
                target.build(state)
            case arrays.Array(), (
                int(1),
                tuple() as shape,
                arrays.Dtype() as dtype,
                bool() as order,
                _,
            ):
                return arrays.array(dtype, shape, _bytes(state[4]), self.allowance, order)
            case _:
                return super().build(target, state)
        return target

    def hash_of(self, source: str) -> str:
        """Return the SHA-256 of source code."""
        if source not in self._hashes:
            self.allowance.spend(len(source))
            self._hashes[source] = hashlib.sha256(source.encode()).hexdigest()
        return self._hashes[source]


_EASYDICT = Global("dnnlib.util", "EasyDict")
_NDARRAY = Global("numpy", "ndarray")


def _attributes(state: dict[Any, Any]) -> dict[str, Any]:
    if not all(isinstance(name, str) for name in state):
        raise damaged("an attribute whose name is no text")
    return state


def _bytes(value: Any) -> Source:
    if not isinstance(value, Source):
        raise damaged("bytes are missing")
    return value


def _ints(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple) or any(type(n) is not int for n in values):
        raise damaged("sizes of a tensor are not whole numbers")
    return values


def _unlike(function: str) -> CheckpointError:
    return damaged(f"{function} is called in a way that no pickler does")


def _tensor(_: NetworkMachine, args: tuple[Any, ...]) -> Tensor:
    # Patterns name the type first: a comparison with a tensor has no truth value.
    match args:  # requires_grad, hooks and metadata may follow; a network at rest needs none
        case (
            storages.Storage() as storage,
            int() as offset,
            tuple() as size,
            tuple() as stride,
            *_,
        ):
            return storages.view(storage, offset, _ints(size), _ints(stride))
    raise _unlike("torch._utils._rebuild_tensor_v2")


def _parameter(_: NetworkMachine, args: tuple[Any, ...]) -> Tensor:
    match args:
        case (Tensor() as data, bool(), _):
            return data
    raise _unlike("torch._utils._rebuild_parameter")


def _storage(machine: NetworkMachine, args: tuple[Any, ...]) -> storages.Storage:
    match args:
        case (Source() as data,):
            return storages.read_storage(data.copy(), machine.allowance)
    raise _unlike("torch.storage._load_from_bytes")


def _ordered_dict(_: NetworkMachine, args: tuple[Any, ...]) -> dict[Any, Any]:
    if args:
        raise _unlike("collections.OrderedDict")
    return {}


def _set(machine: NetworkMachine, args: tuple[Any, ...]) -> set[Any]:
    match args:
        case (list() as items,):
            machine.allowance.spend(len(items))
            return set(keys(items))
    raise _unlike("builtins.set")


def _sizes(_: NetworkMachine, args: tuple[Any, ...]) -> tuple[int, ...]:
    if len(args) != 1:
        raise _unlike("torch.Size")
    return _ints(args[0])


def _device(_: NetworkMachine, args: tuple[Any, ...]) -> str:
    match args:
        case (str() as kind,):
            return kind
        case (str() as kind, int() as index):
            return f"{kind}:{index}"
    raise _unlike("torch.device")


def _encode(machine: NetworkMachine, args: tuple[Any, ...]) -> Source:
    """Return bytes as protocol 2 writes them: as text."""
    match args:
        case (str() as text, str("latin1" | "latin-1")):
            machine.allowance.spend(len(text))
            try:
                data = text.encode("latin1")
            except UnicodeEncodeError:
                raise _unlike("_codecs.encode") from None
            return Source(io.BytesIO(data), 0, len(data))
    raise _unlike("_codecs.encode")


def _no_bytes(_: NetworkMachine, args: tuple[Any, ...]) -> Source:
    if args:
        raise _unlike("bytes")
    return Source(io.BytesIO(), 0, 0)


def _persistent(machine: NetworkMachine, args: tuple[Any, ...]) -> Record:
    match args:
        case (
            {
                "type": str("class"),
                "version": int() as version,
                "module_src": str() as source,
                "class_name": str() as name,
                "state": dict() | None as state,
            },
        ):
            if version != _PERSISTENCE_VERSION:
                raise damaged(
                    f"its classes are embedded in another way than {_PERSISTENCE_VERSION}"
                )
            attributes = _attributes(state or {})
            return Record("", name, attributes, machine.hash_of(source), persistent=True)
    raise _unlike("torch_utils.persistence._reconstruct_persistent_obj")


def _dtype(_: NetworkMachine, args: tuple[Any, ...]) -> arrays.Dtype:
    match args:
        case (str() as code, *_):
            return arrays.Dtype(code)
    raise _unlike("numpy.dtype")


def _scalar(machine: NetworkMachine, args: tuple[Any, ...]) -> int | float | bool:
    match args:
        case (arrays.Dtype() as dtype, Source() as data):
            return arrays.scalar(dtype, data, machine.allowance)
    raise _unlike("numpy.core.multiarray.scalar")


def _array(_: NetworkMachine, args: tuple[Any, ...]) -> Pending:
    if not args or not isinstance(args[0], Global) or args[0] != _NDARRAY:
        raise _unlike("numpy.core.multiarray._reconstruct")
    return arrays.Array()  # its shape, type and values arrive as its state


def _array_of_buffer(machine: NetworkMachine, args: tuple[Any, ...]) -> Tensor:
    match args:
        case (Source() as data, arrays.Dtype() as dtype, tuple() as shape, str("C" | "F") as order):
            return arrays.array(dtype, shape, data, machine.allowance, order == "F")
    raise _unlike("numpy.core.numeric._frombuffer")


_FUNCTIONS: dict[tuple[str, str], Callable[[NetworkMachine, tuple[Any, ...]], Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch", "Size"): _sizes,
    ("torch", "device"): _device,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
    ("collections", "OrderedDict"): _ordered_dict,
    ("builtins", "set"): _set,
    ("__builtin__", "set"): _set,  # as protocol 2 writes it, like the two below
    ("__builtin__", "bytes"): _no_bytes,
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _dtype,
    # numpy._core: written by NumPy 2.
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "_reconstruct"): _array,
    ("numpy.core.numeric", "_frombuffer"): _array_of_buffer,
    ("numpy._core.numeric", "_frombuffer"): _array_of_buffer,
}
