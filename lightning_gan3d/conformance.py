"""Checks of what the contract demands of scenes and fields, for the tests of plug-ins."""

import dataclasses
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.contract import (
    DensityConfig,
    Field,
    Renderer,
    Representation,
    Scene,
    SceneConfig,
)
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
CAMERAS = Cameras.orbit(3, 0.3, 3.2, 1.4)


def check_scene(cfg: Any, renderer: Renderer, scene_cfg: SceneConfig = SCENE) -> None:
    """Check the representation that this configuration builds; raises `AssertionError`.

    Equal styles give equal scenes, renderings of a batch do not mix, and gradients of a rendering
    reach every parameter. `check_field` checks fields.
    """
    representation, ws = _build(cfg, scene_cfg)
    scene = _make(representation, ws)
    together = renderer(scene, CAMERAS, 6).feature
    assert together.shape == (3, scene_cfg.feature_dim, 6, 6), "feature must be (v, c, h, w)"
    for i in range(3):
        view = Cameras(*(x[i : i + 1] for x in CAMERAS))
        alone = renderer(representation(ws[i : i + 1]), view, 6).feature
        assert torch.allclose(alone[0], together[i], atol=1e-5), "scenes of a batch mix"
    _check_gradients(representation, renderer, scene)


def check_field(cfg: Any, scene_cfg: SceneConfig = SCENE) -> None:
    """Check the representation that this configuration builds; raises `AssertionError`.

    Equal styles give equal scenes, scenes of a batch do not mix, the density prior is added once,
    and gradients of a rendering reach every parameter. `scene_cfg` has the density of `SCENE`.
    """
    representation, ws = _build(cfg, scene_cfg)
    scenes = representation.scene_type
    assert issubclass(scenes, Field), f"{scenes.__name__} is no Field"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        points, dirs = torch.rand(3, 9, 3) * 2 - 1, torch.randn(3, 9, 3)
    scene = _make(representation, ws)

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
    _check_gradients(representation, renderer, scene)


def _build(
    cfg: Any, scene_cfg: SceneConfig
) -> tuple[Representation, Float[Tensor, "3 num_ws w_dim"]]:
    """Return a representation and random styles."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cls = module_of("representations", cfg)
        representation: Representation = cls(cfg, scene=scene_cfg, w_dim=16, resolution=8)
        return representation, torch.randn(3, representation.num_ws, 16)


def _make(representation: Representation, ws: Float[Tensor, "b num_ws w_dim"]) -> Any:
    """Return scenes; check their type, and that equal styles give equal ones."""
    scene, again = representation(ws), representation(ws)
    assert isinstance(scene, representation.scene_type), "forward returns another scene_type"
    for one, two in zip(scene.tensors(), again.tensors(), strict=True):
        assert torch.equal(one, two), "equal styles give different scenes"
    return scene


def _check_gradients(representation: Representation, renderer: Renderer, scene: Scene) -> None:
    """Check that the gradient of a rendering reaches every parameter, and is finite."""
    out = renderer(scene, CAMERAS, 6, draws=Draws(0))
    assert out.depth is not None, "the renderer must have depth"
    total = out.feature.square().sum() + out.depth.sum()
    assert total.requires_grad, "no gradient reaches the scene"
    total.backward()
    for name, parameter in representation.named_parameters():
        grad = parameter.grad
        assert grad is not None, f"no gradient reaches {name}"
        assert bool(grad.isfinite().all()), f"the gradient of {name} is not finite"
