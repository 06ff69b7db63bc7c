"""Random Gaussians, and renderings of them with gradients."""

import dataclasses

import torch

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.contract import SceneConfig
from renderers.splat import SplatRenderer, SplatRendererConfig
from representations.splats import Splats

LEAVES = ("means", "scales", "rotations", "opacities", "features", "harmonics")


def random_splats(
    number, batch=1, channels=3, harmonics=False, seed=0, size=0.05, dtype=torch.float32
):
    """Gaussians in a ball of radius 0.4, of log-normal sizes."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(batch, number, *shape, generator=g).to(dtype)

    uniform = torch.rand(batch, number, 1 + channels, generator=g).to(dtype)
    direction = torch.nn.functional.normalize(normal(3), dim=-1)
    return Splats(
        means=0.4 * direction * torch.rand(batch, number, 1, generator=g).to(dtype),
        scales=size * torch.exp(0.5 * normal(3)),
        rotations=normal(4),
        opacities=0.05 + 0.95 * uniform[..., 0],
        features=uniform[..., 1:],
        scene_cfg=SceneConfig(),
        harmonics=0.2 * normal(3, 3) if harmonics else None,
    )


def around(views, radius=1.5, focal=1.2, dtype=torch.float32):
    """Cameras around the ball, with a skew and an off-centre principal point."""
    cameras = Cameras.on_sphere(
        torch.linspace(0.3, 5.0, views), torch.linspace(-0.6, 0.9, views), radius, focal
    )
    cameras.intrinsics[:, 0, 1] = 0.05
    cameras.intrinsics[:, 0, 2] = 0.55
    return cameras.to(dtype=dtype)


def render(path, scene, cameras, resolution, **options):
    """Return the outputs, the gradients of a random functional, and the backend."""
    leaves = {
        name: getattr(scene, name).clone().requires_grad_()
        for name in LEAVES
        if getattr(scene, name) is not None
    }
    renderer = SplatRenderer(SplatRendererConfig(path=path, **options))
    out = renderer(dataclasses.replace(scene, **leaves), cameras, resolution)[:3]
    g = torch.Generator().manual_seed(7)
    weights = [torch.randn(x.shape, generator=g).to(x) for x in out]
    inputs = [*leaves.values(), *(x for x in cameras if x.requires_grad)]
    gradients = torch.autograd.grad(list(out), inputs, weights)
    return [x.detach() for x in out], list(gradients), str(renderer.backend)


def error(ours, expected):
    """Largest difference over largest magnitude."""
    ours, expected = ours.detach(), expected.detach()
    return float((ours - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
