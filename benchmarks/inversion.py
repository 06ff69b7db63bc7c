"""Invert views of procedural figures that no training showed; compare novel views with the truth.

    python -m benchmarks.inversion RUN --out FILE.json --objects 20 tuning_steps=0 space=w

Each figure is inverted from one view near the front. The table lists PSNR and SSIM of this view and
of views 30 and 90 degrees beside it, as means with 95 % intervals. It also lists the depth error of
the given view, at pixels where truth and result are opaque. RUN: trained on `gan3d data synth`.
"""

import argparse
import dataclasses
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import from_options
from lightning_gan3d.data.synthetic.figures import FigureView
from lightning_gan3d.data.synthetic.synth import SynthConfig, SynthObjects
from lightning_gan3d.draws import Draws
from lightning_gan3d.files import provenance, write_json
from lightning_gan3d.images import Images, quantise
from lightning_gan3d.inference.config import InvertOptions
from lightning_gan3d.inference.inversion.invert import similarity
from lightning_gan3d.inference.inversion.projection import invert
from lightning_gan3d.inference.inversion.targets import Target
from lightning_gan3d.inference.model import Model, Subject, open_model
from lightning_gan3d.stats import mean_interval

SEED = 1000
"""Key of the figures; training data has small seeds."""
ANGLES = (0, 30, 90)
"""Degrees from the given view, about the world's y axis."""


def target_of(view: FigureView) -> Target:
    """Return a view, stored with 8 bits, without mask: the background counts."""
    return Target(quantise(view.image), torch.ones_like(view.mask))


def depth_error(images: Images, truth: FigureView) -> float | None:
    """Mean absolute error of the depth in world units, where both are opaque."""
    if images.depth is None or images.opacity is None:
        return None
    both = (images.opacity > 0.9) & (truth.mask > 0.99)
    return float((images.depth - truth.depth)[both].abs().mean()) if bool(both.any()) else None


def measure(model: Model, objects: SynthObjects, i: int, options: InvertOptions) -> dict[str, Any]:
    """Invert one figure and compare it with the truth."""
    u = Draws(SEED).at(i).uniform("camera", (2,))
    cfg = objects.cfg
    own = Cameras.on_sphere(u[:1] - 0.5, 0.1 + 0.4 * u[1:], cfg.radius, cfg.focal)
    cameras = own.rotate_y(torch.tensor([math.radians(a) for a in ANGLES]))
    ids = torch.full((len(ANGLES),), i)
    truth = objects.render(ids, cameras, model.generator.resolution)
    views = [FigureView(*(x[k : k + 1] for x in truth)) for k in range(len(ANGLES))]
    start = time.perf_counter()
    result = invert(model, target_of(views[0]), own, options)
    row: dict[str, Any] = {"seconds": time.perf_counter() - start}
    subject = Subject(result.model, result.model.inverted[0])
    for k, angle in enumerate(ANGLES):
        values = similarity(subject.render(cameras.select(slice(k, k + 1))), target_of(views[k]))
        row |= {f"{name} {angle}": values[name] for name in ("psnr", "ssim")}
    images = subject.render(own)
    side = images.image_raw.shape[-1]
    row["depth error"] = depth_error(images, objects.render(ids[:1], own, side))
    return row


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("options", nargs="*", help="fields of InvertOptions, e.g. steps=100")
    parser.add_argument("--objects", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_intermixed_args()
    options = from_options(InvertOptions, arguments.options)
    model = open_model(arguments.run, options)
    objects = SynthObjects(
        SynthConfig(num_images=arguments.objects, num_objects=arguments.objects, seed=SEED,
                    holdout=0.0, resolution=model.generator.resolution)
    )  # fmt: skip
    rows = []
    for i in range(arguments.objects):
        rows.append(measure(model, objects, i, options))
        print(i, {k: v and round(v, 3) for k, v in rows[-1].items()}, flush=True)
    summary: dict[str, Any] = {}
    print(f"\n{model.name}, {len(rows)} figures: {' '.join(arguments.options) or 'defaults'}")
    for key in rows[0]:
        values = [row[key] for row in rows if row[key] is not None]
        if values:
            interval = mean_interval(values)
            summary[key] = {"mean": statistics.fmean(values), "interval": interval}
            half = (interval.high - interval.low) / 2 if interval else math.nan
            print(f"{key:12s} {summary[key]['mean']:8.3f} ± {half:.3f}")
    record = {"run": model.name, "options": dataclasses.asdict(options), "figures": rows}
    write_json(arguments.out, record | {"summary": summary, **provenance()})


if __name__ == "__main__":
    main()
