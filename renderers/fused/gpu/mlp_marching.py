"""Ray marching of fields that are MLPs on a GPU, in Triton kernels.

Weights of 256 x 256 do not fit the shared memory of a multiprocessor: each layer is a launch over a
chunk of rays, small enough that the units stay in the L2 cache between layers. The forward pass
computes each sample once and keeps its depth, 4 bytes. The backward pass computes it again, and
stores units and slopes of all layers for one chunk at a time: 300 MB for nine layers of sines.

All sums have a fixed order: results have the same bits in every run. Nothing here waits for the
device.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import triton
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from lightning_gan3d.contract import SceneConfig
from lightning_gan3d.networks.lowering import LoweredMlp
from renderers.config import VolumeRendererConfig
from renderers.fused.gpu.launches import (
    RayLaunch,
    find_order,
    find_weights,
    find_weights_backward,
    place_fine,
)
from renderers.fused.gpu.layer_kernels import (
    Layer,
    Table,
    Tiling,
    layer_backward_kernel,
    layer_kernel,
    weight_gradient_kernel,
)
from renderers.fused.gpu.ray_kernels import WeightGradients
from renderers.ray_marching import Jitter, RaySums, Request
from renderers.sampling import RaySpan, stratified

CHUNK = 1 << 24
"""Bytes of the units of a layer: of two layers they fit the L2 cache of a large GPU."""
PROGRAMS = 256
"""Programs among which the sums of a weight's gradient are split, about 2 per multiprocessor."""
SCHEDULE = {"num_warps": 8, "num_stages": 3}
"""Two programs fit a multiprocessor; loads run ahead of the products."""
ROW = 16
"""Rows are padded to a multiple, for aligned vectors."""


Constants = tuple[VolumeRendererConfig, SceneConfig, str, int]
"""Options, and activation and octaves of the MLP."""


class Samples(NamedTuple):
    """Results at samples, and what their gradients need."""

    sigma: Float[Tensor, "b r s"]
    feature: Float[Tensor, "b r s c"]
    below: list[Tensor]
    """Inputs of each layer (b, r * s, row)."""
    slopes: list[Tensor]
    """Derivatives of the units of each layer; of ReLU, the units."""


@dataclass(frozen=True)
class MlpLaunch(RayLaunch):
    """Arguments that the kernels of a rendering of MLPs share."""

    activation: str
    octaves: int
    layers: tuple[Layer, ...]
    """Those of `LoweredMlp`, then the features; output `units` of the one before is the density."""
    operands: tuple[Layer, ...]
    """The same, as the forward pass multiplies them."""
    origins: Float[Tensor, "b r 3"]
    dirs: Float[Tensor, "b r 3"]

    @property
    def units(self) -> int:
        """Width of the layers, padded."""
        return int(self.layers[0].outputs)

    @property
    def dtype(self) -> torch.dtype:
        """Type of stored units."""
        return torch.float16 if self.options.precision == "fp16" else torch.float32

    def chunks(self, samples: int) -> Iterator[tuple["MlpLaunch", slice]]:
        """Split the rays, of which `samples` are computed at a time."""
        scenes, rays, _ = self.origins.shape
        points = CHUNK // (self.units * self.dtype.itemsize)
        each = max(1, points // (scenes * samples))
        for first in range(0, rays, each):
            part = slice(first, first + each)
            origins, dirs, *span = (
                x[:, part].contiguous() for x in (self.origins, self.dirs, *self.span)
            )
            yield replace(self, span=RaySpan(*span), origins=origins, dirs=dirs), part

    def query(self, t: Float[Tensor, "b r s"], noise: Tensor | None, keep: bool) -> Samples:
        """Compute samples; `keep` what their gradients need."""
        b, r, s = t.shape
        points = torch.addcmul(self.origins[:, :, None], self.dirs[:, :, None], t[..., None])
        points = points * (2 / self.scene_cfg.box)
        x = self._encode(points.flatten(1, 2))
        below, slopes = [x], []
        *hidden, head = self.operands
        for layer, above in zip(hidden, self.operands[1:], strict=True):
            row = _whole(max(layer.outputs, above.inputs))
            dtype = torch.float32 if above is head else self.dtype  # the density is one of these
            y = x.new_empty(b, r * s, row, dtype=dtype)
            slope = None
            if keep and self.activation == "sine":
                slope = y.new_empty(b, r * s, self.units)
            self._run(x, layer, y, slope)
            if layer.outputs < above.inputs:
                dirs = functional.pad(self.dirs, (0, ROW - 3))
                y.view(b, r, s, row)[..., self.units :] = dirs[:, :, None]
            if keep:
                below.append(y)
                slopes.append(y if slope is None else slope)
            x = y
        feature = t.new_empty(b, r * s, head.outputs)
        self._run(x, head, feature, None)
        raw = x[..., self.units].contiguous()  # the ray kernels know no strides
        sigma = self._raw_density(raw.view(b, r, s), points, noise)
        return Samples(sigma, feature.view(b, r, s, -1), below, slopes)

    def _run(self, x: Tensor, layer: Layer, y: Tensor, slopes: Tensor | None) -> None:
        is_head = layer is self.operands[-1]
        activation = "sigmoid" if is_head else self.activation
        units = layer.outputs if is_head else self.units
        # Positions need all digits: sines magnify their errors.
        exact = layer is self.operands[0]
        tiling = _tiling(layer.outputs, "exact" if exact else self.options.precision)
        programs = len(x) * _tiles(tiling, x.shape[1], layer.outputs)
        tables = _table(x), layer, _table(y), Table(slopes, x.shape[1], units)
        layer_kernel[(programs,)](*tables, ACTIVATION=activation, TILING=tiling, **SCHEDULE)

    def _encode(self, points: Float[Tensor, "b n 3"]) -> Tensor:
        """Inputs of the first layer, as `FilmNet.encode`."""
        x = points
        if self.octaves:
            octave = math.pi * 2.0 ** torch.arange(self.octaves, device=x.device, dtype=x.dtype)
            angle = (points[..., None] * octave).flatten(-2)
            x = torch.cat([points, angle.sin(), angle.cos()], dim=-1)
        return functional.pad(x, (0, _whole(x.shape[-1]) - x.shape[-1]))

    def _raw_density(self, raw: Tensor, points: Tensor, noise: Tensor | None) -> Tensor:
        """Add prior and noise; samples outside the box are -inf."""
        density = self.scene_cfg.density
        if density.prior_strength:
            raw = raw + density.prior_strength * (density.prior_radius - points.norm(dim=-1))
        if noise is not None:
            raw = raw + noise
        if self.options.masked:
            raw = raw.where(points.abs().amax(dim=-1) <= 1, -torch.inf)
        return raw


def render_mlp(request: Request, mlp: LoweredMlp) -> RaySums:
    """Render all rays."""
    return RaySums(*_RayMarching.apply(request, *_layers(mlp)))


class _RayMarching(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, request: Request, *layers: Tensor) -> tuple[Tensor, ...]:
        o, jitter, mlp = request.options, request.jitter, request.lowered_field
        assert isinstance(mlp, LoweredMlp)
        coarse, span = stratified(request.span, o.samples_coarse, jitter.strata, o.rules)
        ctx.constants = o, request.field.scene_cfg, mlp.activation, mlp.octaves
        tables = span.near, span.far, request.rays.origins, request.rays.dirs
        x = _launch(ctx.constants, tables, layers)
        t = coarse.new_empty(*coarse.shape[:2], x.samples)
        t[..., : o.samples_coarse] = coarse
        sums = []
        for part, rays in x.chunks(max(o.samples_coarse, o.samples_fine)):
            of_rays = Jitter(*(None if y is None else y[:, rays] for y in jitter))
            t[:, rays], *values = _render(part, t[:, rays].contiguous(), of_rays)
            sums.append(values)
        ctx.save_for_backward(t, jitter.noise, *tables, *layers)
        feature, depth, opacity, nearest, farthest = (
            torch.cat(parts, dim=1) for parts in zip(*sums, strict=True)
        )
        ctx.mark_non_differentiable(nearest, farthest)
        return feature, depth, opacity, nearest, farthest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        t, noise, *rest = ctx.saved_tensors
        tables, layers = rest[:4], rest[4:]
        x = _launch(ctx.constants, tables, layers)
        partials = [_partial_sums(layer, t[0].numel()) for layer in x.layers]
        for part, rays in x.chunks(x.samples):
            of_rays = (y[:, rays].contiguous() for y in (t, *gradients[:3]))
            _add_gradients(part, of_rays, None if noise is None else noise[:, rays], partials)
        sums = [(p.weight.sum(0), p.bias.sum(0)) for p in partials]
        return None, *(y for pair in sums for y in pair)


def _render(x: MlpLaunch, t: Float[Tensor, "b r s"], jitter: Jitter) -> tuple[Tensor, ...]:
    """Render a chunk, whose first depths are given; return all depths and the sums."""
    coarse, fine = x.options.samples_coarse, x.options.samples_fine
    sigma = torch.empty_like(t)
    features: list[Tensor] = []
    for samples in (slice(coarse), slice(coarse, None))[: 1 + (fine > 0)]:
        if features:
            place_fine(x, t, sigma, jitter.u)
        noise = None if jitter.noise is None else jitter.noise[..., samples]
        result = x.query(t[..., samples], noise, keep=False)
        sigma[..., samples] = result.sigma
        features.append(result.feature)
    omega, sums = find_weights(x, t, sigma, find_order(x, t))
    feature = (omega[..., None] * torch.cat(features, dim=2)).sum(dim=2)
    return t, feature, *sums


def _add_gradients(
    x: MlpLaunch, tables: Iterable[Tensor], noise: Tensor | None, partials: list[Layer]
) -> None:
    """Add the gradients of all layers by a chunk to their partial sums."""
    t, d_sum, d_depth, d_opacity = tables
    sigma, feature, below, slopes = x.query(t, noise, keep=True)
    gradients = WeightGradients((feature * d_sum[:, :, None]).sum(-1), d_depth, d_opacity)
    omega, d_sigma = find_weights_backward(x, t, sigma, find_order(x, t), gradients)
    d_feature = omega[..., None] * d_sum[:, :, None]
    d_y = (d_feature * feature * (1 - feature)).flatten(1, 2)
    head = len(x.layers) - 1
    for i in range(head, -1, -1):
        _run_weight_gradient(d_y, below[i], partials[i], x.options.precision)
        if i > 0:
            d_x = d_y.new_empty(*d_y.shape[:2], _whole(x.layers[i - 1].outputs))
            _run_backward(d_y, x.layers[i], slopes[i - 1], d_x, x)
            if i == head:
                d_x[..., x.units] = d_sigma.flatten(1)
            d_y = d_x


def _whole(size: int) -> int:
    return -(-size // ROW) * ROW


def _pad(x: Tensor, rows: int, columns: int) -> Tensor:
    return functional.pad(x.float(), (0, columns - x.shape[-1], 0, rows - x.shape[-2]))


def _layers(mlp: LoweredMlp) -> list[Tensor]:
    """Weight and bias of each layer, and of the features; see `MlpLaunch.layers`.

    The last layer also reads the direction, after its units. Stays in the autograd graph.
    """
    b, num, units, inputs = *mlp.weights.shape[:3], mlp.first_weight.shape[2]
    wide = _whole(units)
    weights = [_pad(mlp.first_weight, wide, _whole(inputs))]
    weights += [_pad(x, wide, wide) for x in mlp.weights.unbind(1)]
    if mlp.dirs_weight.shape[2]:
        weights[-1] = torch.cat([weights[-1], _pad(mlp.dirs_weight, wide, ROW)], dim=2)
    density = _pad(mlp.density_weight, 1, weights[-1].shape[2])
    weights[-1] = torch.cat([weights[-1], density.expand(b, -1, -1)], dim=1)
    weights.append(_pad(mlp.out_weight, len(mlp.out_bias), wide).expand(b, -1, -1))
    biases = [*_pad(mlp.biases, num + 1, wide).unbind(1), mlp.out_bias.float().expand(b, -1)]
    biases[-2] = torch.cat([biases[-2], mlp.density_bias.float().expand(b, -1)], dim=1)
    return [x.contiguous() for pair in zip(weights, biases, strict=True) for x in pair]


def _launch(constants: Constants, tables: Iterable[Tensor], tensors: Sequence[Tensor]) -> MlpLaunch:
    options, scene_cfg, activation, octaves = constants
    near, far, origins, dirs = (x.detach().contiguous() for x in tables)
    detached = [x.detach() for x in tensors]
    pairs = zip(detached[::2], detached[1::2], strict=True)
    layers = operands = tuple(Layer(w, b, w.shape[2], w.shape[1]) for w, b in pairs)
    if options.precision == "fp16":  # except for positions
        operands = layers[0], *(x._replace(weight=x.weight.half()) for x in layers[1:])
    of_all = options, scene_cfg, RaySpan(near, far)
    return MlpLaunch(*of_all, activation, octaves, layers, operands, origins, dirs)


def _table(x: Tensor) -> Table:
    return Table(x, x.shape[1], x.shape[2])


def _tiling(columns: int, precision: str) -> Tiling:
    """Of products by points; nothing spills at 256 units: a test compiles them."""
    if precision == "exact":  # outside the tensor cores
        return Tiling(64, 64, 16, precision)
    return Tiling(128, _side(columns), 32, precision)


def _weight_tiling(layer: Layer, precision: str) -> Tiling:
    return Tiling(_side(layer.outputs), _side(layer.inputs), 32, precision)


def _side(size: int) -> int:
    return min(64, max(16, int(triton.next_power_of_2(size))))


def _tiles(tiling: Tiling, rows: int, columns: int) -> int:
    return int(triton.cdiv(rows, tiling.rows) * triton.cdiv(columns, tiling.columns))


def _run_backward(d_y: Tensor, layer: Layer, slopes: Tensor, d_x: Tensor, x: MlpLaunch) -> None:
    tiling = _tiling(x.units, _of_gradients(x.options.precision))
    programs = len(d_y) * _tiles(tiling, d_y.shape[1], x.units)
    tables = _table(d_y), layer, _table(slopes), _table(d_x)
    constants = {"RELU": x.activation == "relu", "TILING": tiling, **SCHEDULE}
    layer_backward_kernel[(programs,)](*tables, x.units, **constants)


def _run_weight_gradient(d_y: Tensor, x: Tensor, partial: Layer, precision: str) -> None:
    splits, scenes = partial.weight.shape[:2]
    tiling = _weight_tiling(partial, _of_gradients(precision))
    programs = splits * scenes * _tiles(tiling, partial.outputs, partial.inputs)
    tables = _table(d_y), _table(x), partial, scenes, splits
    weight_gradient_kernel[(programs,)](*tables, TILING=tiling, **SCHEDULE)


def _partial_sums(layer: Layer, points: int) -> Layer:
    """Zeros for each split of a chunk, which has at most `points` of a scene."""
    tiling = _weight_tiling(layer, "")
    tiles = len(layer.weight) * _tiles(tiling, layer.outputs, layer.inputs)
    splits = max(1, min(PROGRAMS // tiles, points // tiling.depth))
    weight, bias = (x.new_zeros(splits, *x.shape) for x in (layer.weight, layer.bias))
    return layer._replace(weight=weight, bias=bias)


def _of_gradients(precision: str) -> str:
    """They can underflow float16."""
    return "tf32" if precision == "fp16" else precision
