"""What measures look at: items, be it latents or real objects, seen from any camera."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.contract import Field, Scene
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images
from lightning_gan3d.metrics.geometry.volume import Volume, opaque_part


@runtime_checkable
class ViewSource(Protocol):
    """Items that can be seen from any camera: a generator's latents, or objects with truth."""

    def base(self, items: Int64[Tensor, " b"]) -> Cameras:
        """Return each item's own camera, the one its label names."""
        ...

    def views(self, items: Int64[Tensor, " b"], cameras: Cameras) -> Images:
        """See each item from its k = v / b cameras; camera i sees item i // k."""
        ...


@runtime_checkable
class Told(Protocol):
    """A source that tells its part of the protocol."""

    @property
    def protocol(self) -> str:
        """Cameras, truncation and seed, in words."""
        ...


@runtime_checkable
class ImageSet(Protocol):
    """Real images with the (n, 25) labels of their cameras."""

    labels: Any
    resolution: int
    fingerprint: str

    def __len__(self) -> int:
        """Count the images."""
        ...

    def images(self, indices: Any) -> UInt8[Tensor, "n 3 h w"]:
        """Read some images."""
        ...


@runtime_checkable
class SeesLatents(Protocol):
    """The part of a `Generator` that measures need."""

    def views(self, z: Tensor, label: Tensor, cameras: Cameras) -> Images:
        """See each latent from its k = v / b cameras."""
        ...


@runtime_checkable
class MakesScenes(Protocol):
    """The part of a `Generator` that gives the volume of its latents."""

    def mapping(self, z: Tensor, label: Tensor) -> Tensor:
        """Return the styles of latents."""
        ...

    def scene(self, ws: Tensor) -> Scene:
        """Return the scenes of styles."""
        ...


@dataclass(frozen=True, eq=False)
class GeneratorSource:
    """A generator as a source of views.

    Item i is a latent and a label that depend on (seed, i) alone. The label stays that of the item
    while the camera moves, so that a change between views cannot come from the conditioning; a
    generator that knows the camera only through its label replaces it by itself. With `follow` each
    view is conditioned on its own camera instead, and the scene made anew for it.
    """

    generator: SeesLatents
    z_dim: int
    labels: Float[Tensor, "n 25"]
    """Labels of the training set, of which every item draws one."""
    seed: int = 0
    device: torch.device | str = "cpu"
    follow: bool = False
    """Whether the label follows the camera."""

    @property
    def protocol(self) -> str:
        """Cameras, truncation and seed, in words."""
        return f"cameras and labels of training images, no truncation, seed {self.seed}"

    def _draw(self, items: Int64[Tensor, " b"], draw: Callable[[Draws], Tensor]) -> Tensor:
        draws = Draws(self.seed).scope("evaluation")
        return torch.cat([draw(draws.at(int(i))) for i in items])

    def latents(self, items: Int64[Tensor, " b"]) -> Float[Tensor, "b z_dim"]:
        """Return the latents of the items."""
        return self._draw(items, lambda d: d.normal("z", (1, self.z_dim))).to(self.device)

    def label(self, items: Int64[Tensor, " b"]) -> Float[Tensor, "b 25"]:
        """Return the labels of the items."""
        rows = self._draw(items, lambda d: d.integers("label", len(self.labels), (1,)))
        return self.labels[rows].to(self.device)

    def base(self, items: Int64[Tensor, " b"]) -> Cameras:
        """Return the cameras that the items' labels name."""
        return Cameras.from_label(self.label(items))

    def views(self, items: Int64[Tensor, " b"], cameras: Cameras) -> Images:
        """See the latents; no gradient is kept."""
        cameras = cameras.to(self.device)
        z, label = self.latents(items), self.label(items)
        if self.follow:
            k = len(cameras.cam2world) // len(items)
            z, label = z.repeat_interleave(k, dim=0), cameras.to_label()
        with torch.no_grad():
            return self.generator.views(z, label, cameras)

    def volume(self, items: Int64[Tensor, " b"]) -> Volume | None:
        """Return the density of the latents; None where the generator's scenes are no fields."""
        if not isinstance(self.generator, MakesScenes):
            return None
        with torch.no_grad():
            ws = self.generator.mapping(self.latents(items), self.label(items))
            scene = self.generator.scene(ws)
        if not isinstance(scene, Field):
            return None
        field = scene

        def level(points: Tensor) -> Tensor:
            return field.sigma(field.density(points.to(self.device)))[..., 0]

        return Volume(level, lambda sigma: opaque_part(sigma, field.box), field.box)


@dataclass(frozen=True, eq=False)
class ObjectSource:
    """Objects with ground truth as a source of views: the yardstick of the consistency measures.

    `render(object_ids, cameras, resolution)` returns image in [-1, 1], depth along the rays and
    mask, as `SynthObjects.render` does. Item i is the i-th of `objects`,
    from a camera of `labels`.
    """

    render: Callable[[Tensor, Cameras, int], Any]
    objects: Sequence[int]
    labels: Float[Tensor, "n 25"]
    resolution: int
    seed: int = 0
    level: Callable[[Tensor, Tensor], Tensor] | None = None
    """`level(object_ids, points)`, positive inside; None where the objects' volume is unknown."""
    box: float = 2.0
    """Edge of the cube about the origin that holds the objects."""

    def base(self, items: Int64[Tensor, " b"]) -> Cameras:
        """Return one of the labels' cameras for each item."""
        draws = Draws(self.seed).scope("evaluation")
        rows = [draws.at(int(i)).integers("label", len(self.labels), (1,)) for i in items]
        return Cameras.from_label(self.labels[torch.cat(rows)])

    def views(self, items: Int64[Tensor, " b"], cameras: Cameras) -> Images:
        """Render the objects."""
        k = len(cameras.cam2world) // len(items)
        chosen = self._objects(items)
        view = self.render(chosen.repeat_interleave(k), cameras, self.resolution)
        return Images(view.image, view.image, view.depth, view.mask)

    def volume(self, items: Int64[Tensor, " b"]) -> Volume | None:
        """Return the objects' level sets; None where they are unknown."""
        if self.level is None:
            return None
        level, chosen = self.level, self._objects(items)
        return Volume(lambda points: level(chosen, points), _soft_step, self.box)

    def _objects(self, items: Int64[Tensor, " b"]) -> Int64[Tensor, " b"]:
        return torch.tensor([self.objects[int(i) % len(self.objects)] for i in items])


def _soft_step(level: Tensor) -> Tensor:
    """From a level set to solidity, smooth enough for a mesh to be interpolated on a grid."""
    return torch.sigmoid(4 * level)
