"""The tri-plane hybrid (EG3D, Chan et al. 2022): three planes, a small decoder; or a tri-grid."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.contract import Field, FieldSample, NoiseMode, Representation, SceneConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.networks.band_limits import StyleGAN3Config
from lightning_gan3d.networks.decoder import Decoder
from lightning_gan3d.networks.lowering import SDF_NOT_LOWERED, Lowered
from lightning_gan3d.networks.synthesis import SynthesisConfig
from lightning_gan3d.ranges import Count
from representations.grids import (
    GridSize,
    check_backbone,
    full_precision,
    make_backbone,
    sample_plane,
    sample_volume,
)

PlaneAxes = Literal["standard", "eg3d"]

AXES: dict[PlaneAxes, tuple[tuple[int, int, int], ...]] = {
    "standard": ((0, 1, 2), (0, 2, 1), (2, 1, 0)),
    "eg3d": ((0, 1, 2), (0, 2, 1), (2, 0, 1)),
}
"""World axes along the width, height and depth of each plane.

`standard` spans (x, y), (x, z), (z, y). EG3D's released models span (x, y), (x, z), (z, x): none of
their planes sees y and z together. `eg3d` reads their checkpoints.
"""


@dataclass(frozen=True)
class TriPlaneConfig:
    """Size and orientation of the planes, and the network that generates them."""

    resolution: GridSize = 256
    """Texels along each side of a plane; a power of two."""
    channels: Count = 32
    """Channels of a texel."""
    depth: Count = 1
    """Texels across each plane. More than 1: a tri-grid (PanoHead, An et al. 2023)."""
    axes: Literal["standard", "eg3d"] = "standard"
    """World axes of the planes: three distinct pairs, or those of EG3D's released models."""
    synthesis: SynthesisConfig = SynthesisConfig()
    """The StyleGAN2 network, which the others ignore; it generates an image of 3 * depth * channels
    channels."""
    network: Literal["stylegan2", "stylegan3-t", "stylegan3-r"] = "stylegan2"
    """The network of the planes. The input of StyleGAN3 does not depend on w here: a rotation would
    turn the axes of each plane."""
    stylegan3: StyleGAN3Config = StyleGAN3Config()
    """The StyleGAN3 network."""

    def __post_init__(self) -> None:
        """Check across fields."""
        check_backbone(self, self.resolution)


@dataclass(frozen=True, eq=False)
class TriPlaneField(Field):
    """The feature of a point is the mean over its projections onto three planes."""

    planes: Float[Tensor, "b p c h w"]
    """p = 3 * depth; the slices of one tri-grid are consecutive."""
    decoder: Decoder
    scene_cfg: SceneConfig
    axes: PlaneAxes = "standard"
    sdf_beta: Float[Tensor, " b"] | None = None

    def features(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n c"]:
        """Gather the mean feature of the planes, before decoding."""
        x = points.mT * (2 / self.box)
        depth = self.planes.shape[1] // 3
        used = 2 if depth == 1 else 3
        coords = torch.stack([x[:, a] for plane in AXES[self.axes] for a in plane[:used]], dim=1)
        coords = rearrange(coords, "b (p a) n -> (b p) a n", a=used)
        if depth == 1:
            read = sample_plane(self._images(), coords)
        else:
            grid = rearrange(self.planes, "b (p d) c h w -> (b p) c d h w", d=depth)
            read = sample_volume(grid, coords)
        return reduce(read, "(b p) c n -> b c n", "mean", p=3).mT

    def _images(self) -> Float[Tensor, "bp c h w"]:
        """The planes row by row, the fastest order for gathers; other layouts are copied once."""
        # Copies inside and outside a graph are different tensors. Inference tensors have no version
        # counter, so they must not change in place.
        version = None if self.planes.is_inference() else self.planes._version
        key = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        copied, copy = self._copies.get(key, (None, None))
        if copy is None or copied != version:
            for old in [k for k, (v, _) in self._copies.items() if v != version]:
                del self._copies[old]
            copy = rearrange(self.planes, "b p c h w -> (b p) c h w").contiguous()
            self._copies[key] = version, copy
        return copy

    @cached_property
    def _copies(self) -> dict[tuple[bool, bool], tuple[int | None, Tensor]]:
        """Version and copy of the planes, by gradient mode and inference mode."""
        return {}

    def __call__(
        self,
        points: Float[Tensor, "b n 3"],
        dirs: Float[Tensor, "b n 3"] | None = None,  # noqa: ARG002  # no view dependence, as EG3D
    ) -> FieldSample:
        """Query density and features."""
        sigma_raw, feature = self.decoder(self.features(points))
        return FieldSample(sigma_raw + self.prior(points), feature)

    def lower(self) -> Lowered:
        """The planes with their channels last, and the decoder."""
        if self.sdf_beta is not None:
            return SDF_NOT_LOWERED
        grids = rearrange(self.planes, "b (p d) c h w -> b p d h w c", p=3)
        return self.decoder.lower(grids, AXES[self.axes])


class TriPlane(Representation):
    """Generates the planes as one image."""

    scene_type = TriPlaneField

    def __init__(
        self,
        cfg: TriPlaneConfig,
        scene: SceneConfig,
        w_dim: int,
        resolution: int,  # noqa: ARG002  # of the image: the planes have their own
    ) -> None:
        """Build backbone and decoder."""
        super().__init__()
        self.cfg = cfg
        self.scene_cfg = scene
        out_channels = 3 * cfg.depth * cfg.channels
        self.synthesis = make_backbone(cfg, w_dim, cfg.resolution, out_channels)
        if cfg.network != "stylegan2":
            self.synthesis.input.affine = None
        self.decoder = Decoder(scene.decoder, cfg.channels, scene.feature_dim)
        self.start_sdf(scene.density, self.decoder.head)
        self.num_ws = self.synthesis.num_ws

    def forward(
        self,
        ws: Float[Tensor, "b num_ws w_dim"],
        noise_mode: NoiseMode = "const",
        draws: Draws | None = None,
    ) -> TriPlaneField:
        """Generate the planes of a batch of style vectors."""
        image = full_precision(self.synthesis(ws, noise_mode, draws))
        planes = rearrange(image, "b (p c) h w -> b p c h w", c=self.cfg.channels)
        beta = self.sdf_beta(len(ws))
        return TriPlaneField(planes, self.decoder, self.scene_cfg, self.cfg.axes, beta)
