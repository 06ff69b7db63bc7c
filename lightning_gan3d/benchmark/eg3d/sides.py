"""Both sides of a comparison with the official EG3D: equal weights and inputs, and differences."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast
from unittest import mock

import torch
from torch import Tensor

from lightning_gan3d.benchmark.eg3d.official import Checkout, ours_of
from lightning_gan3d.benchmark.eg3d.official_arguments import generator_kwargs
from lightning_gan3d.cameras import Cameras
from lightning_gan3d.checkpoints.stored_networks import fill
from lightning_gan3d.generator import Generator
from lightning_gan3d.networks.precision import Precision, set_precision

RESOLUTION, RENDERING, SAMPLES = 512, 128, 48
ELEVATION, RADIUS, FOCAL = 0.2, 2.7, 4.2647
"""Of FFHQ's cameras."""


class Side(NamedTuple):
    """Both generators and what they are given."""

    theirs: Any
    ours: dict[str, Generator]
    """By precision."""
    z: Tensor
    label: Tensor
    cameras: Cameras


def build(code: Checkout, device: torch.device, precisions: tuple[str, ...]) -> Side:
    """Build both sides with one set of weights; the official density is made to be partly solid."""
    kwargs = generator_kwargs(RESOLUTION)
    theirs: Any = code.generator(kwargs, device).eval().requires_grad_(False)
    with torch.no_grad():
        theirs.decoder.net[2].weight[0] *= 16.0  # else every ray ends in fog
        theirs.decoder.net[2].bias[0] -= 4.0
    parts = ours_of(theirs, kwargs)
    ours = Generator(parts.config, parts.resolution).to(device)
    fill(ours, parts.tensors)
    ours.rendering_resolution = RENDERING
    sides = {}
    for precision in precisions:
        sides[precision] = copy.deepcopy(ours)
        set_precision(sides[precision], cast(Precision, precision))
    cameras = Cameras.on_sphere(
        torch.tensor([0.3]), torch.tensor([ELEVATION]), RADIUS, focal=FOCAL
    ).to(device)
    z = torch.randn(1, 512, generator=torch.Generator().manual_seed(0)).to(device)
    return Side(theirs, sides, z, cameras.to_label(), cameras)


def difference(found: Tensor, wanted: Tensor, precision: str) -> str:
    """Relative error in float32, signal to noise (peak 2: images in [-1, 1]) in 16 bits."""
    found, wanted = found.float(), wanted.float()
    if precision == "fp32":
        return f"{float((found - wanted).norm() / wanted.norm()):.1e}"
    mse = float((found - wanted).square().mean())
    return f"{float(10 * torch.tensor(4 / max(mse, 1e-20)).log10()):.1f} dB"


def relative(found: Tensor, wanted: Tensor) -> str:
    """Relative error, for tensors without a range."""
    found, wanted = found.float(), wanted.float()
    return f"{float((found - wanted).norm() / wanted.norm()):.1e}"


@torch.no_grad()
def styles(side: Side) -> Tensor:
    """Styles of the latent, by the official mapping."""
    ws: Tensor = side.theirs.mapping(side.z, side.label)
    return ws


@contextmanager
def middles() -> Iterator[None]:
    """Hand the official renderer the middles of strata, which ours takes without draws."""

    def rand(*size: Any, device: Any = None, **_: Any) -> Tensor:
        shape: tuple[int, ...] = tuple(size[0]) if len(size) == 1 else size
        middle = (torch.arange(shape[-1], device=device) + 0.5) / shape[-1]
        return middle.expand(*shape)

    def rand_like(x: Tensor, **_: Any) -> Tensor:
        return torch.full_like(x, 0.5)

    with (
        mock.patch.object(torch, "rand", rand),
        mock.patch.object(torch, "rand_like", rand_like),
    ):
        yield
