"""Stop signals and exit codes of a run. Imports no torch, so that signals are handled early."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

DONE, FAILED, STOPPED = 0, 4, 75
"""Exit codes of a run. After `STOPPED`, the same command continues it."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Keyboard, system or scheduler, closed terminal, and a scheduler's early warnings."""


class SignalHandler:
    """Handles stop signals within a `with` block of the main thread; ignored ones stay ignored."""

    def __init__(self, handler: Callable[[int], None]) -> None:
        self._handler = handler
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Any:
        if threading.current_thread() is threading.main_thread():
            handlers = {s: signal.getsignal(s) for s in STOP_SIGNALS}
            self._previous = {s: h for s, h in handlers.items() if h is not signal.SIG_IGN}
            self.install()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Install the handler again, e.g. after Lightning has installed its own."""
        for number in self._previous:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._handler(number)


class Interrupted(BaseException):
    """Ends a command at once, with the name of the signal; what was saved remains."""


class StopRequest(SignalHandler):
    """Records a stop signal, so that the current step can finish. A second Ctrl-C interrupts.

    `at_once`: interrupt on the first signal.
    """

    def __init__(self, at_once: bool = False) -> None:
        super().__init__(self._record)
        self._at_once = at_once
        self.reason: str | None = None

    def _record(self, number: int) -> None:
        if self._at_once or (number == signal.SIGINT and self.reason is not None):
            raise Interrupted(signal.Signals(number).name)
        self.reason = signal.Signals(number).name
