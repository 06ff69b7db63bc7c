"""Gates: degenerate generators are shown, but left out of rankings and claims.

Such a generator can win a metric: a memoriser SWD, a billboard or a few visible pixels the
reprojection. Bounds are far from what trained generators and real data have (docs/report.md).
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from lightning_gan3d.metric import Metric
from lightning_gan3d.metric_table import describe


class Gate(NamedTuple):
    """A fault, the metrics that show it, and the check of their values."""

    fault: str
    keys: tuple[str, ...]
    fails: Callable[..., bool]
    """Gets the values of the metrics; NaN is missing, and comparisons with NaN are false."""


GATES = (
    Gate(
        "memorises training images",
        ("memorisation.excess", "memorisation.nearer"),
        lambda excess, nearer: excess >= 0.5 and nearer >= 0.9,
    ),
    Gate("repeats few objects", ("quality.duplicates",), lambda share: share >= 0.5),
    Gate("is blurred", ("quality.sharpness",), lambda share: share < 0.4),
    Gate("is pale", ("quality.contrast",), lambda share: share < 0.5),
    Gate("is flat", ("geometry.billboards",), lambda share: share >= 0.5),
    Gate("is transparent", ("geometry.half_transparent",), lambda share: share >= 0.5),
    Gate("hides pixels from the reprojection", ("consistency.hidden",), lambda share: share >= 0.3),
    Gate(
        "has depth that does not predict its views",
        ("consistency.gain", "consistency.ceiling"),
        lambda gain, ceiling: gain < 0.1 * ceiling,
    ),
    # Where the data set has objects to render: others are no ceiling. Their own deficit is above
    # zero if their images are aliased.
    Gate(
        "is smoother than the data's objects",
        ("refit.deficit", "refit.deficit_truth"),
        lambda own, truth: own < min(truth, 0.0) - 2,
    ),
    Gate(
        "is smoother than the data's objects",
        ("consistency.deficit", "consistency.deficit_truth"),
        lambda own, truth: own < min(truth, 0.0) - 5,
    ),
)


def faults(metrics: Iterable[Metric]) -> dict[str, str]:
    """Return the faults of a generator, each with the values that show it."""
    by_key = {m.key: m for m in metrics if m.value is not None}
    result: dict[str, str] = {}
    for gate in GATES:
        known = [by_key[key] for key in gate.keys if key in by_key]
        values = {m.key: m.value for m in known}
        if gate.fails(*(values.get(key, math.nan) for key in gate.keys)):
            texts = (f"{m.key} {describe(m.id, m.unit).with_unit(m.value or 0.0)}" for m in known)
            result.setdefault(gate.fault, f"{gate.fault} ({', '.join(texts)})")
    return result
