"""Latents optimised towards an image, text or direction of an encoder: StyleCLIP's optimisation.

Patashnik et al. 2021, section 4: the style vectors w of all layers (w+) minimise
1 - cos(e(G(w)), target) + `prior` * |w - w0|^2 from a seed or an inverted photograph w0, seen by
the frontal camera. Without a target, the cosine is that of e(G(w)) - e(G(w0)) and a direction.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.config import ConfigError
from lightning_gan3d.embedding import Encoder, Target, direction_loss, read_target
from lightning_gan3d.inference.config import EditOptions
from lightning_gan3d.inference.edit_courses import reject_unused
from lightning_gan3d.inference.inversion.projection import optimise
from lightning_gan3d.inference.model import Model
from lightning_gan3d.training.critic import EncoderConfig

OPTIONS = ("encoder", "text_encoder", "encoder_resolution", "steps", "rate", "prior")
"""Options that only this method reads."""


def open_target(model: Model, options: EditOptions) -> tuple[Encoder, Target]:
    """Load the encoder and read the target; rejects options and generators that do not fit."""
    unused = ["method", "components", "range", "samples_w", "change", "object", "others", "amount"]
    reject_unused(options, unused, f"no effect with towards={options.towards}; leave it out")
    model.generator.cfg.check_gradient("inversion")
    if isinstance(model.edits, tuple) and model.edits:
        raise ConfigError(f"edits={options.edits}: not with towards; leave one out", field="edits")
    cfg = EncoderConfig(options.encoder, options.text_encoder, options.encoder_resolution)
    encoder = Encoder("", cfg, model.generator.resolution, model.device)
    return encoder, read_target("towards", options.towards, encoder)


def offset_towards(
    model: Model, seed: int, options: EditOptions, goal: tuple[Encoder, Target]
) -> tuple[Float[Tensor, "num_ws w_dim"], str]:
    """Optimise the latent of a seed; returns w - w0, and the cosines before and after."""
    (encoder, (direction, embedding)), camera = goal, model.orbit.cameras(1).to(model.device)
    with torch.no_grad():
        first = model.styles_of(seed, options)(model.label)

    def embedded(ws: Tensor) -> Tensor:
        images = model.generator.synthesis(ws, camera, options.rendering_resolution)[1]
        return encoder(images.image)

    with torch.no_grad():
        before = embedded(first)
    ws = first.clone().requires_grad_()

    def distance(after: Tensor) -> Tensor:
        if embedding is not None:
            return 1 - (after @ embedding).mean()
        assert direction is not None, "`read_target` sets one of both"
        return direction_loss(after, before, direction)

    def loss(_: int) -> Tensor:
        return distance(embedded(ws)) + options.prior * (ws - first).square().sum()

    optimise([{"params": [ws], "lr": options.rate}], loss, options.steps, options.steps)
    with torch.no_grad():
        cosines = [1 - float(distance(x)) for x in (before, embedded(ws))]
    return (ws - first).detach()[
        0
    ], f"seed {seed}: cosine {cosines[0]:.3f} before, {cosines[1]:.3f} after"
