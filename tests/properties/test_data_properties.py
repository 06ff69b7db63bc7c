"""Data sets and captures: dataset.json, images, transforms.json, COLMAP's models."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mutations import assert_finite, damaged_bytes, json_files, parse

sys.path.insert(0, str(Path(__file__).parent.parent / "data"))
sys.path.insert(0, str(Path(__file__).parent.parent / "data" / "captures"))

from capture_parts import capture, transforms, write_colmap_bin, write_colmap_txt, write_images
from data_parts import Parts

from lightning_gan3d.data.captures.colmap import cam2world_of, camera_of, read_model
from lightning_gan3d.data.captures.from_poses import FromPosesConfig, prepare_from_poses
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.errors import UserError

PARTS = Parts()
for name in list(PARTS.files)[3:]:
    del PARTS.files[name]
PARTS.index = {
    "labels": PARTS.index["labels"][:3],
    "splits": {"train": ["img0.png", "img1.png"], "test": ["img2.png"]},
    "objects": {"img0.png": 0, "img1.png": 1, "img2.png": 1},
    "copies": {"img1.png": "img0.png"},
}
SHOT = capture(4)


def use(path):
    dataset = ImageDataset(DataConfig(path=str(path)))
    return [dataset[i] for i in range(len(dataset))]


def check_dataset(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("data")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    items = parse(use, folder)
    if not isinstance(items, UserError):
        assert_finite(items)


@given(json_files(PARTS.index))
def test_a_dataset_json(tmp_path_factory, content):
    check_dataset(tmp_path_factory, {**PARTS.files, "dataset.json": content})


@given(damaged_bytes(PARTS.files["img1.png"]))
def test_an_image(tmp_path_factory, content):
    index = json.dumps(PARTS.index).encode()
    check_dataset(tmp_path_factory, {**PARTS.files, "img1.png": content, "dataset.json": index})


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    write_images(folder / "images", SHOT)
    return folder


@given(json_files(transforms(SHOT)))
def test_a_transforms_json(photographs, content):
    (photographs / "transforms.json").write_bytes(content)
    cfg, out = FromPosesConfig(resolution=16), photographs.parent / "out.zip"
    value = parse(lambda: prepare_from_poses(photographs, out, cfg, True))
    if not isinstance(value, UserError):
        labels = ImageDataset(DataConfig(path=str(out))).labels
        assert bool(torch.isfinite(labels).all())


@given(st.data())
def test_a_colmap_model(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("model")
    write = data.draw(st.sampled_from([write_colmap_bin, write_colmap_txt]))
    write(folder, SHOT)
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    path.write_bytes(data.draw(damaged_bytes(path.read_bytes())))
    model = parse(read_model, folder)
    if not isinstance(model, UserError):
        for image in model.images:
            pose = parse(cam2world_of, image)
            assert isinstance(pose, UserError) or np.isfinite(pose).all()
            parse(camera_of, model.cameras[image.camera], image.name)
