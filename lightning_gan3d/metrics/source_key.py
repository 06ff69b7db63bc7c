"""What says two sources of views apart, so that what was kept of one is not taken for another's."""

import hashlib
from typing import Any

import torch
from torch import nn

from lightning_gan3d.config import to_tree
from lightning_gan3d.metrics.conditions import weights_hash
from lightning_gan3d.metrics.sources import GeneratorSource, ViewSource
from lightning_gan3d.metrics.stored_images import StoredSample
from lightning_gan3d.version import __version__


def identity_of(source: ViewSource) -> list[Any] | None:
    """Return plain values that all images of a source depend on; None where they are not known.

    Of stored images: their fingerprint and order. Of a generator: its weights, its configuration,
    each module's plain attributes (schedules and precision live there), seed and labels, and the
    versions of this package and torch.
    """
    if isinstance(source, StoredSample):
        return [source.stored.fingerprint, source.which.tolist()]
    if not isinstance(source, GeneratorSource) or not isinstance(source.generator, nn.Module):
        return None
    digest = hashlib.sha256(weights_hash(source.generator).encode())
    for name, module in source.generator.named_modules():
        plain = {k: v for k, v in vars(module).items() if isinstance(v, str | int | float)}
        plain.pop("training")
        digest.update(f"{name}\0{sorted(plain.items())}\n".encode())
    digest.update(source.labels.detach().cpu().contiguous().numpy().tobytes())
    config = to_tree(getattr(source.generator, "cfg", None))
    return [digest.hexdigest(), config, source.z_dim, source.seed, __version__, torch.__version__]
