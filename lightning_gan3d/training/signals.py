"""Ctrl-C and the like: finish the step, save, stop; a second Ctrl-C stops at once."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""The keyboard, the system or a scheduler, and a scheduler's early warning."""


class StopRequest:
    """Remembers that somebody asked to stop; nothing is done inside a signal's handler."""

    def __init__(self, at_once: bool = False) -> None:
        """Nobody asked yet. `at_once`: the first request interrupts, for there is no step."""
        self._at_once = at_once
        self.reason: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        """Watch what is not ignored; outside the main thread signals are somebody else's."""
        if threading.current_thread() is threading.main_thread():
            found = {s: signal.getsignal(s) for s in WATCHED}
            self._before = {s: h for s, h in found.items() if h is not signal.SIG_IGN}
            self.watch()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def watch(self) -> None:
        """Take the signals back from Lightning, which installs handlers of its own at the start."""
        for number in self._before:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._at_once or (number == signal.SIGINT and self.reason is not None):
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name
