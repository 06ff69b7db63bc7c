"""What the kernels are handed: sizes, the decoder in whole vectors, rays, and scratch memory.

Memory comes from torch, which aligns it to vectors and keeps count of it.
"""

import math
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.networks.lowering import LoweredGrid
from lightning_gan3d.simd import ROWS, WIDTH
from renderers.fused.cpu.row_layout import NUM_LINES, NUM_MARKS

TILE = 64
"""Rays of a tile: 8 x 8 of an image, which read neighbouring texels."""
SIDE = 8


class _Floats(TypedDict):
    dtype: torch.dtype
    device: str


FLOATS = _Floats(dtype=torch.float32, device="cpu")
"""What kernels read and write, whatever the caller's default dtype and device are."""


class Sizes(NamedTuple):
    """Sizes in floats, padded to whole vectors; and the grids."""

    samples: int
    rows: int
    """Samples, padded to blocks of the product."""
    channels: int
    hidden: int
    out: int
    features: int
    """Features of a pixel, not padded."""
    grids: int
    corners: int
    """Texels that a point reads in each grid: 4 or 8."""
    share: float
    """1 / grids."""
    per_box: float
    """1 / edge of the box."""


class Weights(NamedTuple):
    """Addresses of the decoder, padded with zeros; also transposed, for gradients.

    Kernels are handed addresses: each use of an array would count references, in every ray.
    """

    hidden: int
    hidden_bias: int
    density: int
    out: int
    out_bias: int
    hidden_t: int
    out_t: int
    zeros: int
    density_bias: float


class Along(NamedTuple):
    """The rays of a scene: a row each; what is absent has no columns."""

    origins: np.ndarray
    dirs: np.ndarray
    near: np.ndarray
    far: np.ndarray
    jitter: np.ndarray
    u: np.ndarray
    noise: np.ndarray
    side: int
    """Rays along the edge of each view; 0 where they form no image."""


class Seen(NamedTuple):
    """What the rays of a scene see, or gradients of it; a row each. No gradient for the ends."""

    feature: np.ndarray
    depth: np.ndarray
    opacity: np.ndarray
    nearest: np.ndarray
    farthest: np.ndarray


class Scratch(NamedTuple):
    """Memory of one worker: a ray's samples, and what they become; see `lines`."""

    ray: np.ndarray
    lines: np.ndarray
    marks: np.ndarray
    offsets: int
    """Address; so below."""
    weights: int
    stride: int
    """Bytes between corners, in offsets and weights."""
    features: int
    hidden: int
    out: int
    d_hidden: int


def padded(size: int, to: int = max(WIDTH, ROWS)) -> int:
    """Round up to whole vectors and whole blocks."""
    return -(-size // to) * to


def sizes_of(grid: LoweredGrid, samples: int, box: float) -> Sizes:
    """Collect the sizes of a request."""
    grids, depth = grid.grids.shape[1:3]
    hidden, channels = grid.hidden_weight.shape
    features = len(grid.out_bias) - 1
    return Sizes(
        samples=samples,
        rows=padded(samples, ROWS),
        channels=padded(channels),
        hidden=padded(hidden),
        out=padded(features),
        features=features,
        grids=grids,
        corners=4 if depth == 1 else 8,
        share=1 / grids,
        per_box=1 / box,
    )


def _pad(matrix: Float[Tensor, "i j"], rows: int, columns: int) -> Tensor:
    whole = torch.zeros(rows, columns, **FLOATS)
    whole[: matrix.shape[0], : matrix.shape[1]] = matrix.detach()
    return whole


def weights_of(grid: LoweredGrid, s: Sizes) -> tuple[Weights, list[Tensor]]:
    """Lay out the decoder for the kernels; return what keeps that memory too."""
    hidden, out = grid.hidden_weight, grid.out_weight
    matrices = {
        "hidden": _pad(hidden.T, s.channels, s.hidden),
        "hidden_bias": _pad(grid.hidden_bias[None], 1, s.hidden),
        "density": _pad(out[:1], 1, s.hidden),
        "out": _pad(out[1:].T, s.hidden, s.out),
        "out_bias": _pad(grid.out_bias[None, 1:], 1, s.out),
        "hidden_t": _pad(hidden, s.hidden, s.channels),
        "out_t": _pad(out[1:], s.out, s.hidden),
        "zeros": torch.zeros(1, max(s.hidden, s.channels), **FLOATS),
    }
    addresses = {name: x.data_ptr() for name, x in matrices.items()}
    bias = float(grid.out_bias[0].detach())
    return Weights(**addresses, density_bias=bias), list(matrices.values())


def scratch_of(s: Sizes, backward: bool) -> Scratch:
    """Allocate a worker's memory: about 60 kB forward for 96 samples of 32 and 64 channels."""
    rows = s.rows + max(ROWS, WIDTH)  # fine samples begin in the middle of a block
    length = padded(s.samples + 2 * WIDTH + 1)
    corners, columns = s.grids * s.corners, padded(rows, WIDTH)
    every = rows if backward else ROWS
    floats = {
        "ray": (WIDTH,),
        "lines": (NUM_LINES, max(length, s.out)),
        "weights": (corners, columns),
        "features": (rows, s.channels),
        "hidden": (rows, s.hidden),
        "out": (every, s.out),
        "d_hidden": (every if backward else 1, s.hidden),
    }
    ints = {"marks": (NUM_MARKS, length), "offsets": (corners, columns)}
    # One block, so that its parts fall on different sets of the cache.
    size = sum(padded(math.prod(x), 16) for x in (floats | ints).values())
    whole = torch.zeros(size, **FLOATS)
    parts: dict[str, Any] = {}
    begin = 0
    for name, shape in (floats | ints).items():
        part = whole[begin : begin + math.prod(shape)].view(shape)
        parts[name] = part.view(torch.int32) if name in ints else part
        begin += padded(math.prod(shape), 16)
    for name, part in parts.items():
        parts[name] = part.numpy() if name in ("ray", "lines", "marks") else part.data_ptr()
    return Scratch(**parts, stride=4 * columns)
