"""Crop, resize and intrinsics agree: known points project to pixels of the expected colour."""

import json

import numpy as np
import pytest
import torch
from preparer_parts import (
    FOCAL,
    SIDE,
    cameras,
    colour_at,
    encoded,
    index_of,
    labels_json,
    opened,
    points,
    poses_json,
    ramp,
    save,
    turned,
)

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.cli import main
from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.data.archive import DataError, UnsafeDataError
from lightning_gan3d.data.check import check_dataset
from lightning_gan3d.data.preparers.faces import FacesConfig, prepare_faces

NAMES = [f"{i:05d}.png" for i in range(6)]
CROP = 44


def raw(extra: dict[str, bytes], side: int = SIDE) -> dict[str, bytes]:
    return {**{n: encoded(ramp(side)) for n in NAMES}, **extra}


def cropped() -> dict[str, bytes]:
    edge = (SIDE - CROP) // 2
    return {n: encoded(ramp()[edge:-edge, edge:-edge]) for n in NAMES}


def in_crop(cams: Cameras) -> Cameras:
    share = CROP / SIDE
    return cams.crop((1 - share) / 2, (1 - share) / 2, share, share)


SOURCES = {
    "pixels, cropped here": (
        raw({"cameras.json": poses_json(NAMES, cameras())}),
        {"crop": CROP, "normalise": "none"},
    ),
    "pixels, cropped before": (
        {**cropped(), "cameras.json": poses_json(NAMES, cameras())},
        {"crop": CROP, "cropped": True, "normalise": "none"},
    ),
    "pixels, no crop": (
        raw({"cameras.json": poses_json(NAMES, cameras())}),
        {"normalise": "none"},
    ),
    "labels of the image": (
        raw({"dataset.json": labels_json(NAMES, cameras())}),
        {"crop": CROP, "labels_of": "image"},
    ),
    "labels of the crop": (
        raw({"dataset.json": labels_json(NAMES, in_crop(cameras()))}),
        {"crop": CROP, "labels_of": "crop"},
    ),
    "prepared": ({**cropped(), "dataset.json": labels_json(NAMES, in_crop(cameras()))}, {}),
    "turned axes": (
        raw({"cameras.json": poses_json(NAMES, turned(cameras()))}),
        {"normalise": "none", "convention": "opengl", "world_up": "z"},
    ),
}


@pytest.mark.parametrize("kind", list(SOURCES))
@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_points_project_to_their_colours(tmp_path, kind, suffix):
    files, options = SOURCES[kind]
    cfg = FacesConfig(resolution=22, aligned_size=SIDE, mirror=True, **options)
    source = save(files, tmp_path / f"raw{suffix}")
    summary = prepare_faces("ffhq", source, tmp_path / "out.zip", cfg)
    written = opened(tmp_path / "out.zip")
    assert len(written) == summary.num_images == 12
    assert summary.num_mirrored == 6
    for i, name in enumerate(NAMES):
        p = points(8, seed=i)
        truth, _ = cameras().select(slice(i, i + 1)).project(p[None])
        for mirrored in (False, True):
            file = name.replace(".png", "_mirror.png") if mirrored else name
            row = written.names.index(file)
            camera = Cameras.from_label(written.labels[row : row + 1].double())
            point = p * torch.tensor([-1.0, 1.0, 1.0]) if mirrored else p
            uv, _ = camera.project(point[None])
            for k in range(8):
                colour = colour_at(written.images([row])[0], uv[0, k])
                assert colour[:2] == pytest.approx(truth[0, k], abs=0.25 / SIDE), (file, k)
    check_dataset(str(tmp_path / "out.zip"))


def test_the_crop_of_ffhq_has_eg3ds_focal_length_and_radius(tmp_path):
    cams = cameras(2, focal=2985.29 / 1024, radius=3.1)
    files = {n: encoded(ramp(1024)) for n in NAMES[:2]}
    files["cameras.json"] = poses_json(NAMES[:2], cams, 1024)
    source = save(files, tmp_path / "raw")
    prepare_faces("ffhq", source, tmp_path / "out", FacesConfig(crop=700, resolution=70))
    k = np.array([row[1][16:] for row in index_of(tmp_path / "out")["labels"]])
    expected = [2985.29 / 700, 0, 0.5, 0, 2985.29 / 700, 0.5, 0, 0, 1]
    assert k == pytest.approx(np.array([expected, expected]), abs=1e-12)
    written = opened(tmp_path / "out")
    edge = (162 + 5) / 1024 * 255  # centre of the first pixel
    assert written.images([0])[0, 0, 35, 0] == pytest.approx(edge, abs=1)
    origins = Cameras.from_label(written.labels).origins
    assert origins.norm(dim=1) == pytest.approx(2.7, abs=1e-5)
    assert origins / 2.7 == pytest.approx((cams.origins / 3.1).float(), abs=1e-5)


def test_normalise_sets_the_distance(tmp_path):
    cams = cameras(6, radius=3.1)
    source = save(raw({"cameras.json": poses_json(NAMES, cams)}), tmp_path / "raw")
    origins = {}
    for how in ("none", "orig", "cor"):
        cfg = FacesConfig(normalise=how, aligned_size=SIDE, resolution=16)
        prepare_faces("ffhq", source, tmp_path / how, cfg)
        origins[how] = Cameras.from_label(opened(tmp_path / how).labels).origins.double()
    pivot = torch.tensor([0.0, 0.0, 0.175], dtype=torch.float64)
    assert origins["none"] == pytest.approx(cams.origins, abs=1e-6)
    assert (origins["cor"] - pivot).norm(dim=1) == pytest.approx(2.7, abs=1e-6)
    across = torch.linalg.cross(origins["cor"] - pivot, cams.origins - pivot)
    assert across.norm(dim=1) == pytest.approx(0, abs=1e-5)
    assert (origins["cor"] - origins["orig"]).norm(dim=1).min() > 1e-3


def test_labels_keep_their_distance_by_default(tmp_path):
    cams = cameras(6, radius=3.1)
    source = save(raw({"dataset.json": labels_json(NAMES, cams)}), tmp_path / "raw")
    for how, radius in (("auto", 3.1), ("orig", 2.5)):
        cfg = FacesConfig(normalise=how, radius=2.5, resolution=16)
        summary = prepare_faces("celebahq", source, tmp_path / how, cfg)
        assert summary.distance == pytest.approx((radius,) * 3, abs=1e-6)


def test_a_camera_file_may_be_elsewhere_and_use_other_suffixes(tmp_path):
    files = {n.replace(".png", ".jpg"): encoded(ramp(), "JPEG") for n in NAMES}
    source = save(files, tmp_path / "jpg.zip")
    (tmp_path / "poses.json").write_bytes(labels_json(NAMES, cameras()))
    cfg = FacesConfig(cameras=str(tmp_path / "poses.json"), resolution=32)
    prepare_faces("celebahq", source, tmp_path / "out", cfg)
    assert opened(tmp_path / "out").names == NAMES
    assert str(tmp_path) not in (tmp_path / "out" / "dataset.json").read_text()


def test_an_archive_may_have_a_top_folder(tmp_path):
    files = {f"FFHQ/{i}/a.png": encoded(ramp(16, blue=i)) for i in range(6)}
    files["FFHQ/dataset.json"] = labels_json([f"{i}/a.png" for i in range(6)], cameras())
    files["__MACOSX/FFHQ/0/._a.png"] = b"left by an archiver"
    prepare_faces(
        "ffhq", save(files, tmp_path / "a.zip"), tmp_path / "out", FacesConfig(resolution=16)
    )
    written = opened(tmp_path / "out")
    assert [int(written.images([i])[0, 2, 0, 0]) for i in range(6)] == list(range(6))
    assert written.labels == pytest.approx(cameras().to_label().float(), abs=1e-6)


def test_centre_square_crops_images(tmp_path):
    files = {n: encoded(ramp(24, 16)) for n in NAMES}
    files["dataset.json"] = labels_json(NAMES, cameras())
    source = save(files, tmp_path / "raw")
    with pytest.raises(DataError, match=r"00000.png is 24x16, expected a square"):
        prepare_faces("ffhq", source, tmp_path / "out", FacesConfig(resolution=16))
    prepare_faces("ffhq", source, tmp_path / "out", FacesConfig(resolution=16, centre_square=True))
    image = opened(tmp_path / "out").images([0])[0]
    assert (image.numpy() == ramp(24, 16)[:, 4:20].transpose(2, 0, 1)).all()


@pytest.mark.parametrize(("width", "height"), [(17, 16), (16, 17), (33, 24), (21, 16)])
def test_squares_are_cropped_to_half_a_pixel(tmp_path, width, height):
    """The square has the image's centre, which has half of the ramp's range.

    For a width of 17, columns 0 to 15 would have their centre at 8 / 17.
    """
    files = {n: encoded(ramp(width, height)) for n in NAMES}
    files["dataset.json"] = labels_json(NAMES, cameras())
    source = save(files, tmp_path / "raw")
    prepare_faces("ffhq", source, tmp_path / "out", FacesConfig(resolution=8, centre_square=True))
    image = opened(tmp_path / "out").images([0])[0].double()
    for channel, axis in ((0, 0), (1, 1)):
        line = image[channel].mean(dim=axis)
        inner = line[1:-1]  # kernels are truncated at the border
        assert float(inner.mean()) == pytest.approx(127.5, abs=0.5)


def test_stripes_finer_than_the_new_pixels_become_gray(tmp_path):
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = 255
    files = {n: encoded(stripes) for n in NAMES}
    files["dataset.json"] = labels_json(NAMES, cameras())
    source = save(files, tmp_path / "raw")
    prepare_faces("ffhq", source, tmp_path / "out", FacesConfig(resolution=8))
    inner = opened(tmp_path / "out").images([0])[0, :, :, 2:-2].float()
    assert inner == pytest.approx(torch.full_like(inner, 127.5), abs=4)


BROKEN = {
    "crop without meaning": (
        {"dataset.json": labels_json(NAMES, cameras())},
        {"crop": CROP},
        ConfigError,
        "labels_of=image or labels_of=crop",
    ),
    "meaning that pixels do not need": (
        {"cameras.json": poses_json(NAMES, cameras())},
        {"crop": CROP, "labels_of": "crop"},
        ConfigError,
        "labels_of=crop: the intrinsics of .* are in pixels",
    ),
    "cropped before, not said": (
        {"cameras.json": poses_json(NAMES, cameras(), 100)},
        {"crop": 50, "aligned_size": 100},
        DataError,
        "00000.png is 64x64.*cropped=true",
    ),
    "whole image of another size": (
        {"cameras.json": poses_json(NAMES, cameras(), 100)},
        {"aligned_size": 100},
        DataError,
        "00000.png is 64x64.*crop=700",
    ),
    "principal point of another size": (
        {"cameras.json": poses_json(NAMES, cameras(), 100)},
        {},
        DataError,
        "principal point 50 50 is not the centre of 64 pixels.*aligned_size",
    ),
    "enlarged": (
        {"dataset.json": labels_json(NAMES, cameras())},
        {"resolution": 128},
        DataError,
        "00000.png shows 64 pixels a side.*resolution=64 or less",
    ),
    "rotations": (
        {"cameras.json": json.dumps(dict.fromkeys(NAMES, np.eye(3).tolist())).encode()},
        {},
        DataError,
        "rotations only",
    ),
    "no cameras": ({}, {}, DataError, "neither dataset.json nor cameras.json"),
    "no such file": ({}, {"cameras": "/no.json"}, DataError, "cannot read cameras=/no.json"),
    "not JSON": ({"cameras.json": b"{"}, {}, DataError, "cameras.json.*not a valid JSON object"),
    "nothing in it": ({"cameras.json": b"{}"}, {}, DataError, "has no cameras"),
    "no labels in it": (
        {"dataset.json": b'{"labels": []}'},
        {"missing": "skip"},
        DataError,
        "has no cameras",
    ),
    "objects that are no numbers": (
        {"dataset.json": labels_json(NAMES, cameras(), objects={NAMES[0]: "cup"})},
        {},
        DataError,
        "`objects` must map image names to int",
    ),
    "splits that are no lists": (
        {"dataset.json": labels_json(NAMES, cameras(), splits={"test": 3})},
        {},
        DataError,
        "`splits` must map names of splits to image lists",
    ),
    "a camera too few": (
        {"dataset.json": labels_json(NAMES[1:], cameras(5))},
        {},
        DataError,
        "1 of 6 images have no camera.*00000.png.*missing=skip",
    ),
    "a camera too many": (
        {"dataset.json": labels_json([*NAMES, "x.png"], cameras(7))},
        {},
        DataError,
        "1 of 7 cameras.*x.png.*missing=skip",
    ),
    "two for one": (
        {"dataset.json": labels_json([*NAMES, "00000"], cameras(7))},
        {},
        DataError,
        "00000.png: two cameras",
    ),
    "one for two": (
        {
            "a/x.png": encoded(ramp()),
            "b/x.png": encoded(ramp()),
            "dataset.json": labels_json([*NAMES, "x.png"], cameras(7)),
        },
        {},
        DataError,
        "`x.png`.*matches a/x.png and b/x.png",
    ),
    "short label": (
        {"dataset.json": b'{"labels": [["00000.png", [1, 2]]]}'},
        {},
        DataError,
        "00000.png in dataset.json.*label is 2 numbers, expected 25",
    ),
    "not finite": (
        {"dataset.json": labels_json(NAMES, cameras()).replace(b"1.5", b"NaN")},
        {},
        DataError,
        "00000.png.*not finite",
    ),
    "OpenGL axes unsaid": (
        {"dataset.json": labels_json(NAMES, turned(turned(turned(cameras()))))},
        {},
        DataError,
        "look away from the origin.*convention=opengl",
    ),
    "z up unsaid": (
        {"dataset.json": labels_json(NAMES, turned(cameras()))},
        {"convention": "opengl"},
        DataError,
        r"\+z of the world.*world_up=z",
    ),
    "corrupt image": (
        {"00003.png": encoded(ramp())[:-60], "dataset.json": labels_json(NAMES, cameras())},
        {},
        DataError,
        "00003.png cannot be decoded",
    ),
    "huge image": (
        {"00003.png": encoded(np.zeros((1, 4097, 3), np.uint8)),
         "dataset.json": labels_json(NAMES, cameras())},
        {},
        UnsafeDataError,
        "00003.png claims 4097x1",
    ),
    "transparent image": (
        {"00002.png": encoded(np.zeros((64, 64, 4), np.uint8)),
         "dataset.json": labels_json(NAMES, cameras())},
        {},
        DataError,
        "00002.png is RGBA",
    ),
    "two images of one name": (
        {"00000.jpg": encoded(ramp(), "JPEG"),
         "dataset.json": labels_json([*NAMES, "00000.jpg"], cameras(7))},
        {},
        DataError,
        "00000.png and 00000.jpg would both be written as 00000.png",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", list(BROKEN))
def test_invalid_sources_are_rejected_and_nothing_is_written(tmp_path, fault):
    extra, options, error, message = BROKEN[fault]
    source = save(raw(extra), tmp_path / "raw")
    cfg = FacesConfig(**{"resolution": 16, "aligned_size": SIDE, **options})
    with pytest.raises(error, match=message):
        prepare_faces("ffhq", source, tmp_path / "out.zip", cfg)
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 701}, "even number"),
        ({"crop": 2000}, "crop=2000"),
        ({"cropped": True}, "cropped needs `crop`"),
        ({"labels_of": "crop"}, "labels_of needs `crop`"),
        ({"radius": 0.0}, "radius=0"),
        ({"aligned_size": 0}, "aligned_size=0"),
        ({"resolution": 2}, "resolution=2"),
        ({"max_replicas": 0}, "max_replicas=0"),
        ({"max_images": -1}, "max_images=-1"),
        ({"holdout": 1.0}, "holdout=1.0"),
    ],
)
def test_invalid_options_are_rejected(options, message):
    with pytest.raises(ConfigError, match=message):
        build(FacesConfig, options)


def test_missing_skip_leaves_out_unmatched_images_and_cameras(tmp_path):
    names = [*NAMES[1:], "x.png"]
    source = save(raw({"dataset.json": labels_json(names, cameras())}), tmp_path / "raw")
    cfg = FacesConfig(missing="skip", resolution=16)
    summary = prepare_faces("ffhq", source, tmp_path / "out", cfg)
    assert (summary.num_without_camera, summary.num_without_image, summary.num_images) == (1, 1, 5)
    assert "left out: 1 images without a camera, 1 cameras" in str(summary)
    written = opened(tmp_path / "out")
    assert written.names == NAMES[1:]
    assert written.labels == pytest.approx(cameras().to_label()[:5].float(), abs=1e-6)


@pytest.mark.parametrize("command", ["ffhq", "celebahq"])
def test_the_command_prints_a_summary(tmp_path, capsys, command):
    source = save(raw({"dataset.json": labels_json(NAMES, cameras())}), tmp_path / "raw")
    arguments = ["data", command, str(source), str(tmp_path / "out.zip"), "resolution=32"]
    with pytest.raises(SystemExit) as done:
        main([*arguments, "background=none", "max_images=4"])
    assert done.value.code == 0
    out, _ = capsys.readouterr()
    assert "4 images of 32x32 pixels" in out
    assert "camera distance: 2.7 to 2.7" in out
    assert f"focal length: {FOCAL} to {FOCAL}" in out
    assert index_of(tmp_path / "out.zip")[command]["max_images"] == 4
