"""Sources of views for tests: procedural figures, and disturbances put on them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.synthetic.synth import SynthConfig, SynthObjects, sample_cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images, to_float, to_uint8
from lightning_gan3d.metrics.consistency.warp import carry
from lightning_gan3d.metrics.sources import ObjectSource

SYNTH = SynthConfig(num_images=200, num_objects=40)


def figure_labels(num: int = 200) -> Tensor:
    return sample_cameras(SYNTH, num, Draws(1)).to_label()


def figures(resolution: int = 32) -> ObjectSource:
    objects = SynthObjects(SYNTH)
    return ObjectSource(objects.render, range(40), figure_labels(), resolution, level=objects.level)


@dataclass
class Disturbed:
    """Another source, with its views changed by `change(source, items, cameras)`."""

    source: ObjectSource
    change: Callable[[ObjectSource, Tensor, Cameras], Images]

    def base(self, items: Tensor) -> Cameras:
        return self.source.base(items)

    def views(self, items: Tensor, cameras: Cameras) -> Images:
        return self.change(self.source, items, cameras)


def scale_depth(source: ObjectSource, items: Tensor, cameras: Cameras) -> Images:
    found = source.views(items, cameras)
    return found._replace(depth=found.depth * 1.1)


def flatten_depth(source: ObjectSource, items: Tensor, cameras: Cameras) -> Images:
    found = source.views(items, cameras)
    return found._replace(depth=torch.full_like(found.depth, SYNTH.radius))


def turn_pose(source: ObjectSource, items: Tensor, cameras: Cameras) -> Images:
    """Each view is from a camera turned by its own few degrees from the one asked for."""
    angle = 0.2 * Draws(5).normal("turn", (len(cameras.cam2world),))
    turned = [carry(cameras.select(slice(i, i + 1)), angle[i : i + 1]) for i in range(len(angle))]
    return source.views(items, Cameras(*(torch.cat(x) for x in zip(*turned, strict=True))))


def swap_views(source: ObjectSource, items: Tensor, cameras: Cameras) -> Images:
    """The images of an item in the reverse order of its cameras; depth stays where it was."""
    found = source.views(items, cameras)
    k = len(cameras.cam2world) // len(items)
    image = found.image.unflatten(0, (len(items), k)).flip(1).flatten(0, 1)
    return found._replace(image=image, image_raw=image)


def change_colour(source: ObjectSource, items: Tensor, cameras: Cameras) -> Images:
    """Each view of an item in a tint of its own, as a 2D generator that follows only the pose."""
    found = source.views(items, cameras)
    tint = 0.15 * Draws(5).normal("tint", (len(found.image), 3, 1, 1))
    image = (found.image + tint * (found.opacity > 0)).clamp(-1, 1)
    return found._replace(image=image, image_raw=image)


class RealFigures:
    """Stored images of the figures with their labels, as a data set gives them."""

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
