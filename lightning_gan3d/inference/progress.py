"""A progress bar with the time left, on a terminal only."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Iterable[Item], name: str, total: int) -> Iterator[Item]:
    """Yield the items and show how many of `total` are done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=total)
        for item in items:
            yield item
            progress.advance(task)
