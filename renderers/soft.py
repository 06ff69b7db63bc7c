"""A rendering of solids with a gradient: light absorbed along rays, and a network that corrects it.

Without the network it is the renderer of PlatonicGAN (Henzler et al. 2019), with shading as an
option. With it, it is a proxy of an exact renderer.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import Count, Positive
from lightning_gan3d.contract import Renderer
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Rendering
from lightning_gan3d.networks.layers import Conv2dLayer
from renderers.config import VolumeRendererConfig
from renderers.raster import LightConfig, face_shade, lights
from renderers.volume import VolumeRenderer
from representations.grids import full_precision, sample_volume
from representations.solid import ABSORBED, Solid


@dataclass(frozen=True)
class SoftConfig(LightConfig):
    """Light, absorption, and the network."""

    samples: Count = 48
    """Samples per ray, within the box."""
    absorption: Literal["product", "sum"] = "product"
    """Share of the light that passes a row of voxels of occupancy v: the product of 1 - v
    (PlatonicGAN's absorption only), or exp(-sum of v) (its visual hull)."""
    sharpness: Positive = 1.0
    """Occupancy v is rendered as v^s / (v^s + (1 - v)^s): the larger s, the nearer to a threshold
    at 0.5, and the fewer voxels have a gradient. 1: as it is."""
    shading: bool = True
    """Shade voxels as their visible faces; else colours are emitted."""
    network: Literal["none", "residual", "rendernet"] = "residual"
    """`residual` adds to the colours what it infers from colours, opacity and depth. `rendernet`
    infers colours from the samples along all rays (RenderNet, Nguyen-Phuoc et al. 2018)."""
    channels: Annotated[int, Ge(4)] = 24
    """Channels of the network; those of the 3D layers of `rendernet`, whose 2D ones have 4 times as
    many."""
    layers: Count = 3
    """Layers of 3 x 3 pixels, without the last one."""


class SoftRenderer(Renderer):
    """Renders solids with a gradient that reaches all voxels along a ray."""

    accepts = Solid

    def __init__(self, cfg: SoftConfig) -> None:
        """Build the network, if there is one; `residual` starts at zero."""
        super().__init__()
        self.cfg = cfg
        options = VolumeRendererConfig(
            samples_coarse=cfg.samples, samples_fine=0, background=cfg.background
        )
        self.volume = VolumeRenderer(options)
        self.network: nn.Module | None = None
        if cfg.network == "residual":
            layers = layers_2d(5, cfg.channels, cfg.layers)
            nn.init.zeros_(layers[-1].weight)  # type: ignore[arg-type]  # of a convolution
            self.network = layers
        elif cfg.network == "rendernet":
            self.network = RenderNet(cfg)

    def forward(
        self, scene: Solid, cameras: Cameras, resolution: int, draws: Draws | None = None
    ) -> Rendering:
        """Render v = b * k square views of `resolution`; camera i sees scene i // k."""
        views = len(cameras.cam2world)
        if views % scene.batch:
            raise ValueError(
                f"{views} cameras for {scene.batch} scenes: use a multiple of {scene.batch}"
            )
        scene = scene.map(lambda x: x.repeat_interleave(views // scene.batch, dim=0))
        soft: Rendering = self.volume(self._lit(scene, cameras), cameras, resolution, draws)
        if self.network is None:
            return soft
        assert soft.depth is not None, "the volume renderer has depth"
        assert soft.opacity is not None, "and opacity"
        if isinstance(self.network, RenderNet):
            return soft._replace(feature=self.network(scene, cameras, resolution))
        # Distance from the middle of the box, in half edges; none where nothing is.
        middle = cameras.origins.norm(dim=-1)[:, None, None, None]
        depth = (soft.depth - middle) * (2 / scene.box) * soft.opacity
        seen = torch.cat([soft.feature, soft.opacity, depth], dim=1)
        return soft._replace(feature=soft.feature + self.network(seen))

    def _lit(self, scene: Solid, cameras: Cameras) -> Solid:
        """Shade the colours, and convert the occupancy to the chosen absorption."""
        if self.cfg.sharpness != 1:
            logit = torch.logit(full_precision(scene.occupancy), eps=1e-4)
            scene = replace(scene, occupancy=torch.sigmoid(self.cfg.sharpness * logit))
        if self.cfg.shading:
            shade = visible_shade(scene, cameras, self.cfg)
            scene = replace(scene, colour=scene.colour * shade)
        if self.cfg.absorption == "sum":
            scene = replace(scene, occupancy=-torch.expm1(-scene.occupancy) / ABSORBED)
        return scene


def visible_shade(scene: Solid, cameras: Cameras, cfg: LightConfig) -> Float[Tensor, "v 1 n n n"]:
    """Brightness of each voxel of scene i for camera i: the mean of its faces that are seen.

    Of the three faces that are turned to the camera, each counts by its projected area and by the
    emptiness of the voxel in front of it. For binary occupancy it approximates the exact shade. Its
    gradient shows which neighbour to fill.
    """
    occupancy = full_precision(scene.occupancy)
    n = occupancy.shape[-1]
    centres = (torch.arange(n, device=occupancy.device) + 0.5) * scene.voxel - scene.box / 2
    padded = nn.functional.pad(occupancy, (1,) * 6)
    shades = face_shade(cfg, cameras).to(occupancy)
    total, seen = torch.zeros_like(occupancy), torch.full_like(occupancy, 1e-6)
    for axis in range(3):
        dim = 4 - axis  # the spatial axes are z, y, x
        along = [1 if d != dim else n for d in range(5)]
        toward = (cameras.origins[:, axis, None] - centres).view(-1, *along[1:]).to(occupancy)
        below, above = shades[:, 2 * axis : 2 * axis + 2, None, None, None, None].unbind(1)
        middle = [slice(None)] * 2 + [slice(1, n + 1)] * 3
        sides = []
        for start in (0, 2):
            middle[dim] = slice(start, start + n)
            sides.append(padded[tuple(middle)])
        front = 1 - torch.where(toward > 0, sides[1], sides[0])
        weight = toward.abs() * front
        total = total + weight * torch.where(toward > 0, above, below)
        seen = seen + weight
    return total / seen


def layers_2d(in_dim: int, width: int, num: int) -> nn.Sequential:
    """`num` layers of 3 x 3 pixels, and a linear one to rgb."""
    widths = [in_dim, *num * [width]]
    hidden = [Conv2dLayer(i, o, 3) for i, o in pairwise(widths)]
    return nn.Sequential(*hidden, Conv2dLayer(width, 3, 1, "linear"))


class RenderNet(nn.Module):
    """Colours from a solid resampled along the rays: 3D layers, a projection, 2D layers.

    Smaller than RenderNet, which has 10 blocks in 3D and 15 in 2D; the light is an input too.
    """

    def __init__(self, cfg: SoftConfig) -> None:
        """Build; each 3D layer halves the number of samples along the rays."""
        super().__init__()
        self.cfg = cfg
        self.depth = 4 * (-(-cfg.samples // 4))
        self.volumes = nn.ModuleList(
            nn.Conv3d(i, cfg.channels, 3, stride=(2, 1, 1), padding=1) for i in (4, cfg.channels)
        )
        width = 4 * cfg.channels
        self.project = Conv2dLayer(cfg.channels * self.depth // 4 + 3, width, 1)
        self.images = layers_2d(width, width, cfg.layers)

    def forward(self, scene: Solid, cameras: Cameras, resolution: int) -> Float[Tensor, "v 3 r r"]:
        """Return rgb in [-1, 1], not clipped, of view i of scene i."""
        rays = cameras.rays(resolution)
        # Neighbouring rays have equal distances, so that 3D layers see surfaces.
        middle, reach = cameras.origins.norm(dim=-1), scene.box / 2 * 3**0.5
        share = (torch.arange(self.depth, device=middle.device) + 0.5) / self.depth * 2 - 1
        t = (middle[:, None] + reach * share)[:, None, :, None]
        points = rays.origins[:, :, None] + t * rays.dirs[:, :, None]
        grid = full_precision(torch.cat([scene.occupancy, scene.occupancy * scene.colour], dim=1))
        coords = rearrange(points, "v r d a -> v a (r d)") * (2 / scene.box)
        values = sample_volume(grid, coords)
        x = rearrange(values, "v c (h w d) -> v c d h w", h=resolution, d=self.depth)
        for layer in self.volumes:
            x = nn.functional.leaky_relu(layer(x), 0.2)
        light = lights(self.cfg, cameras)
        toward = (cameras.cam2world[:, :3, :3].mT @ light[:, :, None])[..., None]
        planes = torch.cat(
            [rearrange(x, "v c d h w -> v (c d) h w"), toward.expand(-1, -1, *x.shape[-2:])], dim=1
        )
        rgb: Tensor = self.images(self.project(planes))
        return rgb
