"""Plug-ins by name: the project's own, then those of other packages by entry point."""

import difflib
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from lightning_gan3d.config import ConfigError

Group = Literal["representations", "renderers", "heads", "loss_terms"]
AnyGroup = Literal[Group, "callbacks", "loggers", "strategies"]
Plugin = tuple[type, Callable[..., Any]]
"""The configuration dataclass, and the class built from it or the function called with it."""


def own(group: Group) -> Mapping[str, Plugin]:
    """Return the project's own plug-ins. The import is late, since plug-ins import the core."""
    if group == "representations":
        from representations import REPRESENTATIONS

        return REPRESENTATIONS
    if group == "loss_terms":
        from lightning_gan3d.training.terms import LOSS_TERMS

        return LOSS_TERMS
    if group == "heads":
        from renderers.image_heads import HEADS

        return HEADS
    from renderers import RENDERERS

    return RENDERERS


def external(group: AnyGroup) -> dict[str, EntryPoint]:
    """Return the entry points of other installed packages, not yet loaded."""
    places = tuple((path, _changed(path)) for path in sys.path)
    return dict(_points(entry_points, f"lightning_gan3d.{group}", places))


def _changed(path: str) -> int:
    try:
        return os.stat(path or ".").st_mtime_ns
    except OSError:
        return 0


@functools.lru_cache(maxsize=32)
def _points(
    search: Callable[..., Any],
    group: str,
    places: tuple[tuple[str, int], ...],  # noqa: ARG001  # a key: an installation changes them
) -> dict[str, EntryPoint]:
    """Search once: it reads the metadata of every installed package."""
    return {e.name: e for e in search(group=group)}


def find(group: Group, name: str) -> Plugin:
    """Return (Config, Class), or (Config, function) of a loss term. Raises `ConfigError`."""
    mine, others = own(group), external(group)
    if name in mine:
        return mine[name]
    if name not in others:
        raise unknown(group, name, [*mine, *others])
    entry = others[name]
    try:
        plugin: Any = entry.load()
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"the {_singular(group)} `{name}` of {entry.value} cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error
    part = "function" if group == "loss_terms" else "Class"
    pair = isinstance(plugin, tuple) and len(plugin) == 2 and isinstance(plugin[0], type)
    if not pair or not (callable(plugin[1]) if part != "Class" else isinstance(plugin[1], type)):
        raise ConfigError(
            f"the entry point {entry.value} must be a tuple (Config, {part}), not {plugin!r}"
        )
    return plugin[0], plugin[1]


def unknown(group: AnyGroup, name: str, known: Sequence[str]) -> ConfigError:
    """Return the error for a name that is not among the known ones."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean `{near[0]}`?" if near else ""
    return ConfigError(f"no {_singular(group)} `{name}`; have {', '.join(sorted({*known}))}{hint}")


def _singular(group: AnyGroup) -> str:
    return {"strategies": "strategy"}.get(group, group[:-1].replace("_", " "))


def module_of(group: Group, config: Any) -> Any:
    """Return the class built from this configuration, or the function of a loss term."""
    return find(group, name_of(group)(type(config)))[1]


def metadata(group: Group) -> dict[str, Any]:
    """Return the metadata of a configuration field that holds plug-ins."""
    return {"kinds": kinds(group), "name_of": name_of(group)}


def kinds(group: Group) -> Callable[[str], type]:
    """Return a function from `kind` to the configuration dataclass, for `config.build`."""
    return lambda name: find(group, name)[0]


def name_of(group: Group) -> Callable[[type], str]:
    """Return a function from the configuration dataclass to `kind`, for `config.to_tree`."""

    def lookup(config_cls: type) -> str:
        for name, plugin in own(group).items():
            if plugin[0] is config_cls:
                return name
        for name in external(group):
            try:
                if find(group, name)[0] is config_cls:
                    return name
            except ConfigError:  # a broken plug-in of another package
                continue
        raise ConfigError(f"{config_cls.__name__} is not registered among the {group}")

    return lookup
