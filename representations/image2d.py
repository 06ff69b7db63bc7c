"""The 2D baseline: StyleGAN2 or StyleGAN3, conditioned on the camera by a label only."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.contract import NoiseMode, Representation, SceneConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.networks.band_limits import StyleGAN3Config
from lightning_gan3d.networks.progan import Progan2d
from lightning_gan3d.networks.synthesis import SynthesisConfig
from renderers.picture import Picture
from representations.grids import check_backbone, make_backbone


@dataclass(frozen=True)
class Image2dConfig:
    """The network that generates the picture."""

    output: Literal["linear", "sigmoid"] = "linear"
    """`linear`: unbounded, as StyleGAN2. `sigmoid`: within [-1, 1], steadier at small sizes."""
    synthesis: SynthesisConfig = SynthesisConfig()
    """The StyleGAN2 network; of ProGAN's, the widths; StyleGAN3 ignores it."""
    network: Literal["stylegan2", "stylegan3-t", "stylegan3-r", "progan"] = "stylegan2"
    """Karras et al. 2020; configuration T or R of Karras et al. 2021; or Karras et al. 2018, for
    generator.mapping.num_layers=0."""
    stylegan3: StyleGAN3Config = StyleGAN3Config()
    """The StyleGAN3 network."""

    def __post_init__(self) -> None:
        """Check across fields."""
        check_backbone(self)


class Image2d(Representation):
    """Generates one picture per style; a new view needs a new label, so a new style."""

    scene_type = Picture
    view_in_label = True

    def __init__(
        self,
        cfg: Image2dConfig,
        scene: SceneConfig,  # noqa: ARG002  # a picture has no box, density or decoder
        w_dim: int,
        resolution: int,
    ) -> None:
        """Build the network for images of `resolution`."""
        super().__init__()
        self.cfg = cfg
        self.synthesis: Any = (
            Progan2d(cfg.synthesis, w_dim, resolution)
            if cfg.network == "progan"
            else make_backbone(cfg, w_dim, resolution, 3)
        )
        self.num_ws = self.synthesis.num_ws

    @property
    def input_transform(self) -> Float[Tensor, "3 3"] | None:
        """The transform of the network's input, if it has one."""
        return getattr(self.synthesis, "transform", None)

    def forward(
        self,
        ws: Float[Tensor, "b num_ws w_dim"],
        noise_mode: NoiseMode = "const",
        draws: Draws | None = None,
    ) -> Picture:
        """Generate the pictures of a batch of style vectors."""
        level = {"lod": self.lod} if self.lod else {}  # StyleGAN3 does not grow
        image = self.synthesis(ws, noise_mode, draws, **level)
        return Picture(torch.sigmoid(image) * 2 - 1 if self.cfg.output == "sigmoid" else image)
