"""Splatting in blocks of 4 x 4 pixels: a Gaussian in blocks of a tile of 16 x 16, in vectors.

A vector holds the pixels of a block, or one value of each block of a tile.
"""

from typing import Annotated, Any, NamedTuple

from lightning_gan3d.simd import exp, simd
from lightning_gan3d.simd.vector import (
    Float,
    Int,
    Registers,
    Vec,
    absolute,
    fma,
    load_int,
    loop,
    maximum,
    minimum,
    reciprocal,
    select,
    store_float,
    total,
)
from lightning_gan3d.simd.wide import (
    LANES,
    any_lane,
    broadcast_wide,
    clamp,
    each_bit,
    lane_sums,
    load_wide,
    mask_bits,
    store_wide,
    wide,
    wide_numbers,
    zeros,
)
from renderers.footprints import MAX_ALPHA, MIN_ALPHA
from renderers.fused.cpu.splat_bins import (
    CHANNELS,
    LOWEST,
    MEAN_X,
    MEAN_Y,
    OPACITY,
    RIDGE_X,
    RIDGE_Y,
    TILE,
    XX,
    XY,
    YY,
)
from renderers.splat import FINISHED

BLOCK = 4
"""Edge of a block in pixels."""
FEW = 4
"""Channels in registers: distance and the first features. Others are read in a loop."""
MOMENTS = 6
"""Floats of an entry's gradient before the channels: sums over pixels of p, p dx, p dy, p dx^2,
p dx dy and p dy^2, with p the gradient by the power."""
PLANE = 4 * (TILE * TILE + LANES)
"""Bytes of one number per pixel of a tile. Padded: planes that are a multiple of 4 KiB apart would
delay each other's loads."""
_SIZE = 4 * LANES
HISTORY = 2 * _SIZE * LANES
"""Bytes of the history of an entry: of each block, the opacity before it is cut, and the
transmittance before the entry."""


class Planes(NamedTuple):
    """Addresses of numbers per pixel of a tile, block by block."""

    trans: Any
    """Transmittance; negative: the pixel is finished, or outside the image."""
    offsets: Any
    """Position of each block in the tile: x, y."""
    opacity: Any
    """Sum of the weights, or the gradient by it."""
    behind: Any
    """Sum of weight * slope over the Gaussians behind; see `blend_gradient`."""
    weights: Any
    """Of the Gaussian at hand."""
    channels: Any
    """Sums of weighted channels, or gradients by them; one plane each."""
    more: Any
    """Channels beyond `FEW`."""


class _Gaussian:
    """A packed Gaussian, each number in all lanes, seen from a tile."""

    def __init__(
        self, at: Int, x: Float, y: Float, within_x: list[int], within_y: list[int]
    ) -> None:
        """`x`, `y`: centre of the tile's first pixel; `within`: of each lane, from there."""
        self.at = at
        self.xx, self.xy, self.yy = (self.number(k) for k in (XX, XY, YY))
        self.dx = self.number(MEAN_X) - (wide(x.splat()) + wide_numbers(at, within_x))
        self.dy = self.number(MEAN_Y) - (wide(y.splat()) + wide_numbers(at, within_y))

    def number(self, k: int) -> Vec:
        return broadcast_wide(self.at + 4 * k)

    def power(self, dx: Vec, dy: Vec) -> Vec:
        return fma(dx, fma(self.xx, dx, self.xy * dy), self.yy * dy * dy)

    def offsets(self, planes: Planes, block: Int) -> tuple[Vec, Vec]:
        """Return dx and dy of the pixels of a block."""
        at = planes.offsets + block * 8
        return self.dx - broadcast_wide(at), self.dy - broadcast_wide(at + 4)

    def opacities(self, opacity: Vec, planes: Planes, block: Int) -> Vec:
        """Return the opacity in the pixels of a block, before it is cut."""
        return opacity * exp(self.power(*self.offsets(planes, block)))


_COLUMN, _ROW = [i % BLOCK for i in range(LANES)], [i // BLOCK for i in range(LANES)]


@simd
def visible_blocks(gaussian: Int, x: Float, y: Float) -> Int:
    """Return a bit for each block of a tile in which a pixel may see the Gaussian.

    The power is highest at the mean, else on an edge of the block that faces the mean.
    """
    columns, rows = ([BLOCK * i for i in of] for of in (_COLUMN, _ROW))
    g = _Gaussian(gaussian, x, y, columns, rows)
    low_x, low_y = g.dx - float(BLOCK - 1), g.dy - float(BLOCK - 1)
    near_x, near_y = clamp(zeros(x), low_x, g.dx), clamp(zeros(x), low_y, g.dy)
    on_column = g.power(near_x, clamp(g.number(RIDGE_Y) * near_x, low_y, g.dy))
    on_row = g.power(clamp(g.number(RIDGE_X) * near_y, low_x, g.dx), near_y)
    return mask_bits(maximum(on_column, on_row) >= g.number(LOWEST))


class _Pixels:
    """What a Gaussian does to the pixels of a block."""

    def __init__(self, opacity: Vec, before: Vec) -> None:
        """`opacity`: before it is cut. `before`: transmittance, see `Planes`."""
        seen = opacity >= MIN_ALPHA
        self.before, self.alpha = before, select(seen, minimum(opacity, MAX_ALPHA), 0.0)
        light = before * self.alpha
        after = before - light
        still_open = after > FINISHED
        self.weight = select(still_open, light, 0.0)
        self.trans = select(still_open, after, -absolute(before))
        self.has_gradient = seen & still_open & (opacity <= MAX_ALPHA)


@simd
def blend(gaussian: Int, x: Float, y: Float, blocks: Int, planes: Annotated[Planes, Int]) -> None:
    """Composite a Gaussian in blocks of a tile."""
    g = _Gaussian(gaussian, x, y, _COLUMN, _ROW)
    opacity, few = g.number(OPACITY), [g.number(CHANNELS + k) for k in range(FEW)]
    with each_bit(blocks) as block:
        start = block * _SIZE
        trans, channels = planes.trans + start, planes.channels + start
        pixels = _Pixels(g.opacities(opacity, planes, block), load_wide(trans))
        store_wide(pixels.trans, trans)
        total_weight = planes.opacity + start
        store_wide(load_wide(total_weight) + pixels.weight, total_weight)
        for k in range(FEW):
            at = channels + k * PLANE
            store_wide(fma(pixels.weight, few[k], load_wide(at)), at)
        with loop(planes.more) as i:
            at = channels + (i + FEW) * PLANE
            value = broadcast_wide(gaussian + (i + CHANNELS + FEW) * 4)
            store_wide(fma(pixels.weight, value, load_wide(at)), at)


@simd
def record(
    gaussian: Int,
    x: Float,
    y: Float,
    blocks: Int,
    planes: Annotated[Planes, Int],
    history: Int,
) -> None:
    """Composite a Gaussian in blocks of a tile without its channels, and store its history."""
    g = _Gaussian(gaussian, x, y, _COLUMN, _ROW)
    opacity = g.number(OPACITY)
    with each_bit(blocks) as block:
        trans, at = planes.trans + block * _SIZE, history + block * (2 * _SIZE)
        opacities, before = g.opacities(opacity, planes, block), load_wide(trans)
        store_wide(_Pixels(opacities, before).trans, trans)
        store_wide(opacities, at)
        store_wide(before, at + _SIZE)


@simd
def blend_gradient(
    gaussian: Int,
    x: Float,
    y: Float,
    blocks: Int,
    planes: Annotated[Planes, Int],
    history: Int,
    out: Int,
) -> None:
    """Store the gradient of a Gaussian in a tile, from its history; from back to front.

    A weight w = T alpha adds w * slope to the loss, with the slope over channels and opacity. All
    that is behind is seen through (1 - alpha): d alpha = T * slope - behind / (1 - alpha).
    """
    g = _Gaussian(gaussian, x, y, _COLUMN, _ROW)
    few, zero = [g.number(CHANNELS + k) for k in range(FEW)], zeros(gaussian)
    sums = Registers([zero] * (MOMENTS + FEW))
    with each_bit(blocks) as block:
        start, at = block * _SIZE, history + block * (2 * _SIZE)
        pixels = _Pixels(load_wide(at), load_wide(at + _SIZE))
        by_channel = [load_wide(planes.channels + start + k * PLANE) for k in range(FEW)]
        slopes = Registers([load_wide(planes.opacity + start)])
        for k in range(FEW):
            slopes[0] = fma(few[k], by_channel[k], slopes[0])
        with loop(planes.more) as i:
            value = broadcast_wide(gaussian + (i + CHANNELS + FEW) * 4)
            by_more = load_wide(planes.channels + start + (i + FEW) * PLANE)
            slopes[0] = fma(value, by_more, slopes[0])
        slope, behind = slopes[0], load_wide(planes.behind + start)
        store_wide(fma(pixels.weight, slope, behind), planes.behind + start)
        store_wide(pixels.weight, planes.weights + start)
        d_alpha = pixels.before * slope - behind * reciprocal(1.0 - pixels.alpha)
        p = select(pixels.has_gradient, pixels.alpha * d_alpha, 0.0)
        dx, dy = g.offsets(planes, block)
        px, py = p * dx, p * dy
        for k, term in enumerate((p, px, py, px * dx, px * dy, py * dy)):
            sums[k] = sums[k] + term
        for k in range(FEW):
            sums[MOMENTS + k] = fma(pixels.weight, by_channel[k], sums[MOMENTS + k])
    store_wide(lane_sums([sums[k] for k in range(MOMENTS + FEW)]), out)
    with loop(planes.more) as i:
        last = Registers([zero])
        with each_bit(blocks) as block:
            by_more = load_wide(planes.channels + block * _SIZE + (i + FEW) * PLANE)
            last[0] = fma(load_wide(planes.weights + block * _SIZE), by_more, last[0])
        store_float(total(last[0]), out + (i + MOMENTS + FEW) * 4)


@simd
def open_blocks(trans: Int) -> Int:
    """Return a bit for each block with a pixel that is not finished."""
    bits = [any_lane(load_wide(trans + _SIZE * i) > 0.0) * (1 << i) for i in range(LANES)]
    return sum(bits[1:], bits[0])


@simd
def sum_parts(parts: Int, slots: Int, number: Int, vectors: Int, out: Int) -> None:
    """Sum the rows of `parts` in the order of their slots; a row has `vectors` wide vectors."""
    with loop(vectors) as i:
        sums = Registers([zeros(parts)])
        with loop(number) as k:
            sums[0] = sums[0] + load_wide(
                parts + load_int(slots + k * 4) * vectors * _SIZE + i * _SIZE
            )
        store_wide(sums[0], out + i * _SIZE)
