"""Fill the tables of a docs page from stored results, so that no number is typed.

    python -m benchmarks.docs_tables docs/performance.md benchmarks/results

A page marks each table with its kind and its file or folder below the results:

    <!-- table: against cpu/against.json -->
    <!-- end -->
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_gan3d.metric import Metric, MetricId, read_metrics
from lightning_gan3d.metric_table import describe, significant
from lightning_gan3d.report.groups import representation_order

GOALS: dict[tuple[str, str, str], tuple[float, float | None]] = {
    ("cpu", "renderer_128_forward", "fp32"): (10.0, 20.0),
    ("cpu", "renderer_128_forward_backward", "fp32"): (10.0, 20.0),
    ("cpu", "image", "fp32"): (2.5, None),
    ("cpu", "image", "bf16"): (7.0, None),
    ("cpu", "view", "fp32"): (2.3, None),
    ("cpu", "view", "bf16"): (7.0, None),
    ("cpu", "step", "fp32"): (2.0, 2.0),
    ("cpu", "step", "bf16"): (4.0, 2.0),
    ("cpu", "stylegan3_t_256", "fp32"): (5.0, 3.0),
    ("cpu", "stylegan3_r_256", "fp32"): (5.0, 3.0),
    ("cuda", "view", "bf16"): (5.0, None),
}
"""By device, work and precision: goals for the ratios of time and memory."""

MARK = re.compile(r"(<!-- table: (\w+) (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
STAGES = (
    "mapping",
    "scene",
    "rendering",
    "rendering_gradient",
    "rendering_plain",
    "rendering_gradient_plain",
    "superresolution",
    "view",
    "image",
    "discriminator",
    "train_g",
    "train_g_density",
    "train_d",
    "train_d_penalty",
    "train_proxy",
)


def fill(page: str, results: Path) -> str:
    """Replace every table of a page. Raises on unknown kinds and missing files."""
    tables: dict[str, Callable[[Path], str]] = {
        "against": against,
        "stages": stages,
        "index": data_index,
    }

    def table(match: re.Match[str]) -> str:
        begin, kind, name, _, end = match.groups()
        return f"{begin}\n{tables[kind](results / name)}\n\n{end}"

    return MARK.sub(table, page)


def against(path: Path) -> str:
    """Comparison with the official code."""
    content = json.loads(path.read_text(encoding="utf-8"))
    about = content["about"]
    kind = "cpu" if about["device"].startswith("cpu") else "cuda"
    head = (
        "| work | official | ours | speed-up (quartiles) | memory: official, ours, ratio | "
        "agreement |\n|---|---|---|---|---|---|"
    )
    rows = [_against_row(row, kind) for row in content["rows"]]
    paths = "; ".join(dict.fromkeys(r["path"] for r in content["rows"] if r["path"]))
    note = (
        f"{about['device']}; {about['threads']} threads; {about['versions']}; {about['official']}."
        f"{f' Rendering path: {paths}.' if paths else ''}\n\n`{about['command']}`"
    )
    return "\n".join([head, *rows, "", note])


def _against_row(row: dict[str, Any], kind: str) -> str:
    speed_goal, memory_goal = GOALS.get((kind, row["key"], row["precision"]), (None, None))
    theirs, ours = row["official_mb"], row["ours_mb"]
    quartiles = f"{significant(row['ratio_low'])} to {significant(row['ratio_high'])}"
    memory = ""
    if theirs and ours:
        less = theirs / ours
        memory = f"{theirs:,.0f} MB, {ours:,.0f} MB, {significant(less)}x{_goal(memory_goal, less)}"
    cells = [
        f"{row['description']}, {row['precision']}",
        _ms(row["official_ms"]),
        _ms(row["ours_ms"]),
        f"**{significant(row['ratio'])}x** ({quartiles}){_goal(speed_goal, row['ratio'])}",
        memory,
        row["agreement"],
    ]
    return f"| {' | '.join(cells)} |"


def _goal(goal: float | None, value: float) -> str:
    if goal is None:
        return ""
    return f"; goal {goal:g}x {'reached' if value >= goal else 'missed'}"


def _ms(value: float) -> str:
    return f"{significant(value)} ms" if value < 1000 else f"{significant(value / 1000)} s"


def stages(path: Path) -> str:
    """Time, roofline share and peak memory of each stage of the generators below a folder."""
    generators = {
        file.parent.name: {m.key: m for m in read_metrics(file)}
        for file in sorted(path.glob("*/bench.json"))
    }
    if not generators:
        raise FileNotFoundError(f"{path}: no */bench.json there")
    names = sorted(generators, key=lambda n: representation_order(n.rpartition("-")[2]))
    head = f"| stage | {' | '.join(names)} |\n|---|{'---|' * len(names)}"
    rows = []
    for stage in STAGES:
        cells = [_stage(generators[name], stage) for name in names]
        if any(cells):
            label = describe(MetricId(f"speed.{stage}_ms")).label
            rows.append(f"| {label} | {' | '.join(cells)} |")
    paths = [generators[name].get("speed.fused") for name in names]
    rows.append(f"| Rendering path | {' | '.join(m.note if m else '' for m in paths)} |")
    first = generators[names[0]]
    peaks = ", ".join(
        f"{m.value:.4g} {m.unit}"
        for key in ("speed.peak_gflop_s", "speed.peak_gb_s")
        if (m := first[key]).value is not None
    )
    return "\n".join([head, *rows, "", f"{first['speed.threads'].note}. Peaks: {peaks}."])


def data_index(path: Path) -> str:
    """Opening of large data sets, with and without their index."""
    content = json.loads(path.read_text(encoding="utf-8"))
    head = (
        "| data set | first opening | later ones | memory per image: shared, private | "
        "random reads |\n|---|---|---|---|---|"
    )
    rows = [
        f"| {row['images']:,} images, {kind} | {_opening(row['first'])} | "
        f"**{_opening(row['again'])}** | {row['several']['shared_bytes']:.0f} and "
        f"{row['several']['private_bytes']:.0f} bytes | "
        f"{row['again']['images_per_second']:,.0f}/s |"
        for kind in ("zip", "folder", "shards")
        if (row := content.get(kind))
    ]
    compared = content["compared"]
    rows += [
        f"| {content['peer_images']:,} images, zip, {name} | {_opening(compared[first])} | "
        f"{_opening(compared[later])} | {compared[later]['private_bytes']:,.0f} bytes in all | "
        f"{compared[later]['images_per_second']:,.0f}/s |"
        for name, first, later in (("before", "peer", "peer"), ("now", "first", "again"))
    ]
    setup = content["setup"]
    note = f"{setup['device']}, {setup['threads']} threads; {content['what']}"
    return "\n".join([head, *rows, "", note])


def _opening(row: dict[str, float]) -> str:
    return f"{row['seconds']:.3g} s (CPU {row['cpu_seconds']:.2g} s)"


def _stage(rows: dict[str, Metric], stage: str) -> str:
    time, share = rows.get(f"speed.{stage}_ms"), rows.get(f"speed.{stage}_floor_share")
    memory = rows.get(f"memory.{stage}_mb")
    if time is None or time.value is None:
        return ""
    parts = [_ms(time.value)]
    if share is not None and share.value is not None:
        parts.append(f"{100 * share.value:.0f} % of roofline")
    if memory is not None and memory.value is not None:
        parts.append(f"{memory.value:,.0f} MB")
    return ", ".join(parts)


def main(page: str, results: str) -> None:
    """Fill the tables of a page in place."""
    file = Path(page)
    file.write_text(fill(file.read_text(encoding="utf-8"), Path(results)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
