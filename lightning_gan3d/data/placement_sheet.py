"""Boxes drawn from the placement prior of a scene of parts over real images; ranges for it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import ndimage
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.archive import DataError, open_source
from lightning_gan3d.data.camera_prior import FakeLabels
from lightning_gan3d.data.camera_sheet import SIDE, cameras_of, edges_of, show_images
from lightning_gan3d.data.dataset import ImageDataset
from lightning_gan3d.data.image_files import ImageIndex, decode
from lightning_gan3d.draws import Draws
from representations.composition import PLACEMENT, PlacementConfig, uniform
from representations.parts import box_corners

_MOST_IMAGES, _MOST_BOXES = 500, 4096
_SPECK = 0.1
"""Components below this share of the largest one are no objects."""
_OPAQUE, _NAN = 127, torch.nan


class ObjectSample(NamedTuple):
    """k images of a data set, their cameras, and n objects in them; NaN where unknown."""

    indices: Int[Tensor, " k"]
    cameras: Cameras
    source: str
    """What the objects are read from."""
    owner: Int[Tensor, " n"]
    """Position of each object's image in `indices`."""
    boxes: Float[Tensor, "n 4"]
    """Left, top, right, bottom in units of the image size."""
    numbers: Float[Tensor, "n 5"]
    """In the order of `PLACEMENT`."""


def sample_objects(
    images: ImageDataset, fakes: FakeLabels, num_objects: int, masks: Path | None = None
) -> ObjectSample:
    """Read the objects of up to 500 random images, at most `num_objects` per mask.

    From `masks`, a folder or zip of masks named as the images; else from `placements` of
    `dataset.json`; else from the alpha channel.
    """
    draws = Draws(0).scope("placements")
    indices = draws.permutation("images", len(images))[:_MOST_IMAGES]
    cameras = cameras_of(images, fakes, indices, draws)
    listed = images.annotations.placements is not None and not masks
    archive = open_source(masks) if masks else images.source
    index = ImageIndex(archive.names)
    source = f"masks in {masks}" if masks else "placements" if listed else "alpha channel"
    rows = []
    for i in indices.tolist():
        name = images.names[i % len(images.names)]
        if listed:
            objects = images.placements(i)
        elif masks:
            files = index.find([name, Path(name).name])
            if len(files) != 1:
                raise DataError(f"{masks} has {len(files)} masks of {name}: name each as its image")
            mask = decode(archive.read(files[0]), files[0], convert="black")[..., 0] > _OPAQUE
            step = 1 if i < len(images.names) else -1  # mirrored
            objects = mask_boxes(mask[:, ::step], num_objects)
        else:
            matte = images.mattes(torch.tensor([i]))[0, 0].numpy() > _OPAQUE
            objects = mask_boxes(matte & ~matte.all(), num_objects)
        rows.append(objects)
    known = torch.cat(rows)
    owner = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(row) for row in rows]))
    return ObjectSample(indices, cameras, source, owner, known[:, :4], known[:, 4:])


def mask_boxes(mask: Bool[np.ndarray, "h w"], most: int) -> Float[Tensor, "n 9"]:
    """Tight boxes of up to `most` objects: the largest connected components, without specks.

    If `most` is 1, all components are one object; else objects that touch are one. Left, top,
    right, bottom in units of the image size; the rest is NaN.
    """
    pieces, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    sizes[sizes < _SPECK * sizes.max()] = 0
    if most == 1:
        pieces, sizes = (sizes > 0)[pieces].astype(int), np.array([0, sizes.sum()])
    largest = [i for i in np.argsort(-sizes)[:most] if sizes[i]]
    spans, (h, w) = ndimage.find_objects(pieces), mask.shape
    boxes = [
        (x.start / w, y.start / h, x.stop / w, y.stop / h)
        for y, x in (spans[i - 1] for i in largest)
    ]
    return torch.tensor([[*box, *[_NAN] * 5] for box in boxes]).view(-1, 9)


def fit_spheres(
    boxes: Float[Tensor, "n 4"], cameras: Cameras, depth_z: Float[Tensor, "n 1"]
) -> Float[Tensor, "n 4"]:
    """Radius and centre of the spheres at camera z `depth_z` that cameras see in these boxes.

    In a plane through the camera's centre, a sphere is seen between two tangents, its centre in
    the middle of their angles. A box that is not square gets a sphere as long as its longer side.
    """
    ends = torch.cat([boxes.view(-1, 2, 2), torch.ones(len(boxes), 2, 1)], -1)
    angles = (ends @ torch.linalg.inv(cameras.intrinsics).mT)[..., :2].atan()
    middle = angles.mean(1).tan() * depth_z
    radius = (angles.diff(dim=1)[:, 0] / 2).sin() * torch.hypot(middle, depth_z)
    local = torch.cat([middle, depth_z], 1)[..., None]
    centre = (cameras.cam2world[:, :3, :3] @ local)[..., 0] + cameras.origins
    return torch.cat([radius.amax(1, keepdim=True), centre], 1)


def propose(sample: ObjectSample, placement: PlacementConfig) -> tuple[PlacementConfig, str]:
    """Return the 1st to 99th percentile of placements, or of spheres fitted to boxes; and YAML.

    `placement`: the configured one; its middle is the distance of the spheres. DataError if there
    are no objects.
    """
    numbers = sample.numbers[~sample.numbers.isnan().any(1)]
    names: Sequence[str] = PLACEMENT
    notes, of = [], f"{len(sample.indices)} images ({sample.source})"
    if not len(numbers):
        names, boxes = ("scale", "x", "y", "z"), sample.boxes
        cameras = sample.cameras.select(sample.owner)
        depth_z = cameras.project(placement.ranges.mean(1)[2:].expand(len(boxes), 1, 3))[1]
        whole = (boxes[:, :2] > 0).all(1) & (boxes[:, 2:] < 1).all(1) & (depth_z[:, 0] > 0)
        if not whole.any():
            raise DataError(
                f"--propose: {len(boxes)} objects in {of}, none of them within the border: use "
                "--masks FOLDER, images with an alpha channel, or `placements` in dataset.json; or "
                "choose ranges by the sheet"
            )
        numbers = fit_spheres(boxes[whole], cameras.select(whole), depth_z[whole])
        notes = [
            f"Objects that touch the border of their image, left out: {int((~whole).sum())}.",
            "Assumed: an object is seen as large as the sphere in its box, at the distance of the",
            "middle of the configured ranges. Near objects are overestimated; narrow views lower",
            "the smallest scale. z varies with the cameras' directions only.",
            "rotation stays as configured: boxes do not determine the rotation.",
        ]
    ends = torch.quantile(numbers.double(), torch.tensor([0.01, 0.99]).double(), dim=0).T.tolist()
    ranges: dict[str, Any] = {  # adding 0 removes the sign of zero
        name: tuple(float(f"{v:.2g}") if name == "scale" else round(v, 2) + 0.0 for v in pair)
        for name, pair in zip(names, ends, strict=True)
    }
    notes.insert(0, f"From {len(numbers)} objects of {of}, 1st to 99th percentile.")
    lines = [*(f"# {note}" for note in notes), "generator:", "  representation:", "    placement:"]
    lines += [f"      {name}: {[*pair]}" for name, pair in ranges.items()]
    return replace(placement, **ranges), "\n".join(lines)


def draw_edges(placement: PlacementConfig, cameras: Cameras) -> Float[Tensor, "v 12 2 2"]:
    """Edges of a random object per camera in its image, see `edges_of`; equal in each call."""
    latent = Draws(0).scope("placement sheet").normal("objects", (len(cameras.cam2world), 5))
    numbers = uniform(latent, placement.ranges)
    return edges_of(cameras, box_corners(numbers[:, 0], numbers[:, 1], numbers[:, 2:]))


def summarise(edges: Float[Tensor, "v 12 2 2"], resolution: int) -> str:
    """Return the shares of boxes inside the image, and their sides in pixels."""
    low, high = edges.flatten(1, 2).amin(1), edges.flatten(1, 2).amax(1)  # NaN behind the camera
    inside = ((low >= 0) & (high <= 1)).all(1).float().mean()
    meets = ((low < 1) & (high > 0)).all(1).float().mean()
    sizes = (high - low).nanquantile(torch.tensor([0.01, 0.99]), dim=0) * resolution
    (w0, h0), (w1, h1) = sizes.tolist()
    return (
        f"boxes {inside:.0%} inside, {meets - inside:.0%} partly, {1 - meets:.0%} outside; "
        f"{w0:.0f} to {w1:.0f} wide and {h0:.0f} to {h1:.0f} high, of {resolution} pixels"
    )


def draw_placement_sheet(
    images: ImageDataset,
    sample: ObjectSample,
    priors: Mapping[str, PlacementConfig],
    num_objects: int,
    out: Path,
) -> list[str]:
    """Draw scenes of `num_objects` boxes from each prior over the same images, and known boxes.

    Returns a line for each prior, see `summarise`.
    """
    figure = Figure(figsize=(8 * len(priors), 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(1, len(priors), squeeze=False)[0]
    shown = torch.arange(SIDE**2) % len(sample.indices)
    cameras = sample.cameras.select(shown.repeat_interleave(num_objects))
    many = sample.cameras.select(torch.arange(_MOST_BOXES) % len(sample.indices))
    lines = []
    for part, (name, placement) in zip(parts, priors.items(), strict=True):
        edges = draw_edges(placement, cameras)
        edges = rearrange(edges, "(v k) e p c -> v (k e) p c", k=num_objects)
        grid = show_images(part, images, sample.indices[shown])
        for i, axes, drawn in zip(shown.tolist(), grid, edges, strict=True):
            axes.add_collection(
                LineCollection(list(drawn.numpy()), colors="tab:red", linewidths=0.9)
            )
            for x0, y0, x1, y1 in sample.boxes[sample.owner == i].tolist():
                axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, ec="tab:cyan", fill=False))
        lines.append(f"{name}: {summarise(draw_edges(placement, many), images.resolution)}")
        part.suptitle(lines[-1], fontsize=9)
    of = f"; cyan: boxes of the data ({sample.source})" if len(sample.boxes) else ""
    figure.suptitle(f"{images.name}; red: boxes of objects drawn from the prior{of}")
    figure.savefig(out, dpi=90)
    return lines
