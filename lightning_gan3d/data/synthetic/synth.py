"""Procedural data with ground truth: figures, heads, scenes or solids, with depth, mask, pose."""

import dataclasses
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Gt, Interval
from einops import rearrange
from jaxtyping import Float, Int, Int64
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError, Count, Positive, build
from lightning_gan3d.data.archive import DataError, open_source
from lightning_gan3d.data.camera_prior import PRESETS, DistributionConfig, check_number
from lightning_gan3d.data.dataset import HoldoutShare, ImageDataset
from lightning_gan3d.data.dataset_writer import write_dataset
from lightning_gan3d.data.labels import read_index
from lightning_gan3d.data.synthetic.ellipsoids import (
    Ellipsoids,
    ObjectView,
    level_of,
    render_ellipsoids,
)
from lightning_gan3d.data.synthetic.figures import draw_figures
from lightning_gan3d.data.synthetic.heads import build_heads, draw_attributes
from lightning_gan3d.data.synthetic.scenes import Scenes, ScenesConfig, describe, draw_scenes
from lightning_gan3d.data.synthetic.solids import Solids, SolidsConfig, draw_solids
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import to_uint8
from lightning_gan3d.progress import counting

_LATER = ("kind", "azimuth", "elevation")
"""Options that older data sets do not store."""
_OF_ONE_KIND = ("scenes", "solids")
"""Options that only the kind of the same name reads and stores."""
_SCENE_CAMERAS = (
    DistributionConfig("uniform", -0.15, 0.15),
    DistributionConfig("uniform", 0.05, 0.25),
)
"""Azimuth and elevation for scenes: objects turn instead of the cameras, as in GIRAFFE."""
_SOLID_ELEVATION = DistributionConfig("sphere", 0.4, 1.0)
"""High enough to look into bathtubs."""
_HALF_DIAGONAL = 1.75
"""Of the box of side 2, which holds the objects of scenes, rounded up."""


@dataclass(frozen=True)
class TextureConfig:
    """A solid texture of figures and heads: band-limited noise in the objects' coordinates."""

    contrast: Annotated[float, Interval(gt=0, le=1)] = 0.3
    """Standard deviation of the factor on the colours."""
    wavelength: Positive = 0.25
    """Of its plane waves, in world units; 0.25 is 8 pixels of 64 at the default cameras."""


@dataclass(frozen=True)
class SynthConfig:
    """A procedural data set. The objects fit the unit sphere, so a box of side 2 holds them."""

    num_images: Count = 4000
    """Images of all splits."""
    num_objects: Count = 2000
    """Number of objects, or of scenes; image i shows number i modulo this."""
    holdout: HoldoutShare = 0.25
    """Share of the objects that only the test split shows."""
    resolution: Annotated[int, Interval(ge=4, le=4096)] = 32
    """Side of the images in pixels."""
    seed: int = 0
    """Seed of objects and cameras."""
    background: Literal["white", "black", "gray"] = "white"
    """Colour behind the objects; scenes draw backgrounds, solids have `solids.background`."""
    radius: Annotated[float, Gt(1.05)] = 3.2
    """Distance of the cameras from the origin, outside the unit sphere."""
    focal: Positive = 1.5
    """Focal length in image widths; at 1.5 and radius 3.2 the unit sphere fills the image."""
    elevation_min: Annotated[float, Interval(ge=-1.5, le=1.5)] = 0.0
    """Lowest elevation of the cameras, in radians."""
    elevation_max: Annotated[float, Interval(ge=-1.5, le=1.5)] = 0.7
    """Highest elevation, in radians; directions between both are uniform on the sphere."""
    kind: Literal["figures", "heads", "scenes", "solids"] = "figures"
    """Bird-like figures, heads with named attributes, scenes of one to three animals, or white
    solids of voxels."""
    azimuth: DistributionConfig | None = None
    """Azimuths of the cameras in radians; null: the full circle for figures and solids, those of
    faces for heads, within 0.15 for scenes."""
    elevation: DistributionConfig | None = None
    """Elevations in radians, within 1.5; null: `elevation_min` to `elevation_max` for figures,
    those of faces for heads, 0.05 to 0.25 for scenes, 0.4 to 1 for solids."""
    scenes: ScenesConfig | None = None
    """Number and places of the objects of kind=scenes; null: one object with default ranges."""
    texture: TextureConfig | None = None
    """Texture of the surfaces of kind=figures and kind=heads; null: plain colours."""
    solids: SolidsConfig | None = None
    """Shapes and rendering of kind=solids; null: bathtubs of 32^3 voxels on black."""

    def __post_init__(self) -> None:
        """Check across fields."""
        if self.num_objects > self.num_images:
            raise ConfigError(
                f"num_objects={self.num_objects}: each needs an image of the {self.num_images}; "
                f"use num_objects={self.num_images} or less",
                field="num_objects",
            )
        if self.holdout and not 0 < self.num_test < self.num_objects:
            raise ConfigError(
                f"holdout={self.holdout} of {self.num_objects} objects is {self.num_test}: use 0, "
                "or a share that leaves objects in both splits",
                field="holdout",
            )
        if self.elevation_min > self.elevation_max:
            raise ConfigError(
                f"elevation_min={self.elevation_min}: use elevation_max={self.elevation_max} or "
                "less",
                field="elevation_min",
            )
        if self.elevation or self.kind != "figures":
            for name in ("elevation_min", "elevation_max"):
                if getattr(self, name) != getattr(SynthConfig, name):
                    raise ConfigError(
                        f"{name}={getattr(self, name)}: only kind=figures without elevation reads "
                        "it; use elevation.low and elevation.high",
                        field=name,
                    )
        if self.texture and self.kind not in ("figures", "heads"):
            raise ConfigError(
                f"texture with kind={self.kind}: only kind=figures and kind=heads read it; leave "
                "it out",
                field="texture",
            )
        for name in _OF_ONE_KIND:
            if self.kind != name and getattr(self, name):
                raise ConfigError(
                    f"{name} with kind={self.kind}: only kind={name} reads it; leave it out",
                    field=name,
                )
        if self.kind == "solids" and self.background != SynthConfig.background:
            raise ConfigError(
                f"background={self.background}: kind=solids reads solids.background, from 0 for "
                "black to 1 for white; use that",
                field="background",
            )
        if self.kind == "scenes":
            if self.background != SynthConfig.background:
                raise ConfigError(
                    f"background={self.background}: kind=scenes draws a background per scene; "
                    "leave it out",
                    field="background",
                )
            if self.radius <= _HALF_DIAGONAL:
                raise ConfigError(
                    f"radius={self.radius} with kind=scenes: use more than {_HALF_DIAGONAL}, "
                    "outside the box of side 2",
                    field="radius",
                )
        for name, numbers in zip(("azimuth", "elevation"), self.distributions, strict=True):
            check_number(name, numbers, name)

    @property
    def distributions(self) -> tuple[DistributionConfig, DistributionConfig]:
        """Distributions of azimuth and elevation."""
        azimuth = DistributionConfig("uniform", 0.0, 2 * math.pi)
        elevation = DistributionConfig("sphere", self.elevation_min, self.elevation_max)
        if self.kind == "heads":
            azimuth, elevation = (PRESETS["faces"][name] for name in ("azimuth", "elevation"))
        if self.kind == "scenes":
            azimuth, elevation = _SCENE_CAMERAS
        if self.kind == "solids":
            elevation = _SOLID_ELEVATION
        return self.azimuth or azimuth, self.elevation or elevation

    @property
    def num_test(self) -> int:
        """Number of objects in the test split: the last ones."""
        return round(self.holdout * self.num_objects)

    @property
    def background_value(self) -> float:
        """Grey value of the background in [0, 1]."""
        return {"white": 1.0, "gray": 0.5, "black": 0.0}[self.background]

    @property
    def far(self) -> float:
        """Depth of rays that miss the objects: behind the unit sphere, or the box of scenes."""
        return self.radius + (_HALF_DIAGONAL if self.kind == "scenes" else 1.0)


class SynthObjects:
    """The objects of a procedural data set, rendered from any camera: ground truth."""

    def __init__(self, cfg: SynthConfig) -> None:
        """Draw the objects."""
        self.cfg = cfg
        self.shapes: Ellipsoids | Scenes | Solids
        if cfg.kind == "heads":
            self.shapes = build_heads(self.attributes())
        elif cfg.kind == "scenes":
            options = cfg.scenes or ScenesConfig()
            self.shapes = draw_scenes(options, cfg.num_objects, cfg.radius, cfg.seed)
        elif cfg.kind == "solids":
            self.shapes = draw_solids(cfg.solids or SolidsConfig(), cfg.num_objects, cfg.seed)
        else:
            self.shapes = draw_figures(cfg.num_objects, cfg.seed)
        if cfg.texture and isinstance(self.shapes, Ellipsoids):
            waves = _draw_waves(cfg.texture, cfg.num_objects, cfg.seed)
            self.shapes = self.shapes._replace(waves=waves, contrast=cfg.texture.contrast)

    @classmethod
    def open(cls, path: str | Path) -> "SynthObjects":
        """Recreate the objects of a data set that `make_synth` wrote."""
        options = read_index(open_source(path)).get("synth")
        if not isinstance(options, dict):
            raise DataError(f"{path} is not a procedural dataset: its dataset.json has no `synth`")
        return cls(build(SynthConfig, options))

    def attributes(self) -> dict[str, Float[Tensor, " m"]]:
        """Return the attributes of each head, see `heads.ATTRIBUTES`; other kinds have none.

        Those of the objects of scenes are `scenes.attributes`, those of solids `shapes.attributes`.
        """
        cfg = self.cfg
        return draw_attributes(cfg.num_objects, cfg.seed) if cfg.kind == "heads" else {}

    @property
    def scenes(self) -> Scenes:
        """The scenes; DataError for other kinds."""
        if not isinstance(self.shapes, Scenes):
            raise DataError(f"kind={self.cfg.kind} has no scenes: use a data set of kind=scenes")
        return self.shapes

    def render(
        self, object_ids: Int[Tensor, " v"], cameras: Cameras, resolution: int
    ) -> ObjectView:
        """Render view i of object `object_ids[i]` from camera i."""
        cfg, shapes = self.cfg, self.shapes.select(object_ids)
        if isinstance(shapes, Scenes):
            return shapes.render(cameras, resolution, cfg.far).objects
        if isinstance(shapes, Solids):
            return shapes.render(cameras, resolution, cfg.far)
        return render_ellipsoids(shapes, cameras, resolution, cfg.background_value, cfg.far)

    def level(
        self, object_ids: Int[Tensor, " m"], points: Float[Tensor, "m n 3"]
    ) -> Float[Tensor, "m n"]:
        """Level function at points: positive inside an object, 0 on its surface."""
        shapes = self.shapes.select(object_ids)
        return level_of(shapes, points) if isinstance(shapes, Ellipsoids) else shapes.level(points)


def _draw_waves(cfg: TextureConfig, num: int, seed: int) -> Float[Tensor, "m 8 4"]:
    """Draw eight plane waves per object; those of object i do not depend on `num`."""
    draws = Draws(seed).scope("texture")
    directions = torch.stack([draws.at(i).normal("directions", (8, 3)) for i in range(num)])
    phases = torch.stack([draws.at(i).uniform("phases", (8, 1)) for i in range(num)])
    directions = torch.nn.functional.normalize(directions, dim=-1)
    return torch.cat([directions / cfg.wavelength, phases], dim=-1)


def sample_cameras(cfg: SynthConfig, num: int, draws: Draws) -> Cameras:
    """Draw cameras on a sphere that look at the origin."""
    if cfg.kind != "figures" or cfg.azimuth or cfg.elevation:
        x, y = cfg.distributions
        angles = x.draw("azimuth", num, draws), y.draw("elevation", num, draws)
        return Cameras.on_sphere(*angles, cfg.radius, cfg.focal)
    # Data sets older than other distributions keep their draws.
    u = draws.uniform("cameras", (num, 2))
    low, high = np.sin(cfg.elevation_min), np.sin(cfg.elevation_max)
    elevation = torch.asin(low + (high - low) * u[:, 1])
    return Cameras.on_sphere(2 * torch.pi * u[:, 0], elevation, cfg.radius, cfg.focal)


def make_synth(cfg: SynthConfig, out: Path, overwrite: bool = False) -> None:
    """Write images, labels, splits, and depth and mask of each image in `truth/NAME.npy`.

    Scenes add the instance mask to it, and `placements` to `dataset.json`.
    """
    objects = SynthObjects(cfg)
    ids = torch.arange(cfg.num_images) % cfg.num_objects
    cameras = sample_cameras(cfg, cfg.num_images, Draws(cfg.seed).scope("synth"))
    labels = cameras.to_label().double().numpy()
    placements: list[list[dict[str, Any]]] = []
    with write_dataset(out, overwrite) as writer, counting("images", cfg.num_images) as show:
        for first in range(0, cfg.num_images, 256):
            chunk = slice(first, first + 256)
            seen_by = cameras.select(chunk)
            if cfg.kind == "scenes":
                scenes = objects.scenes.select(ids[chunk])
                scene_view = scenes.render(seen_by, cfg.resolution, cfg.far)
                view, extra = scene_view.objects, [scene_view.instances.float()]
                placements += describe(scenes, seen_by, scene_view)
            else:
                view, extra = objects.render(ids[chunk], seen_by, cfg.resolution), []
            pixels = rearrange(to_uint8(view.image), "v c h w -> v h w c").numpy()
            truth = torch.cat([view.depth, view.mask, *extra], dim=1).numpy()
            for i, (image, depth_and_mask) in enumerate(zip(pixels, truth, strict=True), first):
                test = int(ids[i]) >= cfg.num_objects - cfg.num_test
                name = f"images/{i:06d}.png"
                writer.image(name, image, labels[i], "test" if test else "train", int(ids[i]))
                writer.array(f"truth/{i:06d}.npy", depth_and_mask)
                show(i + 1)
        writer.metadata("synth", _stored(cfg))
        of_images = {f"images/{i:06d}.png": placed for i, placed in enumerate(placements)}
        writer.metadata("placements", of_images)


def _stored(cfg: SynthConfig) -> dict[str, Any]:
    """Return the options, without later ones if none is set: older versions wrote equal bytes."""
    old = all(getattr(cfg, name) == getattr(SynthConfig, name) for name in _LATER)
    dropped = (*(_LATER if old else ()), *(k for k in _OF_ONE_KIND if k != cfg.kind))
    dropped += () if cfg.texture else ("texture",)
    return {k: v for k, v in dataclasses.asdict(cfg).items() if k not in dropped}


def read_truth(
    dataset: ImageDataset, index: int
) -> tuple[Float[Tensor, "1 h w"], Float[Tensor, "1 h w"]]:
    """Return depth along the ray and mask of an image, at the resolution of the files."""
    truth = _truth(dataset, index)
    return truth[:1], truth[1:2]


def read_scene(
    dataset: ImageDataset, index: int
) -> tuple[Int64[Tensor, "1 h w"], Float[Tensor, "n 9"]]:
    """Return the instance mask of an image of scenes, and its objects, mirrored with the image.

    The mask is 0 for the background and i + 1 for object i; objects as `ImageDataset.placements`.
    """
    objects = dataset.placements(index)
    if not len(objects):
        name = dataset.names[index % len(dataset.names)]
        raise DataError(f"{dataset.name} has no `placements` of {name}: use data of kind=scenes")
    return _truth(dataset, index)[2:].long(), objects


def _truth(dataset: ImageDataset, index: int) -> Float[Tensor, "c h w"]:
    name = dataset.names[index % len(dataset.names)]
    file = name.replace("images/", "truth/").replace(".png", ".npy")
    values: Any = np.load(io.BytesIO(dataset.source.read(file)), allow_pickle=False)
    truth = torch.from_numpy(values)
    return truth.flip(-1) if index >= len(dataset.names) else truth
