"""The gallery of seeds, and what is saved: pictures with their command, videos."""

import html
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import viser

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.files import sha256_of_text
from lightning_gan3d.inference.camera_paths import cameras_of, smooth_path
from lightning_gan3d.inference.pictures import Pixels, Tile, contact_sheet, save_png
from lightning_gan3d.inference.video import video_writer
from lightning_gan3d.inference.viewer.controls import Controls
from lightning_gan3d.inference.viewer.session import Session
from lightning_gan3d.inference.viewer.view_state import (
    THUMBNAIL,
    ViewState,
    camera_file,
    command_of,
    generate_options,
    save_camera,
)

GALLERY = 12
"""Seeds on a page of the gallery."""
FPS = 30
"""Frames per second of videos."""


class Gallery:
    """Thumbnails of consecutive seeds, and a button for each."""

    def __init__(self, session: Session, controls: Controls) -> None:
        """Add the controls to the panel; thumbnails are rendered in the background."""
        self._session, self._controls, self._page = session, controls, 0
        gui = session.server.gui
        side = min(session.stage.models[0].generator.resolution, THUMBNAIL)
        blank = [Tile("", [np.full((side, side, 3), 255, np.uint8)])] * GALLERY
        self._sheet = gui.add_image(_grid(blank), format="png")
        self._choices = gui.add_button_group("Choose", [str(i) for i in range(GALLERY)])
        self._choices.on_click(lambda _: self._choose(int(self._choices.value)))
        turn = gui.add_button_group("Page", ["Previous", "Next", "Render again"])
        turn.on_click(lambda _: self._turn({"Previous": -1, "Next": 1}.get(turn.value, 0)))
        gui.add_markdown("*First generator, frontal view, with the settings of the scene.*")
        session.loop.work(self._fill())

    def _choose(self, seed: int) -> None:
        self._controls.seed.value = seed

    def _turn(self, pages: int) -> None:
        self._page = max(0, self._page + pages)
        self._session.loop.work(self._fill())

    def _fill(self) -> Iterator[None]:
        state, first, tiles = self._controls.state, self._page * GALLERY, []
        for seed in range(first, first + GALLERY):
            picture = self._session.stage.thumbnail(replace(state, seed=seed))
            tiles.append(Tile(str(seed), [picture]))
            yield
        self._sheet.image = _grid(tiles)
        self._choices.options = tuple(tile.caption for tile in tiles)


def _grid(tiles: list[Tile]) -> Pixels:
    return contact_sheet(tiles, columns=4)


class Capture:
    """Saves pictures and videos; they are also downloaded by the browser."""

    def __init__(self, session: Session, controls: Controls) -> None:
        """Add the controls to the panel."""
        self._session, self._controls = session, controls
        self._cameras: list[Cameras] = []
        gui = session.server.gui
        with gui.add_folder("Picture"):
            save = gui.add_button("Save picture")
            save.on_click(lambda event: self._save(event.client))
            gui.add_markdown("Command that writes this picture:")
            self._command = gui.add_html("")
        with gui.add_folder("Video"):
            self._path = gui.add_dropdown("Cameras", ["orbit", "figure8", "my cameras"])
            mine = gui.add_button_group("My cameras", ["Add this", "Clear"])
            mine.on_click(lambda event: self._change_cameras(mine.value, event.client))
            self.frames = gui.add_slider("Frames", 10, 300, 10, 120)
            self.format = gui.add_dropdown("Format", ["mp4", "gif"])
            record = gui.add_button("Record video")
            record.on_click(lambda event: self._record(event.client))
            self.progress = gui.add_progress_bar(0.0, visible=False)
        gui.add_markdown(f"*Saved to {session.out}, and downloaded.*")

    def show_command(self, state: ViewState, camera: Cameras, angles: str | None) -> None:
        """Show the command of a picture, with a button that copies it."""
        cameras = angles or str(camera_file(camera, self._session.out))
        note = "" if angles else "<div>Save the picture to write its camera file.</div>"
        command = html.escape(command_of(self._session.stage.references, state, cameras))
        copy = "navigator.clipboard.writeText(this.parentNode.firstChild.textContent)"
        self._command.content = (
            '<div style="padding: 0 0.75em 0.5em; font-size: 0.75em"><code style="display: block; '
            'white-space: pre-wrap; overflow-wrap: anywhere; background: #8882; padding: 0.5em">'
            f'{command}</code>{note}<button onclick="{copy}">Copy</button></div>'
        )

    def _save(self, client: viser.ClientHandle | None) -> None:
        assert client is not None, "a button is pressed on a page"
        session, state = self._session, self._controls.state
        camera, angles = session.camera(client)

        def write() -> Iterator[None]:
            cameras = angles or save_camera(camera, session.out)
            command = command_of(session.stage.references, state, cameras)
            settings = asdict(generate_options(state, cameras)) | {"command": command}
            name = f"seed{state.seed:04d}_{state.output}-{sha256_of_text(command, 8)}.png"
            save_png(session.out / name, session.stage.render(state, camera), settings)
            _offer(client, session.out / name)
            yield

        session.loop.work(write())

    def _change_cameras(self, name: str, client: viser.ClientHandle | None) -> None:
        if name == "Clear":
            self._cameras.clear()
        elif client is not None:
            self._cameras.append(self._session.camera(client)[0])
            client.add_notification(f"{len(self._cameras)} cameras", "", auto_close_seconds=3)

    def _record(self, client: viser.ClientHandle | None) -> None:
        session, state = self._session, self._controls.state
        frames, path = int(self.frames.value), self._path.value.replace(" ", "_")
        digest = sha256_of_text(command_of(session.stage.references, state, path), 8)
        name = f"seed{state.seed:04d}_{state.output}_{path}-{digest}.{self.format.value}"
        file, given = session.out / name, list(self._cameras)

        def write() -> Iterator[None]:
            cameras = self._video_cameras(path, given, frames)
            num, self.progress.visible = len(cameras.cam2world), True
            session.out.mkdir(parents=True, exist_ok=True)
            with video_writer(file, FPS) as add:
                for i in range(num):
                    add(session.stage.render(state, cameras.select(slice(i, i + 1))))
                    self.progress.value = 100 * (i + 1) / num  # type: ignore[misc]  # viser's types
                    yield
            self.progress.visible = False
            _offer(client, file)

        session.loop.work(write())

    def _video_cameras(self, path: str, given: list[Cameras], num: int) -> Cameras:
        if path != "my_cameras":
            return cameras_of(path, num, self._session.stage.orbit)
        if not given:
            raise ConfigError("no camera of your own yet: press 'Add this' at two or more places")
        return smooth_path(Cameras(*(torch.cat(x) for x in zip(*given, strict=True))), num)


def _offer(client: viser.ClientHandle | None, path: Path) -> None:
    assert client is not None, "a button is pressed on a page"
    client.send_file_download(path.name, path.read_bytes(), save_immediately=True)
    client.add_notification("Saved", str(path), auto_close_seconds=6)
