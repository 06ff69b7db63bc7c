"""Confidence intervals of means over few values, and power-law fits. Imports no torch."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

LEVEL = 0.95
"""Share of repetitions of an experiment whose interval holds the true mean."""
LEAST = 3
"""Values from which an interval is given: with two it is 13 times as wide as their distance."""


class Interval(NamedTuple):
    """Both ends, in the unit of the values."""

    low: float
    high: float

    def excludes_zero(self) -> bool:
        """Whether both ends have one sign."""
        return self.low > 0 or self.high < 0


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Return the 95 % interval of the mean that the values are drawn around; None below three.

    Student's t, not the bootstrap: resampling n values cannot show more spread than they have, and
    the percentile bootstrap of three seeds holds the mean in 76 % of cases instead of 95 %, of five
    in 85 %. Student's t assumes that seeds scatter normally; with a lognormal scatter (sigma 0.5)
    three seeds hold it in 93 %.
    """
    if len(values) < LEAST:
        return None
    from scipy.stats import t  # half a second

    mean, n = statistics.fmean(values), len(values)
    half = float(t.ppf(0.5 + LEVEL / 2, n - 1)) * statistics.stdev(values) / n**0.5
    return Interval(mean - half, mean + half)


def why_none(num: int, what: str = "seeds") -> str:
    """Say why there is no interval."""
    one = what.removesuffix("s")
    return f"no interval from {num} {one if num == 1 else what}: it takes {LEAST} or more"


def power_law_exponent(points: Sequence[tuple[int | float, float]]) -> float:
    """Return p of the least-squares fit log y = p log x + c over (x, y): 2 is quadratic, 3 cubic.

    Two points or more, all numbers positive.
    """
    x, y = [math.log(a) for a, _ in points], [math.log(b) for _, b in points]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    top = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return top / sum((a - mean_x) ** 2 for a in x)
