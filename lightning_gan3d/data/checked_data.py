"""Open a data set whose content was checked: now, or earlier if it is large and did not change."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lightning_gan3d.cameras import LABEL_DIM
from lightning_gan3d.data.archive import (
    FolderListing,
    Source,
    Table,
    image_names,
    open_source,
)
from lightning_gan3d.data.camera_checks import check_cameras
from lightning_gan3d.data.data_index import DataIndex, state_of
from lightning_gan3d.data.image_files import Convert, open_image
from lightning_gan3d.data.label_table import LABEL_TENSORS, LabelTable
from lightning_gan3d.data.labels import PER_IMAGE, Annotations, check_index, read_index
from lightning_gan3d.data.packed_names import PackedNames

_FILE = "checked"
_OPTIONAL = Annotations._fields[1:]
"""Those that may be None."""


@dataclass(frozen=True)
class Checks:
    """What is checked of a data set."""

    labels: Literal["camera", "class", "none", "if given"]
    """`if given`: cameras, unless `dataset.json` or its `labels` are missing."""
    num_classes: int = 0
    convert: Convert = "none"
    repair_cameras: bool = False
    headers: bool = True
    """Whether a large data set's images are checked before it is opened."""


@dataclass(frozen=True)
class CheckedData:
    """A data set that passed the checks."""

    source: Source
    names: Sequence[str]
    """Images, sorted."""
    metadata: dict[str, Any]
    """`dataset.json` without the keys of `PER_IMAGE`."""
    annotations: Annotations
    labels: LabelTable | None
    """None: not given."""
    side: int
    """Of the images, in pixels."""
    index: DataIndex | None = None
    """Of a large data set, whose images were checked."""


def open_checked(path: str | Path, checks: Checks, again: bool = False) -> CheckedData:
    """Open a data set; raises `DataError` if it is invalid. `again`: check it even if it is known.

    A large data set has an index on disk, which all processes map.
    """
    path = Path(path).expanduser()
    listing = FolderListing.of(path) if path.is_dir() else None
    state = state_of(path, listing) if path.exists() else None
    if state is None:
        return _check(path, listing, checks)
    index = DataIndex(state, repr(checks))
    if not again and (known := _read(path, listing, index)):
        return known
    with index.lock():
        if not again and (known := _read(path, listing, index)):  # another process has checked it
            return known
        data = replace(_check(path, listing, checks), index=index)
        for name in data.names if checks.headers else ():
            open_image(data.source.read(name), name, data.side, checks.convert)
        changed = state_of(path, FolderListing.of(path) if listing else None) != state
        if changed:  # an index would mix two contents
            return replace(data, index=None)
        if not _write(data):
            return data
    return _read(path, listing, index) or data


def _check(path: Path, listing: FolderListing | None, checks: Checks) -> CheckedData:
    source = open_source(path, listing)
    names = image_names(source)
    optional = checks.labels in ("none", "if given") and "dataset.json" not in source.names
    tree = {} if optional else read_index(source)
    given = checks.labels in ("camera", "class")
    given |= checks.labels == "if given" and tree.get("labels") is not None
    labels, annotations = check_index(tree, names, source, given, checks.num_classes)
    classes = None
    if checks.num_classes:
        classes, labels = labels[:, 0].long(), torch.full((len(names), LABEL_DIM), torch.nan)
    elif given:
        labels = check_cameras(labels, names, checks.repair_cameras)
    table = LabelTable.pack(labels, classes, checks.num_classes)
    side = open_image(source.read(names[0]), names[0], convert=checks.convert).size[0]
    metadata = {key: value for key, value in tree.items() if key not in PER_IMAGE}
    known = None if checks.labels == "if given" and not given else table
    return CheckedData(source, names, metadata, annotations, known, side)


def _write(data: CheckedData) -> bool:
    """Store what was checked; whether it could be written."""
    assert data.index is not None, "the data set is large"
    names, entries, annotations = data.source.names, data.source.entries, data.annotations
    packed = {k: torch.from_numpy(array) for k, array in PackedNames.pack(names).items()}
    tensors = {
        **packed,
        "entries": torch.from_numpy(entries.view(np.uint8).reshape(len(names), -1)),
        **({} if data.labels is None else data.labels.stored),
        **{f"split {i}": rows.int() for i, rows in enumerate(annotations.splits.values())},
        **{k: x for k in _OPTIONAL if (x := getattr(annotations, k)) is not None},
    }
    values = {
        "num_images": len(data.names),
        "fields": entries.dtype.descr,
        "splits": list(annotations.splits),
        "num_classes": 0 if data.labels is None else data.labels.num_classes,
        "metadata": data.metadata,
        "side": data.side,
    }
    return data.index.write(_FILE, tensors, values)


def _read(path: Path, listing: FolderListing | None, index: DataIndex) -> CheckedData | None:
    stored = index.read(_FILE)
    if stored is None:
        return None
    tensors, values = stored
    num, text, ends = values["num_images"], tensors["text"].numpy(), tensors["ends"].numpy()
    dtype = np.dtype([tuple(field) for field in values["fields"]])
    entries = tensors["entries"].numpy().reshape(-1).view(dtype)
    splits = {name: tensors[f"split {i}"] for i, name in enumerate(values["splits"])}
    labels = {key: tensors[key] for key in LABEL_TENSORS if key in tensors}
    return CheckedData(
        open_source(path, listing, Table(PackedNames(text, ends), num, entries)),
        PackedNames(text, ends[:num]),
        values["metadata"],
        Annotations(splits, *(tensors.get(key) for key in _OPTIONAL)),
        LabelTable(labels, values["num_classes"]) if labels else None,
        values["side"],
        index,
    )
