"""Names of millions of files in one block of memory, which processes can share."""

from collections.abc import Sequence
from typing import SupportsIndex, overload

import numpy as np


class PackedNames(Sequence[str]):
    """A sequence of names, stored as UTF-8 behind one another.

    `text`: the bytes of all names. `ends`: (n,), position behind each. `rows`: the names that are
    in the sequence, in order; None for all.
    """

    def __init__(self, text: np.ndarray, ends: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Keep the arrays; nothing is copied."""
        self._text, self._ends, self._rows = text, ends, rows

    @staticmethod
    def pack(names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return names, which are valid Unicode, as arguments of `PackedNames`."""
        encoded = [name.encode() for name in names]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.uint64)
        small = not len(ends) or ends[-1] < 2**32
        text = np.frombuffer(bytearray(b"".join(encoded)), np.uint8)
        return {"text": text, "ends": ends.astype(np.uint32) if small else ends}

    def select(self, rows: np.ndarray) -> "PackedNames":
        """Return some of all names, by position."""
        return PackedNames(self._text, self._ends, rows)

    def __len__(self) -> int:
        """Count the names."""
        return len(self._ends if self._rows is None else self._rows)

    @overload
    def __getitem__(self, index: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> str | list[str]:
        """Return a name, or a list of them."""
        indices = range(len(self))[index]
        return self._name(indices) if isinstance(indices, int) else [self._name(i) for i in indices]

    def _name(self, i: int) -> str:
        row = i if self._rows is None else int(self._rows[i])
        start = self._ends[row - 1] if row else 0
        return bytes(self._text[start : self._ends[row]]).decode()
