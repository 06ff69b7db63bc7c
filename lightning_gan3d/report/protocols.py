"""The appendix: under which conditions the numbers of each run were taken."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_gan3d.report.records import RunRecord

UNKNOWN = "not recorded"
HEADS = (
    "images", "renderings", "precision", "truncation", "seed of latents", "weights (SHA-256)",
    "data fingerprint", "measured by commit",
)  # fmt: skip
"""Columns of the appendix."""


@dataclass(frozen=True)
class Conditions:
    """A table: runs as rows."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """The name of a run, then a cell for each head."""


def conditions(runs: Sequence[RunRecord]) -> Conditions:
    """Return the conditions of every run; what was not recorded says so."""
    return Conditions(HEADS, tuple((run.name, *_cells(run.conditions)) for run in runs))


def _cells(met: dict[str, Any]) -> tuple[str, ...]:
    return (
        _pixels(met.get("resolution")),
        _pixels(met.get("rendering_resolution")),
        _text(met.get("precision")),
        _truncation(met.get("truncation_psi")),
        _text(met.get("seed")),
        _text(met.get("weights_sha256"))[:16],
        _text(met.get("dataset_fingerprint"))[:16],
        _commit(met),
    )


def _text(value: Any) -> str:
    return UNKNOWN if value is None else str(value)


def _pixels(value: Any) -> str:
    return UNKNOWN if value is None else f"{value}²"


def _truncation(value: Any) -> str:
    if value is None:
        return UNKNOWN
    return "none" if value == 1 else f"psi {value:g}"


def _commit(found: dict[str, Any]) -> str:
    dirty = ", changed" if found.get("dirty") else ""
    return _text(found.get("commit"))[:12] + dirty
