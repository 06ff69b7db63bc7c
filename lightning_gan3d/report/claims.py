"""The claims of a report, each checked against its numbers.

A claim holds or fails if the test of the paired difference decides it (`Decisions`), and is open
otherwise, or if numbers are missing. Its tests have half of the report's error probability
(`Decisions._is_of_a_claim`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

from lightning_gan3d.metric import MetricId
from lightning_gan3d.metric_table import REFIT, REPROJECTION, describe, significant
from lightning_gan3d.report.differences import FINAL, RENDER_TIME, UPSAMPLED, Decisions, Difference
from lightning_gan3d.report.groups import CANONICAL, Comparison, Group, protocol_mismatch
from lightning_gan3d.report.records import RunRecord
from lightning_gan3d.report.statements import Statement, Verdict, listed, reasons
from lightning_gan3d.stats import power_law_exponent

GROWTH = {"voxel": (3, "cube"), "triplane": (2, "square"), "nerf_mlp": (0, "")}
"""How scene memory grows with the resolution of the grid: exponent and its name."""
TOLERANCE = 0.1
"""Allowed deviation of the exponent: a scene may hold more than its grid."""
GRID_BYTES = "growth.grid.scene_bytes"
GRIDLESS = MetricId("growth.image.scene_bytes_exponent")
"""Growth of scene memory with the image, for representations without a grid."""
OPPOSITE: dict[Verdict, Verdict] = {"holds": "fails", "fails": "holds", "open": "open"}


def claims(decisions: Decisions) -> list[Statement]:
    """Check every claim about the runs at hand; one with missing numbers is open and names them."""
    return [
        *_triplane_is_faster(decisions),
        *(s for kind in GROWTH for s in _scene_memory_grows(decisions.comparison, kind)),
        *_baseline_is_less_consistent(decisions),
        *_superresolution_costs(decisions),
    ]


def _of(comparison: Comparison, kind: str) -> list[Group]:
    return [g for g in comparison.groups if g.representation == kind]


def _triplane_is_faster(decisions: Decisions) -> Iterable[Statement]:
    lead = "The tri-plane renders faster than the MLP (render time per view)"
    comparison = decisions.comparison
    planes, networks = _of(comparison, "triplane"), _of(comparison, "nerf_mlp")
    for a in planes:
        for b in networks:
            checked = _ahead(decisions, RENDER_TIME, a, [b], "is slower than")
            yield Statement(checked.verdict, lead, checked.text)


def _baseline_is_less_consistent(decisions: Decisions) -> Iterable[Statement]:
    lead = (
        "A 2D generator is less consistent between views than each 3D representation (refit, "
        "needs no depth)"
    )
    groups = decisions.comparison.groups
    flat = [g for g in groups if g.is_baseline]
    solid = [g for g in groups if not (g.is_baseline or g.is_images)]
    if not solid:
        return
    missing = [k for k in CANONICAL if k not in {g.representation for g in solid}]
    for group in flat:
        checked = _ahead(
            decisions, MetricId(REFIT), group, solid, "is more consistent than", worse=True
        )
        checked = _unless_missing(checked, missing)
        yield Statement(checked.verdict, lead, checked.text)


def _unless_missing(checked: Statement, missing: Sequence[str]) -> Statement:
    """Leave a claim about all 3D representations open if some have no run."""
    if checked.verdict != "holds" or not missing:
        return checked
    text = f"holds so far, but there is no run of {listed(missing)} ({checked.text})"
    return Statement("open", text)


def _ahead(
    decisions: Decisions,
    metric_id: MetricId,
    group: Group,
    others: Sequence[Group],
    denial: str,
    worse: bool = False,
) -> Statement:
    """Check that a group is better (or `worse`) than each of the others.

    `denial` states the opposite. The text has neither lead nor full stop.
    """
    cells = {g.label: g.cell(metric_id) for g in (group, *others)}
    without = [label for label, cell in cells.items() if cell.mean is None]
    faults = [f"{x} {fault}" for x, fault in decisions.unranked.items() if x in cells]
    problem = "; ".join(faults) or reasons(cells, without) or protocol_mismatch(cells)
    if problem:
        return Statement("open", f"not decided; {problem}")
    up = (describe(metric_id).better == "higher") != worse
    gaps = {o.label: decisions.between(group.label, o.label, metric_id) for o in others}
    sides: dict[Verdict, list[str]] = {"holds": [], "open": [], "fails": []}
    for label, gap in gaps.items():
        verdict = gap.verdict if up else OPPOSITE[gap.verdict]
        sides[verdict].append(label)
    values = ", ".join(f"{x} {c.info.with_unit(c.mean or 0.0)}" for x, c in cells.items())
    numbers = "; ".join([values, *(_interval(d) for d in gaps.values() if d.interval)])
    if sides["fails"]:
        text = f"no, {group.label} {denial} {listed(sides['fails'])} ({numbers})"
        return Statement("fails", text)
    if sides["open"]:
        why = " and ".join(dict.fromkeys(gaps[label].doubt for label in sides["open"]))
        text = f"not decided against {listed(sides['open'])}, {why} ({numbers})"
        return Statement("open", text)
    return Statement("holds", numbers)


def _interval(d: Difference) -> str:
    assert d.mean is not None
    assert d.interval is not None
    return (
        f"{d.first} - {d.second} {d.info.with_unit(d.mean)}, 95 % interval "
        f"{d.info.format_range(*d.interval, d.mean)} {d.info.printed_unit}".rstrip()
        + f" over {d.basis}"
    )


def _scene_memory_grows(comparison: Comparison, kind: str) -> Iterable[Statement]:
    power, name = GROWTH[kind]
    for group in _of(comparison, kind):
        lead = f"Scene memory of {group.label} grows with the {name} of the grid resolution"
        if not power:
            lead = f"Scene memory of {group.label} does not grow with resolution (no grid)"
        yield _growth_of(lead, group, power)


def _growth_of(lead: str, group: Group, power: int) -> Statement:
    exponents: set[float] = set()
    gaps: list[str] = []
    for run in group.runs:
        points = [] if run.gap else _grid_bytes(run)
        gridless = run.metric(GRIDLESS)
        if len(points) > 1:
            exponents.add(power_law_exponent(points))
        elif gridless.value is not None:
            exponents.add(gridless.value)
        else:
            stated = run.metric(MetricId("growth.grid")) if power else gridless
            gaps.append(f"{run.name}: {stated.note}")
    if gaps:
        return Statement("open", lead, f"not decided; {'; '.join(gaps)}")
    text = listed([significant(x, 3) if x else "0" for x in sorted(exponents)])
    if all(abs(x - power) <= TOLERANCE for x in exponents):
        return Statement("holds", lead, f"exponent {text}")
    return Statement("fails", lead, f"no; exponent {text}, not {power}")


def _grid_bytes(run: RunRecord) -> list[tuple[float, float]]:
    return sorted((m.at, m.value) for m in run.metrics if m.name == GRID_BYTES and m.at and m.value)


def _superresolution_costs(decisions: Decisions) -> Iterable[Statement]:
    lead = (
        "Super-resolution reduces multi-view consistency (reprojection: final image against "
        "upsampled rendering)"
    )
    groups = [g for g in decisions.comparison.groups if any(_factor(run) > 1 for run in g.runs)]
    for group in groups:
        if not group.is_baseline:
            checked = _loss(decisions, group)
            yield Statement(checked.verdict, lead, checked.text)


def _factor(run: RunRecord) -> int:
    node: Any = run.config
    for key in ("generator", "superresolution", "factor"):
        node = node.get(key) if isinstance(node, dict) else None
    return node if isinstance(node, int) else 1


def _loss(decisions: Decisions, group: Group) -> Statement:
    """Check that the final image is farther below its ceiling than the upsampled rendering."""
    ids = MetricId(REPROJECTION, stage="enlarged"), MetricId(REPROJECTION)
    cells = {metric_id.key: group.cell(metric_id) for metric_id in ids}
    without = [key for key, cell in cells.items() if cell.mean is None]
    problem = reasons(cells, without) or protocol_mismatch(cells)
    if problem:
        return Statement("open", f"not decided; {group.label}, {problem}")
    before, after = cells.values()
    gap = decisions.between(group.label + FINAL, group.label + UPSAMPLED, MetricId(REPROJECTION))
    show = after.info.with_unit
    numbers = (
        f"{after.info.short} {show(before.mean or 0.0)} of the upsampled rendering, "
        f"{show(after.mean or 0.0)} of the final image"
    )
    numbers += f"; {_interval(gap)}" if gap.interval else ""
    tail = {"holds": "", "open": f"not decided, {gap.doubt}; ", "fails": "no; "}.get(
        gap.verdict, ""
    )
    return Statement(gap.verdict, f"{tail}{group.label}, {numbers}")
