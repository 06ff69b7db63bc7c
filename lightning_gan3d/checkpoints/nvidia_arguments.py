"""Arguments of networks in NVIDIA's pickles, read once each; unread ones are errors."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from lightning_gan3d.checkpoints.pickled_objects import printable
from lightning_gan3d.checkpoints.store import CheckpointError

LARGEST = 2**20
"""Upper bound of sizes, counts and resolutions."""
_MISSING = object()


class Network(NamedTuple):
    """A network as stored in a file."""

    name: str
    """Class, such as `TriPlaneGenerator`."""
    attributes: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    """Parameters and buffers by dotted name."""

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Return an attribute that is a mapping."""
        value = self.attributes.get(name)
        if not isinstance(value, Mapping):
            raise CheckpointError(
                f"the {printable(self.name)} has no {name}; is this checkpoint from a fork?"
            )
        return value


def text_of(value: Any) -> str:
    """Format a value of a file for a message: one line, short, printable."""
    if isinstance(value, int) and abs(value) > 2**63:
        return "a huge number"
    if isinstance(value, list | tuple):
        return printable(f"[{', '.join(text_of(x) for x in value[:20])}]")
    return printable(str(value)) if _is_simple(value) else f"({type(value).__name__})"


def _is_simple(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def number(name: str, value: Any) -> float:
    """Return a number of a file; reject other values."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e12:
        raise CheckpointError(f"{name}={text_of(value)}: expected a number")
    return float(value)


def whole(name: str, value: Any) -> int:
    """Return a whole number of a file, from 0 to `LARGEST`; reject other values."""
    if number(name, value) not in range(LARGEST + 1):
        raise CheckpointError(f"{name}={text_of(value)}: expected a whole number up to {LARGEST}")
    return int(value)


class Arguments:
    """Arguments of a constructor; `finish` rejects those that were not read."""

    def __init__(
        self, network: Network, name: str = "", options: Mapping[str, Any] | None = None
    ) -> None:
        """Start with those of the network, or with `options`, a mapping called `name`."""
        self._network, self._class = network, printable(network.name)
        self._prefix = f"{name}." if name else ""
        if options is None and network.attributes.get("_init_args"):
            raise CheckpointError(
                f"the {self._class} was built with unnamed arguments; from a fork?"
            )
        self._options = dict(network.mapping("_init_kwargs") if options is None else options)

    def __contains__(self, key: str) -> bool:
        """Whether an argument is given, and not yet read."""
        return key in self._options

    def take(self, key: str, default: Any = _MISSING) -> Any:
        """Return an argument of any kind."""
        value = self._options.pop(key, default)
        if value is _MISSING:
            raise CheckpointError(
                f"the {self._class} has no argument {self._prefix}{key}; is this checkpoint from a "
                "fork?"
            )
        return value

    def number(self, key: str, default: Any = _MISSING) -> float:
        """Return an argument that is a number."""
        return number(self._prefix + key, self.take(key, default))

    def number_or_none(self, key: str, default: Any) -> float | None:
        """Return an argument that is a number or None."""
        value = self.take(key, default)
        return None if value is None else number(self._prefix + key, value)

    def whole(self, key: str, default: Any = _MISSING) -> int:
        """Return an argument that is a whole number from 0."""
        return whole(self._prefix + key, self.take(key, default))

    def flag(self, key: str, default: Any = _MISSING) -> bool:
        """Return an argument that is on or off."""
        value = self.take(key, default)
        if not isinstance(value, bool | int | None):
            raise CheckpointError(f"{self._prefix}{key}={text_of(value)}: expected true or false")
        return bool(value)

    def choice(self, key: str, choices: Collection[str], default: Any = _MISSING) -> str:
        """Return an argument that is one of the texts."""
        value = self.take(key, default)
        if not isinstance(value, str) or value not in choices:
            raise CheckpointError(
                f"{self._prefix}{key}={text_of(value)}: use one of {', '.join(choices)}"
            )
        return value

    def inner(self, key: str) -> "Arguments":
        """Return arguments that are a mapping."""
        value = self.take(key, {})
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{self._prefix}{key} of the {self._class} is not a mapping")
        return Arguments(self._network, self._prefix + key, value)

    def expect(self, **expected: Any) -> None:
        """Reject any other value than the supported one of each key."""
        for key, only in expected.items():
            value = self.take(key, only)
            value = list(value) if isinstance(value, tuple) else value
            # Tensors have no truth value.
            simple = all(map(_is_simple, value if isinstance(value, list) else [value]))
            if not simple or value != only:
                raise CheckpointError(
                    f"{self._prefix}{key}={text_of(value)} of the {self._class}: only {only} is "
                    "supported"
                )

    def ignore(self, *keys: str) -> None:
        """Drop arguments without effect on the result; all of them if none is named."""
        for key in keys or list(self._options):
            self._options.pop(key, None)

    def left(self) -> list[str]:
        """List the arguments that were not read, as `key=value`."""
        items = sorted(self._options.items(), key=str)
        return [f"{printable(f'{self._prefix}{k}')}={text_of(v)}" for k, v in items]

    def finish(self, *others: "Arguments") -> None:
        """Reject arguments that were not read, here and in the others."""
        for item in (item for arguments in (self, *others) for item in arguments.left()):
            raise CheckpointError(
                f"unsupported argument {item} in the {self._class}; is this checkpoint from a fork?"
            )
