"""The input of metrics: real images, and items (latents or objects) rendered from cameras."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from lightning_gan3d.cameras import LABEL_DIM, Cameras, Orbit
from lightning_gan3d.contract import DensityScene, Field
from lightning_gan3d.draws import Draws
from lightning_gan3d.generator import Generator
from lightning_gan3d.images import Images
from lightning_gan3d.metrics.config import PosesConfig
from renderers.density_grid import Axes, density_layers
from representations.solid import Solid
from representations.splats import Splats

SAME_AS_OWN = "the generator ignores the camera, so the value is that without `3d`"
BOX_SHARE = 32
"""Occupancy is the opacity over 1/32 of the box edge, for any size of the box."""
SPLAT_SURFACE = 0.3
"""Sum of opacities at the surface of Gaussians, as SuGaR (Guédon and Lepetit 2024). Silhouettes of
trained `demo/splats` overlap with renderings (opacity >= 0.5) by 0.96 (IoU); by 0.92 at 0.5."""


@runtime_checkable
class ImageSet(Protocol):
    """Real images with the (n, 25) labels of their cameras."""

    resolution: int
    fingerprint: str

    @property
    def labels(self) -> Any:
        """Labels of the cameras."""
        ...

    def __len__(self) -> int:
        """Count the images."""
        ...

    def images(self, indices: Any) -> UInt8[Tensor, "n 3 h w"]:
        """Read images by their indices."""
        ...


@dataclass(frozen=True, eq=False)
class Volume:
    """The interiors of b items, which can be queried at points."""

    level: Callable[[Float[Tensor, "b n 3"]], Float[Tensor, "b n"]]
    """Density or level set: grows toward the inside, differentiable in the points."""
    occupancy: Callable[[Tensor], Tensor]
    """Maps the level to [0, 1]; the surface is at 0.5."""
    box: float
    """Edge of the cube about the origin that holds the items, in world units."""
    layers: Callable[[Axes], Iterator[Float[Tensor, "y z"]]] | None = None
    """Level of one item at the points of a grid; None: query it by points."""
    has_normals: bool = True
    """Whether the level falls across the rendered surface. That of Gaussians is largest there."""

    def normals(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """Return outward unit normals; zero if the level is constant."""
        with torch.enable_grad():
            at = points.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.level(at).sum(), at)
        return -torch.nn.functional.normalize(gradient.double(), dim=-1, eps=1e-30).to(points)


def density_occupancy(sigma: Tensor, box: float) -> Tensor:
    """Opacity of a density over 1/32 of the box edge."""
    return 1 - torch.exp(-sigma * (box / BOX_SHARE))


def density_of(scene: DensityScene) -> Volume:
    """Return the density as level and as occupancy: per world unit, or the sum of opacities."""
    if isinstance(scene, Splats):
        return _volume_of_splats(scene, lambda density: density)
    assert isinstance(scene, Field), f"{type(scene).__name__}: unknown unit of density"
    return _volume(scene, scene.sigma, lambda sigma: sigma)


def volume_of(scene: DensityScene) -> Volume:
    """Return the interior of a scene: where a field is opaque, or its signed distance is < 0.

    Of a solid, where the interpolated occupancy is above 0.5; of Gaussians, where their opacities
    sum up to more than `SPLAT_SURFACE`.
    """
    if isinstance(scene, Splats):
        return _volume_of_splats(scene, lambda x: 1 - torch.exp2(-x / SPLAT_SURFACE))
    assert isinstance(scene, Field), f"{type(scene).__name__}: unknown unit of density"
    if isinstance(scene, Solid):
        device = scene.tensors()[0].device
        return Volume(lambda p: scene.soft_occupancy(p.to(device)), lambda x: x, scene.box)
    if scene.sdf_beta is not None:
        # Equally smooth for marching cubes at any beta.
        sharpness = BOX_SHARE / scene.box
        return _volume(scene, torch.neg, lambda level: torch.sigmoid(sharpness * level))
    return _volume(scene, scene.sigma, lambda sigma: density_occupancy(sigma, scene.box))


def _volume_of_splats(scene: Splats, occupancy: Callable[[Tensor], Tensor]) -> Volume:
    device = scene.means.device
    return Volume(
        lambda p: scene.density(p.to(device))[..., 0],
        occupancy,
        scene.box,
        lambda axes: scene.density_layers(_moved(axes, device)),
        has_normals=False,
    )


def _moved(axes: Axes, device: torch.device) -> Axes:
    x, y, z = axes
    return x.to(device), y.to(device), z.to(device)


def _volume(
    field: Field, level: Callable[[Tensor], Tensor], occupancy: Callable[[Tensor], Tensor]
) -> Volume:
    """Return a volume whose level is a function of the raw density."""
    device = field.tensors()[0].device

    def layers(axes: Axes) -> Iterator[Tensor]:
        return map(level, density_layers(field, _moved(axes, device)))

    return Volume(
        lambda p: level(field.density(p.to(device)))[..., 0], occupancy, field.box, layers
    )


class ViewSource(ABC):
    """Items to render from cameras. Item i does not depend on its batch."""

    fixed_cameras: ClassVar[bool] = False
    """Whether each item has one view only, that of its own camera, as a stored image."""

    @property
    def protocol(self) -> str:
        """Cameras, truncation and seed, for the notes of metrics."""
        return type(self).__name__

    @abstractmethod
    def base(self, items: Int64[Tensor, " b"]) -> Cameras:
        """Return each item's own camera; NaN if unknown."""

    @abstractmethod
    def views(self, items: Int64[Tensor, " b"], cameras: Cameras) -> Images:
        """Render each item from its k = v / b cameras; camera i sees item i // k."""

    def volume(self, items: Int64[Tensor, " b"]) -> Volume | None:  # noqa: ARG002  # for subclasses
        """Return the interiors of items; None if they cannot be queried at points."""
        return None


def draw_labels(
    labels: Float[Tensor, "n label_dim"], items: Int64[Tensor, " b"], seed: int
) -> Float[Tensor, "b label_dim"]:
    """Draw the label of each item; a function of (seed, item) alone."""
    draws = Draws(seed).scope("evaluation")
    rows = [draws.at(int(i)).integers("label", len(labels), (1,)) for i in items]
    return labels[torch.cat(rows)]


@dataclass(frozen=True, eq=False)
class GeneratorSource(ViewSource):
    """Latents of a generator. Latent and label of item i depend on (seed, i) alone.

    The label stays fixed while the camera moves, so that conditioning cannot cause a difference
    between views. With `follow`, each view is conditioned on its own camera instead; with
    `frontal`, all items on one camera.
    """

    generator: Any
    """A `Generator`, or a stand-in of tests and benchmarks that only has `views`."""
    z_dim: int
    labels: Float[Tensor, "n label_dim"]
    """Labels from which each item draws one."""
    seed: int = 0
    device: torch.device | str = "cpu"
    cameras_from: str = "cameras of training images"
    """Whose cameras the labels are, for notes."""
    follow: bool = False
    """Whether the label follows the camera."""
    frontal: Float[Tensor, "1 25"] | None = None
    """Label of the camera on which the mapping is conditioned; None: that of the item."""

    @property
    def protocol(self) -> str:
        """Cameras, truncation and seed."""
        label = "" if self.frontal is None else ", mapping conditioned on the frontal camera"
        return f"{self.cameras_from}{label}, no truncation, seed {self.seed}"

    def latents(self, items: Int64[Tensor, " b"]) -> Float[Tensor, "b z_dim"]:
        """Return the latents of items."""
        draws = Draws(self.seed).scope("evaluation")
        z = [draws.at(int(i)).normal("z", (1, self.z_dim)) for i in items]
        return torch.cat(z).to(self.device)

    def label(self, items: Int64[Tensor, " b"]) -> Float[Tensor, "b label_dim"]:
        """Return the labels of items."""
        return draw_labels(self.labels, items, self.seed).to(self.device)

    def condition(self, items: Int64[Tensor, " b"]) -> Float[Tensor, "b label_dim"]:
        """Return the labels on which the mapping is conditioned."""
        label = self.label(items)
        camera = label if self.frontal is None else self.frontal.to(label).expand(len(label), -1)
        return torch.cat([camera[:, :LABEL_DIM], label[:, LABEL_DIM:]], dim=1)

    def base(self, items: Int64[Tensor, " b"]) -> Cameras:
        """Return the cameras of the items' labels."""
        return Cameras.from_label(self.label(items))

    def views(self, items: Int64[Tensor, " b"], cameras: Cameras) -> Images:
        """Render latents without gradient."""
        cameras = cameras.to(self.device)
        z, label = self.latents(items), self.condition(items)
        if self.follow:
            k = len(cameras.cam2world) // len(items)
            z, label = z.repeat_interleave(k, dim=0), cameras.to_label()
        with torch.no_grad():
            images: Images = self.generator.views(z, label, cameras)
        return images

    def volume(self, items: Int64[Tensor, " b"]) -> Volume | None:
        """Return the densities of latents; None if the scenes have no density."""
        with torch.no_grad():
            ws = self.generator.mapping(self.latents(items), self.condition(items))
            scene = self.generator.scene(ws)
        return volume_of(scene) if isinstance(scene, DensityScene) else None


def frontal_source(source: ViewSource) -> ViewSource | str:
    """Condition all latents on the frontal camera, the middle of the labels' orbit.

    Returns the source itself if its generator ignores the camera, or the reason if it is missing.
    """
    if not isinstance(source, GeneratorSource):
        return "the source has no conditioning label"
    if isinstance(source.generator, Generator):
        if source.generator.cfg.view_in_label:
            return "the label is the view: no other camera can be rendered with a fixed label"
        if source.generator.cfg.mapping.condition != "camera":
            return source
    orbit = Orbit.of_labels(source.labels[:, :LABEL_DIM])
    return replace(source, frontal=orbit.cameras(1).to_label())


@dataclass(frozen=True, eq=False)
class ObjectSource(ViewSource):
    """Objects with ground truth: the ceiling of view metrics.

    `render(object_ids, cameras, resolution)` returns image in [-1, 1], depth along the rays and
    mask, as `SynthObjects.render` does. Item i is the i-th of `objects`; its own camera is one of
    `labels`.
    """

    render: Callable[[Tensor, Cameras, int], Any]
    objects: Sequence[int]
    labels: Float[Tensor, "n label_dim"]
    resolution: int
    seed: int = 0
    level: Callable[[Tensor, Tensor], Tensor] | None = None
    """`level(object_ids, points)`, positive inside; None if unknown."""
    box: float = 2.0
    """Edge of the cube about the origin that holds the objects."""

    def base(self, items: Int64[Tensor, " b"]) -> Cameras:
        """Return one camera of the labels per item."""
        return Cameras.from_label(draw_labels(self.labels, items, self.seed))

    def views(self, items: Int64[Tensor, " b"], cameras: Cameras) -> Images:
        """Render the objects."""
        k = len(cameras.cam2world) // len(items)
        ids = self._ids(items).repeat_interleave(k)
        view = self.render(ids, cameras, self.resolution)
        return Images(view.image, view.image, view.depth, view.mask)

    def volume(self, items: Int64[Tensor, " b"]) -> Volume | None:
        """Return the level sets of the objects; None if unknown."""
        if self.level is None:
            return None
        level, ids = self.level, self._ids(items)
        # The sigmoid is smooth enough for marching cubes to interpolate on a coarse grid.
        return Volume(lambda points: level(ids, points), lambda x: torch.sigmoid(4 * x), self.box)

    def _ids(self, items: Int64[Tensor, " b"]) -> Int64[Tensor, " b"]:
        return torch.tensor([self.objects[int(i) % len(self.objects)] for i in items])


@dataclass(frozen=True, eq=False)
class PosedSource(ViewSource):
    """Another source with drawn cameras: each item has a camera of a given distribution.

    Distance from the origin, intrinsics and the conditioning label are those of the item.
    """

    source: ViewSource
    cfg: PosesConfig
    seed: int = 0

    @property
    def protocol(self) -> str:
        """Cameras, truncation and seed."""
        return f"{self.cfg.protocol}, no truncation, seed {self.seed}"

    def base(self, items: Int64[Tensor, " b"]) -> Cameras:
        """Draw a camera for each item, a function of (seed, item) alone."""
        own = self.source.base(items)
        draws, cfg = Draws(self.seed).scope("evaluation/poses"), self.cfg
        if cfg.kind == "gaussian":
            drawn = [draws.at(int(i)).normal("angles", (2,)) for i in items]
        else:
            drawn = [2 * draws.at(int(i)).uniform("angles", (2,)) - 1 for i in items]
        angles = torch.stack(drawn) * torch.tensor([cfg.azimuth, cfg.elevation])
        # Stay off the poles, where "up" is undefined.
        elevation = (angles[:, 1] + cfg.mean_elevation).clamp(-1.5, 1.5)
        cam2world = Cameras.on_sphere(angles[:, 0], elevation, 1.0).cam2world.to(own.cam2world)
        cam2world[:, :3, 3] *= own.origins.norm(dim=1, keepdim=True)
        return Cameras(cam2world, own.intrinsics)

    def views(self, items: Int64[Tensor, " b"], cameras: Cameras) -> Images:
        """Render the items."""
        return self.source.views(items, cameras)
