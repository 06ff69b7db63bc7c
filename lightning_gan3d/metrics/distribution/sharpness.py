"""Sharpness and contrast of generated images, relative to real ones."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.draws import Draws
from lightning_gan3d.images import to_float
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.consistency.reference import reduced
from lightning_gan3d.metrics.consistency.spectrum import Amplitude, amplitude_of
from lightning_gan3d.metrics.context import EvaluationContext

PIXELS = 64
"""Side of the images; larger ones are reduced to it."""
NUM_REAL = 1000
"""Most real images."""


class ImageAmplitude:
    """Root mean square amplitude of many images, each about its own mean colour."""

    def __init__(self) -> None:
        """Start without images."""
        self.num_images = 0
        self.size = PIXELS
        self._squares = torch.zeros(2, dtype=torch.float64)

    def add(self, image: Float[Tensor, "b 3 h w"]) -> None:
        """Add images in [-1, 1]."""
        image = reduced(image.float(), PIXELS)
        amplitude = amplitude_of(image[None] / 2 + 0.5)
        self.size = image.shape[-1]
        self.num_images += len(image)
        self._squares += len(image) * torch.tensor(amplitude, dtype=torch.float64).square()

    @property
    def mean(self) -> Amplitude:
        """Amplitude of all images."""
        return Amplitude(*(self._squares / max(self.num_images, 1)).sqrt().tolist())


def real_amplitude(context: EvaluationContext) -> Amplitude:
    """Return the amplitude of held-out images, else of training images."""
    real, result = context.real, ImageAmplitude()
    order = Draws(context.seed).scope("sharpness").permutation("images", len(real))[:NUM_REAL]
    for indices in torch.split(order, context.cfg.batch):
        result.add(to_float(real.images(indices)))
    return result.mean


def sharpness_metrics(generated: ImageAmplitude, context: EvaluationContext) -> list[Metric]:
    """Return contrast and sharpness as shares of the real images'."""
    real = real_amplitude(context)
    side = generated.size
    notes = {
        "contrast": "amplitude of images about their mean colour",
        "sharpness": "amplitude of detail, above half of Nyquist's frequency",
    }
    metrics = []
    for (name, definition), own, of_real in zip(notes.items(), generated.mean, real, strict=True):
        note = f"{definition}, over that of real images; at {side}x{side} pixels"
        if not of_real:
            why = f"that of the real images is 0 ({note})"
            metrics.append(missing(f"quality.{name}", why, "share"))
        else:
            n = generated.num_images
            metrics.append(Metric(f"quality.{name}", own / of_real, "share", n, note=note))
    return metrics
