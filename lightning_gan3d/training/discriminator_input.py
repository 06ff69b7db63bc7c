"""What the discriminator sees: real and generated images, whole or as patches; backgrounds."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.experiment import ExperimentConfig
from lightning_gan3d.generator import Generator
from lightning_gan3d.images import Images, at_level, real_pair, recolour, resize, to_float
from lightning_gan3d.training.patches import Patches, crop_cameras, crop_images, draw_patches
from lightning_gan3d.training.schedules import Level, ScheduleState


class Microbatch(NamedTuple):
    """The input of one pass: the unit of draws, camera swaps and minibatch deviation."""

    images: UInt8[Tensor, "b 3 h w"]
    labels: Float[Tensor, "b label_dim"]
    draws: Draws
    schedule: ScheduleState
    mattes: UInt8[Tensor, "b 1 h w"] | None = None
    boxes: Float[Tensor, "b m 4"] | None = None
    last: bool = False
    """Whether it is the last one of this process in its step."""

    def scope(self, name: str) -> "Microbatch":
        """Return the microbatch with the draws of a named part."""
        return self._replace(draws=self.draws.scope(name))


class DiscriminatorInput:
    """Real and generated images in one form, before blur and augmentation."""

    def __init__(self, config: ExperimentConfig, generator: Generator) -> None:
        """`generator` renders the generated images."""
        self.config, self.generator = config, generator
        self.resolution = config.discriminator_resolution(generator.resolution)
        cfg = config.generator
        self._reduces = cfg.factor == 1 and not cfg.view_in_label

    def reals(self, mb: Microbatch) -> Images:
        """The real images, in the form of the generator's output."""
        if self.config.training.patch is not None:
            return self._real_patches(mb)
        if mb.schedule.level is not None:
            return self._level_reals(mb, mb.schedule.level)
        reals = real_pair(mb.images, mb.schedule.rendering_resolution, self._reduces)
        reals = reals._replace(boxes=mb.boxes)
        if mb.mattes is None:
            return reals
        matte = resize(mb.mattes / 255, mb.schedule.rendering_resolution)
        opacity = matte if self._reduces else mb.mattes / 255
        return self._recoloured(reals._replace(opacity=opacity), mb, real=True)

    def _level_reals(self, mb: Microbatch, level: Level) -> Images:
        """Real images of a level of progressive growing, with the details that have faded in."""
        size = level.resolution, level.alpha
        image = at_level(to_float(mb.images), *size)
        matte = None if mb.mattes is None else at_level(mb.mattes / 255, *size)
        return self._recoloured(Images(image, image, None, matte), mb, real=True)

    def _real_patches(self, mb: Microbatch) -> Images:
        """Patches of the real images."""
        images, patches = to_float(mb.images), self.patches(mb, real=True)
        assert patches is not None, "the caller checked"
        if mb.mattes is not None:
            images = torch.cat([images, mb.mattes / 255], dim=1)
        image = crop_images(images, patches, self.resolution)
        opacity = None if mb.mattes is None else image[:, 3:]
        return self._recoloured(Images(image[:, :3], image[:, :3], None, opacity), mb, real=True)

    def patches(self, mb: Microbatch, real: bool) -> Patches | None:
        """The patches of a microbatch, a function of its draws; None for whole images."""
        cfg = self.config.training.patch
        if cfg is None:
            return None
        share = cfg.resolution / self.generator.resolution
        groups = len(mb.images), max(1, self.config.discriminator.mbstd_group)
        return draw_patches(
            cfg,
            share if cfg.scale_min is None else cfg.scale_min,
            mb.schedule.patch_progress,
            groups,
            mb.draws.scope("real patches" if real else "patches"),
        )

    def fakes(
        self,
        scene: Any,
        ws: Float[Tensor, "b num_ws w_dim"],
        cameras: Cameras,
        mb: Microbatch,
        smooth: bool = False,
    ) -> tuple[Images, Cameras]:
        """Render one view of each scene, `smooth` with a gradient; return it with its cameras."""
        patches, resolution = self.patches(mb, real=False), mb.schedule.rendering_resolution
        if patches is not None:
            cameras, resolution = crop_cameras(cameras, patches), self.resolution
        draws = mb.draws.scope("render")
        fake = self.generator.render(scene, ws, cameras, resolution, "random", draws, smooth)
        if patches is not None:
            fake = fake._replace(image=fake.image_raw)
        if self.config.discriminator.objects is not None:
            # Without gradient: else the generator could lower the loss by moving the crop instead
            # of the object.
            with torch.no_grad():
                boxes = torch.stack([x.box_in(cameras) for x in scene.objects], dim=1)
            fake = fake._replace(boxes=boxes)
        fake, level = self._recoloured(fake, mb, real=False), mb.schedule.level
        if level is not None:
            # The network of pictures fades by itself.
            alpha = 1.0 if self.config.generator.view_in_label else level.alpha
            image = at_level(fake.image_raw, level.resolution, alpha)
            fake = fake._replace(image=image, image_raw=image)
        return fake, cameras

    def _recoloured(self, images: Images, mb: Microbatch, real: bool) -> Images:
        """Put images before random solid backgrounds, if the data say so."""
        if not self.config.data.random_background:
            return images
        name = "real background" if real else "background"
        shape = (len(images.image), 3, 1, 1)
        colour = mb.draws.uniform(name, shape, images.image.device) * 2 - 1
        background = 2 * self.config.generator.renderer.background - 1
        return recolour(images, colour, background)
