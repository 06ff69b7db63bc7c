"""`gan3d figure`: samples of generators as a figure for a paper."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from lightning_gan3d.config import ConfigError
from lightning_gan3d.files import atomic_path
from lightning_gan3d.inference.camera_paths import cameras_of
from lightning_gan3d.inference.config import FigureOptions, outputs_of
from lightning_gan3d.inference.model import (
    Model,
    by_settings,
    captions,
    open_model,
    output_folder,
    parse_seeds,
)
from lightning_gan3d.inference.pictures import Pixels, pictures
from lightning_gan3d.inference.styles import subject_of
from lightning_gan3d.progress import track

LINE = 0.17
"""Height of a line of a name, in inches."""
GAP = 0.02
"""Space between pictures, as a share of their side."""
MOST = 64
"""Latents of a figure."""


def figure(references: Sequence[str], options: FigureOptions, out: Path | None = None) -> str:
    """Draw one row per generator and output, one picture per seed and camera; returns the file."""
    file = out or output_folder(references, "figures", None) / "samples.pdf"
    if file.suffix not in (".pdf", ".png", ".svg"):
        raise ConfigError(f"--out {file}: name a .pdf, .png or .svg file")
    references = by_settings(references)
    names = options.labels.split(",") if options.labels else captions(references)
    if len(names) != len(references):
        raise ConfigError(
            f"labels={options.labels}: {len(references)} generators need as many names", "labels"
        )
    rows: list[tuple[str, list[Pixels]]] = []
    for name, reference in zip(names, track(references, "generators"), strict=True):
        model = open_model(reference, options, alone=len(references) == 1)
        of_outputs = _rows(model, options)
        rows += [(name * (i == 0), row) for i, row in enumerate(of_outputs)]
    if not rows:
        raise ConfigError(f"outputs={options.outputs}: no generator renders them", "outputs")
    file.parent.mkdir(parents=True, exist_ok=True)
    # In vector files "none" embeds the pixels as they are; in a PNG they are resized.
    interpolation = "antialiased" if file.suffix == ".png" else "none"
    settings = {"font.size": 9, "font.family": "DejaVu Sans", "pdf.fonttype": 42}
    with mpl.rc_context(settings), atomic_path(file) as temporary:  # type: ignore[arg-type]  # keys are names of settings
        page = _draw(rows, options.width, interpolation)
        page.savefig(temporary, format=file.suffix[1:], dpi=options.dpi)
    return str(file)


def _rows(model: Model, options: FigureOptions) -> list[list[Pixels]]:
    """Return the pictures of each output, seed by seed."""
    cameras = cameras_of(options.cameras, options.views, model.orbit)
    outputs = model.available(outputs_of(options.outputs))
    rows: list[list[Pixels]] = [[] for _ in outputs]
    for seed in parse_seeds(options.seeds, most=MOST) if outputs else []:
        images = subject_of(model, seed, options).render(cameras, options.rendering_resolution)
        for row, output in zip(rows, outputs, strict=True):
            row += pictures(model, images, cameras, output)
    return rows


def _draw(rows: Sequence[tuple[str, list[Pixels]]], width: float, interpolation: str) -> Figure:
    """Lay out rows of square pictures on a figure of a width in inches.

    A name stands at the left of its row and of those without a name below, one line for each part.
    """
    columns = len(rows[0][1])
    named = [r for r, (name, _) in enumerate(rows) if name]
    lines = max((rows[r][0].count(", ") + 1 for r in named), default=0)
    left = LINE * lines + (LINE / 2 if lines else 0.0)
    side = (width - left) / (columns + GAP * (columns - 1))
    step = side * (1 + GAP)
    height = step * (len(rows) - 1) + side
    page = Figure(figsize=(width, height))
    for first, after in itertools.pairwise([*named, len(rows)]):
        middle = height - ((first + after - 1) * step + side) / 2
        name = rows[first][0].replace(", ", ",\n")
        style = {"rotation": 90, "ha": "center", "va": "center"}
        page.text(LINE * lines / 2 / width, middle / height, name, style)
    for r, (_, row) in enumerate(rows):
        bottom = (height - side - r * step) / height
        for c, pixels in enumerate(row):
            box = ((left + c * step) / width, bottom, side / width, side / height)
            axes = page.add_axes(box)
            axes.axis("off")
            rgb = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
            axes.imshow(rgb, interpolation=interpolation)
    return page
