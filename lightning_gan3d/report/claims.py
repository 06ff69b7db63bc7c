"""The claims that open a report, each checked against its numbers, whatever comes out.

A claim holds where its side is ahead on average and the interval of the paired difference leaves
out zero; it is open where the interval does not, or where numbers are missing; else it fails. Too
few seeds and items for an interval: then the ranges of both sides must not touch.
"""

from collections.abc import Iterable
from typing import Any

from lightning_gan3d.benchmark.growth import exponent
from lightning_gan3d.report.catalogue import growth, metric, significant
from lightning_gan3d.report.groups import CANONICAL, Cell, Comparison, Group
from lightning_gan3d.report.paired import Difference, difference, of_pairs
from lightning_gan3d.report.runs import RunRecord
from lightning_gan3d.report.statements import Statement, Verdict, absences, listed, overlap

POWERS = {"voxel": (3, "cube"), "triplane": (2, "square")}
"""How the bytes of a scene grow with the resolution of its grid."""
TOLERANCE = 0.1
"""By which the exponent of the bytes may differ from that: a scene may hold more than its grid."""
BYTES = "scene_bytes"


def claims(comparison: Comparison) -> list[Statement]:
    """Check every claim; those whose numbers are missing are open and say what is missing."""
    return [
        *_triplane_is_faster(comparison),
        *(s for kind in ("voxel", "triplane", "nerf_mlp") for s in _bytes_grow(comparison, kind)),
        *_baseline_is_less_consistent(comparison),
        *_superresolution_costs(comparison),
    ]


def _of(comparison: Comparison, *kinds: str) -> list[Group]:
    return [g for g in comparison.groups if g.representation in kinds]


def _needs(lead: str, what: str) -> Statement:
    return Statement("open", f"{lead}: not decided; it needs {what}.")


def _triplane_is_faster(comparison: Comparison) -> Iterable[Statement]:
    lead = "The tri-plane renders faster than the MLP (time of a view of a finished scene)"
    planes, networks = _of(comparison, "triplane"), _of(comparison, "nerf_mlp")
    if not planes or not networks:
        yield _needs(lead, "runs of triplane and nerf_mlp")
    for a in planes:
        yield from (_ahead(lead, "speed.view_ms", a, [b], "is not faster than") for b in networks)


def _baseline_is_less_consistent(comparison: Comparison) -> Iterable[Statement]:
    lead = (
        "A 2D generator is less consistent between views than each 3D representation, by the "
        "measure that needs no depth (refit)"
    )
    flat = [g for g in comparison.groups if g.is_baseline]
    solid = [g for g in comparison.groups if not g.is_baseline]
    absent = [k for k in CANONICAL if k not in {g.representation for g in solid}]
    if not flat or not solid:
        yield _needs(lead, "runs of a 2D baseline and of 3D representations")
        return
    for group in flat:
        denial = "is at least as consistent as"
        yield _ahead(lead, "refit.psnr", group, solid, denial, worse=True, absent=absent)


def _ahead(
    lead: str,
    name: str,
    group: Group,
    others: list[Group],
    denial: str,
    worse: bool = False,
    absent: list[str] | None = None,
) -> Statement:
    """Check that a group is better (or `worse`) than each of the others; `denial` says it is not.

    `absent` names what should be among the others and is not, so that the claim cannot hold.
    """
    cells = {g.label: g.cell(name) for g in (group, *others)}
    without = [label for label, cell in cells.items() if cell.mean is None]
    if without:
        return Statement("open", f"{lead}: not decided; {absences(cells, without)}.")
    up = (metric(name).better == "higher") != worse
    found = [difference(group, other, name) for other in others]
    sides: dict[Verdict, list[str]] = {"holds": [], "open": [], "fails": []}
    for other, gap in zip(others, found, strict=True):
        sides[_verdict(cells[group.label], cells[other.label], gap, up)].append(other.label)
    numbers = ", ".join(f"{x} {c.metric.with_unit(c.mean or 0.0)}" for x, c in cells.items())
    numbers = "; ".join([numbers, *(_gap(d) for d in found if d.interval is not None)])
    if sides["fails"]:
        return Statement(
            "fails", f"{lead}: no, {group.label} {denial} {listed(sides['fails'])} "
            f"({numbers})."
        )  # fmt: skip
    if sides["open"]:
        close = listed(sides["open"])
        return Statement(
            "open", f"{lead}: on average, but too close to call against {close} ({numbers})."
        )
    if absent:
        return Statement(
            "open",
            f"{lead}: as far as measured, but there is no run of {listed(absent)} ({numbers}).",
        )
    return Statement("holds", f"{lead}: {numbers}.")


def _verdict(mine: Cell, other: Cell, gap: Difference, up: bool) -> Verdict:
    """Decide by the paired difference; without an interval of it, by the ranges of both sides."""
    mean = gap.mean if gap.mean is not None else (mine.mean or 0.0) - (other.mean or 0.0)
    if mean == 0 or (mean > 0) != up:
        return "fails"
    sure = gap.interval.excludes_zero() if gap.interval else not overlap(mine, other)
    return "holds" if sure else "open"


def _gap(d: Difference) -> str:
    show = d.metric.with_unit
    assert d.mean is not None
    assert d.interval is not None
    return (
        f"{d.first} - {d.second} {show(d.mean)}, 95 % interval {d.metric.format(d.interval.low)} "
        f"to {show(d.interval.high)} over {d.basis}"
    )


def _bytes_grow(comparison: Comparison, kind: str) -> Iterable[Statement]:
    power, word = POWERS.get(kind, (0, ""))
    lead = f"The bytes of a {kind} scene grow with the {word} of its grid's resolution"
    if not power:
        lead = f"The bytes of a {kind} scene do not grow with any grid's resolution"
    groups = _of(comparison, kind)
    if not groups:
        yield _needs(lead, f"a run of {kind}")
    for group in groups:
        yield _growth_of(lead, group, power)


def _growth_of(lead: str, group: Group, power: int) -> Statement:
    found: list[float] = []
    gaps: list[str] = []
    gridless = 0
    for run in group.runs:
        points = [] if run.gap else _points(run)
        whole = next((m for m in run.measures if m.metric == "growth.grid"), None)
        if len(points) > 1:
            found.append(exponent(points))
        elif not run.gap and whole is not None and whole.value is None and "no grid" in whole.note:
            gridless += 1
        else:
            gaps.append(f"{run.name}: {run.measure('growth.grid').note}")
    if gaps:
        return Statement("open", f"{lead}: not decided; {'; '.join(gaps)}.")
    if gridless:
        size = group.cell("cost.scene_bytes")
        holds = f", and a scene takes {size.metric.with_unit(size.mean)}" if size.mean else ""
        verdict: Verdict = "holds" if power == 0 and not found else "fails"
        return Statement(verdict, f"{lead}: {group.label} stores no grid{holds}.")
    texts = listed([significant(x, 3) if x else "0" for x in sorted(set(found))])
    if all(abs(x - power) <= TOLERANCE for x in found):
        return Statement("holds", f"{lead}: {group.label}, exponent {texts}.")
    return Statement("fails", f"{lead}: no; {group.label}, exponent {texts}, not {power}.")


def _points(run: RunRecord) -> list[tuple[int, float]]:
    out = []
    for m in run.measures:
        parts = growth(m.metric)
        if parts is not None and parts[:2] == ("grid", BYTES) and m.value:
            out.append((parts[2], m.value))
    return sorted(out)


def _superresolution_costs(comparison: Comparison) -> Iterable[Statement]:
    lead = "Super-resolution costs view consistency (reprojection before and after it)"
    groups = [g for g in comparison.groups if any(_factor(run) > 1 for run in g.runs)]
    if not groups:
        yield _needs(lead, "a run with super-resolution (generator.superresolution.factor over 1)")
    for group in groups:
        if not group.is_baseline:
            yield _cost_in(lead, group)


def _factor(run: RunRecord) -> int:
    node: Any = run.config
    for key in ("generator", "superresolution", "factor"):
        node = node.get(key) if isinstance(node, dict) else None
    return node if isinstance(node, int) else 1


def _cost_in(lead: str, group: Group) -> Statement:
    names = "consistency.psnr_raw", "consistency.psnr"
    cells = dict(zip(names, map(group.cell, names), strict=True))
    without = [name for name, cell in cells.items() if cell.mean is None]
    if without:
        return Statement("open", f"{lead}: not decided; {group.label}, {absences(cells, without)}.")
    before, after = cells.values()
    rows = zip(before.measures, after.measures, strict=True)
    pairs = [(str(run.seed), a, b) for (run, a), (_, b) in rows]
    gap = of_pairs(names[1], "before", "after", pairs)
    verdict = _verdict(before, after, gap, up=True)
    show = after.metric.with_unit
    numbers = f"{show(before.mean or 0.0)} before, {show(after.mean or 0.0)} after"
    numbers += f"; {_gap(gap)}" if gap.interval else ""
    tails = {"holds": "", "open": "on average, but too close to call; ", "fails": "no; "}
    return Statement(verdict, f"{lead}: {tails.get(verdict, '')}{group.label}, {numbers}.")
