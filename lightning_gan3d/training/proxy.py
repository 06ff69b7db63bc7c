"""The loss of a proxy, which stands in for an exact renderer (IG-GAN, Lunz et al. 2020)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.training.discriminator_input import Microbatch


def proxy_loss(
    module: Any, label: Float[Tensor, "b label_dim"], mb: Microbatch, pretrains: bool
) -> Float[Tensor, ""]:
    """Differences between proxy and exact renderer on new scenes: of images, and of their logits.

    Only the proxy gets a gradient. `module`: the AdversarialModule. `pretrains`: random scenes, and
    images alone.
    """
    cfg, meter, cameras = module.config.loss.proxy, module.meter, Cameras.from_label(label)
    with torch.no_grad():
        ws = module.styles(label, mb)
        scene = module.generator.scene(ws, "random", mb.draws.scope("scene"))
        if pretrains:
            scene = module.generator.renderer.random_scenes(scene, mb.draws)
        exact, _ = module.input.fakes(scene, ws, cameras, mb)
    smooth, _ = module.input.fakes(scene, ws, cameras, mb, smooth=True)
    error: Tensor = (smooth.image - exact.image).square().mean()
    meter.add("loss/proxy_image", error)
    if exact.opacity is not None:
        meter.add("proxy/exact_opacity", exact.opacity.mean())
    loss: Tensor = cfg.image * error
    if pretrains or cfg.matching == 0:
        return loss
    logits: Tensor = module.judge(smooth, label, mb, real=False)[0].logits
    with torch.no_grad():
        target: Tensor = module.judge(exact, label, mb, real=False)[0].logits
    meter.add("proxy/logit_gap", (logits - target).abs().mean())
    loss = loss + cfg.matching * (logits - target).square().mean()
    return loss
