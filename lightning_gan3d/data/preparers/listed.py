"""Images whose cameras are listed in one file: their poses in our axes."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.archive import DataError, Source
from lightning_gan3d.data.decode import is_image
from lightning_gan3d.data.preparers.camera_files import Kind, find_camera_file, match_cameras
from lightning_gan3d.data.preparers.config import PrepareConfig
from lightning_gan3d.data.preparers.conventions import to_opencv
from lightning_gan3d.data.preparers.plan import View


class Listed(NamedTuple):
    """Images in the order of the file of cameras.

    `pose`: cam2world in our axes, at the origin where `kind` is "rotations", which have no
    `intrinsics` either (None). `intrinsics`: as the file has them. `tree`: the file as it is.
    `numbers`: places of the images in it, which lists `total` cameras.
    """

    kind: Kind
    where: str
    names: list[str]
    keys: list[str]
    pose: Float[np.ndarray, "n 4 4"]
    intrinsics: Float[np.ndarray, "n 3 3"] | None
    tree: dict[str, Any]
    numbers: list[int]
    without: tuple[int, int]
    total: int

    def views(
        self, pose: Float[np.ndarray, "n 4 4"], intrinsics: Float[np.ndarray, "n 3 3"]
    ) -> list[View]:
        """Return the images with these cameras, and the object and split that the file knows."""
        number_of, split_of = self._objects(), self._splits()
        labels = np.concatenate([pose.reshape(-1, 16), intrinsics.reshape(-1, 9)], axis=1)
        return [
            View(
                name,
                str(PurePosixPath(name).with_suffix("")),
                label,
                number,
                object_id=number_of.get(key),
                split=split_of.get(key),
            )
            for name, key, label, number in zip(
                self.names, self.keys, labels, self.numbers, strict=True
            )
        ]

    def _objects(self) -> dict[str, int]:
        found = self.tree.get("objects", {}) if self.kind == "labels" else {}
        if not isinstance(found, dict) or not all(type(v) is int for v in found.values()):
            raise DataError(f"{self.where}: `objects` must map image names to int")
        return found

    def _splits(self) -> dict[str, str]:
        found = self.tree.get("splits", {}) if self.kind == "labels" else {}
        if not isinstance(found, dict) or not all(
            isinstance(names, list) and all(isinstance(n, str) for n in names)
            for names in found.values()
        ):
            raise DataError(f"{self.where}: `splits` must map names of splits to lists of images")
        return {name: split for split, names in found.items() for name in names}


def images_of(source: Source) -> list[str]:
    """Return the images of a source, without what archivers of other systems leave beside them."""
    names = [n for n in source.names if is_image(n) and not _is_litter(n)]
    if not names:
        raise DataError(f"{source.path} holds no images (.png, .jpg, .webp, .bmp)")
    return names


def read_listed(
    source: Source, cfg: PrepareConfig, names: Sequence[str], others: Sequence[str] = ()
) -> Listed:
    """Read the file of cameras, and match it to the images `names`; those of `others` are left out.

    Raises:
        DataError: see `find_camera_file` and `match_cameras`.
    """
    cameras = find_camera_file(source, cfg.cameras)
    match = match_cameras(names, cameras, cfg.missing, others)
    place = {key: i for i, key in enumerate(cameras.numbers)}
    rows = np.stack([cameras.numbers[key] for _, key in match.pairs])
    pose = np.tile(np.eye(4), (len(rows), 1, 1))
    intrinsics = None
    if cameras.kind == "rotations":
        pose[:, :3, :3] = rows.reshape(-1, 3, 3)
    else:
        pose = rows[:, :16].reshape(-1, 4, 4)
        intrinsics = rows[:, 16:].reshape(-1, 3, 3)
    return Listed(
        cameras.kind,
        cameras.where,
        [name for name, _ in match.pairs],
        [key for _, key in match.pairs],
        to_opencv(pose, cfg.convention, cfg.world_up),
        intrinsics,
        cameras.tree,
        [place[key] for _, key in match.pairs],
        (match.images_without, match.cameras_without),
        len(cameras.numbers),
    )


def crop_intrinsics(
    intrinsics: Float[np.ndarray, "n 3 3"], share: float
) -> Float[np.ndarray, "n 3 3"]:
    """Return the intrinsics of the centred square whose side is `share` of the image's."""
    k = torch.from_numpy(intrinsics)
    cameras = Cameras(torch.eye(4, dtype=k.dtype).repeat(len(k), 1, 1), k)
    edge = (1 - share) / 2
    return np.asarray(cameras.crop(edge, edge, share, share).intrinsics.numpy())


def _is_litter(name: str) -> bool:
    parts = name.split("/")
    return "__MACOSX" in parts or parts[-1].startswith(".")
