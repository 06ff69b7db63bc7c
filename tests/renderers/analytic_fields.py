"""Fields given by a formula, with known renderings."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras, Rays
from lightning_gan3d.contract import DensityConfig, Field, FieldSample, SceneConfig

Formula = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

SCENE = SceneConfig(box=2.0, feature_dim=3, density=DensityConfig(activation="relu"))


@dataclass(frozen=True, eq=False)
class FormulaField(Field):
    """`formula(points, key)` gives raw density and features; `key` depends on the latent."""

    key: Float[Tensor, "b k"]
    formula: Formula
    scene_cfg: SceneConfig = SCENE
    calls: list[int] = field(default_factory=list)
    """Points of each call."""

    def __call__(
        self, points: Float[Tensor, "b n 3"], dirs: Float[Tensor, "b n 3"] | None = None
    ) -> FieldSample:
        assert dirs is None
        self.calls.append(points.shape[0] * points.shape[1])
        raw, feature = self.formula(points, self.key[:, None])
        return FieldSample(raw, feature)


def constant(points: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Density key[0] everywhere, colour (0.2, 0.4, 0.8)."""
    colour = points.new_tensor([0.2, 0.4, 0.8]).expand_as(points)
    return key[..., :1].expand_as(points[..., :1]), colour


def sphere(points: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Density key[0] within radius key[1]."""
    inside = points.norm(dim=-1, keepdim=True) < key[..., 1:2]
    return key[..., :1] * inside, torch.full_like(points, 0.5)


def floor(points: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Density key[0] where z < key[1], coloured by position."""
    inside = points[..., 2:] < key[..., 1:2]
    return key[..., :1] * inside, (points / 2 + 0.5).clamp(0, 1)


def smooth(points: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """A lopsided cloud around key[:3], coloured by waves."""
    centre = key[..., :3]
    raw = 8 * torch.exp(-8 * ((points - centre) ** 2).sum(-1, keepdim=True)) + 0.3 * points[..., :1]
    return raw, 0.5 + 0.4 * torch.sin(3 * points + centre)


def clouds(num: int, scene: SceneConfig = SCENE) -> FormulaField:
    """`num` different smooth scenes."""
    key = torch.rand(num, 3, generator=torch.Generator().manual_seed(7)) * 0.6 - 0.3
    return FormulaField(key, smooth, scene)


def cameras(num: int) -> Cameras:
    """Cameras all around, at differing elevations."""
    azimuth = torch.linspace(0, 5.5, num)
    return Cameras.on_sphere(azimuth, torch.linspace(-0.4, 0.6, num), 3.2, 1.4)


def ray(origin: tuple[float, ...], direction: tuple[float, ...], num: int = 1) -> Rays:
    """One ray of each of `num` scenes."""
    o, d = torch.tensor(origin), torch.nn.functional.normalize(torch.tensor(direction), dim=0)
    return Rays(o.expand(num, 1, 3), d.expand(num, 1, 3))
