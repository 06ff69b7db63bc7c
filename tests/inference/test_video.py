import numpy as np
import pytest
from kinds import KINDS
from PIL import Image

from lightning_gan3d.config import ConfigError
from lightning_gan3d.inference.config import VideoOptions
from lightning_gan3d.inference.model import Subject
from lightning_gan3d.inference.pictures import to_array
from lightning_gan3d.inference.video import side_by_side, video, video_writer
from representations.triplane import TriPlane

av = pytest.importorskip("av")


def frames_of(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def difference(a, b):
    return np.abs(a.astype(int) - b.astype(int)).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_a_video_shows_the_views_of_its_cameras(exports, models, tmp_path, kind):
    options = VideoOptions(seeds="3", frames=6, enlarge=4, device="cpu")
    text = video([str(exports[kind])], options, tmp_path)
    assert str(tmp_path / "seed0003.mp4") in text
    frames = frames_of(tmp_path / "seed0003.mp4")
    assert len(frames) == 6
    model = models[kind]
    images = Subject(model, model.styles(model.latent(3))).render(model.orbit.cameras(6))
    views = [to_array(image).repeat(4, 0).repeat(4, 1) for image in images.image]
    errors = np.array([[difference(f, v) for v in views] for f in frames])
    assert errors.diagonal().max() < 6  # of 255: compression
    if kind != "image2d":
        assert (errors.argmin(axis=1) == np.arange(6)).all()


def test_the_scene_is_computed_once(exports, tmp_path, monkeypatch):
    calls = []
    forward = TriPlane.forward
    monkeypatch.setattr(
        TriPlane, "forward", lambda self, *a, **k: calls.append(1) or forward(self, *a, **k)
    )
    options = VideoOptions(frames=120, rendering_resolution=16, device="cpu")
    video([str(exports["triplane"])], options, tmp_path)
    assert len(frames_of(tmp_path / "seed0000.mp4")) == 120
    assert len(calls) == 1


def test_an_interpolation_is_a_closed_loop(exports, models, tmp_path):
    options = VideoOptions(
        seeds="0,1", frames=3, interpolate="w", cameras="frontal", format="gif", device="cpu"
    )
    video([str(exports["voxel"])], options, tmp_path)
    model = models["voxel"]
    with Image.open(tmp_path / "interpolation_w_0,1.gif") as gif:
        assert gif.n_frames == 6
        times = [gif.info["duration"] for at in range(6) if gif.seek(at) is None]
        assert times == [30, 40, 30, 30, 40, 30]
        for at, seed in ((0, 0), (3, 1)):
            gif.seek(at)
            subject = Subject(model, model.styles(model.latent(seed)))
            expected = to_array(subject.render(model.orbit.cameras(1)).image[0])
            assert difference(np.asarray(gif.convert("RGB")), expected) < 8
    with pytest.raises(ConfigError, match="interpolate=z needs two"):
        video([str(exports["voxel"])], VideoOptions(interpolate="z", device="cpu"), tmp_path)


def test_generators_and_outputs_side_by_side(exports, tmp_path):
    options = VideoOptions(frames=2, outputs="image,depth", device="cpu")
    video([str(exports[k]) for k in ("triplane", "nerf_mlp")], options, tmp_path)
    assert frames_of(tmp_path / "seed0000.mp4")[0].shape == (32, 4 * 32, 3)
    text = video([str(exports["image2d"])], options, tmp_path)
    assert "renders no depth" in text
    assert frames_of(tmp_path / "seed0000.mp4")[0].shape == (32, 32, 3)


def test_pictures_of_other_sizes_and_channels_are_joined():
    grey, large = np.full((4, 4, 1), 7, np.uint8), np.full((8, 8, 3), 9, np.uint8)
    row = side_by_side([grey, large])
    assert row.shape == (8, 16, 3)
    assert (row[:, :8] == 7).all()
    assert (row[:, 8:] == 9).all()


def test_odd_sizes_lose_one_line(tmp_path):
    with video_writer(tmp_path / "a.mp4", 10) as add:
        for _ in range(3):
            add(np.full((9, 11, 3), 80, np.uint8))
    assert frames_of(tmp_path / "a.mp4")[0].shape == (8, 10, 3)


def test_a_failed_video_leaves_no_file(tmp_path):
    def record():
        with video_writer(tmp_path / "a.mp4", 10) as add:
            add(np.zeros((8, 8, 3), np.uint8))
            raise RuntimeError("rendering")

    with pytest.raises(RuntimeError, match="rendering"):
        record()
    assert not list(tmp_path.iterdir())
