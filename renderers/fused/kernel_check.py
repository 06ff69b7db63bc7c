"""Check a fused kernel against PyTorch, once per process and kind of rendering.

A kernel that raises or is wrong on this hardware is not used; the backend reports the reason.
"""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, cuda, nn

from renderers.ray_marching import RaySums, Request, render_request

NUM_RAYS = 16 * 16
TOLERANCES = (("feature", 0.02), ("depth", 0.02), ("opacity", 0.02), ("gradient", 0.1))
"""Errors relative to the largest magnitude: above the rounding of 16 bits, below any fault."""
MIN_OPACITY, MAX_CHECKS = 0.05, 3
"""Emptier rays prove nothing: the next rendering is checked again, at most three times."""

_faults: dict[tuple[object, ...], str] = {}
"""Result by kind: kernel, device, sizes, and options that kernels branch by. Empty: sound."""
_checks: Counter[tuple[object, ...]] = Counter()


def find_fault(kernel: str, fused: Callable[[Request], RaySums], request: Request) -> str:
    """Return the fault of a kernel on this device, or an empty string."""
    o, lowered, origins = request.options, request.lowered_field, request.rays.origins
    density, (num_scenes, num_rays, _) = request.field.scene_cfg.density, origins.shape
    gradient = torch.is_grad_enabled() and any(x.requires_grad for x in lowered.tensors)
    kind = (
        *(kernel, origins.device, num_scenes > 1, *(x is None for x in request.jitter)),
        *(o.rules, o.importance, o.masked, o.samples_fine > 0, o.precision, gradient),
        *(density.activation, density.prior_strength != 0, *lowered.kind),
    )

    def evaluate(render: Callable[[Request], RaySums]) -> list[Tensor]:
        rays = torch.linspace(0, num_rays - 1, min(NUM_RAYS, num_rays), device=origins.device)
        subset = request.select(rays.long(), scenes=slice(0, None, max(num_scenes - 1, 1)))
        return _evaluate(render, subset, gradient)

    return check_once(kind, lambda: evaluate(render_request), lambda: evaluate(fused))


def check_once(
    kind: tuple[object, ...],
    expect: Callable[[], list[Tensor]],
    compute: Callable[[], list[Tensor]],
) -> str:
    """Return the fault of a kind of rendering, or an empty string; it is compared at first only.

    The functions return feature, depth, opacity, and gradients: of PyTorch, and of the kernel.
    """
    # A CUDA graph that is being recorded allows no comparison.
    if kind in _faults or (cuda.is_initialized() and cuda.is_current_stream_capturing()):  # type: ignore[no-untyped-call]  # torch's
        return _faults.get(kind, "")
    expected = expect()
    finite = all(bool(x.isfinite().all()) for x in expected)
    try:
        fault = _compare(compute(), expected) if finite else ""
    except Exception as error:  # of the compiler, the driver or the kernel: any type
        fault = f"self-check raised {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    _checks[kind] += 1
    if fault or _checks[kind] >= MAX_CHECKS or (finite and expected[2].max() > MIN_OPACITY):
        _faults[kind] = fault
    return fault


def _evaluate(render: Callable[[Request], RaySums], request: Request, grad: bool) -> list[Tensor]:
    """Return feature, depth, opacity, and their gradients by the scene and copies of its nets."""
    field: Any = request.field.detach()
    nets = {k: copy.deepcopy(x) for k, x in vars(field).items() if isinstance(x, nn.Module)}
    field = replace(field, **nets)
    leaves = [x for x in field.tensors() if x.is_floating_point()]
    leaves += [p for net in nets.values() for p in net.parameters()]
    with torch.set_grad_enabled(grad):
        for x in leaves:
            x.requires_grad_(grad)
        values = list(render(replace(request, field=field))[:3])
        if grad:
            # Unequal weights, so that exchanged channels or rays change the total.
            ramps = [torch.linspace(0.5, 1.5, x.numel()).to(x).view_as(x) for x in values]
            values += torch.autograd.grad(values, leaves, ramps, materialize_grads=True)
    return [x.detach() for x in values]


def _compare(ours: list[Tensor], expected: list[Tensor]) -> str:
    """Return the first error beyond its tolerance: feature, depth, opacity, then gradients."""
    for i, (a, b) in enumerate(zip(ours, expected, strict=True)):
        name, tolerance = TOLERANCES[min(i, 3)]
        error = float(((a - b).abs().max() / b.abs().max().clamp_min(1e-6)).nan_to_num(torch.inf))
        if not error <= tolerance:
            return f"self-check: {name} is off by {100 * error:.3g} %"
    return ""
