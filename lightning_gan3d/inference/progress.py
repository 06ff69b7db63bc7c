"""A progress bar with the time left, on a terminal only."""

from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Iterable[Item], name: str, total: int) -> Iterable[Item]:
    """Show on stderr how many of `total` items are done."""
    from rich.console import Console
    from rich.progress import track as with_bar

    console = Console(stderr=True)
    return with_bar(items, name, total, console=console, disable=not console.is_terminal)
