"""Times of two versions of this code: stages and training phases of presets, before and after.

    python -m benchmarks.versions BEFORE AFTER demo/triplane demo/voxel --rounds 5 --out FILE.json

BEFORE and AFTER are checkouts. Each round measures each target by both, in fresh processes, in
alternating order, with the checkout's own `lightning_gan3d.benchmark`. Ratios above 1: AFTER is
faster.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

VERSIONS = "before", "after"


def measure(checkout: Path, target: str) -> dict[str, float]:
    """Milliseconds (of rates: per image) of each stage and phase, from the code of `checkout`."""
    import lightning_gan3d
    from lightning_gan3d.benchmark.bench import BenchOptions, measure_target

    if not Path(lightning_gan3d.__file__).is_relative_to(checkout):
        raise SystemExit(f"{lightning_gan3d.__file__} is not below {checkout}")
    metrics = measure_target(target, BenchOptions("cpu", quick=True), full=False)
    return {m.name: _milliseconds(m.value, m.unit) for m in metrics if m.value is not None}


def _milliseconds(value: float, unit: str) -> float:
    return 1e3 / value if unit == "img/s" else value


def in_process(checkout: Path, target: str) -> dict[str, float]:
    """`measure` in a fresh process."""
    env = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, __file__, "--measure", str(checkout), target]
    done = subprocess.run(command, env=env, cwd=checkout, check=True, stdout=subprocess.PIPE)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def ratios(rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Medians over rounds of both versions, and the ratio of the rounds with its quartiles."""
    rows = {}
    for name in rounds[0]["before"]:
        valid = [r for r in rounds if all(name in r[v] for v in VERSIONS)]
        if len(valid) < 2 or not name.endswith(("_ms", "_img_s")):
            continue
        low, ratio, high = statistics.quantiles(
            [r["before"][name] / r["after"][name] for r in valid], n=4, method="inclusive"
        )
        medians = {f"{v}_ms": statistics.median(r[v][name] for r in valid) for v in VERSIONS}
        rows[name] = {**medians, "ratio": ratio, "low": low, "high": high, "rounds": len(valid)}
    return rows


def main() -> None:
    """Measure, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results: dict[str, list[dict[str, dict[str, float]]]] = {t: [] for t in options.targets}
    checkouts = [x.resolve() for x in (options.before, options.after)]
    pairs = list(zip(VERSIONS, checkouts, strict=True))
    for number in range(options.rounds):
        for target, rounds in results.items():
            order = pairs if number % 2 == 0 else pairs[::-1]
            rounds.append({version: in_process(path, target) for version, path in order})
            print(f"round {number + 1} of {options.rounds}: {target}", file=sys.stderr)
    tables = {target: ratios(rounds) for target, rounds in results.items()}
    for target, rows in tables.items():
        for name, x in rows.items():
            times = f"{x['before_ms']:9.3f} {x['after_ms']:9.3f} ms"
            ratio = f"{x['ratio']:.2f}x ({x['low']:.2f} to {x['high']:.2f})"
            print(f"{target} {name:32}{times} {ratio}")
    if options.out is not None:
        options.out.write_text(json.dumps(tables, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "--measure":
        print(json.dumps(measure(Path(sys.argv[2]), sys.argv[3])))
    else:
        main()
