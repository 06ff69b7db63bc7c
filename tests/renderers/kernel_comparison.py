"""Fields that kernels support, and the comparison of a kernel with the plain path."""

import dataclasses
import random
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.contract import DensityConfig, Field, SceneConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.networks.decoder import Decoder, DecoderConfig
from renderers.volume import VolumeRenderer, VolumeRendererConfig
from representations.nerf_mlp import FilmNet, NerfField, NerfMlpConfig, ViewNerfField
from representations.triplane import TriPlaneField
from representations.voxel import VoxelField

EG3D = dict(rules="eg3d")


def make_field(
    kind: str = "triplane",
    batch: int = 1,
    size: int = 16,
    channels: int = 8,
    hidden: int = 16,
    features: int = 5,
    activation: str = "softplus",
    density: DensityConfig | None = None,
    depth: int = 3,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Field:
    """A random field of kind `triplane`, `eg3d` (its axes), `trigrid` or `voxel`."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    density = density or DensityConfig(scale=4.0, prior_strength=2.0, prior_radius=0.8)
    scene = SceneConfig(box=2.0, feature_dim=features, density=density)
    decoder = Decoder(DecoderConfig(hidden, activation=activation), channels, features)  # type: ignore[arg-type]  # a literal
    decoder = decoder.to(dtype)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(normal(*parameter.shape) * (2.0 if parameter.ndim == 2 else 0.3))
    if kind == "voxel":
        return VoxelField(normal(batch, channels, size, size, size), decoder, scene)
    planes = normal(batch, 3 * (depth if kind == "trigrid" else 1), channels, size, size)
    return TriPlaneField(planes, decoder, scene, "eg3d" if kind == "eg3d" else "standard")


def make_mlp(
    batch: int = 1,
    features: int = 3,
    density: DensityConfig | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> NerfField:
    """A random NeRF MLP, of 24 units and 2 layers by default."""
    torch.manual_seed(seed)
    cfg = NerfMlpConfig(**{"hidden_dim": 24, "num_layers": 2, "omega": 6.0, **options})
    density = density or DensityConfig(scale=4.0, prior_strength=2.0, prior_radius=0.8)
    net = FilmNet(cfg, features)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.randn_like(parameter))
    net = net.to(dtype)
    mean = cfg.omega if net.siren else 1.0
    scale, shift = torch.randn(2, batch, cfg.num_layers + 1, cfg.hidden_dim).to(dtype)
    scene = SceneConfig(box=2.0, feature_dim=features, density=density)
    kind = ViewNerfField if cfg.view_dirs else NerfField
    return kind(mean * (1 + 0.1 * scale), shift, net, scene)


def views(num: int, dtype: torch.dtype = torch.float32) -> Cameras:
    """Cameras on a sphere; each has rays that miss the box."""
    azimuth = torch.linspace(0.3, 5.8, num)
    elevation = torch.linspace(-0.5, 0.7, num)
    return Cameras.on_sphere(azimuth, elevation, 3.2, 1.0).to(dtype=dtype)


def random_options(rng: random.Random) -> dict[str, Any]:
    """Options of a volume renderer, at random."""
    return {
        "samples_coarse": rng.randint(4, 40),
        "samples_fine": rng.choice([0, 1, 7, 16, 33]),
        "rules": rng.choice(["standard", "eg3d"]),
        "outside": rng.choice(["empty", "field"]),
        "background": rng.choice([0.0, 1.0]),
        "density_noise": rng.choice([0.0, 0.5]),
        **rng.choice(
            [
                {"bounds": "box"},
                {"bounds": "sphere"},
                {"bounds": "near_far", "near": 1.5, "far": 5.0},
            ]
        ),
    }


class Outcome(NamedTuple):
    """A rendering, and the gradient of a random functional of it."""

    outputs: dict[str, Tensor]
    gradients: dict[str, Tensor]
    path: str


def render(
    path: str, field: Field, cameras: Cameras, resolution: int, draws: Draws | None, **options: Any
) -> Outcome:
    """Render by `path`, and differentiate by the scene and its network."""
    cfg = VolumeRendererConfig(
        **{"samples_coarse": 12, "samples_fine": 12, **options, "path": path}
    )
    renderer = VolumeRenderer(cfg)
    names = {"planes", "voxels", "scale", "shift"} & vars(field).keys()
    leaves = {name: nn.Parameter(getattr(field, name).clone()) for name in sorted(names)}
    (net,) = (x for x in vars(field).values() if isinstance(x, nn.Module))
    net.zero_grad()
    out = renderer(dataclasses.replace(field, **leaves), cameras, resolution, draws)
    outputs = {k: x for k, x in out._asdict().items() if x is not None}
    generator = torch.Generator().manual_seed(5)
    weights = {k: torch.randn(x.shape, generator=generator).to(x) for k, x in outputs.items()}
    torch.stack([(outputs[k] * weights[k]).sum() for k in outputs]).sum().backward()
    gradients = {k: p.grad for k, p in (*leaves.items(), *net.named_parameters())}
    return Outcome(
        {k: x.detach() for k, x in outputs.items()},
        {k: g.clone() for k, g in gradients.items() if g is not None},
        str(renderer.backend),
    )


def errors(result: Outcome, expected: Outcome) -> dict[str, float]:
    """Largest difference over largest magnitude, of each value and each gradient.

    Without depths of rays whose opacity rounds to 0 on one path only: EG3D's rule divides by it.
    """
    pairs = {**{k: (result.outputs[k], expected.outputs[k]) for k in expected.outputs}}
    alike = (result.outputs["opacity"] == 0) == (expected.outputs["opacity"] == 0)
    pairs["depth"] = tuple(torch.where(alike, x, 0.0) for x in pairs["depth"])
    pairs |= {f"d {k}": (result.gradients[k], expected.gradients[k]) for k in expected.gradients}
    return {
        k: float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))
        for k, (a, b) in pairs.items()
    }
