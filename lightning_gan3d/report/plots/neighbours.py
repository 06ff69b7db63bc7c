"""Samples beside the training images nearest to them: what the memorisation rows look like."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from lightning_gan3d.data.dataset import ImageDataset
from lightning_gan3d.inference.generate import CELL, to_array
from lightning_gan3d.metrics.config import SEED
from lightning_gan3d.metrics.distribution.memorisation import NEIGHBOURS
from lightning_gan3d.metrics.sources import GeneratorSource, ImageSet
from lightning_gan3d.report.groups import Comparison
from lightning_gan3d.report.plots.plot import Plot, drawn
from lightning_gan3d.report.plots.style import Theme
from lightning_gan3d.report.plots.view_sheet import LoadGenerator, load_averaged, one_line
from lightning_gan3d.report.records import RunRecord
from lightning_gan3d.runs import Run

NUM_SAMPLES = 4
TITLE = "Samples nearest to training images"
LoadData = Callable[[RunRecord], ImageSet]
"""From a run to the training images that its samples were compared with."""


class Row(NamedTuple):
    """A sample, then its nearest training images."""

    pictures: list[UInt8[np.ndarray, "h w 3"]]
    words: list[str]
    """Below each: the sample's number, then the distances."""


def load_training_images(run: RunRecord) -> ImageSet:
    """Open the training images of a run."""
    return ImageDataset(Run(run.path).config().data, "train")


def neighbours(
    comparison: Comparison,
    load: LoadGenerator = load_averaged,
    load_data: LoadData = load_training_images,
) -> list[Plot]:
    """One picture a group whose first finished run has `neighbours.json`; or why there is none."""
    out = []
    for number, group in enumerate(comparison.groups):
        run = next((r for r in group.finished if (r.path / NEIGHBOURS).is_file()), None)
        if run is None:
            continue  # memorisation was not measured, and its rows say why
        name, title = f"neighbours_{number}", f"{TITLE}: {group.label}"
        try:
            table = json.loads((run.path / NEIGHBOURS).read_text(encoding="utf-8"))
            rows = _rows(table, load(run), load_data(run))
        except Exception as error:  # a report of many runs must not fall with one of them
            out.append(Plot(name, title, "", f"no images: {one_line(error)}"))
            continue
        caption = (
            f"The {len(rows)} of its samples that are nearest to training images (left), and the "
            "nearest training images with their RMS distance. Copies would be equal in all but "
            f"detail; alike and plain images are near to one another too. {table['protocol']}."
        )
        out.append(_draw(name, title, caption, rows))
    return out


def _rows(table: dict[str, Any], generator: Any, data: ImageSet) -> list[Row]:
    if data.fingerprint != table["data"]:
        raise ValueError(f"the data are {data.fingerprint} now, {table['data']} when measured")
    device = next((p.device for p in getattr(generator, "parameters", list)()), "cpu")
    items = torch.tensor(table["items"][:NUM_SAMPLES])
    labels = torch.as_tensor(data.labels)
    source = GeneratorSource(generator, generator.cfg.z_dim, labels, SEED, device)
    samples = source.views(items, source.base(items)).image
    rows = []
    for item, image, places, distances in zip(
        items.tolist(), samples, table["training_images"], table["distances"], strict=False
    ):
        found = [np.ascontiguousarray(x.permute(1, 2, 0)) for x in data.images(places)]
        words = [f"sample {item}", *(f"{d:.3g}" for d in distances)]
        rows.append(Row([to_array(image), *found], words))
    return rows


def _draw(name: str, title: str, caption: str, rows: list[Row]) -> Plot:
    side = rows[0].pictures[0].shape[0]
    side *= max(1, -(-CELL // side))
    gap, below = side // 12, side // 5
    wide = max(len(row.pictures) for row in rows) * (side + gap) - gap
    high = len(rows) * (side + below)

    def draw(theme: Theme) -> Figure:
        page = np.rint(255 * np.array(to_rgb(theme.page))).astype(np.uint8)
        mosaic = np.broadcast_to(page, (high, wide, 3)).copy()
        fig = Figure(figsize=(wide / side, high / side))
        ax = fig.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        for j, row in enumerate(rows):
            y = j * (side + below)
            for i, (picture, words) in enumerate(zip(row.pictures, row.words, strict=True)):
                x = i * (side + gap)
                tile = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
                mosaic[y : y + side, x : x + side] = np.asarray(tile)
                at = (x + side / 2, y + side + below / 2)
                ax.text(*at, words, ha="center", va="center", fontsize=8)
        ax.imshow(mosaic, interpolation="none", extent=(0, wide, high, 0), aspect="auto")
        return fig

    return drawn(name, title, caption, draw, wide=True)
