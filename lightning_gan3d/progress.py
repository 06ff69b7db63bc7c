"""Progress bars with the time left, and spinners, on a terminal only."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")


def track(
    items: Iterable[Item], name: str, total: int | None = None, enabled: bool = True
) -> Iterator[Item]:
    """Show how many items are done; `total`: their number, if `items` has no length."""
    with _bar(enabled) as bar:
        yield from bar.track(items, total, description=name)


@contextmanager
def counting(
    name: str, total: int, start: int = 0, enabled: bool = True
) -> Iterator[Callable[[int], None]]:
    """Show how much of `total` is done; yields a function that sets it."""
    with _bar(enabled) as bar:
        task = bar.add_task(name, total=total, completed=start)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """Show a text and a spinner, e.g. while torch is imported."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(text):
            yield
    else:
        yield


def _bar(enabled: bool) -> "Progress":
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        console=console,
        redirect_stdout=sys.stdout.isatty(),  # a log in a file stays there
        transient=True,
        disable=not (enabled and console.is_terminal),
    )
