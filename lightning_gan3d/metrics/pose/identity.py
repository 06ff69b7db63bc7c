"""Identity: do two views of a latent look like one subject to an embedding that the user gives?"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from lightning_gan3d.metric import Metric
from lightning_gan3d.metrics.config import IdentityConfig
from lightning_gan3d.metrics.consistency.warp import carry
from lightning_gan3d.metrics.sources import ViewSource
from lightning_gan3d.metrics.summary import mean_of
from lightning_gan3d.metrics.torchscript import Scripted, ScriptedError, load_scripted


def embed(
    network: Scripted, image: Float[Tensor, "n 3 h w"], size: int | None
) -> Float[Tensor, "n d"]:
    """Return unit vectors."""
    found = network(image, size)
    if found.dim() != 2:
        raise ScriptedError(
            f"{network.field}={network.path}: returns shape {tuple(found.shape)}; an embedding is "
            "one vector for each image"
        )
    return normalize(found, dim=-1)


def measure_identity(
    source: ViewSource,
    cfg: IdentityConfig,
    batch: int = 32,
    device: torch.device | str = "cpu",
) -> list[Metric]:
    """Measure the mean cosine of two views of a latent, and of different latents as the floor.

    The label stays that of the latent. The floor takes each latent's first view and the second one
    of the latent after it, so that it holds as many pairs, at cameras as they come.
    """
    network = load_scripted("identity.embedding", cfg.embedding, device)
    azimuth = torch.tensor([-0.5, 0.5]) * cfg.angle
    parts = []
    for items in torch.split(torch.arange(cfg.items), max(1, batch // 2)):
        base = source.base(items)
        image = source.views(items, carry(base, azimuth.to(base.cam2world))).image
        parts.append(embed(network, image.float().clamp(-1, 1), cfg.resolution).cpu())
    found = torch.cat(parts)
    first, second = found[0::2], found[1::2]
    protocol = (
        f"cosine of embeddings by {network.protocol}, of images "
        + ("as they are" if cfg.resolution is None else f"at {cfg.resolution} pixels")
        + f"; two cameras {cfg.angle:g} rad apart around the world's y axis, label fixed"
    )
    same = (first * second).sum(-1)
    other = (first * second.roll(-1, dims=0)).sum(-1)
    return [
        mean_of("identity.cosine", same, "", f"two views of a latent: {protocol}"),
        mean_of("identity.cosine_others", other, "", f"views of different latents: {protocol}"),
    ]
