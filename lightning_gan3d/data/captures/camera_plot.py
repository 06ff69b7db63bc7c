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

from lightning_gan3d.data.captures.framing import Framing
from lightning_gan3d.data.dataset import ImageDataset

_THUMBNAILS = 12
_MAX_FRUSTA = 300
_MAX_POINTS = 4000
_FRUSTUM = 0.16
"""Length of a drawn frustum, in median distances."""
_GRAY = "#8a9099"


class View(NamedTuple):
    """A direction of looking: the world's axes to the right and up in the panel, and its names."""

    right: int
    up: int
    flip: bool
    title: str


_VIEWS = (
    View(0, 2, True, "from above: the frontal camera is at the bottom"),
    View(2, 1, False, "from the side: the frontal camera is on the right"),
)
_NAMES = ("x (right)", "y (up)", "z (to the frontal camera)")


def draw_cameras(
    dataset: ImageDataset, framing: Framing, points: Float[np.ndarray, "p 3"], path: Path
) -> None:
    """Write the picture as PNG; numbers and colours lead from a frustum to its image."""
    labels = dataset.labels.double().numpy()
    poses, matrices = labels[:, :16].reshape(-1, 4, 4), labels[:, 16:].reshape(-1, 3, 3)
    length = _FRUSTUM * framing.radius
    frusta = frustum_corners(poses, matrices, length)
    shown = spread(poses[:, :3, 3], min(_THUMBNAILS, len(poses)))
    colours = _colours(len(shown))
    figure = Figure(figsize=(14, 9.3), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subfigures(2, 1, height_ratios=(5.6, 1))
    top, bottom = panels
    for axes, view in zip(top.subplots(1, 2), _VIEWS, strict=True):
        _draw_view(axes, view, frusta, framing, points, shown, colours)
    _draw_strip(bottom, dataset, shown, colours)
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


def frustum_corners(
    cam2world: Float[np.ndarray, "n 4 4"], intrinsics: Float[np.ndarray, "n 3 3"], length: float
) -> Float[np.ndarray, "n 5 3"]:
    """Return each camera's centre and the corners of its picture at camera z = `length`."""
    corners = np.array([[0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]], dtype=np.float64)
    dirs = np.einsum("nij,kj->nki", np.linalg.inv(intrinsics), corners) * length
    world = np.einsum("nij,nkj->nki", cam2world[:, :3, :3], dirs) + cam2world[:, None, :3, 3]
    return np.concatenate([cam2world[:, None, :3, 3], world], axis=1)


def spread(places: Float[np.ndarray, "n 3"], num: int) -> Int[np.ndarray, " k"]:
    """Pick cameras far from one another, each time the farthest from those picked, by azimuth.

    The first is the one nearest to the front.
    """
    picked = [int(np.argmax(places[:, 2]))]
    nearest = np.full(len(places), np.inf)
    while len(picked) < num:
        nearest = np.minimum(nearest, np.linalg.norm(places - places[picked[-1]], axis=1))
        picked.append(int(np.argmax(nearest)))
    azimuth = np.arctan2(places[picked, 0], places[picked, 2])
    return np.array(picked)[np.argsort(azimuth, kind="stable")]


def _draw_view(
    axes: Axes,
    view: View,
    frusta: Float[np.ndarray, "n 5 3"],
    framing: Framing,
    points: Float[np.ndarray, "p 3"],
    shown: Int[np.ndarray, " k"],
    colours: Float[np.ndarray, "k 3"],
) -> None:
    plane = [view.right, view.up]
    reach = 1.15 * float(np.abs(frusta).max())
    cloud = points[np.linspace(0, len(points) - 1, min(_MAX_POINTS, len(points))).astype(int)]
    cloud = cloud[np.abs(cloud).max(axis=1, initial=0.0) < reach][:, plane]
    axes.scatter(
        cloud[:, 0], cloud[:, 1], s=1.5, color="#4878a8", alpha=0.5, linewidths=0, zorder=1
    )
    half = framing.box / 2
    axes.add_patch(
        Rectangle((-half, -half), 2 * half, 2 * half, facecolor="#d62728", alpha=0.10, zorder=0)
    )
    axes.add_patch(
        Rectangle((-half, -half), 2 * half, 2 * half, fill=False, color="#d62728", lw=1.5)
    )
    axes.add_patch(
        Circle((0, 0), framing.radius, fill=False, color=_GRAY, lw=0.8, ls=":", zorder=0)
    )
    for axis in plane:
        x, y = (1.5 * half * (p == axis) for p in plane)
        axes.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "->", "color": "#202328"})
        axes.text(1.12 * x, 1.12 * y, _NAMES[axis][0], ha="center", va="center", fontweight="bold")
    rest = np.setdiff1d(np.arange(len(frusta)), shown)
    if len(rest) > _MAX_FRUSTA:
        rest = rest[np.linspace(0, len(rest) - 1, _MAX_FRUSTA).astype(int)]
    _draw_frusta(axes, frusta[rest][:, :, plane], np.full((len(rest), 3), 0.56), 0.6)
    _draw_frusta(axes, frusta[shown][:, :, plane], colours, 1.6)
    for number, i in enumerate(shown, 1):
        apex, middle = frusta[i, 0, plane], frusta[i, 1:][:, plane].mean(axis=0)
        away = (apex - middle) / max(float(np.linalg.norm(apex - middle)), 1e-9)
        # a camera that looks into the page has no way back in this plane: beside it is as good
        label = apex + away * 0.045 * reach
        axes.text(
            float(label[0]),
            float(label[1]),
            str(number),
            ha="center",
            va="center",
            fontsize=9,
            fontweight="bold",
            color=tuple(colours[number - 1]),
            zorder=5,
            clip_on=True,
        )
    axes.set(xlim=(-reach, reach), ylim=(reach, -reach) if view.flip else (-reach, reach))
    axes.set_aspect("equal")
    axes.set(xlabel=_NAMES[view.right], ylabel=_NAMES[view.up])
    axes.set_title(view.title, fontsize=10)
    axes.grid(alpha=0.25)


def _draw_frusta(
    axes: Axes, flat: Float[np.ndarray, "k 5 2"], colours: Float[np.ndarray, "k 3"], width: float
) -> None:
    """Draw frusta as the outlines of their shadows; the pictures in them have stronger lines."""
    shadows = [five[ConvexHull(five, qhull_options="QJ").vertices] for five in flat]
    pictures = [four[ConvexHull(four, qhull_options="QJ").vertices] for four in flat[:, 1:]]
    faces = np.concatenate([colours, np.full((len(colours), 1), 0.12)], axis=1)
    axes.add_collection(
        PolyCollection(shadows, facecolors=faces, edgecolors=colours, linewidths=width, zorder=3)
    )
    axes.add_collection(
        PolyCollection(
            pictures, facecolors="none", edgecolors=colours, linewidths=1.6 * width, zorder=3
        )
    )


def _draw_strip(
    figure: Any,
    dataset: ImageDataset,
    shown: Int[np.ndarray, " k"],
    colours: Float[np.ndarray, "k 3"],
) -> None:
    """Draw the images of the numbered cameras, in the order of their azimuths."""
    images = dataset.images(torch.from_numpy(shown)).permute(0, 2, 3, 1).numpy()
    panels = figure.subplots(1, _THUMBNAILS)
    for axes in panels:
        axes.set_axis_off()
    for number, (axes, image, colour) in enumerate(zip(panels, images, colours, strict=False), 1):
        axes.set_axis_on()
        axes.imshow(image)
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(color=colour, linewidth=3)
        axes.set_title(str(number), color=colour, fontweight="bold", fontsize=11)


def _colours(num: int) -> Float[np.ndarray, "k 3"]:
    """Return hues around the circle, darkened until each can be read on white."""
    hues = colormaps["hsv"](np.arange(num) / num)[:, :3]
    luminance = hues @ (0.2126, 0.7152, 0.0722)
    return np.asarray(hues * np.minimum(0.85, 0.45 / np.maximum(luminance, 1e-9))[:, None])
