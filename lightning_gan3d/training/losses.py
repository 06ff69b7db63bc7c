"""Adversarial losses, R1 and R2 penalties, and density regularisation."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.contract import Field
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images
from lightning_gan3d.training.config import LossConfig

Adversarial = Literal["nonsaturating", "relativistic", "wgan"]


def recommended_gamma(resolution: int, batch: int) -> float:
    """R1 weight that StyleGAN2-ADA chooses (`auto`, Karras et al. 2020a), as a first guess."""
    return 0.0002 * resolution**2 / batch


def generator_loss(
    kind: Adversarial, fake: Float[Tensor, "v 1"], real: Float[Tensor, "v 1"] | None = None
) -> Float[Tensor, ""]:
    """Adversarial loss of the generator, from logits.

    Non-saturating: softplus(-D(fake)). Relativistic: softplus(D(real) - D(fake)), paired
    (Jolicoeur-Martineau 2019; Huang et al. 2024, eq. 2); the images of a pair share their label.
    Wasserstein: -D(fake).
    """
    if kind == "wgan":
        return -fake.mean()
    if kind == "nonsaturating":
        return softplus(-fake).mean()
    assert real is not None, "the relativistic loss needs the logits of real images"
    return softplus(real - fake).mean()


def discriminator_loss(
    kind: Adversarial, fake: Float[Tensor, "v 1"], real: Float[Tensor, "v 1"]
) -> Float[Tensor, ""]:
    """Adversarial loss of the discriminator, from logits.

    Non-saturating: softplus(D(fake)) + softplus(-D(real)).
    Relativistic: softplus(D(fake) - D(real)), paired. Wasserstein: D(fake) - D(real).
    """
    if kind == "wgan":
        return (fake - real).mean()
    if kind == "nonsaturating":
        return (softplus(fake) + softplus(-real)).mean()
    return softplus(fake - real).mean()


def accuracy(
    kind: Adversarial, fake: Float[Tensor, "v 1"], real: Float[Tensor, "v 1"]
) -> Float[Tensor, ""]:
    """Accuracy of the discriminator over images, or over pairs for the other losses."""
    if kind == "nonsaturating":
        return ((fake < 0).float().mean() + (real > 0).float().mean()) / 2
    return (real > fake).float().mean()


def with_gradient(images: Images) -> Images:
    """Detach both images and require their gradients, separately even if they are one tensor."""
    return Images(
        images.image.detach().requires_grad_(True), images.image_raw.detach().requires_grad_(True)
    )


def gradient_penalty(logits: Float[Tensor, "v 1"], images: Images) -> Float[Tensor, ""]:
    """Mean over the batch of |dD/dimage|^2 + |dD/dimage_raw|^2: R1 at reals, R2 at fakes.

    Mescheder et al. 2018, eq. 9, without gamma / 2; dual as EG3D. `images`: the leaves of the
    logits' graph, which may contain blur and augmentation.
    """
    return _squared_gradient(logits, images).mean()


def interpolate(real: Images, fake: Images, share: Float[Tensor, "v 1 1 1"]) -> Images:
    """Images between pairs; `share` 0 is real."""
    image, image_raw = (a.lerp(b, share) for a, b in zip(real[:2], fake[:2], strict=True))
    return Images(image, image_raw)


def critic_penalty(logits: Float[Tensor, "v 1"], images: Images) -> Float[Tensor, ""]:
    """Mean (|grad D| - 1)^2 at `images` between pairs (Gulrajani et al. 2017, eq. 3)."""
    return (_squared_gradient(logits, images).add(1e-12).sqrt() - 1).square().mean()


def _squared_gradient(logits: Float[Tensor, "v 1"], images: Images) -> Float[Tensor, " v"]:
    gradients = torch.autograd.grad(
        logits.sum(), (images.image, images.image_raw), create_graph=True, allow_unused=True
    )
    per_image = sum(g.square().sum(dim=(1, 2, 3)) for g in gradients if g is not None)
    assert isinstance(per_image, Tensor), "the logits depend on neither image"
    return per_image


def camera_error(
    direction: Float[Tensor, "v 3"], label: Float[Tensor, "v label_dim"]
) -> Float[Tensor, ""]:
    """Mean squared distance of estimated directions to the cameras' viewing directions.

    2 - 2 cos(angle) for unit vectors: the squared angle if it is small, without a jump at a full
    turn. (pi-GAN regresses azimuth and elevation.)
    """
    return (direction - Cameras.from_label(label).forward).square().sum(dim=1).mean()


def density_points(
    cfg: LossConfig, box: float, batch: int, draws: Draws, device: torch.device
) -> tuple[Float[Tensor, "b n 3"], Float[Tensor, "b n 3"]]:
    """Draw points and one neighbour each.

    EG3D draws in [-1, 1]^3 for any box: with a box of edge 1, seven of eight points lie outside
    the planes. By default points fill the box and distances scale with it.
    """
    shape = (batch, cfg.density_reg_num_points, 3)
    half, scale = (box / 2, box) if cfg.density_reg_points == "box" else (1.0, 1.0)
    points = (draws.uniform("points", shape, device, on_device=True) * 2 - 1) * half
    step = draws.normal("neighbours", shape, device, on_device=True)
    return points, points + step * (cfg.density_reg_distance * scale)


def density_l1(
    field: Field, points: Float[Tensor, "b n 3"], neighbours: Float[Tensor, "b n 3"]
) -> Float[Tensor, ""]:
    """Mean |sigma_raw(p) - sigma_raw(q)| (Chan et al. 2022, supplement: density regularisation)."""
    sigma_raw = field.density(torch.cat([points, neighbours], dim=1))
    at_points, at_neighbours = sigma_raw.chunk(2, dim=1)
    return (at_points - at_neighbours).abs().mean()


def eikonal(field: Field, points: Float[Tensor, "b n 3"]) -> Float[Tensor, ""]:
    """Mean (|grad d| - 1)^2 of a signed distance d (Gropp et al. 2020, eq. 2)."""
    points = points.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(field.density(points).sum(), points, create_graph=True)
    return (gradient.square().sum(-1).add(1e-12).sqrt() - 1).square().mean()
