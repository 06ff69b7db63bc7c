"""The self-test's result as Markdown tables: what documentation shows, and the terminal too."""

from lightning_gan3d.metrics.selftest.selftest import MEASURES, PLAIN, SelfTest

UNITS = {"psnr": "dB", "gain": "dB", "pose": "deg", "refit": "dB"}
NAMES = {"pose": "pose.median_deg", "refit": "refit.psnr"}
MARK, NONE = "●", "·"


def table(result: SelfTest) -> str:
    """Return values by disturbance, and the matrix of what noticed; then the checks that failed.

    ● noticed, · did not; where a check expects the one or the other, in bold.
    """
    lines = []
    for scene in result.ceilings:
        heads = [f"`{NAMES.get(m, f'consistency.{m}')}`" for m in MEASURES]
        lines += [
            f"| {scene} | {' | '.join(heads)} |",
            f"|---|{'---|' * len(MEASURES)}",
            _row("as they are", [_value(m, result.ceilings[scene].get(m)) for m in MEASURES]),
        ]
        for d in result.disturbances:
            for amount in d.amounts:
                label = d.name if len(d.amounts) == 1 else f"{d.name}: {amount:g}"
                reading = result.readings[scene, d.name, amount]
                cells = [_value(m, reading.get(m)) if m in reading else "" for m in MEASURES]
                if amount == d.amounts[-1]:
                    marks = [_mark(result, scene, d.name, amount, m) for m in MEASURES]
                    cells = [f"{c} {k}".strip() for c, k in zip(cells, marks, strict=True)]
                lines.append(_row(label, cells))
        reading = result.readings[scene, PLAIN, 1.0]
        cells = [_value(m, reading[m]) if m in reading else "" for m in MEASURES]
        lines += [_row(PLAIN, cells), ""]
    held = len(result.checks) - len(result.failures)
    lines.append(f"{held} of {len(result.checks)} checks hold.")
    return "\n".join([*lines, *(f"FAILED: {words}" for words in result.failures)])


def _row(label: str, cells: list[str]) -> str:
    return f"| {label} | {' | '.join(cells)} |"


def _value(measure: str, value: float | None) -> str:
    if value is None:
        return "undefined" if measure == "gain" else "missing"
    return f"{value:.1f}" if measure in UNITS else f"{value:.4f}"


def _mark(result: SelfTest, scene: str, name: str, amount: float, measure: str) -> str:
    noticed = result.noticed(scene, name, amount, measure)
    if noticed is None:
        return ""
    d = next(d for d in result.disturbances if d.name == name)
    mark = MARK if noticed else NONE
    return f"**{mark}**" if measure in (*d.notices, *d.blind) else mark
