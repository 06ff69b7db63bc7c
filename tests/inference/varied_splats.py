"""Sets of Gaussians, and their rendering by the plain path."""

import functools

import torch

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.contract import SceneConfig
from renderers.splat import SplatRenderer, SplatRendererConfig
from representations.splats import Splats

SCENE = SceneConfig(box=1.0, feature_dim=3)


def random_splats(n=200, harmonics=False):
    """Gaussians in a ball, some of them with opacity exactly 0 or 1."""
    rng = torch.Generator().manual_seed(0)
    draw = functools.partial(torch.rand, generator=rng)
    opacities = draw(1, n)
    opacities[0, :10], opacities[0, 10:20] = 0, 1
    return Splats(
        0.6 * (draw(1, n, 3) - 0.5),
        0.01 + 0.06 * draw(1, n, 3),
        2 * draw(1, n, 4) - 1,
        opacities,
        draw(1, n, 3),
        SCENE,
        draw(1, n, 3, 3) - 0.5 if harmonics else None,
    )


def one_splat(mean=(0.0, 0.0, 0.0), scale=(0.1, 0.1, 0.1), opacity=1.0, colour=(1.0, 0.0, 0.0)):
    """A single Gaussian along the world's axes."""
    return Splats(
        torch.tensor([[mean]]), torch.tensor([[scale]]), torch.tensor([[[1.0, 0, 0, 0]]]),
        torch.tensor([[opacity]]), torch.tensor([[colour]]), SCENE,
    )  # fmt: skip


def views(scene, size=48, **options):
    """Render four views around the scene, from above and below."""
    cameras = Cameras.orbit(4, 0.5, 2.0, focal=2.0)
    return SplatRenderer(SplatRendererConfig(path="plain", **options))(scene, cameras, size)
