"""A kernel is tried on this machine before it is trusted: once a process, against the plain path.

Some rays of the first and the last scene of the first rendering of each kind are marched both ways.
A processor, driver or compiler on which a kernel never ran can so be used, and a kernel that errs
there is left aside, with words.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_gan3d.cameras import Rays
from lightning_gan3d.contract import Field
from lightning_gan3d.networks.lowering import LoweredGrid
from renderers.config import VolumeRendererConfig
from renderers.march import Random, Sums, march
from renderers.sampling import Span

NUM_RAYS = 16 * 16
"""Rays of a scene: a square, as kernels tell pictures from other rays, and several tiles."""
VALUE, GRADIENT = 0.02, 0.1
"""Largest differences, over the largest magnitude. Rounding, of 16 bits too, stays far below: a
kernel with a fault in it is off by as much as the result itself."""

MOST_WORDS = 300
"""Characters of the message of what a kernel raised: compilers add whole programs to theirs."""

TELLING = 0.05
"""Opacity that some ray must reach; else the next rendering is checked again."""

MOST_TRIES = 3
"""Checks of a kind that tell nothing, after which it is trusted: each waits for the device."""

Marched = Callable[[Field, Rays, Span, Random], Sums]


class Wanted(NamedTuple):
    """Which gradients will be asked for."""

    scene: bool
    decoder: bool


class Kind(NamedTuple):
    """What is checked once: code paths of a kernel that differ."""

    kernel: str
    device: torch.device
    gradient: Wanted
    axes: tuple[tuple[int, int, int], ...]
    depth: bool
    dtype: torch.dtype
    widths: tuple[int, int, int]
    """Channels, hidden units, features: kernels pad them, and share them among threads."""
    activation: str
    density: str
    prior: bool
    several: bool
    """Scenes."""
    rules: tuple[object, ...]
    """The options that kernels branch by: `BRANCHES`, and whether there is a fine pass."""
    drawn: tuple[bool, ...]
    """Whether jitter, importance samples and density noise are given."""


BRANCHES = ("bounds", "rules", "outside", "precision")

_found: dict[Kind, str] = {}
"""What was found wrong with each kind; empty: nothing."""

_tries: dict[Kind, int] = {}
"""Checks of each kind so far."""


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
    """Return what is wrong with a kernel on this device for this kind of field, or nothing.

    While a CUDA graph is recorded, nothing can be compared: what is not known yet is trusted.
    """
    needed = _gradients_of(grid)
    kind = _kind(kernel, needed, o, field, grid, rays, random)
    if kind in _found:
        return _found[kind]
    if _recording():
        return ""
    wrong, telling = _compare(fused, o, field, rays, part, random, needed)
    _tries[kind] = _tries.get(kind, 0) + 1
    if telling or wrong or _tries[kind] >= MOST_TRIES:
        _found[kind] = wrong
    return wrong


def _recording() -> bool:
    """Tell whether a CUDA graph is being recorded; without a driver, asking CUDA raises."""
    begun = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch's
    return bool(begun) and torch.cuda.is_current_stream_capturing()


def _kind(
    kernel: str,
    gradient: Wanted,
    o: VolumeRendererConfig,
    field: Field,
    grid: LoweredGrid,
    rays: Rays,
    random: Random,
) -> Kind:
    density = field.scene_cfg.density
    return Kind(
        kernel,
        rays.origins.device,
        gradient,
        grid.axes,
        grid.grids.shape[2] > 1,
        grid.grids.dtype,
        (grid.grids.shape[-1], len(grid.hidden_bias), len(grid.out_bias) - 1),
        grid.activation,
        density.activation,
        density.prior_strength != 0,
        len(rays.origins) > 1,
        (o.samples_fine > 0, *(getattr(o, name) for name in BRANCHES)),
        tuple(x is not None for x in random),
    )


def _compare(
    fused: Marched,
    o: VolumeRendererConfig,
    field: Field,
    rays: Rays,
    part: Span,
    random: Random,
    gradient: Wanted,
) -> tuple[str, bool]:
    """Return what is wrong, and whether these rays met enough to tell."""
    num_scenes, num_rays, _ = rays.origins.shape
    scenes = slice(0, None, max(num_scenes - 1, 1))  # the first and the last
    num = min(NUM_RAYS, num_rays)
    some = torch.linspace(0, num_rays - 1, num, device=rays.origins.device).long()
    here = scenes, some
    rays, part = Rays(*(x[here] for x in rays)), Span(*(x[here] for x in part))
    random = Random(*(None if x is None else x[here] for x in random))
    field = field.index(scenes)

    def plain(field: Field, *args: object) -> Sums:
        return march(o, field, *args)  # type: ignore[arg-type]  # those of `Marched`

    wanted = _results(plain, field, rays, part, random, gradient)
    sound = all(bool(x.isfinite().all()) for x in wanted.values())
    telling = sound and bool(wanted["opacity"].max() > TELLING)
    try:
        found = _results(fused, field, rays, part, random, gradient)
    except Exception as error:  # of a compiler, a driver or the kernel itself: any type at all
        message = " ".join(str(error).split())[:MOST_WORDS]
        return f"tried on this device, it raised {type(error).__name__}: {message}", telling
    if not sound:  # there is nothing to compare with
        return "", False
    for (name, b), a in zip(wanted.items(), found.values(), strict=True):
        scale = b.abs().max().clamp_min(1e-6)
        off = float(((a - b).abs().max() / scale).nan_to_num(torch.inf))
        if not off <= (GRADIENT if name.startswith("gradient") else VALUE):
            wrong = f"its {name} is off by {100 * off:.3g} %"
            return f"checked against the plain path on this device, {wrong}", telling
    return "", telling


def _gradients_of(grid: LoweredGrid) -> Wanted:
    """Tell what the kernel will be asked to differentiate by."""
    decoder = grid.hidden_weight, grid.hidden_bias, grid.out_weight, grid.out_bias
    enabled = torch.is_grad_enabled()
    return Wanted(
        enabled and grid.grids.requires_grad, enabled and any(x.requires_grad for x in decoder)
    )


def _parameters(field: Field) -> dict[str, Tensor]:
    """What the plain and the lowered field share: the parameters of the field's networks."""
    found: dict[str, Tensor] = {}
    for f in dataclasses.fields(field):  # type: ignore[arg-type]  # subclasses are dataclasses
        value = getattr(field, f.name)
        if isinstance(value, nn.Module):
            named = value.named_parameters(prefix=f.name)
            found |= {name: x for name, x in named if x.requires_grad}
        elif isinstance(value, Field):
            found |= _parameters(value)
    return found


def _results(
    marched: Marched, field: Field, rays: Rays, part: Span, random: Random, gradient: Wanted
) -> dict[str, Tensor]:
    """Return what is seen, by name, and its gradients where they are wanted."""
    with torch.set_grad_enabled(any(gradient)):
        leaf = field.map(
            lambda x: x.detach().requires_grad_(gradient.scene and x.is_floating_point())
        )
        sums = marched(leaf, rays, part, random)
        seen = {"feature": sums.feature, "depth": sums.depth, "opacity": sums.opacity}
        by = {"the scene": leaf.tensors()[0]} if gradient.scene else {}  # the grid
        by |= _parameters(leaf) if gradient.decoder else {}
        if not by:
            return seen
        # Weights that differ, so that channels or rays that changed places are noticed.
        total = torch.stack([(x.float() * _ramp(x)).sum() for x in seen.values()]).sum()
        found = torch.autograd.grad(total, list(by.values()))
    seen |= {f"gradient of {name}": x for name, x in zip(by, found, strict=True)}
    return {name: x.detach() for name, x in seen.items()}


def _ramp(x: Tensor) -> Tensor:
    """Weights from 1/2 to 3/2: of one sign, so that sums do not cancel."""
    return torch.linspace(0.5, 1.5, x.numel(), device=x.device).view(x.shape)
