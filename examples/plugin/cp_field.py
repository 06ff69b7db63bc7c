"""A field as a sum of products of three lines: the CP decomposition of TensoRF.

Chen et al., "TensoRF: Tensorial Radiance Fields", ECCV 2022, section 3. Component k of a point is
line_x[k](x) * line_y[k](y) * line_z[k](z); the decoder mixes the components. Memory grows linearly
with the resolution, instead of with its square (tri-plane) or its cube (voxel grid).
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.contract import Field, FieldSample, NoiseMode, Representation, SceneConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.networks.decoder import Decoder
from lightning_gan3d.networks.layers import FullyConnected
from lightning_gan3d.ranges import Count
from representations.grids import sample_plane


@dataclass(frozen=True)
class CpConfig:
    """Size of the lines, and of the network that generates them."""

    resolution: Count = 32
    """Numbers along each line."""
    components: Count = 32
    """Products of three lines."""
    hidden_dim: Count = 64
    """Width of the hidden layer between style and lines."""


@dataclass(frozen=True, eq=False)
class CpField(Field):
    """A field whose features are products of three lines."""

    lines: Float[Tensor, "b 3 k r"]
    """Along x, y and z. Tensors depend on the latent and count as scene memory."""
    decoder: Decoder
    """Shared by all scenes, as all that is not a tensor."""
    scene_cfg: SceneConfig

    def features(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n k"]:
        """Compute the components of points, before decoding."""
        coords = rearrange(points * (2 / self.box), "b n a -> (b a) n")
        # A line is a plane of height 1, read at y = 0.
        coords = torch.stack([coords, torch.zeros_like(coords)], dim=1)
        read = sample_plane(rearrange(self.lines, "b a k r -> (b a) k 1 r"), coords)
        x, y, z = rearrange(read, "(b a) k n -> a b n k", a=3)
        product: Tensor = x * y * z
        return product

    def __call__(
        self,
        points: Float[Tensor, "b n 3"],
        dirs: Float[Tensor, "b n 3"] | None = None,  # noqa: ARG002  # no view dependence
    ) -> FieldSample:
        """Query density and features."""
        sigma_raw, feature = self.decoder(self.features(points))
        return FieldSample(sigma_raw + self.prior(points), feature)


class Cp(Representation):
    """Generates the lines from one style vector."""

    scene_type = CpField
    num_ws = 1

    def __init__(
        self,
        cfg: CpConfig,
        scene: SceneConfig,
        w_dim: int,
        resolution: int,  # noqa: ARG002  # of the image: the lines have their own
    ) -> None:
        """Build the two layers and the decoder."""
        super().__init__()
        self.cfg, self.scene_cfg = cfg, scene
        self.hidden = FullyConnected(w_dim, cfg.hidden_dim, "lrelu")
        # Lines start around 1: a product of three numbers around 0 has hardly any gradient.
        out_dim = 3 * cfg.components * cfg.resolution
        self.to_lines = FullyConnected(cfg.hidden_dim, out_dim, bias_init=1.0)
        self.decoder = Decoder(scene.decoder, cfg.components, scene.feature_dim)

    def forward(
        self,
        ws: Float[Tensor, "b num_ws w_dim"],
        noise_mode: NoiseMode = "const",  # noqa: ARG002  # no noise
        draws: Draws | None = None,  # noqa: ARG002  # as above
    ) -> CpField:
        """Generate the lines of a batch of style vectors."""
        lines = self.to_lines(self.hidden(ws[:, 0])).float()
        lines = rearrange(lines, "b (a k r) -> b a k r", a=3, k=self.cfg.components)
        return CpField(lines, self.decoder, self.scene_cfg)


CP = (CpConfig, Cp)
