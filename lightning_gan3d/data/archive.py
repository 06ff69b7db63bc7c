"""Data sets as folders or stored zips: read in place, written atomically. Imports no torch.

Reading rejects entries that leave the data set or could exhaust memory.
"""

import contextlib
import difflib
import hashlib
import io
import json
import lzma
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, TypeVar

import numpy as np
from jaxtyping import Float, UInt8

from lightning_gan3d.config import UserError
from lightning_gan3d.files import atomic_path

T = TypeVar("T")

MAX_FILE_BYTES = 256 * 2**20
"""Size limit of one file; `dataset.json` of 200,000 images is below 100 MB."""
MAX_RATIO = 100
"""Compression limit of a zip entry: images hardly compress, labels as text by 2 to 5."""
HEAD_BYTES = 2**16
"""Leading bytes of each file in a folder that the fingerprint covers, besides name and size."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
# What `zipfile` raises for damaged archives; RuntimeError for unknown compression or encryption.
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error,
    OSError, EOFError, ValueError, RuntimeError, OverflowError,
)  # fmt: skip
_UNPRINTABLE = re.compile("[\0-\x1f\x7f\ud800-\udfff]")


class DataError(UserError):
    """An invalid data set; the message names the file and the remedy."""


class UnsafeDataError(DataError):
    """A data set that is unsafe to read."""

    exit_code: ClassVar[int] = 3


class FolderSource:
    """Files below a folder; names are relative to it, with forward slashes."""

    def __init__(self, path: Path) -> None:
        """List the files; rejects links that leave the folder."""
        self.path = path
        root = path.resolve()
        names = []
        for folder, folders, files in os.walk(path, followlinks=False):
            for name in [*folders, *files]:
                full = Path(folder) / name
                relative = full.relative_to(path).as_posix()
                _check_name(relative, path)
                if full.is_symlink() and not Path(os.path.realpath(full)).is_relative_to(root):
                    raise UnsafeDataError(
                        f"entry `{relative}` leaves the dataset {path}: copy the file it links to"
                    )
                if name in files:
                    if not full.is_file() and full.exists():  # a pipe would never end
                        raise DataError(f"{relative} in {path} is not a regular file: remove it")
                    names.append(relative)
        self.names = sorted(names)

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        path = self.path / name
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise UnsafeDataError(f"{name} in {self.path} has more than {MAX_FILE_BYTES} bytes")
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {name} in {self.path}: {error.strerror}") from None

    def mark(self, name: str) -> str:
        """Return size and checksum of the first bytes, for fingerprints."""
        path = self.path / name
        with path.open("rb") as file:
            return f"{path.stat().st_size}:{zlib.crc32(file.read(HEAD_BYTES)):08x}"


class ZipSource:
    """Entries of a zip; each process opens its own handle."""

    def __init__(self, path: Path) -> None:
        """Check the directory of the zip before any entry is read; nothing is extracted."""
        self.path = path
        self._handles: dict[int, zipfile.ZipFile] = {}
        try:
            entries = [e for e in self._zip().infolist() if not e.filename.endswith("/")]
        except _ZIP_ERRORS as error:
            raise DataError(f"cannot read {path} as a zip: {error}") from None
        self._entries = {e.filename: e for e in entries}
        self.names = sorted(self._entries)
        _check_entries(entries, path)

    def _zip(self) -> zipfile.ZipFile:
        pid = os.getpid()
        if pid not in self._handles:  # a forked worker must not share its parent's file position
            self._handles = {pid: zipfile.ZipFile(self.path)}
        return self._handles[pid]

    def __getstate__(self) -> dict[str, object]:
        """Drop open handles: spawned workers open their own."""
        return {**self.__dict__, "_handles": {}}

    def read(self, name: str) -> bytes:
        """Return an entry's bytes; raises `DataError` if the checksum differs."""
        if name not in self._entries:
            raise DataError(f"{self.path} has no {name}")
        try:
            return self._zip().read(name)
        except _ZIP_ERRORS as error:
            reason = "bad CRC" if "CRC" in str(error) else f"cannot be read ({error})"
            raise DataError(f"{name}: {reason} in {self.path}; copy the dataset again") from None

    def mark(self, name: str) -> str:
        """Return size and checksum from the directory of the zip, for fingerprints."""
        entry = self._entries[name]
        return f"{entry.file_size}:{entry.CRC:08x}"


Source = FolderSource | ZipSource


def missing(path: Path) -> DataError:
    """Return the error for a path that does not exist, with the nearest name beside it."""
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], n=1)
    hint = f"; did you mean {path.parent / near[0]}?" if near else ""
    return DataError(
        f"{path} does not exist: use a folder or zip of images with dataset.json{hint}"
    )


def open_source(path: str | Path) -> Source:
    """Open a folder or a zip."""
    path = Path(path).expanduser()
    if path.is_dir():
        return FolderSource(path)
    if not path.exists():
        raise missing(path)
    if not zipfile.is_zipfile(path):
        raise DataError(
            f"{path} is not a folder or a zip: use a folder or zip of images with dataset.json"
        )
    return ZipSource(path)


def read_file(path: Path) -> bytes:
    """Return the bytes of a file outside a data set."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def checksum(data: bytes) -> str:
    """SHA-256, which `dataset.json` may state for the files of a folder."""
    return hashlib.sha256(data).hexdigest()


def _check_name(name: str, path: Path) -> None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or name[1:2] == ":":
        raise UnsafeDataError(f"entry `{name}` leaves the dataset {path}")
    if not name or _UNPRINTABLE.search(name):
        raise DataError(
            f"entry {name!r} of {path}: paths cannot contain newlines or other control characters, "
            "or be empty or not Unicode"
        )


def _check_entries(entries: list[zipfile.ZipInfo], path: Path) -> None:
    names: set[str] = set()
    for entry in entries:
        name = entry.filename
        _check_name(name, path)
        if name in names:
            raise UnsafeDataError(f"entry `{name}` occurs twice in {path}")
        names.add(name)
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise UnsafeDataError(f"entry `{name}` of {path} is a link: store the file itself")
        if entry.flag_bits & 0x1:
            raise UnsafeDataError(f"entry `{name}` of {path} is encrypted: store it unencrypted")
        if entry.file_size > MAX_FILE_BYTES:
            raise UnsafeDataError(
                f"entry `{name}` of {path} claims {entry.file_size} bytes, limit {MAX_FILE_BYTES}"
            )
        ratio = entry.file_size // max(entry.compress_size, 1)
        if entry.file_size > MAX_RATIO * max(entry.compress_size, 1) and entry.file_size > 2**16:
            raise UnsafeDataError(
                f"entry `{name}` of {path} expands {ratio}:1, limit {MAX_RATIO}:1"
            )
    end, previous = 0, ""
    for entry in sorted(entries, key=lambda e: e.header_offset):
        if entry.header_offset < end:
            raise UnsafeDataError(f"entries `{previous}` and `{entry.filename}` of {path} overlap")
        end, previous = entry.header_offset + 30 + entry.compress_size, entry.filename


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
