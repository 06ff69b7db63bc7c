"""A measured number with its identity, unit and protocol, or why it is missing. No torch."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_gan3d.files import write_text
from lightning_gan3d.metric_table import stem

KEY_DIGITS = 16
"""Hexadecimal digits of a protocol's key."""
_STAGES = ("raw", "enlarged")
_VARIANTS = ("truth", "following", "posed")


@dataclass(frozen=True)
class Metric:
    """One measured value. `value` None means missing, and `note` gives the reason; never 0.

    `name`, `network`, `stage`, `variant` and `at` identify it.
    """

    name: str
    """Dotted name in the table of metrics, e.g. `consistency.psnr` or `speed.view_ms`."""
    value: float | None
    unit: str = ""
    """`dB`, `ms`, `MB`, `img/s`, `share` (0 to 1), or empty."""
    n: int = 0
    """Number of values that `value` is the mean of (images, latents, repeats)."""
    spread: float | None = None
    """Standard deviation over those n, where it has a meaning."""
    note: str = ""
    """The protocol in words, or the reason why the value is missing."""
    items: Sequence[float | None] = ()
    """The values whose mean this is, item by item, for paired comparisons of generators on the same
    latents and cameras. None where an item has none; empty where not kept."""
    protocol: str = ""
    """Protocol key, 16 hexadecimal digits: only values with equal keys are compared. Empty: not
    recorded, comparable with anything."""
    network: str = ""
    """Feature network and resizing where they are not the default, e.g. `legacy_tensorflow`,
    `inception`, or the first eight hexadecimal digits of the weights' SHA-256."""
    stage: str = ""
    """`raw`: the rendering before super-resolution; `enlarged`: the same at the image's pixel
    scale; empty: the final image, or a metric without stages."""
    variant: str = ""
    """`truth`: the data set's own objects (ceiling); `following`: the conditioning label follows
    the camera; `posed`: drawn cameras."""
    at: float | None = None
    """Position on a curve: angle in radians, or resolution in pixels."""

    def __post_init__(self) -> None:
        """Reject values that are not finite, gaps without a reason, and malformed protocol keys."""
        if self.protocol and not re.fullmatch(f"[0-9a-f]{{{KEY_DIGITS}}}", self.protocol):
            raise ValueError(
                f"{self.key}: protocol={self.protocol!r}: use {KEY_DIGITS} hexadecimal digits, "
                "or nothing where it is not known"
            )
        object.__setattr__(self, "items", tuple(self.items))  # JSON has lists
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(
                f"{self.key}={self.value}: report it as missing, with a reason, where it is not "
                "finite"
            )
        if self.value is None and not self.note:
            raise ValueError(f"{self.key} is missing: give the reason in `note`")

    @property
    def key(self) -> str:
        """Identity as one string, for files and logs: `consistency.psnr_raw_following@0.25`."""
        parts = "_".join(x for x in (self.name, self.network, self.stage, self.variant) if x)
        return parts if self.at is None else f"{parts}@{self.at:g}"

    @property
    def metric(self) -> str:
        """The key."""
        return self.key

    @classmethod
    def of_key(
        cls,
        key: str,
        value: float | None,
        unit: str = "",
        n: int = 0,
        spread: float | None = None,
        note: str = "",
        items: Sequence[float | None] = (),
        protocol: str = "",
    ) -> "Metric":
        """Return a metric from its key, as files of earlier versions have it."""
        identity = parse_key(key)
        name = identity.pop("name")
        return cls(name, value, unit, n, spread, note, items, protocol, **identity)


def parse_key(key: str) -> dict[str, Any]:
    """Split a key into the fields `name`, `network`, `stage`, `variant` and `at`."""
    base, _, at = key.partition("@")
    name, suffixes = stem(base)
    parts = [s.removeprefix("_") for s in suffixes]
    return {
        "name": name,
        "network": "_".join(p for p in parts if p not in (*_STAGES, *_VARIANTS)),
        "stage": next((p for p in parts if p in _STAGES), ""),
        "variant": next((p for p in parts if p in _VARIANTS), ""),
        "at": float(at) if at else None,
    }


def missing(key: str, why: str, unit: str = "") -> Metric:
    """Return a metric that could not be computed."""
    return Metric.of_key(key, None, unit, note=why)


_OPTIONAL = ("items", "protocol", "network", "stage", "variant", "at")


def write_measures(path: Path, metrics: Iterable[Metric]) -> None:
    """Write metrics as a JSON list, one a line, atomically."""
    rows = (asdict(m) for m in metrics)
    lines = (
        json.dumps(
            {k: v for k, v in row.items() if k not in _OPTIONAL or v not in ((), "", None)},
            allow_nan=False,
        )
        for row in rows
    )
    body = ",\n ".join(lines)
    write_text(path, f"[{body}]\n")


def read_measures(path: Path) -> list[Metric]:
    """Read what `write_measures` wrote; files of earlier versions name a metric by its key."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [
        Metric.of_key(row.pop("metric"), **row) if "metric" in row else Metric(**row)
        for row in rows
    ]
