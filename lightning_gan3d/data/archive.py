"""Data sets as folders, zips or shards of tar files, read in place. Imports no torch.

Reading rejects entries that leave the data set or could exhaust memory.
"""

import difflib
import hashlib
import io
import lzma
import os
import posixpath
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, ClassVar, NamedTuple

import numpy as np
from numpy.lib import recfunctions as rfn

from lightning_gan3d.config import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MAX_FILE_BYTES = 256 * 2**20
"""Size limit of one file."""
MAX_LABEL_BYTES = 2048
"""`dataset.json` may be larger: this many bytes per file of the data set."""
MAX_RATIO = 100
"""Compression limit of a zip entry: images hardly compress, labels as text by 2 to 5."""
HEAD_BYTES = 2**16
"""Leading bytes of each file, not in zips, that the fingerprint covers, besides name and size."""
# What `zipfile` raises for damaged archives; RuntimeError for unknown compression or encryption.
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error,
    OSError, EOFError, ValueError, RuntimeError, OverflowError,
)  # fmt: skip
_UNPRINTABLE = re.compile("[\0-\x1f\x7f\ud800-\udfff]")
_LOCAL_HEADER = struct.Struct("<4s2xHH16xHH")
"""Signature, flags, compression, lengths of name and extra field."""


class DataError(UserError):
    """An invalid data set; the message names the file and the remedy."""


class UnsafeDataError(DataError):
    """A data set that is unsafe to read."""

    exit_code: ClassVar[int] = 3


class Table(NamedTuple):
    """Where the files of a data set are."""

    names: Sequence[str]
    """Images, sorted; then the other files, sorted."""
    entries: np.ndarray
    """Fields of each file: size, crc, which the fingerprint covers; and in archives offset."""
    num_images: int

    def row(self, name: str, path: Path) -> int:
        """Return the row of a file; raises `DataError` if it is missing."""
        for start, end in ((0, self.num_images), (self.num_images, len(self.names))):
            row = bisect_left(self.names, name, start, end)
            if row < end and self.names[row] == name:
                return row
        raise DataError(f"{path} has no {name}")

    def marks(self) -> Iterator[str]:
        """Yield size and checksum of each image, for fingerprints."""
        for row in range(self.num_images) if self.num_images else _images(self.names):
            yield f"{self.entries['size'][row]}:{self.entries['crc'][row]:08x}"


class FolderSource:
    """Files below a folder; names are relative to it, with forward slashes.

    Attributes:
        state: digest of names, sizes and times of all files.
        changed: when a file changed last, in seconds; programs cannot set it, as they can `mtime`.
        shards: size of each tar file in the folder itself.
    """

    def __init__(self, path: Path) -> None:
        """List the files; rejects links that leave the folder."""
        self.path = path
        lines, self.changed, self.shards = [], 0.0, dict[str, int]()
        for name, about in _scan(path):
            times = (about.st_mtime_ns, about.st_ctime_ns)
            lines.append(f"{name}\0{about.st_size} {times}")
            self.changed = max(self.changed, about.st_ctime)
            if name.endswith(".tar") and "/" not in name:
                self.shards[name] = about.st_size
        lines.sort()
        digest = hashlib.sha256()
        for line in lines:
            digest.update(line.encode() + b"\n")
        self.state = digest.hexdigest()
        self.names: Sequence[str] = [line.partition("\0")[0] for line in lines]
        self._table: Table | None = None

    @property
    def num_files(self) -> int:
        """Number of files, and the largest possible number of members of tar files."""
        return len(self.names) + sum(self.shards.values()) // 1024

    def use(self, table: Table) -> "FolderSource":
        """Take the names and marks of the same files from a table."""
        self._table, self.names = table, table.names
        return self

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        path = self.path / name
        try:
            if path.stat().st_size > (limit := max_bytes(name, self.num_files)):
                raise UnsafeDataError(f"{name} in {self.path} has more than {limit} bytes")
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {name} in {self.path}: {error.strerror}") from None

    def marks(self) -> Iterator[str]:
        """Yield size and checksum of the first bytes of each image, for fingerprints."""
        if self._table is not None:
            yield from self._table.marks()
            return
        for row in _images(self.names):
            path = self.path / self.names[row]
            with path.open("rb") as file:
                yield f"{path.stat().st_size}:{zlib.crc32(file.read(HEAD_BYTES)):08x}"

    def entries(self) -> np.ndarray:
        """Return the entries of a `Table`; those of other files than images are 0."""
        return _marked(np.zeros(len(self.names), [("size", "<u8"), ("crc", "<u4")]), self.marks())


class ZipSource:
    """Entries of a zip, read by their positions."""

    def __init__(self, path: Path, table: Table | None = None) -> None:
        """Check the directory of the zip before any entry is read; nothing is extracted.

        `table`: of the same zip, to skip these checks.
        """
        self.path = path
        self._file: IO[bytes] | None = None
        self._table = table or self._checked_table()
        self.names = self._table.names

    def _checked_table(self) -> Table:
        try:
            with zipfile.ZipFile(self.path) as archive:
                entries = [e for e in archive.infolist() if not e.filename.endswith("/")]
        except _ZIP_ERRORS as error:
            raise DataError(f"cannot read {self.path} as a zip: {error}") from None
        _check_entries(entries, self.path)
        entries.sort(key=lambda e: e.filename)
        rows = [(e.header_offset, e.file_size, e.CRC, e.compress_size) for e in entries]
        fields = [("offset", "<u8"), ("size", "<u4"), ("crc", "<u4"), ("stored", "<u4")]
        table = np.array(rows, np.dtype(fields))
        if (table["stored"] == table["size"]).all():  # not compressed
            table = rfn.repack_fields(table[["offset", "size", "crc"]])
        return Table([e.filename for e in entries], table, 0)

    def __getstate__(self) -> dict[str, object]:
        """Drop the open file: spawned workers open their own."""
        return {**self.__dict__, "_file": None}

    def read(self, name: str) -> bytes:
        """Return an entry's bytes; raises `DataError` if the checksum differs."""
        entry = self._table.entries[self._table.row(name, self.path)]
        try:
            return self._read(name, entry)
        except _ZIP_ERRORS as error:
            reason = "bad CRC" if "CRC" in str(error) else f"cannot be read ({error})"
            raise DataError(f"{name}: {reason} in {self.path}; copy the dataset again") from None

    def _read(self, name: str, entry: np.void) -> bytes:
        """Read by `pread`, since forked workers share the position of the open file."""
        self._file = self._file or self.path.open("rb", buffering=0)
        start, size = int(entry["offset"]), int(entry["size"])
        stored = int(entry["stored"]) if "stored" in (entry.dtype.names or ()) else size
        head = os.pread(self._file.fileno(), _LOCAL_HEADER.size, start)
        signature, flags, method, name_length, extra_length = _LOCAL_HEADER.unpack(head)
        length = name_length + extra_length + stored
        data = os.pread(self._file.fileno(), length, start + len(head))
        own = data[:name_length]
        names = (own.decode(errors="replace"), own.decode("cp437"))
        if signature != b"PK\3\4" or name not in names:
            raise zipfile.BadZipFile("directory and header differ")
        if len(data) < length:
            raise EOFError("the file is truncated")
        info = zipfile.ZipInfo(name)
        info.flag_bits, info.compress_type, info.compress_size = flags, method, stored
        info.file_size, info.CRC = size, int(entry["crc"])
        content = io.BytesIO(data[name_length + extra_length :])
        with zipfile.ZipExtFile(content, "r", info) as file:
            return file.read()

    def marks(self) -> Iterator[str]:
        """Yield size and checksum of each image from the directory of the zip, for fingerprints."""
        return self._table.marks()

    def entries(self) -> np.ndarray:
        """Return the entries of a `Table`."""
        return self._table.entries[images_first(self.names)]


class ShardSource:
    """Members of uncompressed tar files in one folder, WebDataset's layout, and `dataset.json`.

    Offsets count from the start of the first shard, as if the shards were one file.
    """

    def __init__(self, folder: FolderSource, table: Table | None = None) -> None:
        """Check the members of all shards; `table`: of the same shards, to skip these checks."""
        self.path, self._folder = folder.path, folder
        self._shards = sorted(folder.shards)
        sizes = [folder.shards[name] for name in self._shards]
        self._starts = [0, *np.cumsum(sizes).tolist()]
        self._is_marked = table is not None
        self._table = table or self._checked_table()
        self.names = self._table.names

    def _checked_table(self) -> Table:
        rows: dict[str, tuple[int, int, int]] = {}
        if "dataset.json" in self._folder.names:
            rows["dataset.json"] = (0, 0, 0)
        for shard, start in zip(self._shards, self._starts, strict=False):
            for name, offset, size in _members(self.path / shard):
                if name in rows:
                    raise UnsafeDataError(f"entry `{name}` occurs twice in {self.path}")
                rows[name] = (start + offset, size, 0)
        names = sorted(rows)
        fields = [("offset", "<u8"), ("size", "<u4"), ("crc", "<u4")]
        return Table(names, np.array([rows[n] for n in names], np.dtype(fields)), 0)

    def read(self, name: str) -> bytes:
        """Return a member's bytes."""
        if name == "dataset.json" and name in self._folder.names:
            return self._folder.read(name)
        entry = self._table.entries[self._table.row(name, self.path)]
        offset, size = int(entry["offset"]), int(entry["size"])
        shard = bisect_right(self._starts, offset) - 1
        path = self.path / self._shards[shard]
        try:
            with path.open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), size, offset - self._starts[shard])
        except OSError as error:
            raise DataError(f"cannot read {name} in {path}: {error.strerror}") from None
        if len(data) < size:
            raise DataError(f"{name}: {path} is truncated; copy the dataset again")
        return data

    def marks(self) -> Iterator[str]:
        """Yield size and checksum of the first bytes of each image, for fingerprints."""
        if self._is_marked:
            yield from self._table.marks()
            return
        for row in _images(self.names):
            data = self.read(self.names[row])
            yield f"{len(data)}:{zlib.crc32(data[:HEAD_BYTES]):08x}"

    def entries(self) -> np.ndarray:
        """Return the entries of a `Table`."""
        return _marked(self._table.entries[images_first(self.names)], self.marks())


def _images(names: Sequence[str]) -> list[int]:
    return [row for row, name in enumerate(names) if is_image(name)]


def images_first(names: Sequence[str]) -> list[int]:
    """Return the rows of images, then those of other files."""
    return sorted(range(len(names)), key=lambda row: not is_image(names[row]))


def _marked(entries: np.ndarray, marks: Iterable[str]) -> np.ndarray:
    """Fill in size and checksum of the images, which come first."""
    for row, mark in enumerate(marks):
        size, crc = mark.split(":")
        entries["size"][row], entries["crc"][row] = int(size), int(crc, 16)
    return entries


Source = FolderSource | ZipSource | ShardSource


def missing(path: Path) -> DataError:
    """Return the error for a path that does not exist, with the nearest name beside it."""
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], n=1)
    hint = f"; did you mean {path.parent / near[0]}?" if near else ""
    return DataError(
        f"{path} does not exist: use a folder or zip of images with dataset.json{hint}"
    )


def open_source(
    path: str | Path, folder: FolderSource | None = None, table: Table | None = None
) -> Source:
    """Open a folder, a folder of tar files, or a zip.

    `folder`: the path, if it was listed already. `table`: of the same files, to skip the checks. A
    folder that has images besides tar files is read as a folder.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        folder = folder or FolderSource(path)
        if folder.shards and not any(is_image(name) for name in folder.names):
            return ShardSource(folder, table)
        return folder if table is None else folder.use(table)
    if not path.exists():
        raise missing(path)
    if table is None and not zipfile.is_zipfile(path):
        raise DataError(
            f"{path} is not a folder or a zip: use a folder or zip of images with dataset.json"
        )
    return ZipSource(path, table)


def read_file(path: Path) -> bytes:
    """Return the bytes of a file outside a data set."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def checksum(data: bytes) -> str:
    """SHA-256, which `dataset.json` may state for the files of a folder."""
    return hashlib.sha256(data).hexdigest()


def image_names(source: Source) -> list[str]:
    """Return the images of a source, in order; raises `DataError` if there are none."""
    names = [source.names[row] for row in _images(source.names)]
    if not names:
        raise DataError(f"{source.path} has no images ({', '.join(SUFFIXES)})")
    return names


def is_image(name: str) -> bool:
    """Whether a file is an image by its suffix; hidden files and those of macOS archives are not.

    `name`: relative to the data set.
    """
    *folders, file = name.replace("\\", "/").split("/")
    is_hidden = file.startswith(".") or "__MACOSX" in folders
    return posixpath.splitext(file)[1].lower() in SUFFIXES and not is_hidden


def max_bytes(name: str, num_files: int) -> int:
    """Size limit of a file: that of `dataset.json` grows with the data set."""
    labels = MAX_LABEL_BYTES * num_files if name == "dataset.json" else 0
    return max(MAX_FILE_BYTES, min(labels, 2**31 - 2**16))  # what one `pread` returns


def _scan(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the files below a folder, and what is known of them."""
    root, folders = os.path.realpath(path), [""]
    while folders:
        folder = folders.pop()
        try:
            entries = os.scandir(path / folder)
        except OSError:  # as of `lost+found`
            continue
        with entries:
            for entry in entries:
                name, is_link = folder + entry.name, entry.is_symlink()
                _check_name(name, path)
                if is_link and not Path(os.path.realpath(entry.path)).is_relative_to(root):
                    raise UnsafeDataError(
                        f"entry `{name}` leaves the dataset {path}: copy the file it links to"
                    )
                is_folder = os.path.isdir(entry.path) if is_link else entry.is_dir()
                if is_folder:
                    folders += [] if is_link else [f"{name}/"]
                    continue
                exists = os.path.exists(entry.path) if is_link else True
                if exists and not entry.is_file():  # a pipe would never end
                    raise DataError(f"{name} in {path} is not a regular file: remove it")
                yield name, entry.stat(follow_symlinks=exists)


def _members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of the files in a tar file; folders are skipped."""
    end = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as archive:
            while member := archive.next():
                archive.members = []  # type: ignore[attr-defined]  # or it would keep them all
                name = member.name.removeprefix("./")
                if not 0 <= member.size <= MAX_FILE_BYTES:
                    raise UnsafeDataError(
                        f"entry `{name}` of {path} claims {member.size} bytes, limit "
                        f"{MAX_FILE_BYTES}"
                    )
                if member.isdir():
                    continue
                _check_name(name, path)
                if not member.isreg() or member.issparse():
                    raise UnsafeDataError(
                        f"entry `{name}` of {path} is not a regular file: store the file itself"
                    )
                if member.offset_data + member.size > end:
                    raise DataError(f"{name}: {path} is truncated; copy the dataset again")
                yield name, member.offset_data, member.size
    except DataError:
        raise
    except (tarfile.TarError, OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path} as an uncompressed tar file: {error}") from None


def _check_name(name: str, path: Path) -> None:
    parts = name.replace("\\", "/").split("/")
    if (not parts[0] and name) or ".." in parts or name[1:2] == ":":
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
        largest = max(entry.file_size, entry.compress_size)
        if largest > (limit := max_bytes(name, len(entries))):
            raise UnsafeDataError(f"entry `{name}` of {path} claims {largest} bytes, limit {limit}")
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
    if end > path.stat().st_size:
        raise DataError(f"entry `{previous}` reaches beyond {path}: copy the dataset again")
