"""Density of the points of a grid from hidden units, by explicit SIMD: see `density_grid`."""

from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.networks.lowering import LoweredGrid
from lightning_gan3d.simd import WIDTH, entry, leaky_relu, run, simd, softplus
from lightning_gan3d.simd.vector import (
    Int,
    Registers,
    broadcast,
    fma,
    join,
    load,
    loop,
    split,
    store,
)
from renderers.density_grid import HiddenUnits

VECTORS = 4
"""Whose exponentials are interleaved."""
GROUP = VECTORS * WIDTH
"""Points along z at a time."""
SLOPE = 0.2
"""Of the leaky ReLU."""


class Points(NamedTuple):
    """Addresses of the three terms of `HiddenUnits` at one point, and bytes from unit to unit."""

    row: Any
    row_step: Any
    column: Any
    column_step: Any
    full: Any
    full_step: Any


def _make_group(activation: str) -> Any:
    @simd
    def group(at: Annotated[Points, Int], weight: Int, units: Int, bias: Int, out: Int) -> None:
        sums = Registers([broadcast(bias)] * VECTORS)
        with loop(units) as unit:
            row = broadcast(at.row + unit * at.row_step)
            column, full = at.column + unit * at.column_step, at.full + unit * at.full_step
            vectors = [4 * WIDTH * i for i in range(VECTORS)]
            x = join([row + load(column + i) + load(full + i) for i in vectors])
            y = softplus(x) if activation == "softplus" else leaky_relu(x, SLOPE)
            factor = broadcast(weight + 4 * unit)
            for i, part in enumerate(split(y)):
                sums[i] = fma(factor, part, sums[i])
        for i in range(VECTORS):
            store(sums[i], out + 4 * WIDTH * i)

    return group


_group_softplus, _group_lrelu = _make_group("softplus"), _make_group("lrelu")


class Term(NamedTuple):
    """Address of one term, and bytes from layer to layer, unit to unit and row to row."""

    address: int
    x: int
    unit: int
    y: int


class Density(NamedTuple):
    """Addresses of the weights of hidden units in the raw density, and of its bias."""

    weight: int
    bias: int
    units: int
    softplus: bool
    """Activation; else leaky ReLU."""


@entry
def decode_row(
    terms: tuple[Term, Term, Term], density: Density, place: tuple[int, int], points: int, out: int
) -> None:
    """Decode the points of one (x, y) into floats at the address `out`."""
    rows, columns, full = terms
    x, y = place
    row = rows.address + x * rows.x + y * rows.y
    column = columns.address + x * columns.x + y * columns.y
    whole = full.address + x * full.x + y * full.y
    for z in range(0, 4 * points, 4 * GROUP):
        at = Points(row, rows.unit, column + z, columns.unit, whole + z, full.unit)
        if density.softplus:
            _group_softplus(at, density.weight, density.units, density.bias, out + z)
        else:
            _group_lrelu(at, density.weight, density.units, density.bias, out + z)


def decode_rows(units: HiddenUnits, lowered: LoweredGrid) -> Float[Tensor, "x y z"]:
    """As `decode_plain`, for a multiple of `GROUP` points along z, on a CPU."""
    tensors = [x if x.shape[-1] == 1 or x.stride(-1) == 1 else x.contiguous() for x in units]
    layers, _, rows, points = (
        max(sizes) for sizes in zip(*(x.shape for x in tensors), strict=True)
    )
    assert points % GROUP == 0, f"{points} points: the kernel needs a multiple of {GROUP}"
    tensors = [x.expand(layers, -1, rows, -1) for x in tensors]
    a, b, c = (Term(x.data_ptr(), *(4 * step for step in x.stride()[:3])) for x in tensors)
    weight, bias = lowered.out_weight[0].float().contiguous(), lowered.out_bias[:1].float()
    activation = lowered.activation == "softplus"
    density = Density(weight.data_ptr(), bias.data_ptr(), len(weight), activation)
    out = torch.empty(layers, rows, points, dtype=torch.float32, device="cpu")
    first, step = out.data_ptr(), 4 * points

    def task(_worker: int, y: int) -> None:
        for x in range(layers):  # the row of the full term stays in the cache
            decode_row((a, b, c), density, (x, y), points, first + step * (x * rows + y))

    run(task, rows)
    return out
