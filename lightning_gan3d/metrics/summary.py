"""From values to a measure."""

from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.measure import Measure, missing


def mean_of(
    metric: str,
    values: Float[Tensor, " n"],
    unit: str,
    note: str,
    empty: str = "nothing to measure",
) -> Measure:
    """Return the mean with count and spread.

    Missing where there are no values (`empty` says why), or where they are not finite.
    """
    if len(values) == 0:
        return missing(metric, f"{empty} ({note})", unit)
    if not bool(values.isfinite().all()):
        return missing(metric, f"the generator's images are not finite ({note})", unit)
    spread = float(values.std()) if len(values) > 1 else None
    return Measure(metric, float(values.mean()), unit, len(values), spread, note)
