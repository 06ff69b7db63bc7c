"""Write data sets atomically, as folders or stored zips. Imports no torch."""

import contextlib
import io
import json
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from lightning_gan3d.data.archive import DataError, checksum
from lightning_gan3d.files import atomic_path

_EPOCH = (1980, 1, 1, 0, 0, 0)


class DatasetWriter:
    """Files, labels and metadata of a data set that `write_dataset` creates."""

    def __init__(self, path: Path, archive: zipfile.ZipFile | None) -> None:
        """`path`: the folder to write to if there is no zip."""
        self._path, self._zip = path, archive
        self._labels: list[tuple[str, list[float]]] = []
        self._objects: dict[str, int] = {}
        self._splits: dict[str, list[str]] = {}
        self._sha256: dict[str, str] = {}
        self._metadata: dict[str, Any] = {}

    def image(
        self,
        name: str,
        pixels: UInt8[np.ndarray, "h w c"],
        label: Float[np.ndarray, "25"] | None,
        split: str | None = None,
        object_id: int | None = None,
    ) -> None:
        """Add an image as PNG with its label, split and object."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        self._write(name, buffer.getvalue())
        if self._zip is None:  # zips have their own checksums
            self._sha256[name] = checksum(buffer.getvalue())
        if label is not None:
            self._labels.append((name, [float(x) for x in label]))
        if split is not None:
            self._splits.setdefault(split, []).append(name)
        if object_id is not None:
            self._objects[name] = object_id

    def array(self, name: str, values: np.ndarray) -> None:
        """Add an array as `.npy`; readers of images skip it."""
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        self._write(name, buffer.getvalue())

    def metadata(self, key: str, value: Any) -> None:
        """Add a key to `dataset.json` that other tools ignore."""
        self._metadata[key] = value

    def finish(self) -> None:
        """Write `dataset.json`."""
        index: dict[str, Any] = {"labels": self._labels or None}
        extras = {"splits": self._splits, "objects": self._objects, "sha256": self._sha256}
        index.update({k: v for k, v in {**extras, **self._metadata}.items() if v})
        self._write("dataset.json", json.dumps(index, allow_nan=False).encode())
        if self._zip is not None:
            self._zip.close()

    def _write(self, name: str, data: bytes) -> None:
        if self._zip is not None:
            self._zip.writestr(zipfile.ZipInfo(name, _EPOCH), data)
            return
        path = self._path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@contextlib.contextmanager
def write_dataset(out: Path, overwrite: bool = False) -> Iterator[DatasetWriter]:
    """Write a data set in EG3D's format: a stored zip if `out` ends in `.zip`, else a folder.

    It appears at `out` if the block succeeds; an error leaves nothing. Equal content gives equal
    bytes.
    """
    as_zip = out.suffix.lower() == ".zip"
    reject_existing(out, overwrite)
    if out.exists() and out.is_dir() == as_zip:
        raise DataError(
            f"{out} exists and is not a {'zip' if as_zip else 'folder'}: use another path"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary:
        archive = zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) if as_zip else None
        if archive is None:
            temporary.mkdir()
        try:
            writer = DatasetWriter(temporary, archive)
            yield writer
            writer.finish()
        except BaseException:
            if archive is not None:
                archive.close()
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        if out.is_dir():
            shutil.rmtree(out)


def reject_existing(out: Path, overwrite: bool = False) -> None:
    """Reject an output that exists, unless it is to be overwritten."""
    if out.exists() and not overwrite:
        raise DataError(f"{out} exists: use another path, or --overwrite")


def reject_collisions(outputs: Iterable[tuple[str, str]]) -> None:
    """Reject two images with the same output file; `outputs`: pairs of output and source."""
    source_of: dict[str, str] = {}
    for name, source in outputs:
        if name in source_of:
            raise DataError(
                f"{source_of[name]} and {source} would both be written as {name}: rename one, and "
                "its camera"
            )
        source_of[name] = source
