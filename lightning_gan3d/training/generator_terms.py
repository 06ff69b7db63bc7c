"""The generator's loss beside the adversarial one: `loss.terms` and the density penalty."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.images import Images
from lightning_gan3d.registry import module_of
from lightning_gan3d.training import losses
from lightning_gan3d.training.config import LossConfig
from lightning_gan3d.training.discriminator_input import Microbatch
from lightning_gan3d.training.distributed import Meter
from lightning_gan3d.training.terms import TermInput, named


class GeneratorTerms:
    """Weighted terms of scenes, and of one view of each."""

    def __init__(self, cfg: LossConfig, meter: Meter) -> None:
        """`meter` gets the loss of each term."""
        self.cfg, self.meter = cfg, meter
        self._terms = [(n, t, module_of("loss_terms", t)) for n, t in named(cfg.terms).items()]

    def of_scene(self, scene: Any, mb: Microbatch) -> Float[Tensor, ""] | float:
        """Terms of the scenes themselves, and the density penalty if it is not lazy."""
        loss = self._sum(TermInput(scene, mb.schedule, mb.draws), mb)
        if self.cfg.density_reg > 0 and self.cfg.density_reg_interval == 1:
            loss = self.density(scene, mb) + loss
        return loss

    def of_view(
        self, scene: Any, mb: Microbatch, images: Images, cameras: Cameras
    ) -> Float[Tensor, ""] | float:
        """Terms of one view of each scene."""
        return self._sum(TermInput(scene, mb.schedule, mb.draws, images, cameras), mb)

    def _sum(self, at: TermInput, mb: Microbatch) -> Float[Tensor, ""] | float:
        total: Tensor | float = 0.0
        for (name, cfg, term), weight in zip(self._terms, mb.schedule.term_weights, strict=True):
            of_images = cfg.needs in ("image", "depth", "opacity", "mask")
            if weight == 0 or of_images == (at.images is None):
                continue
            loss = term(cfg, at._replace(draws=mb.draws.scope(f"term {name}")))
            self.meter.add(f"loss/{name}", loss)
            total = total + weight * loss
        return total

    def density(self, scene: Any, mb: Microbatch) -> Float[Tensor, ""]:
        """Weighted density penalty."""
        device = scene.tensors()[0].device
        points = losses.density_points(self.cfg, scene.box, scene.batch, mb.draws, device)
        penalty = losses.density_l1(scene, *points)
        self.meter.add("loss/density", penalty)
        return penalty * self.cfg.density_reg
