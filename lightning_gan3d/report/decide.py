"""When the numbers tell which of two groups is better, and which group may be set in bold."""

from lightning_gan3d.metric_table import gain_of, metric
from lightning_gan3d.report.groups import Cell, Comparison, Group, unlike
from lightning_gan3d.report.paired import Difference, difference

CLOSE = "too close to call"
NO_SPREAD = "not called, for fewer than three seeds without a spread say nothing of another one"


def unsure(a: Cell, b: Cell, gap: Difference) -> str:
    """Say why the numbers cannot tell which of two groups is better; empty where they can.

    They can where the interval of their paired difference leaves out zero; without one, where their
    ranges do not touch. Below three seeds a range without width, as of one value whose spread is
    not known, decides nothing.
    """
    if gap.interval is not None:
        return "" if gap.interval.excludes_zero() else CLOSE
    if any(cell.few and _flat(cell) for cell in (a, b)):
        return NO_SPREAD
    return CLOSE if overlap(a, b) else ""


def too_close(a: Group, b: Group, name: str) -> str:
    """The same of a metric of two groups."""
    return unsure(a.cell(name), b.cell(name), difference(a, b, name))


def of_few(cells: list[Cell], gaps: list[Difference]) -> bool:
    """Whether what was decided is about these runs alone: fewer than three seeds, or paired."""
    return any(c.few for c in cells) or any(d.interval is not None and d.seeds < 3 for d in gaps)


def overlap(a: Cell, b: Cell) -> bool:
    """Whether the ranges of two groups touch, so that neither is called better."""
    one, two = a.interval, b.interval
    return one is not None and two is not None and one[0] <= two[1] and two[0] <= one[1]


def _flat(cell: Cell) -> bool:
    return cell.interval is not None and cell.interval[0] == cell.interval[1]


def best_labels(comparison: Comparison, name: str) -> set[str]:
    """Return the groups to set in bold: the best mean and its equals; none without a rival.

    None across different protocols. What blur or one colour wins (PSNR and its like) is bold only
    for a group that gains, and gains the most; a gain only above zero.
    """
    best = _leaders(comparison, name)
    gain = gain_of(name)
    if gain and gain == name:
        return {label for label in best if (comparison.cells(name)[label].mean or 0.0) > 0}
    return best & best_labels(comparison, gain) if gain else best


def _leaders(comparison: Comparison, name: str) -> set[str]:
    better, cells = metric(name).better, comparison.cells(name)
    means = {label: c.mean for label, c in cells.items()}
    values = [v for v in means.values() if v is not None]
    if not better or len(values) < 2 or min(values) == max(values) or unlike(cells):
        return set()
    best = max(values) if better == "higher" else min(values)
    return {label for label, v in means.items() if v == best}


def why_not_bold(comparison: Comparison, name: str) -> str:
    """Say why the best value of a row is not in bold; empty where it is, or where none is best."""
    other = unlike(comparison.cells(name)) if metric(name).better else ""
    if other:
        return other
    leaders = _leaders(comparison, name)
    if not leaders or best_labels(comparison, name):
        return ""
    gain = metric(gain_of(name)).label
    if name == gain_of(name):
        return "none is in bold: no group gains"
    return (
        f'none is in bold: {", ".join(sorted(leaders))} leads, but not by "{gain}", and '
        "blur or one colour alone raises this value"
    )
