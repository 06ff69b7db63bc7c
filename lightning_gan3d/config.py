"""Configuration: typed dataclasses from YAML files and overrides. Imports no torch."""

import dataclasses
import difflib
import functools
import json
import logging
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml

from lightning_gan3d.config_tree import OLD_KIND
from lightning_gan3d.config_tree import Origins as Origins
from lightning_gan3d.config_tree import apply_overrides as apply_overrides
from lightning_gan3d.config_tree import load_tree as load_tree
from lightning_gan3d.config_tree import parse_yaml as parse_yaml
from lightning_gan3d.config_tree import resolve as resolve
from lightning_gan3d.config_tree import split_overrides as split_overrides
from lightning_gan3d.errors import ConfigError as ConfigError
from lightning_gan3d.errors import OutOfRange as OutOfRange
from lightning_gan3d.errors import UserError as UserError
from lightning_gan3d.files import sha256_of_text
from lightning_gan3d.ranges import EVEN as EVEN
from lightning_gan3d.ranges import POWER_OF_TWO as POWER_OF_TWO
from lightning_gan3d.ranges import Count as Count
from lightning_gan3d.ranges import NonNegative as NonNegative
from lightning_gan3d.ranges import Positive as Positive
from lightning_gan3d.ranges import Rule as Rule
from lightning_gan3d.ranges import Share as Share
from lightning_gan3d.ranges import violation

T = TypeVar("T")
_hints: Callable[[Any], dict[str, Any]] = functools.cache(
    functools.partial(typing.get_type_hints, include_extras=True)
)
log = logging.getLogger(__name__)


def _init_fields(cls: Any) -> "dict[str, dataclasses.Field[Any]]":
    return {f.name: f for f in dataclasses.fields(cls) if f.init}


_fields: Callable[[Any], "dict[str, dataclasses.Field[Any]]"] = functools.cache(_init_fields)


def build(cls: type[T], tree: Any, origins: Origins | None = None, path: str = "") -> T:
    """Build a dataclass from plain values; rejects unknown keys, wrong types and bad values.

    The metadata of a field of one plug-in, or of a tuple of them, holds `kinds`: a function from
    `kind` to the dataclass. A dataclass with a class method `upgrade(tree)` reads files of earlier
    versions.
    """
    origins = origins or Origins()
    if not isinstance(tree, Mapping):
        raise _wrong_type(tree, "a mapping of keys to values", path.rstrip("."), origins)
    tree = getattr(cls, "upgrade", lambda tree: tree)(tree)
    fields, hints = _fields(cls), _hints(cls)
    values: dict[str, Any] = {}
    for key, value in tree.items():
        dotted = f"{path}{key}"
        if key == OLD_KIND:  # this class has the settings of all its kinds
            continue
        if key not in fields:
            raise ConfigError(_unknown_key(dotted, str(key), list(fields), origins))
        kinds: Callable[[str], type] | None = fields[key].metadata.get("kinds")
        if kinds is None:
            try:
                values[key] = _convert(value, hints[key], dotted, origins)
            except OutOfRange as error:
                example = fields[key].default
                given = example not in (dataclasses.MISSING, None)
                given = given and not dataclasses.is_dataclass(example)  # an error further down
                raise OutOfRange(f"{error}, e.g. {example}" if given else str(error)) from None
        elif value is None and fields[key].default is None:
            values[key] = None
        elif typing.get_origin(hints[key]) is not tuple:
            values[key] = _build_kind(kinds, value, dotted, origins)
        elif isinstance(value, list | tuple):
            values[key] = tuple(
                _build_kind(kinds, v, f"{dotted}.{i}", origins) for i, v in enumerate(value)
            )
        else:
            raise _wrong_type(value, "a list", dotted, origins)
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(
            f"{error}{origins.of(f'{path}{error.field}') if error.field else ''}"
        ) from None
    except TypeError as error:
        missing = [f.name for f in fields.values() if f.name not in values and not _has_default(f)]
        if not missing:
            raise
        raise ConfigError(f"{path}{missing[0]}: required ({cls.__name__})") from error


def from_options(cls: type[T], options: typing.Sequence[str]) -> T:
    """Build a dataclass from `key=value` arguments."""
    origins = Origins()
    return build(cls, apply_overrides({}, options, origins), origins)


def _has_default(field: "dataclasses.Field[Any]") -> bool:
    return (
        field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    )


def _unknown_key(dotted: str, key: str, valid: list[str], origins: Origins) -> str:
    near = difflib.get_close_matches(key, valid, n=1)
    hint = f"did you mean `{near[0]}`? " if near else ""
    return (
        f"unknown key `{dotted}`{origins.of(dotted)}; {hint}valid keys: {', '.join(sorted(valid))}"
    )


def _build_kind(kinds: Callable[[str], type], value: Any, dotted: str, origins: Origins) -> Any:
    if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
        raise ConfigError(
            f"{dotted}={value!r}{origins.of(dotted)}: write a mapping with `kind:`, "
            "the plug-in's name"
        )
    try:
        config_cls = kinds(value["kind"])
    except ConfigError as error:
        raise ConfigError(
            f"{dotted}.kind={value['kind']}{origins.of(f'{dotted}.kind')}: {error}"
        ) from None
    names = {f.name for f in dataclasses.fields(config_cls)}
    old = value.get(OLD_KIND, [])
    kept, dropped = [k for k in old if k in names], [k for k in old if k not in names]
    origin = origins.of(f"{dotted}.kind")
    if dropped and "command line" in origin:
        log.warning(
            f"{dotted}.kind={value['kind']}{origin}: keeps {', '.join(kept) or 'no setting'}; "
            f"drops {', '.join(dropped)}, which this kind does not have"
        )
    own = {k: v for k, v in value.items() if k not in ("kind", OLD_KIND, *dropped)}
    return build(config_cls, own, origins, f"{dotted}.")


def _convert(value: Any, hint: Any, dotted: str, origins: Origins) -> Any:
    if type(value) is hint and (hint is not float or math.isfinite(value)):  # fast
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        converted = _convert(value, args[0], dotted, origins)
        allowed = violation(converted, args[0], args[1:])
        if allowed:
            raise OutOfRange(f"{dotted}={value}{origins.of(dotted)}: use {allowed}")
        return converted
    if dataclasses.is_dataclass(hint):
        return build(typing.cast("type[Any]", hint), value, origins, f"{dotted}.")
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        inner = [a for a in args if a is not type(None)]
        for candidate in inner[:-1]:
            try:
                return _convert(value, candidate, dotted, origins)
            except ConfigError:
                continue
        return _convert(value, inner[-1], dotted, origins)
    if origin is Literal:
        if value not in args or isinstance(value, bool) != isinstance(
            args[args.index(value)], bool
        ):
            near = difflib.get_close_matches(str(value), [str(a) for a in args], n=1)
            hint_text = f"; did you mean `{near[0]}`?" if near else ""
            choices = ", ".join(str(a) for a in args)
            raise ConfigError(
                f"{dotted}={value}{origins.of(dotted)}: use one of {choices}{hint_text}"
            )
        return args[args.index(value)]  # the choice: 2 where 2.0 was written
    if origin in (tuple, Sequence):
        if not isinstance(value, list | tuple):
            raise _wrong_type(value, "a list", dotted, origins)
        finite = (type(v) is float and math.isfinite(v) for v in value if v is not None)
        if args == (float | None,) and all(finite):  # fast, for the thousands of a metric
            return tuple(value)
        if args[-1] is Ellipsis or origin is Sequence:
            return tuple(
                _convert(v, args[0], f"{dotted}.{i}", origins) for i, v in enumerate(value)
            )
        if len(value) != len(args):
            raise _wrong_type(value, f"a list of {len(args)} values", dotted, origins)
        return tuple(
            _convert(v, a, f"{dotted}.{i}", origins)
            for i, (v, a) in enumerate(zip(value, args, strict=True))
        )
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _wrong_type(value, "a mapping of keys to values", dotted, origins)
        return {str(k): _convert(v, args[1], f"{dotted}.{k}", origins) for k, v in value.items()}
    if hint is Any:
        return value
    return _convert_leaf(value, hint, dotted, origins)


def _convert_leaf(value: Any, hint: Any, dotted: str, origins: Origins) -> Any:
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and not isinstance(value, bool):
        if isinstance(value, int):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and is_number and math.isfinite(value):
        return float(value)
    if hint is str and isinstance(value, str):
        return value
    if hint is str and (is_number or isinstance(value, bool)):
        return origins.text_of(dotted, value)
    if hint is Path and isinstance(value, str) and "\0" not in value:
        return Path(value)
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number, e.g. 1e-3",
        str: "text",
        Path: "a path",
    }
    raise _wrong_type(value, names.get(hint, str(hint)), dotted, origins)


def _wrong_type(value: Any, expected: str, dotted: str, origins: Origins) -> ConfigError:
    return ConfigError(
        f"{dotted}={value!r}{origins.of(dotted)}: use {expected}, not {type(value).__name__}"
    )


def to_tree(config: Any) -> Any:
    """Convert a dataclass to plain values for YAML and JSON; plug-ins carry `kind`."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        tree = {}
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            name_of: Callable[[type], str] | None = field.metadata.get("name_of")
            plain = to_tree(value)
            if name_of and isinstance(value, tuple):
                plain = [{"kind": name_of(type(v)), **to_tree(v)} for v in value]
            elif name_of and value is not None:
                plain = {"kind": name_of(type(value)), **plain}
            tree[field.name] = plain
        return tree
    if isinstance(config, tuple | list):
        return [to_tree(v) for v in config]
    if isinstance(config, Path):
        return str(config)
    return config


def to_yaml(config: Any) -> str:
    """Convert a dataclass to YAML, defaults included."""
    return yaml.dump(to_tree(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Quotes text such as 1e5: PyYAML reads it as text, other readers as a number."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        float(text)
    except ValueError:
        return dumper.represent_str(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'")


_Dumper.add_representer(str, _represent_text)


def digest(tree: Any) -> str:
    """Return eight hexadecimal digits that identify a configuration."""
    return sha256_of_text(json.dumps(tree, sort_keys=True), 8)
