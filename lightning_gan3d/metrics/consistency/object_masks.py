"""Masks of generated objects beside those that their images imply.

Generated scenes have no true masks. A network learns the masks of procedural scenes from their
images, and reads them from generated ones.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    interpolate,
    leaky_relu,
    pixel_shuffle,
)

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.synthetic.ellipsoids import ObjectView
from lightning_gan3d.data.synthetic.synth import SynthConfig, SynthObjects
from lightning_gan3d.images import quantise, resize
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import MasksConfig
from lightning_gan3d.metrics.context import EvaluationContext, mean_of
from lightning_gan3d.metrics.pose.estimators import ImageReader
from lightning_gan3d.metrics.sources import GeneratorSource
from lightning_gan3d.metrics.synthetic_reader import ReaderTask, trained_reader

NAMES = ("parts.mask_iou", "parts.mask_iou_reader")
COVERED = 0.5
"""Share of a pixel, or probability, from which it belongs to objects."""
WIDTHS = (32, 64, 96)
"""Channels of the network at 1/2, 1/4 and 1/8 of the resolution."""


class MaskLayers(nn.Module):
    """An encoder and decoder with skip connections, after the U-Net (Ronneberger et al. 2015).

    Nothing is computed at full resolution: the last layer predicts 2 x 2 pixels at once.
    """

    def __init__(self) -> None:
        """Build the layers with torch's initial weights."""
        super().__init__()
        pairs = list(zip((3, *WIDTHS), WIDTHS, strict=False))
        self.down = nn.ModuleList([nn.Conv2d(a, b, 3, 2, 1) for a, b in pairs])
        self.up = nn.ModuleList([nn.Conv2d(a + b, a, 3, 1, 1) for a, b in pairs[:0:-1]])
        self.last = nn.Conv2d(WIDTHS[0], 4, 3, 1, 1)

    def forward(self, image: Float[Tensor, "n 3 r r"]) -> Float[Tensor, "n p"]:
        """Return the logit of each pixel, row by row."""
        x, skips = image, []
        for layer in self.down:
            x = leaky_relu(layer(x), 0.1)
            skips.append(x)
        for layer, skip in zip(self.up, skips[-2::-1], strict=True):
            x = torch.cat([skip, interpolate(x, skip.shape[-2:])], dim=1)
            x = leaky_relu(layer(x), 0.1)
        # Odd sizes were rounded up.
        logits = pixel_shuffle(self.last(x), 2)[..., : image.shape[-2], : image.shape[-1]]
        return logits.flatten(1)


def mask_iou(logits: Float[Tensor, "n p"], mask: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:
    """Intersection over union of the pixels of objects (Jaccard index); NaN for NaN.

    0 if the intersection is empty, also for two empty masks: every scene has an object.
    """
    seen, drawn = logits >= 0, mask >= COVERED  # a logit of 0 is a probability of 0.5
    union = (seen | drawn).sum(dim=1).clamp(min=1)
    return torch.where((logits + mask).isnan().any(dim=1), torch.nan, (seen & drawn).sum(1) / union)


def measure_masks(context: EvaluationContext) -> list[Metric]:
    """Compare the generator's masks with those read from its images.

    Returns nothing without a generator, or if it has no masks and the data are no scenes.
    """
    cfg, source, synth = context.cfg.masks, context.source, context.synth
    if cfg is None or not isinstance(source, GeneratorSource):
        return []
    first = torch.tensor([0])
    unmasked = source.views(first, source.base(first)).mask is None
    unknown = synth is None or synth.kind != "scenes"
    if unmasked and unknown:
        return []
    if synth is None or unmasked or unknown:
        why = "the true masks are unknown; use data of gan3d data synth kind=scenes"
        if unmasked:
            why = "the renderer has no masks; use generator.renderer.kind=composed"
        return [missing(name, why, "share") for name in NAMES]
    network, ceiling = mask_reader(context, cfg, synth)
    logits, masks = [], []
    for items in torch.split(torch.arange(cfg.items), context.cfg.batch):
        views = source.views(items, source.base(items))
        assert views.mask is not None  # as of the first view
        logits.append(network(quantise(views.image).to(context.device)).cpu())
        whole = views.mask.float().cpu().sum(dim=1, keepdim=True).clamp(max=1)
        masks.append(resize(whole, network.resolution).flatten(1))
    read, drawn = torch.cat(logits), torch.cat(masks)
    protocol = (
        f"read at {network.resolution} pixels by a network trained on {cfg.iterations} x "
        f"{cfg.batch} images of {cfg.scenes:,} other scenes; masks of all objects of an image, "
        f"threshold {COVERED:g}"
    )
    areas = [float(x.float().mean()) for x in (drawn >= COVERED, read >= 0)]
    note = f"generator's masks cover {areas[0]:.1%} of the pixels, the network's {areas[1]:.1%}"
    iou, every = mask_iou(read, drawn), torch.ones(cfg.items, dtype=torch.bool)
    note = f"{note}; IoU on held-out scenes {float(ceiling):.3f}; {protocol}"
    held_out = f"held-out procedural scenes; {protocol}"
    return [
        mean_of(NAMES[0], iou, "share", note, every),
        Metric(NAMES[1], float(ceiling), "share", cfg.scenes // 8, note=held_out),
    ]


def mask_reader(
    context: EvaluationContext, cfg: MasksConfig, synth: SynthConfig
) -> tuple[ImageReader, Tensor]:
    """Return a network from images to logits of masks, and its mean IoU on held-out scenes."""

    def network(resolution: int) -> ImageReader:
        return ImageReader(resolution, MaskLayers())

    def targets(_: SynthObjects, _cameras: Cameras, view: ObjectView) -> Tensor:
        return view.mask.flatten(1)

    def score(logits: Tensor, target: Tensor) -> Tensor:
        return mask_iou(logits, target).mean()

    loss = binary_cross_entropy_with_logits
    return trained_reader(
        context, synth, cfg, ReaderTask("masks", cfg.scenes, network, targets, score, loss)
    )
