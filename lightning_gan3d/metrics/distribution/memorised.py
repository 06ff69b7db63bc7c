"""Memorisation as measures, and the list of the samples nearest to training images."""

import json
import os
from pathlib import Path

from jaxtyping import Int64
from torch import Tensor

from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.distribution.memorisation import Memorisation

NEIGHBOURS = "neighbours.json"
"""File beside the measures: the samples nearest to training images, and these images."""
SHOWN = 64
"""Samples that it holds."""


def no_memorisation(why: str, suffix: str) -> list[Metric]:
    """Return the measures as missing."""
    return [missing(f"memorisation.{m}{suffix}", why, "share") for m in ("excess", "nearer")]


def memorised(
    found: Memorisation, suffix: str, n: int, num_held_out: int, protocol: str
) -> list[Metric]:
    """Return the measures of what was found in one kind of vectors, which `suffix` names."""
    against = (
        f"{num_held_out:,} held-out images; the samples' nearest images are {found.distinct:,} "
        f"different training images; {protocol}"
    )
    excess = (
        "samples whose nearest image is a training one rather than a held-out one, beyond "
        "chance, as a share of the possible (0 none, 1 all)"
    )
    nearer = (
        "share of pairs in which a sample is nearer to the training images than a held-out "
        "image is (0.5 none, 1 all; Meehan et al. 2020)"
    )
    result = [
        Metric.of_key(
            f"memorisation.{m}{suffix}", value, "share", n, note=f"{words}: against {against}"
        )
        for m, value, words in (
            ("excess", found.excess, excess),
            ("nearer", found.nearer, nearer),
        )
    ]
    for of, near, whose in (
        ("", found.samples, "generated"),
        ("_real", found.held_out, "held-out"),
    ):
        d = near.distances[:, 0]
        note = f"median RMS distance of {whose} images to the nearest training image: {protocol}"
        name = f"memorisation.distance{suffix}{of}"
        result.append(Metric.of_key(name, float(d.median()), "", len(d), note=note))
    return result


def write_neighbours(
    path: Path, found: Memorisation, items: Int64[Tensor, " n"], data: str, protocol: str
) -> None:
    """Write the samples nearest to training images, the nearest first, whole or not at all.

    `items` numbers the samples; `data` is the fingerprint of the training images, whose places the
    file gives.
    """
    order = found.samples.distances[:, 0].argsort()[:SHOWN]
    table = {
        "protocol": protocol,
        "data": data,
        "items": items[order].tolist(),
        "training_images": found.samples.indices[order].tolist(),
        "distances": found.samples.distances[order].tolist(),
    }
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(table, indent=1, allow_nan=False) + "\n")
    temporary.replace(path)
