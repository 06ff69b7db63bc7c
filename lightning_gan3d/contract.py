"""Base classes of scenes, representations and renderers.

A *representation* computes a *scene* from style vectors; a *renderer* renders a scene from cameras.
Most scenes are *fields*, which can be queried at points. A set of Gaussians has a density only, a
picture not even that.

Shapes: b batch of scenes, v = b * k views (camera i sees scene i // k), r rays, n points, c
channels.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

import torch
import torch.utils._pytree as pytree
from annotated_types import Ge, Gt, Interval
from jaxtyping import Float
from torch import Tensor, nn

from lightning_gan3d.cameras import Cameras, Rays
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Rendering, Upscaled
from lightning_gan3d.networks.decoder import DecoderConfig
from lightning_gan3d.networks.layers import FullyConnected
from lightning_gan3d.networks.layers import NoiseMode as NoiseMode  # part of the contract
from lightning_gan3d.networks.lowering import Lowered, NotLowered
from lightning_gan3d.networks.mapping import Code as Code  # part of the contract
from lightning_gan3d.ranges import Positive

SomeScene = TypeVar("SomeScene", bound="Scene")

MIN_BETA = 1e-4
"""Lower bound of the learnt beta of `sdf`, in world units: sigma stays below 1e4 (VolSDF)."""


class FieldSample(NamedTuple):
    """Density before activation, and features in [0, 1] with rgb first, at points."""

    sigma_raw: Float[Tensor, "b n 1"]
    feature: Float[Tensor, "b n c"]


class Scene:
    """Base class of scenes: frozen dataclasses of tensors batched over b, registered as pytrees.

    Declare subclasses `@dataclass(frozen=True, eq=False)`. Tensors, nested scenes and tuples of
    scenes are leaves: they depend on the latent and count as scene memory. Other fields (sizes, a
    shared decoder) are context, the same for the whole batch.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Register the subclass as a pytree node."""
        super().__init_subclass__(**kwargs)
        pytree.register_pytree_node(
            cls,
            _flatten_scene,
            _unflatten_scene,
            serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
        )

    def map(self: SomeScene, fn: Callable[[Tensor], Tensor]) -> SomeScene:
        """Apply `fn` to every tensor."""
        return pytree.tree_map(fn, self)  # type: ignore[no-any-return]  # torch's pytree is untyped here

    def statistics(self) -> dict[str, Tensor]:
        """Return scalars to log in training, by name."""
        return {}

    def tensors(self) -> list[Tensor]:
        """Return all tensors."""
        return pytree.tree_leaves(self)

    def detach(self: SomeScene) -> SomeScene:
        """Detach all tensors from the autograd graph."""
        return self.map(Tensor.detach)

    def to(
        self: SomeScene, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> SomeScene:
        """Move or cast the scene; only floating-point tensors change dtype."""
        return self.map(
            lambda x: x.to(device=device, dtype=dtype if x.is_floating_point() else None)
        )

    def index(self: SomeScene, items: slice | Tensor) -> SomeScene:
        """Select scenes of the batch."""
        return self.map(lambda x: x[items])

    @property
    def batch(self) -> int:
        """Number of scenes, b."""
        return int(self.tensors()[0].shape[0])

    @property
    def nbytes(self) -> int:
        """Memory of the whole batch in bytes, as stored."""
        return sum(x.numel() * x.element_size() for x in self.tensors())


def _flatten_scene(
    scene: Scene,
) -> tuple[list[Any], tuple[type[Scene], tuple[str, ...], dict[str, Any]]]:
    values = {f.name: getattr(scene, f.name) for f in dataclasses.fields(scene)}  # type: ignore[arg-type]  # subclasses are dataclasses
    names = tuple(k for k, v in values.items() if isinstance(v, (Tensor, Scene)) or _are_scenes(v))
    return [values[k] for k in names], (
        type(scene),
        names,
        {k: v for k, v in values.items() if k not in names},
    )


def _are_scenes(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(v, Scene) for v in value)


def _unflatten_scene(leaves: Any, context: Any) -> Scene:
    cls, names, rest = context
    scene: Scene = cls(**dict(zip(names, leaves, strict=True)), **rest)
    return scene


@dataclasses.dataclass(frozen=True)
class DensityConfig:
    """Density activation: sigma = scale * activation(sigma_raw), or that of a signed distance."""

    activation: Literal["softplus", "relu", "exp", "sdf"] = "softplus"
    """`softplus` is softplus(x - 1), as in EG3D: the shift steadies the start of training. `sdf`:
    sigma_raw is the signed distance d to the surface in world units, negative inside, and sigma =
    sigmoid(-d / beta) / beta (StyleSDF, Or-El et al. 2022) with one learnt beta. d starts as
    |x| - prior_radius * box / 2, a sphere; `scale` and `prior_strength` are of the others."""
    sdf_beta: Annotated[float, Gt(MIN_BETA)] = 0.1
    """Start of the beta of `sdf`, the width of the surface in world units."""
    scale: Positive = 1.0
    """Density per world unit at an activation of 1."""
    prior_strength: float = 0.0
    """Adds prior_strength * (prior_radius - |x| * 2 / box) to sigma_raw: a ball. 0: none."""
    prior_radius: Annotated[float, Interval(gt=0, le=2)] = 0.6
    """Radius of the ball, as a share of half the box."""


@dataclasses.dataclass(frozen=True)
class SceneConfig:
    """Options that all representations of a comparison share: box, features, decoder, density."""

    box: Positive = 1.0
    """Edge of the cube that a field spans, in world units: [-box/2, box/2] on each axis."""
    feature_dim: Annotated[int, Ge(3)] = 32
    """Channels of a rendering, rgb first. 3 without super-resolution."""
    decoder: DecoderConfig = DecoderConfig()
    """The decoder of the explicit representations."""
    density: DensityConfig = DensityConfig()
    """The density activation."""


class DensityScene(Scene):
    """A scene whose density can be queried at points: a field, or a set of Gaussians.

    Meshes and metrics of geometry use it; `metrics/sources.py` says which density is opaque.
    """

    scene_cfg: SceneConfig

    @property
    def box(self) -> float:
        """Edge of the cube that holds the scene, in world units; matter outside is left out."""
        return self.scene_cfg.box

    def density(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 1"]:
        """Query the density, in a unit of the subclass; twice differentiable in the points."""
        raise NotImplementedError(f"{type(self).__name__} must define density(points)")


class Field(DensityScene):
    """A scene that can be queried at points; subclasses have a field `scene_cfg`."""

    needs_dirs: ClassVar[bool] = False
    activated: ClassVar[bool] = True
    """Whether `scene_cfg.density` maps raw densities and has their prior; else the field has its
    own `sigma`."""
    sdf_beta: Float[Tensor, " b"] | None = None
    """Of `sdf`, the same in all scenes; None for other densities. Fields that support `sdf` declare
    it, and their representations pass `Representation.sdf_beta`."""

    def __call__(
        self, points: Float[Tensor, "b n 3"], dirs: Float[Tensor, "b n 3"] | None = None
    ) -> FieldSample:
        """Query density and features; renderers, regularisers and meshes all use this."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(points, dirs)")

    def density(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 1"]:
        """Query raw density only; twice differentiable in the points."""
        dirs = torch.zeros_like(points) if self.needs_dirs else None
        return self(points, dirs).sigma_raw

    def statistics(self) -> dict[str, Tensor]:
        """Return the beta of `sdf`."""
        return {} if self.sdf_beta is None else {"G/beta": self.sdf_beta.mean()}

    def lower(self) -> Lowered:
        """Return tensors and constants with which fused kernels compute `__call__` and `sigma`."""
        return NotLowered(f"no fused kernel for {type(self).__name__}")

    def prior(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 1"] | float:
        """Density prior, or the sphere of `sdf`; subclasses add it to `sigma_raw`."""
        d = self.scene_cfg.density
        if d.prior_strength == 0 and self.sdf_beta is None:
            return 0.0
        # `norm` over three strided coordinates is some 50 times slower on a CPU than this sum.
        radius = (points.square().sum(-1, keepdim=True) + 1e-12).sqrt()
        if self.sdf_beta is not None:
            return radius - d.prior_radius * self.box / 2
        return d.prior_strength * (d.prior_radius - radius * (2 / self.box))

    def backdrop(self, rays: Rays) -> Float[Tensor, "b r c"] | None:  # noqa: ARG002  # none here
        """Features in [0, 1] behind the field at the end of each ray; None: the renderer's."""
        return None

    def sigma(self, sigma_raw: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Density per world unit, >= 0."""
        d = self.scene_cfg.density
        if self.sdf_beta is not None:
            beta = self.sdf_beta.view(-1, *[1] * (sigma_raw.ndim - 1))
            return torch.sigmoid(-sigma_raw / beta) / beta
        if d.activation == "softplus":
            return d.scale * nn.functional.softplus(sigma_raw - 1)
        if d.activation == "relu":
            return d.scale * nn.functional.relu(sigma_raw)
        return d.scale * torch.exp(sigma_raw.clamp(max=15.0))


class Representation(nn.Module):
    """Computes a scene from style vectors. Plug-ins derive from it and register (Config, Class).

    Built as `Class(cfg, scene=SceneConfig, w_dim=int, resolution=int)` with the image resolution.
    """

    num_ws: int
    codes: tuple[Code, ...] = ()
    """Codes whose styles follow one another in `ws`. Empty: one latent gives all styles."""
    scene_type: type[Scene]
    view_in_label: bool = False
    """True if a new view needs a new label, since there is no 3D scene (the 2D baseline)."""
    lod: float = 0.0
    """Level of detail in progressive growing: halvings of the full size, fractional in a fade.
    Pictures and voxel grids follow it, unless they are parts of a scene; of other scenes, the
    rendering alone grows."""
    log_beta: nn.Parameter | None
    """Of `sdf`: beta = MIN_BETA + exp(log_beta). None for other densities."""

    @property
    def input_transform(self) -> Float[Tensor, "3 3"] | None:
        """Map from positions in the picture to positions in its network's input; None: it has none.

        In image sides from the centre, x right and y down: `[:2, 2]` = -t shifts the picture by t.
        The identity by default. Set it by `transformed`, in evaluation mode.
        """
        return None

    def start_sdf(self, density: DensityConfig, head: FullyConnected) -> None:
        """For `sdf`: register beta, and set row 0 of the last layer, the distance, to zero.

        The field then starts as the sphere of `Field.prior`, without fitting (StyleSDF fits one).
        """
        self.log_beta = None
        if density.activation == "sdf":
            nn.init.zeros_(head.weight[0])
            self.log_beta = nn.Parameter(torch.tensor(math.log(density.sdf_beta - MIN_BETA)))

    def sdf_beta(self, batch: int) -> Float[Tensor, " b"] | None:
        """Return the beta of `sdf` for a batch of scenes; None for other densities."""
        return None if self.log_beta is None else (MIN_BETA + self.log_beta.exp()).expand(batch)

    def forward(
        self,
        ws: Float[Tensor, "b num_ws w_dim"],
        noise_mode: NoiseMode = "const",
        draws: Draws | None = None,
    ) -> Scene:
        """Compute the scenes of a batch of style vectors."""
        raise NotImplementedError(
            f"{type(self).__name__} must define forward(ws, noise_mode, draws)"
        )


@contextmanager
def transformed(representation: Representation, matrix: Float[Tensor, "3 3"]) -> Iterator[None]:
    """Set the `input_transform` of a representation, and restore it.

    Its network raises NotImplementedError for a transform that it does not support.
    """
    transform = representation.input_transform
    assert transform is not None, "this representation has no input transform"
    before = transform.clone()
    transform.copy_(matrix)
    try:
        yield
    finally:
        transform.copy_(before)


class Renderer(nn.Module):
    """Renders scenes of type `accepts` from cameras. Built as `Class(cfg)`."""

    accepts: type[Scene]
    has_depth: bool = True
    """Whether renderings have depth and opacity."""
    has_masks: bool = False
    """Whether renderings have a mask of each object."""
    differentiable: ClassVar[bool] = True
    """Whether gradients of a rendering reach its scene. Inversion needs them."""
    has_proxy: ClassVar[bool] = False
    """Whether its `proxy` renders with the gradient that it lacks. Training needs either one."""

    def prepare(self, scene: Scene) -> Scene:
        """Precompute what several views share (occupancy grid, 16-bit copy); by default nothing."""
        return scene

    def forward(
        self,
        scene: Any,
        cameras: Cameras,
        resolution: int,
        draws: Draws | None = None,
    ) -> Rendering:
        """Render v = b * k views; camera i sees scene i // k. `draws=None` is deterministic."""
        raise NotImplementedError(
            f"{type(self).__name__} must define forward(scene, cameras, resolution, ...)"
        )


class Head(nn.Module):
    """Turns renderings into images. Plug-ins derive from it and register (Config, Class).

    Built as `Class(cfg, scene=SceneConfig, w_dim=int, resolution=int, codes=...)` with the image
    resolution and the codes of the representation. `cfg.factor`: image over rendering resolution.
    """

    needs_masks: ClassVar[bool] = False
    """Whether it reads `Rendering.layers`."""

    def forward(
        self,
        rendering: Rendering,
        ws: Float[Tensor, "v num_ws w_dim"],
        noise_mode: NoiseMode = "const",
        draws: Draws | None = None,
    ) -> Upscaled:
        """Return the images of v renderings, with the style vectors of each."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(rendering, ws, ...)")
