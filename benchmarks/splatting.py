"""Times of splatting on a CPU: Gaussians, resolutions, threads, and PyTorch beside the kernels.

    python -m benchmarks.splatting --rounds 9 --out benchmarks/results/cpu/splatting.json

The scene: Gaussians on a sphere that fills 70 % of the image's width, standard deviations near the
distance of neighbours, opacities from 0.1 to 0.99. Times include the projection. `gradient_ms` is
forward and backward, by all attributes. Rounds alternate over all cases; times are medians.
"""

import argparse
import dataclasses
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.contract import SceneConfig
from renderers.splat import SplatRenderer, SplatRendererConfig
from representations.splats import Splats
from representations.templates import make_template

FOCAL, DISTANCE, RADIUS = 1.5, 1.35, 0.3
ATTRIBUTES = ("means", "scales", "rotations", "opacities", "features")


class Case(NamedTuple):
    """One row of the table."""

    path: str
    side: int
    """Root of the number of Gaussians."""
    resolution: int
    threads: int


def sphere(side: int) -> Splats:
    """Random Gaussians on the template `sphere`."""
    generator = torch.Generator().manual_seed(0)
    template, number = make_template("sphere", side, RADIUS), side**2

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(1, number, *shape, generator=generator)

    return Splats(
        means=template.positions + template.spacing[:, None] * (uniform(3) - 0.5),
        scales=template.spacing[:, None] * torch.exp(2 * uniform(3) - 1.3),
        rotations=torch.randn(1, number, 4, generator=generator),
        opacities=0.1 + 0.89 * uniform(),
        features=uniform(3),
        scene_cfg=SceneConfig(),
    )


def work(case: Case) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return the rendering of a case, and the same with its gradient."""
    scene, renderer = sphere(case.side), SplatRenderer(SplatRendererConfig(path=case.path))  # type: ignore[arg-type]  # a literal
    cameras = Cameras.on_sphere(torch.tensor([0.5]), torch.tensor([0.2]), DISTANCE, FOCAL)
    leaves = {name: getattr(scene, name).clone().requires_grad_() for name in ATTRIBUTES}
    trained = dataclasses.replace(scene, **leaves)

    def render() -> object:
        with torch.no_grad():
            return renderer(scene, cameras, case.resolution)

    def differentiate() -> object:
        out = renderer(trained, cameras, case.resolution)[:3]
        ones = [torch.ones_like(x) for x in out]
        return torch.autograd.grad(list(out), list(leaves.values()), ones)

    return render, differentiate


def cases(threads: list[int]) -> list[Case]:
    """Return kernels over Gaussians and resolutions, and PyTorch where its memory allows."""
    rows = [
        Case("numba", side, resolution, number)
        for side in (64, 128, 256, 512)
        for resolution in (128, 256, 512)
        for number in threads
    ]
    small = [Case(path, 32, 64, threads[0]) for path in ("numba", "plain")]
    return rows + small


def measure(threads: list[int], rounds: int) -> list[dict[str, float | str]]:
    """Return the medians over alternating rounds."""
    rows = [(case, work(case)) for case in cases(threads)]
    times: dict[Case, list[list[float]]] = {case: [[], []] for case, _ in rows}
    for number in range(-1, rounds):  # the first compiles and warms up
        for case, functions in rows:
            torch.set_num_threads(case.threads)
            for function, measured in zip(functions, times[case], strict=True):
                start = time.perf_counter()
                function()
                if number >= 0:
                    measured.append(1e3 * (time.perf_counter() - start))
    return [_row(case, *measured) for case, measured in times.items()]


def _row(case: Case, forward: list[float], both: list[float]) -> dict[str, float | str]:
    view, gradient = statistics.median(forward), statistics.median(both)
    return {
        "path": case.path,
        "gaussians": case.side**2,
        "resolution": case.resolution,
        "threads": case.threads,
        "view_ms": round(view, 3),
        "gradient_ms": round(gradient, 3),
        "fastest_view_ms": round(min(forward), 3),
        "fastest_gradient_ms": round(min(both), 3),
        "views_per_second": round(1e3 / view, 1),
        "gradient_over_view": round(gradient / view, 2),
    }


def main() -> None:
    """Measure, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    rows = measure(options.threads, options.rounds)
    for row in rows:
        print("  ".join(f"{k} {v}" for k, v in row.items()))
    if options.out is not None:
        rounded = math.floor(10 * load) / 10
        about = {"torch": torch.__version__, "load_before": rounded, "rounds": options.rounds}
        options.out.write_text(
            json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
