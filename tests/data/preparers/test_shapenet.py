"""Renders in the layout of Scene Representation Networks."""

from typing import Any

import numpy as np
import pytest
import torch
from preparer_parts import (
    cameras,
    colour_at,
    encoded,
    index_of,
    labels_json,
    opened,
    points,
    ramp,
    save,
    turned,
)

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.cli import main
from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.check import check_dataset
from lightning_gan3d.data.preparers.shapenet import ShapenetConfig, prepare_shapenet

OBJECTS = ["1a0c", "2b7f", "9e41", "c3d2"]
VIEWS = 3


def renders(
    top: str = "cars_train/",
    size: int = 512,
    cams: Cameras | None = None,
    objects: list[str] = OBJECTS,
) -> dict[str, bytes]:
    """Transparent images of 32 pixels; intrinsics in pixels of `size`."""
    cams = cameras(VIEWS, focal=1.1, radius=1.3) if cams is None else cams
    files = {}
    for name in objects:
        half = size / 2
        text = f"{1.1 * size} {half} {half} 0.\n0. 0. 0.\n0.\n1.\n{size} {size}\n"
        files[f"{top}{name}/intrinsics.txt"] = text.encode()
        for k in range(VIEWS):
            alpha = np.full((32, 32, 1), 255, np.uint8)
            alpha[:8] = 0
            files[f"{top}{name}/rgb/{k:06d}.png"] = encoded(np.dstack([ramp(32), alpha]))
            numbers = " ".join(f"{x:.9f}" for x in cams.cam2world[k].flatten().tolist())
            files[f"{top}{name}/pose/{k:06d}.txt"] = numbers.encode()
    return files


@pytest.mark.parametrize("suffix", ["", ".zip"])
@pytest.mark.parametrize("top", ["cars_train/", ""])
def test_points_project_to_their_colours(tmp_path, suffix, top):
    source = save(renders(top), tmp_path / f"cars{suffix}")
    cfg = ShapenetConfig(resolution=16, mirror=True)
    summary = prepare_shapenet(source, tmp_path / "out.zip", cfg)
    assert summary.focal == pytest.approx((1.1,) * 3)
    assert summary.distance == pytest.approx((1.3,) * 3)
    written = opened(tmp_path / "out.zip")
    assert written.names[0] == "1a0c/000000.png"
    assert len(written) == 2 * len(OBJECTS) * VIEWS
    assert (written.images([0])[0, :, 0] == 255).all()  # white background
    truth = cameras(VIEWS, focal=1.1, radius=1.3)
    for row, name in enumerate(written.names):
        k = int(name.split("/")[1][:6])
        side = torch.tensor([-1.0 if "_mirror" in name else 1.0, 1.0, 1.0])
        p = points(4, seed=row) / 2
        expected, _ = truth.select(slice(k, k + 1)).project(p[None])
        uv, _ = Cameras.from_label(written.labels[row : row + 1].double()).project((p * side)[None])
        for i in range(4):
            colour = colour_at(written.images([row])[0], uv[0, i])
            assert colour[:2] == pytest.approx(expected[0, i], abs=0.3 / 32)
    check_dataset(str(tmp_path / "out.zip"))


def test_objects_are_numbered_and_held_out_whole(tmp_path):
    source = save(renders(), tmp_path / "cars")
    cfg = ShapenetConfig(resolution=16, mirror=True, holdout=0.5)
    summary = prepare_shapenet(source, tmp_path / "out", cfg)
    assert summary.splits == {"train": 12, "test": 6}
    index = index_of(tmp_path / "out")
    sides = {s: {n.split("/")[0] for n in names} for s, names in index["splits"].items()}
    assert len(sides["train"]) == len(sides["test"]) == 2
    assert not sides["train"] & sides["test"]
    for name, number in index["objects"].items():
        place = OBJECTS.index(name.split("/")[0])
        assert number == place + (len(OBJECTS) if "_mirror" in name else 0)
    assert not any("_mirror" in n for n in index["splits"]["test"])
    assert len(opened(tmp_path / "out", "train")) == 12


def test_other_axes_need_options(tmp_path):
    cams = turned(cameras(VIEWS, focal=1.1, radius=1.3))
    source = save(renders(cams=cams), tmp_path / "cars")
    cfg = ShapenetConfig(convention="opengl", world_up="z", resolution=16)
    prepare_shapenet(source, tmp_path / "out", cfg)
    expected = cameras(VIEWS, focal=1.1, radius=1.3).cam2world
    pose = Cameras.from_label(opened(tmp_path / "out").labels).cam2world
    assert pose[:VIEWS] == pytest.approx(expected.float(), abs=1e-6)
    with pytest.raises(DataError, match=r"mean up .* is \+z of the world.*world_up=z"):
        prepare_shapenet(source, tmp_path / "b", ShapenetConfig(convention="opengl"))
    with pytest.raises(DataError, match="look away from the origin"):
        prepare_shapenet(source, tmp_path / "b", ShapenetConfig(world_up="z"))


def with_file(name: str, data: bytes | None) -> dict[str, bytes]:
    files = renders("")
    files.pop(name, None)
    return files if data is None else {**files, name: data}


BROKEN = {
    "size left out": (
        with_file("2b7f/intrinsics.txt", b"563.2 256. 256. 0.\n0. 0. 0.\n0.\n1.\n"),
        "2b7f/intrinsics.txt does not state its image size.*intrinsics_size=512",
    ),
    "another size": (
        with_file("2b7f/intrinsics.txt", b"563.2 256. 256. 0.\n0. 0. 0.\n0.\n1.\n128 128\n"),
        "2b7f/intrinsics.txt: principal point 256 256 is not the centre of 128 pixels.*stated "
        "by its last line.*intrinsics_size=512",
    ),
    "oblong": (with_file("2b7f/intrinsics.txt", b"5. 2. 2. 0.\n1.\n4 8\n"), "states 4x8 pixels"),
    "no numbers": (with_file("2b7f/intrinsics.txt", b"focal\n"), "first line must be `focal cx cy"),
    "no intrinsics": (with_file("2b7f/intrinsics.txt", None), "has no 2b7f/intrinsics.txt"),
    "no pose": (with_file("2b7f/pose/000001.txt", None), "rgb/000001.png.*no pose.*missing=skip"),
    "no image": (with_file("2b7f/rgb/000001.png", None), "1 poses.*2b7f/pose/000001.txt"),
    "short pose": (with_file("2b7f/pose/000001.txt", b"1 0 0 0"), "pose/000001.txt: 4 numbers"),
    "wordy pose": (with_file("2b7f/pose/000001.txt", b"one"), "pose/000001.txt.*must hold numbers"),
    "endless pose": (with_file("2b7f/pose/000001.txt", b"nan " * 16), "000001.txt.*not finite"),
    "no rotation": (
        with_file("2b7f/pose/000001.txt", b"2 0 0 0 0 -2 0 0 0 0 -2 1 0 0 0 1"),
        "2b7f/rgb/000001.png: the pose has no valid rotation",
    ),
    "corrupt image": (with_file("2b7f/rgb/000001.png", b"PNG"), "000001.png is not a readable"),
    "intrinsics of none": (
        {n: d for n, d in renders("").items() if "intrinsics" not in n}, "neither OBJECT/rgb"
    ),
    "images alone": ({"a/b.png": encoded(ramp())}, "neither OBJECT/rgb"),
}  # fmt: skip


@pytest.mark.parametrize("fault", list(BROKEN))
def test_invalid_sources_are_rejected_and_nothing_is_written(tmp_path, fault):
    files, message = BROKEN[fault]
    source = save(files, tmp_path / "cars")
    with pytest.raises(DataError, match=message):
        prepare_shapenet(source, tmp_path / "out", ShapenetConfig(resolution=16))
    assert [p.name for p in tmp_path.iterdir()] == ["cars"]


def test_intrinsics_size_overrides_the_file_and_is_checked(tmp_path):
    files = renders("", size=512)
    for name in OBJECTS:
        files[f"{name}/intrinsics.txt"] = b"563.2 256. 256. 0.\n0. 0. 0.\n0.\n1.\n128 128\n"
    source = save(files, tmp_path / "cars")
    cfg = ShapenetConfig(resolution=16, intrinsics_size=512)
    assert prepare_shapenet(source, tmp_path / "out", cfg).focal == pytest.approx((1.1,) * 3)
    with pytest.raises(DataError, match=r"not the centre of 128 pixels.*by `intrinsics_size`"):
        prepare_shapenet(source, tmp_path / "b", ShapenetConfig(resolution=16, intrinsics_size=128))
    with pytest.raises(ConfigError, match="intrinsics_size=-1"):
        build(ShapenetConfig, {"intrinsics_size": -1})


def test_missing_skip_leaves_out_views_without_a_pose(tmp_path):
    files = with_file("2b7f/pose/000001.txt", None)
    del files["1a0c/rgb/000000.png"]
    source = save(files, tmp_path / "cars")
    cfg = ShapenetConfig(resolution=16, missing="skip")
    summary = prepare_shapenet(source, tmp_path / "out", cfg)
    assert (summary.num_without_camera, summary.num_without_image, summary.num_images) == (1, 1, 10)


def test_a_prepared_data_set_keeps_objects_and_splits(tmp_path):
    files = renders()
    source = save(files, tmp_path / "cars")
    prepare_shapenet(source, tmp_path / "a.zip", ShapenetConfig(resolution=32, holdout=0.5))
    prepare_shapenet(tmp_path / "a.zip", tmp_path / "b.zip", ShapenetConfig(resolution=16))
    a, b = index_of(tmp_path / "a.zip"), index_of(tmp_path / "b.zip")
    assert (a["labels"], a["objects"], a["splits"]) == (b["labels"], b["objects"], b["splits"])
    # objects share their poses but are not copies of one photograph
    assert "copies" not in b
    with pytest.raises(ConfigError, match="intrinsics_size=512"):
        prepare_shapenet(
            tmp_path / "a.zip", tmp_path / "c.zip", ShapenetConfig(intrinsics_size=512)
        )


def test_the_data_set_of_eg3d_is_read_by_its_labels(tmp_path, capsys):
    names = [f"00000/img{i:08d}.png" for i in range(4)]
    files = {n: encoded(np.full((16, 16, 4), (9, 9, 9, 0), np.uint8)) for n in names}
    files["dataset.json"] = labels_json(names, cameras(4, focal=1.7074, radius=1.7))
    source = save(files, tmp_path / "cars_128.zip")
    with pytest.raises(SystemExit) as done:
        main(["data", "shapenet", str(source), str(tmp_path / "out.zip"), "resolution=16"])
    assert done.value.code == 0
    assert "median 1.71 image widths" in capsys.readouterr().out
    assert (opened(tmp_path / "out.zip").images([0]) == 255).all()


def labelled(names: list[str], **extra: Any) -> dict[str, bytes]:
    """Images with labels but without object numbers, as from EG3D's tools."""
    files = {n: encoded(ramp(16)) for n in names}
    cams = cameras(len(names), focal=1.1, radius=1.3)
    return {**files, "dataset.json": labels_json(names, cams, **extra)}


@pytest.mark.parametrize("layout", ["{}/rgb/{}.png", "{}/{}.png", "top/{}/images/{}.png"])
def test_paths_identify_objects_of_labelled_images(tmp_path, layout):
    names = [layout.format(name, k) for name in OBJECTS for k in range(VIEWS)]
    source = save(labelled(names), tmp_path / "cars")
    cfg = ShapenetConfig(resolution=16, mirror=True, holdout=0.5)
    assert prepare_shapenet(source, tmp_path / "out", cfg).splits == {"train": 12, "test": 6}
    index = index_of(tmp_path / "out")
    sides = {
        side: {next(o for o in OBJECTS if o in n) for n in names}
        for side, names in index["splits"].items()
    }
    assert len(sides["train"]) == len(sides["test"]) == 2
    assert not sides["train"] & sides["test"]
    order = sorted(OBJECTS)
    for name, number in index["objects"].items():
        place = order.index(next(o for o in OBJECTS if o in name))
        assert number == place + (len(OBJECTS) if "_mirror" in name else 0)


@pytest.mark.parametrize(
    "names",
    [
        [f"00000/img{i:08d}.png" for i in range(6)],  # as EG3D's dataset_tool numbers them
        [f"cars/{i // 3:05d}/img{i:08d}_mirror.png" for i in range(6)],
        [f"{i}.png" for i in range(6)],
        [f"cars/{i}.png" for i in range(6)],
        [f"{'train' if i < 3 else 'test'}/{i}.png" for i in range(6)],
        [*(f"a/rgb/{i}.png" for i in range(5)), "b.png"],
    ],
)
def test_unidentified_objects_cannot_be_held_out(tmp_path, names):
    source = save(labelled(names), tmp_path / "cars.zip")
    message = r"holdout=0.5: neither dataset.json of .* identify the object .* renders, or add `ob"
    with pytest.raises(DataError, match=message):
        prepare_shapenet(source, tmp_path / "out", ShapenetConfig(resolution=16, holdout=0.5))
    summary = prepare_shapenet(source, tmp_path / "out", ShapenetConfig(resolution=16))
    assert summary.num_images == 6
    assert "objects" not in index_of(tmp_path / "out")


def test_partly_numbered_objects_cannot_be_held_out(tmp_path):
    names = [f"{name}/rgb/{k}.png" for name in OBJECTS for k in range(VIEWS)]
    source = save(labelled(names, objects={names[0]: 3}), tmp_path / "cars.zip")
    with pytest.raises(DataError, match=r"`objects` .* lacks 11 of 12 images, e.g. 1a0c/rgb/1.png"):
        prepare_shapenet(source, tmp_path / "out", ShapenetConfig(resolution=16, holdout=0.5))
