"""Read the network pickles of EG3D, StyleGAN2-ADA and StyleGAN3 without running any code.

Such a file is a pickle of whole modules. Classes of theirs embed the source code of their module,
which the official loader executes, and tensors call `torch.load`. Here every name that the formats
use has a fixed meaning (`names.py`) on an inert machine (`inert.py`); another ends the reading.
"""

from io import BufferedIOBase
from pathlib import Path
from typing import Any

from lightning_gan3d.checkpoints import storages
from lightning_gan3d.checkpoints.names import NetworkMachine
from lightning_gan3d.checkpoints.records import Record, check_plain, tensors_of
from lightning_gan3d.checkpoints.source import Allowance, Source, UnsafePickle, damaged
from lightning_gan3d.checkpoints.store import CheckpointError

__all__ = ["Record", "UnsafePickle", "read_pickle", "tensors_of"]

_SLACK = 2**20
"""Bytes that a small file may unfold to, beyond twice its size."""


def read_pickle(path: str | Path, max_bytes: int = 8 * 2**30) -> Any:
    """Return what a network pickle holds; a module becomes a `Record`, and nothing is executed.

    Everything else is plain: dict (of any kind), list, tuple, set, text, number, None and torch
    tensors on the CPU. NumPy's scalars are numbers, its arrays are tensors, and devices are text.
    Parameters are tensors without gradient; tensors that shared memory still do.

    Args:
        path: the file, which is not changed.
        max_bytes: largest file to read; memory grows to about the file's size.

    Raises:
        UnsafePickle: the file asks for code other than the formats' own names (exit code 3).
        CheckpointError: no file, another kind of file, or a damaged one (exit code 2).
    """
    path = Path(path)
    try:
        if not path.is_file():  # a pipe or a device could block
            raise CheckpointError(f"{path}: no such file; name a network pickle (.pkl)")
        with path.open("rb") as file:
            return _read(file, path.stat().st_size, max_bytes)
    except UnsafePickle as error:
        raise UnsafePickle(f"{path} asks for {error}; nothing was executed") from None
    except CheckpointError as error:
        told = str(error).startswith(str(path))
        raise CheckpointError(str(error) if told else f"{path}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except MemoryError:
        raise CheckpointError(
            f"{path}: does not fit into memory; use a machine with more"
        ) from None


def _read(file: BufferedIOBase, size: int, max_bytes: int) -> Any:
    if size > max_bytes:
        raise CheckpointError(
            f"{size} bytes, more than max_bytes={max_bytes}; raise max_bytes if it is a network"
        )
    _refuse_other_formats(file.read(512))
    source = Source(file, 0, size)
    value = NetworkMachine(source, Allowance(2 * size + _SLACK)).run()
    if source.remaining:
        raise damaged(f"{source.remaining} bytes follow its end")
    check_plain(value)
    return value


def _refuse_other_formats(head: bytes) -> None:
    """Say what a file is, and what to do, if it is plainly something else."""
    if not head:
        raise CheckpointError("the file is empty; download or export it again")
    if head.startswith(b"PK"):
        raise CheckpointError(
            "a zip (a data set, or a torch checkpoint such as .pt), not a network pickle; "
            "name the .pkl that EG3D or StyleGAN wrote"
        )
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError("only a pointer to the file; fetch the file itself with git lfs pull")
    if head.lstrip().startswith(b"<"):
        raise CheckpointError("a web page, not a network pickle; download the file itself")
    if head.startswith(b"\x1f\x8b"):
        raise CheckpointError("compressed by gzip; unpack it first")
    if head[8:10] == b'{"':
        raise CheckpointError("a safetensors file, not a pickle; it needs no import")
    if head.startswith(b"\x80\x02\x8a\n" + storages.MAGIC.to_bytes(10, "little")):
        raise CheckpointError(
            "weights alone (torch.save before version 1.6), not a network pickle; "
            "name the .pkl that EG3D or StyleGAN wrote"
        )
