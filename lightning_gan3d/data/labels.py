"""The labels of a data set: 25 numbers or a class per image, checked before they are used."""

import hashlib
import re
import reprlib
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from lightning_gan3d import files
from lightning_gan3d.cameras import LABEL_DIM, Orbit
from lightning_gan3d.data.archive import SUFFIXES, DataError, Source, open_source
from lightning_gan3d.data.image_files import ImageIndex

KEYS = {"labels", "splits", "objects", "copies", "sha256", "synth", "turntable", "from_poses"}
KEYS |= {"placements", "ffhq", "celebahq", "afhq", "shapenet", "from_images"}
"""Keys of `dataset.json` that this package reads or writes."""
PER_IMAGE = ("labels", "splits", "objects", "copies", "sha256", "placements")
"""Those that are read as `Annotations`."""
_BEYOND = 3
"""Farthest a box may leave the image, in image sizes; detects boxes in pixels."""
_REMEDY = (
    "use `gan3d data from-images` or `from-photos`, or set data.labels=none (3D: a camera prior)"
)


def read_index(source: Source) -> dict[str, Any]:
    """Read `dataset.json`: `labels`, and our own `splits`, `objects`, `copies`, `sha256`, ..."""
    if "dataset.json" not in source.names:
        raise DataError(
            f"{source.path} has no dataset.json at its root: every image needs a camera; {_REMEDY}"
        )
    return parse_json(source.read("dataset.json"), f"dataset.json of {source.path}")


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """Parse a JSON object; `name` is the file in errors."""
    try:
        return files.parse_json(data, dict, finite=False)
    except ValueError as error:
        reason = str(error).split(";")[0]
        raise DataError(f"{name} is not a valid JSON object: {reason}") from None


def name_map(index: dict[str, Any], key: str, kind: type, name: str) -> dict[str, Any]:
    """Return a key of an index that maps image names to values of one type; `{}` if missing."""
    mapping = index.get(key, {})
    if not isinstance(mapping, dict) or not all(type(v) is kind for v in mapping.values()):
        raise DataError(f"{name}: `{key}` must map image names to {kind.__name__}")
    if kind is int and any(abs(v) >= 2**63 for v in mapping.values()):
        raise DataError(f"{name}: `{key}` has a number beyond 64 bits")
    return mapping


def split_lists(index: dict[str, Any], name: str) -> dict[str, list[str]]:
    """Return the splits of an index; `{}` if missing."""
    splits = index.get("splits", {})
    if not isinstance(splits, dict) or not all(
        isinstance(images, list) and all(isinstance(n, str) for n in images)
        for images in splits.values()
    ):
        raise DataError(f"{name}: `splits` must map names of splits to image lists")
    return splits


def read_placements(index: dict[str, Any], name: str) -> dict[str, list[list[float]]]:
    """Return the objects of images, from the key `placements`; `{}` if missing.

    Nine numbers each: the box x0, y0, x1, y1 as shares of the image size, then scale, rotation, x,
    y and z, NaN if unknown.
    """
    rows: dict[str, list[list[float]]] = {}
    for image, objects in name_map(index, "placements", list, name).items():
        try:
            rows[image] = [_placed(x) for x in objects]
        except (KeyError, TypeError, ValueError):
            raise DataError(
                f"{_list([image])} in `placements` of {name} is {reprlib.repr(objects)}: use "
                '[{"box": [x0, y0, x1, y1]}, ...] with x0 < x1 and y0 < y1, as shares of the image '
                f"size, from {-_BEYOND} to {_BEYOND + 1}; divide pixels by the image size. If "
                'known, add "scale" > 0, "rotation" and "translation": [x, y, z], up to 1e6'
            ) from None
    return rows


def _placed(placed: Any) -> list[float]:
    x0, y0, x1, y1 = box = placed["box"]
    x, y, z = placed.get("translation", [np.nan] * 3)
    numbers = [*box, placed.get("scale", np.nan), placed.get("rotation", np.nan), x, y, z]
    if not (
        {type(v) for v in numbers} <= {int, float}
        and all(-_BEYOND <= v <= _BEYOND + 1 for v in box)  # False for NaN
        and (x0 < x1 and y0 < y1 and not numbers[4] <= 0)
        and not any(abs(v) > 1e6 for v in numbers)
    ):
        raise ValueError
    return [float(v) for v in numbers]


def mirror_objects(rows: Float[Tensor, "m 9"]) -> Float[Tensor, "m 9"]:
    """Return the objects of mirrored images, see `read_placements` and `Cameras.mirror`."""
    x0, y0, x1, y1, scale, rotation, x, y, z = rows.unbind(1)
    return torch.stack([1 - x1, y0, 1 - x0, y1, scale, -rotation, -x, y, z], dim=1)


def label_rows(index: dict[str, Any], name: str, num_classes: int = 0) -> dict[str, list[float]]:
    """Return the labels of an index by image, checked to be 25 finite numbers each.

    `num_classes`: labels are classes from 0, one number each.
    """
    rows: dict[str, list[float]] = {}
    if not isinstance(index.get("labels"), list):
        raise DataError(
            f'{name}: `labels` must be [["name.png", [25 numbers]], ...], not '
            f"{reprlib.repr(index.get('labels'))}; {_REMEDY}"
        )
    for item in index["labels"]:
        if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)):
            raise DataError(f'{name}: {reprlib.repr(item)} is not ["name.png", [25 numbers]]')
        image = item[0].replace("\\", "/")
        if image in rows:
            raise DataError(f"{_list([image])}: two labels in {name}")
        where = f"{_list([image])} in {name}"
        rows[image] = _class(item[1], where, num_classes) if num_classes else _label(item[1], where)
    return rows


def _label(label: Any, name: str) -> list[float]:
    if not isinstance(label, list) or len(label) != LABEL_DIM:
        value = f"{len(label)} numbers" if isinstance(label, list) else reprlib.repr(label)
        raise DataError(
            f"{name}: the label is {value}, expected {LABEL_DIM} numbers (16 pose + 9 intrinsics)"
            + ("; for classes set data.labels=class" if type(label) is int else "")
        )
    for number in label:
        kind = "finite" if type(number) in (int, float) else "a number"
        if kind == "a number" or not abs(number) <= sys.float_info.max:  # long integers, NaN
            raise DataError(f"{name}: {reprlib.repr(number)} in the label is not {kind}")
    return label


def _class(label: Any, name: str, num_classes: int) -> list[float]:
    if type(label) is not int or not 0 <= label < num_classes:
        raise DataError(
            f"{name}: the label is {reprlib.repr(label)}, expected a class of 0 to "
            f"{num_classes - 1} (data.num_classes={num_classes})"
        )
    return [float(label)]


class Annotations(NamedTuple):
    """What `dataset.json` may say besides labels. Images are positions in the order of names."""

    splits: dict[str, Int[Tensor, " k"]]
    """The images of each split, as listed."""
    objects: Int[Tensor, " n"] | None
    """-1: unknown."""
    copies: Int[Tensor, " n"] | None
    """The image that an image repeats or mirrors, -1 for none."""
    sha256: UInt8[Tensor, "n 32"] | None
    """Zeros: unknown."""
    placements: Float[Tensor, "m 9"] | None
    """The objects of all images, see `read_placements`."""
    placement_ends: Int[Tensor, " n"] | None
    """Position in `placements` behind those of each image."""


def check_index(
    index: dict[str, Any],
    names: Sequence[str],
    source: Source,
    labelled: bool = True,
    num_classes: int = 0,
) -> tuple[Float[Tensor, "n numbers"], Annotations]:
    """Check names and types in an index; images and labels must match one to one.

    Returns the labels in the order of the images, float64: cameras or one class each.
    `labelled`: whether labels are read; else they are NaN. `num_classes`: see `label_rows`.
    """
    file = f"dataset.json of {source.path}"
    rows = label_rows(index, file, num_classes) if labelled else {}
    splits = split_lists(index, file)
    objects = name_map(index, "objects", int, file)
    copies, sha256 = (name_map(index, key, str, file) for key in ("copies", "sha256"))
    listed = {"`labels`": [*rows], **{f"split `{k}`": images for k, images in splits.items()}}
    listed |= {"`objects`": [*objects], "`copies`": [*copies, *copies.values()]}
    placements = read_placements(index, file)
    of, images = dict[str, str](), ImageIndex(source.names)
    for key, keys in {**listed, "`sha256`": [*sha256], "`placements`": [*placements]}.items():
        of |= _find_images(keys, images, f"{key} of {file}")
    label_of = {of[name]: row for name, row in rows.items()}
    if len(label_of) < len(rows):
        ((image, _),) = Counter(of[name] for name in rows).most_common(1)
        raise DataError(f"{image}: two labels in {file}")
    missing = [n for n in names if n not in label_of]
    if missing and labelled:
        raise DataError(
            f"{len(missing):,} of {len(names):,} images lack a label: {_list(missing)} in "
            f"{source.path}"
        )
    unknown = [np.nan] * (1 if num_classes else LABEL_DIM)
    labels = np.array([label_of.get(n, unknown) for n in names], dtype=np.float64)
    row_of = {name: row for row, name in enumerate(names)}
    at = {name: row_of[image] for name, image in of.items()}
    return torch.from_numpy(labels), Annotations(
        {
            k: torch.tensor([at[n] for n in listed], dtype=torch.long)
            for k, listed in splits.items()
        },
        _column({at[n]: number for n, number in objects.items()}, len(names)),
        _column({at[n]: at[original] for n, original in copies.items()}, len(names)),
        _digests({at[n]: digest for n, digest in sha256.items()}, len(names)),
        *_packed({at[n]: rows for n, rows in placements.items()}, len(names)),
    )


def _column(values: dict[int, int], num: int) -> Int[Tensor, " n"] | None:
    return torch.tensor([values.get(i, -1) for i in range(num)]) if values else None


def _digests(sha256: dict[int, str], num: int) -> UInt8[Tensor, "n 32"] | None:
    """Return the bytes of checksums; what is none becomes 255s, the checksum of no file."""
    digests = torch.zeros((num, 32), dtype=torch.uint8)
    for row, text in sha256.items():
        digest = bytes.fromhex(text) if re.fullmatch("[0-9a-f]{64}", text) else b"\xff" * 32
        digests[row] = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
    return digests if sha256 else None


def is_intact(data: bytes, expected: UInt8[Tensor, "32"]) -> bool:
    """Whether a file has its checksum, of `Annotations.sha256`; True if that is unknown."""
    digest = bytes(expected.tolist())
    return not any(digest) or hashlib.sha256(data).digest() == digest


def _packed(
    placements: dict[int, list[list[float]]], num: int
) -> tuple[Float[Tensor, "m 9"], Int[Tensor, " n"]] | tuple[None, None]:
    if not placements:
        return None, None
    ends = torch.tensor([len(placements.get(i, ())) for i in range(num)]).cumsum(0)
    objects = [numbers for row in sorted(placements) for numbers in placements[row]]
    return torch.tensor(objects).view(-1, 9).float(), ends


def _find_images(listed: Sequence[str], index: ImageIndex, key: str) -> dict[str, str]:
    """Return the image that each listed name means; one with an exact name has no other."""
    exact = set(index.names).intersection(listed)
    images = {n: [n] if n in exact else index.find([n], taken=exact) for n in listed}
    wrong = [n for n, several in images.items() if len(several) != 1]
    if wrong:
        fault = "does not exist: fix dataset.json, or prepare the data set again"
        if index.has_other(wrong[:1]):
            fault = f"has an unsupported type: use {', '.join(SUFFIXES)}"
        more = f" and {len(wrong) - 1:,} other images" if len(wrong) > 1 else ""
        raise DataError(f"{key} names {_list(wrong[:1])}{more}, which {fault}")
    return {n: image for n, (image,) in images.items()}


def read_orbit(data: str | Path) -> Orbit:
    """Fit an orbit to the cameras of a data set; its images are not read."""
    if not str(data):
        raise DataError("data.path is empty")
    source = open_source(data)
    rows = label_rows(read_index(source), f"dataset.json of {data}")
    if not rows:
        raise DataError(f"dataset.json of {data} has no labels")
    return Orbit.of_labels(torch.tensor(list(rows.values()), dtype=torch.float64))


def _list(names: Sequence[str]) -> str:
    shown = [(n if n.isprintable() else ascii(n))[:80] for n in names[:3]]
    return ", ".join(shown) + (", ..." if len(names) > 3 else "")
