"""The claims that open a report, each checked against its numbers, whatever comes out.

A claim holds where its side is ahead on average and the interval of the paired difference leaves
out zero; it is open where the interval does not, or where numbers are missing; else it fails. Too
few seeds and items for an interval: then the ranges of both sides must not touch. What fewer than
three seeds decide is marked as said of these runs. Claims on consistency take PSNR and the gain
together, for PSNR alone is won by blur and by one colour: where both do not agree they are open.
"""

from collections.abc import Iterable
from typing import Any

from lightning_gan3d.metric_table import growth, metric, significant
from lightning_gan3d.report.decide import CLOSE, of_few, unsure
from lightning_gan3d.report.groups import CANONICAL, Cell, Comparison, Group, unlike
from lightning_gan3d.report.paired import Difference, difference, of_pairs
from lightning_gan3d.report.records import RunRecord
from lightning_gan3d.report.statements import Statement, Verdict, absences, listed
from lightning_gan3d.stats import power_law_exponent

POWERS = {"voxel": (3, "cube"), "triplane": (2, "square")}
"""How the bytes of a scene grow with the resolution of its grid."""
TOLERANCE = 0.1
"""By which the exponent of the bytes may differ from that: a scene may hold more than its grid."""
BYTES = "scene_bytes"
GRIDLESS = "growth.image.scene_bytes_exponent"
"""How the bytes grow with the image, where no grid has a resolution of its own."""


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
        for b in networks:
            found = _ahead("speed.view_ms", a, [b], "is not faster than")
            yield Statement(found.verdict, f"{lead}: {found.text}.", found.few)


def _baseline_is_less_consistent(comparison: Comparison) -> Iterable[Statement]:
    lead = (
        "A 2D generator is less consistent between views than each 3D representation, by the "
        "measure that needs no depth (refit)"
    )
    flat = [g for g in comparison.groups if g.is_baseline]
    solid = [g for g in comparison.groups if not (g.is_baseline or g.is_images)]
    absent = [k for k in CANONICAL if k not in {g.representation for g in solid}]
    if not flat or not solid:
        yield _needs(lead, "runs of a 2D baseline and of 3D representations")
        return
    for group in flat:
        denial = "is at least as consistent as"
        found = [
            _ahead(n, group, solid, denial, True, absent) for n in ("refit.gain", "refit.psnr")
        ]
        still = [g.label for g in solid if (g.cell("refit.gain").mean or 0.0) <= 0]
        if still and found[0].verdict == "holds":
            why = f"no gain above zero of {listed(still)}, whatever PSNR says; {found[0].text}"
            found[0] = Statement("open", why)
        yield _agreed(lead, *found)


def _agreed(lead: str, gain: Statement, psnr: Statement) -> Statement:
    """Join what gain and PSNR say: as both do, else open."""
    few = gain.few or psnr.few
    verdict = gain.verdict if gain.verdict == psnr.verdict else "open"
    odds = {gain.verdict, psnr.verdict} == {"holds", "fails"}
    words = "gain and PSNR disagree, so not decided; " if odds else ""
    texts = [gain.text, *[psnr.text][: psnr.text != gain.text]]
    return Statement(verdict, f"{lead}: {words}{'; '.join(texts)}.", few)


def _ahead(
    name: str,
    group: Group,
    others: list[Group],
    denial: str,
    worse: bool = False,
    absent: list[str] | None = None,
) -> Statement:
    """Check that a group is better (or `worse`) than each of the others; `denial` says it is not.

    The text of what is returned has neither lead nor full stop. `absent` names what should be among
    the others and is not, so that the claim cannot hold.
    """
    cells = {g.label: g.cell(name) for g in (group, *others)}
    without = [label for label, cell in cells.items() if cell.mean is None]
    if without:
        return Statement("open", f"not decided; {absences(cells, without)}")
    if unlike(cells):
        return Statement("open", f"not decided; {unlike(cells)}")
    up = (metric(name).better == "higher") != worse
    found = [difference(group, other, name) for other in others]
    few = of_few(list(cells.values()), found)
    sides: dict[Verdict, list[str]] = {"holds": [], "open": [], "fails": []}
    doubts = []
    for other, gap in zip(others, found, strict=True):
        verdict, why = _verdict(cells[group.label], cells[other.label], gap, up)
        sides[verdict].append(other.label)
        doubts += [why] * (verdict == "open")
    numbers = ", ".join(f"{x} {c.metric.with_unit(c.mean or 0.0)}" for x, c in cells.items())
    numbers = "; ".join([numbers, *(_gap(d) for d in found if d.interval is not None)])
    if sides["fails"]:
        return Statement(
            "fails", f"no, {group.label} {denial} {listed(sides['fails'])} ({numbers})", few
        )
    if sides["open"]:
        close = listed(sides["open"])
        words = " and ".join(dict.fromkeys(doubts))
        return Statement("open", f"on average, but {words} against {close} ({numbers})")
    if absent:
        return Statement(
            "open",
            f"as far as measured, but there is no run of {listed(absent)} ({numbers})",
        )
    return Statement("holds", numbers, few)


def _verdict(mine: Cell, other: Cell, gap: Difference, up: bool) -> tuple[Verdict, str]:
    """Decide by the paired difference, else by the ranges of both sides; say why where it is open.

    What is not ahead on average fails, unless nothing can be said.
    """
    mean = gap.mean if gap.mean is not None else (mine.mean or 0.0) - (other.mean or 0.0)
    why = unsure(mine, other, gap)
    if why not in ("", CLOSE):
        return "open", why
    if mean == 0 or (mean > 0) != up:
        return "fails", ""
    return ("open", why) if why else ("holds", "")


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
        lead = f"The bytes of a {kind} scene do not grow with the resolution, for it stores no grid"
    groups = _of(comparison, kind)
    if not groups:
        yield _needs(lead, f"a run of {kind}")
    for group in groups:
        yield _growth_of(lead, group, power)


def _growth_of(lead: str, group: Group, power: int) -> Statement:
    found: list[float] = []
    gaps: list[str] = []
    for run in group.runs:
        points = [] if run.gap else _points(run)
        flat = run.measure(GRIDLESS)
        if len(points) > 1:
            found.append(power_law_exponent(points))
        elif flat.value is not None:
            found.append(flat.value)
        else:
            gaps.append(f"{run.name}: {(run.measure('growth.grid') if power else flat).note}")
    if gaps:
        return Statement("open", f"{lead}: not decided; {'; '.join(gaps)}.")
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
    lead = (
        "Super-resolution costs view consistency (reprojection of the final image against that of "
        "the rendering enlarged to its size)"
    )
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
    gain, psnr = (_loss(group, f"consistency.{kind}") for kind in ("gain", "psnr"))
    return _agreed(lead, gain, psnr)


def _loss(group: Group, name: str) -> Statement:
    """Check that a value falls from the enlarged rendering to the final image."""
    names = f"{name}_enlarged", name
    cells = dict(zip(names, map(group.cell, names), strict=True))
    without = [name for name, cell in cells.items() if cell.mean is None]
    if without:
        return Statement("open", f"not decided; {group.label}, {absences(cells, without)}")
    if unlike(cells):
        return Statement("open", f"not decided; {group.label}, {unlike(cells)}")
    before, after = cells.values()
    rows = zip(before.measures, after.measures, strict=True)
    pairs = [(str(run.seed), a, b) for (run, a), (_, b) in rows]
    gap = of_pairs(name, "enlarged", "final", pairs)
    verdict, why = _verdict(before, after, gap, up=True)
    show = after.metric.with_unit
    numbers = f"{after.metric.short} {show(before.mean or 0.0)} of the enlarged rendering, "
    numbers += f"{show(after.mean or 0.0)} of the final image"
    numbers += f"; {_gap(gap)}" if gap.interval else ""
    tail = {"holds": "", "open": f"on average, but {why}; ", "fails": "no; "}.get(verdict, "")
    return Statement(verdict, f"{tail}{group.label}, {numbers}", of_few([before, after], [gap]))
