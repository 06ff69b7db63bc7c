import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gan3d.cameras import Orbit
from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.images import to_uint8
from lightning_gan3d.inference.generate import (
    EMPTY,
    GenerateOptions,
    contact_sheet,
    depth_colours,
    generate,
    generate_to,
    latents,
    parse_seeds,
    render_views,
)

sys.path.insert(0, str(Path(__file__).parent.parent / "report"))

from fabricated_runs import Ball, write_labels  # after its folder is known

ORBIT = Orbit.around_box(2.0, radius=3.2)
ONE = GenerateOptions(seeds="0", views=1, device="cpu")


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0-7,12", [0, 1, 2, 3, 4, 5, 6, 7, 12]),
        ("3", [3]),
        ("5,1-2", [5, 1, 2]),
        (" 1 - 3 , 2,9", [1, 2, 3, 9]),
        ("4-4", [4]),
    ],
)
def test_seeds_are_parsed_in_order_and_once(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", ",", "a", "1-", "-1", "1-2-3", "1.5", "3,,4", "1 2", "²"])
def test_invalid_seeds_are_rejected_with_an_example(text):
    with pytest.raises(ConfigError, match=r"use e\.g\. 0-7"):
        parse_seeds(text)


def test_empty_and_huge_ranges_are_rejected():
    with pytest.raises(ConfigError, match="use 3-7"):
        parse_seeds("7-3")
    with pytest.raises(ConfigError, match="more than 100,000 numbers"):
        parse_seeds("0-1000000000")


def test_a_latent_depends_on_its_seed_alone():
    together, alone = latents([3, 8], 16), latents([8], 16)
    assert torch.equal(together[1:], alone)
    assert not torch.equal(together[0], together[1])


def test_every_image_is_written_with_its_raw_depth_and_opacity(tmp_path):
    ball = Ball()
    options = GenerateOptions(seeds="4,12", views=3, psi=0.7, device="cpu")
    sheet = generate(ball, tmp_path / "out", ORBIT, options)
    assert sheet == tmp_path / "out" / "contact_sheet.png"
    names = {p.name for p in sheet.parent.iterdir()}
    kinds = (".png", "_raw.png", "_depth.png", "_depth_colour.png", "_depth.npy", "_opacity.png")
    expected = {f"seed{s:04d}_view{v:02d}{k}" for s in (4, 12) for v in range(3) for k in kinds}
    assert names == expected | {"contact_sheet.png", "generate.json"}
    assert all(call["psi"] == 0.7 for call in ball.asked)
    images = ball.views(latents([12], 4), None, ORBIT.cameras(3))
    stored = np.asarray(Image.open(sheet.parent / "seed0012_view01.png"))
    assert np.array_equal(stored, to_uint8(images.image[1]).permute(1, 2, 0).numpy())
    metadata = json.loads((sheet.parent / "generate.json").read_text())
    assert metadata["seeds"] == [4, 12]
    assert torch.allclose(torch.tensor(metadata["labels"]), ORBIT.cameras(3).to_label())


def test_depth_is_stored_in_world_units(tmp_path):
    ball = Ball()
    generate(ball, tmp_path, ORBIT, ONE)
    depth = ball.views(latents([0], 4), None, ORBIT.cameras(1)).depth[0, 0].numpy()
    exact = np.load(tmp_path / "seed0000_view00_depth.npy")
    assert np.allclose(exact, depth)
    step = json.loads((tmp_path / "generate.json").read_text())["depth_png_step"]
    picture = Image.open(tmp_path / "seed0000_view00_depth.png")
    assert picture.mode == "I;16"
    assert np.abs(np.asarray(picture) * step - depth).max() <= step / 2 + 1e-6
    assert step == pytest.approx(1e-4)


def test_large_depths_are_stored_with_a_coarser_step(tmp_path):
    far = Orbit.around_box(2.0, radius=40.0)
    generate(Ball(), tmp_path, far, ONE)
    assert json.loads((tmp_path / "generate.json").read_text())["depth_png_step"] == 1e-3
    steps = np.asarray(Image.open(tmp_path / "seed0000_view00_depth.png"))
    assert 0 < steps.max() < 65535


def test_all_views_share_one_label():
    ball = Ball()
    orbit = Orbit.around_box(2.0)
    render_views(ball, latents([0, 1], 4), orbit.cameras(1).to_label(), orbit.cameras(3))
    (call,) = ball.asked
    assert call["label"].shape == (2, 25)
    assert torch.equal(call["cameras"].cam2world[:3], call["cameras"].cam2world[3:])


def test_a_representation_without_depth_writes_none(tmp_path):
    generate(Ball(solid=False), tmp_path, ORBIT, ONE)
    assert not list(tmp_path.glob("*depth*"))
    metadata = json.loads((tmp_path / "generate.json").read_text())
    assert metadata["depth"] == "this representation renders no depth"
    assert metadata["depth_png_step"] is None


def test_the_depth_preview_of_an_empty_scene_is_grey(tmp_path):
    away = ORBIT._replace(target=(9.0, 9.0, 9.0))
    generate(Ball(), tmp_path, away, ONE)
    preview = np.asarray(Image.open(tmp_path / "seed0000_view00_depth_colour.png"))
    assert np.unique(preview).tolist() == [EMPTY[0]]


def test_near_is_brighter_than_far():
    depth = np.array([[2.0, 3.0]], dtype=np.float32)
    colours = depth_colours(depth, None, (2.0, 3.0)).astype(int).sum(-1)
    assert colours[0, 0] > colours[0, 1]


def test_the_contact_sheet_holds_every_image_enlarged():
    red = np.full((8, 8, 3), (255, 0, 0), np.uint8)
    blue = np.full((8, 8, 3), (0, 0, 255), np.uint8)
    sheet = np.asarray(contact_sheet([("a", [red, blue]), ("b", [blue])]))
    assert (sheet == (255, 0, 0)).all(-1).sum() == 96 * 96
    assert (sheet == (0, 0, 255)).all(-1).sum() == 2 * 96 * 96


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"views": 0}, "views=0: use a whole number from 1"),
        ({"psi": float("nan")}, "psi=nan"),
        ({"precision": "half"}, "precision=half.*fp32"),
    ],
)
def test_invalid_options_are_rejected(option, message):
    with pytest.raises(ConfigError, match=message):
        build(GenerateOptions, option)


def test_invalid_seeds_write_nothing(tmp_path):
    with pytest.raises(ConfigError, match="seeds=7-3"):
        generate(Ball(), tmp_path / "out", ORBIT, GenerateOptions(seeds="7-3"))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def exported(tmp_path):
    """An exported tiny generator, and the folder of its data's labels."""
    from lightning_gan3d.checkpoints.stored_networks import save_generator
    from lightning_gan3d.experiment import load_experiment
    from lightning_gan3d.generator import Generator

    data = write_labels(tmp_path / "data")
    config = load_experiment("demo/triplane", [f"data.path={data}", "data.resolution=32"])
    torch.manual_seed(0)
    generator = Generator(config.generator, 32)
    return save_generator(tmp_path / "export", generator, config), data


def test_cameras_follow_the_data_set(exported):
    folder, data = exported
    summary = generate_to(folder, GenerateOptions(seeds="0,3", psi=0.7, views=2))
    assert f"2 seeds, 2 views each; cameras of {data}" in summary
    out = folder / "generated"
    assert (out / "contact_sheet.png").is_file()
    labels = torch.tensor(json.loads((out / "generate.json").read_text())["labels"])
    assert labels[:, 16].tolist() == pytest.approx([1.5, 1.5])
    assert Image.open(out / "seed0003_view01.png").size == (32, 32)


def test_without_the_data_set_the_cameras_circle_the_box(exported, tmp_path):
    folder, data = exported
    (data / "dataset.json").unlink()
    summary = generate_to(folder, ONE, out=tmp_path / "elsewhere")
    assert "circle around the box (cannot read the data set" in summary
    assert (tmp_path / "elsewhere" / "seed0000_view00.png").is_file()


def test_precision_changes_the_rounding(exported, tmp_path):
    folder, _ = exported
    images = {}
    for precision in ("fp32", "bf16"):
        out = tmp_path / precision
        generate_to(folder, dataclasses.replace(ONE, precision=precision), out)
        images[precision] = np.asarray(Image.open(out / "seed0000_view00.png")).astype(int)
    difference = np.abs(images["fp32"] - images["bf16"])
    assert 0 < difference.max() < 32
    assert difference.mean() < 4


def test_unknown_devices_and_folders_are_rejected(exported, tmp_path):
    folder, _ = exported
    with pytest.raises(ConfigError, match="use one of auto, cpu"):
        generate_to(folder, GenerateOptions(device="gpu"))
    with pytest.raises(ValueError, match="no such folder"):
        generate_to(tmp_path / "nothing", GenerateOptions())
