"""From values to a measure."""

import math

from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.metric import Metric, missing


def mean_of(
    metric: str,
    values: Float[Tensor, " n"],
    unit: str,
    note: str,
    empty: str = "nothing to measure",
    items: Float[Tensor, " m"] | None = None,
) -> Metric:
    """Return the mean with count and spread.

    Missing where there are no values (`empty` says why), or where they are not finite. `items` are
    the same values with NaN for each item that has none; they are kept to six digits, so that
    generators can be compared item by item.
    """
    if len(values) == 0:
        return missing(metric, f"{empty} ({note})", unit)
    if not bool(values.isfinite().all()):
        return missing(metric, f"the generator's images are not finite ({note})", unit)
    spread = float(values.std()) if len(values) > 1 else None
    kept = [] if items is None else [_rounded(float(x)) for x in items]
    return Metric.of_key(metric, float(values.mean()), unit, len(values), spread, note, kept)


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.6g}")
