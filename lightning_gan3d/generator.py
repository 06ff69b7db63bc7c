"""The generator: mapping, representation, renderer, super-resolution."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_gan3d import registry
from lightning_gan3d.cameras import LABEL_DIM, Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import (
    DensityScene,
    Field,
    NoiseMode,
    Renderer,
    Representation,
    Scene,
    SceneConfig,
)
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images, resize
from lightning_gan3d.networks.mapping import CodesMapping, Mapping, MappingConfig
from lightning_gan3d.networks.superresolution import SuperResolution, SuperResolutionConfig
from lightning_gan3d.ranges import Count


@dataclass(frozen=True)
class GeneratorConfig:
    """The parts of a generator."""

    representation: Any = field(metadata=registry.metadata("representations"))
    """The representation; `kind` is its registered name."""
    renderer: Any = field(metadata=registry.metadata("renderers"))
    """The renderer; it must accept the scenes of the representation."""
    z_dim: Count = 512
    """Size of the latent vector."""
    w_dim: Count = 512
    """Size of a style vector."""
    mapping: MappingConfig = MappingConfig()
    """The mapping network."""
    scene: SceneConfig = SceneConfig()
    """Options that all representations of a comparison share."""
    superresolution: SuperResolutionConfig = SuperResolutionConfig()
    """The super-resolution network, from renderings to images."""
    head: Any | None = field(default=None, metadata=registry.metadata("heads"))
    """Another network in its place; `kind` is its registered name."""

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        if self.head is not None and self.superresolution.factor > 1:
            raise ConfigError(
                f"generator.superresolution.factor={self.superresolution.factor}: generator.head "
                "replaces super-resolution; set factor=1, or head=null",
                field="superresolution",
            )
        head = None if self.head is None else registry.module_of("heads", self.head)
        if head is not None and head.needs_masks and not self.renderer_type.has_masks:
            kind = registry.name_of("heads")(type(self.head))
            raise ConfigError(
                f"generator.head.kind={kind}: needs the masks of objects; set "
                "generator.renderer.kind=composed",
                field="head",
            )
        scenes, renderer = self.representation_type.scene_type, self.renderer_type
        if not issubclass(scenes, renderer.accepts):
            kind = registry.name_of("renderers")(type(self.renderer))
            raise ConfigError(
                f"generator.renderer.kind={kind} renders {renderer.accepts.__name__} scenes, but "
                f"the representation makes {scenes.__name__}; choose a renderer that accepts these",
                field="renderer",
            )
        declared = "sdf_beta" in getattr(scenes, "__dataclass_fields__", {})
        if self.scene.density.activation == "sdf" and self.is_field and not declared:
            raise ConfigError(
                f"generator.scene.density.activation=sdf: {scenes.__name__} declares no `sdf_beta` "
                "(contract.Field); declare it, or use softplus, relu or exp",
                field="scene",
            )

    @property
    def is_trainable(self) -> bool:
        """True if a gradient reaches the scenes, by the renderer or by its proxy."""
        return bool(self.renderer_type.differentiable or self.renderer_type.has_proxy)

    def check_gradient(self, of: Literal["training", "inversion"]) -> None:
        """Reject renderers that lack the gradient which training or inversion needs."""
        if self.renderer_type.differentiable or (of == "training" and self.is_trainable):
            return
        kind = registry.name_of("renderers")(type(self.renderer))
        proxied = ", or proxied with exact and proxy renderers" if of == "training" else ""
        raise ConfigError(
            f"generator.renderer.kind={kind}: it has no gradient, which {of} needs; set "
            f"generator.renderer.kind=volume{proxied}",
            field="renderer",
        )

    @property
    def representation_type(self) -> Any:
        """Class of the representation."""
        return registry.module_of("representations", self.representation)

    @property
    def renderer_type(self) -> Any:
        """Class of the renderer."""
        return registry.module_of("renderers", self.renderer)

    @property
    def factor(self) -> int:
        """Image over rendering resolution."""
        head: Any = self.superresolution if self.head is None else self.head
        return int(head.factor)

    @property
    def is_field(self) -> bool:
        """True if its scenes can be queried at points."""
        return issubclass(self.representation_type.scene_type, Field)

    @property
    def has_density(self) -> bool:
        """True if the density of its scenes can be queried at points: fields and Gaussians."""
        return issubclass(self.representation_type.scene_type, DensityScene)

    @property
    def view_in_label(self) -> bool:
        """True if a new view needs a new label."""
        return bool(self.representation_type.view_in_label)


class Generator(nn.Module):
    """A 3D-aware image generator (EG3D, Chan et al. 2022, fig. 4) with any representation.

    `label` is the (b, 25) row of `dataset.json`, with the classes appended; it conditions the
    mapping. `cameras` render k views of each scene, v = b * k; None renders from the label's own
    camera.
    """

    def __init__(self, cfg: GeneratorConfig, resolution: int, num_classes: int = 0) -> None:
        """Build for images of `resolution` x `resolution` pixels; `num_classes` of the labels."""
        super().__init__()
        self.cfg = cfg
        self.resolution = resolution
        self.representation: Representation = cfg.representation_type(
            cfg.representation, scene=cfg.scene, w_dim=cfg.w_dim, resolution=resolution
        )
        self.renderer: Renderer = cfg.renderer_type(cfg.renderer)
        codes, num_ws = self.representation.codes, self.representation.num_ws
        self.mapping: Mapping | CodesMapping = (
            CodesMapping(cfg.mapping, cfg.z_dim, cfg.w_dim, codes, num_classes)
            if codes
            else Mapping(cfg.mapping, cfg.z_dim, cfg.w_dim, num_ws, num_classes)
        )
        # A head has the same place, so that checkpoints keep their names.
        self.superresolution: nn.Module = (
            SuperResolution(cfg.superresolution, cfg.scene.feature_dim, cfg.w_dim, resolution)
            if cfg.head is None
            else registry.module_of("heads", cfg.head)(
                cfg.head, scene=cfg.scene, w_dim=cfg.w_dim, resolution=resolution, codes=codes
            )
        )
        self.rendering_resolution: int = resolution // cfg.factor
        """Default resolution of `image_raw`; the training schedule changes it."""

    def scene(
        self,
        ws: Float[Tensor, "b num_ws w_dim"],
        noise_mode: NoiseMode = "const",
        draws: Draws | None = None,
    ) -> Scene:
        """Compute scenes from style vectors: once, for any number of cameras."""
        return self.representation(ws, noise_mode, draws)  # type: ignore[no-any-return]  # nn.Module

    def render(
        self,
        scene: Scene,
        ws: Float[Tensor, "b num_ws w_dim"],
        cameras: Cameras,
        resolution: int | None = None,
        noise_mode: NoiseMode = "const",
        draws: Draws | None = None,
        smooth: bool = False,
    ) -> Images:
        """Render v = b * k views of b scenes; camera i sees scene i // k.

        `smooth`: with a gradient, by the proxy of a renderer that has none.
        """
        resolution = resolution or self.rendering_resolution
        renderer: Any = self.renderer
        if smooth and renderer.has_proxy:
            renderer = renderer.proxy
        rendering = renderer(scene, cameras, resolution, draws)
        ws = ws.repeat_interleave(len(cameras.cam2world) // len(ws), dim=0)
        image, raw, mask = self.superresolution(rendering, ws, noise_mode, draws)
        if mask is None and rendering.layers is not None:
            mask = rendering.layers.mask
        # A picture has full size: reduce it, so that the discriminator gets the same pair.
        return Images(image, resize(raw, resolution), rendering.depth, rendering.opacity, mask)

    def synthesis(
        self,
        ws: Float[Tensor, "b num_ws w_dim"],
        cameras: Cameras,
        resolution: int | None = None,
        draws: Draws | None = None,
    ) -> tuple[Scene, Images]:
        """Compute the scenes of style vectors and render k views of each.

        With draws, as in training, noise is random and samples are jittered. Without, the renderer
        first prepares scenes of several views (`Renderer.prepare`).
        """
        if draws is not None:
            scene = self.scene(ws, "random", draws.scope("scene"))
            render_draws = draws.scope("render")
            return scene, self.render(scene, ws, cameras, resolution, "random", render_draws)
        scene = self.scene(ws)
        if len(cameras.cam2world) > len(ws):
            scene = self.renderer.prepare(scene)
        return scene, self.render(scene, ws, cameras, resolution)

    def views(
        self,
        z: Float[Tensor, "b z_dim"],
        label: Float[Tensor, "b label_dim"],
        cameras: Cameras,
        truncation_psi: float = 1.0,
        resolution: int | None = None,
    ) -> Images:
        """Render each latent from its k = v / b cameras, without random draws.

        Without a 3D scene, the label of each camera conditions the mapping instead of `label`.
        """
        if self.representation.view_in_label:
            z = z.repeat_interleave(len(cameras.cam2world) // len(z), dim=0)
            label = label.repeat_interleave(len(z) // len(label), dim=0)
            label = torch.cat([cameras.to_label(), label[:, LABEL_DIM:]], dim=1)
        ws = self.mapping(z, label, truncation_psi)
        return self.synthesis(ws, cameras, resolution)[1]

    def forward(
        self,
        z: Float[Tensor, "b z_dim"],
        label: Float[Tensor, "b label_dim"],
        cameras: Cameras | None = None,
        truncation_psi: float = 1.0,
        resolution: int | None = None,
        draws: Draws | None = None,
    ) -> Images:
        """Generate images; `draws=None` is deterministic, `resolution` is that of `image_raw`."""
        ws = self.mapping(z, label, truncation_psi)
        cameras = Cameras.from_label(label) if cameras is None else cameras
        return self.synthesis(ws, cameras, resolution, draws)[1]
