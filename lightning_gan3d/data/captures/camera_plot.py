"""Draw the cameras of a data set as frusta, from above and from the side, with the proposed box."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from scipy.spatial import ConvexHull

from lightning_gan3d.cameras import Cameras, spherical
from lightning_gan3d.data.captures.framing import Framing
from lightning_gan3d.data.dataset import ImageDataset

_THUMBNAILS = 12
_MAX_FRUSTA = 300
_MAX_POINTS = 4000
_FRUSTUM = 0.16
"""Length of a drawn frustum, in median distances."""
_GRAY, _RED, _BLUE, _BLACK = "#8a9099", "#d62728", "#4878a8", "#202328"
_CENTRED: dict[str, Any] = {"ha": "center", "va": "center", "fontweight": "bold"}


class _Panel(NamedTuple):
    """A viewing direction: the axes that point right and up, and the panel's title."""

    right: int
    up: int
    flip: bool
    title: str


_PANELS = (
    _Panel(0, 2, True, "from above: the frontal camera is at the bottom"),
    _Panel(2, 1, False, "from the side: the frontal camera is on the right"),
)
_NAMES = ("x (right)", "y (up)", "z (to the frontal camera)")


class _Drawing(NamedTuple):
    """Contents of the panels: frusta, indices and colours of the numbered ones, points, the box."""

    frusta: Float[np.ndarray, "n 5 3"]
    numbered: Int[np.ndarray, " k"]
    colours: Float[np.ndarray, "k 3"]
    points: Float[np.ndarray, "p 3"]
    framing: Framing


def draw_cameras(
    dataset: ImageDataset, framing: Framing, points: Float[np.ndarray, "p 3"], path: Path
) -> None:
    """Write the picture as PNG; numbers and colours link frusta to images."""
    cameras = Cameras.from_label(dataset.labels.double())
    frusta = cameras.frusta(_FRUSTUM * framing.radius).numpy()
    numbered = select_distant(cameras, min(_THUMBNAILS, len(dataset)))
    drawing = _Drawing(frusta, numbered, _colours(len(numbered)), points, framing)
    figure = Figure(figsize=(14, 9.3), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subfigures(2, 1, height_ratios=(5.6, 1))
    top, bottom = panels
    for axes, panel in zip(top.subplots(1, 2), _PANELS, strict=True):
        _draw_panel(axes, panel, drawing)
    _draw_thumbnails(bottom, dataset, drawing)
    inside = ""
    if framing.points_inside is not None:
        inside = f", {framing.points_inside:.0%} of the points in it"
    figure.suptitle(
        f"{dataset.name}: {len(dataset):,} cameras at a median distance of {framing.radius:.3g}, "
        f"field of view {framing.fov:.1f} degrees\nproposed: box {framing.box:g} (red){inside}; "
        f"near {framing.near:g}, far {framing.far:g}",
        fontsize=12,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, format="png")


def select_distant(cameras: Cameras, num: int) -> Int[np.ndarray, " k"]:
    """Select cameras far from one another (farthest-point sampling), ordered by azimuth.

    The first one selected is nearest to the front.
    """
    origins = cameras.origins.numpy()
    selected = [int(np.argmax(origins[:, 2]))]
    nearest = np.full(len(origins), np.inf)
    while len(selected) < num:
        nearest = np.minimum(nearest, np.linalg.norm(origins - origins[selected[-1]], axis=1))
        selected.append(int(np.argmax(nearest)))
    azimuth = spherical(cameras.origins[selected]).azimuth.numpy()
    return np.array(selected)[np.argsort(azimuth, kind="stable")]


def _draw_panel(axes: Axes, panel: _Panel, drawing: _Drawing) -> None:
    plane = [panel.right, panel.up]
    frusta, numbered, colours, points, framing = drawing
    limit = 1.15 * float(np.abs(frusta).max())
    cloud = points[_evenly(len(points), _MAX_POINTS)]
    cloud = cloud[np.abs(cloud).max(axis=1, initial=0.0) < limit][:, plane]
    axes.scatter(cloud[:, 0], cloud[:, 1], s=1.5, color=_BLUE, alpha=0.5, linewidths=0, zorder=1)
    half = framing.box / 2
    box = ((-half, -half), 2 * half, 2 * half)
    axes.add_patch(Rectangle(*box, facecolor=_RED, alpha=0.10, zorder=0))
    axes.add_patch(Rectangle(*box, fill=False, color=_RED, lw=1.5))
    circle = Circle((0, 0), framing.radius, fill=False, color=_GRAY, lw=0.8, ls=":", zorder=0)
    axes.add_patch(circle)
    for axis in plane:
        x, y = (1.5 * half * (p == axis) for p in plane)
        axes.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "->", "color": _BLACK})
        axes.text(1.12 * x, 1.12 * y, _NAMES[axis][0], **_CENTRED)
    rest = np.setdiff1d(np.arange(len(frusta)), numbered)
    rest = rest[_evenly(len(rest), _MAX_FRUSTA)]
    _draw_frusta(axes, frusta[rest][:, :, plane], np.full((len(rest), 3), 0.56), 0.6)
    _draw_frusta(axes, frusta[numbered][:, :, plane], colours, 1.6)
    for number, (frustum, colour) in enumerate(zip(frusta[numbered], colours, strict=True), 1):
        apex, middle = frustum[0, plane], frustum[1:][:, plane].mean(axis=0)
        # behind the camera, or on top of one that looks into the page
        back = (apex - middle) / max(float(np.linalg.norm(apex - middle)), 1e-9)
        x, y = apex + back * 0.045 * limit
        style = {"fontsize": 9, "color": tuple(colour), "zorder": 5, "clip_on": True}
        axes.text(float(x), float(y), str(number), **{**_CENTRED, **style})
    axes.set(xlim=(-limit, limit), ylim=(limit, -limit) if panel.flip else (-limit, limit))
    axes.set_aspect("equal")
    axes.set(xlabel=_NAMES[panel.right], ylabel=_NAMES[panel.up])
    axes.set_title(panel.title, fontsize=10)
    axes.grid(alpha=0.25)


def _draw_frusta(
    axes: Axes, flat: Float[np.ndarray, "k 5 2"], colours: Float[np.ndarray, "k 3"], width: float
) -> None:
    """Draw the outlines of frusta, and of their images with stronger lines."""
    outlines = [five[ConvexHull(five, qhull_options="QJ").vertices] for five in flat]
    images = [four[ConvexHull(four, qhull_options="QJ").vertices] for four in flat[:, 1:]]
    faces = np.concatenate([colours, np.full((len(colours), 1), 0.12)], axis=1)
    for shapes, face, line in ((outlines, faces, width), (images, "none", 1.6 * width)):
        axes.add_collection(
            PolyCollection(shapes, facecolors=face, edgecolors=colours, linewidths=line, zorder=3)
        )


def _draw_thumbnails(figure: Any, dataset: ImageDataset, drawing: _Drawing) -> None:
    """Draw the images of the numbered cameras, ordered by azimuth."""
    images = dataset.images(torch.from_numpy(drawing.numbered)).permute(0, 2, 3, 1).numpy()
    panels = figure.subplots(1, _THUMBNAILS)
    for axes in panels:
        axes.set_axis_off()
    for number, (axes, image, colour) in enumerate(
        zip(panels, images, drawing.colours, strict=False), 1
    ):
        axes.set_axis_on()
        axes.imshow(image)
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(color=colour, linewidth=3)
        axes.set_title(str(number), color=colour, fontweight="bold", fontsize=11)


def _evenly(num: int, most: int) -> Int[np.ndarray, " k"]:
    return np.linspace(0, num - 1, min(most, num)).astype(int)


def _colours(num: int) -> Float[np.ndarray, "k 3"]:
    """Return hues around the circle, dark enough to be legible on white."""
    hues = colormaps["hsv"](np.arange(num) / num)[:, :3]
    luminance = hues @ (0.2126, 0.7152, 0.0722)
    return np.asarray(hues * np.minimum(0.85, 0.45 / np.maximum(luminance, 1e-9))[:, None])
