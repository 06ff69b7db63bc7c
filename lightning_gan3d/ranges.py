"""Ranges in the annotations of configuration fields: `batch: Count = 32`. Imports no torch."""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge, GroupedMetadata, Gt, Interval, Le, Lt


class Rule(NamedTuple):
    """A condition on a value, in the annotation of a field: `Annotated[int, Rule(check, text)]`."""

    check: Callable[[Any], bool]
    text: str
    """What is allowed, as in "use a power of two"."""


Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
Count = Annotated[int, Ge(1)]
EVEN = Rule(lambda n: n % 2 == 0, "even")
POWER_OF_TWO = Rule(lambda n: n > 0 and n & (n - 1) == 0, "a power of two")

Bound = Ge | Gt | Le | Lt


def violation(value: Any, kind: Any, metadata: Iterable[Any]) -> str:
    """Return the allowed values if `value` is outside, as in "a whole number from 1"; else nothing.

    `metadata` is what the annotation of the field states: bounds, intervals, rules.
    """
    parts = [
        part
        for item in metadata
        for part in (item if isinstance(item, GroupedMetadata) else [item])
    ]
    bounds = [part for part in parts if isinstance(part, Bound)]
    rules = [part for part in parts if isinstance(part, Rule)]
    inside = all(_within(bound, value) for bound in bounds)
    if inside and all(rule.check(value) for rule in rules):
        return ""
    return ", ".join([*_interval(kind, bounds), *(rule.text for rule in rules)])


def _within(bound: Bound, value: Any) -> bool:
    match bound:
        case Ge(low):
            return bool(value >= low)  # type: ignore[operator]  # numbers alone have bounds
        case Gt(low):
            return bool(value > low)  # type: ignore[operator]  # as above
        case Le(high):
            return bool(value <= high)  # type: ignore[operator]  # as above
        case Lt(high):
            return bool(value < high)  # type: ignore[operator]  # as above


def _interval(kind: Any, bounds: list[Bound]) -> list[str]:
    """Describe the interval that the bounds leave, if there are any."""
    number = "a whole number" if kind is int else "a number"
    low = next((b for b in bounds if isinstance(b, Ge | Gt)), None)
    high = next((b for b in bounds if isinstance(b, Le | Lt)), None)
    if low is not None and high is not None:
        left = f"[{low.ge}" if isinstance(low, Ge) else f"({low.gt}"
        right = f"{high.le}]" if isinstance(high, Le) else f"{high.lt})"
        return [f"{number} in {left}, {right}"]
    if isinstance(low, Ge):
        return [f"{number} from {low.ge}" if low.ge else f"{number}, 0 or more"]
    if isinstance(low, Gt):
        return [f"{number} above {low.gt}" if low.gt else "a positive number"]
    if high is not None:
        return [
            f"{number} up to {high.le}" if isinstance(high, Le) else f"{number} below {high.lt}"
        ]
    return []


def parse_ranges(text: str, limit: int = 100_000) -> list[int]:
    """Parse `1-10,15` into whole numbers from 0, in order and once; raises `ValueError`."""
    numbers: dict[int, None] = {}
    for part in text.split(",") if text.strip() else []:
        low, dash, high = part.partition("-")
        try:
            first, last = int(low), int(high if dash else low)
        except ValueError:
            raise ValueError(f"`{part}` is neither a number nor a range") from None
        if last < first:
            raise ValueError(f"`{part}` is empty; use {last}-{first}")
        if last - first + len(numbers) >= limit:
            raise ValueError(f"more than {limit:,} numbers")
        numbers.update(dict.fromkeys(range(first, last + 1)))
    return list(numbers)


def is_folder_name(text: str) -> bool:
    """Whether a text is a folder name on all systems, of at most 200 bytes."""
    plain = text.isprintable() and not set(text) & set('/\\:*?"<>|') and text[:1] not in ("", ".")
    return plain and len(text.encode()) <= 200
