"""Launches of the Triton kernels: layout of tensors, sizes, blocks and numbers of programs."""

import math
from dataclasses import dataclass

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.contract import SceneConfig
from renderers.config import VolumeRendererConfig
from renderers.fused.gpu.decode_kernels import Decoder, GridShape, NetShape, Scene, Shape, Tile
from renderers.fused.gpu.point_kernels import (
    DensityTerms,
    SigmaRange,
    Work,
    feature_kernel,
    gradient_kernel,
    sigma_kernel,
)
from renderers.fused.gpu.ray_kernels import (
    Block,
    Counts,
    Rays,
    Search,
    Sums,
    WeightGradients,
    cdf_kernel,
    fine_kernel,
    nucleus_kernel,
    order_kernel,
    weight_backward_kernel,
    weight_kernel,
)
from renderers.ray_marching import Request
from renderers.sampling import PARTS, RaySpan

TILE = (8, 8)
"""Rays of a forward block: a square of an image, so that neighbours read the same texels."""
BACKWARD_TILE = (4, 4)
"""Of the gradient kernel: its sums over points leave no registers for larger tiles."""
PROGRAMS = 1024
"""Minimum number of forward programs, if there are samples to split: about 8 per multiprocessor."""
BACKWARD_PROGRAMS = 512
"""Maximum number of programs of the gradient kernel; each has a sum of the decoder's gradient."""
ENTRIES = 512
"""Samples of a block of the ray kernels."""


@dataclass(frozen=True)
class RayLaunch:
    """Arguments that the kernels over rays share, for fields of any kind."""

    options: VolumeRendererConfig
    scene_cfg: SceneConfig
    span: RaySpan

    @property
    def all_rays(self) -> int:
        """Rays of all scenes."""
        return self.span.near.numel()

    @property
    def samples(self) -> int:
        """Samples of a ray."""
        return self.options.samples_coarse + self.options.samples_fine

    def ray_tables(self, t: Tensor, sigma: Tensor, order: Tensor | None) -> Rays:
        """Arguments of kernels over rays."""
        tables = t, sigma, *self.span, t if order is None else order
        return Rays(*tables, self.scene_cfg.density.scale, self.all_rays, self.samples)

    def block(self, samples: int, ordered: bool = False) -> tuple[int, Block]:
        """Programs of a kernel over rays, and constants of its blocks."""
        columns = max(16, triton.next_power_of_2(samples))
        rows = max(1, ENTRIES // columns)
        eg3d = self.options.rules == "eg3d"
        constants = Block(rows, columns, self.scene_cfg.density.activation, eg3d, ordered)
        return triton.cdiv(self.all_rays, rows), constants


@dataclass(frozen=True)
class Launch(RayLaunch):
    """Arguments that the kernels of a rendering of grids share."""

    axes: tuple[tuple[int, int, int], ...]
    activation: str
    texels: Tensor
    weights: tuple[Tensor, ...]
    origins: Tensor
    dirs: Tensor

    @property
    def rays(self) -> int:
        """Rays of a scene."""
        return int(self.origins.shape[1])

    @property
    def grid(self) -> GridShape:
        """Constants of the grids."""
        axes = 0
        for g, of_grid in enumerate(self.axes):
            for k, axis in enumerate(of_grid):
                axes |= axis << (6 * g + 2 * k)
        _, grids, depth, height, width, channels = (int(n) for n in self.texels.shape)
        return GridShape(channels, _padded(channels), grids, axes, (depth, height, width))

    @property
    def net(self) -> NetShape:
        """Constants of the decoder."""
        hidden, features = len(self.weights[1]), len(self.weights[3]) - 1
        activation, precision = self.activation, self.options.precision
        sizes = (hidden, _padded(hidden), features, _padded(features))
        return NetShape(*sizes, activation, precision)

    def shape(self, tile: tuple[int, int]) -> Shape:
        """Constants of a kernel; rays that form a square image are tiled in two dimensions."""
        width = math.isqrt(self.rays)
        fits = width * width == self.rays and not any(width % n for n in tile)
        return Shape(self.grid, self.net, Tile(*tile, width if fits else 0))

    def scene(self, t: Tensor) -> Scene:
        """Arguments of kernels over points."""
        scale = 2 / self.scene_cfg.box
        return Scene(self.texels, self.origins, self.dirs, t, scale, self.rays, self.samples)

    def work(self, tile: tuple[int, int], num: int) -> tuple[Work, int]:
        """Split `num` samples of all rays; return the number of all tasks, too."""
        tiles = triton.cdiv(self.rays, tile[0] * tile[1])
        scenes = int(self.origins.shape[0])
        splits = min(num, triton.cdiv(PROGRAMS, tiles * scenes))
        return Work(tiles, splits), tiles * scenes * splits

    def schedule(self) -> dict[str, int]:
        """Warps of a program: nothing spills at EG3D's sizes; a test compiles them.

        One stage: loads ahead of their loop would take over 100 KB of shared memory, and leave a
        multiprocessor one program to hide latency with.
        """
        return {"num_warps": 8 if self.options.precision == "fp32" else 4, "num_stages": 1}


def _padded(size: int) -> int:
    return max(16, int(triton.next_power_of_2(size)))


def prepare(request: Request, grids: Tensor, weights: tuple[Tensor, ...], span: RaySpan) -> Launch:
    """Lay out tensors for the kernels; grids are copied if their layout or dtype differs."""
    grid, options = request.grid, request.options
    dtype = torch.float16 if options.precision == "fp16" else grids.dtype
    if dtype == torch.float64:
        dtype = torch.float32
    return Launch(
        options,
        request.field.scene_cfg,
        RaySpan(*(x.detach().contiguous() for x in span)),
        grid.axes,
        grid.activation,
        grids.detach().to(dtype).contiguous(),
        tuple(x.detach().float().contiguous() for x in weights),
        request.rays.origins.detach().contiguous(),
        request.rays.dirs.detach().contiguous(),
    )


def find_sigma(
    x: Launch, t: Tensor, sigma: Tensor, noise: Tensor | None, first: int, num: int
) -> None:
    """Write the raw density of samples `first` to `first + num`."""
    density = x.scene_cfg.density
    work, tasks = x.work(TILE, num)
    noise_or_any = t if noise is None else noise.contiguous()
    terms = DensityTerms(noise_or_any, density.prior_strength, density.prior_radius)
    flags = (noise is not None, density.prior_strength != 0, x.options.masked)
    shape = Shape(*x.shape(TILE)[:3], *flags)
    scene, decoder, result = x.scene(t), Decoder(*x.weights), SigmaRange(sigma, first, num)
    sigma_kernel[(tasks,)](scene, decoder, terms, result, work, SHAPE=shape, **x.schedule())


def find_order(x: RayLaunch, t: Tensor) -> Tensor | None:
    """Columns by depth; None without fine samples, since the coarse ones are in order."""
    if not x.options.samples_fine:
        return None
    order = torch.empty_like(t, dtype=torch.int16)
    programs, block = x.block(x.samples)
    order_kernel[(programs,)](t, order, x.all_rays, x.samples, BLOCK=block)
    return order


def find_weights(
    x: RayLaunch, t: Tensor, sigma: Tensor, order: Tensor | None
) -> tuple[Tensor, Sums]:
    """Weights of samples, and sums along rays."""
    omega, sums = torch.empty_like(t), Sums(*(t.new_empty(*t.shape[:2], 1) for _ in range(4)))
    programs, block = x.block(x.samples, order is not None)
    weight_kernel[(programs,)](x.ray_tables(t, sigma, order), omega, sums, BLOCK=block)
    return omega, sums


def find_weights_backward(
    x: RayLaunch, t: Tensor, sigma: Tensor, order: Tensor | None, gradients: WeightGradients
) -> tuple[Tensor, Tensor]:
    """Weights of samples, and gradients of raw densities."""
    omega, d_sigma = torch.empty_like(t), torch.empty_like(t)
    programs, block = x.block(x.samples, order is not None)
    rays = x.ray_tables(t, sigma, order)
    weight_backward_kernel[(programs,)](rays, gradients, omega, d_sigma, BLOCK=block)
    return omega, d_sigma


def place_fine(x: RayLaunch, t: Tensor, sigma: Tensor, u: Tensor | None) -> None:
    """Write the depths of the fine samples after those of the coarse ones."""
    coarse, fine = x.options.samples_coarse, x.options.samples_fine
    parts = PARTS if x.options.importance == "nucleus" else 1
    programs, block = x.block(coarse * parts)
    masses = coarse - 3 if block.eg3d else coarse * parts
    cdf = t.new_empty(*t.shape[:2], masses)
    counts = Counts(coarse, fine, masses, x.options.nucleus_mass)
    rays = x.ray_tables(t, sigma, None)
    if parts > 1:
        nucleus_kernel[(programs,)](rays, cdf, counts, BLOCK=block, PARTS=parts)
    else:
        cdf_kernel[(programs,)](rays, cdf, counts, BLOCK=block)
    search = Search(u is not None, block.eg3d, masses.bit_length(), 256, parts)
    drawn = t if u is None else u.contiguous()
    programs = triton.cdiv(x.all_rays * fine, search.size)
    fine_kernel[(programs,)](rays, cdf, drawn, counts, SEARCH=search)


def sum_features(x: Launch, t: Tensor, omega: Tensor) -> Float[Tensor, "b r c"]:
    """Sum omega_i c_i along rays."""
    work, _ = x.work(TILE, x.samples)
    parts = t.new_empty(work.splits, *t.shape[:2], x.net.features)
    _decode(x, t, (omega, parts), is_sum=True)
    return parts[0] if work.splits == 1 else parts.sum(0)


def find_q(x: Launch, t: Tensor, d_feature: Tensor) -> Tensor:
    """Gradient of the weight of each sample through the features."""
    q = torch.empty_like(t)
    _decode(x, t, (d_feature, q), is_sum=False)
    return q


def _decode(x: Launch, t: Tensor, tables: tuple[Tensor, Tensor], is_sum: bool) -> None:
    work, tasks = x.work(TILE, x.samples)
    constants = {"SUM": is_sum, "SHAPE": x.shape(TILE), **x.schedule()}
    feature_kernel[(tasks,)](x.scene(t), Decoder(*x.weights), tables, work, **constants)


def find_gradients(
    x: Launch, t: Tensor, omega: Tensor, d_sigma: Tensor, d_feature: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of the texels, hidden weight, hidden bias, output weight and output bias."""
    shape = x.shape(BACKWARD_TILE)
    grid, net = shape.grid, shape.net
    c, h, f = grid.channels, net.hidden, net.features
    cp, hp, fp = grid.padded, net.padded_hidden, net.padded_features
    work, tasks = x.work(BACKWARD_TILE, x.samples)
    programs = min(tasks, BACKWARD_PROGRAMS)
    d_texels = torch.zeros_like(x.texels, dtype=torch.float32)
    sides = ((hp, cp), (hp,), (hp,), (hp, fp), (fp,), (1,))
    sizes = [math.prod(x) for x in sides]
    partials = t.new_empty(programs, sum(sizes))
    tables, results = (omega, d_sigma, d_feature), (d_texels, partials, tasks)
    scene, decoder = x.scene(t), Decoder(*x.weights)
    gradient_kernel[(programs,)](scene, decoder, tables, results, work, SHAPE=shape, **x.schedule())
    sums = torch.split(partials.sum(0), sizes)
    w1, b1, head, w2, b2, b0 = (y.reshape(shape) for y, shape in zip(sums, sides, strict=True))
    out_weight = torch.cat([head[None, :h], w2[:h, :f].T])
    return d_texels, w1[:h, :c], b1[:h], out_weight, torch.cat([b0, b2[:f]])
