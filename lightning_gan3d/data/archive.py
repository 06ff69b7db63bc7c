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
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, ClassVar, NamedTuple, cast

import numpy as np

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
    num_images: int
    entries: np.ndarray
    """Fields of each file: size and crc, which the fingerprint covers; in archives offset."""

    @classmethod
    def of(cls, rows: Mapping[str, tuple[int, ...]], **fields: str) -> "Table":
        """Make a table; `rows`: fields by name."""
        names = sorted(rows, key=lambda name: (not is_image(name), name))
        entries = np.array([rows[name] for name in names], [*fields.items()])
        return cls(names, sum(map(is_image, names)), entries)

    def entry(self, name: str, path: Path) -> np.void:
        """Return the fields of a file; raises `DataError` if it is missing."""
        for start, end in ((0, self.num_images), (self.num_images, len(self.names))):
            row = bisect_left(self.names, name, start, end)
            if row < end and self.names[row] == name:
                return cast("np.void", self.entries[row])
        raise DataError(f"{path} has no {name}")


@dataclass(frozen=True)
class FolderListing:
    """Size, and times of modification and of the last change, of all files below a folder.

    Names are relative to it, with forward slashes; times are in nanoseconds.
    """

    path: Path
    files: dict[str, tuple[int, int, int]]

    @classmethod
    def of(cls, path: Path) -> "FolderListing":
        """List the files; rejects links that leave the folder."""
        files = {n: (s.st_size, s.st_mtime_ns, s.st_ctime_ns) for n, s in _scan(path)}
        return cls(path, files)

    @property
    def changed(self) -> float:
        """When a file changed last, in seconds; programs cannot set it, as they can `mtime`."""
        return max((ctime / 1e9 for _, _, ctime in self.files.values()), default=0.0)

    @property
    def state(self) -> str:
        """Digest of the listing."""
        digest = hashlib.sha256()
        for name in sorted(self.files):
            digest.update(f"{name}\0{self.files[name]}\n".encode())
        return digest.hexdigest()

    @property
    def shards(self) -> dict[str, int]:
        """Size of each tar file in the folder itself, sorted by name."""
        tars = sorted(name for name in self.files if name.endswith(".tar") and "/" not in name)
        return {name: self.files[name][0] for name in tars}

    @property
    def num_files(self) -> int:
        """Number of files, and the largest possible number of members of tar files."""
        return len(self.files) + sum(self.shards.values()) // 1024


class Source(ABC):
    """Files of a data set, read by name."""

    def __init__(self, path: Path, table: Table, has_checksums: bool) -> None:
        """`has_checksums`: whether the table has those of the images."""
        self.path, self.table, self._has_checksums = path, table, has_checksums

    @property
    def names(self) -> Sequence[str]:
        """Images, sorted; then the other files, sorted."""
        return self.table.names

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the bytes of a file; raises `DataError`."""

    @cached_property
    def entries(self) -> np.ndarray:
        """Those of the table, with checksums of the first bytes of each image."""
        if self._has_checksums:
            return self.table.entries
        entries = self.table.entries.copy()
        for row in range(self.table.num_images):
            entries["crc"][row] = zlib.crc32(self._head(self.names[row]))
        return entries

    def _head(self, name: str) -> bytes:
        return self.read(name)[:HEAD_BYTES]

    def digest(self) -> "hashlib._Hash":
        """Return the SHA-256 of names, sizes and checksums of the images, for fingerprints."""
        digest, images = hashlib.sha256(), self.entries[: self.table.num_images]
        marks = zip(self.names, images["size"].tolist(), images["crc"].tolist(), strict=False)
        for name, size, crc in marks:
            digest.update(f"{name}\0{size}:{crc:08x}\n".encode())
        return digest


class FolderSource(Source):
    """Files below a folder."""

    def __init__(self, listing: FolderListing, table: Table | None = None) -> None:
        """`table`: of the same files, with checksums."""
        rows = {} if table else {name: (size, 0) for name, (size, _, _) in listing.files.items()}
        self._num_files = listing.num_files
        super().__init__(listing.path, table or Table.of(rows, size="<u8", crc="<u4"), bool(table))

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        path = self.path / name
        try:
            if path.stat().st_size > (limit := max_bytes(name, self._num_files)):
                raise UnsafeDataError(f"{name} in {self.path} has more than {limit} bytes")
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {name} in {self.path}: {error.strerror}") from None

    def _head(self, name: str) -> bytes:
        with (self.path / name).open("rb") as file:
            return file.read(HEAD_BYTES)


class ZipSource(Source):
    """Entries of a zip, read by their positions."""

    def __init__(self, path: Path, table: Table | None = None) -> None:
        """Check the directory of the zip before any entry is read; nothing is extracted.

        `table`: of the same zip, to skip these checks.
        """
        self._file: IO[bytes] | None = None
        super().__init__(path, table or _directory(path), has_checksums=True)

    def __getstate__(self) -> dict[str, object]:
        """Drop the open file: spawned workers open their own."""
        return {**self.__dict__, "_file": None}

    def read(self, name: str) -> bytes:
        """Return an entry's bytes; raises `DataError` if the checksum differs."""
        entry = self.table.entry(name, self.path)
        try:
            return self._read(name, entry)
        except _ZIP_ERRORS as error:
            reason = "bad CRC" if "CRC" in str(error) else f"cannot be read ({error})"
            raise DataError(f"{name}: {reason} in {self.path}; copy the dataset again") from None

    def _read(self, name: str, entry: np.void) -> bytes:
        """Read by `pread`, since forked workers share the position of the open file."""
        self._file = self._file or self.path.open("rb", buffering=0)
        start, size, crc = int(entry["offset"]), int(entry["size"]), int(entry["crc"])
        stored = int(entry["stored"]) if "stored" in (entry.dtype.names or ()) else size
        head = os.pread(self._file.fileno(), _LOCAL_HEADER.size, start)
        signature, flags, method, name_length, extra_length = _LOCAL_HEADER.unpack(head)
        if signature != b"PK\3\4":
            raise zipfile.BadZipFile("bad header")
        data = os.pread(self._file.fileno(), stored, start + len(head) + name_length + extra_length)
        if len(data) < stored:
            raise EOFError("the file is truncated")
        info = zipfile.ZipInfo(name)
        info.flag_bits, info.compress_type, info.compress_size = flags, method, stored
        info.file_size, info.CRC = size, crc
        with zipfile.ZipExtFile(io.BytesIO(data), "r", info) as file:
            return file.read()


def _directory(path: Path) -> Table:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [e for e in archive.infolist() if not e.filename.endswith("/")]
    except _ZIP_ERRORS as error:
        raise DataError(f"cannot read {path} as a zip: {error}") from None
    _check_entries(entries, path)
    fields = {"offset": "<u8", "size": "<u4", "crc": "<u4"}
    if any(e.compress_size != e.file_size for e in entries):
        fields["stored"] = "<u4"
    rows = {e.filename: (e.header_offset, e.file_size, e.CRC, e.compress_size) for e in entries}
    return Table.of({name: row[: len(fields)] for name, row in rows.items()}, **fields)


class ShardSource(Source):
    """Members of uncompressed tar files in one folder, WebDataset's layout, and `dataset.json`.

    Offsets count from the start of the first shard, as if the shards were one file.
    """

    def __init__(self, listing: FolderListing, table: Table | None = None) -> None:
        """Check the members of all shards; `table`: of the same shards, with checksums."""
        self._folder, self._shards = FolderSource(listing), [*listing.shards]
        self._starts = [0, *np.cumsum([*listing.shards.values()]).tolist()]
        super().__init__(listing.path, table or self._checked_table(), bool(table))

    def _checked_table(self) -> Table:
        rows: dict[str, tuple[int, int, int]] = {}
        if "dataset.json" in self._folder.names:
            rows["dataset.json"] = (0, 0, 0)
        for shard, start in zip(self._shards, self._starts, strict=False):
            for name, offset, size in _members(self._folder.path / shard):
                if name in rows:
                    raise UnsafeDataError(f"entry `{name}` occurs twice in {self._folder.path}")
                rows[name] = (start + offset, size, 0)
        return Table.of(rows, offset="<u8", size="<u4", crc="<u4")

    def read(self, name: str) -> bytes:
        """Return a member's bytes."""
        if name == "dataset.json" and name in self._folder.names:
            return self._folder.read(name)
        entry = self.table.entry(name, self.path)
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


def missing(path: Path) -> DataError:
    """Return the error for a path that does not exist, with the nearest name beside it."""
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], n=1)
    hint = f"; did you mean {path.parent / near[0]}?" if near else ""
    return DataError(
        f"{path} does not exist: use a folder or zip of images with dataset.json{hint}"
    )


def open_source(
    path: str | Path, listing: FolderListing | None = None, table: Table | None = None
) -> Source:
    """Open a folder, a folder of tar files, or a zip.

    `listing`: of the folder, if it was listed already. `table`: of the same files, to skip the
    checks. A folder that has images besides tar files is read as a folder.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        listing = listing or FolderListing.of(path)
        as_shards = listing.shards and not any(is_image(name) for name in listing.files)
        return ShardSource(listing, table) if as_shards else FolderSource(listing, table)
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
    if not source.table.num_images:
        raise DataError(f"{source.path} has no images ({', '.join(SUFFIXES)})")
    return list(source.names[: source.table.num_images])


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
    root = os.path.realpath(path)
    for folder, folders, files in os.walk(path):
        above = f"{Path(folder).relative_to(path).as_posix()}/".removeprefix("./")
        for i, entry in enumerate([*folders, *files]):
            name, full = above + entry, os.path.join(folder, entry)
            _check_name(name, path)
            about = os.lstat(full)
            if stat.S_ISLNK(about.st_mode):
                if not Path(os.path.realpath(full)).is_relative_to(root):
                    raise UnsafeDataError(
                        f"entry `{name}` leaves the dataset {path}: copy the file it links to"
                    )
                about = os.stat(full) if os.path.exists(full) else about
            if i < len(folders):
                continue
            if not stat.S_ISREG(about.st_mode) and not stat.S_ISLNK(about.st_mode):
                raise DataError(f"{name} in {path} is not a regular file: remove it")  # e.g. a pipe
            yield name, about


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
