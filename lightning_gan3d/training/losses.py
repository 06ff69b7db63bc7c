"""Adversarial losses on logits, and the gradient penalties that keep the discriminator smooth."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from lightning_gan3d.images import Images

Adversarial = Literal["nonsaturating", "relativistic"]


def generator_loss(
    kind: Adversarial, fake: Float[Tensor, "v 1"], real: Float[Tensor, "v 1"] | None = None
) -> Float[Tensor, ""]:
    """What the generator minimises, given logits.

    Non-saturating: softplus(-D(fake)). Relativistic: softplus(D(real) - D(fake)), paired
    (Jolicoeur-Martineau 2019; Huang et al. 2024, eq. 2); the two of a pair share their label.
    """
    if kind == "nonsaturating":
        return softplus(-fake).mean()
    assert real is not None, "the relativistic loss compares with the logits of reals"
    return softplus(real - fake).mean()


def discriminator_loss(
    kind: Adversarial, fake: Float[Tensor, "v 1"], real: Float[Tensor, "v 1"]
) -> Float[Tensor, ""]:
    """What the discriminator minimises, given logits.

    Non-saturating: softplus(D(fake)) + softplus(-D(real)).
    Relativistic: softplus(D(fake) - D(real)), paired.
    """
    if kind == "nonsaturating":
        return (softplus(fake) + softplus(-real)).mean()
    return softplus(fake - real).mean()


def accuracy(
    kind: Adversarial, fake: Float[Tensor, "v 1"], real: Float[Tensor, "v 1"]
) -> Float[Tensor, ""]:
    """Share of images (for the relativistic loss, of pairs) that the discriminator gets right."""
    if kind == "nonsaturating":
        return ((fake < 0).float().mean() + (real > 0).float().mean()) / 2
    return (real > fake).float().mean()


def with_gradient(images: Images) -> Images:
    """Return the two images as leaves of a new graph, separate even where they are one tensor."""
    return Images(
        images.image.detach().requires_grad_(True), images.image_raw.detach().requires_grad_(True)
    )


def gradient_penalty(logits: Float[Tensor, "v 1"], images: Images) -> Float[Tensor, ""]:
    """Mean over the batch of |dD/dimage|^2 + |dD/dimage_raw|^2 (R1 on reals, R2 on fakes).

    Mescheder et al. 2018, eq. 9, without gamma / 2; dual as EG3D. `images`: the leaves that the
    logits were computed from; differentiated through whatever lies between (blur, augmentation).
    """
    gradients = torch.autograd.grad(
        logits.sum(), (images.image, images.image_raw), create_graph=True, allow_unused=True
    )
    per_image = sum(g.square().sum(dim=(1, 2, 3)) for g in gradients if g is not None)
    assert isinstance(per_image, Tensor), "the logits depend on neither image"
    return per_image.mean()
