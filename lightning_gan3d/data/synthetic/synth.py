"""Procedural data with ground truth, from a seed.

Figures seen from a hemisphere, with depth, mask and pose.
"""

import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.data.archive import DataError, open_source
from lightning_gan3d.data.dataset import ImageDataset
from lightning_gan3d.data.labels import read_index
from lightning_gan3d.data.synthetic.figures import (
    FigureView,
    draw_figures,
    level_of,
    render_figures,
)
from lightning_gan3d.data.writer import DatasetWriter
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import to_uint8


@dataclass(frozen=True)
class SynthConfig:
    """A procedural data set. Figures fit the unit sphere, so that a box of side 2 holds them."""

    num_images: int = 4000
    """Images of training and test together."""
    num_objects: int = 2000
    """Different figures; image i shows figure i modulo this."""
    holdout: float = 0.25
    """Share of the figures that only the test split shows."""
    resolution: int = 32
    """Side of the images in pixels."""
    seed: int = 0
    """Picks figures and cameras."""
    background: Literal["white", "black", "gray"] = "white"
    """Colour behind the figures."""
    radius: float = 3.2
    """Distance of the cameras from the centre, in world units."""
    focal: float = 1.5
    """Focal length in image widths; 1.5 at radius 3.2 makes the unit sphere fill the frame."""
    elevation_min: float = 0.0
    """Lowest camera above the horizon, in radians."""
    elevation_max: float = 0.7
    """Highest camera, in radians; between both, directions are uniform on the sphere."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.num_images < 1:
            raise ConfigError(f"num_images={self.num_images}: use 1 or more", field="num_images")
        if not 1 <= self.num_objects <= self.num_images:
            raise ConfigError(
                f"num_objects={self.num_objects}: use 1 to num_images={self.num_images}",
                field="num_objects",
            )
        if not 0 <= self.holdout < 1 or (self.holdout and not 0 < self.num_test < self.num_objects):
            raise ConfigError(
                f"holdout={self.holdout} of {self.num_objects} figures: use 0, or a share in (0, "
                "1) that leaves "
                "figures on both sides",
                field="holdout",
            )
        if not 4 <= self.resolution <= 4096:
            raise ConfigError(f"resolution={self.resolution}: use 4 to 4096", field="resolution")
        if not self.radius > 1.05:
            raise ConfigError(
                f"radius={self.radius}: stay outside the unit sphere, e.g. 3.2", field="radius"
            )
        if not self.focal > 0:
            raise ConfigError(
                f"focal={self.focal}: use a positive number of image widths, e.g. 1.5",
                field="focal",
            )
        if not -1.5 <= self.elevation_min <= self.elevation_max <= 1.5:
            raise ConfigError(
                f"elevation_min={self.elevation_min}, elevation_max={self.elevation_max}: use "
                "radians in [-1.5, 1.5], "
                "the smaller one first",
                field="elevation_min",
            )

    @property
    def num_test(self) -> int:
        """Figures of the test split: the last ones."""
        return round(self.holdout * self.num_objects)

    @property
    def background_value(self) -> float:
        """The background in [0, 1]."""
        return {"white": 1.0, "gray": 0.5, "black": 0.0}[self.background]

    @property
    def far(self) -> float:
        """Depth where no figure is hit: behind the unit sphere as the cameras see it."""
        return self.radius + 1.0


class SynthObjects:
    """The figures of a procedural data set, seen from any camera: a yardstick for geometry."""

    def __init__(self, cfg: SynthConfig) -> None:
        """Draw the figures."""
        self.cfg = cfg
        self.figures = draw_figures(cfg.num_objects, cfg.seed)

    @classmethod
    def open(cls, path: str | Path) -> "SynthObjects":
        """Take the figures of a data set that `make_synth` wrote."""
        found = read_index(open_source(path)).get("synth")
        if not isinstance(found, dict):
            raise DataError(f"{path} is not a procedural dataset: its dataset.json has no `synth`")
        return cls(build(SynthConfig, found))

    def render(
        self, object_ids: Int[Tensor, " v"], cameras: Cameras, resolution: int
    ) -> FigureView:
        """Return view i, of object `object_ids[i]` from camera i."""
        cfg = self.cfg
        return render_figures(
            self.figures.select(object_ids), cameras, resolution, cfg.background_value, cfg.far
        )

    def level(
        self, object_ids: Int[Tensor, " m"], points: Float[Tensor, "m n 3"]
    ) -> Float[Tensor, "m n"]:
        """Return at points what is positive inside an object, and 0 on its surface."""
        return level_of(self.figures.select(object_ids), points)


def sample_cameras(cfg: SynthConfig, num: int, draws: Draws) -> Cameras:
    """Draw cameras whose directions are uniform on the sphere between the two elevations."""
    u = draws.uniform("cameras", (num, 2))
    low, high = np.sin(cfg.elevation_min), np.sin(cfg.elevation_max)
    elevation = torch.asin(low + (high - low) * u[:, 1])
    return Cameras.on_sphere(2 * torch.pi * u[:, 0], elevation, cfg.radius, cfg.focal)


def make_synth(cfg: SynthConfig, out: Path, overwrite: bool = False) -> None:
    """Write the data set: images, labels, splits, and the truth.

    `truth/NAME.npy` holds depth and mask of each image.
    """
    objects = SynthObjects(cfg)
    ids = torch.arange(cfg.num_images) % cfg.num_objects
    cameras = sample_cameras(cfg, cfg.num_images, Draws(cfg.seed).scope("synth"))
    labels = cameras.to_label().double().numpy()
    with DatasetWriter(out, overwrite) as writer:
        for first in range(0, cfg.num_images, 256):
            some = slice(first, first + 256)
            view = objects.render(ids[some], cameras.select(some), cfg.resolution)
            pixels = rearrange(to_uint8(view.image), "v c h w -> v h w c").numpy()
            truth = torch.cat([view.depth, view.mask], dim=1).numpy()
            for k in range(len(pixels)):
                i = first + k
                test = int(ids[i]) >= cfg.num_objects - cfg.num_test
                name = f"images/{i:06d}.png"
                writer.image(name, pixels[k], labels[i], "test" if test else "train", int(ids[i]))
                writer.array(f"truth/{i:06d}.npy", truth[k])
        writer.note("synth", dataclasses.asdict(cfg))


def read_truth(
    dataset: ImageDataset, index: int
) -> tuple[Float[Tensor, "1 h w"], Float[Tensor, "1 h w"]]:
    """Return depth along the ray and mask of an image of a procedural data set.

    Both have the files' resolution.
    """
    name = dataset.names[index % len(dataset.names)]
    file = name.replace("images/", "truth/").replace(".png", ".npy")
    values: Any = np.load(io.BytesIO(dataset.source.read(file)), allow_pickle=False)
    truth = torch.from_numpy(values)
    if index >= len(dataset.names):
        truth = truth.flip(-1)
    return truth[:1], truth[1:]
