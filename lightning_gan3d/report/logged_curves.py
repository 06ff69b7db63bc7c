"""Curves of `metrics.jsonl`, read in bounded memory: some hundred rows of each run."""

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

POINTS = 100
"""Rows of a run that are drawn, about; and points of the curve of an arm."""
SPARSE = b'"eval/'
"""What only some rows have; none of these is left out."""


@dataclass
class LoggedCurves:
    """Some rows of a run, by key."""

    kimg: dict[str, list[float]] = field(default_factory=dict)
    """Thousands of images of the values of a key."""
    values: dict[str, list[float]] = field(default_factory=dict)
    """As many values, in the order of the rows."""

    @property
    def newest(self) -> dict[str, float]:
        """Last value of each key."""
        return {key: values[-1] for key, values in self.values.items()}

    def add(self, line: bytes, keys: Iterable[str]) -> None:
        """Add a row; a damaged one is left out."""
        try:
            row = json.loads(line)
            kimg = float(row["kimg"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        for key in keys:
            value = row.get(key)
            if isinstance(value, int | float) and math.isfinite(value):
                self.kimg.setdefault(key, []).append(kimg)
                self.values.setdefault(key, []).append(value)


def read_curves(file: Path, keys: Sequence[str]) -> LoggedCurves:
    """Read about `POINTS` rows, evenly spaced, those with an evaluation, and the last one."""
    curves = LoggedCurves()
    if not file.is_file():
        return curves
    with file.open("rb") as stream:
        first = list(itertools.islice(stream, 20))
        rows = file.stat().st_size / max(1.0, sum(map(len, first)) / max(1, len(first)))
        stride, skipped, last = max(1, round(rows / POINTS)), 0, b""
        for line in itertools.chain(first, stream):
            if SPARSE in line:
                curves.add(line, keys)
            elif skipped % stride == 0:
                curves.add(line, keys)
                skipped, last = 1, b""
            else:
                skipped, last = skipped + 1, line
    if last:
        curves.add(last, keys)
    return curves


@dataclass(frozen=True)
class MeanCurve:
    """Values of the runs of an arm at equal kimg."""

    kimg: Float[np.ndarray, " n"]
    mean: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"]
    """Lowest run."""
    high: Float[np.ndarray, " n"]


def mean_curve(runs: Sequence[LoggedCurves], key: str) -> MeanCurve | None:
    """Interpolate runs at `POINTS` kimg; at each, the mean of the runs that are there.

    None if no run has the key.
    """
    pairs = [(r.kimg[key], r.values[key]) for r in runs if key in r.values]
    if not pairs:
        return None
    start, end = min(x[0] for x, _ in pairs), max(x[-1] for x, _ in pairs)
    kimg = np.linspace(start, end, POINTS if end > start else 1)
    nan = float("nan")
    curves = np.stack([np.interp(kimg, x, y, left=nan, right=nan) for x, y in pairs])
    known = ~np.isnan(curves).all(0)
    curves = curves[:, known]
    return MeanCurve(kimg[known], np.nanmean(curves, 0), np.nanmin(curves, 0), np.nanmax(curves, 0))
