"""The storages of tensors in a network pickle: old `torch.save` streams, nested as bytes.

Such a stream is five small pickles (a magic number, the version of the format, facts about the
machine, the storage's type, key and length, the list of keys) and the raw values after their count.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_gan3d.checkpoints.inert import Machine
from lightning_gan3d.checkpoints.source import Allowance, Global, Source, damaged

MAGIC = 0x1950A86A20F9469CFC6C
_FORMAT = 1001
_DTYPES = {
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
_MAX_DIMENSIONS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """The values that tensors are views of, in one dimension."""

    values: Tensor


@dataclass(frozen=True, slots=True)
class _Declared:
    dtype: torch.dtype
    key: str
    numel: int


class _StorageMachine(Machine):
    """Knows the names of storage types, and the persistent id that describes a storage."""

    def find(self, name: Global) -> Global:
        if name.module in ("torch", "torch.cuda") and name.name in _DTYPES:
            return name
        return super().find(name)

    def persistent(self, name: Any) -> Any:
        # The location, e.g. cuda:0, is where the values were: they are read to the CPU.
        match name:
            case ("storage", Global(name=kind), str() as key, str(), int() as numel, None):
                return _Declared(_DTYPES[kind], key, numel)
        raise damaged("a storage is not described as torch does")


def read_storage(source: Source, allowance: Allowance) -> Storage:
    """Return the storage of a nested stream.

    Its declared length must be that of the bytes that are there, before anything is allocated.
    """

    def one() -> Any:
        return _StorageMachine(source, allowance).run()

    if one() != MAGIC or one() != _FORMAT:
        raise damaged("a storage of another format than that of torch.save before version 1.6")
    match one():
        case {"little_endian": True}:
            pass
        case _:
            raise damaged("a storage of a big-endian machine")
    declared = one()
    if not isinstance(declared, _Declared) or one() != [declared.key]:
        raise damaged("a storage is not described as torch does")
    numel = int.from_bytes(source.read(8), "little", signed=True)
    size = numel * declared.dtype.itemsize
    if numel < 0 or numel != declared.numel or size != source.remaining:
        raise damaged(f"a storage declares {numel} values, but holds {source.remaining} bytes")
    allowance.spend(size)
    return Storage(from_bytes(source.buffer(size), declared.dtype))


def from_bytes(data: bytearray, dtype: torch.dtype) -> Tensor:
    """Return little-endian values in one dimension, without a copy."""
    if not data:
        return torch.empty(0, dtype=dtype)
    if dtype == torch.bool and torch.frombuffer(data, dtype=torch.uint8).max() > 1:
        raise damaged("truth values other than 0 and 1")
    return torch.frombuffer(data, dtype=dtype)


def view(storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Return a tensor as a view of a storage, in units of values.

    torch would check less: a stride of 0 turns one value into a tensor of any size.
    """
    numbers = [offset, *size, *stride]
    if len(size) != len(stride) or len(size) > _MAX_DIMENSIONS:
        raise damaged(f"a tensor of {len(size)} sizes and {len(stride)} strides")
    if any(type(n) is not int or not 0 <= n < 2**62 for n in numbers):
        raise damaged("sizes of a tensor are not whole numbers from 0")
    if math.prod(max(n, 1) for n in size) >= 2**62:
        raise damaged("a tensor of more values than there can be")
    available = storage.values.numel()
    if math.prod(size) == 0:
        return torch.empty(size, dtype=storage.values.dtype)
    reach = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1
    if reach > available or math.prod(size) > available:
        raise damaged(f"a tensor reaches beyond its storage of {available} values")
    return storage.values.as_strided(size, stride, offset)
