"""The labels of a data set: 25 numbers per image, checked before they are used."""

import json
import posixpath
import re
import reprlib
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import LABEL_DIM, Cameras, Orbit
from lightning_gan3d.data.archive import DataError, Source, open_source
from lightning_gan3d.data.image_files import SUFFIXES, is_image

ROTATION_TOLERANCE = 1e-3
MIN_FOCAL, MAX_FOCAL = 0.01, 50.0
"""Limits in image widths, fields of view of 178.9 and one degree: larger values are in pixels."""
MAX_DISTANCE = 1e6
"""Limit of a camera's distance from the origin in world units; float32 resolves 0.06 there."""
KEYS = {"labels", "splits", "objects", "copies", "sha256", "synth", "turntable", "from_poses"}
KEYS |= {"ffhq", "celebahq", "afhq", "shapenet"}
"""Keys of `dataset.json` that this package reads or writes."""
_MAX_MISS = 0.25
"""Optical axes farther from the origin give a warning; a fraction of the camera's distance."""
_MAX_TILT = 0.34
"""Sine of 20 degrees, the largest usual roll."""
_DECIMALS = 6
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_index(source: Source) -> dict[str, Any]:
    """Read `dataset.json`: `labels`, and our own `splits`, `objects`, `copies`, `sha256`, ..."""
    if "dataset.json" not in source.names:
        raise DataError(
            f"{source.path} has no dataset.json at its root: every image needs a camera; 2D "
            "generators and metrics of images do without by data.labels=none"
        )
    return parse_json(source.read("dataset.json"), f"dataset.json of {source.path}")


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """Parse a JSON object; `name` is the file in errors."""
    try:
        text = data.decode(json.detect_encoding(data))  # knows byte order marks
        tree = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(tree, ensure_ascii=False).encode()  # raises for half a pair
    except (ValueError, RecursionError) as error:
        reason = str(error).split(";")[0]
        raise DataError(f"{name} is not valid JSON: {reason}") from None
    if not isinstance(tree, dict):
        raise DataError(f"{name} must hold a JSON object, not {reprlib.repr(tree)}")
    return tree


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


def label_rows(index: dict[str, Any], name: str) -> dict[str, list[float]]:
    """Return the labels of an index by image, checked to be 25 finite numbers each."""
    rows: dict[str, list[float]] = {}
    if not isinstance(index.get("labels"), list):
        raise DataError(
            f'{name}: `labels` must be [["name.png", [25 numbers]], ...], not '
            f"{reprlib.repr(index.get('labels'))}"
        )
    for item in index["labels"]:
        if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)):
            raise DataError(f'{name}: {reprlib.repr(item)} is not ["name.png", [25 numbers]]')
        image = item[0].replace("\\", "/")
        if image in rows:
            raise DataError(f"{_list([image])}: two labels in {name}")
        rows[image] = _label(item[1], f"{_list([image])} in {name}")
    return rows


def _label(label: Any, name: str) -> list[float]:
    if not isinstance(label, list) or len(label) != LABEL_DIM:
        value = f"{len(label)} numbers" if isinstance(label, list) else reprlib.repr(label)
        raise DataError(
            f"{name}: the label is {value}, expected {LABEL_DIM} numbers (16 pose + 9 intrinsics)"
        )
    for number in label:
        kind = "finite" if type(number) in (int, float) else "a number"
        if kind == "a number" or not abs(number) <= sys.float_info.max:  # long integers, NaN
            raise DataError(f"{name}: {reprlib.repr(number)} in the label is not {kind}")
    return label


class Annotations(NamedTuple):
    """What is read of `dataset.json`, with the names of the source."""

    labels: Float[Tensor, "n 25"]
    """In the order of the images; float64. NaN if they are not read."""
    splits: dict[str, list[str]]
    objects: dict[str, int]
    copies: dict[str, str]
    sha256: dict[str, str]


def check_index(
    index: dict[str, Any], names: Sequence[str], source: Source, cameras: bool = True
) -> Annotations:
    """Check names and types in an index; images and labels must match one to one.

    `cameras`: whether labels are read; else they are NaN.
    """
    file = f"dataset.json of {source.path}"
    rows, splits = label_rows(index, file) if cameras else {}, split_lists(index, file)
    objects = name_map(index, "objects", int, file)
    copies, sha256 = (name_map(index, key, str, file) for key in ("copies", "sha256"))
    listed = {"`labels`": [*rows], **{f"split `{k}`": images for k, images in splits.items()}}
    listed |= {"`objects`": [*objects], "`copies`": [*copies, *copies.values()]}
    of = dict[str, str]()
    for key, some in {**listed, "`sha256`": [*sha256]}.items():
        of |= _find_names(list(dict.fromkeys(some)), names, source, f"{key} of {file}")
    label_of = {of[name]: row for name, row in rows.items()}
    if len(label_of) < len(rows):
        ((image, _),) = Counter(of[name] for name in rows).most_common(1)
        raise DataError(f"{image}: two labels in {file}")
    missing = [n for n in names if n not in label_of]
    if missing and cameras:
        raise DataError(
            f"{len(missing):,} of {len(names):,} images lack a label: {_list(missing)} in "
            f"{source.path}"
        )
    unknown = [np.nan] * LABEL_DIM
    return Annotations(
        torch.from_numpy(np.array([label_of.get(n, unknown) for n in names], dtype=np.float64)),
        {key: [of[n] for n in images] for key, images in splits.items()},
        {of[n]: number for n, number in objects.items()},
        {of[n]: of[original] for n, original in copies.items()},
        {of[n]: digest for n, digest in sha256.items()},
    )


def _find_names(
    listed: Sequence[str], names: Sequence[str], source: Source, key: str
) -> dict[str, str]:
    """Return the image that each listed name means; an exact name takes precedence.

    Else case, Unicode form, `./` and backslashes are ignored, and at last the suffix.
    """
    found = {n: n for n in set(names).intersection(listed)}
    rest = [n for n in listed if n not in found]
    for spell in (spelling, _stem) if rest else ():
        images: dict[str, list[str]] = {}
        for name in set(names).difference(found.values()):
            images.setdefault(spell(name), []).append(name)
        found |= {n: same[0] for n in rest if len(same := images.get(spell(n), [])) == 1}
        rest = [n for n in rest if n not in found]
    if rest:
        fault = "does not exist: fix dataset.json, or prepare the data set again"
        if not is_image(rest[0]) and spelling(rest[0]) in map(spelling, source.names):
            fault = f"has an unsupported type: use {', '.join(SUFFIXES)}"
        more = f" and {len(rest) - 1:,} other images" if len(rest) > 1 else ""
        raise DataError(f"{key} names {_list(rest[:1])}{more}, which {fault}")
    return found


def spelling(name: str) -> str:
    """Return a path without what people do not read: `./`, backslashes, case, Unicode form."""
    path = posixpath.normpath(name.replace("\\", "/"))
    return unicodedata.normalize("NFC", path).casefold()


def _stem(name: str) -> str:
    return posixpath.splitext(spelling(name))[0]


def read_orbit(data: str | Path) -> Orbit:
    """Fit an orbit to the cameras of a data set; its images are not read."""
    if not str(data):
        raise DataError("data.path is empty")
    source = open_source(data)
    rows = label_rows(read_index(source), f"dataset.json of {data}")
    if not rows:
        raise DataError(f"dataset.json of {data} has no labels")
    return Orbit.of_labels(torch.tensor(list(rows.values()), dtype=torch.float64))


def check_cameras(
    labels: Float[Tensor, "n 25"], names: Sequence[str], repair: bool = False
) -> Float[Tensor, "n 25"]:
    """Check that labels are cameras; `repair` replaces invalid rotations by the nearest ones."""
    pose, intrinsics = Cameras.from_label(labels)
    last = labels.new_tensor([0.0, 0.0, 0.0, 1.0])
    for i in _first((pose[:, 3] - last).abs().amax(dim=1) > 1e-6):
        hint = "; it looks transposed" if bool((pose[i, :3, 3].abs() < 1e-6).all()) else ""
        raise DataError(
            f"{names[i]}: last row of the pose is {_numbers(pose[i, 3])}, expected 0 0 0 1{hint}"
        )
    rotation = pose[:, :3, :3]
    determinant = torch.linalg.det(rotation)
    for i in _first(~(determinant > 0)):  # also NaN, of huge numbers
        raise DataError(
            f"{names[i]}: the rotation mirrors (determinant {float(determinant[i]):.3f}, expected "
            "+1); is an axis flipped? Poses are cam2world in OpenCV axes"
        )
    off = (rotation.mT @ rotation - torch.eye(3, dtype=labels.dtype)).norm(dim=(1, 2))
    for i in _first(~(off <= ROTATION_TOLERANCE)):
        if repair:
            u, _, vh = torch.linalg.svd(rotation)
            labels = labels.clone()
            labels[:, :16].view(-1, 4, 4)[:, :3, :3] = u @ vh
            break
        raise DataError(
            f"{names[i]}: the pose has no valid rotation (|R'R - I| = {float(off[i]):.3g}, limit "
            f"{ROTATION_TOLERANCE}); `repair_cameras=true` uses the nearest one (in training: "
            "`data.repair_cameras`)"
        )
    distance = pose[:, :3, 3].norm(dim=1)
    for i in _first(~(distance <= MAX_DISTANCE)):
        raise DataError(
            f"{names[i]}: the camera is {float(distance[i]):.3g} world units from the origin, "
            f"limit {MAX_DISTANCE:g}; scale the world so that the object has about one unit"
        )
    _check_intrinsics(intrinsics, names)
    return labels


def _check_intrinsics(k: Float[Tensor, "n 3 3"], names: Sequence[str]) -> None:
    remedy = "divide the intrinsics by the image size"
    focal, centre = k[:, [0, 1], [0, 1]], torch.stack([k[:, 0, 2], k[:, 1, 2], k[:, 0, 1] + 0.5], 1)
    for i in _first((focal < MIN_FOCAL).any(dim=1)):
        raise DataError(
            f"{names[i]}: focal lengths {_numbers(focal[i])} must be positive, {MIN_FOCAL} or more"
        )
    for i in _first((focal > MAX_FOCAL).any(dim=1)):
        raise DataError(f"{names[i]}: fx={float(focal[i, 0]):g} looks like pixels; {remedy}")
    for i in _first((centre.sub(0.5).abs() > 5).any(dim=1)):
        raise DataError(
            f"{names[i]}: principal point {_numbers(centre[i, :2])} or skew {float(k[i, 0, 1]):g} "
            f"looks like pixels; {remedy}"
        )
    rest = torch.cat([k[:, 2], k[:, 1, :1]], dim=1) - k.new_tensor([0.0, 0.0, 1.0, 0.0])
    for i in _first(rest.abs().amax(dim=1) > 1e-6):
        raise DataError(
            f"{names[i]}: intrinsics are {_numbers(k[i].flatten())}, expected "
            "[fx s cx; 0 fy cy; 0 0 1]"
        )


def aim(cameras: Cameras) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return the position of the point on each optical axis that is nearest to the origin.

    First its distance from the camera along the axis, negative behind the camera. Second its
    distance from the origin, as a fraction of the camera's.
    """
    origins, forward = cameras.origins, cameras.forward
    ahead = -(origins * forward).sum(dim=1)
    miss = (origins + ahead[:, None] * forward).norm(dim=1)
    return ahead, miss / origins.norm(dim=1).clamp(min=1e-9)


class Duplicates(NamedTuple):
    """The first image with the camera of each image, equal or mirrored; number of mirrored ones."""

    first: list[int]
    num_mirrored: int


def find_duplicates(labels: Float[Tensor, "n 25"]) -> Duplicates:
    """Find images with equal or mirrored cameras.

    Poses estimated from photographs coincide to six decimals in copies only.
    """
    mirrored = Cameras.from_label(labels).mirror().to_label()
    # adding 0 turns -0 into 0, which has other bytes
    plain, other = (np.round(x.double().numpy(), _DECIMALS) + 0.0 for x in (labels, mirrored))
    index_of: dict[bytes, int] = {}
    first: list[int] = []
    for i in range(len(labels)):
        key, mirrored_key = plain[i].tobytes(), other[i].tobytes()
        first.append(index_of.get(key, index_of.get(mirrored_key, i)))
        index_of.setdefault(key, first[-1])
    return Duplicates(first, int((plain != plain[first]).any(axis=1).sum()))


def unusual_cameras(cameras: Cameras, box: float) -> list[str]:
    """Warn about cameras that are valid but rarely intended. `box`: edge of the scene."""
    ahead, miss = aim(cameras)
    distance = cameras.origins.norm(dim=1)
    away, past = ahead < 0, (miss > _MAX_MISS) & (ahead >= 0)
    off = (cameras.intrinsics[:, :2, 2] - 0.5).abs().amax(dim=1) > 0.25
    far = (distance > 100 * box) | (distance < 0.01 * box)
    counted = [
        (
            away,
            "look away from the origin: are the poses world2cam, or in OpenGL axes (z backward)? "
            "They must be cam2world in OpenCV axes",
        ),
        (past, "look past the origin, the centre of the box"),
        (off, "have a principal point far from the image centre (0.5): is a corner the origin?"),
        (far, f"are far from the scale of the box ({box:g}): are their units, e.g., millimetres?"),
    ]
    warnings = [f"{int(some.sum()):,} cameras {text}" for some, text in counted if some.any()]
    num = len(cameras.origins)
    if num > 1 and len(torch.unique(cameras.to_label(), dim=0)) == 1:
        warnings.append("all cameras are the same: one view direction does not determine a shape")
    # Cameras without roll have horizontal right vectors.
    tilt = cameras.cam2world[:, :3, 0].square().mean(dim=0).sqrt()
    if int((cameras.cam2world[:, 1, 1] > 0).sum()) > num // 2:
        warnings.append("most cameras are upside down: the world's y must point up")
    elif tilt[1] > _MAX_TILT:
        level = [axis for axis, t in zip("xz", tilt[[0, 2]], strict=True) if t <= _MAX_TILT]
        cause = f"{level[0]} seems to be up" if len(level) == 1 else "the cameras are rolled"
        warnings.append(f"the cameras are not level in a world whose y is up: {cause}")
    return warnings


def _first(wrong: Tensor) -> list[int]:
    return [int(i) for i in wrong.nonzero()[:1, 0]]


def _numbers(numbers: Tensor) -> str:
    return " ".join(f"{float(x):g}" for x in numbers)


def _list(names: Sequence[str]) -> str:
    shown = [(n if n.isprintable() else ascii(n))[:80] for n in names[:3]]
    return ", ".join(shown) + (", ..." if len(names) > 3 else "")
