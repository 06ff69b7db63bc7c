"""Write a data set in EG3D's format: whole, or not at all."""

import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from lightning_gan3d.data.archive import DataError, checksum

_EPOCH = (1980, 1, 1, 0, 0, 0)


class DatasetWriter:
    """A folder, or a stored zip where the path ends in `.zip`; equal content gives equal bytes.

    Used as `with DatasetWriter(out) as writer:`. The data set appears under its name when the block
    ends well.
    """

    def __init__(self, out: Path, overwrite: bool = False) -> None:
        """Refuse a path that is taken, unless `overwrite`; write beside it."""
        self.out, self.as_zip = Path(out), Path(out).suffix.lower() == ".zip"
        if self.out.exists() and not overwrite:
            raise DataError(f"{self.out} exists: give another path, or ask to overwrite it")
        if self.out.exists() and self.out.is_dir() == self.as_zip:
            raise DataError(f"{self.out} exists and is no dataset of this kind: give another path")
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = self.out.with_name(f".{self.out.name}.{os.getpid()}.tmp")
        self._zip: zipfile.ZipFile | None = None
        self._labels: list[tuple[str, list[float]]] = []
        self._objects: dict[str, int] = {}
        self._splits: dict[str, list[str]] = {}
        self._sha256: dict[str, str] = {}
        self._extra: dict[str, Any] = {}

    def __enter__(self) -> "DatasetWriter":
        """Open the temporary zip or folder."""
        if self.as_zip:
            self._zip = zipfile.ZipFile(self._temporary, "w", zipfile.ZIP_STORED)
        else:
            self._temporary.mkdir()
        return self

    def image(
        self,
        name: str,
        pixels: UInt8[np.ndarray, "h w 3"],
        label: Float[np.ndarray, "25"],
        split: str | None = None,
        object_id: int | None = None,
    ) -> None:
        """Add an image as PNG with its label, and what split and object it belongs to."""
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        self._write(name, buffer.getvalue())
        if not self.as_zip:  # a zip has checksums of its own
            self._sha256[name] = checksum(buffer.getvalue())
        self._labels.append((name, [float(x) for x in label]))
        if split is not None:
            self._splits.setdefault(split, []).append(name)
        if object_id is not None:
            self._objects[name] = object_id

    def array(self, name: str, values: np.ndarray) -> None:
        """Add an array as `.npy`: no image, so that other tools do not take it for one."""
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        self._write(name, buffer.getvalue())

    def note(self, key: str, value: Any) -> None:
        """Add an extra of `dataset.json`, which other tools ignore."""
        self._extra[key] = value

    def _write(self, name: str, data: bytes) -> None:
        if self._zip is not None:
            self._zip.writestr(zipfile.ZipInfo(name, _EPOCH), data)
        else:
            path = self._temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write `dataset.json` and move the data set to its name; after an error, leave nothing."""
        if kind is None:
            index: dict[str, Any] = {"labels": self._labels}
            extras = {"splits": self._splits, "objects": self._objects, "sha256": self._sha256}
            index.update({k: v for k, v in {**extras, **self._extra}.items() if v})
            self._write("dataset.json", json.dumps(index, allow_nan=False).encode())
        if self._zip is not None:
            self._zip.close()
        if kind is not None:
            _remove(self._temporary)
            return
        if self.out.is_dir():
            _remove(self.out)
        os.replace(self._temporary, self.out)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
