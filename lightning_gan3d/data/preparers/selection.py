"""Select which images are written, how often, and in which split."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from lightning_gan3d.cameras import Cameras, spherical
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.camera_checks import aim, check_cameras, find_duplicates
from lightning_gan3d.data.dataset import hold_out
from lightning_gan3d.data.dataset_writer import reject_collisions
from lightning_gan3d.data.labels import parse_json
from lightning_gan3d.data.preparers.source_views import PrepareConfig, SourceViews, View

BIN_DEGREES = 5
"""Width of the yaw bins of `rebalance=yaw`."""


class Selected(NamedTuple):
    """A view and its output images."""

    view: View
    label: Float[torch.Tensor, "25"]
    split: str | None
    names: dict[tuple[bool, int], str]
    """Output files by (mirrored, replica)."""
    original: str
    """The output file that all of `names` repeat or mirror."""


def select_views(read: SourceViews, cfg: PrepareConfig) -> list[Selected]:
    """Check the cameras, and select the images to write; only training images are copied."""
    views = read.views
    labels = check_cameras(
        torch.from_numpy(np.stack([v.label for v in views])), [v.source for v in views]
    )
    _check_directions(Cameras.from_label(labels), read.camera_file)
    first = [v.name for v in views]
    if views[0].group is None:
        duplicates = find_duplicates(labels)
        first = [views[i].name for i in duplicates.first]
        if cfg.mirror and duplicates.num_mirrored * 4 > len(views):
            raise DataError(
                f"mirror=true: {read.source.path} already has mirrored copies "
                f"({duplicates.num_mirrored:,} of {len(views):,} images); leave `mirror` out"
            )
    chosen = range(len(views))[: cfg.max_images or None]
    if cfg.holdout:
        groups = {v.name: v.group or f for v, f in zip(views, first, strict=True)}
        held = hold_out([views[i].name for i in chosen], cfg.holdout, groups)
        split_of = {v.name: "test" if v.name in held else "train" for v in views}
    else:  # keep the splits of the source
        split_of = {v.name: v.split for v in views if v.split is not None}
    train = {i for i in chosen if split_of.get(views[i].name, "train") == "train"}
    if not train:
        raise _no_training_images(read, cfg, len(chosen))
    counts = _replica_counts(read, labels, sorted(train), cfg)
    originals: dict[str, str] = {}  # first written image of each photograph
    selected = []
    for i in chosen:
        sides = (False, True) if cfg.mirror and i in train else (False,)
        num = int(counts[i]) if i in train else 1
        names = {(m, r): _copy_name(views[i].name, m, r) for m in sides for r in range(num)}
        original = originals.setdefault(first[i], views[i].name) if names else first[i]
        split = split_of.get(views[i].name)
        selected.append(Selected(views[i], labels[i], split, names, f"{original}.png"))
    reject_collisions((name, s.view.source) for s in selected for name in s.names.values())
    if not any(s.names for s in selected):
        raise DataError(f"rebalance={cfg.rebalance}: all counts are 0")
    return selected


def _check_directions(cameras: Cameras, camera_file: str) -> None:
    """Reject cameras if most look away from the origin, or their mean up is not +y."""
    up = -cameras.cam2world[:, :3, 1].mean(dim=0)
    axis = int(up.abs().argmax())
    away = int((aim(cameras)[0] < 0).sum())
    if 2 * away > len(cameras.origins):
        raise DataError(
            f"{away:,} of {len(cameras.origins):,} cameras of {camera_file} look away from the "
            "origin: set `convention=opengl` if their z points backward; poses must be cam2world"
        )
    if axis != 1 or up[1] < 0:
        sign = "-" if up[axis] < 0 else "+"
        remedy = {"+z": "`world_up=z`", "-y": "`convention=opengl`"}.get(
            f"{sign}{'xyz'[axis]}", "`convention` and `world_up`"
        )
        raise DataError(
            f"the mean up of the cameras of {camera_file} is {sign}{'xyz'[axis]} of the world, "
            f"expected +y: see {remedy}"
        )


def _replica_counts(
    read: SourceViews, labels: Float[torch.Tensor, "n 25"], train: list[int], cfg: PrepareConfig
) -> Int[np.ndarray, " n"]:
    """Return the number of repetitions of each image.

    `rebalance=yaw`: training images are counted in bins of 5 degrees of |yaw|; an image occurs
    (images of the fullest bin) / (images of its bin) times, rounded, at most `max_replicas` times.
    """
    if cfg.rebalance == "yaw":
        bins = (np.abs(np.degrees(yaw(labels))) // BIN_DEGREES).astype(np.int64)
        size = np.bincount(bins[train], minlength=360 // BIN_DEGREES)
        counts = np.rint(size.max() / np.maximum(size[bins], 1)).astype(np.int64)
        return np.asarray(np.clip(counts, 1, cfg.max_replicas))
    if cfg.rebalance:
        return _read_counts(read, cfg)
    return np.ones(len(read.views), dtype=np.int64)


def yaw(labels: Float[torch.Tensor, "n 25"]) -> Float[np.ndarray, " n"]:
    """Azimuth in radians of the direction opposite to the viewing direction."""
    return spherical(-Cameras.from_label(labels).forward).azimuth.numpy()


def _read_counts(read: SourceViews, cfg: PrepareConfig) -> Int[np.ndarray, " n"]:
    """Read counts by image name or index in the camera file, as EG3D's `num_replicas.json`."""
    file, views = cfg.rebalance, read.views
    try:
        tree = parse_json(Path(file).expanduser().read_bytes(), file)
    except OSError as error:
        raise ConfigError(
            f"rebalance={file}: use `yaw`, or a JSON file of counts; cannot read it: "
            f"{error.strerror}",
            field="rebalance",
        ) from None
    for key, count in tree.items():
        if type(count) is not int or not 0 <= count <= cfg.max_replicas:
            raise DataError(
                f"{file}: count {str(count)[:40]} of image {key} must be a whole number "
                f"from 0 to max_replicas={cfg.max_replicas}"
            )
    counts = [tree.get(v.source, tree.get(str(v.number))) for v in views]
    without = [v.source for v, count in zip(views, counts, strict=True) if count is None]
    if without:
        raise DataError(
            f"{file} has no count for {len(without):,} of {len(views):,} images, e.g. "
            f"{without[0]}: use the image's name or its index in the camera file"
        )
    if len(tree) > read.num_listed:
        raise DataError(
            f"{file} has {len(tree):,} counts for {read.num_listed:,} images: is it the file of "
            "another data set?"
        )
    return np.array(counts, dtype=np.int64)


def _no_training_images(read: SourceViews, cfg: PrepareConfig, num: int) -> DataError:
    if cfg.holdout:
        return DataError(
            f"holdout={cfg.holdout}: no training image is left of {num}: all are copies of one "
            "image or show one object; use a smaller share"
        )
    splits = sorted({v.split for v in read.views if v.split is not None})
    if "train" in splits:
        return DataError(
            f"max_images={cfg.max_images}: none of the first {num} images is in the split `train` "
            f"of {read.camera_file}: use more"
        )
    return DataError(
        f"{read.camera_file} has the splits {', '.join(splits)}, but training images must be in "
        "`train`: rename one, or split anew with e.g. holdout=0.1"
    )


def _copy_name(name: str, mirrored: bool, replica: int) -> str:
    return name + ("_mirror" if mirrored else "") + (f"_r{replica:02d}" if replica else "") + ".png"
