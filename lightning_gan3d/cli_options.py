"""What several modules of commands share: arguments, options, and the end at a stop signal."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from lightning_gan3d.errors import ConfigError
from lightning_gan3d.ranges import parse_ranges
from lightning_gan3d.training.signals import STOPPED, Interrupted, StopRequest

Root = Annotated[Path, typer.Option(help="Parent folder of the run directories.")]
Seeds = Annotated[str | None, typer.Option(help="Seeds instead of the file's, e.g. 0-2 or 0,5.")]
TrainDevice = Annotated[
    str | None, typer.Option("--device", help="auto, cpu or cuda; as training.device=.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Overrides: key.path=value ...", metavar="[K=V]...")
]


def with_device(overrides: list[str] | None, device: str | None) -> list[str]:
    """Add the option `--device` to overrides."""
    return [*(overrides or []), *([] if device is None else [f"training.device={device}"])]


def numbers_of(option: str, text: str | None) -> list[int]:
    """Parse the numbers of an option such as `--seeds 0-2`; [] if it is not given."""
    if text is None:
        return []
    try:
        numbers = parse_ranges(text)
    except ValueError as error:
        raise ConfigError(f"{option} {text}: {error}") from None
    if not numbers:
        raise ConfigError(f"{option}: give numbers, e.g. 0-2")
    return numbers


@contextmanager
def stoppable() -> Iterator[None]:
    """End a command at a stop signal, where it does not handle the signal itself."""
    try:
        with StopRequest(at_once=True):
            yield
    except Interrupted as number:
        typer.echo(f"stopped ({number}); the same command continues")
        raise typer.Exit(STOPPED) from None
