"""A kernel is tried on this machine before it is trusted: once a process, against the plain path.

Some rays of the first rendering of each kind are marched both ways. A processor, driver or compiler
on which a kernel never ran can so be used, and a kernel that errs there is left aside, with words.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_gan3d.cameras import Rays
from lightning_gan3d.contract import Field
from lightning_gan3d.lowering import LoweredGrid
from renderers.march import Random, Sums, march
from renderers.options import VolumeRendererConfig
from renderers.sampling import Span

NUM_RAYS = 64
VALUE, GRADIENT = 0.02, 0.1
"""Largest differences, over the largest magnitude. Rounding, of 16 bits too, stays far below: a
kernel with a fault in it is off by as much as the result itself."""

MOST_WORDS = 300
"""Characters of the message of what a kernel raised: compilers add whole programs to theirs."""

TELLING = 0.05
"""Opacity that some ray must reach; else the next rendering is checked again."""

Marched = Callable[[Field, Rays, Span, Random], Sums]


class Kind(NamedTuple):
    """What is checked once: code paths of a kernel that differ."""

    kernel: str
    device: torch.device
    gradient: bool
    grids: int
    depth: bool
    dtype: torch.dtype
    activation: str
    precision: str


_found: dict[Kind, str] = {}
"""What was found wrong with each kind; empty: nothing."""


def fault(
    kernel: str,
    fused: Marched,
    o: VolumeRendererConfig,
    field: Field,
    grid: LoweredGrid,
    rays: Rays,
    part: Span,
    random: Random,
) -> str:
    """Return what is wrong with a kernel on this device for this kind of field, or nothing."""
    needed = torch.is_grad_enabled() and any(x.requires_grad for x in field.tensors())
    device = rays.origins.device
    kind = Kind(
        kernel,
        device,
        needed,
        len(grid.axes),
        grid.grids.shape[2] > 1,
        grid.grids.dtype,
        grid.activation,
        o.precision,
    )
    if kind in _found:
        return _found[kind]
    wrong, telling = _compare(fused, o, field, rays, part, random, needed)
    if telling or wrong:
        _found[kind] = wrong
    return wrong


def _compare(
    fused: Marched,
    o: VolumeRendererConfig,
    field: Field,
    rays: Rays,
    part: Span,
    random: Random,
    gradient: bool,
) -> tuple[str, bool]:
    """Return what is wrong, and whether these rays met enough to tell."""
    some = torch.linspace(0, rays.origins.shape[1] - 1, NUM_RAYS, device=rays.origins.device).long()
    here = slice(0, 1), some
    rays, part = Rays(*(x[here] for x in rays)), Span(*(x[here] for x in part))
    random = Random(*(None if x is None else x[here] for x in random))
    first = field.index(slice(0, 1))

    def plain(field: Field, *args: object) -> Sums:
        return march(o, field, *args)  # type: ignore[arg-type]  # those of `Marched`

    wanted = _results(plain, first, rays, part, random, gradient)
    telling = bool(wanted[2].max() > TELLING)
    try:
        found = _results(fused, first, rays, part, random, gradient)
    except Exception as error:  # of a compiler, a driver or the kernel itself: any type at all
        message = " ".join(str(error).split())[:MOST_WORDS]
        return f"tried on this device, it raised {type(error).__name__}: {message}", telling
    for name, a, b in zip(_names(gradient), found, wanted, strict=True):
        scale = b.abs().max().clamp_min(1e-6)
        off = float(((a - b).abs().max() / scale).nan_to_num(torch.inf))
        if not off <= (GRADIENT if name.startswith("gradient") else VALUE):
            wrong = f"its {name} is off by {100 * off:.3g} %"
            return f"checked against the plain path on this device, {wrong}", telling
    return "", telling


def _names(gradient: bool) -> tuple[str, ...]:
    return ("feature", "depth", "opacity", *(["gradient of the scene"] if gradient else []))


def _results(
    marched: Marched, field: Field, rays: Rays, part: Span, random: Random, gradient: bool
) -> list[Tensor]:
    with torch.set_grad_enabled(gradient):
        leaf = field.map(lambda x: x.detach().requires_grad_(gradient and x.is_floating_point()))
        sums = marched(leaf, rays, part, random)
        values = [sums.feature, sums.depth, sums.opacity]
        if not gradient:
            return values
        total = torch.stack([x.float().sum() for x in values]).sum()
        (found,) = torch.autograd.grad(total, leaf.tensors()[:1])  # the grid
        return [x.detach() for x in (*values, found)]
