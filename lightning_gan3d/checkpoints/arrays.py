"""NumPy's scalars and small arrays in network pickles: numbers, and tensors."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_gan3d.checkpoints.inert import Pending
from lightning_gan3d.checkpoints.source import Allowance, Source, damaged
from lightning_gan3d.checkpoints.storages import from_bytes

_DTYPES = {
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "b1": torch.bool,
}


@dataclass(slots=True, eq=False)
class Dtype:
    """A NumPy dtype: its code without byte order, which arrives as its state."""

    code: str

    def build(self, state: Any) -> None:
        """Accept the state of a plain little-endian dtype."""
        match state:
            case (int(), str("<" | "|" | "="), None, None, None, *_):
                return
        raise damaged("a NumPy dtype that is not plain and little-endian")

    @property
    def in_torch(self) -> torch.dtype:
        """The same in torch."""
        if self.code not in _DTYPES:
            raise damaged("a NumPy dtype that torch does not have")
        return _DTYPES[self.code]


class Array(Pending):
    """An array whose values have not arrived yet."""


def scalar(dtype: Dtype, data: Source, allowance: Allowance) -> int | float | bool:
    """Return a scalar as a number of Python."""
    value: int | float | bool = array(dtype, (), data, allowance).item()
    return value


def array(
    dtype: Dtype, shape: tuple[Any, ...], data: Source, allowance: Allowance, fortran: bool = False
) -> Tensor:
    """Return an array as a tensor; `fortran`: the first axis varies fastest."""
    if len(shape) > 16 or any(type(n) is not int or not 0 <= n < 2**40 for n in shape):
        raise damaged("the shape of an array is not whole numbers from 0")
    size = math.prod(shape) * dtype.in_torch.itemsize
    if size != data.remaining or math.prod(max(n, 1) for n in shape) >= 2**62:
        raise damaged(f"an array of {size} bytes holds {data.remaining}")
    allowance.spend(size)
    values = from_bytes(data.copy().buffer(size), dtype.in_torch)
    if fortran:
        return values.reshape(shape[::-1]).permute(tuple(reversed(range(len(shape)))))
    return values.reshape(shape)
