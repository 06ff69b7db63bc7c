"""Style mixing (Karras et al. 2019): grids, and what each range of styles changes, in numbers."""

from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from lightning_gan3d.files import write_json
from lightning_gan3d.images import Images
from lightning_gan3d.inference.camera_paths import cameras_of
from lightning_gan3d.inference.config import MixOptions
from lightning_gan3d.inference.model import (
    Model,
    Subject,
    open_model,
    output_folder,
    parse_seeds,
)
from lightning_gan3d.inference.pictures import FOREGROUND, Tile, pictures, write_contact_sheets
from lightning_gan3d.inference.styles import mixed, ranges_of, style_levels
from lightning_gan3d.metrics.geometry.surfaces import grid_of
from lightning_gan3d.metrics.sources import volume_of
from lightning_gan3d.progress import track
from lightning_gan3d.stats import mean_interval

GRID = 32
"""Cells per axis on which the change of the density is measured."""
MOST = 32
"""Rows and columns of latents: a grid is one sheet."""


def mix(reference: str, options: MixOptions, out: Path | None = None) -> str:
    """Write style-mixing grids of images and depth, one per range and camera; returns a summary."""
    rows, cols = (parse_seeds(getattr(options, x), x, MOST) for x in ("rows", "cols"))
    model = open_model(reference, options)
    out = output_folder([reference], "style_mixing", out)
    cameras = cameras_of(options.cameras, options.views, model.orbit)
    ranges = ranges_of(options.range, style_levels(model.generator.representation))
    out.mkdir(parents=True, exist_ok=True)
    lines = [model.summary]
    for name, indices in ranges.items():
        sheets: dict[str, list[Tile]] = {}
        pairs = list(product([None, *rows], [None, *cols]))[1:]
        for row, col in track(pairs, f"latents, {name}"):
            seeds = [seed for seed in (row, col) if seed is not None]
            styles = [model.styles_of(seed, options) for seed in seeds]
            subject = Subject(
                model, styles[0] if len(styles) == 1 else mixed(styles[0], styles[1], indices)
            )
            images = subject.render(cameras, options.rendering_resolution)
            for output in model.available(["image", "depth"]):
                ending = "" if output == "image" else f"_{output}"
                for view, pixels in enumerate(pictures(model, images, cameras, output)):
                    tile = Tile(" + ".join(map(str, seeds)), [pixels])
                    sheets.setdefault(f"view{view:02d}{ending}", []).append(tile)
        for ending, tiles in sheets.items():
            corner = Tile("", [np.full_like(tiles[0].pictures[0], 255)])
            file = out / f"{name.partition(' ')[0]}_{ending}.png"
            columns = len(cols) + 1
            lines += write_contact_sheets(file, [corner, *tiles], asdict(options), columns)
    if options.pairs:
        changes = changes_of(model, ranges, options)
        write_json(out / "changes.json", changes)
        lines += ["", table(changes)]
    return "\n".join(lines)


def changes_of(
    model: Model, ranges: dict[str, list[int]], options: MixOptions
) -> dict[str, dict[str, list[float] | None]]:
    """Mean change of geometry and colour if one range, or all styles, come from another latent.

    Geometry: 1 - soft intersection over union of the occupancy on a grid; only with a density.
    Colour: mean absolute difference of the rendering in [0, 1] from the frontal camera where both
    are opaque (everywhere without opacity). Each is given as mean and half width of its 95 %
    interval over `options.pairs` pairs of latents.
    """
    everything = list(range(model.generator.representation.num_ws))
    changes: dict[str, dict[str, list[float]]] = {}
    camera = model.orbit.cameras(1)
    for pair in range(options.pairs):
        own, other = (
            model.styles(model.latent(2 * pair + i), options.psi, options.cutoff) for i in (0, 1)
        )
        first = Subject(model, own)
        for name, indices in {**ranges, "all styles": everything}.items():
            second = Subject(model, mixed(own, other, indices))
            values = changes.setdefault(name, {"geometry": [], "colour": []})
            if model.generator.cfg.has_density:
                a, b = (grid_of(volume_of(s.scene), GRID) for s in (first, second))
                union, shared = np.maximum(a, b).sum(), np.minimum(a, b).sum()
                values["geometry"].append(float(1 - shared / max(union, 1e-9)))
            views = [s.render(camera, options.rendering_resolution) for s in (first, second)]
            values["colour"].append(_colour_change(*views))
    return {
        name: {kind: _mean_and_half(x) for kind, x in values.items()}
        for name, values in changes.items()
    }


def _mean_and_half(values: list[float]) -> list[float] | None:
    interval = mean_interval(values)
    return None if interval is None else [fmean(values), interval.half]


def _colour_change(one: Images, other: Images) -> float:
    difference = (one.image_raw - other.image_raw).abs().mean(dim=1) / 2
    if one.opacity is not None and other.opacity is not None:
        both = (torch.minimum(one.opacity, other.opacity) >= FOREGROUND)[:, 0]
        difference = difference[both] if bool(both.any()) else difference * 0
    return float(difference.mean())


def table(changes: dict[str, dict[str, list[float] | None]]) -> str:
    """Format the changes, each also as a share of the change if all styles are exchanged."""
    lines = [f"{'styles of another latent':26s} {'geometry':>20s} {'colour':>20s}"]
    for name, values in changes.items():
        cells = []
        for kind, value in values.items():
            whole = changes["all styles"][kind]
            if value is None or whole is None:
                cells.append(f"{'none':>20s}")
                continue
            share = 100 * value[0] / max(whole[0], 1e-9)
            cells.append(f"{value[0]:8.3f} ±{value[1]:.3f} {share:3.0f} %")
        lines.append(f"{name:26s} " + " ".join(f"{c:>20s}" for c in cells))
    return "\n".join(lines)
