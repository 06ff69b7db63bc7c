"""Slices through views from a moving camera, as Karras et al. (2021) show texture sticking.

    python -m benchmarks.motion_slices docs/images/motion.png DATA.zip RUN...

A column shows an object of the procedural data, or a latent of a run: the middle view of a slow
orbit, and below it the same row of pixels of all views, first to last. Detail on the surface draws
slanted lines. Detail on the screen draws vertical ones.
"""

import sys
from pathlib import Path

import torch
from matplotlib import pyplot as plt

from lightning_gan3d.data.synthetic.synth import SynthObjects
from lightning_gan3d.inference.config import ModelOptions
from lightning_gan3d.inference.model import Subject, open_model

FRAMES, ANGLE, SEED = 96, 0.4, 0
"""Cameras, angle from first to last in radians, and latent or object."""
ROW = 0.45
"""Height of the row of pixels, as a share of the image from its top."""


def main(image: str, data: str, *runs: str) -> None:
    """Draw a column for the data, and for each run; cameras are those of the first run."""
    options = ModelOptions()
    models = [open_model(run, options) for run in runs]
    cameras = models[0].orbit.cameras(1)
    cameras = cameras.rotate_y(torch.linspace(-ANGLE / 2, ANGLE / 2, FRAMES))
    objects, ids = SynthObjects.open(data), torch.full((FRAMES,), SEED)
    columns = {"true head": objects.render(ids, cameras, models[0].generator.resolution).image}
    for run, model in zip(runs, models, strict=True):
        name = Path(run).resolve().parent.name.removeprefix("motion-").replace("-", " ")
        columns[name] = Subject(model, model.styles_of(SEED, options)).render(cameras).image
    _, axes = plt.subplots(2, len(columns), figsize=(1.5 * len(columns), 3.6), layout="constrained")
    for (top, bottom), (name, views) in zip(axes.T, columns.items(), strict=True):
        views = (views.clamp(-1, 1) / 2 + 0.5).movedim(1, -1)
        top.imshow(views[FRAMES // 2])
        bottom.imshow(views[:, round(ROW * views.shape[1])], aspect="auto")
        top.set_title(name, fontsize=7)
        for axis in (top, bottom):
            axis.set_axis_off()
    plt.savefig(image, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
