"""The arguments that a network in a pickle was built with: each of a known kind, none left over."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from lightning_gan3d.checkpoints.source import shown
from lightning_gan3d.checkpoints.store import CheckpointError

MOST = 2**20
"""Largest whole number; no size, count or resolution of a network comes near."""
_MISSING = object()


class Network(NamedTuple):
    """A network as it lies in a file."""

    name: str
    """Of its class, such as `TriPlaneGenerator`."""
    attributes: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    """Parameters and buffers by dotted name."""


def said(value: Any) -> str:
    """Return a value of a file such that it can stand in a message: one line, short, printable."""
    if isinstance(value, int) and abs(value) > 2**63:
        return "a huge number"  # which Python may refuse to write out
    if isinstance(value, list | tuple):
        return shown(f"[{', '.join(said(x) for x in value[:20])}]")
    if value is None or isinstance(value, bool | int | float | str):
        return shown(str(value))
    return f"({type(value).__name__})"


def number(name: str, value: Any) -> float:
    """Return a number of a file, or refuse what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e12:
        raise CheckpointError(f"{name}={said(value)}: this is a number elsewhere")
    return float(value)


def whole(name: str, value: Any) -> int:
    """Return a whole number from 0 of a file, or refuse what is none."""
    if number(name, value) not in range(MOST + 1):
        raise CheckpointError(
            f"{name}={said(value)}: this is a whole number up to {MOST} elsewhere"
        )
    return int(value)


class Arguments:
    """Arguments of a constructor; each must be taken, or it is foreign."""

    def __init__(
        self, network: Network, name: str = "", options: Mapping[str, Any] | None = None
    ) -> None:
        """Start with those of the network, or with `options`, a mapping called `name`."""
        self._name, self._class = name, shown(network.name)
        if options is None:
            options = mapping(network, "_init_kwargs")
            if network.attributes.get("_init_args"):
                raise CheckpointError(
                    f"the {self._class} was built with unnamed arguments; it is not the release's"
                )
        self._network, self._options = network, dict(options)

    def has(self, key: str) -> bool:
        """Whether it is given."""
        return key in self._options

    def take(self, key: str, default: Any = _MISSING) -> Any:
        """Return an argument of any kind."""
        value = self._options.pop(key, default)
        if value is _MISSING:
            raise CheckpointError(
                f"the {self._class} does not say {self._path(key)}; it is not the release's"
            )
        return value

    def number(self, key: str, default: Any = _MISSING) -> float:
        """Return an argument that is a number."""
        return number(self._path(key), self.take(key, default))

    def whole(self, key: str, default: Any = _MISSING) -> int:
        """Return an argument that is a whole number from 0."""
        return whole(self._path(key), self.take(key, default))

    def flag(self, key: str, default: Any = _MISSING) -> bool:
        """Return an argument that is on or off."""
        value = self.take(key, default)
        if not isinstance(value, bool | int | None):
            raise CheckpointError(
                f"{self._path(key)}={said(value)}: this is true or false elsewhere"
            )
        return bool(value)

    def inner(self, key: str) -> "Arguments":
        """Return arguments that are a mapping."""
        value = self.take(key, {})
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{self._path(key)} of the {self._class} is no mapping")
        return Arguments(self._network, self._path(key), value)

    def expect(self, key: str, value: Any) -> None:
        """Refuse another value than the only one known."""
        found = self.take(key, value)
        parts = found if isinstance(found, list | tuple) else [found]
        plain = all(x is None or isinstance(x, bool | int | float | str) for x in parts)
        same = list(found) == value if isinstance(found, tuple) else plain and found == value
        if not same:
            raise CheckpointError(
                f"{self._path(key)}={said(found)} of the {self._class}: only {value} is known here"
            )

    def ignore(self, *keys: str) -> None:
        """Drop what has no effect on what is computed."""
        for key in keys:
            self._options.pop(key, None)

    def ignore_all(self) -> None:
        """Drop everything: it describes what is not there."""
        self._options.clear()

    def left(self) -> list[str]:
        """What nobody took, as `key=value`."""
        return [
            f"{shown(self._path(k))}={said(v)}" for k, v in sorted(self._options.items(), key=str)
        ]

    def finish(self, *others: "Arguments") -> None:
        """Refuse what nobody took, here and in the others."""
        left: Iterable[str] = [item for o in (self, *others) for item in o.left()]
        for item in left:
            raise CheckpointError(
                f"the {self._class} was built with {item}, which is not known here: a fork's?"
            )

    def _path(self, key: Any) -> str:
        return f"{self._name}.{key}" if self._name else str(key)


def mapping(network: Network, name: str) -> Mapping[str, Any]:
    """Return an attribute of a network that is a mapping."""
    found = network.attributes.get(name)
    if not isinstance(found, Mapping):
        raise CheckpointError(f"the {shown(network.name)} has no {name}; it is not the release's")
    return found
