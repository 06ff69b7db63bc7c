"""What a module of a network pickle becomes: a record of its name and state, inert."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lightning_gan3d.checkpoints.source import damaged, shown
from lightning_gan3d.checkpoints.store import CheckpointError

MAX_DEPTH = 200
"""Deepest nesting of a file's values; a generator reaches about 30."""
MAX_MODULE_DEPTH = 50
"""Deepest nesting of modules."""
MAX_ENTRIES = 20_000
"""Most modules and tensors of a network, each counted wherever it is used."""
MAX_NAME = 200
"""Longest name of one module or tensor."""


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """An instance of a class in a pickle: inert, compared by identity."""

    module: str
    """Module of the class; empty where the class was embedded as source code (`persistent`)."""
    name: str
    """Name of the class."""
    state: dict[str, Any] = field(default_factory=dict, repr=False)
    """Attributes; of a module also `_parameters`, `_buffers` and `_modules`."""
    source_sha256: str | None = None
    """Hash of the embedded source code, which is neither compiled nor run."""
    persistent: bool = False
    """The class was embedded as source code."""


def tensors_of(record: Record) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by dotted name, as the module's `state_dict` did.

    Tensors are those of the record, not copies. A module used twice appears under both names.

    Raises:
        CheckpointError: the tree is no module's, refers to itself, or is larger than any network.
    """
    tensors: dict[str, Tensor] = {}
    entries = 0
    todo = [("", record, 0)]
    while todo:
        prefix, module, depth = todo.pop()
        if depth > MAX_MODULE_DEPTH:
            raise _unlike_modules(record, f"deeper than {MAX_MODULE_DEPTH}, or in themselves")
        parts = {name: _part(module, name) for name in ("_parameters", "_buffers", "_modules")}
        entries += 1 + sum(map(len, parts.values()))
        if entries > MAX_ENTRIES:
            raise _unlike_modules(record, f"with more than {MAX_ENTRIES} entries")
        children = []
        for part, values in parts.items():
            for name, value in values.items():
                _check_entry(module, part, name, value)
                if part == "_modules" and value is not None:
                    children.append((f"{prefix}{name}.", value, depth + 1))
                elif value is not None and not (part == "_buffers" and _left_out(module, name)):
                    tensors[prefix + name] = value
        todo += reversed(children)  # depth first, in the order of registration
    return tensors


def _part(module: Record, part: str) -> dict[Any, Any]:
    entries = module.state.get(part, {})
    if not isinstance(entries, dict):
        raise _unlike_modules(module, f"whose {part} is not a dict")
    return entries


def _check_entry(module: Record, part: str, name: Any, value: Any) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or "." in name:
        raise _unlike_modules(module, f"with an entry of {part} that has no proper name")
    kind = Record if part == "_modules" else Tensor
    if not isinstance(value, kind | None):
        raise _unlike_modules(module, f"whose {part[1:]} {shown(name)} is a {type(value).__name__}")


def _left_out(module: Record, name: str) -> bool:
    names = module.state.get("_non_persistent_buffers_set", frozenset())
    return isinstance(names, set | frozenset) and name in names


def _unlike_modules(record: Record, what: str) -> CheckpointError:
    return CheckpointError(
        f"{shown(record.name)} holds modules {what}; no network does: export it again"
    )


_LEAVES = frozenset({type(None), bool, int, float, str, Tensor})


def check_plain(root: Any) -> None:
    """Refuse values that are not plain data, contain themselves, or nest beyond `MAX_DEPTH`.

    So that whoever walks the values can recurse.
    """
    heights: dict[int, int] = {}  # by identity; 0 while the value's own parts are being visited
    todo = [(root, False)]
    while todo:
        value, visited = todo.pop()
        if type(value) in _LEAVES:
            continue
        parts = _parts(value)
        if visited:
            height = 1 + max((heights.get(id(p), 0) for p in parts), default=0)
            if height > MAX_DEPTH:
                raise damaged(f"its values nest deeper than {MAX_DEPTH}")
            heights[id(value)] = height
        elif heights.get(id(value)) == 0:
            raise damaged("a value contains itself")
        elif id(value) not in heights:
            heights[id(value)] = 0
            todo.append((value, True))
            todo.extend((p, False) for p in parts)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Record):
        return [value.state]
    if isinstance(value, dict):
        return list(value.values())  # keys are text and numbers
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    raise damaged(f"a {type(value).__name__} where a network has values")
