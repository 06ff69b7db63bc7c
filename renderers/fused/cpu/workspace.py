"""Memory of the CPU kernels: options, sizes, decoder, rays, and the scratch memory of a worker.

Kernels receive addresses of per-sample data: each use of an array would count references.
Functions with SIMD code receive small tuples: they are not inlined, and each number costs time.
torch allocates the memory: it aligns to vectors and counts the bytes.
"""

import math
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.networks.lowering import LoweredGrid
from lightning_gan3d.simd import ROWS, WIDTH
from renderers.fused.cpu.film_layers import Network
from renderers.ray_marching import RaySums, Request
from renderers.sampling import PARTS

TILE = 64
"""Rays of a tile: 8 x 8 pixels of an image, which read neighbouring texels."""
SIDE = 8
ONE, HALF = np.float32(1), np.float32(0.5)
SOFTPLUS, RELU, EXP = range(3)
"""Activations of the density."""

# Rows of `Scratch.scalars`: per sample of a ray, in the order of T unless sorted, or per interval.
(
    T,  # distance: coarse samples, then fine ones
    SIGMA,  # raw density
    INSIDE,  # 1 or 0: inside the box, or masked
    SORTED_T,
    SORTED_SIGMA,
    SORTED_INSIDE,
    EDGES,  # ends of intervals
    RAW,  # raw density of intervals
    LENGTH,  # of intervals
    COUNTS,  # of intervals, 1 or 0: inside, or masked
    ALPHA,  # of intervals
    TRANS,  # transmittance before an interval
    WEIGHT,  # of intervals
    OMEGA,  # weight of samples
    CDF,
    U,
    Q,  # gradient of OMEGA
    SORTED_Q,
    D_RAW,  # gradient of RAW
    D_SIGMA,  # gradient of SIGMA
    FEATURE,  # sum of weighted sigmoids of a ray, or its gradient
    RAY,  # origin, direction, 1 / edge of the box, 1 / number of grids
    NUM_SCALARS,
) = range(23)
# Rows of `Scratch.indices`.
RANK, COUNT, NUM_INDICES = range(3)
PER_BOX, PER_GRIDS = 6, 7
"""Columns of RAY."""


RayTensors = tuple[Tensor | None, ...]
"""Origins, directions, near, far, and the three of the jitter; (b, r, ...) each."""


class _Floats(TypedDict):
    dtype: torch.dtype
    device: str


FLOATS = _Floats(dtype=torch.float32, device="cpu")
"""Of all memory of kernels, whatever torch's default dtype and device are."""


class Options(NamedTuple):
    """Options that kernels branch by, and constants of a ray."""

    coarse: int
    fine: int
    eg3d: bool
    nucleus: float
    """Share of the weight in whose intervals fine samples lie; 0: they follow the weights."""
    masked: bool
    """Whether samples outside the box are empty."""
    bias: float
    """Of the raw density."""
    activation: int
    scale: float
    prior: float
    """Strength of the density prior; 0: none."""
    radius: float
    half: float
    """Half the edge of the box."""
    has_jitter: bool
    has_u: bool
    has_noise: bool


class Sizes(NamedTuple):
    """Sizes of a request."""

    samples: int
    blocks: int
    """Samples, padded to whole blocks of `matmul`."""
    features: int
    """Features of a pixel, not padded."""
    grids: int
    corners: int
    """Texels that a point reads in each grid: 4 or 8."""


class HiddenLayer(NamedTuple):
    """Addresses of the hidden layer, and its sizes in floats, padded to whole vectors."""

    weight: int
    bias: int
    density: int
    """Weights from hidden units to raw density."""
    channels: int
    units: int
    softplus: bool
    """Activation; else leaky ReLU."""


class OutLayer(NamedTuple):
    """Addresses of the output layer without the density, and its sizes in floats, padded."""

    weight: int
    bias: int
    units: int
    features: int


class Decoder(NamedTuple):
    """The decoder, padded with zeros; `_t`: addresses of transposed weights, for gradients."""

    hidden: HiddenLayer
    out: OutLayer
    hidden_t: int
    out_t: int
    zeros: int


class RayArrays(NamedTuple):
    """The rays of a scene, one per row; optional arrays are empty."""

    side: int
    """Rays along the edge of each view; 0 if they form no image."""
    origins: np.ndarray
    dirs: np.ndarray
    near: np.ndarray
    far: np.ndarray
    jitter: np.ndarray
    u: np.ndarray
    noise: np.ndarray


class SumArrays(NamedTuple):
    """Sums of the rays of a scene, as `RaySums`, or their gradients; one ray per row."""

    feature: np.ndarray
    depth: np.ndarray
    opacity: np.ndarray
    nearest: np.ndarray
    farthest: np.ndarray


class Grids(NamedTuple):
    """Addresses of a scene's first texel and of its table; see `texels.TABLE`."""

    base: int
    bfloat16: bool
    table: int


class Scene(NamedTuple):
    """One scene of a request, as kernels read it."""

    grids: Grids
    sizes: Sizes
    decoder: Decoder
    options: Options
    rays: RayArrays


class MlpScene(NamedTuple):
    """The same, of a field that is an MLP."""

    network: Network
    sizes: Sizes
    options: Options
    rays: RayArrays


AnyScene = Scene | MlpScene


class Buffers(NamedTuple):
    """Addresses of rows of the decoder's inputs and results, one per sample."""

    features: int
    hidden: int
    out: int
    d_hidden: int


class Scratch(NamedTuple):
    """Memory of one worker: the samples of a ray."""

    scalars: np.ndarray
    indices: np.ndarray
    buffers: Buffers
    corners: int
    """Address: for each corner of each grid a row of int32 offsets and a row of weights."""
    corner_row: int
    """Bytes between these rows."""


class Job(NamedTuple):
    """A request as kernels read it, without the tensors of its scenes and rays."""

    sizes: Sizes
    decoder: Decoder
    memory: list[Tensor]
    """Keeps the decoder's memory alive."""
    options: Options
    axes: tuple[tuple[int, int, int], ...]
    side: int
    tiles: int
    """Per scene."""


def padded(size: int, to: int = max(WIDTH, ROWS)) -> int:
    """Round up to whole vectors and whole blocks."""
    return -(-size // to) * to


def prepare(request: Request) -> Job:
    """Lay out a request for the kernels."""
    grid = request.grid
    options = find_options(request, float(grid.out_bias[0].detach()))
    samples = options.coarse + options.fine
    sizes = Sizes(
        samples=samples,
        blocks=padded(samples, ROWS),
        features=len(grid.out_bias) - 1,
        grids=grid.grids.shape[1],
        corners=4 if grid.grids.shape[2] == 1 else 8,
    )
    return Job(sizes, *_decoder(grid), options, grid.axes, *find_tiles(request))


def find_options(request: Request, bias: float) -> Options:
    """Return the options of a request, of a field whose raw density has a bias."""
    o, scene, jitter = request.options, request.field.scene_cfg, request.jitter
    return Options(
        coarse=o.samples_coarse,
        fine=o.samples_fine,
        eg3d=o.rules == "eg3d",
        nucleus=o.nucleus_mass if o.importance == "nucleus" else 0.0,
        masked=o.masked,
        bias=bias,
        activation={"softplus": SOFTPLUS, "relu": RELU, "exp": EXP}[scene.density.activation],
        scale=float(scene.density.scale),
        prior=float(scene.density.prior_strength),
        radius=float(scene.density.prior_radius),
        half=scene.box / 2,
        has_jitter=jitter.strata is not None,
        has_u=jitter.u is not None,
        has_noise=jitter.noise is not None,
    )


def find_tiles(request: Request) -> tuple[int, int]:
    """Return the edge of the images that the rays form, or 0, and the tiles of a scene."""
    origins = request.rays.origins
    side = find_side(origins[0]) if len(origins) else 0
    rays, across = origins.shape[1], -(-side // SIDE)
    tiles = rays // side**2 * across**2 if side else -(-rays // TILE)
    return side, tiles


def find_side(origins: Float[Tensor, "r 3"]) -> int:
    """Edge of the square images that the rays form, or 0: pixels of one image share an origin.

    A wrong guess costs locality only.
    """
    rays = len(origins)
    for views in range(1, rays // SIDE**2 + 1):
        side = math.isqrt(rays // views)
        if side * side * views == rays and bool((origins[0] == origins[side * side - 1]).all()):
            return side
    return 0


def _pad(matrix: Float[Tensor, "i j"], rows: int, columns: int) -> Tensor:
    whole = torch.zeros(rows, columns, **FLOATS)
    whole[: matrix.shape[0], : matrix.shape[1]] = matrix.detach()
    return whole


def _decoder(grid: LoweredGrid) -> tuple[Decoder, list[Tensor]]:
    """Return the addresses of the padded decoder, and its memory."""
    hidden, out = grid.hidden_weight, grid.out_weight
    units, channels, features = map(padded, (*hidden.shape, len(out) - 1))
    matrices = [
        _pad(hidden.T, channels, units),
        _pad(grid.hidden_bias[None], 1, units),
        _pad(out[:1], 1, units),
        _pad(out[1:].T, units, features),
        _pad(grid.out_bias[None, 1:], 1, features),
        _pad(hidden, units, channels),
        _pad(out[1:], features, units),
        torch.zeros(1, max(units, channels), **FLOATS),
    ]
    weight, bias, density, out_weight, out_bias, *transposed = (x.data_ptr() for x in matrices)
    softplus = grid.activation == "softplus"
    hidden_layer = HiddenLayer(weight, bias, density, channels, units, softplus)
    out_layer = OutLayer(out_weight, out_bias, units, features)
    return Decoder(hidden_layer, out_layer, *transposed), matrices


def num_columns(o: Options) -> int:
    """Columns of `Scratch.scalars`: samples or intervals, and vectors that start at the last."""
    intervals = PARTS * o.coarse if o.nucleus > 0 else 0
    return padded(max(o.coarse + o.fine, intervals) + 2 * WIDTH + 1)


def allocate(job: Job, backward: bool) -> Scratch:
    """Allocate a worker's memory: about 60 kB forward for 96 samples, 32 channels, 64 units."""
    s, out = job.sizes, job.decoder.out
    rows = s.blocks + max(ROWS, WIDTH)  # fine samples start in the middle of a block
    columns = max(num_columns(job.options), out.features)
    corner_columns = padded(rows, WIDTH)
    out_rows = rows if backward else ROWS
    shapes = {
        "scalars": (NUM_SCALARS, columns),
        "corners": (s.grids * s.corners, 2, corner_columns),
        "features": (rows, job.decoder.hidden.channels),
        "hidden": (rows, out.units),
        "out": (out_rows, out.features),
        "d_hidden": (out_rows if backward else 1, out.units),
        "indices": (NUM_INDICES, columns),
    }
    # One block, so that its parts lie in different sets of the cache.
    starts = np.cumsum([0, *(padded(math.prod(shape), 16) for shape in shapes.values())])
    whole = torch.zeros(int(starts[-1]), **FLOATS)
    parts: dict[str, Any] = {
        name: whole[start : start + math.prod(shape)].view(shape)
        for start, (name, shape) in zip(starts.tolist(), shapes.items(), strict=False)
    }
    scalars, indices = parts["scalars"], parts["indices"].view(torch.int32)
    scalars[RAY, PER_BOX], scalars[RAY, PER_GRIDS] = 1 / (2 * job.options.half), 1 / s.grids
    buffers = Buffers(*(parts[name].data_ptr() for name in Buffers._fields))
    corners = parts["corners"].data_ptr()
    return Scratch(scalars.numpy(), indices.numpy(), buffers, corners, 4 * corner_columns)


def empty_sums(rays: RayTensors, features: int) -> RaySums:
    """Return the sums of rays that miss the bounds."""
    near = rays[2]
    assert near is not None
    feature, depth, opacity = (near.new_zeros(*near.shape[:2], n) for n in (features, 1, 1))
    nearest, farthest = (near.clone(memory_format=torch.contiguous_format) for _ in range(2))
    return RaySums(feature, depth, opacity, nearest, farthest)


def ray_arrays(side: int, rays: RayTensors, scene: int) -> RayArrays:
    """Return the rays of a scene."""
    return RayArrays(side, *(as_array(None if x is None else x[scene]) for x in rays))


def as_array(x: Tensor | None) -> np.ndarray:
    """View a tensor as an array, of no rows if None; copy only if it is not contiguous."""
    if x is None:
        return np.zeros((0, 0), np.float32)
    array: np.ndarray = x.detach().contiguous().numpy()
    return array
