"""Check a kernel of splatting against PyTorch, once per process and kind of rendering."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from renderers.fused.kernel_check import check_once
from renderers.splat import Plain, SplatRequest

NUM_GAUSSIANS, RESOLUTION = 256, 32
"""Gaussians and edge of the image of a check."""
ATTRIBUTES = ("means", "scales", "rotations", "opacities", "features", "harmonics")


def find_fault(name: str, kernel: Any, request: SplatRequest) -> str:
    """Return the fault of a kernel on this device, or an empty string.

    A rendering in which nothing is seen proves nothing: the next one is checked, as for rays.
    """
    scene = request.scene
    gradient = torch.is_grad_enabled() and any(x.requires_grad for x in scene.tensors())
    channels, harmonics = scene.features.shape[2], scene.harmonics is not None
    kind = (name, scene.means.device, channels, harmonics, request.antialias, gradient)

    def evaluate(using: Any) -> list[Tensor]:
        return _evaluate(using, _part(request), gradient)

    return check_once(kind, lambda: evaluate(Plain), lambda: evaluate(kernel))


def _part(request: SplatRequest) -> SplatRequest:
    """Return some of the Gaussians of the first scene, seen by the first camera."""
    scene, number = request.scene, request.scene.means.shape[1]
    some = torch.linspace(0, number - 1, min(NUM_GAUSSIANS, number)).long().to(scene.means.device)
    values = {k: getattr(scene, k) for k in ATTRIBUTES}
    parts: dict[str, Any] = {
        k: None if x is None else x[:1, some].detach() for k, x in values.items()
    }
    cameras = request.cameras.select(slice(0, 1))
    cameras = type(cameras)(*(x.detach() for x in cameras))
    small = dataclasses.replace(scene, **parts, raw_squares=None)
    return request._replace(scene=small, cameras=cameras, resolution=RESOLUTION)


def _evaluate(kernel: Any, request: SplatRequest, gradient: bool) -> list[Tensor]:
    """Return feature, distance and opacity, and their gradients by the Gaussians."""
    values = {k: getattr(request.scene, k) for k in ATTRIBUTES}
    leaves = {k: x.clone().requires_grad_(gradient) for k, x in values.items() if x is not None}
    scene = dataclasses.replace(request.scene, **leaves)
    with torch.set_grad_enabled(gradient):
        footprints = kernel.project(*request._replace(scene=scene))
        sums = list(kernel.composite(footprints, request.resolution))
        if gradient:
            # Unequal weights, so that exchanged channels or pixels change the total.
            ramps = [torch.linspace(0.5, 1.5, x.numel()).to(x).view_as(x) for x in sums]
            sums += torch.autograd.grad(sums, list(leaves.values()), ramps, materialize_grads=True)
    return [x.detach() for x in sums]
