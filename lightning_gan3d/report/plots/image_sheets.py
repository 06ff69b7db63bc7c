"""Image sheets: latents under a turning camera, samples beside their nearest training images."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lightning_gan3d.cameras import Orbit
from lightning_gan3d.checkpoints.load import load_generator
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.camera_prior import prior_orbit
from lightning_gan3d.data.dataset import ImageDataset
from lightning_gan3d.data.labels import read_orbit
from lightning_gan3d.images import Images
from lightning_gan3d.inference.model import latents
from lightning_gan3d.inference.pictures import FOREGROUND, depth_colours, to_array
from lightning_gan3d.metrics.config import SEED
from lightning_gan3d.metrics.distribution.memorisation import NEIGHBOURS
from lightning_gan3d.metrics.sources import GeneratorSource, ImageSet
from lightning_gan3d.progress import track
from lightning_gan3d.report.groups import Comparison, Group
from lightning_gan3d.report.plots.style import DARK, LIGHT, Ink, Plot, Theme, group_inks
from lightning_gan3d.report.records import RunRecord
from lightning_gan3d.runs import Run

NUM_LATENTS = 3
NUM_VIEWS = 8
FRAME_MS = 120
NUM_SAMPLES = 4
TILE = 160
"""Side of a tile in pixels; small images are enlarged by whole factors, to about this size."""
LoadGenerator = Callable[[RunRecord], Any]
"""From a run to its EMA generator."""
LoadData = Callable[[RunRecord], tuple[ImageSet, Tensor]]
"""From a run to its training images, and the labels of generated ones."""
Views = list[Images] | str
"""The views of each latent, or why there are none."""


def load_ema(run: RunRecord) -> Any:
    """Load the EMA generator of a run."""
    return load_generator(run.path)


def load_training_images(run: RunRecord) -> tuple[ImageSet, Tensor]:
    """Open the training images of a run; with the labels of generated images."""
    config = Run(run.path).config()
    data = ImageDataset(config.data, "train")
    return data, config.fake_labels(data.labels).labels


def image_sheets(
    comparison: Comparison,
    load: LoadGenerator = load_ema,
    load_data: LoadData = load_training_images,
) -> tuple[list[Plot], list[Plot]]:
    """Return the turntables, one per latent, and the nearest neighbours, one per group.

    A group is represented by its first finished run. Each generator is loaded once, and only one is
    in memory at a time.
    """
    orbit = _orbit(comparison)
    views: dict[str, Views] = {}
    neighbours = []
    for number, group in enumerate(track(comparison.groups, "generators")):
        generator = _once(load)
        views[group.label] = orbit if isinstance(orbit, str) else _views(group, orbit, generator)
        run = next((r for r in group.finished if (r.path / NEIGHBOURS).is_file()), None)
        if run is None:
            continue  # memorisation was not measured; its metrics state why
        name, title = f"neighbours_{number}", f"Samples nearest to training images: {group.label}"
        try:
            table = json.loads((run.path / NEIGHBOURS).read_text(encoding="utf-8"))
            rows = _neighbours(table, generator(run), *load_data(run))
        except Exception as error:  # one faulty run must not stop the report of many
            neighbours.append(Plot(name, title, why=f"no images: {one_line(error)}"))
            continue
        caption = (
            f"Left: the {len(rows)} samples nearest to training images. Right: their nearest "
            "training images, with RMS distance. A copy would differ in details only; similar or "
            f"plain images are close as well. {table['protocol']}."
        )
        neighbours.append(sheet(Plot(name, title, caption), rows))
    animations = [
        animation(f"turning_{number}", label, images, not isinstance(orbit, str) and orbit.full)
        for number, (label, images) in enumerate(views.items())
        if not isinstance(images, str)
    ]
    return [*animations, *_turntables(comparison, views, orbit)], neighbours


def animation(name: str, label: str, latents: Sequence[Images], full: bool) -> Plot:
    """Draw the latents of a generator beside one another, under a turning camera.

    `full`: the camera moves on a circle; otherwise it returns on the arc.
    """
    views = np.stack([np.stack([to_array(x) for x in images.image]) for images in latents])
    side = views.shape[2]
    side = side * (TILE // side) if side < TILE else TILE
    frames = [
        np.concatenate([np.asarray(_resized(picture, side)) for picture in of_angle], axis=1)
        for of_angle in views.swapaxes(0, 1)
    ]
    back = [] if full else frames[-2:0:-1]
    first, *others = [Image.fromarray(frame) for frame in (*frames, *back)]
    buffer = io.BytesIO()
    first.save(
        buffer, "webp", save_all=True, append_images=others, duration=FRAME_MS, loop=0, quality=85
    )
    caption = f"Latents 0 to {len(latents) - 1}, no truncation."
    return Plot(name, label, caption, light=buffer.getvalue(), suffix="webp")


def _once(load: LoadGenerator) -> LoadGenerator:
    """Load each run once."""
    generators: dict[Path, Any] = {}

    def loaded(run: RunRecord) -> Any:
        if run.path not in generators:
            generators[run.path] = load(run)
        return generators[run.path]

    return loaded


def _orbit(comparison: Comparison) -> Orbit | str:
    """Return the orbit of the data of the first finished run, or why there is none."""
    run = next((run for group in comparison.groups for run in group.finished), None)
    if run is None:
        return "no run is finished"
    try:
        cameras = run.config.get("cameras")
        if isinstance(cameras, dict) and cameras.get("kind") == "prior":
            config = Run(run.path).config()
            return prior_orbit(config.cameras, config.generator.scene.box)
        return read_orbit(run.data_path)
    except (DataError, OSError) as error:
        return f"no cameras: cannot read the data of {run.name}: {one_line(error)}"


def _num_frames(orbit: Orbit) -> int:
    """Views of an animation. The sheets show every second one: `NUM_VIEWS`, both ends included."""
    return 2 * NUM_VIEWS - (not orbit.full)


def _views(group: Group, orbit: Orbit, load: LoadGenerator) -> Views:
    if not group.finished:
        return "no run is finished"
    try:
        generator = load(group.finished[0])
        z = latents(range(NUM_LATENTS), generator.cfg.z_dim)
        label, cameras = orbit.cameras(1).to_label(), orbit.cameras(_num_frames(orbit))
        with torch.no_grad():
            return [generator.views(z[i : i + 1], label, cameras) for i in range(NUM_LATENTS)]
    except Exception as error:  # one faulty run must not stop the report of many
        return f"no images: {one_line(error)}"


def one_line(error: Exception) -> str:
    """Return an error as one line of a caption."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _turntables(comparison: Comparison, views: dict[str, Views], orbit: Orbit | str) -> list[Plot]:
    """Rows are groups, columns azimuths; colour-coded depth below."""
    if isinstance(orbit, str):
        return [Plot("turntable", "Turntable", why=orbit)]
    if all(isinstance(v, str) for v in views.values()):
        why = "; ".join(f"{label}: {reason}" for label, reason in views.items())
        return [Plot("turntable", "Turntable", why=why)]
    azimuths = [f"{float(a):.0f}°" for a in torch.rad2deg(orbit.angles(_num_frames(orbit)))[::2]]
    ink = group_inks(comparison)
    plots = []
    for i in range(NUM_LATENTS):
        images = {k: v if isinstance(v, str) else v[i] for k, v in views.items()}
        solid = [v for v in images.values() if isinstance(v, Images) and v.depth is not None]
        span = _depth_span(solid) if solid else (0.0, 1.0)
        rows, notes = [Row(captions=azimuths)], []
        for label, v in images.items():
            if isinstance(v, str):
                rows.append(Row(f"{label}: missing", ink[label]))
                notes.append(f"{label}: {v}.")
                continue
            rows.append(Row(label, ink[label], [to_array(x) for x in v.image[::2]]))
            if v.depth is None:
                notes.append(f"{label}: no depth, it renders no scene.")
            else:
                rows.append(Row(tiles=_depth_tiles(v, span)))
        caption = f"Latent {i} of each generator, no truncation."
        if solid:
            caption += (
                f" Below each row: depth from {span[0]:.2f} (bright) to {span[1]:.2f} (dark) world "
                "units; grey: opacity below 0.5."
            )
        plot = Plot(f"turntable_{i}", f"Turntable of latent {i}", " ".join([caption, *notes]))
        plots.append(sheet(plot, rows))
    return plots


def _depth_tiles(views: Images, span: tuple[float, float]) -> list[UInt8[np.ndarray, "h w 3"]]:
    assert views.depth is not None
    depths = views.depth[::2, 0].cpu().numpy()
    if views.opacity is None:
        return [depth_colours(d, None, span) for d in depths]
    opacities = views.opacity[::2, 0].cpu().numpy()
    return [depth_colours(d, o, span) for d, o in zip(depths, opacities, strict=True)]


class Row(NamedTuple):
    """One row of a sheet, each part optional."""

    label: str = ""
    """Line above the tiles."""
    ink: Ink | None = None
    """Colour of the label."""
    tiles: Sequence[UInt8[np.ndarray, "h w 3"]] = ()
    captions: Sequence[str] = ()
    """Below each tile."""


def _neighbours(table: dict[str, Any], generator: Any, data: ImageSet, labels: Tensor) -> list[Row]:
    """Return a row per sample: the sample, then its nearest training images."""
    if data.fingerprint != table["data"]:
        raise ValueError(f"the data is {data.fingerprint}, but was {table['data']} when measured")
    device = next((p.device for p in getattr(generator, "parameters", list)()), "cpu")
    items = torch.tensor(table["items"][:NUM_SAMPLES])
    source = GeneratorSource(generator, generator.cfg.z_dim, labels, SEED, device)
    samples = source.views(items, source.base(items)).image
    rows = []
    for item, image, indices, distances in zip(
        items.tolist(), samples, table["training_images"], table["distances"], strict=False
    ):
        nearest = [np.ascontiguousarray(x.permute(1, 2, 0)) for x in data.images(indices)]
        captions = [f"sample {item}", *(f"{d:.3g}" for d in distances)]
        rows.append(Row(tiles=[to_array(image), *nearest], captions=captions))
    return rows


def sheet(plot: Plot, rows: Sequence[Row]) -> Plot:
    """Draw rows of tiles below one another, for light and for dark pages."""
    side = max(picture.shape[0] for row in rows for picture in row.tiles)
    side = side * round(TILE / side) if side < TILE else TILE
    step, line = side + side // 12, TILE // 5
    tiles = [[_resized(picture, side) for picture in row.tiles] for row in rows]
    lines = sum(bool(row.label) + bool(row.captions) for row in rows)
    size = max(map(len, tiles)) * step, sum(map(bool, tiles)) * step + lines * line

    def draw(theme: Theme) -> bytes:
        canvas, y = Image.new("RGB", size, theme.page), 0
        pen = ImageDraw.Draw(canvas)
        for row, pictures in zip(rows, tiles, strict=True):
            if row.label:
                ink = theme.text if row.ink is None else row.ink.on(theme)
                pen.text((0, y + line // 2), row.label, ink, _font("DejaVuSans-Bold"), "lm")
                y += line
            for column, picture in enumerate(pictures):
                canvas.paste(picture, (column * step, y))
            y += step * bool(pictures)
            for column, text in enumerate(row.captions):
                place = column * step + side // 2, y + line // 2
                pen.text(place, text, theme.text, _font("DejaVuSans"), "mm")
            y += line * bool(row.captions)
        buffer = io.BytesIO()
        canvas.save(buffer, "png")
        return buffer.getvalue()

    return replace(plot, light=draw(LIGHT), dark=draw(DARK), suffix="png")


def _resized(picture: UInt8[np.ndarray, "h w 3"], side: int) -> Image.Image:
    enlarged = picture.shape[0] <= side
    method = Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX
    return Image.fromarray(picture).resize((side, side), method)


@cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", 20)


def _depth_span(views: Sequence[Images]) -> tuple[float, float]:
    """Range of the foreground's depths: quantiles 1 % and 99 %."""
    parts = []
    for images in views:
        if images.depth is None:
            continue
        depth = images.depth
        solid = depth > -1 if images.opacity is None else images.opacity >= FOREGROUND
        parts.append((depth[solid] if bool(solid.any()) else depth.flatten()).float().cpu().numpy())
    low, high = np.quantile(np.concatenate(parts), [0.01, 0.99])
    return float(low), float(max(high, low + 1e-6))
