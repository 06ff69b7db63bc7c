import dataclasses
import math
import shlex
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from lightning_gan3d import cli
from lightning_gan3d.cameras import Cameras
from lightning_gan3d.checkpoints.stored_networks import save_generator
from lightning_gan3d.config import ConfigError
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.generator import Generator
from lightning_gan3d.inference import directions
from lightning_gan3d.inference.camera_paths import cameras_of
from lightning_gan3d.inference.config import RenderOptions
from lightning_gan3d.inference.model import Subject
from lightning_gan3d.inference.pictures import EMPTY, pictures
from lightning_gan3d.inference.viewer.session import STILL, RenderLoop
from lightning_gan3d.inference.viewer.view_state import (
    MARGIN,
    Stage,
    ViewState,
    camera_from_page,
    command_of,
    letterbox,
    save_camera,
)

CPU = RenderOptions(device="cpu")


@pytest.fixture(scope="module")
def conditioned(tmp_path_factory, labels):
    """An exported tri-plane generator of 32 pixels whose mapping is conditioned on the camera."""
    options = ["data.resolution=32", "generator.mapping.condition=camera", f"data.path={labels}"]
    config = load_experiment("demo/triplane", options)
    torch.manual_seed(0)
    generator = Generator(config.generator, 32)
    return save_generator(tmp_path_factory.mktemp("viewer") / "conditioned", generator, config)


@pytest.fixture(scope="module")
def stage(conditioned):
    return Stage([str(conditioned)], CPU)


@pytest.fixture(scope="module")
def flat(exports):
    return Stage([str(exports["image2d"])], CPU)


@pytest.fixture(scope="module")
def both(exports):
    return Stage([str(exports[kind]) for kind in ("voxel", "image2d")], CPU)


def page_camera(camera):
    """A camera as viser gives it: quaternion (w, x, y, z) of OpenCV axes, and position."""
    pose = camera.cam2world[0].double().numpy()
    return Rotation.from_matrix(pose[:3, :3]).as_quat(scalar_first=True), pose[:3, 3]


def at(stage, text):
    return camera_from_page(*page_camera(cameras_of(text, 1, stage.orbit)), stage)


@pytest.mark.parametrize("text", ["0.3:-0.2", "-2.5:1.2", "0:0.35", "0.3:-0.2:1.7"])
def test_a_page_camera_has_the_rays_of_the_orbits_camera(stage, text):
    camera, found = at(stage, text)
    assert found == text
    expected = cameras_of(text, 1, stage.orbit)
    assert torch.equal(camera.cam2world, expected.cam2world)
    assert torch.equal(camera.intrinsics, expected.intrinsics)
    assert torch.equal(camera.rays(8).dirs, expected.rays(8).dirs)


def test_a_camera_that_looks_elsewhere_has_no_angles(stage, tmp_path):
    eye = torch.tensor([[1.0, 0.5, 2.0]])
    aside = Cameras.look_at(
        eye, torch.tensor([[0.3, 0.0, 0.0]]), float(stage.orbit.intrinsics[0, 0])
    )
    rolled = Cameras.look_at(eye, up=(1.0, 1.0, 0.0), focal=float(stage.orbit.intrinsics[0, 0]))
    for given in (aside, rolled):
        camera, text = camera_from_page(*page_camera(given), stage)
        assert text is None
        assert torch.allclose(camera.rays(8).dirs, given.rays(8).dirs, atol=1e-6)
        read = cameras_of(save_camera(camera, tmp_path), 1, stage.orbit)
        assert torch.equal(read.to_label(), camera.to_label())
    assert len(list(tmp_path.glob("camera-*.json"))) == 2


@pytest.mark.parametrize("output", ["image", "raw", "depth", "normals", "opacity"])
def test_the_picture_is_the_one_of_a_subject(stage, output):
    model, (camera, _) = stage.models[0], at(stage, "0.4:0.1")
    state = ViewState(seed=3, psi=0.7, output=output)
    subject = Subject(model, model.styles(model.latent(3), 0.7))
    expected = pictures(model, subject.render(camera), camera, output)[0]
    picture = stage.render(state, camera)
    assert np.array_equal(picture, np.broadcast_to(expected, picture.shape))


def test_camera_moves_and_outputs_do_not_compute_the_scene_again(stage, monkeypatch):
    calls = []
    representation = stage.models[0].generator.representation
    forward = representation.forward
    monkeypatch.setattr(representation, "forward", lambda *a: calls.append(1) or forward(*a))
    state = ViewState(seed=11)
    for i in range(4):
        stage.render(state, at(stage, f"{i / 10}:0")[0])
    stage.render(dataclasses.replace(state, output="depth", samples=2), at(stage, "0:0")[0])
    stage.thumbnail(dataclasses.replace(state, seed=2))  # a scene of its own
    stage.render(dataclasses.replace(state, rendering_resolution=16), at(stage, "0:0")[0])
    assert len(calls) == 2
    for change in ({"seed": 12}, {"psi": 0.5}, {"mix": 3}, {"condition": "1:0"}):
        stage.render(dataclasses.replace(state, **change), at(stage, "0:0")[0])
    assert len(calls) == 6


STATES = {
    "plain": ViewState(seed=4),
    "truncated": ViewState(seed=4, psi=0.6, cutoff=3, output="depth"),
    "interpolated": ViewState(seed=4, toward=9, share=0.35, space="z", output="normals"),
    "mixed": ViewState(seed=4, mix=7, mix_range="coarse,fine", toward=2, share=0.5),
    "conditioned": ViewState(seed=4, condition="-1.2:0.4", output="opacity"),
    "finer": ViewState(seed=4, samples=2, rendering_resolution=24, output="raw"),
}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("free", [False, True])
def test_the_command_writes_the_very_picture(stage, tmp_path, name, free):
    state = dataclasses.replace(STATES[name], device="cpu")
    if free:
        eye, target = torch.tensor([[1.0, 0.5, 2.0]]), torch.tensor([[0.2, 0.0, 0.0]])
        camera, _ = camera_from_page(*page_camera(Cameras.look_at(eye, target)), stage)
        text = save_camera(camera, tmp_path)
    else:
        camera, text = at(stage, "-0.5:0.2:2.9")
    words = shlex.split(command_of(stage.references, state, text))
    assert words[0] == "gan3d"
    run([*words[1:], f"--out={tmp_path}"])
    (file,) = (p for p in tmp_path.glob("seed0004_view00*.png") if not p.stem.endswith("_depth"))
    with Image.open(file) as image:
        written = np.asarray(image.convert("RGB"))
    assert np.array_equal(written, stage.render(state, camera))


def run(arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 0


def test_edits_are_read_from_the_generators_folder(exports, tmp_path):
    import shutil

    folder = shutil.copytree(exports["triplane"], tmp_path / "run")
    assert Stage([str(folder)], CPU).directions == {}
    shape = Stage([str(folder)], CPU).models[0].generator
    direction = torch.randn(shape.representation.num_ws, shape.cfg.w_dim)
    (folder / "edits").mkdir()
    directions.save(folder / "edits" / "directions.safetensors", {"b": direction, "a": -direction})
    stage = Stage([str(folder)], CPU)
    assert list(stage.directions) == ["b", "a"]
    state = ViewState(seed=4, edits=f"{stage.edits_file}:b=1.5", device="cpu")
    camera, text = at(stage, "0:0.2")
    edited = stage.render(state, camera)
    assert not np.array_equal(edited, stage.render(ViewState(seed=4), camera))
    run([*shlex.split(command_of(stage.references, state, text))[1:], f"--out={tmp_path}"])
    with Image.open(tmp_path / "seed0004_view00.png") as image:
        assert np.array_equal(np.asarray(image), edited)
    options = RenderOptions(device="cpu", edits=f"{stage.edits_file}:a=2")
    assert Stage([str(folder)], options).directions == {"b": 0.0, "a": 2.0}


def test_several_generators_are_side_by_side(both):
    camera, _ = at(both, "0.2:0.1")
    picture = both.render(ViewState(seed=1), camera)
    assert picture.shape == (32, 64, 3)
    model = both.models[1]
    images = Subject(model, model.styles(model.latent(1))).render(camera)
    assert np.array_equal(picture[:, 32:], pictures(model, images, camera, "image")[0])
    depth = both.render(ViewState(seed=1, output="depth"), camera)
    assert (depth[:, depth.shape[1] // 2 :] == EMPTY).all()  # the 2D generator has none


def test_the_2d_baseline_offers_what_it_has(stage, flat, both):
    assert flat.outputs == ["image", "raw"]
    assert not flat.has_samples
    assert not flat.conditioned
    assert both.outputs == ["image", "raw", "depth", "normals", "opacity"]
    assert stage.conditioned
    left, right = (flat.render(ViewState(), at(flat, f"{a}:0")[0]) for a in (-0.5, 0.5))
    assert not np.array_equal(left, right)
    assert flat.draft(ViewState(), 1e-9) == ViewState()


def test_drafts_are_as_small_as_the_time_demands(stage):
    state = ViewState(samples=4)
    stage.render(state, at(stage, "0:0")[0])
    assert stage.draft(state, 1e9) == state
    smallest = dataclasses.replace(state, samples=1, rendering_resolution=16)
    assert stage.draft(state, 1e-9) == smallest


def test_a_share_needs_a_second_latent():
    for change in ({"share": 0.4}, {"space": "z"}):
        with pytest.raises(ConfigError, match="share and space need the second latent: toward"):
            ViewState(**change)


def test_more_than_one_conditioning_camera_is_rejected(stage):
    with pytest.raises(ConfigError, match="condition=0:0,1:0: 2 cameras; name one"):
        stage.render(ViewState(condition="0:0,1:0"), at(stage, "0:0")[0])


@pytest.mark.parametrize("aspect", [0.5, 1.0, 1.9])
def test_the_picture_is_in_the_middle_of_the_window(aspect):
    picture = np.zeros((32, 64, 3), np.uint8)
    canvas = letterbox(picture, aspect)
    height, width = canvas.shape[:2]
    assert math.isclose(width / height, aspect, rel_tol=0.05)
    assert min(height - 32, width - 64) <= 1
    assert (canvas == 0).all(-1).sum() == 32 * 64
    assert (canvas[0, 0] == MARGIN).all()


def test_only_the_latest_request_is_rendered_and_then_in_full():
    drawn, errors, release = [], [], threading.Event()

    def draw(client, draft):
        release.wait(10)
        drawn.append((client, draft, time.monotonic()))
        if client == 7:
            raise ValueError("broken")
        return not draft

    loop = RenderLoop(draw, errors.append)
    loop.start()
    for _ in range(50):
        loop.request(0)
    loop.request(7)
    steps = iter([None, None])
    loop.work(steps)
    release.set()
    end = time.monotonic() + 10
    while not (drawn and not drawn[-1][1]):
        assert time.monotonic() < end
        time.sleep(0.01)
    loop.close()
    kinds = [(client, draft) for client, draft, _ in drawn]
    assert kinds[-1] == (0, False)
    assert kinds.count((0, True)) <= 2  # the one begun before the others, and the latest
    assert drawn[-1][2] - max(t for c, d, t in drawn if (c, d) == (0, True)) >= STILL * 0.9
    assert [str(e) for e in errors] == ["broken"]
    assert next(steps, "done") == "done"  # while nothing was due


def test_the_conditioning_camera_changes_the_picture(stage):
    camera, _ = at(stage, "0:0.2")
    views = [stage.render(ViewState(condition=text), camera) for text in ("frontal", "1.5:0.3")]
    assert not np.array_equal(*views)


def test_without_viser_the_command_names_the_extra(monkeypatch, capsys):
    monkeypatch.setattr("lightning_gan3d.inference.commands.find_spec", lambda _: None)
    with pytest.raises(SystemExit) as stop:
        cli.main(["view", "nothing"])
    assert stop.value.code == 2
    assert "pip install 'lightning-gan3d[viewer]'" in capsys.readouterr().err
