"""Projection of Gaussians in explicit SIMD, as `renderers.footprints.project`.

A vector holds one number of 16 Gaussians. The cameras get no gradient; the backward pass projects
again.
"""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.simd import entry, helper, log, run_parts, simd
from lightning_gan3d.simd.vector import Int, Registers, Vec, fma, loop, maximum, select, square_root
from lightning_gan3d.simd.wide import LANES, broadcast_wide, clamp, load_wide, store_wide, zeros
from renderers import footprints
from renderers.footprints import MIN_ALPHA, MIN_AREA_RATIO, PIXEL_VARIANCE, Footprints
from renderers.fused.cpu.workspace import FLOATS
from representations.splats import Splats

# Numbers of a view.
(
    ROTATION,  # camera to world, 9
    ORIGIN,  # 3
    FOCAL_X,  # in pixels, like those that follow
    SKEW,
    CENTRE_X,
    FOCAL_Y,
    CENTRE_Y,
    LEFT,  # slopes from and to which the projection is linearised
    RIGHT,
    TOP,
    BOTTOM,
    NEAR,
    EDGE,  # of the image
    ANTIALIAS,  # 1 or 0
    NUM_NUMBERS,
) = (0, 9, *range(12, 25))


class Gaussians(NamedTuple):
    """Addresses of the parameters of 16 Gaussians, or of their gradients; `step`: row to row."""

    means: Any
    scales: Any
    rotations: Any
    opacities: Any
    step: Any


class Seen(NamedTuple):
    """Addresses of what a view sees of 16 Gaussians, or of gradients; `step`: row to row."""

    mean: Any
    conic: Any
    opacity: Any
    distance: Any
    depth_z: Any
    reach: Any
    step: Any


def _rows(at: Int, step: Int, number: int) -> list[Vec]:
    return [load_wide(at + step * i) for i in range(number)]


def _store_rows(rows: Sequence[Vec], at: Int, step: Int) -> None:
    for i, x in enumerate(rows):
        store_wide(x, at + step * i)


def _dot(a: Sequence[Vec], b: Sequence[Vec]) -> Vec:
    total = a[0] * b[0]
    for x, y in zip(a[1:], b[1:], strict=True):
        total = fma(x, y, total)
    return total


class _Shape:
    """Rotations and axes (world k, axis c) of Gaussians."""

    def __init__(self, g: Gaussians) -> None:
        quaternion, self.scales = _rows(g.rotations, g.step, 4), _rows(g.scales, g.step, 3)
        self.inverse = 1.0 / maximum(square_root(_dot(quaternion, quaternion)), 1e-12)
        w, x, y, z = self.unit = [q * self.inverse for q in quaternion]
        self.rotation = [
            [1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)],
            [2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x)],
            [2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y)],
        ]
        self.axes = [
            [r * s for r, s in zip(row, self.scales, strict=True)] for row in self.rotation
        ]

    def quaternion_gradient(self, d: list[list[Vec]]) -> list[Vec]:
        """Return the gradient by the quaternion from that by the rotation."""
        w, x, y, z = self.unit
        by_unit = [
            x * (d[2][1] - d[1][2]) + y * (d[0][2] - d[2][0]) + z * (d[1][0] - d[0][1]),
            w * (d[2][1] - d[1][2])
            + y * (d[0][1] + d[1][0])
            + z * (d[0][2] + d[2][0])
            - 2.0 * x * (d[1][1] + d[2][2]),
            w * (d[0][2] - d[2][0])
            + x * (d[0][1] + d[1][0])
            + z * (d[1][2] + d[2][1])
            - 2.0 * y * (d[0][0] + d[2][2]),
            w * (d[1][0] - d[0][1])
            + x * (d[0][2] + d[2][0])
            + y * (d[1][2] + d[2][1])
            - 2.0 * z * (d[0][0] + d[1][1]),
        ]
        along = _dot(self.unit, by_unit)
        factor = 2.0 * self.inverse
        return [factor * (g - along * q) for g, q in zip(by_unit, self.unit, strict=True)]


class _View:
    """What a view sees of Gaussians."""

    def __init__(self, view: Int, mean: list[Vec], shape: _Shape) -> None:
        number = [broadcast_wide(view + 4 * k) for k in range(NUM_NUMBERS)]
        self.number, axes = number, shape.axes
        # Right, down and forward, in the world.
        self.right, self.down, self.forward = (
            [number[ROTATION + 3 * k + r] for k in range(3)] for r in range(3)
        )
        offset = [m - number[ORIGIN + k] for k, m in enumerate(mean)]
        self.local = [_dot(row, offset) for row in (self.right, self.down, self.forward)]
        x, y, depth = self.local
        self.in_front = depth > number[NEAR]
        self.z = select(self.in_front, depth, 1.0)
        self.closeness = 1.0 / self.z
        self.u, self.v = x * self.closeness, y * self.closeness
        self.cut_u = clamp(self.u, number[LEFT], number[RIGHT])
        self.cut_v = clamp(self.v, number[TOP], number[BOTTOM])
        self.distance = square_root(_dot(self.local, self.local))
        # Gradients of the pixel by the world position, where it is linearised.
        by_v = [
            (d - self.cut_v * f) * self.closeness
            for d, f in zip(self.down, self.forward, strict=True)
        ]
        by_u = [
            (r - self.cut_u * f) * self.closeness
            for r, f in zip(self.right, self.forward, strict=True)
        ]
        self.by_y = [number[FOCAL_Y] * g for g in by_v]
        self.by_x = [
            number[FOCAL_X] * g + number[SKEW] * h for g, h in zip(by_u, by_v, strict=True)
        ]
        # The axes in the image, and the covariance.
        columns = [[row[c] for row in axes] for c in range(3)]
        self.across = [_dot(self.by_x, column) for column in columns]
        self.along = [_dot(self.by_y, column) for column in columns]
        self.xx, self.xy = _dot(self.across, self.across), _dot(self.across, self.along)
        self.yy = _dot(self.along, self.along)
        (a, b, c), (d, e, f) = self.across, self.along
        cross = [a * e - b * d, b * f - c * e, c * d - a * f]
        self.area = _dot(cross, cross)
        self.wide_xx, self.wide_yy = self.xx + PIXEL_VARIANCE, self.yy + PIXEL_VARIANCE
        extra = PIXEL_VARIANCE * (self.xx + self.yy) + PIXEL_VARIANCE**2
        self.inverse = 1.0 / (self.area + extra)
        self.ratio = self.area * self.inverse
        self.antialias = number[ANTIALIAS] > 0.0
        root = square_root(maximum(self.ratio, MIN_AREA_RATIO))
        self.share = select(self.antialias, root, 1.0)
        self.conic = [
            self.wide_yy * self.inverse,
            -self.xy * self.inverse,
            self.wide_xx * self.inverse,
        ]


@simd
def _project(g: Annotated[Gaussians, Int], view: Int, seen: Annotated[Seen, Int]) -> None:
    """Project 16 Gaussians to a view."""
    p = _View(view, _rows(g.means, g.step, 3), _Shape(g))
    n = p.number
    x = n[FOCAL_X] * p.u + n[SKEW] * p.v + n[CENTRE_X]
    y = n[FOCAL_Y] * p.v + n[CENTRE_Y]
    opacity = load_wide(g.opacities) * p.share
    squared = 2.0 * log(maximum(opacity * (1 / MIN_ALPHA), 1.0))
    reach_x, reach_y = square_root(squared * p.wide_xx), square_root(squared * p.wide_yy)
    end = n[EDGE] - 0.5
    visible = p.in_front & (squared > 0.0) & (x + reach_x > 0.5) & (x - reach_x < end)
    visible = visible & (y + reach_y > 0.5) & (y - reach_y < end)
    _store_rows([x, y], seen.mean, seen.step)
    _store_rows(p.conic, seen.conic, seen.step)
    store_wide(select(visible, opacity, 0.0), seen.opacity)
    store_wide(p.distance, seen.distance)
    store_wide(p.z, seen.depth_z)
    _store_rows([select(visible, r, 0.0) for r in (reach_x, reach_y)], seen.reach, seen.step)


def _covariance_gradient(p: _View, d_conic: list[Vec], d_share: Vec) -> tuple[Vec, Vec, Vec]:
    """Return the gradients by xx, xy and yy."""
    (a, b, c), (da, db, dc) = p.conic, d_conic
    d_xx = -(a * a * da + a * b * db + b * b * dc)
    d_yy = -(b * b * da + b * c * db + c * c * dc)
    d_xy = -(2.0 * a * b * da + (a * c + b * b) * db + 2.0 * b * c * dc)
    rises = p.antialias & (p.ratio >= MIN_AREA_RATIO)
    d_area = select(rises, d_share / (2.0 * p.share) * p.inverse, 0.0)
    d_filtered = -d_area * p.ratio
    d_xx = d_xx + p.yy * d_area + p.wide_yy * d_filtered
    d_yy = d_yy + p.xx * d_area + p.wide_xx * d_filtered
    return d_xx, d_xy - 2.0 * p.xy * (d_area + d_filtered), d_yy


@simd
def _project_gradient(
    g: Annotated[Gaussians, Int],
    view: Int,
    views: Int,
    d_seen: Annotated[Seen, Int],
    out: Annotated[Gaussians, Int],
) -> None:
    """Compute the gradients of 16 Gaussians from those of all views; `reach` has the values."""
    shape, mean, opacity = _Shape(g), _rows(g.means, g.step, 3), load_wide(g.opacities)
    nothing = zeros(view)
    d_axes, d_means = Registers([nothing] * 9), Registers([nothing] * 3)
    d_opacities = Registers([nothing])
    with loop(views) as i:
        p = _View(view + i * (4 * NUM_NUMBERS), mean, shape)
        n, at = p.number, i * d_seen.step
        d_x, d_y = _rows(d_seen.mean + at * 2, d_seen.step, 2)
        visible = load_wide(d_seen.reach + at * 2) > 0.0
        d_seen_opacity = select(visible, load_wide(d_seen.opacity + at), 0.0)
        d_opacities[0] = fma(d_seen_opacity, p.share, d_opacities[0])
        d_conic = _rows(d_seen.conic + at * 3, d_seen.step, 3)
        d_xx, d_xy, d_yy = _covariance_gradient(p, d_conic, d_seen_opacity * opacity)
        d_across = [2.0 * d_xx * a + d_xy * b for a, b in zip(p.across, p.along, strict=True)]
        d_along = [2.0 * d_yy * b + d_xy * a for a, b in zip(p.across, p.along, strict=True)]
        for k in range(3):
            for c in range(3):
                d = fma(d_across[c], p.by_x[k], d_along[c] * p.by_y[k])
                d_axes[3 * k + c] = d_axes[3 * k + c] + d
        d_by_x, d_by_y = ([_dot(d, row) for row in shape.axes] for d in (d_across, d_along))
        x_forward, y_forward = (_dot(d, p.forward) * p.closeness for d in (d_by_x, d_by_y))
        d_u = -n[FOCAL_X] * x_forward
        d_v = -(n[SKEW] * x_forward + n[FOCAL_Y] * y_forward)
        d_u = select((p.u >= n[LEFT]) & (p.u <= n[RIGHT]), d_u, 0.0) + n[FOCAL_X] * d_x
        d_v = select((p.v >= n[TOP]) & (p.v <= n[BOTTOM]), d_v, 0.0)
        d_v = d_v + n[SKEW] * d_x + n[FOCAL_Y] * d_y
        d_z = d_u * p.u + d_v * p.v + _dot(d_by_x, p.by_x) + _dot(d_by_y, p.by_y)
        d_z = select(p.in_front, -p.closeness * d_z, 0.0)
        d_distance = load_wide(d_seen.distance + at) / maximum(p.distance, 1e-12)
        d_local = [d * p.closeness for d in (d_u, d_v)] + [d_z]
        d_local = [fma(d_distance, x, d) for x, d in zip(p.local, d_local, strict=True)]
        for k in range(3):
            column = [p.right[k], p.down[k], p.forward[k]]
            d_means[k] = d_means[k] + _dot(column, d_local)
    by_axis = [[d_axes[3 * k + c] for c in range(3)] for k in range(3)]
    _store_rows([d_means[k] for k in range(3)], out.means, out.step)
    by_scale = [
        _dot([by_axis[k][c] for k in range(3)], [row[c] for row in shape.rotation])
        for c in range(3)
    ]
    _store_rows(by_scale, out.scales, out.step)
    d_rotation = [[x * s for x, s in zip(row, shape.scales, strict=True)] for row in by_axis]
    _store_rows(shape.quaternion_gradient(d_rotation), out.rotations, out.step)
    store_wide(d_opacities[0], out.opacities)


@helper
def _of_scene(g: Gaussians, scene: int, at: int) -> Gaussians:
    one, three = scene * g.step + at, 3 * scene * g.step + at
    return Gaussians(
        g.means + three,
        g.scales + three,
        g.rotations + 4 * scene * g.step + at,
        g.opacities + one,
        g.step,
    )


@helper
def _of_view(seen: Seen, view: int, at: int) -> Seen:
    one, two = view * seen.step + at, 2 * view * seen.step + at
    return Seen(
        seen.mean + two,
        seen.conic + 3 * view * seen.step + at,
        seen.opacity + one,
        seen.distance + one,
        seen.depth_z + one,
        seen.reach + two,
        seen.step,
    )


@helper
def _block(i: int, number: int) -> tuple[int, int]:
    """Return scene and offset in bytes of a block; the last one of a scene starts earlier."""
    blocks = (number + LANES - 1) // LANES
    return i // blocks, 4 * min(LANES * (i % blocks), number - LANES)


@entry
def project_blocks(
    first: int, end: int, sizes: tuple[int, int], g: Gaussians, numbers: int, seen: Seen
) -> None:
    """Project blocks of 16 Gaussians of all scenes; `sizes`: Gaussians and views per scene."""
    number, views = sizes
    for i in range(first, end):
        scene, at = _block(i, number)
        for view in range(scene * views, (scene + 1) * views):
            address = numbers + 4 * NUM_NUMBERS * view
            _project(_of_scene(g, scene, at), address, _of_view(seen, view, at))


@entry
def project_blocks_gradient(
    first: int,
    end: int,
    sizes: tuple[int, int],
    g: Gaussians,
    numbers: int,
    d_seen: Seen,
    out: Gaussians,
) -> None:
    """Compute the gradients of blocks of 16 Gaussians of all scenes."""
    number, views = sizes
    for i in range(first, end):
        scene, at = _block(i, number)
        address = numbers + 4 * NUM_NUMBERS * scene * views
        seen = _of_view(d_seen, scene * views, at)
        _project_gradient(_of_scene(g, scene, at), address, views, seen, _of_scene(out, scene, at))


def project(
    scene: Splats, cameras: Cameras, resolution: int, near: float, antialias: bool
) -> Footprints:
    """Project as `renderers.footprints.project`; in PyTorch if the cameras need a gradient."""
    needs_cameras = torch.is_grad_enabled() and any(x.requires_grad for x in cameras)
    if needs_cameras or scene.means.shape[1] < LANES:
        return footprints.project(scene, cameras, resolution, near, antialias)
    numbers = _numbers(cameras, resolution, near, antialias)
    vectors = (x.mT.contiguous() for x in (scene.means, scene.scales, scene.rotations))
    seen = _Projection.apply(numbers, *vectors, scene.opacities.contiguous())
    mean, conic, opacity, distance, depth_z, reach = seen
    feature = footprints.colours(scene, cameras.origins)
    return Footprints(mean, conic, opacity, feature, distance, depth_z, reach)


def _numbers(
    cameras: Cameras, resolution: int, near: float, antialias: bool
) -> Float[Tensor, "v numbers"]:
    with torch.no_grad():
        k, limits = cameras.intrinsics * resolution, footprints.limits(cameras)[..., 0]
        rest = torch.tensor([near, resolution, float(antialias)], **FLOATS).expand(len(k), -1)
        parts = [
            cameras.cam2world[:, :3, :3].flatten(1),
            cameras.origins,
            k[:, 0],
            k[:, 1, 1:],
            limits.flatten(0, 1).T,
            rest,
        ]
        return torch.cat(parts, dim=1).contiguous()


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, numbers: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        b, _, n = tensors[0].shape
        v = len(numbers)
        shapes = ((v, 2, n), (v, 3, n), (v, n), (v, n), (v, n), (v, 2, n))
        seen = tuple(torch.empty(shape, **FLOATS) for shape in shapes)
        sizes, source, target = (n, v // b), _gaussians(tensors), _seen(seen)

        def work(_worker: int, first: int, end: int) -> None:
            project_blocks(first, end, sizes, source, numbers.data_ptr(), target)

        run_parts(work, b * -(-n // LANES))
        ctx.save_for_backward(numbers, seen[5], *tensors)
        ctx.mark_non_differentiable(*seen[4:])
        return seen

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_seen: Tensor) -> tuple[Tensor | None, ...]:
        numbers, reach, *tensors = ctx.saved_tensors
        b, _, n = tensors[0].shape
        gradients = tuple(torch.empty_like(x) for x in tensors)
        given = tuple(x.contiguous() for x in (*d_seen[:4], reach, reach))
        sizes, source, target = (n, len(numbers) // b), _gaussians(tensors), _gaussians(gradients)
        by_view = _seen(given)

        def work(_worker: int, first: int, end: int) -> None:
            project_blocks_gradient(first, end, sizes, source, numbers.data_ptr(), by_view, target)

        run_parts(work, b * -(-n // LANES))
        return None, *gradients


def _gaussians(tensors: Sequence[Tensor]) -> Gaussians:
    return Gaussians(*[*(x.data_ptr() for x in tensors), 4 * tensors[0].shape[-1]])


def _seen(tensors: Sequence[Tensor]) -> Seen:
    return Seen(*[*(x.data_ptr() for x in tensors), 4 * tensors[0].shape[-1]])
