"""Cameras of generated images: those of the data set, or draws from a prior."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import CAR_FOCAL, FACE_FOCAL, LABEL_DIM, Cameras, Orbit, fov_from_focal
from lightning_gan3d.config import ConfigError
from lightning_gan3d.draws import Draws

NUM_DRAWN = 2**16
"""Cameras drawn from a prior, in place of those of a data set."""
TAIL = 5.0
"""Standard deviations within which an unbounded normal distribution must be valid."""


@dataclass(frozen=True)
class DistributionConfig:
    """Distribution of one number of a camera."""

    kind: Literal["uniform", "normal", "sphere"] = "uniform"
    """`normal` is truncated if it has bounds. `sphere`, for elevations: directions uniform on the
    sphere between the bounds."""
    low: float | None = None
    """Lower bound. Equal bounds fix the number."""
    high: float | None = None
    """Upper bound."""
    mean: float = 0.0
    """Mean of a normal distribution, before truncation."""
    std: float = 0.0
    """Its standard deviation; above 0."""

    def __post_init__(self) -> None:
        """Check that the distribution is defined."""
        low, high = self.low, self.high
        if self.kind == "normal":
            if self.std <= 0 or (low is not None and high is not None and low >= high):
                raise ConfigError(
                    f"kind=normal, std={self.std}, low={low}, high={high}: use std above 0, and "
                    "low below high"
                )
        elif low is None or high is None or low > high or self.mean or self.std:
            raise ConfigError(
                f"kind={self.kind}, low={low}, high={high}, mean={self.mean}, "
                f"std={self.std}: set low, and high at or above it; only kind=normal has mean and "
                "std"
            )

    @property
    def support(self) -> tuple[float, float]:
        """Bounds; of an unbounded normal distribution, five standard deviations."""
        low = self.mean - TAIL * self.std if self.low is None else self.low
        high = self.mean + TAIL * self.std if self.high is None else self.high
        return low, high

    def draw(self, purpose: str, num: int, draws: Draws) -> Float[Tensor, " n"]:
        """Draw by the inverse of the cumulative distribution."""
        u = draws.uniform(purpose, (num,)).double()
        low, high = self.support
        if self.kind == "uniform":
            return (low + (high - low) * u).float()
        if self.kind == "sphere":
            return torch.asin(math.sin(low) + (math.sin(high) - math.sin(low)) * u).float()
        ends = (-math.inf if self.low is None else low, math.inf if self.high is None else high)
        bounds = torch.tensor(ends, dtype=torch.float64)
        start, end = torch.special.ndtr((bounds - self.mean) / self.std)
        u = (start + (end - start) * u).clamp(1e-9, 1 - 1e-9)
        drawn: Tensor = self.mean + self.std * torch.special.ndtri(u)
        return drawn.float()


def _uniform(low: float, high: float) -> DistributionConfig:
    return DistributionConfig("uniform", low, high)


def _normal(std: float) -> DistributionConfig:
    return DistributionConfig("normal", std=std)


PRESETS = {
    "faces": {
        "azimuth": _normal(0.3),
        "elevation": _normal(0.155),
        "radius": _uniform(2.7, 2.7),
        "fov": _uniform(fov_from_focal(FACE_FOCAL), fov_from_focal(FACE_FOCAL)),
    },
    "cars": {
        "azimuth": _uniform(-math.pi, math.pi),
        "elevation": DistributionConfig("sphere", 0.0, 1.5),
        "radius": _uniform(1.7 / 1.6, 1.7 / 1.6),
        "fov": _uniform(fov_from_focal(CAR_FOCAL), fov_from_focal(CAR_FOCAL)),
    },
    "full_turn": {
        "azimuth": _uniform(-math.pi, math.pi),
        "elevation": DistributionConfig("sphere", 0.0, 0.7),
        "radius": _uniform(1.6, 1.6),
        "fov": _uniform(fov_from_focal(1.5), fov_from_focal(1.5)),
    },
}
"""faces: azimuth and elevation of pi-GAN (Chan et al. 2021), distance and focal length of EG3D.
cars: EG3D's of ShapeNet, from above the ground. full_turn: the sphere in the box fills the image.
"""
ALLOWED = {
    "azimuth": (-math.inf, math.inf),
    "elevation": (-1.5, 1.5),
    "roll": (-math.inf, math.inf),
    "radius": (0.6, math.inf),
    "fov": (0.01, 3.0),
}
"""Values for which a camera sees the box: radius in box edges, the others in radians."""


def check_number(name: str, distribution: DistributionConfig, option: str) -> None:
    """Reject values of a camera's number that are not in `ALLOWED`; `option` is named in errors."""
    (start, end), (low, high) = distribution.support, ALLOWED[name]
    if start < low or end > high:
        raise ConfigError(
            f"{option} reaches from {start:.3g} to {end:.3g}: use low and high from {low} to "
            f"{high}",
            field=name,
        )
    if name != "elevation" and distribution.kind == "sphere":
        raise ConfigError(
            f"{option}.kind=sphere: only elevation has it; use uniform or normal", field=name
        )


@dataclass(frozen=True)
class CamerasConfig:
    """Cameras of generated images. The numbers of a prior that are null are those of the preset."""

    kind: Literal["dataset", "prior"] = "dataset"
    """`dataset` draws labels of training images. `prior` draws cameras that look at the origin."""
    preset: Literal["none", "faces", "cars", "full_turn"] = "none"
    """Prior to start from."""
    azimuth: DistributionConfig | None = None
    """Radians from +z toward +x; 0 is the front."""
    elevation: DistributionConfig | None = None
    """Radians above the ground, within 1.5."""
    roll: DistributionConfig | None = None
    """Radians about the optical axis; null: 0."""
    radius: DistributionConfig | None = None
    """Distance from the origin, in edges of `generator.scene.box`; above 0.6."""
    fov: DistributionConfig | None = None
    """Field of view of the image, in radians."""

    def __post_init__(self) -> None:
        """Check that the prior is complete and every camera valid."""
        given = [name for name in ALLOWED if getattr(self, name) is not None]
        if self.kind == "dataset":
            if given or self.preset != "none":
                option = given[0] if given else "preset"
                raise ConfigError(
                    f"cameras.{option} with cameras.kind=dataset: set cameras.kind=prior, or leave "
                    f"{option} out",
                    field=option,
                )
            return
        numbers = self.distributions
        missing = [name for name in ALLOWED if name not in numbers]
        if missing:
            raise ConfigError(
                f"cameras.kind=prior without {', '.join(missing)}: set each, or "
                f"cameras.preset={'|'.join(PRESETS)}",
                field="kind",
            )
        for name in ALLOWED:
            check_number(name, numbers[name], f"cameras.{name}")

    @property
    def distributions(self) -> dict[str, DistributionConfig]:
        """The distribution of each number of a prior."""
        own = {name: getattr(self, name) for name in ALLOWED}
        preset = {"roll": _uniform(0.0, 0.0), **PRESETS.get(self.preset, {})}
        return preset | {name: value for name, value in own.items() if value is not None}


def draw_cameras(cfg: CamerasConfig, box: float, num: int, draws: Draws) -> Cameras:
    """Draw cameras of a prior that look at the origin; `box`: edge of the scene in world units."""
    drawn = {name: d.draw(name, num, draws) for name, d in cfg.distributions.items()}
    focal = 0.5 / torch.tan(0.5 * drawn["fov"])
    cameras = Cameras.on_sphere(drawn["azimuth"], drawn["elevation"], drawn["radius"] * box, focal)
    return cameras.roll(drawn["roll"])


def prior_orbit(cfg: CamerasConfig, box: float) -> Orbit:
    """Fit an orbit to cameras of a prior."""
    return Orbit.of_labels(draw_cameras(cfg, box, 4096, Draws(0)).to_label())


class FakeLabels(NamedTuple):
    """Labels from which those of generated images are drawn."""

    labels: Float[Tensor, "n label_dim"]
    source: str
    """Whose cameras they are, for the notes of metrics."""


def fake_labels(cfg: CamerasConfig, box: float, labels: Float[Tensor, "n label_dim"]) -> FakeLabels:
    """Return the training images' labels; with a prior, a table of its cameras instead.

    The table is the same for every seed: all runs and evaluations share it, like a data set.
    """
    if cfg.kind == "dataset":
        known = not bool(labels[:, :LABEL_DIM].isnan().any())
        return FakeLabels(labels, "cameras of training images" if known else "no cameras")
    draws = Draws(0).scope("camera prior")
    cameras = draw_cameras(cfg, box, NUM_DRAWN, draws)
    classes = labels[draws.integers("class", len(labels), (NUM_DRAWN,)), LABEL_DIM:]
    return FakeLabels(torch.cat([cameras.to_label(), classes], dim=1), "cameras of the prior")
