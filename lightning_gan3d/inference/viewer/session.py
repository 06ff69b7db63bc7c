"""What the parts of the page share: generators, server, rendering thread, output folder."""

from dataclasses import dataclass
from pathlib import Path

import viser

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.inference.viewer.render_loop import RenderLoop
from lightning_gan3d.inference.viewer.view_state import Stage, camera_from_page


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
