"""The generator: mapping, representation, renderer, super-resolution."""

from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from lightning_gan3d import registry
from lightning_gan3d.cameras import LABEL_DIM, Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import (
    Field,
    NoiseMode,
    Renderer,
    RenderSettings,
    Representation,
    Scene,
    SceneConfig,
)
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images, resize
from lightning_gan3d.networks.mapping import Mapping, MappingConfig
from lightning_gan3d.networks.superresolution import SuperResolution, SuperResolutionConfig


def _plugin(group: registry.Group) -> Any:
    """A configuration field whose `kind` picks the plug-in."""
    return field(metadata={"kinds": registry.kinds(group), "name_of": registry.name_of(group)})


@dataclass(frozen=True)
class GeneratorConfig:
    """What a generator is made of."""

    representation: Any = _plugin("representations")
    """The plug-in under comparison; `kind` is its name."""
    renderer: Any = _plugin("renderers")
    """The renderer; `kind` is its name. It must accept the representation's scenes."""
    z_dim: int = 512
    """Size of a latent."""
    w_dim: int = 512
    """Size of a style."""
    mapping: MappingConfig = MappingConfig()
    """From latent and camera to styles."""
    scene: SceneConfig = SceneConfig()
    """What all representations of a comparison share."""
    superresolution: SuperResolutionConfig = SuperResolutionConfig()
    """From the rendering to the image."""

    def __post_init__(self) -> None:
        """Check sizes, and that renderer and representation fit."""
        for name in ("z_dim", "w_dim"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"generator.{name}={getattr(self, name)}: use 1 or more, e.g. 512", field=name
                )
        representation = registry.module_of("representations", self.representation)
        renderer = registry.module_of("renderers", self.renderer)
        if not issubclass(representation.scene_type, renderer.accepts):  # type: ignore[attr-defined]  # plug-in classes declare both
            raise ConfigError(
                f"generator.renderer.kind={registry.name_of('renderers')(type(self.renderer))} "
                f"renders "
                f"{renderer.accepts.__name__} scenes, but the representation makes "  # type: ignore[attr-defined]  # as above
                f"{representation.scene_type.__name__}; choose a renderer that accepts these",  # type: ignore[attr-defined]  # as above
                field="renderer",
            )

    @property
    def is_field(self) -> bool:
        """Whether its scenes can be queried at points."""
        module = registry.module_of("representations", self.representation)
        return issubclass(module.scene_type, Field)  # type: ignore[attr-defined]  # a Representation

    @property
    def view_in_label(self) -> bool:
        """Whether another view needs another label."""
        module = registry.module_of("representations", self.representation)
        return bool(module.view_in_label)  # type: ignore[attr-defined]  # a Representation


class Generator(nn.Module):
    """A 3D-aware image generator (EG3D, Chan et al. 2022, fig. 4), whatever its representation.

    `label` is the (b, 25) row of `dataset.json`: it conditions the mapping. `cameras` are where the
    scene is seen from: k views of each scene, v = b * k; None means the label's own camera.
    """

    def __init__(self, cfg: GeneratorConfig, resolution: int) -> None:
        """Build the parts for images of `resolution` squared."""
        super().__init__()
        self.cfg = cfg
        self.resolution = resolution
        representation_cls = registry.module_of("representations", cfg.representation)
        renderer_cls = registry.module_of("renderers", cfg.renderer)
        self.representation: Representation = representation_cls(
            cfg.representation, scene=cfg.scene, w_dim=cfg.w_dim, resolution=resolution
        )
        self.renderer: Renderer = renderer_cls(cfg.renderer, scene=cfg.scene)
        self.mapping = Mapping(
            cfg.mapping, cfg.z_dim, LABEL_DIM, cfg.w_dim, self.representation.num_ws
        )
        self.superresolution = SuperResolution(
            cfg.superresolution, cfg.scene.feature_dim, cfg.w_dim, resolution
        )
        self.rendering_resolution: int = resolution // cfg.superresolution.factor
        """The resolution of `image_raw` unless a call asks for another; training may change it."""

    def scene(
        self,
        ws: Float[Tensor, "b num_ws w_dim"],
        noise_mode: NoiseMode = "const",
        draws: Draws | None = None,
    ) -> Scene:
        """Make the scenes of styles: computed once, rendered from any number of cameras."""
        return self.representation(ws, noise_mode, draws)  # type: ignore[no-any-return]  # nn.Module

    def render(
        self,
        scene: Scene,
        ws: Float[Tensor, "b num_ws w_dim"],
        cameras: Cameras,
        resolution: int | None = None,
        settings: RenderSettings | None = None,
        noise_mode: NoiseMode = "const",
        draws: Draws | None = None,
    ) -> Images:
        """Render v = b * k views of b scenes; camera i sees scene i // k."""
        resolution = resolution or self.rendering_resolution
        feature, depth, opacity = self.renderer(scene, cameras, resolution, settings, draws)
        ws = ws.repeat_interleave(len(cameras.cam2world) // len(ws), dim=0)
        image, raw = self.superresolution(feature[:, :3], feature, ws, noise_mode, draws)
        # A picture comes at full size: reduce it, so that the discriminator sees the same pair.
        return Images(image, resize(raw, resolution), depth, opacity)

    def views(
        self,
        z: Float[Tensor, "b z_dim"],
        label: Float[Tensor, "b 25"],
        cameras: Cameras,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        resolution: int | None = None,
        settings: RenderSettings | None = None,
    ) -> Images:
        """See each latent from its k = v / b cameras; where the view is in the label, by labels.

        Work that pays over several views (`Renderer.prepare`) is done where there are some.
        """
        k = len(cameras.cam2world) // len(z)
        if self.representation.view_in_label:
            z, label = z.repeat_interleave(k, dim=0), cameras.to_label()
        ws = self.mapping(z, label, truncation_psi, truncation_cutoff)
        scene = self.scene(ws)
        if k > 1:
            scene = self.renderer.prepare(scene)
        return self.render(scene, ws, cameras, resolution, settings)

    def forward(
        self,
        z: Float[Tensor, "b z_dim"],
        label: Float[Tensor, "b 25"],
        cameras: Cameras | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        resolution: int | None = None,
        noise_mode: NoiseMode = "const",
        settings: RenderSettings | None = None,
        draws: Draws | None = None,
    ) -> Images:
        """Generate images; `draws=None` is deterministic, `resolution` is that of `image_raw`."""
        ws = self.mapping(z, label, truncation_psi, truncation_cutoff)
        scene = self.scene(ws, noise_mode, draws)
        cameras = Cameras.from_label(label) if cameras is None else cameras
        return self.render(scene, ws, cameras, resolution, settings, noise_mode, draws)


def num_parameters(module: nn.Module) -> int:
    """Count the trained numbers of a module."""
    return sum(p.numel() for p in module.parameters())
