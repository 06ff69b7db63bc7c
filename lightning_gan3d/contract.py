"""The contract between representations, renderers, the generator and the loop.

A *representation* turns styles into a *scene*; a *renderer* turns a scene and cameras into a
*rendering*. Most scenes are *fields*, which can be queried at points; a picture or a set of splats
need not be.

Shapes: b batch of scenes, v = b * k views (camera i sees scene i // k), r rays, n points, c
channels.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import torch
import torch.utils._pytree as pytree
from jaxtyping import Float
from torch import Tensor, nn

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Rendering
from lightning_gan3d.lowering import Lowered, NotLowered
from lightning_gan3d.networks.decoder import DecoderConfig
from lightning_gan3d.networks.layers import NoiseMode as NoiseMode  # part of the contract

SomeScene = TypeVar("SomeScene", bound="Scene")


class FieldSample(NamedTuple):
    """Density before activation, and features in [0, 1] with rgb first, at points."""

    sigma_raw: Float[Tensor, "b n 1"]
    feature: Float[Tensor, "b n c"]


class Scene:
    """Base of scenes: frozen dataclasses with tensor fields batched over b, registered as pytrees.

    Subclasses are declared `@dataclass(frozen=True, eq=False)`. Tensor fields, and scenes that a
    scene wraps, are what a latent made (they count as the scene's bytes); everything else (sizes, a
    shared decoder) is context, the same for the whole batch.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Register the subclass as a pytree node: one `map` serves detach, index, to and bytes."""
        super().__init_subclass__(**kwargs)
        pytree.register_pytree_node(
            cls,
            _flatten_scene,
            _unflatten_scene,
            serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
        )

    def map(self: SomeScene, fn: Callable[[Tensor], Tensor]) -> SomeScene:
        """Apply `fn` to every tensor of the scene."""
        return pytree.tree_map(fn, self)  # type: ignore[no-any-return]  # torch's pytree is untyped here

    def tensors(self) -> list[Tensor]:
        """Return the tensors that a latent made."""
        return pytree.tree_leaves(self)

    def detach(self: SomeScene) -> SomeScene:
        """Cut the scene off the graph that made it."""
        return self.map(Tensor.detach)

    def to(
        self: SomeScene, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> SomeScene:
        """Move the scene, or store it in another precision: its floating tensors, masks stay so."""
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
        """Bytes of all scenes of the batch, as stored."""
        return sum(x.numel() * x.element_size() for x in self.tensors())


def _flatten_scene(
    scene: Scene,
) -> tuple[list[Any], tuple[type[Scene], tuple[str, ...], dict[str, Any]]]:
    values = {f.name: getattr(scene, f.name) for f in dataclasses.fields(scene)}  # type: ignore[arg-type]  # subclasses are dataclasses
    names = tuple(k for k, v in values.items() if isinstance(v, (Tensor, Scene)))
    return [values[k] for k in names], (
        type(scene),
        names,
        {k: v for k, v in values.items() if k not in names},
    )


def _unflatten_scene(leaves: Any, context: Any) -> Scene:
    cls, names, rest = context
    scene: Scene = cls(**dict(zip(names, leaves, strict=True)), **rest)
    return scene


@dataclasses.dataclass(frozen=True)
class DensityConfig:
    """How raw density becomes density: sigma = scale * activation(sigma_raw)."""

    activation: Literal["softplus", "relu", "exp"] = "softplus"
    """`softplus` is softplus(x - 1), as EG3D: the shift makes a steadier start."""
    scale: float = 1.0
    """Densities per world unit reached by an activation of 1."""
    prior_strength: float = 0.0
    """Adds prior_strength * (prior_radius - |x| * 2 / box) to sigma_raw: a ball. 0: none."""
    prior_radius: float = 0.6
    """Radius of that ball, as a share of half the box."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.scale > 0:
            raise ConfigError(
                f"density.scale={self.scale}: use a positive number, e.g. 1.0", field="scale"
            )
        if not 0 < self.prior_radius <= 2:
            raise ConfigError(
                f"density.prior_radius={self.prior_radius}: use a number in (0, 2]",
                field="prior_radius",
            )


@dataclasses.dataclass(frozen=True)
class SceneConfig:
    """What all representations of a comparison share: box, features, decoder and density."""

    box: float = 1.0
    """Edge of the cube that a field spans, in world units: [-box/2, box/2] on each axis."""
    feature_dim: int = 32
    """Channels of a rendering, rgb first. 3 without super-resolution."""
    decoder: DecoderConfig = DecoderConfig()
    """The decoder of the explicit representations."""
    density: DensityConfig = DensityConfig()
    """From raw density to density."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.box > 0:
            raise ConfigError(
                f"scene.box={self.box}: use a positive length in world units, e.g. 1.0", field="box"
            )
        if self.feature_dim < 3:
            raise ConfigError(
                f"scene.feature_dim={self.feature_dim}: use 3 (rgb) or more", field="feature_dim"
            )


class Field(Scene):
    """A scene that can be queried at points, with the dataclass field `scene_cfg`."""

    needs_dirs: ClassVar[bool] = False
    scene_cfg: SceneConfig

    @property
    def box(self) -> float:
        """Edge of the cube that the field spans, in world units."""
        return self.scene_cfg.box

    def __call__(
        self, points: Float[Tensor, "b n 3"], dirs: Float[Tensor, "b n 3"] | None = None
    ) -> FieldSample:
        """Query density and features; samples, regularisers and meshes all come through here."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(points, dirs)")

    def density(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 1"]:
        """Raw density alone; twice differentiable in the points."""
        dirs = torch.zeros_like(points) if self.needs_dirs else None
        return self(points, dirs).sigma_raw

    def lower(self) -> Lowered:
        """Hand over to fused kernels what they need to do the work of `__call__` and `sigma`."""
        return NotLowered(f"{type(self).__name__} has no kernel")

    def prior(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 1"] | float:
        """What the density prior adds to the raw density; subclasses add it in `__call__`."""
        d = self.scene_cfg.density
        if d.prior_strength == 0:
            return 0.0
        # `norm` over three strided coordinates is some 50 times slower on a CPU than this sum.
        radius = (points.square().sum(-1, keepdim=True) + 1e-12).sqrt()
        return d.prior_strength * (d.prior_radius - radius * (2 / self.box))

    def sigma(self, sigma_raw: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Density per world unit, >= 0."""
        d = self.scene_cfg.density
        if d.activation == "softplus":
            return d.scale * nn.functional.softplus(sigma_raw - 1)
        if d.activation == "relu":
            return d.scale * nn.functional.relu(sigma_raw)
        return d.scale * torch.exp(sigma_raw.clamp(max=15.0))


@dataclasses.dataclass(frozen=True)
class RenderSettings:
    """What schedules and viewers change per call; None leaves the renderer's own value."""

    samples_coarse: int | None = None
    samples_fine: int | None = None
    near: float | None = None
    far: float | None = None
    background: float | None = None
    density_noise: float | None = None
    compositing: Literal["standard", "eg3d"] | None = None


class Representation(nn.Module):
    """Makes scenes from styles. A plug-in derives from it, and registers (Config, Class).

    It is built as `Class(cfg, scene=SceneConfig, w_dim=int, resolution=int)`, `resolution` being
    that of the image.
    """

    num_ws: int
    scene_type: type[Scene]
    view_in_label: bool = False
    """True where another view needs another label (no 3D scene), as for the 2D baseline."""

    def forward(
        self,
        ws: Float[Tensor, "b num_ws w_dim"],
        noise_mode: NoiseMode = "const",
        draws: Draws | None = None,
    ) -> Scene:
        """Make the scenes of a batch of styles."""
        raise NotImplementedError(
            f"{type(self).__name__} must define forward(ws, noise_mode, draws)"
        )


class Renderer(nn.Module):
    """Renders scenes of type `accepts` from cameras. Built as `Class(cfg, scene=SceneConfig)`."""

    accepts: type[Scene]

    def prepare(self, scene: Scene) -> Scene:
        """Do work worth keeping between views (an occupancy grid, a 16-bit copy); here none."""
        return scene

    def forward(
        self,
        scene: Any,
        cameras: Cameras,
        resolution: int,
        settings: RenderSettings | None = None,
        draws: Draws | None = None,
    ) -> Rendering:
        """Render v = b * k views; camera i sees scene i // k. `draws=None` is deterministic."""
        raise NotImplementedError(
            f"{type(self).__name__} must define forward(scene, cameras, resolution, ...)"
        )
