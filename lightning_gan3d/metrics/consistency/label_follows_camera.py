"""View measures with the conditioning label following the camera, beside those with it frozen.

A generator that is conditioned on the camera may change its subject as the camera moves, which a
frozen label hides and a viewer does not (CGS-GAN, Barthel et al. 2025).
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.generator import Generator
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import ConsistencyConfig, RefitConfig
from lightning_gan3d.metrics.consistency.refit import KINDS, measure_refit
from lightning_gan3d.metrics.consistency.reprojection import all_missing, measure_consistency
from lightning_gan3d.metrics.sources import GeneratorSource, ViewSource

SUFFIX = "_following"
"""At the end of the metrics' names."""


def following(source: ViewSource) -> GeneratorSource | str:
    """Return the source with its labels following the cameras, or why there is none."""
    if not isinstance(source, GeneratorSource):
        return "what is measured has no conditioning label"
    if isinstance(source.generator, Generator):
        cfg = source.generator.cfg
        if cfg.view_in_label:
            return (
                "the view is in the label, which always follows the camera: see the same row "
                f"without {SUFFIX}"
            )
        if cfg.mapping.condition == "none":
            return (
                "the generator does not look at the label (mapping.condition=none): it would be "
                f"the same as without {SUFFIX}"
            )
    return replace(source, follow=True)


def measure_following(
    source: ViewSource,
    labels: Float[Tensor, "n 25"],
    consistency: ConsistencyConfig | None,
    refit: RefitConfig | None,
    seed: int = 0,
    batch: int = 32,
    device: torch.device | str = "cpu",
) -> list[Metric]:
    """Take the measures of consistency and refitting, each view conditioned on its own camera.

    Rows end in `_following`; where the label makes no difference they are missing, and say so.
    """
    moved = following(source)
    result: list[Metric] = []
    if isinstance(moved, str):
        if consistency is not None:
            result += all_missing(consistency, moved, SUFFIX)
        if refit is not None:
            result += [missing(f"refit.{k}{SUFFIX}", moved, unit) for k, unit in KINDS.items()]
        return result
    if consistency is not None:
        result += measure_consistency(moved, consistency, batch, SUFFIX, curves=False)
    if refit is not None:
        result += measure_refit(moved, labels, refit, seed, batch, device, SUFFIX)
    how = "each view conditioned on its own camera"
    return [replace(m, note=f"{how}: {m.note}") for m in result]
