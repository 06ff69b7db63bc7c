"""Checks of what the contract demands of every field, for the tests of plug-ins."""

import dataclasses
from typing import Any

import torch

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.contract import DensityConfig, Field, SceneConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.networks.decoder import DecoderConfig
from lightning_gan3d.registry import module_of
from renderers.volume import VolumeRenderer, VolumeRendererConfig

SCENE = SceneConfig(
    box=2.0,
    feature_dim=5,
    decoder=DecoderConfig(hidden_dim=8),
    density=DensityConfig(scale=4.0, prior_strength=2.0),
)


def check_field(cfg: Any, scene_cfg: SceneConfig = SCENE) -> None:
    """Check the representation that this configuration builds; raises `AssertionError`.

    Equal styles give equal scenes, scenes of a batch do not mix, the density prior is added once,
    and gradients of a rendering reach every parameter. `scene_cfg` has the density of `SCENE`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cls = module_of("representations", cfg)
        representation = cls(cfg, scene=scene_cfg, w_dim=16, resolution=8)
        ws = torch.randn(3, representation.num_ws, 16)
        points, dirs = torch.rand(3, 9, 3) * 2 - 1, torch.randn(3, 9, 3)
    scene = representation(ws)
    assert isinstance(scene, Field), f"{type(scene).__name__} is no Field"
    assert isinstance(scene, representation.scene_type), "forward returns another scene_type"
    for one, two in zip(scene.tensors(), representation(ws).tensors(), strict=True):
        assert torch.equal(one, two), "equal styles give different scenes"

    together = scene(points, dirs)
    assert together.sigma_raw.shape == (3, 9, 1), "sigma_raw must be (b, n, 1)"
    assert together.feature.shape == (3, 9, scene_cfg.feature_dim), "feature must be (b, n, c)"
    for i in range(3):
        alone = representation(ws[i : i + 1])(points[i : i + 1], dirs[i : i + 1])
        for part, whole in zip(alone, together, strict=True):
            close = torch.allclose(part[0], whole[i], atol=1e-5, rtol=1e-5)
            assert close, "scenes of a batch mix"

    plain_cfg = dataclasses.replace(scene_cfg, density=DensityConfig(scale=4.0))
    plain = dataclasses.replace(scene, scene_cfg=plain_cfg)
    ball = 2 * scene.activated * (0.6 - points.norm(dim=-1, keepdim=True))
    prior = scene.density(points) - plain.density(points)
    assert torch.allclose(prior, ball, atol=1e-5), "add self.prior(points) to sigma_raw once"
    at_zero = scene(points, torch.zeros_like(dirs) if scene.needs_dirs else None)
    assert torch.allclose(at_zero.sigma_raw, scene.density(points), atol=1e-5), (
        "`density` differs from `sigma_raw`"
    )

    renderer = VolumeRenderer(VolumeRendererConfig(samples_coarse=8, samples_fine=8, chunk=64))
    out = renderer(scene, Cameras.orbit(3, 0.3, 3.2, 1.4), 6, draws=Draws(0))
    (out.feature.square().sum() + out.depth.sum()).backward()
    for name, parameter in representation.named_parameters():
        grad = parameter.grad
        assert grad is not None, f"no gradient reaches {name}"
        assert bool(grad.isfinite().all()), f"the gradient of {name} is not finite"
