"""`gan3d data from-photos` and `from-video`: COLMAP's cameras enter the path of from-poses."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from capture_parts import capture, ramp, write_colmap_bin, write_images
from PIL import Image, ImageFilter

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.cli import main
from lightning_gan3d.config import ConfigError, from_options
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.captures.from_photos import (
    FromPhotosConfig,
    extract_frames,
    prepare_from_photos,
)
from lightning_gan3d.data.captures.from_poses import prepare_from_poses
from lightning_gan3d.data.captures.posed_images import FromPosesConfig
from lightning_gan3d.data.dataset import DataConfig, ImageDataset


def prepare(source, out, *options):
    cfg = from_options(FromPhotosConfig, ["resolution=32", *options])
    return prepare_from_photos(source, out, cfg)


@pytest.fixture
def colmap(monkeypatch):
    """A stand-in of pycolmap that finds the cameras of `capture()`, as many as `found.num`."""
    found = SimpleNamespace(num=12, shot=capture(), seen={}, modes=[])

    def extract_features(_, images, camera_mode):
        found.modes.append(camera_mode)
        paths = sorted(p for p in images.rglob("*") if p.is_file())
        found.seen = {p.relative_to(images).as_posix(): Image.open(p).size for p in paths}

    def write(folder):
        write_colmap_bin(folder, found.shot)

    models = [
        SimpleNamespace(num_reg_images=lambda: 1, write=None),
        SimpleNamespace(num_reg_images=lambda: found.num, write=write),
    ]
    module = SimpleNamespace(
        CameraMode=SimpleNamespace(SINGLE="one", AUTO="auto"),
        logging=SimpleNamespace(Level=SimpleNamespace(ERROR=2), minloglevel=0),
        set_random_seed=int,
        extract_features=extract_features,
        match_exhaustive=str,
        incremental_mapping=lambda *_: dict(enumerate(models[: found.num])),
        __spec__=object(),
    )
    monkeypatch.setitem(sys.modules, "pycolmap", module)
    return found


@pytest.mark.parametrize("command", ["from-photos", "from-video"])
def test_a_missing_extra_is_named(monkeypatch, tmp_path, capsys, command):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(SystemExit) as ended:
        main(["data", command, str(tmp_path), str(tmp_path / "out.zip")])
    assert ended.value.code == 2
    assert "pip install 'lightning-gan3d[pycolmap]'" in capsys.readouterr().err


@pytest.mark.usefixtures("colmap")
def test_videos_need_another_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"pip install 'lightning-gan3d\[video\]'"):
        prepare(tmp_path / "a.mp4", tmp_path / "out.zip")


def test_the_estimated_cameras_are_normalised_and_written(colmap, tmp_path):
    write_images(tmp_path / "cup", colmap.shot)
    model = tmp_path / "kept"
    prepare(tmp_path / "cup", tmp_path / "out.zip", f"model={model}")
    data = ImageDataset(DataConfig(path=str(tmp_path / "out.zip")), "all")
    assert data.names == [f"images/{name}" for name in colmap.shot.names]
    distance = Cameras.from_label(data.labels).origins.norm(dim=1)
    assert float(distance.median()) == pytest.approx(2.7, abs=1e-4)
    assert colmap.modes == ["one"]
    prepare_from_poses(model, tmp_path / "again.zip", FromPosesConfig(resolution=32))
    again = ImageDataset(DataConfig(path=str(tmp_path / "again.zip")), "all")
    assert torch.equal(again.labels, data.labels)
    with pytest.raises(DataError, match="kept exists"):
        prepare(tmp_path / "cup", tmp_path / "other.zip", f"model={model}")
    with pytest.raises(DataError, match=r"out\.zip exists"):
        prepare(tmp_path / "cup", tmp_path / "out.zip")
    assert colmap.modes == ["one"]  # rejected before the minutes of COLMAP


def test_an_exif_orientation_is_applied_before_the_cameras_are_estimated(colmap, tmp_path):
    write_images(tmp_path / "cup", colmap.shot)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 8, "maker"
    rotated = Image.fromarray(ramp(90, 64)).transpose(Image.Transpose.ROTATE_270)
    rotated.save(tmp_path / "cup" / colmap.shot.names[0], exif=exif)
    prepare(tmp_path / "cup", tmp_path / "out.zip")
    assert set(colmap.seen.values()) == {(90, 64)}
    data = ImageDataset(DataConfig(path=str(tmp_path / "out.zip")), "all")
    first, second = data.images([0, 1])
    assert torch.equal(first, second)


def test_too_few_cameras_are_an_error_with_remedies(colmap, tmp_path):
    write_images(tmp_path / "cup", colmap.shot)
    (tmp_path / "cup/other size.png").write_bytes((tmp_path / "cup/shot 00.png").read_bytes())
    Image.new("RGB", (50, 50)).save(tmp_path / "cup/other size.png")
    for num in (0, 6):
        colmap.num = num
        with pytest.raises(DataError, match=rf"found for {num} of 13 images: use .* min_reg"):
            prepare(tmp_path / "cup", tmp_path / "out.zip")
    assert colmap.modes == ["auto", "auto"]
    prepare(tmp_path / "cup", tmp_path / "out.zip", "min_registered=0.4")


def write_video(path, frames, rotation=0):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as video:
        stream = video.add_stream("mpeg4", rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        if rotation:
            stream.set_display_rotation(rotation)
        for pixels in frames:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        video.mux(stream.encode())


def test_the_sharpest_frame_of_each_part_of_a_video_is_used(tmp_path):
    texture = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    sharp, sharpest = Image.fromarray(texture).resize((96, 64)), (1, 5, 6, 11)
    frames = []
    for i in range(12):
        image = sharp if i in sharpest else sharp.filter(ImageFilter.GaussianBlur(3))
        frames.append(np.array(image))
        frames[-1][:, :16] = 20 * i  # the frame's number
    write_video(tmp_path / "a.mp4", frames)
    (tmp_path / "frames").mkdir()
    extract_frames(tmp_path / "a.mp4", tmp_path / "frames", 4)
    files = sorted((tmp_path / "frames").iterdir())
    levels = [np.asarray(Image.open(f))[:, 4:12].mean() / 20 for f in files]
    assert np.rint(levels).tolist() == list(sharpest)


def test_a_rotated_video_becomes_upright(tmp_path):
    frame = np.zeros((64, 96, 3), np.uint8)
    frame[:, :48] = 255  # left: at the bottom, if turned a quarter to the left
    write_video(tmp_path / "a.mp4", [frame] * 4, 90)
    extract_frames(tmp_path / "a.mp4", tmp_path, 1)
    image = np.asarray(Image.open(tmp_path / "frame00000.png"))
    assert image.shape == (96, 64, 3)
    assert image[:40].mean() < 20
    assert image[56:].mean() > 235


@pytest.mark.usefixtures("colmap")
def test_what_is_no_video_is_an_error(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"a\.mp4 cannot be read as a video"):
        prepare(tmp_path / "a.mp4", tmp_path / "out.zip")


def random_image(draw, n):
    return Image.fromarray(draw.integers(0, 256, (n, n, 3), dtype=np.uint8))


def view(cameras, side, textures):
    """Two textured squares, one above the other."""
    rays = cameras.rays(side)
    origin, dirs = cameras.origins[0].numpy(), rays.dirs[0].numpy()
    image = np.full((side * side, 3), 255, np.uint8)
    for height, half, texture in zip((-0.4, 0.2), (3.0, 0.7), textures, strict=True):
        t = (height - origin[1]) / dirs[:, 1]
        uv = (origin + t[:, None] * dirs)[:, [0, 2]] / half
        hit = (np.abs(uv) < 1).all(axis=1) & (t > 0)
        index = ((uv[hit] + 1) / 2 * len(texture)).astype(int)
        image[hit] = texture[index[:, 0], index[:, 1]]
    return Image.fromarray(image.reshape(side, side, 3)).reduce(2)


def test_colmap_finds_the_cameras_of_a_rendered_capture(tmp_path):
    pytest.importorskip("pycolmap")
    draw = np.random.default_rng(0)
    textures = [np.array(random_image(draw, n).resize([n * 6] * 2)) for n in (120, 40)]
    azimuth = torch.arange(8) * math.radians(10)
    truth = Cameras.on_sphere(azimuth, torch.full((8,), 0.7), 3.0, 1.4)
    (tmp_path / "photos").mkdir()
    for i in range(8):
        view(truth.select(slice(i, i + 1)), 400, textures).save(tmp_path / f"photos/{i}.png")
    result = prepare(tmp_path / "photos", tmp_path / "out.zip", "centre=axes")
    data = ImageDataset(DataConfig(path=str(tmp_path / "out.zip")), "all")
    assert len(data.names) == 8
    assert result.framing.focal == pytest.approx(1.4, rel=0.02)
    rotations = Cameras.from_label(data.labels).cam2world[:, :3, :3]
    expected = truth.cam2world[:, :3, :3]
    relative, true = rotations[0].T @ rotations, expected[0].T @ expected
    assert float((relative - true).abs().max()) < 0.01
