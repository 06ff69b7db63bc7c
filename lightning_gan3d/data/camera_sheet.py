"""The cameras of generated images as a picture: arrows, and the scene's box over real images."""

from itertools import combinations, product
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from lightning_gan3d.cameras import LABEL_DIM, Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.camera_prior import FakeLabels
from lightning_gan3d.data.check import draw_camera_arrows
from lightning_gan3d.data.dataset import ImageDataset
from lightning_gan3d.draws import Draws

SIDE = 4
"""Rows and columns of images."""
_ARROWS = 200


def draw_camera_sheet(images: ImageDataset, fakes: FakeLabels, box: float, out: Path) -> None:
    """Draw the box over random images as cameras see it, and the cameras from two sides.

    Cameras are drawn from a prior, or are those of the images. `box`: edge in world units.
    Raises ConfigError if there are no cameras.
    """
    draws = Draws(0).scope("camera sheet")
    shown = draws.integers("images", len(images), (SIDE**2,))
    edges = box_edges(cameras_of(images, fakes, shown, draws), box)
    figure = Figure(figsize=(13, 8), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(1, 2, width_ratios=(1.6, 1))
    for axes, lines in zip(show_images(parts[0], images, shown), edges, strict=True):
        axes.add_collection(LineCollection(list(lines.numpy()), colors="tab:red", linewidths=0.8))
    some = draws.integers("arrows", len(fakes.labels), (_ARROWS,))
    arrows = Cameras.from_label(fakes.labels[some])
    above, side = parts[1].subplots(2, 1)
    front = "z (toward the frontal camera)"
    draw_camera_arrows(above, arrows, (0, 2), ("x (right)", front), "from above")
    draw_camera_arrows(side, arrows, (2, 1), (front, "y (up)"), "from the side")
    above.invert_yaxis()
    for axes in (above, side):
        _draw_square(axes, box)
    figure.suptitle(f"{images.name}: {fakes.source}; red: the box of the scene, edge {box:g}")
    figure.savefig(out, dpi=90)


def cameras_of(
    images: ImageDataset, fakes: FakeLabels, indices: Int[Tensor, " k"], draws: Draws
) -> Cameras:
    """Cameras of images by index; those of a prior are drawn.

    Raises ConfigError if there are no cameras.
    """
    if bool(fakes.labels[:, :LABEL_DIM].isnan().any()):
        raise ConfigError(
            f"{images.name} is used without cameras (data.labels={images.cfg.labels}): set "
            "cameras.kind=prior, or data.labels=camera"
        )
    own = fakes.labels is images.labels
    rows = indices if own else draws.integers("cameras", len(fakes.labels), (len(indices),))
    return Cameras.from_label(fakes.labels[rows])


def show_images(part: Any, images: ImageDataset, indices: Int[Tensor, " k"]) -> list[Axes]:
    """Show `SIDE`^2 images in a subfigure; the axes are those of `Cameras.project`."""
    grid = list(part.subplots(SIDE, SIDE).flat)
    pixels = images.images(indices).permute(0, 2, 3, 1).numpy()
    for axes, image in zip(grid, pixels, strict=True):
        axes.imshow(image, extent=(0, 1, 1, 0))
        axes.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[])
    return grid


def box_edges(cameras: Cameras, box: float) -> Float[Tensor, "v 12 2 2"]:
    """Edges of the scene's box in images, see `edges_of`. `box`: edge in world units."""
    corners = torch.tensor([*product((-box / 2, box / 2), repeat=3)])
    return edges_of(cameras, corners.expand(len(cameras.cam2world), -1, -1))


def edges_of(cameras: Cameras, corners: Float[Tensor, "v 8 3"]) -> Float[Tensor, "v 12 2 2"]:
    """Image coordinates of the ends of boxes' edges; NaN behind the camera.

    `corners`: in the order of `itertools.product`, x first.
    """
    pairs = [p for p in combinations(range(8), 2) if (p[0] ^ p[1]).bit_count() == 1]
    uv, depth_z = cameras.project(corners)
    uv = torch.where(depth_z[..., None] > 0, uv, torch.nan)
    return uv[:, torch.tensor(pairs)]


def _draw_square(axes: Axes, box: float) -> None:
    half = box / 2
    axes.plot([-half, half, half, -half, -half], [-half, -half, half, half, -half], color="tab:red")
