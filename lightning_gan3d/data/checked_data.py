"""Open a data set whose content was checked: now, or earlier if it is large and did not change."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lightning_gan3d.cameras import LABEL_DIM
from lightning_gan3d.data.archive import (
    FolderSource,
    Source,
    Table,
    image_names,
    images_first,
    open_source,
)
from lightning_gan3d.data.camera_checks import check_cameras
from lightning_gan3d.data.data_index import DataIndex, state_of
from lightning_gan3d.data.image_files import Convert, open_image
from lightning_gan3d.data.label_table import LABEL_TENSORS, LabelTable
from lightning_gan3d.data.labels import PER_IMAGE, Annotations, check_index, read_index
from lightning_gan3d.data.packed_names import PackedNames

_FILE = "checked"


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

    def labels_of(self, rows: Int[Tensor, " m"] | None, mirrored: bool = False) -> Tensor:
        """Labels of some images, (m, 25 + classes); those of a small data set as a plain tensor."""
        assert self.labels is not None, "the caller knows"
        labels = self.labels.of_images(rows, mirrored)
        return labels.dense() if self.index is None else labels


def open_checked(path: str | Path, checks: Checks, again: bool = False) -> CheckedData:
    """Open a data set; raises `DataError` if it is invalid. `again`: check it even if it is known.

    A large data set has an index on disk, which all processes map.
    """
    path = Path(path).expanduser()
    folder = FolderSource(path) if path.is_dir() else None
    state = state_of(path, folder) if path.exists() else None
    if state is None:
        return _check(path, folder, checks)
    index = DataIndex(state, repr(checks))
    if not again and (known := _read(path, folder, index)):
        return known
    with index.lock():
        if not again and (known := _read(path, folder, index)):  # another process has checked it
            return known
        data = replace(_check(path, folder, checks), index=index)
        for name in data.names if checks.headers else ():
            open_image(data.source.read(name), name, data.side, checks.convert)
        changed = state_of(path, FolderSource(path) if folder else None) != state
        if changed:  # an index would mix two contents
            return replace(data, index=None)
        if not _write(data):
            return data
    return _read(path, folder, index) or data


def _check(path: Path, folder: FolderSource | None, checks: Checks) -> CheckedData:
    source = open_source(path, folder)
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
    table = LabelTable(LabelTable.pack(labels, classes), checks.num_classes)
    side = open_image(source.read(names[0]), names[0], convert=checks.convert).size[0]
    metadata = {key: value for key, value in tree.items() if key not in PER_IMAGE}
    known = None if checks.labels == "if given" and not given else table
    return CheckedData(source, names, metadata, annotations, known, side)


def _write(data: CheckedData) -> bool:
    """Store what was checked; whether it could be written."""
    assert data.index is not None, "the data set is large"
    names = [data.source.names[row] for row in images_first(data.source.names)]
    entries = data.source.entries()
    packed = {k: torch.from_numpy(array) for k, array in PackedNames.pack(names).arrays.items()}
    packed["entries"] = torch.from_numpy(entries.view(np.uint8).reshape(len(names), -1))
    splits, objects, copies, sha256, placements = data.annotations
    ends, boxes = placements or (None, None)
    optional = {"objects": objects, "copies": copies, "sha256": sha256, "object_ends": ends}
    tensors = {
        **packed,
        **({} if data.labels is None else data.labels.stored),
        **{f"split {i}": rows.int() for i, rows in enumerate(splits.values())},
        **{k: x for k, x in {**optional, "boxes": boxes}.items() if x is not None},
    }
    values = {
        "num_images": len(data.names),
        "fields": entries.dtype.descr,
        "splits": list(splits),
        "num_classes": 0 if data.labels is None else data.labels.num_classes,
        "metadata": data.metadata,
        "side": data.side,
    }
    return data.index.write(_FILE, tensors, values)


def _read(path: Path, folder: FolderSource | None, index: DataIndex) -> CheckedData | None:
    stored = index.read(_FILE)
    if stored is None:
        return None
    tensors, values = stored
    num, text, ends = values["num_images"], tensors["text"].numpy(), tensors["ends"].numpy()
    dtype = np.dtype([tuple(field) for field in values["fields"]])
    entries = tensors["entries"].numpy().reshape(-1).view(dtype)
    splits = {name: tensors[f"split {i}"] for i, name in enumerate(values["splits"])}
    labels = {key: tensors[key] for key in LABEL_TENSORS if key in tensors}
    placements = (tensors["object_ends"], tensors["boxes"]) if "boxes" in tensors else None
    return CheckedData(
        open_source(path, folder, Table(PackedNames(text, ends), entries, num)),
        PackedNames(text, ends[:num]),
        values["metadata"],
        Annotations(
            splits, tensors.get("objects"), tensors.get("copies"), tensors.get("sha256"), placements
        ),
        LabelTable(labels, values["num_classes"]) if labels else None,
        values["side"],
        index,
    )
