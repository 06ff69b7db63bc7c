import io
import json
import socket
import threading
import urllib.request

import numpy as np
import pytest
import torch
from chromium import Chromium, find_chromium, wait_for
from PIL import Image

from lightning_gan3d.cameras import Cameras, spherical
from lightning_gan3d.config import ConfigError
from lightning_gan3d.inference.config import RenderOptions, ViewOptions
from lightning_gan3d.inference.viewer import controls
from lightning_gan3d.inference.viewer.serve import Viewer, view
from lightning_gan3d.inference.viewer.session import RenderLoop, Server
from lightning_gan3d.inference.viewer.view_state import Stage

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed")


class RecordingStage(Stage):
    """Keeps what is rendered for the page."""

    def __init__(self, *args):
        super().__init__(*args)
        self.frames = []

    def render(self, state, camera):
        picture = super().render(state, camera)
        self.frames.append((state, camera, picture))
        return picture

    @property
    def last(self):
        return self.frames[-1]


@pytest.fixture(scope="module")
def stage(exports):
    return RecordingStage([str(exports["voxel"])], RenderOptions(device="cpu"))


@pytest.fixture(scope="module")
def viewer(stage, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ViewOptions(port=port, open=False, device="cpu")
    viewer = Viewer(stage, options, tmp_path_factory.mktemp("saved"))
    yield viewer
    viewer.close()


@pytest.fixture(scope="module")
def page(viewer, stage, tmp_path_factory):
    page = Chromium(tmp_path_factory.mktemp("profile"))
    page.open(viewer.url)
    wait_for(lambda: stage.frames)
    wait_for(lambda: loaded(page))
    yield page
    page.close()


def loaded(page):
    """Whether the page has drawn its controls."""
    return page.run("document.querySelectorAll('[role=slider]').length > 0")


def pixels(page):
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)


def canvas(page):
    """Left, top, width and height of the picture's canvas, in pixels of the screenshot."""
    x, y = page.locate("canvas")
    size = page.run("(() => {const c = document.querySelector('canvas');"
                    "return [c.clientWidth, c.clientHeight]})()")  # fmt: skip
    return round(x - size[0] / 2), round(y - size[1] / 2), *size


def shown(page):
    """The square in the middle of the canvas, reduced to the size of the picture."""
    left, top, width, height = canvas(page)
    side = min(width, height)
    x, y = left + (width - side) // 2, top + (height - side) // 2
    square = Image.fromarray(pixels(page)[y : y + side, x : x + side].astype(np.uint8))
    return np.asarray(square.resize((32, 32), Image.Resampling.BOX)).astype(int)


def shows(page, picture):
    """Whether the page shows a picture, up to JPEG and resizing; notifications lie above it."""
    difference = np.abs(shown(page) - picture.astype(int))
    return np.median(difference) < 8 and np.mean(difference) < 25


def test_the_page_shows_the_picture(page, viewer, stage):
    assert viewer.server.get_host() == "127.0.0.1"
    assert viewer.server.request_share_url() is None
    with urllib.request.urlopen(viewer.url) as answer:
        assert answer.status == 200
    wait_for(lambda: "fps" in page.run("document.body.textContent"))
    wait_for(lambda: shows(page, stage.last[2]))
    assert torch.allclose(stage.last[1].cam2world, stage.orbit.cameras(1).cam2world, atol=1e-3)
    assert stage.last[2].std() > 1


def test_a_slider_changes_the_picture(page, stage):
    before, picture = pixels(page), stage.last[2]
    page.run("document.querySelectorAll('[role=slider]')[0].focus()")
    for _ in range(12):
        page.key("ArrowLeft")
    wait_for(lambda: stage.last[0].psi == 0.4)
    assert np.any(stage.last[2] != picture)
    wait_for(lambda: shows(page, stage.last[2]))
    assert np.any(pixels(page) != before)


def test_a_drag_turns_the_camera_and_ends_in_full(page, stage):
    state, camera, picture = stage.last
    scenes = [subject for _, subject in stage._subjects]
    left, top, width, height = canvas(page)
    middle = left + width / 2, top + height / 2
    page.drag(middle, (middle[0] - width / 5, middle[1]))

    def azimuth():
        return float(spherical(stage.last[1].origins).azimuth - spherical(camera.origins).azimuth)

    wait_for(lambda: abs(azimuth()) > 0.2)
    wait_for(lambda: stage.last[0] == state and shows(page, stage.last[2]))
    assert np.any(stage.last[2] != picture)
    assert [subject for _, subject in stage._subjects] == scenes  # computed once
    distances = [float(c.origins.norm()) for c in (camera, stage.last[1])]
    assert distances[0] == pytest.approx(distances[1], abs=1e-2)
    assert isinstance(stage.last[1], Cameras)


def test_a_seed_of_the_gallery_is_chosen(page, viewer, stage):
    page.click(*page.locate("[role=tab]", "Gallery"))
    wait_for(lambda: not viewer.loop._work)
    page.click(*page.locate("button", "7"))
    wait_for(lambda: stage.last[0].seed == 7)
    wait_for(lambda: shows(page, stage.last[2]))


def test_a_picture_is_saved_with_its_command(page, viewer, stage):
    page.click(*page.locate("[role=tab]", "Save"))
    text = wait_for(lambda: page.run("document.querySelector('code')?.textContent"))
    assert text.startswith("gan3d generate ")
    assert "--seeds=7" in text
    page.click(*page.locate("button", "Save picture"))
    file = wait_for(lambda: next(viewer.session.out.glob("seed0007_image-*.png"), None))
    with Image.open(file) as image:
        assert np.array_equal(np.asarray(image), stage.last[2])
        assert json.loads(image.text["Settings"])["command"] == text


def test_a_video_is_saved(page, viewer):
    viewer.controls.seed.value = 7
    viewer.capture.frames.value, viewer.capture.format.value = 10, "gif"
    page.click(*page.locate("[role=tab]", "Save"))
    page.click(*page.locate("button", "Record video"))
    wait_for(lambda: [*viewer.session.out.glob("seed0007_image_orbit-*.gif")])
    (file,) = viewer.session.out.glob("seed0007_image_orbit-*.gif")
    with Image.open(file) as gif:
        assert gif.n_frames == 10


def test_a_mesh_follows_the_latent(viewer, page, monkeypatch):
    monkeypatch.setattr(controls, "MESH_RESOLUTION", 16)
    before = pixels(page)
    nodes = viewer.server.scene._handle_from_node_name
    viewer.mesh.mode.value = "wireframe"
    first = wait_for(lambda: nodes.get("/mesh"))
    wait_for(lambda: np.any(pixels(page) != before))
    viewer.controls.seed.value = 8
    wait_for(lambda: nodes.get("/mesh") and nodes.get("/mesh") is not first)
    viewer.mesh.mode.value = "none"
    wait_for(lambda: "/mesh" not in nodes)


def test_an_error_is_shown_and_the_page_goes_on(page, viewer, stage, monkeypatch):
    with monkeypatch.context() as broken:

        def fail(*_):
            raise ConfigError("no picture today")

        broken.setattr(stage, "render", fail)
        viewer.controls.seed.value = 5
        wait_for(lambda: "no picture today" in page.run("document.body.textContent"))
    viewer.controls.seed.value = 6
    wait_for(lambda: stage.last[0].seed == 6)


def test_the_command_ends_with_ctrl_c(exports, tmp_path, monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "sleep_forever", interrupt)
    view([str(exports["image2d"])], ViewOptions(open=False, device="cpu"), tmp_path)
    assert "http://127.0.0.1:" in capsys.readouterr().out
    assert sum(isinstance(t, RenderLoop) for t in threading.enumerate()) <= 1  # of the fixture
