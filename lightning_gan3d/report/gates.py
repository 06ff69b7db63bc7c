"""Gates: degenerate generators are shown, but left out of rankings and claims.

Such a generator can win a metric: a memoriser SWD, a billboard or a few visible pixels the
reprojection. Bounds are far from what trained generators and real data have (docs/report.md).
"""

from collections.abc import Callable
from typing import NamedTuple

from lightning_gan3d.report.groups import Group


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
    Gate("is flat", ("geometry.billboards",), lambda share: share >= 0.5),
    Gate("is transparent", ("geometry.half_transparent",), lambda share: share >= 0.5),
    Gate(
        "hides most pixels from the reprojection",
        ("consistency.hidden",),
        lambda share: share >= 2 / 3,
    ),
    Gate("is blurred", ("quality.sharpness",), lambda share: share < 0.5),
    Gate("is pale", ("quality.contrast",), lambda share: share < 0.5),
    *(
        # Of the data set's own objects only: procedural figures are no ceiling of other data.
        Gate("is smoother than the data's objects", keys, lambda own, truth: own < -1 and truth > 0)
        for keys in (
            ("refit.deficit", "refit.psnr_truth"),
            ("consistency.deficit", "consistency.psnr_truth"),
        )
    ),
)


def why_unranked(group: Group) -> str:
    """Return the faults of a group with the values that show them; empty if it has none.

    One faulty seed is enough.
    """
    faults: dict[str, str] = {}
    for run in group.finished:
        metrics = {m.key: m for m in run.metrics}
        for gate in GATES:
            known = [metrics[k] for k in gate.keys if k in metrics and metrics[k].value is not None]
            values = {m.key: m.value for m in known}
            if gate.fails(*(values.get(key, float("nan")) for key in gate.keys)):
                texts = (
                    f"{m.key} {group.cell(m.id).info.with_unit(m.value or 0.0)}" for m in known
                )
                faults.setdefault(gate.fault, f"{gate.fault} ({', '.join(texts)})")
    return " and ".join(faults.values())
