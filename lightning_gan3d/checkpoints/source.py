"""What a pickle is read from and may cost, and the errors of one that is refused."""

from dataclasses import dataclass
from io import BufferedIOBase
from typing import ClassVar

from lightning_gan3d.checkpoints.store import CheckpointError

MAX_OPCODES = 4_000_000
"""No file takes more steps; the largest published networks take about a hundred thousand."""
MAX_LINE = 2**24
"""Bytes of the longest line of text that the opcodes of protocol 0 may hold."""


class UnsafePickle(CheckpointError):
    """A pickle that asks for code; none of it was looked up, imported or called."""

    exit_code: ClassVar[int] = 3


def damaged(what: str) -> CheckpointError:
    """Return the error of a file that no pickler has written so."""
    return CheckpointError(f"not a whole network pickle ({what}); download or export it again")


def shown(text: str) -> str:
    """Return text of a file such that it can stand in a message: one line, short, printable."""
    return text.encode("unicode_escape").decode("ascii")[:100]


@dataclass(frozen=True, slots=True)
class Global:
    """A function or class that a pickle names: the name alone."""

    module: str
    name: str

    def __str__(self) -> str:
        """Return the dotted name, fit for a message."""
        return shown(f"{self.module}.{self.name}")


@dataclass(slots=True)
class Allowance:
    """What a file may still cost, so that references to one part of it cannot multiply.

    `size` is in bytes, or entries of a container where those are copied.
    """

    size: int
    opcodes: int = MAX_OPCODES

    def spend(self, size: int) -> None:
        """Take from the allowance; a genuine file copies each of its bytes once or twice."""
        self.size -= size
        if self.size < 0:
            raise damaged("it unfolds to far more than its own size")


class Source:
    """A part of an open file, read forward; nothing beyond its end is read or allocated."""

    __slots__ = ("_file", "end", "position")

    def __init__(self, file: BufferedIOBase, start: int, end: int) -> None:
        """Read bytes `start` to `end` of a file that stays open and can seek."""
        self._file, self.position, self.end = file, start, end

    @property
    def remaining(self) -> int:
        """Bytes that are left."""
        return self.end - self.position

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes."""
        self._check(size)
        self._file.seek(self.position)
        data = self._file.read(size)
        if len(data) != size:
            raise damaged("it shrank while it was read")
        self.position += size
        return data

    def buffer(self, size: int) -> bytearray:
        """Return exactly `size` bytes, writable, without a second copy."""
        self._check(size)
        self._file.seek(self.position)
        data = bytearray(size)
        if self._file.readinto(data) != size:
            raise damaged("it shrank while it was read")
        self.position += size
        return data

    def readline(self) -> bytes:
        """Return a line with its end, for the text of protocol 0; what is cut off has no end."""
        self._file.seek(self.position)
        line = self._file.readline(min(self.remaining, MAX_LINE))
        self.position += len(line)
        return line

    def part(self, size: int) -> "Source":
        """Return the next `size` bytes as a source of their own, unread, and pass over them."""
        self._check(size)
        self.position += size
        return Source(self._file, self.position - size, self.position)

    def copy(self) -> "Source":
        """Return the same bytes as another source, since several values may share them."""
        return Source(self._file, self.position, self.end)

    def _check(self, size: int) -> None:
        if not 0 <= size <= self.remaining:
            raise damaged(f"it ends early: {size} bytes declared, {self.remaining} left")
