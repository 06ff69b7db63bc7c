"""Invert views of objects that no training showed; compare novel views with the truth.

    python -m benchmarks.inversion RUN --out FILE.json --objects 20 tuning_steps=0 space=w
    python -m benchmarks.inversion RUN --out FILE.json --data coil64.zip --split test_angles

Each object is inverted from one view: a procedural figure from near the front (RUN: trained on
`gan3d data synth`), or with `--data` the first view of each object in a split. The table lists PSNR
and SSIM of this view and of views 30 and 90 degrees beside it, as means with 95 % intervals; for
figures the depth error of the given view, where truth and result are opaque.
"""

import argparse
import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import from_options
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.data.synthetic.ellipsoids import ObjectView
from lightning_gan3d.data.synthetic.synth import SynthConfig, SynthObjects
from lightning_gan3d.draws import Draws
from lightning_gan3d.files import provenance, write_json
from lightning_gan3d.images import Images, quantise, to_float
from lightning_gan3d.inference.config import InvertOptions
from lightning_gan3d.inference.inversion.invert import similarity
from lightning_gan3d.inference.inversion.projection import Problem, invert, optimise
from lightning_gan3d.inference.inversion.targets import Target
from lightning_gan3d.inference.model import Model, Subject, offset_styles, open_model
from lightning_gan3d.stats import mean_interval

SEED = 1000
"""Key of the figures; training data has small seeds."""
ANGLES = (0, 30, 90)
"""Degrees from the given view, about the world's y axis."""


class Views(NamedTuple):
    """One object from `ANGLES`."""

    images: Float[Tensor, "v 3 r r"]
    cameras: Cameras
    truth: ObjectView | None = None
    """Depth and mask of the first view at the rendering resolution, if they are known."""


def figures(model: Model, num: int) -> Iterator[Views]:
    """Procedural figures, stored with 8 bits."""
    cfg = SynthConfig(num_images=num, num_objects=num, seed=SEED, holdout=0.0)
    objects, generator = SynthObjects(cfg), model.generator
    for i in range(num):
        u = Draws(SEED).at(i).uniform("camera", (2,))
        own = Cameras.on_sphere(u[:1] - 0.5, 0.1 + 0.4 * u[1:], cfg.radius, cfg.focal)
        cameras = own.rotate_y(torch.tensor([math.radians(a) for a in ANGLES]))
        ids = torch.full((len(ANGLES),), i)
        images = quantise(objects.render(ids, cameras, generator.resolution).image)
        truth = objects.render(ids[:1], own, generator.rendering_resolution)
        yield Views(images, cameras, truth)


def photographs(model: Model, num: int, path: str, split: str) -> Iterator[Views]:
    """Views of the first objects of a split; the other views are the data set's nearest ones."""
    cfg = DataConfig(path, model.generator.resolution)
    given, everything = ImageDataset(cfg, split), ImageDataset(cfg, "all")
    assert given.objects is not None, "the data set numbers its objects"
    assert everything.objects is not None, "as above"
    for number in given.objects.unique()[:num]:
        own = Cameras.from_label(given.labels[given.objects == number][:1])
        turned = own.rotate_y(torch.tensor([math.radians(a) for a in ANGLES]))
        indices = (everything.objects == number).nonzero()[:, 0]
        candidates = Cameras.from_label(everything.labels[indices])
        chosen = indices[torch.cdist(turned.origins, candidates.origins).argmin(dim=1)]
        cameras = Cameras.from_label(everything.labels[chosen])
        yield Views(to_float(everything.images(chosen)), cameras)


def depth_error(images: Images, truth: ObjectView) -> float | None:
    """Mean absolute error of the depth in world units, where both are opaque."""
    if images.depth is None or images.opacity is None:
        return None
    both = (images.opacity.cpu() > 0.9) & (truth.mask > 0.99)
    return (
        float((images.depth.cpu() - truth.depth)[both].abs().mean()) if bool(both.any()) else None
    )


def fit_to_all(
    model: Model,
    targets: list[Target],
    cameras: Cameras,
    start: Float[Tensor, "num_ws w_dim"],
    options: InvertOptions,
) -> Subject:
    """Fit one W+ latent to all views at once: what the untuned generator can show."""
    problem = Problem(model, targets[0], options, [])
    u = torch.linalg.solve(problem.axes, start.T).T[None].clone().requires_grad_()
    target = Target(*(torch.cat([t[i] for t in targets]) for i in (0, 1)))

    def loss(_: int) -> Tensor:
        image = problem.images(u @ problem.axes.T, cameras).image
        return problem.distance(image, target).sum() + options.prior * u.square().mean()

    optimise([{"params": [u], "lr": options.rate}], loss, options.steps, options.patience)
    offset = (u @ problem.axes.T).detach()[0]
    return Subject(model, offset_styles(model.generator, offset))


def measure(
    model: Model, views: Views, options: InvertOptions, joint: bool = False
) -> dict[str, Any]:
    """Invert the first view and compare all with the truth; the background counts.

    `joint`: compare a latent that is fitted to all views, too.
    """
    targets = [Target(x[None], torch.ones_like(x[None, :1])).to(model.device)
               for x in views.images]  # fmt: skip
    own = views.cameras.select(slice(0, 1))
    start = time.perf_counter()
    result = invert(model, targets[0], own, options)
    row: dict[str, Any] = {"seconds": time.perf_counter() - start}
    subject = Subject(result.model, result.model.inverted[0])
    subjects = {"": subject}
    if joint:
        cameras = views.cameras.to(model.device)
        subjects["joint "] = fit_to_all(model, targets, cameras, result.offset, options)
    for label, shown in subjects.items():
        for k, (angle, target) in enumerate(zip(ANGLES, targets, strict=True)):
            values = similarity(shown.render(views.cameras.select(slice(k, k + 1))), target)
            row |= {f"{label}{name} {angle}": values[name] for name in ("psnr", "ssim")}
    if views.truth is not None:
        row["depth error"] = depth_error(subject.render(own), views.truth)
    return row


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("options", nargs="*", help="fields of InvertOptions, e.g. steps=100")
    parser.add_argument("--objects", type=int, default=20)
    parser.add_argument("--data", help="folder or zip of images with numbered objects")
    parser.add_argument("--split", default="test", help="of --data, for the given views")
    parser.add_argument("--joint", action="store_true", help="also fit W+ to all views at once")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_intermixed_args()
    options = from_options(InvertOptions, arguments.options)
    model = open_model(arguments.run, options)
    if options.rendering_resolution:  # the true depth is rendered at the same resolution
        model.generator.rendering_resolution = options.rendering_resolution
    if arguments.data:
        each = photographs(model, arguments.objects, arguments.data, arguments.split)
    else:
        each = figures(model, arguments.objects)
    rows = []
    for views in each:
        rows.append(measure(model, views, options, arguments.joint))
        print(len(rows), {k: v and round(v, 3) for k, v in rows[-1].items()}, flush=True)
    summary: dict[str, Any] = {}
    print(f"\n{model.name}, {len(rows)} objects: {' '.join(arguments.options) or 'defaults'}")
    for key in rows[0]:
        values = [row[key] for row in rows if row[key] is not None]
        if values:
            interval = mean_interval(values)
            summary[key] = {"mean": statistics.fmean(values), "interval": interval}
            half = interval.half if interval else math.nan
            print(f"{key:16s} {summary[key]['mean']:8.3f} ± {half:.3f}")
    record = {"run": model.name, "options": dataclasses.asdict(options), "objects": rows}
    write_json(arguments.out, record | {"summary": summary, **provenance(sys.argv)})


if __name__ == "__main__":
    main()
