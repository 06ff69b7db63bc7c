"""Which images are copies of one photograph, and how often each is to occur."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.preparers.config import PrepareConfig
from lightning_gan3d.data.preparers.conventions import azimuth

BIN_DEGREES = 5
"""Width of the bins of azimuth by which images are repeated."""
_DECIMALS = 6


class Twins(NamedTuple):
    """For each image the first one with its camera or the mirrored one; how many are mirrored."""

    first: list[int]
    num_mirrored: int


def find_twins(labels: Float[torch.Tensor, "n 25"]) -> Twins:
    """Take images with equal or mirrored cameras for copies of one photograph.

    Poses that were estimated from photographs coincide to six decimals in copies alone.
    """
    mirrored = Cameras.from_label(labels).mirror().to_label()
    # adding 0 turns -0 into 0
    plain, other = (np.round(x.double().numpy(), _DECIMALS) + 0.0 for x in (labels, mirrored))
    seen: dict[bytes, int] = {}
    first: list[int] = []
    for i in range(len(labels)):
        mine, theirs = plain[i].tobytes(), other[i].tobytes()
        first.append(seen.get(mine, seen.get(theirs, i)))
        seen.setdefault(mine, first[-1])
    return Twins(first, int((plain != plain[first]).any(axis=1).sum()))


def replica_counts(
    cfg: PrepareConfig,
    names: Sequence[tuple[str, int]],
    labels: Float[torch.Tensor, "n 25"],
    train: list[int],
    listed: int,
) -> Int[np.ndarray, " n"]:
    """Return how often each image occurs: once, or as `cfg.rebalance` says.

    `names` are paths and places in the file of cameras, which lists `listed` of them.

    `yaw`: the training images (numbers `train`) are counted in bins of 5 degrees of the absolute
    azimuth; an image occurs (images of the fullest bin) / (images of its own bin) times, rounded,
    at most `cfg.max_replicas` times.

    A JSON file maps each image, by its name or by its number in the camera file, to a count of 0 or
    more, as the `num_replicas.json` of EG3D's rebalanced FFHQ does.
    """
    if cfg.rebalance == "yaw":
        bins = (np.abs(np.degrees(azimuth(labels))) // BIN_DEGREES).astype(np.int64)
        size = np.bincount(bins[train], minlength=360 // BIN_DEGREES)
        wanted = np.rint(size.max() / np.maximum(size[bins], 1)).astype(np.int64)
        return np.asarray(np.clip(wanted, 1, cfg.max_replicas))
    if cfg.rebalance:
        return _read_counts(cfg, names, listed)
    return np.ones(len(names), dtype=np.int64)


def _read_counts(
    cfg: PrepareConfig, names: Sequence[tuple[str, int]], listed: int
) -> Int[np.ndarray, " n"]:
    path = Path(cfg.rebalance).expanduser()
    try:
        tree = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"rebalance={cfg.rebalance}: `yaw`, or a JSON file of counts; it cannot be read: "
            f"{error.strerror}",
            field="rebalance",
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{cfg.rebalance} is not valid JSON: {error}") from None
    if not isinstance(tree, dict):
        raise DataError(f"{cfg.rebalance} must map images, by name or number, to counts")
    for key, count in tree.items():
        if type(count) is not int or not 0 <= count <= cfg.max_replicas:
            raise DataError(
                f"{cfg.rebalance}: count {str(count)[:40]} of image {key} must be a whole number "
                f"from 0 to max_replicas={cfg.max_replicas}"
            )
    found = [tree.get(name, tree.get(str(place))) for name, place in names]
    without = [n for (n, _), count in zip(names, found, strict=True) if count is None]
    if without:
        raise DataError(
            f"{cfg.rebalance} has no count for {len(without):,} of {len(names):,} images, e.g. "
            f"{without[0]}: each needs one, by its name or its number in the camera file"
        )
    if len(tree) > listed:
        raise DataError(
            f"{cfg.rebalance} has {len(tree):,} counts for {listed:,} images: is it that of "
            "another data set?"
        )
    return np.array(found, dtype=np.int64)
