"""A source seen from cameras of a distribution, instead of those of the training images."""

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images
from lightning_gan3d.metrics.config import PosesConfig
from lightning_gan3d.metrics.sources import ViewSource


@dataclass(frozen=True, eq=False)
class PosedSource(ViewSource):
    """Another source, its items' own cameras moved to drawn directions.

    Distance from the origin and intrinsics stay those of the item's own camera, and so does the
    label that conditions the generator.
    """

    source: ViewSource
    cfg: PosesConfig
    seed: int = 0

    @property
    def protocol(self) -> str:
        """Cameras, truncation and seed, in words."""
        return f"{self.cfg.words}, no truncation, seed {self.seed}"

    def base(self, items: Int64[Tensor, " b"]) -> Cameras:
        """Return a drawn camera for each item, a function of (seed, item) alone."""
        own = self.source.base(items)
        draws, cfg = Draws(self.seed).scope("evaluation/poses"), self.cfg
        if cfg.kind == "gaussian":
            drawn = [draws.at(int(i)).normal("angles", (2,)) for i in items]
        else:
            drawn = [2 * draws.at(int(i)).uniform("angles", (2,)) - 1 for i in items]
        angles = torch.stack(drawn) * torch.tensor([cfg.azimuth, cfg.elevation])
        # Short of the poles, where a camera has no upright direction.
        elevation = (angles[:, 1] + cfg.mean_elevation).clamp(-1.5, 1.5)
        cam2world = Cameras.on_sphere(angles[:, 0], elevation, 1.0).cam2world.to(own.cam2world)
        cam2world[:, :3, 3] *= own.origins.norm(dim=1, keepdim=True)
        return Cameras(cam2world, own.intrinsics)

    def views(self, items: Int64[Tensor, " b"], cameras: Cameras) -> Images:
        """See the items."""
        return self.source.views(items, cameras)
