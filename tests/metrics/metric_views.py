"""Sources of views for tests: procedural figures, perturbed ones, and contexts around them."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.synthetic.synth import SynthConfig, SynthObjects, sample_cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images, to_float, to_uint8
from lightning_gan3d.metrics.config import EvaluationConfig
from lightning_gan3d.metrics.context import EvaluationContext
from lightning_gan3d.metrics.sources import ObjectSource, ViewSource

SYNTH = SynthConfig(num_images=200, num_objects=40)


def figure_labels(num: int = 200) -> Tensor:
    return sample_cameras(SYNTH, num, Draws(1)).to_label()


def figures(resolution: int = 32) -> ObjectSource:
    objects = SynthObjects(SYNTH)
    return ObjectSource(objects.render, range(40), figure_labels(), resolution, level=objects.level)


@dataclass
class Perturbed(ViewSource):
    """Another source, with its views changed by `change(source, items, cameras)`."""

    source: ViewSource
    change: Callable[[ViewSource, Tensor, Cameras], Images]

    def base(self, items: Tensor) -> Cameras:
        return self.source.base(items)

    def views(self, items: Tensor, cameras: Cameras) -> Images:
        return self.change(self.source, items, cameras)


OFF = {
    **dict.fromkeys(
        (
            *("swd", "distribution", "consistency", "refit", "features", "pose", "attributes"),
            *("depth", "parts", "masks", "geometry", "motion", "samples"),
        )
    ),
    "following": False,
    "frontal": False,
}
"""Options that turn all metrics off."""


class Labels:
    """A data set of which only the cameras are read."""

    resolution, fingerprint = 32, "labels"

    def __init__(self, labels: Tensor | None = None) -> None:
        self.labels = figure_labels() if labels is None else labels

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor) -> Tensor:
        raise AssertionError(indices)


def context(source: ViewSource, train=None, test=None, **options) -> EvaluationContext:
    """A context with all metrics off but those that `options` turn on.

    Options are fields of the configuration or of the context.
    """
    names = {f.name for f in fields(EvaluationConfig)}
    cfg = EvaluationConfig(**OFF | {k: v for k, v in options.items() if k in names})
    others = {k: v for k, v in options.items() if k not in names}
    return EvaluationContext(source, train or Labels(), test, cfg, **others)


def scale_depth(source: ViewSource, items: Tensor, cameras: Cameras) -> Images:
    views = source.views(items, cameras)
    return views._replace(depth=views.depth * 1.1)


def flatten_depth(source: ViewSource, items: Tensor, cameras: Cameras) -> Images:
    views = source.views(items, cameras)
    return views._replace(depth=torch.full_like(views.depth, SYNTH.radius))


def turn_pose(source: ViewSource, items: Tensor, cameras: Cameras) -> Images:
    """Rotate the camera of each view by its own few degrees."""
    angle = 0.2 * Draws(5).normal("turn", (len(cameras.cam2world),))
    turned = [cameras.select(slice(i, i + 1)).rotate_y(angle[i : i + 1]) for i in range(len(angle))]
    return source.views(items, Cameras(*(torch.cat(x) for x in zip(*turned, strict=True))))


def swap_views(source: ViewSource, items: Tensor, cameras: Cameras) -> Images:
    """The images of an item in the reverse order of its cameras; depth is unchanged."""
    views = source.views(items, cameras)
    k = len(cameras.cam2world) // len(items)
    image = views.image.unflatten(0, (len(items), k)).flip(1).flatten(0, 1)
    return views._replace(image=image, image_raw=image)


def change_colour(source: ViewSource, items: Tensor, cameras: Cameras) -> Images:
    """Tint each view of an item differently, as a 2D generator that only follows the pose."""
    views = source.views(items, cameras)
    tint = 0.15 * Draws(5).normal("tint", (len(views.image), 3, 1, 1))
    image = (views.image + tint * (views.opacity > 0)).clamp(-1, 1)
    return views._replace(image=image, image_raw=image)


class RealFigures:
    """Images of the figures with their labels, as a data set."""

    resolution = 32

    def __init__(self, num: int, seed: int) -> None:
        self.labels = sample_cameras(SYNTH, num, Draws(seed)).to_label()
        self.fingerprint = f"figures-{num}-{seed}"
        cameras = Cameras.from_label(self.labels)
        view = SynthObjects(SYNTH).render(torch.arange(num) % 40, cameras, self.resolution)
        self._images = to_uint8(view.image)

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor) -> Tensor:
        return self._images[torch.as_tensor(indices)]

    def floats(self) -> Tensor:
        return to_float(self._images)
