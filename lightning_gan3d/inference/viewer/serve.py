"""Serve the viewer: clients, pictures, speed and memory."""

import math
import time
import traceback
import webbrowser
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import viser

from lightning_gan3d.cameras import fov_from_focal
from lightning_gan3d.config import UserError
from lightning_gan3d.devices import peak_memory_mb
from lightning_gan3d.inference.config import RenderOptions, ViewOptions
from lightning_gan3d.inference.model import output_folder
from lightning_gan3d.inference.pictures import enlarged
from lightning_gan3d.inference.viewer.capture import Capture, Gallery
from lightning_gan3d.inference.viewer.controls import Controls, MeshOverlay
from lightning_gan3d.inference.viewer.session import RenderLoop, Server, Session
from lightning_gan3d.inference.viewer.view_state import Stage, ViewState, letterbox

DRAFT = 1 / 15
"""Seconds that a picture may take while something moves."""
SHARP = 512
"""Smaller pictures are enlarged by a whole factor: browsers blur, and JPEG smears colours."""
UPDATES = 0.25
"""Seconds between two updates of the line with speed and memory."""


class Viewer:
    """A page for any number of clients: each has its camera, all share the controls."""

    def __init__(self, stage: Stage, options: ViewOptions, out: Path) -> None:
        """Start the server and the rendering; pictures and videos are saved to `out`."""
        self.loop = RenderLoop(self._draw, self._report)
        self.server = Server(options.port)
        self.session = Session(stage, self.server, self.loop, out)
        self._updated, self._fov = 0.0, fov_from_focal(float(stage.orbit.intrinsics[1, 1]))
        self._set_up_scene()
        gui = self.server.gui
        gui.add_markdown("**" + " | ".join(model.name for model in stage.models) + "**")
        self.status = gui.add_markdown("Rendering ...")
        tabs = gui.add_tab_group()
        shared = {f.name: getattr(options, f.name) for f in fields(RenderOptions)}
        with tabs.add_tab("Scene"):
            self.controls = Controls(self.session, ViewState(**shared))
            self.mesh = MeshOverlay(self.session)
        with tabs.add_tab("Gallery"):
            Gallery(self.session, self.controls)
        with tabs.add_tab("Save"):
            self.capture = Capture(self.session, self.controls)
        self.server.on_client_connect(self._connect)
        self.server.on_client_disconnect(lambda client: self.loop.forget(client.client_id))
        self.loop.start()

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self.server.get_port()}"

    def close(self) -> None:
        """Stop rendering and serving."""
        self.loop.close()
        self.server.stop()

    def _set_up_scene(self) -> None:
        server, orbit = self.server, self.session.stage.orbit
        server.scene.set_up_direction("+y")
        server.initial_camera.up = (0.0, 1.0, 0.0)
        server.initial_camera.position = orbit.cameras(1).origins[0].numpy()
        server.initial_camera.look_at = orbit.target
        server.initial_camera.fov = self._fov
        server.gui.configure_theme(show_logo=False, show_share_button=False)
        server.gui.main_panel.dock_right()
        server.gui.set_panel_label("gan3d view")

    def _connect(self, client: viser.ClientHandle) -> None:
        client.camera.on_update(lambda _: self.loop.request(client.client_id))
        self.loop.request(client.client_id)

    def _draw(self, client_id: int, draft: bool) -> bool:
        """Render and send the picture of a client; returns whether it was in full."""
        client = self.server.get_clients().get(client_id)
        if client is None:
            return True
        stage, state = self.session.stage, self.controls.state
        chosen = stage.draft(state, DRAFT) if draft else state
        camera, angles = self.session.camera(client)
        started = time.perf_counter()
        picture = stage.render(chosen, camera)
        seconds = time.perf_counter() - started
        sharp = enlarged(picture, max(1, SHARP // picture.shape[0]))
        canvas = letterbox(sharp, client.camera.aspect)
        client.scene.set_background_image(canvas, format="jpeg", jpeg_quality=90)
        client.flush()
        # The browser draws a mesh with this field of view.
        fov = 2 * math.atan(math.tan(self._fov / 2) * canvas.shape[0] / sharp.shape[0])
        if not math.isclose(client.camera.fov, fov, rel_tol=1e-3):
            client.camera.fov = fov
        self.mesh.update(state)
        if chosen == state:
            self.capture.show_command(state, camera, angles)
        if chosen == state or time.monotonic() - self._updated > UPDATES:
            self._updated = time.monotonic()
            self.status.content = self._speed(chosen, seconds)
        return chosen == state

    def _speed(self, state: ViewState, seconds: float) -> str:
        stage = self.session.stage
        side = state.rendering_resolution or stage.rendering_resolution
        scenes = " + ".join(f"{n / 1e6:.2g}" for n in stage.scene_bytes)
        return (
            f"{1 / seconds:.0f} fps ({seconds * 1e3:.0f} ms at {side}²) · scene {scenes} MB · "
            f"peak memory {peak_memory_mb(stage.models[0].device):,.0f} MB"
        )

    def _report(self, error: Exception) -> None:
        if not isinstance(error, UserError):
            traceback.print_exception(error)
        self.capture.progress.visible = False
        for client in self.server.get_clients().values():
            client.add_notification("Error", str(error), color="red")


def view(references: Sequence[str], options: ViewOptions, out: Path | None = None) -> None:
    """Serve the page until Ctrl-C."""
    stage = Stage(references, options)
    viewer = Viewer(stage, options, output_folder(references, "views", out))
    try:
        for model in stage.models:
            print(model.summary)
        print(f"{viewer.url} (from this machine only; Ctrl-C ends)", flush=True)
        if options.open:
            webbrowser.open(viewer.url)
        viewer.server.sleep_forever()
    except KeyboardInterrupt:
        print()
    finally:
        viewer.close()
