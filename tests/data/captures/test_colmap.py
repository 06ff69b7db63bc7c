"""Models of COLMAP: valid files are read, invalid ones are rejected."""

import struct

import numpy as np
import pytest
from capture_parts import capture, write_colmap_bin, write_colmap_txt

from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.captures.colmap import (
    MODELS,
    ColmapCamera,
    ColmapImage,
    cam2world_of,
    camera_of,
    read_model,
)


@pytest.fixture(scope="module")
def shot():
    return capture()


def test_poses_points_and_names_are_read(shot, tmp_path):
    write_colmap_txt(tmp_path / "txt", shot)
    write_colmap_bin(tmp_path / "bin", shot)
    for folder in ("txt", "bin"):
        model = read_model(tmp_path / folder)
        assert [i.name for i in model.images] == shot.names  # with a space in each
        poses = np.stack([cam2world_of(i) for i in model.images])
        np.testing.assert_allclose(poses, shot.cam2world, atol=1e-9)
        np.testing.assert_allclose(model.points, shot.points)
        k, lens = camera_of(model.cameras[7], "x")
        assert lens.pinhole
        np.testing.assert_allclose(k, shot.intrinsics)


def test_a_quarter_turn_by_hand():
    """World2cam turns y to z and moves by 5 along z; so the camera is at -5 along the world's y."""
    half = np.sqrt(0.5)
    pose = cam2world_of(ColmapImage("x", 1, (half, half, 0.0, 0.0), (0.0, 0.0, 5.0)))
    np.testing.assert_allclose(pose[:3, 3], [0, -5, 0], atol=1e-12)
    np.testing.assert_allclose(pose[:3, 2], [0, 1, 0], atol=1e-12)  # it looks along y
    with pytest.raises(DataError, match="x: the quaternion has length 0"):
        cam2world_of(ColmapImage("x", 1, (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 5.0)))


@pytest.mark.parametrize("invalid", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", range(7))
def test_a_pose_that_is_not_finite_is_rejected(shot, tmp_path, invalid, place):
    write_colmap_bin(tmp_path, shot)
    image = read_model(tmp_path).images[3]
    pose = [*image.quaternion, *image.translation]
    pose[place] = invalid
    image = image._replace(quaternion=tuple(pose[:4]), translation=tuple(pose[4:]))
    with pytest.raises(DataError, match=r"shot 03\.png: a number of the pose is not finite"):
        cam2world_of(image)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
def test_truncated_binary_files_are_rejected(shot, tmp_path, name):
    write_colmap_bin(tmp_path, shot)
    whole = (tmp_path / name).read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(DataError, match=f"{name}.*copy it again"):
            read_model(tmp_path)
    (tmp_path / name).write_bytes(whole + b"\0")
    with pytest.raises(DataError, match=f"{name} has 1 bytes after its last record"):
        read_model(tmp_path)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
def test_a_count_beyond_the_file_allocates_no_memory(shot, tmp_path, name):
    write_colmap_bin(tmp_path, shot)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(struct.pack("<Q", 2**63) + whole[8:])
    with pytest.raises(DataError, match=f"{name} claims 9,223,372,036,854,775,808"):
        read_model(tmp_path)


def test_counts_within_records_are_checked(shot, tmp_path):
    write_colmap_bin(tmp_path, shot)
    data = bytearray((tmp_path / "images.bin").read_bytes())
    at = data.index(b".png\0") + 5
    data[at : at + 8] = struct.pack("<Q", 2**40)
    (tmp_path / "images.bin").write_bytes(data)
    with pytest.raises(DataError, match="claims 1,099,511,627,776 2D points"):
        read_model(tmp_path)


@pytest.mark.parametrize(
    ("kind", "model", "extra", "message"),
    [
        ("txt", "BANANA", (), "unknown camera model BANANA; known ones: SIMPLE_PINHOLE"),
        ("bin", 99, (), "unknown camera model 99"),
        ("bin", -1, (), "unknown camera model -1"),
        ("txt", "PINHOLE", (1.0,), "cameras.txt:2: expected ID MODEL"),
        ("txt", "PINHOLE", (), None),
    ],
)
def test_camera_models(shot, tmp_path, kind, model, extra, message):
    (write_colmap_txt if kind == "txt" else write_colmap_bin)(tmp_path, shot, model, extra)
    if message is None:
        assert read_model(tmp_path).cameras[7].model == model
        return
    with pytest.raises(DataError, match=message):
        read_model(tmp_path)


@pytest.mark.parametrize(("model", "num"), [(m, n) for m, (n, _) in MODELS.items()])
def test_every_model_is_read_or_rejected(model, num):
    """tests/data/captures/test_lens.py compares the distortion with COLMAP's."""
    straight = (50.0,) * 2 + (16.0,) * 2 if model in FOCAL_PAIRS else (50.0, 16.0, 16.0)
    camera = ColmapCamera(model, (32, 32), straight + (0.0,) * (num - len(straight)))
    if model == "FOV" or "THIN_PRISM" in model:
        with pytest.raises(DataError, match=f"model {model} is not read; undistort first"):
            camera_of(camera, "x")
        return
    k, lens = camera_of(camera, "x")
    assert k.tolist() == [[50, 0, 16], [0, 50, 16], [0, 0, 1]]
    assert lens.pinhole == ("FISHEYE" not in model)
    if num > len(straight):
        assert (
            camera_of(camera._replace(params=(*camera.params[:-1], 0.25)), "x")[1].pinhole is False
        )


FOCAL_PAIRS = ("PINHOLE", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("images.txt", lambda t: t.replace(" 7 shot 00", " 8 shot 00"), "has camera 8, which"),
        ("images.txt", lambda t: "\n".join(line for line in t.split("\n") if line), "empty line"),
        ("images.txt", lambda t: t.replace(" 7 shot 00", " x shot 00"), "txt:2: expected ID QW"),
        ("images.txt", lambda t: t.replace("\n2 ", "\n1 "), "have the id 1"),
        ("images.txt", lambda t: "1 2 3\n" + t, "images.txt:1: expected ID QW"),
        ("points3D.txt", lambda t: t + "9 a b c\n", "txt:8: expected ID X Y Z, not `9 a b c`"),
        ("points3D.txt", lambda t: t + "9 nan 0 0\n", "a point is not finite"),
        ("cameras.txt", lambda t: t.replace("90 64", "0 64"), "for images of 0x64"),
        ("cameras.txt", lambda t: t.replace("47.0", "inf"), "not finite"),
    ],
)
def test_invalid_text_is_rejected(shot, tmp_path, name, change, message):
    write_colmap_txt(tmp_path, shot)
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text(change(text))
    assert (tmp_path / name).read_text() != text
    with pytest.raises(DataError, match=message):
        read_model(tmp_path)
