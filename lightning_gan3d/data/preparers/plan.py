"""Which images are written, how often, and on which side of the split they are."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from lightning_gan3d.data.archive import DataError, Source
from lightning_gan3d.data.labels import check_cameras
from lightning_gan3d.data.preparers.config import PrepareConfig
from lightning_gan3d.data.preparers.conventions import check_directions
from lightning_gan3d.data.preparers.copies import find_twins, replica_counts
from lightning_gan3d.data.splits import hold_out


class View(NamedTuple):
    """An image of the source with its camera, in our axes.

    `name`: where it goes, without suffix. `number`: its place in the file of cameras. `group`: what
    is held out whole; None where copies of one photograph are to be found by their cameras.
    """

    source: str
    name: str
    label: Float[np.ndarray, "25"]
    number: int
    group: str | None = None
    object_id: int | None = None
    split: str | None = None


class Planned(NamedTuple):
    """A view, how often it is written, and under which names: each that of (mirrored, replica).

    `original`: the file that its copies repeat, which is written wherever the view is.
    """

    view: View
    label: Float[torch.Tensor, "25"]
    split: str | None
    names: dict[tuple[bool, int], str]
    original: str


def plan_views(
    views: Sequence[View], cfg: PrepareConfig, source: Source, where: str, listed: int
) -> list[Planned]:
    """Check the cameras and decide what is written.

    Copies, mirrored or repeated, are made of training images alone, and stay on their side.

    Args:
        views: all images, in the order in which the source lists them.
        cfg: what is wanted.
        source: the images.
        where: the file of the cameras, for errors.
        listed: how many cameras that has, those without an image included.

    Raises:
        DataError: a camera is none, or nothing is left.
    """
    labels = check_cameras(
        torch.from_numpy(np.stack([v.label for v in views])), [v.source for v in views]
    )
    check_directions(labels[:, :16].reshape(-1, 4, 4).numpy(), where)
    first = [v.name for v in views]
    if views[0].group is None:
        twins = find_twins(labels)
        first = [views[i].name for i in twins.first]
        if cfg.mirror and twins.num_mirrored * 4 > len(views):
            raise DataError(
                f"mirror=true: {source.path} holds mirrored copies already ("
                f"{twins.num_mirrored:,} of {len(views):,} images); leave `mirror` out"
            )
    chosen = range(len(views))[: cfg.max_images or None]
    if cfg.holdout:
        groups = {v.name: v.group or f for v, f in zip(views, first, strict=True)}
        held = hold_out([views[i].name for i in chosen], cfg.holdout, groups)
        split_of = {v.name: "test" if v.name in held else "train" for v in views}
    else:  # splits that the source names stay
        split_of = {v.name: v.split for v in views if v.split is not None}
    train = [i for i in chosen if split_of.get(views[i].name, "train") == "train"]
    if not train:
        raise _nothing_to_train_on(views, cfg, where, len(chosen))
    counts = replica_counts(cfg, [(v.source, v.number) for v in views], labels, train, listed)
    trained = set(train)
    written: dict[str, str] = {}  # of each photograph the first image that its counts leave
    planned = []
    for i in chosen:
        sides = (False, True) if cfg.mirror and i in trained else (False,)
        num = int(counts[i]) if i in trained else 1
        names = {(m, r): _copy_name(views[i].name, m, r) for m in sides for r in range(num)}
        split = split_of.get(views[i].name)
        original = written.setdefault(first[i], views[i].name) if names else first[i]
        planned.append(Planned(views[i], labels[i], split, names, f"{original}.png"))
    _check_names(planned)
    if not any(p.names for p in planned):
        raise DataError(f"rebalance={cfg.rebalance}: its counts leave no image")
    return planned


def _nothing_to_train_on(
    views: Sequence[View], cfg: PrepareConfig, where: str, num: int
) -> DataError:
    if cfg.holdout:
        return DataError(
            f"holdout={cfg.holdout}: no training image is left of {num}: all are held out, or are "
            "copies of one, or show one object"
        )
    splits = sorted({v.split for v in views if v.split is not None})
    if "train" in splits:
        return DataError(
            f"max_images={cfg.max_images}: none of the first {num} images is in the split `train` "
            f"of {where}: use more"
        )
    return DataError(
        f"{where} names the splits {', '.join(splits)}, but training images are those of `train`: "
        "rename one, or split anew, e.g. holdout=0.1"
    )


def _copy_name(name: str, mirrored: bool, replica: int) -> str:
    return name + ("_mirror" if mirrored else "") + (f"_r{replica:02d}" if replica else "") + ".png"


def _check_names(planned: Sequence[Planned]) -> None:
    taken: dict[str, str] = {}
    for plan in planned:
        for name in plan.names.values():
            if name in taken:
                raise DataError(
                    f"{taken[name]} and {plan.view.source} would both be written as {name}: rename "
                    "one of them, and its camera"
                )
            taken[name] = plan.view.source
