"""Names of the arms of a comparison: their labels, or the settings in which they differ."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

UNHASHED = (
    "seed", "label", "logging",
    "data.path", "data.make", "data.num_workers", "data.memory_mb",
    "training.device", "training.devices", "training.threads",
    "trainer.max_time", "trainer.num_nodes", "trainer.strategy", "trainer.profiler",
    "trainer.loggers",
)  # fmt: skip
"""Settings that do not change the experiment, with all below them."""
IGNORED = (*UNHASHED, "name")
"""Settings that do not make an arm."""


class Arm(NamedTuple):
    """One configuration, with any seed."""

    kind: str
    """Of its representation."""
    name: str
    """Of the experiment."""
    label: str
    """As the user or the sweep named it; empty: by what differs."""
    config: Mapping[str, Any]
    """Resolved configuration as plain values."""


def arm_labels(arms: Sequence[Arm]) -> list[str]:
    """Name arms: by the representation, and by the experiment and the settings that differ."""
    labels = [""] * len(arms)
    for kind, name in dict.fromkeys((a.kind, a.name) for a in arms):
        alike = [i for i, a in enumerate(arms) if (a.kind, a.name) == (kind, name)]
        names = {a.name for a in arms if a.kind == kind}
        settings = factors([arms[i].config for i in alike])
        for i, own in zip(alike, settings, strict=True):
            parts = [name] if len(names) > 1 else []
            rest = ", ".join([*parts, *(f"{key} {value}" for key, value in own.items())])
            if len({a.kind for a in arms}) > 1:
                rest = f"{kind} ({rest})" if rest else kind
            labels[i] = arms[i].label or rest or kind
    return labels


def factors(
    configs: Sequence[Mapping[str, Any]], ignored: Sequence[str] = IGNORED
) -> list[dict[str, str]]:
    """Return the settings in which configurations differ, by their shortest distinct names.

    For example `[{"samples_coarse": "8"}, {"samples_coarse": "16"}]`. A setting that one does not
    have is left out there. An empty configuration is unknown and has no settings.
    """
    flat = [dict(_leaves(config, "", ignored)) for config in configs]
    known = [f for f in flat if f]
    keys = [key for key in dict.fromkeys(k for f in known for k in f) if _differs(known, key)]
    names = short_names(keys)
    return [{names[k]: value_text(f[k]) for k in keys if k in f} for f in flat]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return the shortest suffix of each key that no other key has."""
    return {key: _short(key, keys) for key in keys}


def value_text(value: Any) -> str:
    """Print the value of a setting."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return "/".join(map(value_text, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None or value == {} else str(value)


def natural_key(text: str) -> list[tuple[float, str]]:
    """Sort key by which `samples 8` comes before `samples 16`."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", text)
    return [(float(p), "") if i % 2 else (0.0, p) for i, p in enumerate(parts)]


def _leaves(tree: Mapping[str, Any], prefix: str, ignored: Sequence[str]) -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if prefix + str(key) not in ignored:
            inner = isinstance(value, Mapping) and value
            below = f"{prefix}{key}"
            leaves += _leaves(value, f"{below}.", ignored) if inner else [(below, value)]
    return leaves


def _differs(flat: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(f.get(key, ...) != flat[0].get(key, ...) for f in flat)


def _short(key: str, keys: Sequence[str]) -> str:
    parts = key.split(".")
    for num in range(1, len(parts)):
        name = ".".join(parts[-num:])
        if sum(f".{other}".endswith(f".{name}") for other in keys) == 1:
            return name
    return key
