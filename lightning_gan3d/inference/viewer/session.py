"""One running viewer: generators, server, and the one thread that renders for all clients."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import viser

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.inference.viewer.view_state import Stage, camera_from_page

STILL = 0.2
"""Seconds without a change after which the full picture is rendered."""

Draw = Callable[[int, bool], bool]
"""Render for a client, a draft if the second argument is true; returns whether it was in full."""


class RenderLoop(threading.Thread):
    """Renders the latest request of each client; earlier ones that were not begun are dropped.

    Callbacks of the page run in many threads; only this thread uses the generators. Background
    work is an iterator and advances a step at a time while no picture is due.
    """

    def __init__(self, draw: Draw, report: Callable[[Exception], None]) -> None:
        """`report` gets the errors of `draw` and of background work; the loop continues."""
        super().__init__(name="render", daemon=True)
        self._draw, self._report = draw, report
        self._changed = threading.Condition()
        self._drafts: dict[int, None] = {}
        """Clients that need a draft, the longest waiting first."""
        self._due: dict[int, float] = {}
        """Clients that have a draft, and when they get the full picture."""
        self._work: deque[Iterator[None]] = deque()
        self._stopped = False

    def request(self, *clients: int) -> None:
        """Ask for pictures: something changed for these clients."""
        with self._changed:
            for client in clients:
                self._due.pop(client, None)
                self._drafts[client] = None
            self._changed.notify()

    def forget(self, client: int) -> None:
        """Drop the requests of a client that has left."""
        with self._changed:
            self._due.pop(client, None)
            self._drafts.pop(client, None)

    def work(self, steps: Iterator[None]) -> None:
        """Append background work."""
        with self._changed:
            self._work.append(steps)
            self._changed.notify()

    def close(self) -> None:
        """Stop after the current step."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self.join()

    def run(self) -> None:
        """Render until closed."""
        while (step := self._next()) is not None:
            try:
                step()
            except Exception as error:  # shown on the page; the next request may succeed
                self._report(error)

    def _next(self) -> Callable[[], None] | None:
        """Wait for something to do; None if closed."""
        with self._changed:
            while not self._stopped:
                if self._drafts:
                    client = next(iter(self._drafts))
                    del self._drafts[client]
                    return lambda: self._render(client, draft=True)
                now = time.monotonic()
                ready = [client for client, due in self._due.items() if due <= now]
                if ready:
                    del self._due[ready[0]]
                    return lambda: self._render(ready[0], draft=False)
                if self._work:
                    return self._advance
                wait = min(self._due.values()) - now if self._due else None
                self._changed.wait(wait)
        return None

    def _render(self, client: int, draft: bool) -> None:
        if self._draw(client, draft):
            return
        with self._changed:
            if client not in self._drafts:
                self._due[client] = time.monotonic() + STILL

    def _advance(self) -> None:
        work = self._work[0]
        try:
            next(work)
        except StopIteration:
            self._work.popleft()
        except Exception:
            self._work.popleft()
            raise


class Server(viser.ViserServer):
    """A server of the loopback interface, without viser's tunnel to the public."""

    def __init__(self, port: int) -> None:
        """Serve on `port`, or on the next free one."""
        super().__init__(host="127.0.0.1", port=port, verbose=False)

    def request_share_url(self, verbose: bool = True) -> str | None:
        """Open no tunnel."""
        del verbose
        return None


@dataclass(frozen=True)
class Session:
    """One running viewer."""

    stage: Stage
    server: Server
    loop: RenderLoop
    out: Path
    """Folder of saved pictures and videos."""

    def redraw(self) -> None:
        """Ask for pictures of all clients."""
        self.loop.request(*self.server.get_clients())

    def camera(self, client: viser.ClientHandle) -> tuple[Cameras, str | None]:
        """Return a client's camera, and its text if angles describe it."""
        return camera_from_page(client.camera.wxyz, client.camera.position, self.stage)
