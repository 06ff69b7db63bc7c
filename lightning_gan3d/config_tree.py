"""Configuration trees: YAML files, their `base:` files, presets, and overrides. Imports no torch.

Values are those of YAML 1.2: only `true` and `false` are booleans, and numbers are decimal. So
`off` is text, and so is `1:30`, which PyYAML reads as 90.
"""

import copy
import os
import re
import stat
import typing
from collections.abc import Hashable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_gan3d.errors import ConfigError, UnsafeConfig
from lightning_gan3d.presets import find_file

OLD_KIND = "settings of the old kind"
"""Key of the list of settings that a mapping has from its old kind."""


MAX_BYTES, MAX_DEPTH, MAX_DIGITS = 100_000, 40, 40
"""Bounds of a YAML file: its size, the depth of its mappings and lists, the digits of a number."""
_RESOLVER = re.compile(r"\$\{[^{}]*:")


# libyaml is five times as fast; PyYAML may be built without it.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]  # libyaml's loader, or the slower one of PyYAML
    """Reads the scalars of YAML 1.2; rejects duplicate keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # declared so in PyYAML's stubs

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys: set[Hashable] = set()
        for node_of_key, _ in node.value:
            key = self.construct_object(node_of_key)
            problem = "duplicate key" if isinstance(key, str) else "quote the key"
            if not isinstance(key, str) or key in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{problem} {key}", node_of_key.start_mark
                )
            keys.add(key)
        values: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return values


def _scalar(tag: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), [*first]
    )


_scalar("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_scalar("int", r"[-+]?[0-9]+", "-+0123456789")
_scalar("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789")
_scalar("null", r"null|Null|NULL|~|", "nN~")


def _whole_number(_: Any, node: yaml.ScalarNode) -> int:
    if len(node.value) > MAX_DIGITS:
        raise yaml.constructor.ConstructorError(
            None, None, f"a number of more than {MAX_DIGITS} digits", node.start_mark
        )
    return int(node.value)


def _reject_tag(_: Any, node: yaml.Node) -> Any:
    raise UnsafeConfig(
        f"line {node.start_mark.line + 1}: tag {node.tag}: a configuration names registered parts "
        "and holds plain values only"
    )


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)
_Loader.add_constructor(None, _reject_tag)


def parse_yaml(text: str) -> Any:
    """Read YAML. Raises yaml.YAMLError."""
    _check_structure(text)
    return yaml.load(text, Loader=_Loader)


def _check_structure(text: str) -> None:
    """Reject aliases and deep nesting."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        problem = f"deeper than {MAX_DEPTH} levels" if depth > MAX_DEPTH else ""
        if isinstance(event, yaml.AliasEvent):
            problem = "aliases (*name) are not read"
        if problem:
            mark: Any = event.start_mark
            raise yaml.composer.ComposerError(None, None, problem, mark)


class Origins:
    """Where each value of a configuration comes from, and how it was written."""

    def __init__(self) -> None:
        self._origins: dict[str, str] = {}
        self._texts: dict[str, str] = {}

    def add_file(self, path: Path, node: yaml.Node | None) -> None:
        """Record the lines of a YAML file; later files win."""
        if isinstance(node, yaml.MappingNode):
            self._walk(node, "", path)

    def _walk(self, node: yaml.MappingNode, prefix: str, path: Path) -> None:
        for key, value in node.value:
            dotted = f"{prefix}{key.value}"
            self._origins[dotted] = f"{path}:{key.start_mark.line + 1}"
            self._texts.pop(dotted, None)
            if isinstance(value, yaml.ScalarNode):
                self._texts[dotted] = value.value
            if isinstance(value, yaml.MappingNode):
                self._walk(value, f"{dotted}.", path)

    def add_override(self, dotted: str, text: str) -> None:
        """Record a value from the command line."""
        self._origins[dotted], self._texts[dotted] = "command line", text

    def text_of(self, dotted: str, value: Any) -> str:
        """Return a number or boolean as it was written, for an option that is text: `1.50`."""
        text = self._texts.get(dotted, "")
        return text if text and parse_yaml(text) == value else str(value)

    def of(self, dotted: str) -> str:
        """Return ` (file:line)` of a key or its nearest parent; empty for defaults."""
        while dotted:
            if dotted in self._origins:
                return f" ({self._origins[dotted]})"
            dotted = dotted.rpartition(".")[0]
        return ""


def load_tree(path: Path, origins: Origins, _seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a YAML file merged over its `base:` files. Rejects tags, duplicate keys and cycles."""
    path, text = _read(path)
    if path in _seen:
        raise ConfigError(
            f"{path}: `base` is circular: {' -> '.join(str(p) for p in (*_seen, path))}"
        )
    try:
        node, tree = _parse(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not a valid YAML configuration: {error}") from None
    except UnsafeConfig as error:
        raise UnsafeConfig(f"{path}: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path}: a configuration is a mapping of keys to values, not a {type(tree).__name__}"
        )
    tree = copy.deepcopy(tree)
    base = tree.pop("base", None)
    merged: dict[str, Any] = {}
    parents = [base] if isinstance(base, str) else base or []
    if not isinstance(parents, list) or not all(isinstance(p, str) for p in parents):
        raise ConfigError(f"{path}: base={base!r}: name a YAML file or a preset, or a list of them")
    for parent in parents:
        merged = merge(merged, load_tree(find_file(parent, path.parent), origins, (*_seen, path)))
    origins.add_file(path, node)
    return merge(merged, typing.cast("dict[str, Any]", tree))


@lru_cache(maxsize=64)
def _parse(text: str) -> tuple[yaml.Node | None, Any]:
    """Parse YAML as nodes and values. Cached: a sweep reads its files for each arm."""
    _check_structure(text)
    node = yaml.compose(text, Loader=_Loader)
    return node, {} if node is None else _Loader("").construct_document(node)


def _read(path: Path) -> tuple[Path, str]:
    """Return the path without links, and the text of a regular file of bounded size."""
    try:
        path = path.resolve()
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) or about.st_size > MAX_BYTES:
            raise ConfigError(f"{path}: a configuration is a file of at most {MAX_BYTES:,} bytes")
        return path, path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except (OSError, RuntimeError, UnicodeError) as error:  # RuntimeError: a loop of links
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except ValueError as error:  # a NUL byte in the name
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{str(path)!r}: not a file name: {error}") from None


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Merge two trees, `above` winning.

    If the `kind` of a mapping changes, `OLD_KIND` lists its settings from `below`: `config.build`
    keeps those that the new kind has. A mapping of positions changes these items of a list.
    """
    old = below.get(OLD_KIND, [])
    if "kind" in above and "kind" in below and above["kind"] != below["kind"]:
        old = [k for k in below if k not in ("kind", OLD_KIND)]
    inherited = above.get(OLD_KIND, [])
    out = {k: v for k, v in below.items() if k != OLD_KIND}
    for key, value in above.items():
        under = out.get(key)
        is_tree = isinstance(value, dict)
        if is_tree and isinstance(under, list) and value and all(map(str.isdecimal, value)):
            out[key] = _merge_items(key, under, value)
        else:
            out[key] = merge(under, value) if is_tree and isinstance(under, dict) else value
    names = [k for k in old if k not in above or k in inherited]
    names += [k for k in inherited if k not in names]
    return {**out, OLD_KIND: names} if names else out


def _merge_items(key: str, below: list[Any], above: dict[str, Any]) -> list[Any]:
    items = list(below)
    for position, value in above.items():
        if int(position) >= len(items):
            raise ConfigError(
                f"{key}.{position}: the list has {len(items)} item(s), numbered from 0; to add "
                f"one, set the whole list, {key}=[...]"
            )
        under = items[int(position)]
        both = isinstance(under, dict) and isinstance(value, dict)
        items[int(position)] = merge(under, value) if both else value
    return items


def apply_overrides(
    tree: dict[str, Any], overrides: Sequence[str], origins: Origins
) -> dict[str, Any]:
    """Apply `a.b=value` overrides; values are parsed as YAML."""
    for item in overrides:
        key, equals, text = item.partition("=")
        if item.startswith("-") or not equals or not key or not all(key.split(".")) or "[" in key:
            raise ConfigError(
                f"override `{item}`: write key.path=value, e.g. optimizer.generator.lr=0.002"
            )
        try:
            value = _parse_override(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"override `{item}`: the value is not valid YAML: {error}") from None
        above: Any = value
        for part in reversed(key.split(".")):
            above = {part: above}
        try:
            tree = merge(tree, above)
        except ConfigError as error:
            raise ConfigError(f"override `{item}`: {error}") from None
        origins.add_override(key, text)
    return tree


def _parse_override(text: str) -> Any:
    """Parse a value as YAML, without comments: `data.path=my #2 set.zip`."""
    value = parse_yaml(text) if text else ""
    plain = text[:1] not in ("'", '"', "[", "{", "|", ">")
    return text if plain and " #" in text else value


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split arguments into names or paths, and `a.b=value` overrides."""
    # Not Path.exists, which raises for long names.
    is_override = ["=" in x and not os.path.exists(x) for x in arguments]
    pairs = list(zip(arguments, is_override, strict=True))
    return [x for x, given in pairs if not given], [x for x, given in pairs if given]


def resolve(tree: dict[str, Any]) -> dict[str, Any]:
    """Resolve `${...}` interpolations, which name other keys. `data.path` is plain text.

    Environment variables are not read: a stored configuration would hold their values.
    """
    _reject_resolvers(tree, "")
    data = tree.get("data")
    if isinstance(data, dict) and "${" in str(data.get("path", "")):
        plain = resolve({**tree, "data": {k: v for k, v in data.items() if k != "path"}})
        return {**plain, "data": {"path": data["path"], **plain["data"]}}
    if not _has_interpolation(tree):  # OmegaConf is slow
        return tree
    try:
        return typing.cast(
            "dict[str, Any]", OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
        )
    except OmegaConfBaseException as error:
        raise ConfigError(f"interpolation cannot be resolved: {error}") from None


def _has_interpolation(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_interpolation, value.values()))
    if isinstance(value, list):
        return any(map(_has_interpolation, value))
    return isinstance(value, str) and "${" in value


def _reject_resolvers(value: Any, key: str) -> None:
    if isinstance(value, dict):
        for name, below in value.items():
            _reject_resolvers(below, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for below in value:
            _reject_resolvers(below, key)
    elif isinstance(value, str) and key != "data.path" and _RESOLVER.search(value):
        raise ConfigError(
            f"{key}={value}: an interpolation names another key, e.g. ${{data.resolution}}; "
            "environment variables and other resolvers are not read"
        )
