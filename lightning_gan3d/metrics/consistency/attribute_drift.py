"""Attributes of procedural heads, such as hair and skin, that change from view to view.

A network learns to read them from images of other heads, and is applied to views of each latent.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import LABEL_DIM, Cameras, Orbit
from lightning_gan3d.data.synthetic.ellipsoids import ObjectView
from lightning_gan3d.data.synthetic.synth import SynthConfig, SynthObjects
from lightning_gan3d.images import quantise
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import AttributesConfig
from lightning_gan3d.metrics.context import EvaluationContext, mean_of
from lightning_gan3d.metrics.pose.estimators import ImageReader, ImageRegressor
from lightning_gan3d.metrics.synthetic_reader import ReaderTask, trained_reader

ATTRIBUTES = ("hair_hue", "hair_value", "hair_length", "skin_tone", "parting", "head_width")
"""Attributes that a small network reads well from one view; the first is an angle, in turns."""
_ATTRIBUTE_OF = torch.tensor([0, *range(len(ATTRIBUTES))])
"""Attribute of each column."""
NAMES = ("attributes.drift_share", "attributes.drift", "attributes.drift_others")


def columns(attributes: dict[str, Float[Tensor, " m"]]) -> Float[Tensor, "m d"]:
    """The attributes as columns; the angle as cosine and sine."""
    turn, *rest = (attributes[name] for name in ATTRIBUTES)
    angle = 2 * torch.pi * turn
    return torch.stack([angle.cos(), angle.sin(), *rest], dim=1)


def deviations(values: Float[Tensor, "n k d"]) -> Float[Tensor, "n a"]:
    """Standard deviation of each attribute over k values; of a hue, root of the total variance."""
    variance = values.var(dim=1)
    total = variance.new_zeros(len(variance), len(ATTRIBUTES))
    return total.index_add(1, _ATTRIBUTE_OF.to(variance.device), variance).sqrt()


def measure_attributes(context: EvaluationContext) -> list[Metric]:
    """Measure how attributes differ between views of a latent, and between latents.

    The unit is the deviation of the attribute over heads. Values between latents take each view of
    another latent. Returns nothing if the data do not show procedural heads.
    """
    cfg, source, synth = context.cfg.attributes, context.source, context.synth
    if cfg is None or synth is None or synth.kind != "heads":
        return []
    fixed = "stored images have one camera per latent" if source.fixed_cameras else ""
    if why := fixed or context.without_cameras:
        return [missing(NAMES[0], why, "share"), *(missing(name, why) for name in NAMES[1:])]
    network, r2 = attribute_reader(context, cfg, synth)
    orbit = Orbit.of_labels(context.labels[:, :LABEL_DIM]).cameras(cfg.views)
    parts = []
    for items in torch.split(torch.arange(cfg.items), max(1, context.cfg.batch // cfg.views)):
        cameras = Cameras(*(x.repeat(len(items), 1, 1) for x in orbit))
        image = quantise(source.views(items, cameras).image)
        parts.append(network(image.to(context.device)).unflatten(0, (-1, cfg.views)).cpu())
    values = torch.cat(parts)
    shuffled = torch.stack([values[:, j].roll(j, dims=0) for j in range(cfg.views)], dim=1)
    own, others = deviations(values), deviations(shuffled).mean(dim=1)
    protocol = (
        f"deviation over {cfg.views} cameras on the middle 90 % of the azimuths, of attributes "
        f"read by a network trained on {cfg.iterations} x {cfg.batch} images of {cfg.heads:,} "
        f"other heads at {network.resolution} pixels, in units of the deviation over heads; R² on "
        f"held-out heads at least {float(r2.min()):.2f}"
    )
    pairs = zip(ATTRIBUTES, own.mean(dim=0).tolist(), strict=True)
    each = ", ".join(f"{name} {value:.3f}" for name, value in pairs)
    drift = mean_of(NAMES[1], own.mean(dim=1), "", f"views of a latent ({each}): {protocol}")
    ceiling = mean_of(NAMES[2], others, "", f"each view of another latent: {protocol}")
    if not ceiling.value or drift.value is None:
        why = drift.note if drift.value is None else f"latents do not differ ({protocol})"
        return [missing(NAMES[0], why, "share"), drift, ceiling]
    note = f"{NAMES[1]} over {NAMES[2]}: {protocol}"
    share = drift.value / ceiling.value
    return [Metric(NAMES[0], share, "share", cfg.items, note=note), drift, ceiling]


def attribute_reader(
    context: EvaluationContext, cfg: AttributesConfig, synth: SynthConfig
) -> tuple[ImageReader, Float[Tensor, " a"]]:
    """Return a network from images to standardised attributes, and its R² on held-out heads."""

    def targets(heads: SynthObjects, _: Cameras, _view: ObjectView) -> Tensor:
        target = columns(heads.attributes())
        scale = deviations(target[None])[0, _ATTRIBUTE_OF]
        return (target - target.mean(dim=0)) / scale

    def score(output: Tensor, target: Tensor) -> Tensor:
        error, spread = deviations(torch.stack([output - target, target]))
        r2: Tensor = 1 - (error / spread).square()
        return r2

    network = partial(ImageRegressor, dim=len(_ATTRIBUTE_OF))
    task = ReaderTask("attributes", cfg.heads, network, targets, score)
    return trained_reader(context, synth, cfg, task)
