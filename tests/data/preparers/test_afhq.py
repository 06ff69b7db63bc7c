"""AFHQ: rotations become cameras at one distance that look at the origin."""

import json

import pytest
import torch
from preparer_parts import (
    cameras,
    colour_at,
    encoded,
    labels_json,
    opened,
    ramp,
    save,
    turned,
)

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.cli import main
from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.check import check_dataset
from lightning_gan3d.data.preparers.faces import AfhqConfig, prepare_afhq

STEMS = [f"pixabay_cat_{i:06d}" for i in range(6)]


def rotations(cams: Cameras, stems: list[str] = STEMS) -> bytes:
    return json.dumps(dict(zip(stems, cams.cam2world[:, :3, :3].tolist(), strict=True))).encode()


def folders() -> dict[str, bytes]:
    files = {f"train/cat/{s}.png": encoded(ramp()) for s in STEMS}
    files |= {f"train/dog/flickr_dog_{i}.png": encoded(ramp()) for i in range(3)}
    return files | {f"test/cat/flickr_cat_{i}.png": encoded(ramp()) for i in range(2)}


@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_rotations_become_cameras_around_the_origin(tmp_path, suffix):
    source = save(folders(), tmp_path / f"afhq{suffix}")
    (tmp_path / "rotations.json").write_bytes(rotations(cameras()))
    cfg = AfhqConfig(cameras=str(tmp_path / "rotations.json"), resolution=32)
    summary = prepare_afhq(source, tmp_path / "out.zip", cfg)
    assert summary.distance == pytest.approx((2.7,) * 3)
    assert summary.focal == (4.2647,) * 3
    written = opened(tmp_path / "out.zip")
    assert written.names == [f"train/cat/{s}.png" for s in STEMS]
    camera = Cameras.from_label(written.labels)
    # cameras() look at the origin from 2.7, so rotations determine their positions
    assert camera.cam2world == pytest.approx(cameras().cam2world.float(), abs=1e-6)
    for row in range(6):
        uv, depth = camera.select(slice(row, row + 1)).project(torch.zeros(1, 1, 3))
        assert depth == pytest.approx(2.7, abs=1e-5)
        colour = colour_at(written.images([row])[0], uv[0, 0])
        assert colour[:2] == pytest.approx(torch.full((2,), 0.5), abs=0.01)
    check_dataset(str(tmp_path / "out.zip"))


def test_axes_radius_and_focal_length_are_options(tmp_path):
    files = {f"{s}.png": encoded(ramp()) for s in STEMS}
    files["cameras.json"] = rotations(turned(cameras()))
    source = save(files, tmp_path / "flat")
    cfg = AfhqConfig(
        convention="opengl", world_up="z", radius=2.0, focal=3.0, resolution=16, animal="dog"
    )
    prepare_afhq(source, tmp_path / "out", cfg)
    camera = Cameras.from_label(opened(tmp_path / "out").labels)
    assert camera.origins == pytest.approx((cameras().origins / 2.7 * 2).float(), abs=1e-6)
    assert camera.cam2world[:, :3, :3] == pytest.approx(
        cameras().cam2world[:, :3, :3].float(), abs=1e-6
    )
    assert camera.intrinsics[:, 0, 0] == pytest.approx(3.0)


def test_animals_and_parts_select_folders(tmp_path):
    source = save(folders(), tmp_path / "afhq")
    names = {
        ("dog", "train"): [f"flickr_dog_{i}" for i in range(3)],
        ("cat", "test"): [f"flickr_cat_{i}" for i in range(2)],
        ("cat", "all"): [*STEMS, "flickr_cat_0", "flickr_cat_1"],
    }
    for (animal, part), stems in names.items():
        file = tmp_path / f"{animal}_{part}.json"
        file.write_bytes(rotations(cameras(len(stems)), stems))
        cfg = AfhqConfig(cameras=str(file), animal=animal, part=part, resolution=16)
        assert prepare_afhq(source, tmp_path / f"{animal}_{part}", cfg).num_images == len(stems)
    with pytest.raises(DataError, match=r"animal=wild: there are images of cat, dog only"):
        prepare_afhq(source, tmp_path / "out", AfhqConfig(animal="wild"))
    with pytest.raises(DataError, match=r"part=val: there are images of test, train only"):
        prepare_afhq(source, tmp_path / "out", AfhqConfig(part="val"))


def test_cameras_of_other_animals_and_parts_are_ignored(tmp_path):
    """A file of all AFHQ cameras works for cats; missing cameras are still rejected."""
    source = save(folders(), tmp_path / "afhq")
    stems = [*(f"flickr_dog_{i}" for i in range(3)), *STEMS, "flickr_cat_0", "flickr_cat_1"]
    file = tmp_path / "all.json"
    file.write_bytes(rotations(cameras(len(stems)), stems))
    counts = tmp_path / "counts.json"
    counts.write_text(json.dumps({str(i): 1 for i in range(len(stems))}))
    cfg = AfhqConfig(cameras=str(file), rebalance=str(counts), resolution=16)
    summary = prepare_afhq(source, tmp_path / "out", cfg)
    assert (summary.num_images, summary.num_without_camera, summary.num_without_image) == (6, 0, 0)
    written = Cameras.from_label(opened(tmp_path / "out").labels).cam2world
    assert written == pytest.approx(cameras(len(stems)).cam2world[3:9].float(), abs=1e-6)
    file.write_bytes(rotations(cameras(len(stems)), [*stems[:-1], "nobody"]))
    with pytest.raises(DataError, match=r"1 of 11 cameras .* have no image, e\.g\. nobody"):
        prepare_afhq(source, tmp_path / "b", cfg)
    file.write_bytes(rotations(cameras(8), [*stems[:3], *stems[4:9]][:8]))
    with pytest.raises(DataError, match=rf"1 of 6 images have no camera .*{STEMS[0]}"):
        prepare_afhq(source, tmp_path / "b", cfg)


def test_a_camera_matches_the_selected_image(tmp_path):
    """File names may repeat in other parts; exact paths take precedence."""
    files = {f"{part}/cat/{s}.png": encoded(ramp()) for part in ("train", "test") for s in STEMS}
    source = save(files, tmp_path / "afhq")
    file = tmp_path / "r.json"
    cfg = AfhqConfig(cameras=str(file), resolution=16)
    file.write_bytes(rotations(cameras()))
    assert prepare_afhq(source, tmp_path / "a", cfg).num_images == 6
    for suffix in ("", ".png"):
        file.write_bytes(rotations(cameras(), [f"test/cat/{s}{suffix}" for s in STEMS]))
        with pytest.raises(DataError, match=r"6 of 6 images have no camera"):
            prepare_afhq(source, tmp_path / "b", cfg)


def test_a_prepared_data_set_keeps_its_cameras(tmp_path):
    names = [f"00000/img{i:08d}.png" for i in range(6)]
    files = {n: encoded(ramp(32)) for n in names}
    files["dataset.json"] = labels_json(names, cameras(focal=4.0, radius=2.6))
    source = save(files, tmp_path / "afhq.zip")
    summary = prepare_afhq(source, tmp_path / "out.zip", AfhqConfig(resolution=16))
    assert summary.distance == pytest.approx((2.6,) * 3)
    assert summary.focal == pytest.approx((4.0,) * 3)
    assert opened(tmp_path / "out.zip").names == names


def test_an_invalid_rotation_is_rejected(tmp_path, capsys):
    source = save(folders(), tmp_path / "afhq")
    (tmp_path / "r.json").write_text(json.dumps({s: [[1, 0], [0, 1]] for s in STEMS}))
    out = str(tmp_path / "out.zip")
    with pytest.raises(SystemExit) as stopped:
        main(["data", "afhq", str(source), out, f"cameras={tmp_path}/r.json"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert f"{STEMS[0]} in {tmp_path}/r.json: the rotation must be 3 by 3 numbers" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.zip").exists()
    with pytest.raises(ConfigError, match="focal=0"):
        build(AfhqConfig, {"focal": 0.0})
