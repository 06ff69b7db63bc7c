"""The grids of a scene as kernels read and write them: texels as rows of contiguous channels."""

from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from renderers.fused.cpu.grid_lookup import TABLE
from renderers.fused.cpu.workspace import padded

DTYPES = (torch.float32, torch.bfloat16)
MOST = 2**31
"""Elements of a scene that offsets can count."""


class Texels(NamedTuple):
    """Grids in memory; `values` keeps it alive."""

    values: Tensor
    table: np.ndarray
    """A row per grid: see `grids.TABLE`."""
    spans: np.ndarray
    """Of each grid: its first offset, and the one beyond its last."""

    @property
    def address(self) -> int:
        """Address of the first texel."""
        return self.values.data_ptr()

    @property
    def half(self) -> bool:
        """Whether texels are bfloat16."""
        return self.values.dtype == torch.bfloat16


def in_place(grids: Float[Tensor, "p d h w c"]) -> bool:
    """Whether kernels can read these where they are."""
    whole = grids.shape[-1] == padded(grids.shape[-1])
    return whole and grids.stride(-1) == 1 and grids.dtype in DTYPES and _extent(grids) <= MOST


def too_large(grids: Float[Tensor, "b p d h w c"]) -> bool:
    """Whether offsets cannot count the elements of a scene, copied if it has to be."""
    return padded(grids.shape[-1]) * grids[0, ..., 0].numel() > MOST


def _extent(grids: Tensor) -> int:
    return 1 + sum((n - 1) * s for n, s in zip(grids.shape, grids.stride(), strict=True))


def describe(values: Float[Tensor, "p d h w c"], axes: tuple[tuple[int, int, int], ...]) -> Texels:
    """Describe grids that can be read in place."""
    grids, *sides, _ = values.shape
    step, *strides, _ = values.stride()
    d, h, w = sides
    sd, sh, sw = strides
    rows = [[*axes[p], w, h, d, sw, sh, sd, p * step] for p in range(grids)]
    assert len(rows[0]) == len(TABLE)
    reach = 1 + sum((n - 1) * s for n, s in zip(sides, strides, strict=True))
    spans = [[p * step, p * step + reach] for p in range(grids)]
    return Texels(values, np.array(rows, np.int64), np.array(spans, np.int64))


def zeros(grids: Float[Tensor, "p d h w c"], dtype: torch.dtype) -> Float[Tensor, "p d h w k"]:
    """Allocate such grids with their channels innermost, in whole vectors."""
    size = *grids.shape[:-1], padded(grids.shape[-1])
    return torch.zeros(size, dtype=dtype, device="cpu")


def transcribe(source: Float[Tensor, "p d h w c"], target: Float[Tensor, "p d h w c"]) -> None:
    """Copy grids between memory orders.

    Where one has its channels innermost and the other outermost, as matrices: torch transposes
    these in blocks, some four times faster than it permutes, if the target is contiguous.
    """
    for a, b in zip(source, target, strict=True):
        if a.stride(-1) == b.stride(-1) or not (_flattens(a) and _flattens(b)):
            b.copy_(a)
            continue
        from_rows, to_rows = (rearrange(x, "d h w c -> (d h w) c") for x in (a, b))
        if to_rows.stride(-1) == 1:
            to_rows.copy_(from_rows)
        else:
            to_rows.T.copy_(from_rows.T)


def _flattens(x: Float[Tensor, "d h w c"]) -> bool:
    """Whether the sides can be seen as one without a copy."""
    _, h, w, _ = x.shape
    sd, sh, sw, _ = x.stride()
    return sh == w * sw and (sd == h * sh or x.shape[0] == 1)


def readable(grids: Float[Tensor, "p d h w c"], axes: tuple[tuple[int, int, int], ...]) -> Texels:
    """Describe the grids of a scene where they are, or else a copy of them."""
    if in_place(grids):
        return describe(grids, axes)
    whole = grids.shape[-1] == padded(grids.shape[-1])
    dtype = grids.dtype
    copy = torch.empty(grids.shape, dtype=dtype, device="cpu") if whole else zeros(grids, dtype)
    transcribe(grids, copy[..., : grids.shape[-1]])
    return describe(copy, axes)
