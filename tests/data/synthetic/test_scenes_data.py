"""Data sets of procedural scenes: files, truth, mirrored copies, and options."""

import dataclasses
import hashlib
import math

import pytest
import torch

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.data.archive import DataError, open_source
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.data.labels import read_index
from lightning_gan3d.data.synthetic.scenes import Scenes, ScenesConfig, describe
from lightning_gan3d.data.synthetic.synth import (
    SynthConfig,
    SynthObjects,
    make_synth,
    read_scene,
    read_truth,
    sample_cameras,
)
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import to_uint8

THREE = ScenesConfig(objects_max=3)
SMALL = SynthConfig(
    kind="scenes", num_images=20, num_objects=10, holdout=0.3, resolution=16, scenes=THREE
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("scenes") / "scenes.zip"
    make_synth(SMALL, path)
    return path


def test_a_data_set_of_scenes_has_their_truth(small):
    data = ImageDataset(DataConfig(path=str(small)), "all")
    objects = SynthObjects.open(small)
    assert objects.cfg == SMALL
    assert not data.warnings(2.0)
    scenes, cameras = objects.scenes.select(data.objects), Cameras.from_label(data.labels)
    view = scenes.render(cameras, 16, SMALL.far)
    assert int((to_uint8(view.objects.image).int() - data.images(range(20)).int()).abs().max()) <= 1
    for i in (0, 7, 13):
        depth, mask = read_truth(data, i)
        (instances, objects_of), placed = (
            read_scene(data, i),
            read_index(data.source)["placements"][data.names[i]],
        )
        torch.testing.assert_close(depth, view.objects.depth[i])
        assert torch.equal(mask, view.objects.mask[i])
        assert torch.equal(instances, view.instances[i])
        present = scenes.present[i]
        for name, columns, values in (
            ("scale", slice(4, 5), scenes.scale),
            ("rotation", slice(5, 6), scenes.rotation),
            ("translation", slice(6, 9), scenes.translation),
            ("box", slice(4), scenes.boxes(cameras)),
        ):
            stored = torch.tensor([p[name] for p in placed])
            assert torch.equal(objects_of[:, columns].squeeze(1), stored)
            torch.testing.assert_close(stored, values[i][present], atol=1e-5, rtol=0)
        visible = [[math.nan] * 4 if p["visible"] is None else p["visible"] for p in placed]
        torch.testing.assert_close(
            torch.tensor(visible), view.boxes[i][present], atol=1e-5, rtol=0, equal_nan=True
        )
    again = objects.render(data.objects, cameras, 16)
    assert torch.equal(again.image, view.objects.image)
    assert not set(data.objects[:7].tolist()) & {7, 8, 9}


def test_equal_options_give_equal_bytes(small, tmp_path):
    def digest(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()

    make_synth(SMALL, tmp_path / "again.zip")
    assert digest(tmp_path / "again.zip") == digest(small)
    other = dataclasses.replace(SMALL, scenes=dataclasses.replace(THREE, floor=-0.6))
    make_synth(other, tmp_path / "other.zip")
    assert digest(tmp_path / "other.zip") != digest(small)


def test_placements_of_mirrored_images_are_those_of_the_mirrored_scene(small):
    data = ImageDataset(DataConfig(path=str(small), mirror=True))
    index = next(i for i in range(len(data.names)) if len(read_scene(data, i)[1]) > 1)
    other = index + len(data.names)
    (plain, placed), (flipped, turned) = read_scene(data, index), read_scene(data, other)
    assert torch.equal(flipped, plain.flip(-1))
    num = len(turned)
    again = Scenes(
        (),
        {},
        turned[None, :, 4],
        turned[None, :, 5],
        turned[None, :, 6:],
        torch.ones(1, num, dtype=torch.bool),
        None,
    )
    boxes = again.boxes(Cameras.from_label(data.labels[other : other + 1]))[0]
    torch.testing.assert_close(boxes, turned[:, :4], atol=1e-4, rtol=0)
    torch.testing.assert_close(turned[:, 0], 1 - placed[:, 2])


def test_hidden_objects_have_no_visible_box():
    scenes = SynthObjects(SMALL).scenes.select(torch.tensor([0]))
    scenes = dataclasses.replace(scenes, present=torch.ones(1, 3, dtype=torch.bool))
    camera = Cameras.orbit(1, 0.2, SMALL.radius, SMALL.focal)
    away = scenes.moved(0, torch.tensor([0.0, 0.0, 9.0]))
    (placed,) = describe(away, camera, away.render(camera, 16, SMALL.far))
    assert placed[0]["visible"] is None
    assert len(placed) == 3


def test_cameras_are_narrow_unless_set():
    for options, most in (({}, 0.15), ({"azimuth": {"low": -1.0, "high": 1.0}}, 1.0)):
        cfg = build(SynthConfig, {"kind": "scenes", **options})
        origins = sample_cameras(cfg, 500, Draws(0)).origins
        azimuth = torch.atan2(origins[:, 0], origins[:, 2]).abs().max()
        assert 0.95 * most < float(azimuth) < most
        elevation = (origins[:, 1] / cfg.radius).asin()
        assert 0.05 <= float(elevation.min()) < 0.06
        assert 0.24 < float(elevation.max()) < 0.25 + 1e-6


def test_the_level_is_positive_inside_the_objects_of_a_scene():
    objects = SynthObjects(SMALL)
    scenes = objects.scenes
    middle = torch.stack([scenes.in_world(i).centre[:, 0] for i in range(3)], 1)
    level = objects.level(torch.arange(10), middle)
    assert torch.equal(level > 0, scenes.present)
    with pytest.raises(DataError, match="kind=figures has no scenes"):
        SynthObjects(SynthConfig(num_objects=4, num_images=4)).scenes  # noqa: B018  # the access raises


def test_other_kinds_store_nothing_of_scenes(tmp_path):
    for kind in ("figures", "heads"):
        path = tmp_path / f"{kind}.zip"
        options = {"num_images": 4, "num_objects": 4, "resolution": 8, "kind": kind}
        make_synth(build(SynthConfig, options), path)
        index = read_index(open_source(path))
        assert "placements" not in index
        assert "scenes" not in index["synth"]
    with pytest.raises(DataError, match="no `placements` of images/000000"):
        read_scene(ImageDataset(DataConfig(path=str(path)), "all"), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "figures", "scenes": {}}, "scenes with kind=figures: only kind=scenes"),
        ({"kind": "heads", "scenes": {}}, "scenes with kind=heads: only kind=scenes"),
        ({"background": "black"}, "background=black: kind=scenes draws"),
        ({"radius": 1.5}, "radius=1.5 with kind=scenes: use more than 1.75"),
        ({"elevation_max": 0.3}, "elevation_max=0.3: only kind=figures"),
        ({"scenes": {"objects_min": 2}}, "objects_min=2: use objects_max=1"),
        ({"scenes": {"objects_max": 4}}, "objects_max=4"),
        ({"scenes": {"scale_min": 0.7}}, "scale_min=0.7: use scale_max=0.6"),
        ({"scenes": {"rotation_min": 4.0}}, "rotation_min=4.0: use rotation_max"),
        ({"scenes": {"spread": 0.5}}, "scale_max=0.6 with spread=0.5.*use scale_max=0.5 or less"),
        ({"scenes": {"floor": 0.0}}, "floor=0.0.*use scale_max=0.5 or less"),
        ({"scenes": {"objects_max": 3, "spread": 0.3}}, "spread=0.3: 3 objects.*spread=0.483"),
        ({"scenes": {"objects_max": 2, "spread": 0.1}}, "spread=0.1: 2 objects.*spread=0.424"),
    ],
)
def test_options_that_cannot_be_met_are_rejected(options, message):
    with pytest.raises(ConfigError, match=message):
        build(SynthConfig, {"kind": "scenes", **options})
