"""A measured value with its identity, unit and protocol, or the reason why it is missing."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.files import parse_json, write_text

KEY_DIGITS = 16
"""Hexadecimal digits of a protocol key."""


class MetricId(NamedTuple):
    """What identifies a metric: values with equal ids stand in one row of a table."""

    name: str
    """Dotted name in the table of metrics, e.g. `consistency.psnr` or `speed.view_ms`."""
    network: str = ""
    """Feature network and resizing if not the default: `legacy_tensorflow`, `legacy_pytorch`,
    `inception`, or the first eight hexadecimal digits of the weights' SHA-256."""
    stage: str = ""
    """`raw`: the rendering before super-resolution; `enlarged`: the same at the image's pixel
    scale; empty: the final image, or a metric without stages."""
    variant: str = ""
    """`truth`: the data set's own objects (ceiling); `following`: the conditioning label follows
    the camera; `posed`: drawn cameras; `3d`: the label is that of the frontal camera."""
    at: float | None = None
    """Position on a curve: angle in radians, resolution in pixels, or samples per ray."""

    @property
    def key(self) -> str:
        """The id as one string, for display: `consistency.psnr_raw_following@0.25`."""
        text = "_".join(x for x in (self.name, self.network, self.stage, self.variant) if x)
        return text if self.at is None else f"{text}@{self.at:g}"


@dataclass(frozen=True)
class Metric:
    """One measured value. `value` None means missing, and `note` gives the reason; never 0."""

    name: str
    """This and `network`, `stage`, `variant` and `at` identify the metric, see `MetricId`."""
    value: float | None
    unit: str = ""
    """`dB`, `ms`, `MB`, `img/s`, `share` (0 to 1), or empty."""
    n: int = 0
    """Number of values that `value` is the mean of (images, latents, repeats)."""
    spread: float | None = None
    """Standard deviation over those n, if it has a meaning."""
    note: str = ""
    """How the value was measured, or the reason why it is missing."""
    items: Sequence[float | None] = ()
    """The n values, item by item; generators are evaluated on the same latents and
    cameras. None if an item has no value; empty if not stored."""
    protocol: str = ""
    """Protocol key, 16 hexadecimal digits: only values with equal keys are compared. Empty: not
    recorded, comparable with anything."""
    network: str = ""
    stage: str = ""
    variant: str = ""
    at: float | None = None

    def __post_init__(self) -> None:
        """Reject gaps without a reason and malformed protocol keys.

        A value that is not finite becomes missing; so do a spread and items.
        """
        if self.protocol and not re.fullmatch(f"[0-9a-f]{{{KEY_DIGITS}}}", self.protocol):
            raise ValueError(
                f"{self.key}: protocol={self.protocol!r}: use {KEY_DIGITS} hexadecimal digits, "
                "or an empty string if it is not known"
            )
        finite: dict[str, Any] = {
            "spread": _finite(self.spread),
            "items": tuple(map(_finite, self.items)),
        }
        if self.value is not None and not math.isfinite(self.value):
            finite |= {"value": None, "note": f"the value is {self.value}, not finite: {self.note}"}
        for name, value in finite.items():
            object.__setattr__(self, name, value)
        if self.value is None and not self.note:
            raise ValueError(f"{self.key} is missing: give the reason in `note`")

    @property
    def id(self) -> MetricId:
        """What identifies this metric."""
        return MetricId(self.name, self.network, self.stage, self.variant, self.at)

    @property
    def key(self) -> str:
        """The id as one string, for display."""
        return self.id.key


def _finite(x: float | None) -> float | None:
    return x if x is not None and math.isfinite(x) else None


_KEY = re.compile(
    r"(?P<name>.+?)"
    r"(?P<network>(?:_legacy_(?:tensorflow|pytorch)|(?<!precision)(?<!recall)_inception"
    r"|_[0-9a-f]{8})*)"
    r"(?P<stage>_raw|_enlarged|)"
    r"(?P<variant>_truth|_following|_posed|_3d|)"
    r"(?:@(?P<at>[\d.e+]+))?"
)


def parse_key(key: str) -> MetricId:
    """Split the key of an old file into the fields of an id."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise ValueError(f"{key!r} is not the key of a metric")
    name, network, stage, variant, at = match.groups()
    return MetricId(name, network[1:], stage[1:], variant[1:], float(at) if at else None)


def missing(name: str, why: str, unit: str = "", **fields: Any) -> Metric:
    """Return a metric without a value. `fields` complete its id, e.g. `stage="raw"`."""
    return Metric(name, None, unit, note=why, **fields)


_OPTIONAL = ("items", "protocol", "network", "stage", "variant", "at")


def write_metrics(path: Path, metrics: Iterable[Metric]) -> None:
    """Write metrics as a JSON list, one per line, atomically. Empty optional fields are omitted."""
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


_RENAMED = {"quality.swd_way": "quality.swd_progress"}


def read_metrics(path: Path) -> list[Metric]:
    """Read a file of `write_metrics`; files of earlier versions have a key in place of the id.

    Raises OSError, and ConfigError if the file is damaged.
    """
    try:
        metrics = [_of_row(row) for row in parse_json(path.read_bytes(), list)]
    except ValueError as error:
        raise ConfigError(f"{path}: damaged: {error}; compute it again") from None
    return [replace(m, name=_RENAMED[m.name]) if m.name in _RENAMED else m for m in metrics]


_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,), "value": (float, NoneType), "unit": (str,), "n": (int,),
    "spread": (float, NoneType), "note": (str,), "protocol": (str,),
    "items": (list,), "network": (str,), "stage": (str,), "variant": (str,),
    "at": (float, NoneType),
}  # fmt: skip


def _of_row(row: Any) -> Metric:
    """Build a metric; rows of plain values as `write_metrics` writes them need no conversion."""
    plain = isinstance(row, dict) and {"name", "value"} <= row.keys()
    plain = plain and all(type(v) in _TYPES.get(k, ()) for k, v in row.items())
    if plain and {type(x) for x in row.get("items", ())} <= {float, NoneType}:
        return Metric(**row)
    return build(Metric, _with_id(row))


def _with_id(row: Any) -> Any:
    if not isinstance(row, dict) or "metric" not in row:
        return row
    return {k: v for k, v in row.items() if k != "metric"} | parse_key(str(row["metric"]))._asdict()
