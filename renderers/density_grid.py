"""Raw density at all points of an axis-aligned grid, many times faster than point by point.

There, linear interpolation is separable, and the first layer of the decoder is linear: its hidden
units are a sum of one map per grid of the scene. A plane has N^2 values in its map instead of N^3,
and a volume is resampled by matrix products. Activation and density remain for each point.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import leaky_relu, softplus

from lightning_gan3d.contract import Field
from lightning_gan3d.networks.lowering import LoweredGrid

LAYERS = 8
"""Layers of x at a time, if all grids are planes; of volumes, one."""
POINTS = 2**15
"""Points per query of a field that is not lowered: their values stay in the cache."""
Axes = tuple[Float[Tensor, " _"], Float[Tensor, " _"], Float[Tensor, " _"]]
"""Coordinates along x, y and z."""


class HiddenUnits(NamedTuple):
    """Hidden units before activation, as a sum of three terms that are broadcast.

    Along x, each has one row for each layer, or one for all of them.
    """

    rows: Float[Tensor, "_ u _ 1"]
    columns: Float[Tensor, "_ u 1 z"]
    full: Float[Tensor, "_ u _ z"]


Decode = Callable[[HiddenUnits, LoweredGrid], Float[Tensor, "x y z"]]


@torch.no_grad()
def density_layers(field: Field, axes: Axes) -> Iterator[Float[Tensor, "y z"]]:
    """Yield the raw density of one scene at the points of a grid, a layer for each x of `axes`.

    Memory: `LAYERS` layers, and of planes one map of hidden units over y and z.
    """
    assert field.batch == 1, "a grid is of one scene; select it with Scene.index"
    x, y, z = axes
    lowered = field.lower()
    layers = _lowered_layers(lowered, axes, field.box) if isinstance(lowered, LoweredGrid) else None
    for at in x:
        points = torch.stack(torch.meshgrid(at[None], y, z, indexing="ij"), dim=-1).view(1, -1, 3)
        if layers is None:
            raw = [field.density(part) for part in torch.split(points, POINTS, dim=1)]
            yield torch.cat(raw, dim=1).view(len(y), len(z))
        else:
            prior = torch.as_tensor(field.prior(points), device=z.device)
            yield next(layers) + prior.expand(1, points.shape[1], 1).view(len(y), len(z))


def _lowered_layers(lowered: LoweredGrid, axes: Axes, box: float) -> Iterator[Tensor]:
    """Yield the layers of a lowered field without its prior."""
    decode, multiple = _decoder(lowered.grids.device.type)
    x, y, z = axes
    z = torch.cat([z, z[-1:].expand(-len(z) % multiple)])
    weight = lowered.hidden_weight.float() / lowered.grids.shape[1]
    step = LAYERS if lowered.grids.shape[2] == 1 else 1
    maps = [
        _maps(grid, order, (x, y, z), weight, box, step)
        for grid, order in zip(lowered.grids[0].float(), lowered.axes, strict=True)
    ]
    zero = z.new_zeros(1, 1, 1, 1).expand(1, len(weight), 1, len(z))
    for part, units in zip(torch.split(x, step), zip(*maps, strict=False), strict=False):
        rows = [u for u in units if u.shape[3] == 1] + [lowered.hidden_bias.view(1, -1, 1, 1)]
        columns = [u for u in units if u.shape[2] == 1 < u.shape[3]]
        full = [u for u in units if 1 not in u.shape[2:]]
        terms = (reduce(torch.add, group) if group else zero for group in (rows, columns, full))
        yield from decode(HiddenUnits(*terms), lowered)[: len(part), :, : len(axes[2])]


def _maps(
    grid: Float[Tensor, "d h w c"],
    order: tuple[int, int, int],
    axes: Axes,
    weight: Float[Tensor, "u c"],
    box: float,
    step: int,
) -> Iterator[Float[Tensor, "_ u _ _"]]:
    """Yield the part of a grid in the hidden units, for `step` layers of x at a time.

    A plane has size 1 along its normal. A volume's own layers are resampled once.
    """
    sides = [2 - order.index(axis) for axis in range(3)]  # of x, y and z; `order` is w, h, d
    values = grid.permute(sides[0], 3, *sides[1:])
    flat = grid.shape[0] == 1
    to_x, to_y, to_z = (
        None if flat and i == order[2] else _hats(at, grid.shape[side], box)
        for i, (at, side) in enumerate(zip(axes, sides, strict=True))
    )

    def resample(values: Float[Tensor, "n c _ _"]) -> Float[Tensor, "n u _ _"]:
        units = torch.einsum("uc,ncyz->nuyz", weight, values)
        if to_y is not None:
            units = to_y @ units if to_z is not None else (units.mT @ to_y.T).mT
        return units if to_z is None else units @ to_z.T

    if to_x is None:
        yield from itertools.repeat(resample(values))
        return
    layers: dict[int, Tensor] = {}
    for part in torch.split(to_x, step):
        near = part.any(dim=0).nonzero()[:, 0]
        if flat:
            yield resample(torch.einsum("nx,xcyz->ncyz", part[:, near], values[near]))
            continue
        used = near.tolist()
        layers = {i: layers[i] if i in layers else resample(values[i : i + 1]) for i in used}
        shares = zip(layers.values(), part[0, near].tolist(), strict=True)
        yield reduce(
            lambda total, x: total.add(x[0], alpha=x[1]), shares, grid.new_zeros(1, 1, 1, 1)
        )


def _hats(at: Float[Tensor, " n"], size: int, box: float) -> Float[Tensor, "n size"]:
    """Matrix of linear interpolation: half-texel convention, zero outside, as fields read."""
    texel = (at * (2 / box) + 1) * (size / 2) - 0.5
    return (1 - (texel[:, None] - torch.arange(size, device=at.device)).abs()).clamp_min(0)


def _decoder(device: str) -> tuple[Decode, int]:
    """Return the fastest decoder, and the number of which it needs a multiple of points in z."""
    if device == "cpu":
        try:
            from renderers.fused.cpu.density_rows import GROUP, decode_rows
        except ImportError:  # the extra `numba` is missing
            return decode_plain, 1
        return decode_rows, GROUP
    return decode_plain, 1


def decode_plain(units: HiddenUnits, lowered: LoweredGrid) -> Float[Tensor, "x y z"]:
    """Activate hidden units and sum them up to the raw density, in PyTorch, layer by layer."""
    out = []
    for i in range(max(len(term) for term in units)):
        rows, columns, full = (term[min(i, len(term) - 1)] for term in units)
        total = rows + columns + full
        active = softplus(total) if lowered.activation == "softplus" else leaky_relu(total, 0.2)
        out.append(torch.einsum("u,uyz->yz", lowered.out_weight[0], active) + lowered.out_bias[0])
    return torch.stack(out)
