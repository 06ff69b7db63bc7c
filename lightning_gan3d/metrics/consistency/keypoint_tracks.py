"""View consistency without depth: SIFT keypoints, followed from view to view and triangulated."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int64
from skimage.feature import SIFT, match_descriptors
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import FeaturesConfig
from lightning_gan3d.metrics.consistency.camera_choice import arcs_of
from lightning_gan3d.metrics.consistency.reference import known_views, reduced, stored_views
from lightning_gan3d.metrics.consistency.spectrum import match
from lightning_gan3d.metrics.context import NOT_FINITE, EvaluationContext
from lightning_gan3d.metrics.stored_images import StoredImages

FEWEST = 4
"""Mean number of keypoints of a view below which there is no score. Strong blur leaves a few large
blobs, which are easy to follow."""
FEWEST_INLIERS = 20
"""Keypoints in inlier tracks of known objects below which there is no score."""
RATIO = 0.8
"""Largest ratio of the distances to the best and the second best match (Lowe 2004)."""
KINDS = {
    "score": ("share", "inliers, on a scale from 0 (`shuffled`) to 1 (`known`)"),
    "inliers": ("share", "share of the keypoints that follow a point of a rigid object through "
                "three or more views"),
    "known": ("share", "inliers of known objects from the same cameras, of the "
                "same sharpness and contrast"),
    "shuffled": ("share", "the same with another known object in each view"),
    "track": ("", "mean number of views through which an inlier is followed"),
    "track_known": ("", "the same of known objects"),
    "keypoints": ("", "keypoints of a view"),
}  # fmt: skip
"""Unit and definition of each metric, by the last part of its name."""


class Keypoints(NamedTuple):
    """SIFT keypoints of a view."""

    uv: Float[Tensor, "n 2"]
    """Image coordinates from 0 to 1."""
    descriptors: np.ndarray


class Tracks(NamedTuple):
    """Keypoints followed through consecutive views of an arc."""

    length: Int64[Tensor, " n"]
    """Views of each inlier track: 3 or more."""
    keypoints: int
    """Keypoints of all views."""

    @property
    def inliers(self) -> float:
        """Share of the keypoints that belong to inlier tracks."""
        return int(self.length.sum()) / max(self.keypoints, 1)


def measure_features(context: EvaluationContext) -> list[Metric]:
    """Measure how many keypoints of generated views move as the points of a rigid object do.

    A keypoint that hardly moves may belong to a picture that turns with the camera, so it does not
    count. Hence `inliers` of known objects is far from 1.
    """
    cfg = context.cfg.features
    if cfg is None:
        return []
    cameras = _choose_cameras(context, cfg)
    if isinstance(cameras, str):
        return _missing(cameras)
    image = _own_views(context, cameras, cfg)
    if not bool(image.isfinite().all()):
        return _missing(NOT_FINITE)
    views = [_by_view(image, cfg)]
    for objects in _known_objects(cfg):
        of_objects = known_views(context, objects, cameras, views[0].shape[-1])
        if isinstance(of_objects, str):
            return _missing(of_objects)
        views.append(match(_by_view(of_objects.image, cfg), views[0]))
    return _metrics([follow(x, cameras, cfg) for x in views], cfg)


def _own_views(
    context: EvaluationContext, cameras: Cameras, cfg: FeaturesConfig
) -> Float[Tensor, "bk 3 _ _"]:
    """Render or read the views of the first items, in [-1, 1]."""
    source, items = context.source, torch.arange(cfg.items)
    if isinstance(source, StoredImages):
        image = stored_views(source, items, cameras)
        assert not isinstance(image, str), "the cameras are the source's own"
        return image
    parts = []
    for batch in torch.split(items, max(1, context.cfg.batch // cfg.views)):
        of_batch = cameras.select(slice(cfg.views * batch[0], cfg.views * (batch[-1] + 1)))
        parts.append(source.views(batch, of_batch).image.float().cpu())
    return torch.cat(parts)


def _known_objects(cfg: FeaturesConfig) -> tuple[Int64[Tensor, " b"], Int64[Tensor, " bk"]]:
    """Return one known object per item, and another one for each of its views (`shuffled`)."""
    # Not the first objects: those are evaluated themselves, for the variant `truth`.
    known = torch.arange(cfg.items) + cfg.items
    return known, (known[:, None] + torch.arange(cfg.views)).flatten()


def _choose_cameras(context: EvaluationContext, cfg: FeaturesConfig) -> Cameras | str:
    """Return the cameras of each item: of stored views if there are any, else the item's own arc.

    Consecutive cameras are `cfg.angle` apart; for stored views approximately.
    """
    if why := context.without_cameras:
        return why
    for images in (context.source, context.multiview):
        if isinstance(images, StoredImages):
            orbits = images.orbits(cfg.views)
            arcs = orbits if isinstance(orbits, str) else arcs_of(orbits.cameras, cfg)
            if not isinstance(arcs, str) or images is context.source:
                return arcs
    azimuth = (torch.arange(cfg.views) - (cfg.views - 1) / 2) * cfg.angle
    return context.source.base(torch.arange(cfg.items)).to("cpu").rotate_y(azimuth)


def follow(views: Float[Tensor, "k b 3 _ _"], cameras: Cameras, cfg: FeaturesConfig) -> Tracks:
    """Follow the keypoints of b items through k views in [0, 1], and keep inlier tracks.

    Tracks are the longest parts of chains of matches that belong to one rigid point.
    """
    num_views, num_items = views.shape[:2]
    keypoints = [[detect(image) for image in of_view] for of_view in views]
    chains = [
        _chains([keypoints[j][i].descriptors for j in range(num_views)]) for i in range(num_items)
    ]
    item = torch.tensor([i for i, rows in enumerate(chains) for _ in rows], dtype=torch.long)
    index = torch.tensor([row for rows in chains for row in rows]).view(-1, num_views)
    uv = torch.full((*index.shape, 2), torch.nan)
    for n, (i, row) in enumerate(zip(item.tolist(), index.tolist(), strict=True)):
        for j, k in enumerate(row):
            if k >= 0:
                uv[n, j] = keypoints[j][i].uv[k]
    lengths = []
    free = index >= 0
    for length in range(num_views, 2, -1):
        for start in range(num_views - length + 1):
            part = slice(start, start + length)
            rows = free[:, part].all(dim=1).nonzero()[:, 0]
            view = num_views * item[rows, None] + torch.arange(start, start + length)
            inlier = rows[is_rigid(uv[rows, part], cameras, view, cfg.tolerance)]
            free[inlier, part] = False
            lengths += [length] * len(inlier)
    total = sum(len(x.uv) for of_view in keypoints for x in of_view)
    return Tracks(torch.tensor(lengths, dtype=torch.long), total)


def detect(image: Float[Tensor, "3 n n"]) -> Keypoints:
    """Detect keypoints in an image in [0, 1], enlarged to twice its size as by Lowe (2004)."""
    pixels = 2 * image.shape[-1]
    # Not SIFT's own upsampling: in scikit-image 0.26 it displaces keypoints by a quarter pixel.
    enlarged = interpolate(image[None], (pixels, pixels), mode="bilinear", align_corners=False)
    sift = SIFT(upsampling=1)
    try:
        with np.errstate(divide="ignore", invalid="ignore"):
            sift.detect_and_extract(enlarged[0].mean(dim=0).numpy())
    except RuntimeError:  # no keypoints
        return Keypoints(torch.zeros(0, 2), np.zeros((0, 128), np.uint8))
    assert sift.positions is not None, "set by detect_and_extract"
    assert sift.descriptors is not None, "set by detect_and_extract"
    xy = np.ascontiguousarray(sift.positions[:, ::-1], dtype=np.float32)
    return Keypoints((torch.from_numpy(xy) + 0.5) / pixels, sift.descriptors)


def _chains(descriptors: Sequence[np.ndarray]) -> list[list[int]]:
    """Link mutual matches of consecutive views.

    Each chain has the index of its keypoint in each view, -1 where it has none.
    """
    chains: list[list[int]] = []
    open_chains: dict[int, list[int]] = {}
    for j in range(len(descriptors) - 1):
        first, second = descriptors[j : j + 2]
        matches = np.zeros((0, 2), int)
        if len(first) and len(second):
            matches = match_descriptors(first, second, max_ratio=RATIO, cross_check=True)
        continued = {}
        for a, b in matches.tolist():
            chain = open_chains.get(a)
            if chain is None:
                chain = [-1] * len(descriptors)
                chain[j] = a
                chains.append(chain)
            chain[j + 1] = b
            continued[b] = chain
        open_chains = continued
    return chains


def is_rigid(
    uv: Float[Tensor, "n m 2"], cameras: Cameras, view: Int64[Tensor, "n m"], tolerance: float
) -> Bool[Tensor, " n"]:
    """Whether keypoints in m views are one point in space, and not one on the screen.

    Triangulates the point with the least squared distance to the keypoints' rays. It must be in
    front of the cameras. The RMS distance of the keypoints from its projections must be at most
    `tolerance` (a share of the image), and at most half of that from their mean position.
    """
    n, m = view.shape
    of_keypoints = cameras.select(view.flatten())
    at = torch.cat([uv.flatten(0, 1), torch.ones(n * m, 1)], dim=-1)[..., None]
    dirs = of_keypoints.cam2world[:, :3, :3] @ torch.linalg.solve(of_keypoints.intrinsics, at)
    dirs = normalize(dirs, dim=1)
    across = torch.eye(3) - dirs @ dirs.mT  # projects onto the plane across a ray
    normal = rearrange(across, "(n m) i j -> n m i j", m=m).sum(dim=1)
    offset = rearrange(across @ of_keypoints.origins[..., None], "(n m) i 1 -> n m i 1", m=m)
    points = torch.linalg.lstsq(normal, offset.sum(dim=1)).solution
    projected, z = of_keypoints.project(repeat(points, "n i 1 -> (n m) 1 i", m=m))
    error = _rms(rearrange(projected, "(n m) 1 i -> n m i", m=m) - uv)
    fixed = _rms(uv - uv.mean(dim=1, keepdim=True))
    in_front = rearrange(z > 0, "(n m) 1 -> n m", m=m).all(dim=1)
    return in_front & (error <= tolerance) & (2 * error <= fixed)


def _rms(x: Float[Tensor, "n m 2"]) -> Float[Tensor, " n"]:
    return x.square().sum(dim=-1).mean(dim=-1).sqrt()


def _metrics(tracks: Sequence[Tracks], cfg: FeaturesConfig) -> list[Metric]:
    """Return the metrics; `tracks`: of generated views, known objects and shuffled objects."""
    own, known, shuffled = tracks
    protocol = (
        f"{cfg.items} items, {cfg.views} views {cfg.angle:g} rad apart around the world's y axis, "
        f"of at most {cfg.pixels} pixels; SIFT (Lowe 2004), mutual matches of neighbouring views, "
        f"ratio below {RATIO:g}; inliers: RMS distance from the projections of one point at most "
        f"{cfg.tolerance:g} of the image, and half of that from one position on the screen"
    )
    if own.keypoints == 0:
        return _missing(f"no keypoints: the images have no detail ({protocol})")
    chance, of_view = shuffled.inliers, own.keypoints / (cfg.items * cfg.views)
    values = {
        "inliers": own.inliers,
        "known": known.inliers,
        "shuffled": chance,
        "keypoints": of_view,
    }
    why = {}
    if of_view < FEWEST:
        why["score"] = f"a view has {of_view:.2g} keypoints, less than {FEWEST}"
    elif int(known.length.sum()) < FEWEST_INLIERS or known.inliers <= 2 * chance:
        why["score"] = f"known objects have {known.inliers:.3g} inliers, shuffled ones {chance:.3g}"
    else:
        values["score"] = (own.inliers - chance) / (known.inliers - chance)
    for kind, of_kind in (("track", own), ("track_known", known)):
        if len(of_kind.length):
            values[kind] = float(of_kind.length.float().mean())
        else:
            why[kind] = "no inliers"
    return [
        Metric(f"features.{kind}", values[kind], unit, cfg.items, note=f"{definition}; {protocol}")
        if kind in values
        else missing(f"features.{kind}", f"{why[kind]} ({protocol})", unit)
        for kind, (unit, definition) in KINDS.items()
    ]


def _by_view(image: Float[Tensor, "bk 3 _ _"], cfg: FeaturesConfig) -> Float[Tensor, "k b 3 _ _"]:
    """Convert views from [-1, 1] to [0, 1]; resize to `cfg.pixels` if they are larger."""
    image = reduced(image, cfg.pixels).clamp(-1, 1) / 2 + 0.5
    return rearrange(image, "(b k) c h w -> k b c h w", k=cfg.views)


def _missing(why: str) -> list[Metric]:
    return [missing(f"features.{kind}", why, unit) for kind, (unit, _) in KINDS.items()]
