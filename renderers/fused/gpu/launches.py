"""Launches of the Triton kernels: sizes, blocks and grids of programs, and nothing computed."""

import math
from typing import Any, NamedTuple

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from renderers.fused.gpu.backward_kernel import gradient_kernel
from renderers.fused.gpu.point_kernels import feature_kernel, sigma_kernel
from renderers.fused.gpu.ray_kernels import (
    cdf_kernel,
    fine_kernel,
    order_kernel,
    weigh_backward_kernel,
    weigh_kernel,
)
from renderers.paths import Request
from renderers.sampling import Span

TILE = (8, 8)
"""Rays of a forward block: of each image a square, so that neighbours read the same texels."""
BACKWARD_TILE = (4, 4)
"""Of the last backward kernel, whose sums over points leave no registers for more."""
PROGRAMS = 1024
"""Least number of forward programs, where there are samples to share: some 8 per multiprocessor."""
BACKWARD_PROGRAMS = 512
"""Most programs of the last backward kernel; each has a partial sum of the decoder's gradient."""
ENTRIES = 512
"""Entries of a block of the scalar kernels."""


class Launch(NamedTuple):
    """What all kernels of a rendering share."""

    request: Request
    texels: Tensor
    weights: tuple[Tensor, Tensor, Tensor, Tensor]
    origins: Tensor
    dirs: Tensor
    part: Span

    @property
    def rays(self) -> int:
        """Rays of a scene."""
        return int(self.origins.shape[1])

    @property
    def all_rays(self) -> int:
        """Rays of all scenes."""
        return int(self.origins.shape[0]) * self.rays

    @property
    def samples(self) -> int:
        """Samples of a ray."""
        return self.request.options.samples_coarse + self.request.options.samples_fine

    def sizes(self, tile: tuple[int, int]) -> dict[str, Any]:
        """Compile-time arguments of the kernels over points."""
        grid, channels = self.request.grid, int(self.texels.shape[-1])
        axes = 0
        for g, of_grid in enumerate(grid.axes):
            for k, axis in enumerate(of_grid):
                axes |= axis << (6 * g + 2 * k)
        hidden = len(grid.hidden_bias)
        return {
            "C": channels,
            "CP": _padded(channels),
            "HIDDEN": hidden,
            "HP": _padded(hidden),
            "GRIDS": int(self.texels.shape[1]),
            "AXES": axes,
            "SHAPE": tuple(int(n) for n in self.texels.shape[2:5]),
            "WIDTH": _width(self.rays, tile),
            "TILE": tile,
            "ACTIVATION": grid.activation,
            "MULTIPLY": self.request.options.precision,
        }

    def features(self) -> dict[str, int]:
        """Those of the kernels that decode features."""
        features = len(self.request.grid.out_bias) - 1
        return {"FEATURES": features, "FP": _padded(features)}

    def tiling(self, tile: tuple[int, int], samples: int) -> tuple[int, int, int]:
        """Tiles of a scene, parts into which their samples are split, and tasks in all."""
        tiles = triton.cdiv(self.rays, tile[0] * tile[1])
        scenes = int(self.origins.shape[0])
        splits = min(samples, triton.cdiv(PROGRAMS, tiles * scenes))
        return tiles, splits, tiles * scenes * splits

    def rows(self, samples: int) -> tuple[int, dict[str, Any]]:
        """Programs and compile-time arguments of the kernels over rays."""
        wide = max(16, triton.next_power_of_2(samples))
        rows = max(1, ENTRIES // wide)
        density = self.request.scene_cfg.density.activation
        return triton.cdiv(self.all_rays, rows), {"ROWS": rows, "WIDE": wide, "DENSITY": density}


def _padded(size: int) -> int:
    return max(16, int(triton.next_power_of_2(size)))


def _width(rays: int, tile: tuple[int, int]) -> int:
    """Width of the square image that the rays form, if they do and tiles fit, else 0."""
    width = math.isqrt(rays)
    fits = width * width == rays and width % tile[0] == 0 and width % tile[1] == 0
    return width if fits else 0


def _schedule(precision: str) -> dict[str, int]:
    """Warps of a program, so many that nothing spills at EG3D's sizes; a test compiles them.

    One stage: loads ahead of their loop would hold over 100 KB of shared memory, and leave a
    multiprocessor one program to hide latency with.
    """
    return {"num_warps": 8 if precision == "fp32" else 4, "num_stages": 1}


def prepare(request: Request, grids: Tensor, weights: tuple[Tensor, ...], part: Span) -> Launch:
    """Lay tensors out as the kernels read them; the grids are copied where that differs."""
    precision = request.options.precision
    dtype = torch.float16 if precision == "fp16" else grids.dtype
    if dtype == torch.float64:
        dtype = torch.float32
    w1, b1, w2, b2 = (x.detach().float().contiguous() for x in weights)
    return Launch(
        request,
        grids.detach().to(dtype).contiguous(),
        (w1, b1, w2, b2),
        request.rays.origins.detach().contiguous(),
        request.rays.dirs.detach().contiguous(),
        Span(part.near.detach().contiguous(), part.far.detach().contiguous()),
    )


def find_sigma(x: Launch, t: Tensor, sigma: Tensor, first: int, num: int) -> None:
    """Write raw densities of samples `first` to `first + num`."""
    o, d, noise = x.request.options, x.request.scene_cfg.density, x.request.random.noise
    tiles, splits, tasks = x.tiling(TILE, num)
    sigma_kernel[(tasks,)](
        x.texels,
        x.origins,
        x.dirs,
        t,
        t if noise is None else noise.contiguous(),
        *x.weights,
        sigma,
        2 / x.request.scene_cfg.box,
        d.prior_strength,
        d.prior_radius,
        x.rays,
        x.samples,
        first,
        num,
        tiles,
        splits,
        NOISE=noise is not None,
        PRIOR=d.prior_strength != 0,
        EMPTY_OUTSIDE=o.masked,
        **x.sizes(TILE),
        **_schedule(o.precision),
    )


def find_order(x: Launch, t: Tensor) -> Tensor | None:
    """Columns by depth; None where there are coarse samples alone, which are in order."""
    if not x.request.options.samples_fine:
        return None
    order = torch.empty_like(t, dtype=torch.int16)
    programs, sizes = x.rows(x.samples)
    order_kernel[(programs,)](
        t, order, x.all_rays, x.samples, ROWS=sizes["ROWS"], WIDE=sizes["WIDE"]
    )
    return order


def weigh(x: Launch, t: Tensor, sigma: Tensor, order: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """Weights of samples; depth sums, opacities, nearest and farthest depths of rays."""
    omega, scalars = torch.empty_like(t), [t.new_empty(*t.shape[:2], 1) for _ in range(4)]
    programs, sizes = x.rows(x.samples)
    weigh_kernel[(programs,)](
        t,
        sigma,
        *x.part,
        t if order is None else order,
        omega,
        *scalars,
        x.request.scene_cfg.density.scale,
        x.all_rays,
        x.samples,
        PAIRS=x.request.options.rules == "eg3d",
        SORTED=order is not None,
        **sizes,
    )
    return omega, scalars


def weigh_backward(
    x: Launch,
    t: Tensor,
    sigma: Tensor,
    order: Tensor | None,
    q: Tensor,
    d_depth: Tensor,
    d_opacity: Tensor,
) -> tuple[Tensor, Tensor]:
    """Weights of samples, and the gradient by each raw density."""
    omega, d_sigma = torch.empty_like(t), torch.empty_like(t)
    programs, sizes = x.rows(x.samples)
    weigh_backward_kernel[(programs,)](
        t,
        sigma,
        *x.part,
        t if order is None else order,
        q,
        d_depth,
        d_opacity,
        omega,
        d_sigma,
        x.request.scene_cfg.density.scale,
        x.all_rays,
        x.samples,
        PAIRS=x.request.options.rules == "eg3d",
        SORTED=order is not None,
        **sizes,
    )
    return omega, d_sigma


def place_fine(x: Launch, t: Tensor, sigma: Tensor) -> None:
    """Write the depths of the fine samples behind those of the coarse ones."""
    o, u = x.request.options, x.request.random.u
    pairs = o.rules == "eg3d"
    masses = o.samples_coarse - 3 if pairs else o.samples_coarse
    cdf = t.new_empty(*t.shape[:2], masses)
    programs, sizes = x.rows(o.samples_coarse)
    cdf_kernel[(programs,)](
        t,
        sigma,
        *x.part,
        cdf,
        x.request.scene_cfg.density.scale,
        x.all_rays,
        x.samples,
        o.samples_coarse,
        masses,
        PAIRS=pairs,
        **sizes,
    )
    block = 256
    fine_kernel[(triton.cdiv(x.all_rays * o.samples_fine, block),)](
        t,
        *x.part,
        cdf,
        t if u is None else u.contiguous(),
        x.all_rays,
        x.samples,
        o.samples_coarse,
        o.samples_fine,
        masses,
        DRAWN=u is not None,
        STRATA=not pairs,
        PAIRS=pairs,
        STEPS=masses.bit_length(),
        BLOCK=block,
    )


def sum_features(x: Launch, t: Tensor, omega: Tensor) -> Float[Tensor, "b r c"]:
    """Sum omega_i c_i along rays."""
    tiles, splits, tasks = x.tiling(TILE, x.samples)
    features = x.features()["FEATURES"]
    parts = t.new_empty(splits, *t.shape[:2], features)
    _decode(x, t, omega, parts, tiles, splits, tasks, SUM=True)
    return parts[0] if splits == 1 else parts.sum(0)


def find_q(x: Launch, t: Tensor, d_feature: Tensor) -> Tensor:
    """Gradient by the weight of each sample that comes through the features."""
    q = torch.empty_like(t)
    _decode(x, t, d_feature, q, *x.tiling(TILE, x.samples), SUM=False)
    return q


def _decode(
    x: Launch,
    t: Tensor,
    given: Tensor,
    wanted: Tensor,
    tiles: int,
    splits: int,
    tasks: int,
    SUM: bool,
) -> None:
    feature_kernel[(tasks,)](
        x.texels,
        x.origins,
        x.dirs,
        t,
        given,
        *x.weights,
        wanted,
        2 / x.request.scene_cfg.box,
        x.rays,
        x.samples,
        tiles,
        splits,
        SUM=SUM,
        **x.features(),
        **x.sizes(TILE),
        **_schedule(x.request.options.precision),
    )


def find_gradients(
    x: Launch, t: Tensor, omega: Tensor, d_sigma: Tensor, d_feature: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by the texels, and by hidden weight, hidden bias, output weight, output bias."""
    s, f = x.sizes(BACKWARD_TILE), x.features()
    c, cp, h, hp, n, fp = s["C"], s["CP"], s["HIDDEN"], s["HP"], f["FEATURES"], f["FP"]
    tiles, splits, tasks = x.tiling(BACKWARD_TILE, x.samples)
    programs = min(tasks, BACKWARD_PROGRAMS)
    d_texels = torch.zeros_like(x.texels, dtype=torch.float32)
    shapes = ((hp, cp), (hp,), (hp,), (hp, fp), (fp,), (1,))
    partials = t.new_empty(programs, sum(math.prod(shape) for shape in shapes))
    gradient_kernel[(programs,)](
        x.texels,
        x.origins,
        x.dirs,
        t,
        omega,
        d_sigma,
        d_feature,
        *x.weights,
        d_texels,
        partials,
        2 / x.request.scene_cfg.box,
        x.rays,
        x.samples,
        tiles,
        splits,
        tasks,
        **f,
        **s,
        **_schedule(x.request.options.precision),
    )
    sums = torch.split(partials.sum(0), [math.prod(shape) for shape in shapes])
    w1, b1, head, w2, b2, b0 = (y.reshape(shape) for y, shape in zip(sums, shapes, strict=True))
    return (
        d_texels,
        w1[:h, :c],
        b1[:h],
        torch.cat([head[None, :h], w2[:h, :n].T]),
        torch.cat([b0, b2[:n]]),
    )
