"""Style mixing (Karras et al. 2019): grids, and what each range of styles changes, in numbers."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lightning_gan3d.cameras import Cameras
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
from lightning_gan3d.inference.pictures import FOREGROUND, Pixels, enlarged, pictures, save_png
from lightning_gan3d.inference.styles import mixed, ranges_of, style_levels
from lightning_gan3d.metrics.geometry.surfaces import grid_of
from lightning_gan3d.metrics.sources import volume_of
from lightning_gan3d.stats import mean_interval

GRID = 32
"""Cells per axis on which the change of the density is measured."""


def mix(reference: str, options: MixOptions, out: Path | None = None) -> str:
    """Write style-mixing grids of images and depth, one per range and camera; returns a summary."""
    rows, cols = parse_seeds(options.rows), parse_seeds(options.cols)
    model = open_model(reference, options)
    out = output_folder([reference], "style_mixing", out)
    cameras = cameras_of(options.cameras, options.views, model.orbit)
    ranges = ranges_of(options.range, style_levels(model.generator.representation))
    out.mkdir(parents=True, exist_ok=True)
    lines = [model.summary]
    for name, indices in ranges.items():
        cells = _render_grid(model, rows, cols, indices, cameras, options)
        for output, views in cells.items():
            for view, grid in enumerate(views):
                ending = "" if output == "image" else f"_{output}"
                file = out / f"{name.partition(' ')[0]}_view{view:02d}{ending}.png"
                save_png(file, enlarged(_grid(grid), options.enlarge), asdict(options))
                lines.append(str(file))
    if options.measure:
        changes = measure(model, ranges, options)
        write_json(out / "changes.json", changes)
        lines += ["", table(changes)]
    return "\n".join(lines)


def _render_grid(
    model: Model,
    rows: Sequence[int],
    cols: Sequence[int],
    indices: Sequence[int],
    cameras: Cameras,
    options: MixOptions,
) -> dict[str, list[list[list[Pixels | None]]]]:
    """Pictures by output, view, row and column; the first row and column are the seeds' own."""
    cells: dict[str, list[list[list[Pixels | None]]]] = {}
    for i, row in enumerate([None, *rows]):
        for j, col in enumerate([None, *cols]):
            if row is None and col is None:
                continue
            if row is None or col is None:
                styles = model.styles_of(col if row is None else row, options)  # type: ignore[arg-type]  # one is a seed
            else:
                own, other = (model.styles_of(seed, options) for seed in (row, col))
                styles = mixed(own, other, indices)
            images = Subject(model, styles).render(cameras, options.rendering_resolution)
            for output in model.available(["image", "depth"]):
                views = cells.setdefault(
                    output,
                    [
                        [[None] * (len(cols) + 1) for _ in range(len(rows) + 1)]
                        for _ in cameras.cam2world
                    ],
                )
                for view, pixels in enumerate(pictures(model, images, cameras, output)):
                    views[view][i][j] = pixels
    return cells


def _grid(cells: Sequence[Sequence[Pixels | None]]) -> Pixels:
    """Join pictures to one, white where there is none; first row and column are set apart."""
    side = next(p.shape[0] for row in cells for p in row if p is not None)
    gap = max(2, side // 16)
    size = [n * side + gap for n in (len(cells), len(cells[0]))]
    sheet = Image.new("RGB", (size[1], size[0]), "white")
    for i, row in enumerate(cells):
        for j, pixels in enumerate(row):
            if pixels is not None:
                place = (j * side + gap * (j > 0), i * side + gap * (i > 0))
                sheet.paste(Image.fromarray(pixels), place)
    return np.asarray(sheet)


def measure(
    model: Model, ranges: dict[str, list[int]], options: MixOptions
) -> dict[str, dict[str, list[float] | None]]:
    """Mean change of geometry and colour if one range, or all styles, come from another latent.

    Geometry: 1 - soft intersection over union of the occupancy on a grid; only for fields. Colour:
    mean absolute difference of the rendering in [0, 1] from the frontal camera where both are
    opaque (everywhere without opacity). Each is given as mean and half width of its 95 % interval
    over `options.measure` pairs of latents.
    """
    everything = list(range(model.generator.representation.num_ws))
    changes: dict[str, dict[str, list[float]]] = {}
    camera = model.orbit.cameras(1)
    for pair in range(options.measure):
        own, other = (
            model.styles(model.latent(2 * pair + i), options.psi, options.cutoff) for i in (0, 1)
        )
        first = Subject(model, own)
        for name, indices in {**ranges, "all styles": everything}.items():
            second = Subject(model, mixed(own, other, indices))
            values = changes.setdefault(name, {"geometry": [], "colour": []})
            if model.generator.cfg.is_field:
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
    return (
        None
        if interval is None
        else [sum(values) / len(values), (interval.high - interval.low) / 2]
    )


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
