"""A folder or a stored zip as a source of files, read in place.

What could leave the data set or exhaust memory is refused.

Imports no torch, so that the command line can name these errors cheaply.
"""

import hashlib
import os
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import ClassVar, Protocol, runtime_checkable

from lightning_gan3d.config import UserError

MAX_FILE_BYTES = 256 * 2**20
"""No file of a data set may be larger; `dataset.json` of 200,000 images is under 100 MB."""
MAX_RATIO = 100
"""Zip entries may not expand more: images hardly compress, and labels as text do so by 2 to 5."""
HEAD_BYTES = 2**16
"""How much of a file in a folder the fingerprint covers, besides its name and size."""


class DataError(UserError):
    """A data set that must be fixed; the message names the file and the remedy."""


class UnsafeDataError(DataError):
    """A data set that is refused because reading it could harm."""

    exit_code: ClassVar[int] = 3


@runtime_checkable
class Source(Protocol):
    """Files by their path relative to the data set, with forward slashes."""

    path: Path
    names: list[str]

    def read(self, name: str) -> bytes:
        """Return a file's bytes; refuses a file whose checksum differs."""

    def mark(self, name: str) -> str:
        """Return what stands for the file's content in a fingerprint."""


class FolderSource:
    """Files below a folder."""

    def __init__(self, path: Path) -> None:
        """List the files, and refuse links that leave the folder."""
        self.path = path
        root = path.resolve()
        names = []
        for folder, folders, files in os.walk(path, followlinks=False):
            for name in [*folders, *files]:
                full = Path(folder) / name
                relative = full.relative_to(path).as_posix()
                _check_name(relative, path)
                if full.is_symlink() and not full.resolve().is_relative_to(root):
                    raise UnsafeDataError(
                        f"entry `{relative}` leaves the dataset {path}: copy what it links to"
                    )
                if name in files:
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
            raise DataError(f"{name} in {self.path} cannot be read: {error.strerror}") from None

    def mark(self, name: str) -> str:
        """Return size and checksum of the first bytes."""
        path = self.path / name
        with path.open("rb") as file:
            return f"{path.stat().st_size}:{zlib.crc32(file.read(HEAD_BYTES)):08x}"


class ZipSource:
    """Entries of a zip, each process with its own handle."""

    def __init__(self, path: Path) -> None:
        """Check the directory of the zip: nothing is extracted, and nothing is read before this."""
        self.path = path
        self._handles: dict[int, zipfile.ZipFile] = {}
        try:
            entries = [e for e in self._zip().infolist() if not e.is_dir()]
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{path} is not a readable zip: {error}") from None
        self._entries = {e.filename: e for e in entries}
        self.names = sorted(self._entries)
        _check_entries(entries, path)

    def _zip(self) -> zipfile.ZipFile:
        pid = os.getpid()
        if pid not in self._handles:  # a forked worker must not share its parent's file position
            self._handles = {pid: zipfile.ZipFile(self.path)}
        return self._handles[pid]

    def __getstate__(self) -> dict[str, object]:
        """Leave open handles behind, so that workers that are spawned open their own."""
        return {**self.__dict__, "_handles": {}}

    def read(self, name: str) -> bytes:
        """Return an entry's bytes, its checksum verified."""
        if name not in self._entries:
            raise DataError(f"{self.path} holds no {name}")
        try:
            return self._zip().read(name)
        except zipfile.BadZipFile as error:
            reason = "bad CRC" if "CRC" in str(error) else str(error)
            raise DataError(f"{name}: {reason} in {self.path}; copy the dataset again") from None
        except (zlib.error, OSError, NotImplementedError, EOFError) as error:
            raise DataError(f"{name} in {self.path} cannot be read: {error}") from None

    def mark(self, name: str) -> str:
        """Return size and checksum as the zip states them."""
        entry = self._entries[name]
        return f"{entry.file_size}:{entry.CRC:08x}"


def open_source(path: str | Path) -> Source:
    """Open a folder or a zip."""
    path = Path(path).expanduser()
    if path.is_dir():
        return FolderSource(path)
    if not path.exists():
        raise DataError(
            f"no dataset at {path}: give a folder or a zip of images with `dataset.json`"
        )
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is neither a folder nor a zip of images with `dataset.json`")
    return ZipSource(path)


def checksum(data: bytes) -> str:
    """Return the checksum that `dataset.json` may hold for the files of a folder."""
    return hashlib.sha256(data).hexdigest()


def _check_name(name: str, path: Path) -> None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or name[1:2] == ":":
        raise UnsafeDataError(f"entry `{name}` leaves the dataset {path}")
    if any(ord(c) < 32 for c in name):
        raise DataError(
            f"entry {name!r} of {path}: paths cannot contain newlines or other control characters"
        )


def _check_entries(entries: list[zipfile.ZipInfo], path: Path) -> None:
    seen: set[str] = set()
    for entry in entries:
        name = entry.filename
        _check_name(name, path)
        if name in seen:
            raise UnsafeDataError(f"entry `{name}` occurs twice in {path}")
        seen.add(name)
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise UnsafeDataError(f"entry `{name}` of {path} is a link: store the file itself")
        if entry.flag_bits & 0x1:
            raise UnsafeDataError(f"entry `{name}` of {path} is encrypted: store it plainly")
        if entry.file_size > MAX_FILE_BYTES:
            raise UnsafeDataError(
                f"entry `{name}` of {path} claims {entry.file_size} bytes, limit {MAX_FILE_BYTES}"
            )
        if entry.file_size > MAX_RATIO * max(entry.compress_size, 1) and entry.file_size > 2**16:
            ratio = entry.file_size // max(entry.compress_size, 1)
            raise UnsafeDataError(
                f"entry `{name}` of {path} expands {ratio}:1, limit {MAX_RATIO}:1"
            )
    end, before = 0, ""
    for entry in sorted(entries, key=lambda e: e.header_offset):
        if entry.header_offset < end:
            raise UnsafeDataError(f"entries `{before}` and `{entry.filename}` of {path} overlap")
        end, before = entry.header_offset + 30 + entry.compress_size, entry.filename
