"""Quality over images, FLOPs and time of growing runs, and of the same networks at full size.

    python -m benchmarks.growing_curves runs docs/images/growing.png

Prints a Markdown table of the final SWD. FLOPs are those of networks and renderers: 4 G + 8 D per
image (forward, and backward of twice that), without penalties. Times compare only on equal, equally
loaded cores.
"""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from matplotlib import pyplot as plt

Point = tuple[float, float, float, float]
"""Thousands of images, TFLOPs, minutes, SWD."""


def curve(log: Path) -> list[Point]:
    """Read the SWD of a run over its training."""
    flops, before, points = 0.0, 0.0, list[Point]()
    for line in log.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "gflop/G" in row:
            per_image = 4 * row["gflop/G"] + 8 * row["gflop/D"]
            flops, before = flops + (row["kimg"] - before) * per_image, row["kimg"]
        if "eval/swd" in row:
            points.append((row["kimg"], flops, row["seconds"] / 60, row["eval/swd"]))
    return points


def main(root: str, image: str) -> None:
    """Draw all finished runs below a folder, and print the table."""
    arms: dict[str, list[list[Point]]] = defaultdict(list)
    for manifest in sorted(Path(root).glob("*/*/manifest.json")):
        about = json.loads(manifest.read_text(encoding="utf-8"))
        if about.get("finished"):
            arms[about["experiment"]].append(curve(manifest.parent / "metrics.jsonl"))
    _, axes = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True, layout="constrained")
    print("| | kimg | TFLOPs | minutes | SWD ↓ | seeds |\n|---|---|---|---|---|---|")
    networks = list(dict.fromkeys(name.split("-")[1] for name in arms))
    for name, runs in arms.items():
        mean = [tuple(map(statistics.mean, zip(*at, strict=True))) for at in zip(*runs)]  # noqa: B905  # runs may differ by a row
        kimg, flops, minutes, swd = zip(*mean, strict=True)
        style = {"color": f"C{networks.index(name.split('-')[1])}"}
        style["linestyle"] = {"full": "--", "long": ":"}.get(name.rpartition("-")[2], "-")
        axes[0].plot(kimg, swd, label=name.removeprefix("growing-"), **style)
        axes[1].plot(flops, swd, **style)
        axes[2].plot(minutes, swd, **style)
        last = [run[-1][-1] for run in runs]
        spread = f" ± {statistics.stdev(last):.3f}" if len(last) > 1 else ""
        print(
            f"| {name} | {kimg[-1]:.1f} | {flops[-1]:.2f} | {minutes[-1]:.2f} | "
            f"{statistics.mean(last):.3f}{spread} | {len(last)} |"
        )
    axes[0].set(xlabel="Training images (kimg)", ylabel="SWD ↓", yscale="log")
    axes[1].set(xlabel="Training FLOPs (TFLOP)")
    axes[2].set(xlabel="Training time (min)")
    axes[0].legend(fontsize=8)
    plt.savefig(image, dpi=120)


if __name__ == "__main__":
    main(*sys.argv[1:])
