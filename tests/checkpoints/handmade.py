"""Network pickles in the format of EG3D, StyleGAN2-ADA and StyleGAN3, written by hand.

None of the official code is used: the classes that the files name are empty ones, which exist in
throwaway modules while a file is written. Tensors are pickled by the installed torch, which writes
them as the old versions did.

    G = FakeModule(
        "training.triplane", "TriPlaneGenerator",
        attributes={"neural_rendering_resolution": 64, "_init_kwargs": EasyDict(c_dim=25)},
        buffers={"w_avg": torch.zeros(8)},
        modules={
            "decoder": FakeModule(
                "training.triplane", "OSGDecoder", persistent=False,
                modules={"net": FakeModule("torch.nn.modules.container", "Sequential", False)},
            ),
        },
    )
    write_network_pickle(path, G=G, D=None, G_ema=G)
"""

import importlib
import pickle
import struct
import sys
import types
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

MODULE_SRC = "raise SystemExit('the embedded source code of a network was executed')\n"
MAGIC = 0x1950A86A20F9469CFC6C


class EasyDict(dict):
    """Pickled as `dnnlib.util.EasyDict`."""


EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"


@dataclass
class FakeModule:
    """A module to write, with its parts in order of registration."""

    module: str
    """Module of the class; not stored if the class is persistent."""
    name: str
    """Name of the class."""
    persistent: bool = True
    """Embed the class as source code, as `persistence.persistent_class` does."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """Anything that pickles, such as `_init_kwargs`; overrides the usual attributes."""
    parameters: dict[str, torch.Tensor | None] = field(default_factory=dict)
    """Tensors, written as `Parameter` without gradient."""
    buffers: dict[str, torch.Tensor | None] = field(default_factory=dict)
    modules: dict[str, "FakeModule | None"] = field(default_factory=dict)
    source: str = MODULE_SRC
    """Source code of a persistent class."""


def write_network_pickle(
    path: str | Path,
    G: FakeModule | None = None,
    D: FakeModule | None = None,
    G_ema: FakeModule | None = None,
    protocol: int = 4,
    training_set_kwargs: dict[str, Any] | None = None,
    augment_pipe: FakeModule | None = None,
) -> Path:
    """Write a file such as `network-snapshot-000000.pkl`: five entries, in a plain dict."""
    networks = {
        "training_set_kwargs": EasyDict(training_set_kwargs or {"class_name": "none"}),
        "G": G,
        "D": D,
        "G_ema": G_ema,
        "augment_pipe": augment_pipe,
    }
    Path(path).write_bytes(dumps(networks, protocol))
    return Path(path)


def dumps(value: Any, protocol: int = 4) -> bytes:
    """Pickle a value in which a `FakeModule` (in dicts and lists, too) stands for a module."""
    with _throwaway() as add:
        return pickle.dumps(_materialise(value, add), protocol)


@contextmanager
def _throwaway():
    """Yield a function that puts an object under (module, name) until the end."""
    roots = ("training", "dnnlib", "torch_utils")
    # A test against the official code may have imported its own.
    official = {name: sys.modules.pop(name) for name in [*sys.modules]
                if name.split(".")[0] in roots}  # fmt: skip

    def add(module, name, value):
        parts = module.split(".")
        for i in range(1, len(parts) + 1):
            there = sys.modules.get(".".join(parts[:i]))
            if there is None:
                there = sys.modules[".".join(parts[:i])] = types.ModuleType(".".join(parts[:i]))
        value.__module__, value.__qualname__, value.__name__ = module, name, name
        return vars(there).setdefault(name, value)

    add("dnnlib.util", "EasyDict", EasyDict)
    try:
        yield add
    finally:
        for name in [*sys.modules]:
            if name.split(".")[0] in roots:
                del sys.modules[name]
        sys.modules.update(official)


def _materialise(value, add):
    if isinstance(value, FakeModule):
        return _instance(value, add)
    if isinstance(value, EasyDict):
        return EasyDict((k, _materialise(v, add)) for k, v in value.items())
    if type(value) is dict:
        return {k: _materialise(v, add) for k, v in value.items()}
    if type(value) is list:
        return [_materialise(v, add) for v in value]
    return value


def _instance(fake, add):
    state = {
        "training": False,
        "_parameters": OrderedDict(
            (k, None if v is None else torch.nn.Parameter(v, requires_grad=False))
            for k, v in fake.parameters.items()
        ),
        "_buffers": OrderedDict(fake.buffers),
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(),
        "_is_full_backward_hook": None,
        "_forward_hooks": OrderedDict(),
        "_forward_pre_hooks": OrderedDict(),
        "_state_dict_hooks": OrderedDict(),
        "_load_state_dict_pre_hooks": OrderedDict(),
        "_modules": OrderedDict((k, _materialise(v, add)) for k, v in fake.modules.items()),
        **{k: _materialise(v, add) for k, v in fake.attributes.items()},
    }
    if fake.persistent:
        return _Persistent(fake.name, fake.source, state, add)
    if fake.module.startswith("torch."):
        cls = getattr(importlib.import_module(fake.module), fake.name)
    else:
        cls = add(fake.module, fake.name, type(fake.name, (), {}))
    instance = cls.__new__(cls)
    vars(instance).update(state)
    return instance


class _Persistent:
    """Reduces to a call with its description."""

    def __init__(self, name, source, state, add):
        def reconstruct(meta):
            raise AssertionError(meta)

        self._call = add("torch_utils.persistence", "_reconstruct_persistent_obj", reconstruct)
        self._meta = {
            "type": "class",
            "version": 6,
            "module_src": source,
            "class_name": name,
            "state": state,
        }

    def __reduce__(self):
        return self._call, (self._meta,), None


# Opcodes by hand, for files that no pickler writes.


def text(value: str) -> bytes:
    """Push text (BINUNICODE)."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    """Push a whole number (LONG1)."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def data(value: bytes) -> bytes:
    """Push bytes (BINBYTES)."""
    return b"B" + struct.pack("<I", len(value)) + value


def of(name: str) -> bytes:
    """Push a global (GLOBAL), given with its last dot between module and name."""
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def storage(
    values: bytes,
    numel: int,
    kind: str = "torch.FloatStorage",
    location: str = "cpu",
    declared: int | None = None,
    description: bytes | None = None,
) -> bytes:
    """Return a nested storage; `declared`: another count in its description; or all of that."""
    if description is None:
        count = number(numel if declared is None else declared)
        about = text("storage") + of(kind) + text("7") + text(location) + count + b"N"
        description = b"\x80\x02(" + about + b"tQ."
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    return b"".join(
        [
            *(pickle.dumps(v, 2) for v in (MAGIC, 1001, facts)),
            description,
            pickle.dumps(["7"], 2),
            struct.pack("<q", numel) + values,
        ]
    )


def tensor(blob: bytes, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """Push a tensor that is a view of a nested storage."""
    sizes = b"(" + b"".join(map(number, size)) + b"t"
    strides = b"(" + b"".join(map(number, stride)) + b"t"
    return b"".join(
        [
            of("torch._utils._rebuild_tensor_v2") + b"(",
            of("torch.storage._load_from_bytes") + data(blob) + b"\x85R",
            number(offset) + sizes + strides + b"\x89",
            of("collections.OrderedDict") + b")R" + b"tR",
        ]
    )
