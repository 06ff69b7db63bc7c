"""The same latents of every group under a turning camera, depth below: what no number replaces."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from lightning_gan3d.cameras import Orbit
from lightning_gan3d.checkpoints.load import load_generator
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.labels import read_orbit
from lightning_gan3d.images import Images
from lightning_gan3d.inference.generate import (
    CELL,
    depth_colours,
    depth_span,
    latents,
    render_views,
    to_array,
)
from lightning_gan3d.report.groups import Comparison, Group
from lightning_gan3d.report.plots.plot import Plot, drawn
from lightning_gan3d.report.plots.style import Theme, inks
from lightning_gan3d.report.records import RunRecord

NUM_LATENTS = 3
NUM_VIEWS = 8
LoadGenerator = Callable[[RunRecord], Any]
"""From a run to its averaged generator."""


@dataclass(frozen=True)
class Strip:
    """One latent of one group from all azimuths."""

    group: Group
    images: list[UInt8[np.ndarray, "h w 3"]]
    """One a view; empty where there are none."""
    depths: list[UInt8[np.ndarray, "h w 3"]]
    """Coloured depth, one a view; empty where there is none."""
    why: str = ""
    """Why images or depth are missing."""


def load_averaged(run: RunRecord) -> Any:
    """Load the averaged generator of a run."""
    return load_generator(run.path)


def turntables(comparison: Comparison, load: LoadGenerator = load_averaged) -> list[Plot]:
    """One picture a latent: rows are groups (their first finished seed), columns azimuths."""
    title = "The same latents under a turning camera"
    first = {g.label: next(iter(g.finished), None) for g in comparison.groups}
    runs = [run for run in first.values() if run is not None]
    if not runs:
        return [Plot("turntable", title, "", "no run is finished")]
    try:
        orbit = read_orbit(runs[0].data_path)
    except (DataError, OSError) as error:
        why = f"no cameras: the data of {runs[0].name} cannot be read: {one_line(error)}"
        return [Plot("turntable", title, "", why)]
    seen = {g.label: _views(first[g.label], orbit, load) for g in comparison.groups}
    if not any(isinstance(views, list) for views in seen.values()):
        why = "; ".join(f"{label}: {views}" for label, views in seen.items())
        return [Plot("turntable", title, "", why)]
    out = []
    for i in range(NUM_LATENTS):
        mine = {k: v[i] if isinstance(v, list) else v for k, v in seen.items()}
        solid = [v for v in mine.values() if isinstance(v, Images) and v.depth is not None]
        span = depth_span(solid) if solid else (0.0, 1.0)
        strips = [_strip(g, mine[g.label], span) for g in comparison.groups]
        caption = f"Latent {i} of each generator (its own space, the same numbers); no truncation."
        if solid:
            caption += (
                f" Depth below each row, bright at {span[0]:.2f} and dark at {span[1]:.2f} world "
                "units; grey where opacity is under one half."
            )
        caption += "".join(f" {s.group.label}: {s.why}." for s in strips if s.why)
        out.append(_draw(f"turntable_{i}", f"{title}: latent {i}", caption, strips, orbit))
    return out


def _views(run: RunRecord | None, orbit: Orbit, load: LoadGenerator) -> list[Images] | str:
    """Return the views of each latent, or why there are none."""
    if run is None:
        return "no run is finished"
    try:
        generator = load(run)
        z = latents(range(NUM_LATENTS), generator.cfg.z_dim)
        label, cameras = orbit.cameras(1).to_label(), orbit.cameras(NUM_VIEWS)
        return [render_views(generator, z[i : i + 1], label, cameras) for i in range(NUM_LATENTS)]
    except Exception as error:  # a report of many runs must not fall with one of them
        return f"no images: {one_line(error)}"


def one_line(error: Exception) -> str:
    """Say what went wrong in a caption."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _strip(group: Group, views: Images | str, span: tuple[float, float]) -> Strip:
    if isinstance(views, str):
        return Strip(group, [], [], views)
    images = [to_array(image) for image in views.image]
    if views.depth is None:
        return Strip(group, images, [], "no depth, for it renders no scene")
    opacities = [None] * len(images) if views.opacity is None else views.opacity[:, 0].cpu().numpy()
    depths = views.depth[:, 0].cpu().numpy()
    return Strip(
        group, images, [depth_colours(d, o, span) for d, o in zip(depths, opacities, strict=True)]
    )


def _draw(name: str, title: str, caption: str, strips: list[Strip], orbit: Orbit) -> Plot:
    degrees = [round(float(a)) for a in torch.rad2deg(orbit.angles(NUM_VIEWS))]
    palette = inks(s.group.representation for s in strips)
    rows = [(s, kind) for s in strips for kind in ("image", "depth") if kind == "image" or s.depths]
    side = max(picture.shape[0] for strip in strips for picture in strip.images)
    side *= max(1, -(-CELL // side))
    gap = side // 12
    wide, high = (n * (side + gap) - gap for n in (NUM_VIEWS, len(rows)))

    def draw(theme: Theme) -> Figure:
        # One mosaic on one pair of axes: dozens of small axes would take seconds to lay out.
        page = np.rint(255 * np.array(to_rgb(theme.page))).astype(np.uint8)
        mosaic = np.broadcast_to(page, (high, wide, 3)).copy()
        inch = 1.0 / side
        top, left = 0.28, 0.42
        fig = Figure(figsize=(left + wide * inch, top + high * inch))
        box = (
            left / fig.get_figwidth(),
            0,
            wide * inch / fig.get_figwidth(),
            high * inch / fig.get_figheight(),
        )
        ax = fig.add_axes(box)
        ax.set_axis_off()
        for j, (strip, kind) in enumerate(rows):
            y = j * (side + gap)
            for i, picture in enumerate(strip.images if kind == "image" else strip.depths):
                x = i * (side + gap)
                tile = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
                mosaic[y : y + side, x : x + side] = np.asarray(tile)
            if not strip.images:
                ax.text(
                    0, y + side / 2, f"missing: {strip.why}", fontsize=9, va="center", wrap=True
                )
            ax.text(
                -gap,
                y + side / 2,
                strip.group.label if kind == "image" else "depth",
                color=palette[strip.group.representation].on(theme),
                fontsize=10,
                fontweight="bold" if kind == "image" else "normal",
                rotation=90,
                ha="right",
                va="center",
            )
        for i, degree in enumerate(degrees):
            ax.text(i * (side + gap) + side / 2, -gap, f"{degree}°", ha="center", va="bottom")
        ax.imshow(mosaic, interpolation="none", extent=(0, wide, high, 0), aspect="auto")
        return fig

    return drawn(name, title, caption, draw, wide=True)
