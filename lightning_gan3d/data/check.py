"""Validate a data set, summarise its cameras, and draw a contact sheet."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from lightning_gan3d.cameras import Cameras, spherical
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.datamodule import open_test
from lightning_gan3d.data.dataset import DataConfig, ImageDataset

_COLUMNS, _ROWS = 8, 6
_MAX_ARROWS = 400


@dataclass(frozen=True)
class DatasetSummary:
    """Summary of a data set: world units, degrees, focal lengths in image widths.

    NaN if the cameras are not read.
    """

    path: str
    fingerprint: str
    num_images: int
    resolution: int
    num_objects: int | None
    splits: dict[str, int]
    distance: tuple[float, float]
    azimuth: tuple[float, float]
    elevation: tuple[float, float]
    focal: tuple[float, float]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        """Lines for the user."""
        cameras = [
            _between("camera distance", self.distance, "world units from the origin"),
            _between("azimuth", self.azimuth, "degrees"),
            _between("elevation", self.elevation, "degrees"),
            _between("focal length", self.focal, "image widths"),
        ]
        lines = [
            f"{self.path}: {self.num_images:,} images of {self.resolution}x{self.resolution} "
            f"pixels, fingerprint {self.fingerprint}",
            f"objects: {'unknown' if self.num_objects is None else self.num_objects}",
            "splits: " + (", ".join(f"{k} {v:,}" for k, v in self.splits.items()) or "none"),
            *(["cameras: not read"] if math.isnan(self.distance[0]) else cameras),
        ]
        return "\n".join(lines + [f"warning: {w}" for w in self.warnings])


def check_dataset(cfg: DataConfig | str, sheet: Path | None = None) -> DatasetSummary:
    """Read every image and label; raises `DataError` at the first fault.

    `sheet`: PNG file of a contact sheet.
    """
    cfg = cfg if isinstance(cfg, DataConfig) else DataConfig(path=cfg)
    dataset = ImageDataset(cfg, "all", again=True)
    if not dataset.in_memory:
        for i in range(len(dataset)):
            dataset.images([i])
    warnings, undecoded = dataset.warnings(), replace(cfg, memory_mb=0)
    splits = dataset.annotations.splits if cfg.holdout == 0 else {}
    unset = [k for k in ("train_split", "test_split") if splits and getattr(cfg, k) not in splits]
    if unset:
        warnings.append(f"training needs data.{unset[0]}, one of {', '.join(splits)}")
    else:
        open_test(undecoded, dataset.of_split("train", undecoded))
    summary = _summary(dataset, Cameras.from_label(dataset.labels), warnings)
    if sheet is not None:
        if not dataset.has_cameras:
            raise ConfigError(f"--sheet draws cameras; remove it, or data.labels={cfg.labels}")
        draw_sheet(dataset, summary, sheet)
    return summary


def _summary(dataset: ImageDataset, cameras: Cameras, warnings: list[str]) -> DatasetSummary:
    azimuth, elevation, distance = spherical(cameras.origins)
    return DatasetSummary(
        path=str(dataset.source.path),
        fingerprint=dataset.fingerprint,
        num_images=len(dataset),
        resolution=dataset.resolution,
        num_objects=None if dataset.objects is None else len(set(dataset.objects.tolist())),
        splits={name: len(names) for name, names in dataset.annotations.splits.items()},
        distance=_range(distance),
        azimuth=_range(torch.rad2deg(azimuth)),
        elevation=_range(torch.rad2deg(elevation)),
        focal=_range(cameras.intrinsics[:, [0, 1], [0, 1]]),
        warnings=tuple(warnings),
    )


def draw_sheet(dataset: ImageDataset, summary: DatasetSummary, path: Path) -> None:
    """Draw evenly spaced images, and the cameras from above and from the side."""
    figure = Figure(figsize=(14, 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subfigures(1, 2, width_ratios=(1.35, 1))
    left, right = panels
    num = min(_COLUMNS * _ROWS, len(dataset))
    shown, arrows = (
        torch.linspace(0, len(dataset) - 1, n).round().long()
        for n in (num, min(_MAX_ARROWS, len(dataset)))
    )
    axes = left.subplots()
    axes.imshow(_grid(dataset.images(shown)))
    axes.set_axis_off()
    axes.set_title(f"{num} of {len(dataset):,} images, {dataset.resolution} pixels", fontsize=9)
    cameras = Cameras.from_label(dataset.labels[arrows])
    above, side = right.subplots(2, 1)
    to_front = "z (toward the frontal camera)"
    draw_camera_arrows(above, cameras, (0, 2), ("x (right)", to_front), "from above")
    above.invert_yaxis()
    draw_camera_arrows(side, cameras, (2, 1), (to_front, "y (up)"), "from the side")
    figure.suptitle(
        f"{Path(summary.path).name}: distance {summary.distance[0]:.2f} to "
        f"{summary.distance[1]:.2f}, "
        f"elevation {summary.elevation[0]:.0f} to {summary.elevation[1]:.0f} degrees, "
        f"focal {summary.focal[0]:.2f} to {summary.focal[1]:.2f} image widths",
        fontsize=10,
    )
    figure.savefig(path, dpi=90)


def draw_camera_arrows(
    axes: Axes, cameras: Cameras, plane: tuple[int, int], names: tuple[str, str], title: str
) -> None:
    """Draw arrows along the optical axes, projected to two of the world's axes."""
    origin = cameras.origins[:, list(plane)].numpy()
    length = 0.15 * float(cameras.origins.norm(dim=-1).mean())
    forward = length * cameras.forward[:, list(plane)].numpy()
    axes.quiver(
        *origin.T, *forward.T, angles="xy", scale_units="xy", scale=1, width=0.003, color="tab:blue"
    )
    axes.plot(0, 0, "+", color="black")
    axes.update_datalim(np.concatenate([origin, origin + forward]))
    axes.autoscale_view()
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.set_title(f"cameras {title}", fontsize=9)
    axes.grid(alpha=0.3)


def _grid(images: UInt8[Tensor, "k 3 h w"]) -> UInt8[np.ndarray, "y x 3"]:
    short = -len(images) % _COLUMNS
    padded = torch.cat([images, torch.full((short, *images.shape[1:]), 255, dtype=torch.uint8)])
    return np.asarray(rearrange(padded, "(r q) c h w -> (r h) (q w) c", q=_COLUMNS).numpy())


def _range(values: Tensor) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _between(name: str, bounds: tuple[float, float], unit: str) -> str:
    return f"{name}: {bounds[0]:.3g} to {bounds[1]:.3g} {unit}"
