import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gan3d.cameras import Orbit
from lightning_gan3d.config import ConfigError
from lightning_gan3d.generate import (
    EMPTY,
    contact_sheet,
    depth_colours,
    generate,
    generate_to,
    latents,
    parse_seeds,
)
from lightning_gan3d.images import to_uint8

sys.path.insert(0, str(Path(__file__).parent / "report"))

from fabricated_runs import Ball, write_labels  # after its folder is known

ORBIT = Orbit.around_box(2.0, radius=3.2)


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
def test_seeds_are_read_in_order_and_once(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", ",", "a", "1-", "-1", "1-2-3", "1.5", "3,,4", "1 2", "²"])
def test_what_is_no_seed_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match=r"write e\.g\. 0-7"):
        parse_seeds(text)


def test_ranges_that_run_backwards_or_without_end_are_refused():
    with pytest.raises(ConfigError, match="write 3-7"):
        parse_seeds("7-3")
    with pytest.raises(ConfigError, match="more than 100,000 seeds"):
        parse_seeds("0-1000000000")


def test_a_latent_depends_on_its_seed_alone():
    together, alone = latents([3, 8], 16), latents([8], 16)
    assert torch.equal(together[1:], alone)
    assert not torch.equal(together[0], together[1])


def test_every_image_is_written_with_its_raw_depth_and_opacity(tmp_path):
    ball = Ball()
    sheet = generate(ball, tmp_path / "out", [4, 12], ORBIT, z_dim=4, num_views=3, psi=0.7)
    assert sheet == tmp_path / "out" / "contact_sheet.png"
    names = {p.name for p in sheet.parent.iterdir()}
    kinds = (".png", "_raw.png", "_depth.png", "_depth_colour.png", "_depth.npy", "_opacity.png")
    wanted = {f"seed{s:04d}_view{v:02d}{k}" for s in (4, 12) for v in range(3) for k in kinds}
    assert names == wanted | {"contact_sheet.png", "generate.json"}
    assert all(call["psi"] == 0.7 for call in ball.asked)
    images = ball.views(latents([12], 4), None, ORBIT.cameras(3))
    stored = np.asarray(Image.open(sheet.parent / "seed0012_view01.png"))
    assert np.array_equal(stored, to_uint8(images.image[1]).permute(1, 2, 0).numpy())
    facts = json.loads((sheet.parent / "generate.json").read_text())
    assert facts["seeds"] == [4, 12]
    assert torch.allclose(torch.tensor(facts["labels"]), ORBIT.cameras(3).to_label())


def test_depth_is_kept_in_world_units(tmp_path):
    ball = Ball()
    generate(ball, tmp_path, [0], ORBIT, z_dim=4, num_views=1)
    depth = ball.views(latents([0], 4), None, ORBIT.cameras(1)).depth[0, 0].numpy()
    exact = np.load(tmp_path / "seed0000_view00_depth.npy")
    assert np.allclose(exact, depth)
    step = json.loads((tmp_path / "generate.json").read_text())["depth_png_step"]
    picture = Image.open(tmp_path / "seed0000_view00_depth.png")
    assert picture.mode == "I;16"
    assert np.abs(np.asarray(picture) * step - depth).max() <= step / 2 + 1e-6
    assert step == pytest.approx(1e-4)


def test_depths_beyond_the_range_take_a_coarser_step(tmp_path):
    far = Orbit.around_box(2.0, radius=40.0)
    generate(Ball(), tmp_path, [0], far, z_dim=4, num_views=1)
    assert json.loads((tmp_path / "generate.json").read_text())["depth_png_step"] == 1e-3
    steps = np.asarray(Image.open(tmp_path / "seed0000_view00_depth.png"))
    assert 0 < steps.max() < 65535


def test_the_mapping_sees_one_label_and_every_camera_its_scene():
    ball = Ball()
    orbit = Orbit.around_box(2.0)
    from lightning_gan3d.generate import see

    see(ball, latents([0, 1], 4), orbit.cameras(1).to_label(), orbit.cameras(3))
    (call,) = ball.asked
    assert call["label"].shape == (2, 25)
    assert torch.equal(call["cameras"].cam2world[:3], call["cameras"].cam2world[3:])


def test_a_picture_without_depth_says_so(tmp_path):
    generate(Ball(solid=False), tmp_path, [0], ORBIT, z_dim=4, num_views=2)
    assert not list(tmp_path.glob("*depth*"))
    facts = json.loads((tmp_path / "generate.json").read_text())
    assert facts["depth"] == "this representation renders no depth"
    assert facts["depth_png_step"] is None


def test_an_empty_scene_is_grey_and_breaks_nothing(tmp_path):
    away = ORBIT._replace(target=(9.0, 9.0, 9.0))
    generate(Ball(), tmp_path, [0], away, z_dim=4, num_views=1)
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
    ("change", "words"),
    [
        ({"seeds": []}, "no seeds"),
        ({"num_views": 0}, "views=0"),
        ({"psi": float("nan")}, "psi=nan"),
    ],
)
def test_impossible_requests_write_nothing(tmp_path, change, words):
    arguments = {"seeds": [0], "num_views": 1, "psi": 1.0} | change
    with pytest.raises(ConfigError, match=words):
        generate(Ball(), tmp_path / "out", orbit=ORBIT, z_dim=4, **arguments)
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


def test_an_exported_generator_is_seen_as_its_data_was(exported):
    folder, data = exported
    said = generate_to(folder, "0,3", psi=0.7, views=2)
    assert f"2 seeds from 2 views, as the cameras of {data}" in said
    out = folder / "generated"
    assert (out / "contact_sheet.png").is_file()
    labels = torch.tensor(json.loads((out / "generate.json").read_text())["labels"])
    assert labels[:, 16].tolist() == pytest.approx([1.5, 1.5])
    assert Image.open(out / "seed0003_view01.png").size == (32, 32)


def test_without_the_data_the_cameras_go_around_the_box_and_it_says_so(exported, tmp_path):
    folder, data = exported
    (data / "dataset.json").unlink()
    said = generate_to(folder, "0", views=1, out=tmp_path / "elsewhere")
    assert "around the box, for the data set cannot be read" in said
    assert (tmp_path / "elsewhere" / "seed0000_view00.png").is_file()


def test_convolutions_round_as_asked(exported, tmp_path):
    folder, _ = exported
    images = {}
    for precision in ("fp32", "bf16"):
        out = tmp_path / precision
        generate_to(folder, "0", views=1, out=out, precision=precision)
        images[precision] = np.asarray(Image.open(out / "seed0000_view00.png")).astype(int)
    moved = np.abs(images["fp32"] - images["bf16"])
    assert 0 < moved.max() < 32
    assert moved.mean() < 4


def test_bad_requests_to_the_command_are_refused(exported, tmp_path):
    folder, _ = exported
    with pytest.raises(ConfigError, match="precision=half: use one of fp32"):
        generate_to(folder, precision="half")
    with pytest.raises(ConfigError, match="use one of auto, cpu"):
        generate_to(folder, device="gpu")
    with pytest.raises(ValueError, match="no such folder"):
        generate_to(tmp_path / "nothing")
