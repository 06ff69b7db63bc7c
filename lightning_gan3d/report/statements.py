"""Sentences that the numbers decide: what is fastest, what is consistent, what holds."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from lightning_gan3d.metric_table import leading, metric, significant
from lightning_gan3d.report.decide import CLOSE, of_few, too_close
from lightning_gan3d.report.groups import Cell, Comparison, Group, unlike
from lightning_gan3d.report.paired import difference

Verdict = Literal["found", "holds", "fails", "open"]

MARKS: dict[Verdict, str] = {
    "found": "finding",
    "holds": "holds",
    "fails": "fails",
    "open": "not decided",
}
"""How a checked statement is marked."""

SUPERLATIVES = (
    ("speed.view_ms", "Fastest per view of a finished scene"),
    ("speed.image_ms", "Fastest for one image of a new latent"),
    ("speed.train_img_s", "Fastest in training"),
    ("memory.train_mb", "Least memory in training"),
    ("cost.scene_bytes", "Smallest scene"),
    ("quality.fid", "Lowest FID"),
    ("quality.kid", "Lowest KID"),
    ("quality.swd", "Images nearest to the held-out ones"),
    ("refit.gain", "Most consistent between views, by the measure that needs no depth (gain)"),
    ("consistency.gain", "Most consistent between views, by reprojection (gain)"),
    ("pose.within_20deg", "Poses followed best"),
)
"""Metrics whose best group is named. Of views the gains: PSNR is won by blur and by one colour."""


@dataclass(frozen=True)
class Statement:
    """One checked sentence."""

    verdict: Verdict
    """`found`: a finding. `holds`, `fails`: an expectation. `open`: the numbers do not decide."""
    text: str
    """The sentence, with its numbers."""
    few: bool = False
    """Whether fewer than three seeds decided, so that it speaks of these runs alone."""

    @property
    def mark(self) -> str:
        """How it is marked."""
        words = MARKS[self.verdict]
        return f"{words} for these runs" if self.few and self.verdict != "open" else words


def statements(comparison: Comparison) -> list[Statement]:
    """Check everything that the numbers at hand can decide; what fails is said like what holds."""
    out = [_all_finished(comparison), *_same_conditions(comparison)]
    if len(comparison.groups) > 1:
        for entry, lead in SUPERLATIVES:
            for name in leading([entry], comparison.metrics):
                how = "" if name == entry else f" ({metric(name).short})"
                out += _best(comparison, name, lead + how)
    out += _paths(comparison)
    out += _way_to_floor(comparison)
    out += _warping_gains(comparison)
    return out


def _all_finished(comparison: Comparison) -> Statement:
    runs = comparison.runs
    gaps = [f"{run.name} ({run.gap})" for run in runs if run.gap]
    if gaps:
        return Statement(
            "fails",
            f"All runs are finished: {len(gaps)} of {len(runs)} not; shown as gaps, averaged "
            f"nowhere: {'; '.join(gaps)}.",
        )
    return Statement("holds", f"All {len(runs)} runs are finished.")


_CONDITIONS = {
    "dataset": ("the same data", ("dataset_fingerprint", "fingerprint", "dataset")),
    "device": ("the same device", ("device",)),
    "threads": ("the same number of CPU threads", ("threads",)),
    "commit": ("the same commit", ("commit",)),
    "versions": ("the same versions of libraries", ("versions",)),
}


def _same_conditions(comparison: Comparison) -> Iterable[Statement]:
    runs = [run for run in comparison.runs if not run.gap]
    if len(runs) < 2:
        return
    same: list[str] = []
    unknown: list[str] = []
    for words, keys in _CONDITIONS.values():
        values: dict[str, list[str]] = {}
        for run in runs:
            value = next((run.manifest[k] for k in keys if k in run.manifest), None)
            values.setdefault(_plain(value), []).append(run.name)
        if len(values) == 1:
            (same if "not recorded" not in values else unknown).append(words)
        else:
            each = "; ".join(f"{value}: {', '.join(names)}" for value, names in values.items())
            yield Statement("fails", f"Not all runs had {words}, so compare with care: {each}.")
    if same:
        yield Statement("holds", f"All finished runs had {listed(same)}.")
    if unknown:
        yield Statement("open", f"No run recorded whether it had {listed(unknown)}.")
    goals = {g.label: {run.last.get("kimg") for run in g.finished} for g in comparison.groups}
    seen = {kimg for values in goals.values() for kimg in values if kimg is not None}
    if len(seen) > 1:
        each = ", ".join(
            f"{label} {' and '.join(f'{k:g}' for k in sorted(x for x in values if x is not None))}"
            for label, values in goals.items()
            if values
        )
        yield Statement("fails", f"Not all runs saw as many images (kimg): {each}.")


def _plain(value: Any) -> str:
    if value is None:
        return "not recorded"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in sorted(value.items()))
    return str(value)


def _best(comparison: Comparison, name: str, lead: str) -> Iterable[Statement]:
    cells = comparison.cells(name)
    shown = metric(name, comparison.unit(name))
    ranked = sorted(
        ((c.mean, label) for label, c in cells.items() if c.mean is not None),
        reverse=shown.better == "higher",
    )
    absent = [label for label, c in cells.items() if c.mean is None]
    if not any(c.values for c in cells.values()):
        return
    if len(ranked) < 2:
        yield Statement("open", f"{lead}: cannot be said; {absences(cells, absent)}.")
        return
    other = unlike(cells)
    if other:
        yield Statement("open", f"{lead}: cannot be said; {other}.")
        return
    (best, winner), *others = ranked
    rest = "; ".join(
        f"{label} {shown.with_unit(value)}{_times(value, best, shown.unit)}"
        for value, label in others
    )
    text = f"{lead}: {winner}, {shown.with_unit(best)} ({rest})."
    groups = {g.label: g for g in comparison.groups}
    doubts: dict[str, list[str]] = {}
    for _, label in others:
        why = too_close(groups[winner], groups[label], name)
        if why:
            doubts.setdefault(why, []).append(label)
    for why, labels in doubts.items():
        text += f" {why[0].upper()}{why[1:]}{' against' if why == CLOSE else ':'} {listed(labels)}."
    if name.endswith(".gain") and best <= 0:
        doubts["no gain"] = [winner]
        text += " None gains, so that none is called consistent."
    if absent:
        text += f" Not ranked: {absences(cells, absent)}."
    gaps = [difference(groups[winner], groups[label], name) for _, label in others]
    few = of_few([cells[label] for _, label in ranked], gaps)
    yield Statement("open" if doubts else "found", text, few)


def _times(value: float, best: float, unit: str) -> str:
    """Say ratios of times, speeds and sizes; ratios of decibels and shares mean nothing."""
    if unit in ("dB", "%", "°", "deg") or min(value, best) <= 0:
        return ""
    return f", a factor of {significant(max(value, best) / min(value, best), 2)}"


def absences(cells: dict[str, Cell], labels: list[str]) -> str:
    """Say who has no mean, and why."""
    return ", ".join(f"{label} ({cells[label].why})" for label in labels)


def _paths(comparison: Comparison) -> Iterable[Statement]:
    """Which code marched the rays of each group, as the benchmark saw it."""
    found = {
        g.label: sorted({m.note for _, m in g.cell("speed.fused").measures if m.value is not None})
        for g in comparison.groups
    }
    each = [f"{label} by {' and by '.join(notes)}" for label, notes in found.items() if notes]
    if each:
        yield Statement("found", f"Rays were marched: {'; '.join(each)}.")


def _way_to_floor(comparison: Comparison) -> Iterable[Statement]:
    def check(group: Group) -> tuple[Verdict, str]:
        share = group.cell("quality.swd_way").mean
        if share is None:
            return "open", group.cell("quality.swd_way").why
        return ("holds" if share >= 0.5 else "fails"), f"{100 * share:.0f} % of the way"

    lead = "Training brings the SWD of images at least half of the way from its start to its floor"
    yield from _each(comparison, "quality.swd_way", lead, check)


def _warping_gains(comparison: Comparison) -> Iterable[Statement]:
    def check(group: Group) -> tuple[Verdict, str]:
        cell = group.cell("consistency.gain")
        if cell.mean is None:
            return "open", cell.why
        return ("holds" if cell.mean > 0 else "fails"), f"{cell.mean:+.2f} dB"

    lead = "Warping one view into another by the depth beats not warping"
    yield from _each(comparison, "consistency.gain", lead, check, lambda g: not g.is_baseline)


def _each(
    comparison: Comparison,
    name: str,
    lead: str,
    check: Callable[[Group], tuple[Verdict, str]],
    where: Callable[[Group], bool] = lambda _: True,
) -> Iterable[Statement]:
    groups = [g for g in comparison.groups if where(g)]
    if name not in comparison.metrics or not groups:
        return
    by_verdict: dict[Verdict, list[str]] = {}
    for group in groups:
        verdict, text = check(group)
        by_verdict.setdefault(verdict, []).append(f"{group.label}, {text}")
    tails: dict[Verdict, str] = {"holds": "", "fails": "no; ", "open": "not decided; "}
    few = any(g.cell(name).few for g in groups)
    for verdict, tail in tails.items():
        if verdict in by_verdict:
            yield Statement(verdict, f"{lead}: {tail}{'; '.join(by_verdict[verdict])}.", few)


def listed(words: list[str]) -> str:
    """Join words as a sentence does."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
