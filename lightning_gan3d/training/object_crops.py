"""The discriminator of objects: crops of images at their boxes (DiscoScene, Xu et al. 2023)."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu, softplus

from lightning_gan3d.experiment import ExperimentConfig
from lightning_gan3d.images import Images, blur
from lightning_gan3d.networks.augment import Augment
from lightning_gan3d.networks.discriminator import Discriminator
from lightning_gan3d.networks.precision import computing_in
from lightning_gan3d.training.discriminator_input import Microbatch
from lightning_gan3d.training.distributed import Meter


class Crops(NamedTuple):
    """One square crop per object; crops of absent objects are placeholders."""

    image: Float[Tensor, "k c r r"]
    present: Float[Tensor, " k"]
    """1 for an object whose box is in the image, at least in part; otherwise 0."""

    def mean(self, values: Float[Tensor, " k"]) -> Float[Tensor, ""]:
        """Mean over the present objects; 0 if there is none."""
        return (values * self.present).sum() / self.present.sum().clamp(min=1)


def crop_objects(
    images: Float[Tensor, "v c h h"],
    boxes: Float[Tensor, "v m 4"],
    resolution: int,
    padding: float,
) -> Crops:
    """Cut squares around the centres of boxes, of the longer side times 1 + padding.

    Resampled bilinearly, with antialiasing where a crop is reduced, as `images.resize`. Samples
    outside the image repeat its border. The crop of a missing object shows the whole image.
    """
    outside = (boxes[..., 2:] <= 0).any(-1) | (boxes[..., :2] >= 1).any(-1)
    present = boxes.isfinite().all(-1) & ~outside
    whole = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    known = torch.where(present[..., None], boxes, whole)
    low, high = known[..., :2], known[..., 2:]
    length = (high - low).amax(-1, keepdim=True) * (1 + padding)
    weights = _resampling((low + high - length) / 2, length, images.shape[-1], resolution)
    columns, rows = weights.unbind(2)
    crops = rows[:, :, None] @ images[:, None] @ columns[:, :, None].mT
    return Crops(crops.flatten(0, 1), present.flatten().float())


def _resampling(
    start: Float[Tensor, "v m 2"], length: Float[Tensor, "v m 1"], size: int, resolution: int
) -> Float[Tensor, "v m 2 r h"]:
    """Weights of `size` pixels in the samples of spans, in shares of the image; rows sum to 1.

    Triangle filter; half-width: one output sample or one pixel, whichever is larger.
    """
    at = (torch.arange(resolution, device=start.device) + 0.5) / resolution
    position = ((start[..., None] + length[..., None] * at) * size).clamp(0.5, size - 0.5)
    pixels = torch.arange(size, device=start.device) + 0.5
    reach = (length * (size / resolution)).clamp(min=1)
    weights = relu(1 - (position[..., None] - pixels).abs() / reach[..., None, None])
    return weights / weights.sum(-1, keepdim=True)


class ObjectCrops:
    """Losses of the discriminator of objects; 0 without `discriminator.objects`.

    Crops are taken after blur. Each is augmented on its own, with the probability of whole images.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        discriminator: Discriminator,
        augment: Augment,
        meter: Meter,
    ) -> None:
        """`discriminator` holds that of objects; `meter` gets the losses."""
        self.cfg, self.precision = config.discriminator.objects, config.training.precision
        self.network, self.augment, self.meter = discriminator.objects, augment, meter

    def generator_loss(self, fake: Images, mb: Microbatch) -> Float[Tensor, ""] | float:
        """Weighted adversarial loss of the generator: mean softplus(-D(fake)) over objects."""
        if self.cfg is None:
            return 0.0
        crops = self._crops(fake, mb)
        loss = crops.mean(softplus(-self._judge(crops, mb, real=False)))
        self.meter.add("loss/G_objects", loss)
        return loss * self.cfg.weight

    def discriminator_loss(
        self, fake: Images, real: Images, mb: Microbatch
    ) -> Float[Tensor, ""] | float:
        """Adversarial loss: mean softplus(D(fake)) + mean softplus(-D(real)) over objects."""
        if self.cfg is None:
            return 0.0
        fakes, reals = self._crops(fake, mb), self._crops(real, mb)
        of_fakes, of_reals = self._judge(fakes, mb, False), self._judge(reals, mb, True)
        loss = fakes.mean(softplus(of_fakes)) + reals.mean(softplus(-of_reals))
        self.meter.add("loss/D_objects", loss)
        right = fakes.mean((of_fakes < 0).float()) + reals.mean((of_reals > 0).float())
        self.meter.add("D/objects_accuracy", right / 2)
        return loss

    def penalty(self, real: Images, mb: Microbatch) -> Float[Tensor, ""] | float:
        """R1, r1_gamma / 2 * mean |dD/dcrop|^2 over real objects (Mescheder et al. 2018)."""
        if self.cfg is None or self.cfg.r1_gamma == 0:
            return 0.0
        crops = self._crops(real, mb)
        crops = crops._replace(image=crops.image.detach().requires_grad_())
        logits = self._judge(crops, mb, True, penalised=True)
        (gradient,) = torch.autograd.grad(logits.sum(), crops.image, create_graph=True)
        r1 = crops.mean(gradient.square().sum((1, 2, 3)))
        self.meter.add("loss/R1_objects", r1)
        return r1 * (self.cfg.r1_gamma / 2)

    def _crops(self, images: Images, mb: Microbatch) -> Crops:
        assert self.cfg is not None, "the callers checked"
        assert images.boxes is not None, "checked with the data"
        image = blur(images.image, mb.schedule.blur_sigma)
        return crop_objects(image, images.boxes, self.cfg.resolution, self.cfg.padding)

    def _judge(
        self, crops: Crops, mb: Microbatch, real: bool, penalised: bool = False
    ) -> Float[Tensor, " k"]:
        """Logits of crops; `penalised`: in float32."""
        assert self.network is not None, "the callers checked"
        draws = mb.draws.scope("augment real objects" if real else "augment fake objects")
        inputs = self.augment(Images(crops.image, crops.image), draws)
        with computing_in(self.network, "fp32" if penalised else self.precision):
            logits: Tensor = self.network(inputs, crops.image.new_zeros(len(crops.image), 0))
        return logits[:, 0]
