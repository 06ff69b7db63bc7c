"""Attributes of procedural heads, such as hair and skin, that change from view to view.

A network learns to read them from images of other heads, and is applied to views of each latent.
"""

from dataclasses import asdict, replace

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import LABEL_DIM, Cameras, Orbit
from lightning_gan3d.data.synthetic.synth import SynthConfig, SynthObjects, sample_cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import quantise, to_float, to_uint8
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import AttributesConfig
from lightning_gan3d.metrics.context import EvaluationContext, mean_of
from lightning_gan3d.metrics.pose.estimators import ImageRegressor, fit
from lightning_gan3d.metrics.protocol import cached

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
    cfg, source = context.cfg.attributes, context.source
    if cfg is None or context.heads is None:
        return []
    fixed = "stored images have one camera per latent" if source.fixed_cameras else ""
    if why := fixed or context.without_cameras:
        return [missing(NAMES[0], why, "share"), *(missing(name, why) for name in NAMES[1:])]
    network, r2 = attribute_reader(context, cfg, context.heads)
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
) -> tuple[ImageRegressor, Float[Tensor, " a"]]:
    """Return a network from images to standardised attributes, and its R² on held-out heads."""
    side = min(cfg.resolution, context.train.resolution)
    # Other heads than those of the data set, before equal backgrounds, from equal cameras.
    num = cfg.heads
    synth = replace(synth, num_images=num, num_objects=num, holdout=0.0, seed=synth.seed + 1)
    network = ImageRegressor(side, len(_ATTRIBUTE_OF)).to(context.device)

    def train() -> dict[str, Tensor]:
        draws = Draws(context.seed).scope("attributes")
        heads, cameras = SynthObjects(synth), sample_cameras(synth, num, draws)
        target = columns(heads.attributes())
        scale = deviations(target[None])[0, _ATTRIBUTE_OF]
        target = ((target - target.mean(dim=0)) / scale).to(context.device)
        image = to_uint8(heads.render(torch.arange(num), cameras, side).image).to(context.device)
        num_test = num // 8

        def batch(step: Draws) -> tuple[Tensor, Tensor]:
            ids = step.integers("heads", num - num_test, (cfg.batch,))
            noise = 0.05 * step.normal("noise", (cfg.batch, *image.shape[1:]), image.device)
            return to_float(image[ids]) + noise, target[ids]

        fit(network, batch, cfg.iterations, draws)
        wrong = network(to_float(image[-num_test:])) - target[-num_test:]
        error, spread = deviations(torch.stack([wrong, target[-num_test:]]).cpu())
        return {**network.state_dict(), "r2": 1 - (error / spread).square()}

    key = [asdict(synth), side, cfg.iterations, cfg.batch, context.seed]
    tensors = cached(context.cache, "attributes", key, train)
    r2 = tensors.pop("r2").cpu()
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False), r2
