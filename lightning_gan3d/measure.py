"""One measured number with its unit, count and protocol, or why it is missing. Imports no torch."""

import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

KEY_DIGITS = 16
"""Hexadecimal digits of a protocol's key."""


@dataclass(frozen=True)
class Measure:
    """A row of a report. `value` None means missing, and `note` says why; it is never 0."""

    metric: str
    """Dotted name, e.g. `consistency.psnr_raw` or `speed.view_ms`."""
    value: float | None
    unit: str = ""
    """`dB`, `ms`, `MB`, `img/s`, `share` (0 to 1), or empty."""
    n: int = 0
    """What the value is a mean over (images, latents, repeats)."""
    spread: float | None = None
    """Standard deviation over those n, where it has a meaning."""
    note: str = ""
    """The protocol in words, or the reason why the value is missing."""
    items: Sequence[float | None] = ()
    """The values whose mean this is, item by item, so that generators can be compared on shared
    items: latents with the same cameras. None where an item has none; empty where not kept."""
    protocol: str = ""
    """Key of the protocol, 16 hexadecimal digits: values are compared only where these are equal.
    Empty: not recorded, which compares with anything."""

    def __post_init__(self) -> None:
        """Refuse values that are not finite, gaps without a reason, and keys of another form."""
        if self.protocol and not re.fullmatch(f"[0-9a-f]{{{KEY_DIGITS}}}", self.protocol):
            raise ValueError(
                f"{self.metric}: protocol={self.protocol!r}: use {KEY_DIGITS} hexadecimal digits, "
                "or nothing where it is not known"
            )
        object.__setattr__(self, "items", tuple(self.items))  # JSON has lists
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(
                f"{self.metric}={self.value}: report it as missing, with a reason, where it is not "
                "finite"
            )
        if self.value is None and not self.note:
            raise ValueError(f"{self.metric} is missing: say why in `note`")


def missing(metric: str, why: str, unit: str = "") -> Measure:
    """Return a measure that could not be taken."""
    return Measure(metric, None, unit, note=why)


def write_measures(path: Path, measures: Iterable[Measure]) -> None:
    """Write measures as a JSON list, one a line, whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    rows = (asdict(m) for m in measures)
    lines = (
        json.dumps(
            {k: v for k, v in row.items() if k not in ("items", "protocol") or v}, allow_nan=False
        )
        for row in rows
    )
    body = ",\n ".join(lines)
    temporary.write_text(f"[{body}]\n")
    temporary.replace(path)


def read_measures(path: Path) -> list[Measure]:
    """Read what `write_measures` wrote."""
    return [Measure(**row) for row in json.loads(path.read_text())]
