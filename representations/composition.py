"""Scenes of parts from one latent: objects that share a network, and a background."""

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import torch
from annotated_types import Gt, Interval
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d import registry
from lightning_gan3d.config import ConfigError, Count, Positive
from lightning_gan3d.contract import (
    Code,
    DensityConfig,
    Field,
    NoiseMode,
    Representation,
    SceneConfig,
)
from lightning_gan3d.draws import Draws
from representations.parts import Composed, Placed

Range = tuple[float, float]
"""Lowest and highest value; uniform between both."""
PLACEMENT = ("scale", "rotation", "x", "y", "z")


@dataclass(frozen=True)
class PlacementConfig:
    """Where objects may be: a uniform range of each number."""

    scale: tuple[Positive, Positive] = (0.45, 0.6)
    """Half the edge of an object's box, in world units."""
    rotation: Range = (-math.pi, math.pi)
    """Radians about the y axis, positive from +z toward +x."""
    x: Range = (-0.25, 0.25)
    """World units."""
    y: Range = (0.0, 0.0)
    """World units, upward."""
    z: Range = (-0.25, 0.25)
    """World units; the frontal camera is on +z."""

    def __post_init__(self) -> None:
        """Check that no range is empty."""
        for name in PLACEMENT:
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(
                    f"placement.{name}=[{low}, {high}]: write the lower number first", field=name
                )

    @property
    def ranges(self) -> Float[Tensor, "5 2"]:
        """All ranges, in the order of `PLACEMENT`."""
        return torch.tensor([getattr(self, name) for name in PLACEMENT])


def uniform(latent: Float[Tensor, "b d"], ranges: Float[Tensor, "n 2"]) -> Float[Tensor, "b n"]:
    """Map the first n of normal numbers to uniform ones in the ranges."""
    return torch.lerp(ranges[:, 0], ranges[:, 1], torch.special.ndtr(latent[:, : len(ranges)]))


@dataclass(frozen=True)
class ComposedConfig:
    """The parts of a scene."""

    object: Any = field(metadata=registry.metadata("representations"))
    """The representation of an object; all objects share its weights."""
    background: Any | None = field(default=None, metadata=registry.metadata("representations"))
    """The representation of the background, on a distant sphere. null: the renderer's constant."""
    num_objects: Count = 1
    """Objects of a scene."""
    placement: PlacementConfig = PlacementConfig()
    """Where the objects may be."""
    shape_share: Annotated[float, Interval(gt=0, lt=1)] | None = None
    """Share of an object's styles that come from its shape code; the others come from its
    appearance code. null: one code for both."""
    distance: Annotated[float, Gt(0)] = 8.0
    """Radius of the background's sphere about the origin, in world units; beyond the cameras."""


class ComposedRepresentation(Representation):
    """Generates objects and background; each has its own codes."""

    scene_type = Composed
    ranges: Tensor

    def __init__(
        self, cfg: ComposedConfig, scene: SceneConfig, w_dim: int, resolution: int
    ) -> None:
        """Build one network for all objects, and one for the background."""
        super().__init__()
        if w_dim < len(PLACEMENT):
            raise ConfigError(
                f"generator.w_dim={w_dim}: a placement has {len(PLACEMENT)} numbers; use "
                f"w_dim={len(PLACEMENT)} or more"
            )
        self.cfg, self.scene_cfg = cfg, scene
        self.register_buffer("ranges", cfg.placement.ranges, persistent=False)
        own = replace(scene, box=2.0)
        self.object = self._part(cfg.object, own, w_dim, resolution)
        self.background: Representation | None = None
        if cfg.background is not None:
            # Nothing reads the density of the background.
            flat = replace(own, density=DensityConfig())
            self.background = self._part(cfg.background, flat, w_dim, resolution)
        self.codes = tuple(self._codes())
        self.num_ws = sum(code.num_ws for code in self.codes)

    def _part(self, cfg: Any, scene: SceneConfig, w_dim: int, resolution: int) -> Any:
        part = registry.module_of("representations", cfg)
        if not issubclass(part.scene_type, Field) or issubclass(part.scene_type, Composed):
            kind = registry.name_of("representations")(type(cfg))
            raise ConfigError(
                f"generator.representation: kind={kind} is no part of a scene; use a field, e.g. "
                "triplane, voxel or nerf_mlp"
            )
        return part(cfg, scene=scene, w_dim=w_dim, resolution=resolution)

    def _codes(self) -> list[Code]:
        num, share = self.object.num_ws, self.cfg.shape_share
        of_shape = num if share is None else min(max(1, round(share * num)), num - 1)
        codes = []
        for i in range(self.cfg.num_objects):
            codes.append(Code(f"object{i}.placement", 1, None, len(PLACEMENT)))
            codes.append(Code(f"object{i}.shape", of_shape, "object"))
            if of_shape < num:
                codes.append(Code(f"object{i}.appearance", num - of_shape, "object"))
        if self.background is not None:
            codes.append(Code("background", self.background.num_ws, "background"))
        return codes

    def forward(
        self,
        ws: Float[Tensor, "b num_ws w_dim"],
        noise_mode: NoiseMode = "const",
        draws: Draws | None = None,
    ) -> Composed:
        """Generate the parts of a batch of style vectors."""
        num = self.object.num_ws + 1  # the first is the placement
        objects = tuple(
            replace(
                self._placed(
                    ws[:, i * num : (i + 1) * num], noise_mode, _scoped(draws, f"object{i}")
                ),
                code=i,
            )
            for i in range(self.cfg.num_objects)
        )
        background = None
        if self.background is not None:
            styles = ws[:, self.cfg.num_objects * num :]
            background = self.background(styles, noise_mode, _scoped(draws, "background"))
        distance = ws.new_full((len(ws),), self.cfg.distance)
        return Composed(objects, background, distance, self.scene_cfg)

    def _placed(
        self, ws: Float[Tensor, "b n w_dim"], noise_mode: NoiseMode, draws: Draws | None
    ) -> Placed:
        numbers = uniform(ws[:, 0], self.ranges)
        part = self.object(ws[:, 1:], noise_mode, draws)
        return Placed(part, numbers[:, 0], numbers[:, 1], numbers[:, 2:])


def _scoped(draws: Draws | None, purpose: str) -> Draws | None:
    return None if draws is None else draws.scope(purpose)
