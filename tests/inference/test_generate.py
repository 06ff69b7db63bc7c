import json
import math
import shutil

import numpy as np
import pytest
import torch
from kinds import KINDS
from PIL import Image

from lightning_gan3d.checkpoints import store, stored_networks
from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.images import to_uint8
from lightning_gan3d.inference.config import GenerateOptions, VideoOptions
from lightning_gan3d.inference.generate import generate
from lightning_gan3d.inference.inversion.targets import Target, image_distance, read_target
from lightning_gan3d.inference.model import Subject
from lightning_gan3d.inference.pictures import CAPTION, CELL, GAP
from lightning_gan3d.inference.video import video

SMALL = {"seeds": "4,12", "views": 2, "psi": 0.7, "device": "cpu"}


def run(exports, kind, out, **changes):
    return generate([str(exports[kind])], GenerateOptions(**SMALL | changes), out)


def read(path):
    with Image.open(path) as file:
        return np.asarray(file)


@pytest.mark.parametrize("kind", KINDS)
def test_every_output_of_every_view_is_written(exports, models, tmp_path, kind):
    outputs = "image,raw,depth,normals,opacity"
    summary = run(exports, kind, tmp_path, outputs=outputs)
    assert f"{kind}: cameras of" in summary
    endings = [".png", "_raw.png"]
    if kind != "image2d":
        endings += ["_depth.png", "_depth_colour.png", "_depth.npy", "_opacity.png", "_normals.png"]
    names = {f"seed{s:04d}_view{v:02d}{e}" for s in (4, 12) for v in range(2) for e in endings}
    assert {p.name for p in tmp_path.iterdir()} == names | {"contact_sheet.png", "generate.json"}
    model = models[kind]
    subject = Subject(model, model.styles(model.latent(12), 0.7))
    image = to_uint8(subject.render(model.orbit.cameras(2)).image[1]).permute(1, 2, 0).numpy()
    assert np.array_equal(read(tmp_path / "seed0012_view01.png"), image)
    record = json.loads((tmp_path / "generate.json").read_text())
    assert (record["psi"], record["seeds"]) == (0.7, "4,12")
    assert torch.allclose(torch.tensor(record["labels"]), model.orbit.cameras(2).to_label())


def test_depth_is_stored_in_world_units(exports, models, tmp_path):
    run(exports, "voxel", tmp_path)
    model = models["voxel"]
    subject = Subject(model, model.styles(model.latent(4), 0.7))
    depth = subject.render(model.orbit.cameras(2)).depth[0, 0].numpy()
    assert np.array_equal(np.load(tmp_path / "seed0004_view00_depth.npy"), depth)
    step = json.loads((tmp_path / "generate.json").read_text())["depth_png_step"]
    steps = read(tmp_path / "seed0004_view00_depth.png")
    assert steps.dtype == np.uint16
    assert np.abs(steps * step - depth).max() <= step / 2 + 1e-6


def test_transparent_and_enlarged(exports, tmp_path):
    run(exports, "triplane", tmp_path, transparent=True, enlarge=3, outputs="image,opacity")
    rgba = read(tmp_path / "seed0004_view00.png")
    assert rgba.shape == (96, 96, 4)
    opacity = read(tmp_path / "seed0004_view00_opacity.png")
    assert np.abs(rgba[..., 3].astype(int) - opacity).max() <= 1
    with pytest.raises(ConfigError, match="image2d renders no opacity"):
        run(exports, "image2d", tmp_path / "2d", transparent=True)


def test_the_contact_sheet_shows_what_there_is(exports, tmp_path):
    run(exports, "triplane", tmp_path, outputs="opacity")
    assert read(tmp_path / "contact_sheet.png").shape[2] == 3
    with pytest.raises(ConfigError, match="outputs=depth: image2d renders image and raw only"):
        run(exports, "image2d", tmp_path / "2d", outputs="depth")


def test_the_contact_sheet_is_bounded_and_made_from_the_files(exports, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_gan3d.inference.generate.SHOWN", 2)
    options = {"seeds": "3,1,8", "views": 1, "transparent": True, "enlarge": 2}
    summary = run(exports, "triplane", tmp_path / "three", **options)
    assert summary.endswith("the contact sheet shows the first 2 of 3 latents")
    assert (tmp_path / "three" / "seed0008_view00.png").is_file()
    assert "latents" not in run(exports, "triplane", tmp_path / "two", **options | {"seeds": "3,1"})
    sheets = [read(tmp_path / name / "contact_sheet.png") for name in ("three", "two")]
    assert np.array_equal(*sheets)
    tile = read(tmp_path / "two" / "seed0003_view00.png")[::2, ::2]
    side = -(-CELL // len(tile)) * len(tile)
    shown = Image.fromarray(tile).resize((side, side), Image.Resampling.NEAREST)
    expected = Image.new("RGB", (side, side), "white")
    expected.paste(shown, (0, 0), shown)
    drawn = sheets[0][CAPTION : CAPTION + side, GAP : GAP + side]
    assert np.array_equal(drawn, np.asarray(expected))


def test_settings_in_a_png_file_make_it_again(exports, tmp_path):
    run(exports, "triplane", tmp_path / "a", cameras="0.3:0.1", psi=0.6)
    with Image.open(tmp_path / "a" / "seed0012_view00.png") as file:
        settings = json.loads(file.text["Settings"])
    options = {k: v for k, v in settings.items() if k in GenerateOptions.__dataclass_fields__}
    generate([settings["generator"]], build(GenerateOptions, options), tmp_path / "b")
    name = "seed0012_view00.png"
    assert np.array_equal(read(tmp_path / "a" / name), read(tmp_path / "b" / name))


def test_generators_side_by_side(exports, tmp_path):
    options = GenerateOptions(**SMALL)
    generate([str(exports[k]) for k in ("voxel", "image2d")], options, tmp_path)
    alone = tmp_path / "alone"
    run(exports, "voxel", alone)
    name = "seed0004_view01.png"
    assert np.array_equal(read(tmp_path / "voxel" / name), read(alone / name))
    assert (tmp_path / "image2d" / name).is_file()
    width, height = Image.open(tmp_path / "contact_sheet.png").size
    assert width > 2 * 2 * 96  # two generators of two views
    assert height < 3 * 120  # two seeds


def test_generators_of_equal_names_are_rejected(exports, tmp_path):
    with pytest.raises(ConfigError, match="two generators are called voxel"):
        generate([str(exports["voxel"])] * 2, GenerateOptions(**SMALL), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_all_checkpoints_of_a_run(exports, models, tmp_path):
    from lightning_gan3d.experiment import load_experiment

    config = load_experiment(exports["voxel"] / "config.yaml")
    for step in (1, 2):

        def write(folder):
            stored_networks.save_generator(folder, models["voxel"].generator, config)

        store.save(tmp_path / "run" / "checkpoints", step, write, {"kimg": step}, 5)
    (tmp_path / "run" / "config.yaml").write_text((exports["voxel"] / "config.yaml").read_text())
    options = GenerateOptions(seeds="1", views=1, device="cpu")
    generate([str(tmp_path / "run")], options, tmp_path / "out", all_checkpoints=True)
    folders = [p.name for p in sorted((tmp_path / "out").iterdir()) if p.is_dir()]
    assert folders == ["run-step000000001", "run-step000000002"]
    with pytest.raises(ConfigError, match="no run with checkpoints"):
        generate([str(exports["voxel"])], options, tmp_path / "none", all_checkpoints=True)
    assert not (tmp_path / "none").exists()


def test_sorting_by_distance_finds_the_reference(exports, tmp_path):
    run(exports, "triplane", tmp_path / "one", seeds="6", cameras="frontal", psi=1.0)
    reference = str(tmp_path / "one" / "seed0006_view00.png")
    options = {"sort": "distance", "reference": reference, "cameras": "frontal", "psi": 1.0}
    run(exports, "triplane", tmp_path / "all", seeds="2-9", **options)
    scores = json.loads((tmp_path / "all" / "generate.json").read_text())["scores"]
    assert min(scores, key=scores.get) == "6"
    assert scores["6"] < 1e-4 < min(v for k, v in scores.items() if k != "6")


def test_sorting_by_flatness_and_logit(exports, tmp_path):
    run(exports, "triplane", tmp_path / "flat", seeds="0-3", sort="flatness")
    scores = json.loads((tmp_path / "flat" / "generate.json").read_text())["scores"]
    assert all(0.2 < value < 0.7 for value in scores.values())  # about balls: 0.47
    with pytest.raises(ValueError, match=r"holds no discriminator\.safetensors"):
        run(exports, "triplane", tmp_path / "d", sort="logit")
    with pytest.raises(ConfigError, match="sort=flatness: image2d renders no depth"):
        run(exports, "image2d", tmp_path / "2d", sort="flatness")


def test_images_are_read_upright_and_cropped_to_their_centre(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:4, 4:12] = 255  # the upper half of the central square
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 3  # turned by half
    image.save(tmp_path / "turned.png", exif=exif)
    read = read_target(tmp_path / "turned.png", 8).image[0, 0]
    assert read.shape == (8, 8)
    assert bool((read[:4] == -1).all())
    assert bool((read[4:] == 1).all())
    (tmp_path / "x.png").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"x\.png: not a readable image"):
        read_target(tmp_path / "x.png", 8)


def test_the_distance_is_that_of_all_sizes():
    a, b = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)
    b[..., ::2, :] = 1.0  # rows: their mean remains, so that half sizes differ by 0.5 everywhere
    mask = torch.ones(1, 1, 32, 32)
    assert float(image_distance(a, Target(b, mask))) == pytest.approx((0.5 + 3 * 0.25) / 4)
    assert float(image_distance(a, Target(a, mask))) == 0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"views": 0}, "views=0: use a whole number from 1"),
        ({"psi": math.nan}, "psi=nan"),
        ({"precision": "half"}, "precision=half.*fp32"),
        ({"outputs": "image,colour"}, "outputs=image,colour: colour; use any of image, raw"),
        ({"sort": "distance"}, "sort=distance: name an image with reference"),
        ({"reference": "x.png"}, "reference=x.png: add sort=distance"),
        ({"transparent": True, "outputs": "depth"}, "add image to outputs=depth"),
        ({"cutoff": -1}, "cutoff=-1"),
    ],
)
def test_invalid_options_are_rejected(option, message):
    with pytest.raises(ConfigError, match=message):
        build(GenerateOptions, option)


def test_invalid_seeds_write_nothing(exports, tmp_path):
    with pytest.raises(ConfigError, match="seeds=7-3"):
        run(exports, "voxel", tmp_path / "out", seeds="7-3")
    assert not (tmp_path / "out").exists()


def test_an_output_that_only_one_of_two_generators_has(exports, tmp_path):
    """The 2D baseline has no depth and no samples: beside another generator it is left out."""
    runs = [str(exports[kind]) for kind in ("triplane", "image2d")]
    options = GenerateOptions(**SMALL, outputs="depth", samples=2)
    generate(runs, options, tmp_path)
    assert len(list((tmp_path / "triplane").glob("*_depth_colour.png"))) == 4
    assert [p.name for p in (tmp_path / "image2d").iterdir()] == ["generate.json"]
    assert (tmp_path / "contact_sheet.png").is_file()
    other = shutil.copytree(exports["image2d"], tmp_path / "other")
    video(runs, VideoOptions(outputs="depth", frames=2, format="gif", device="cpu"), tmp_path)
    assert Image.open(tmp_path / "seed0000.gif").size == (32, 32)  # the tri-plane alone
    for write in (generate, lambda *a: video(a[0], VideoOptions(outputs="depth", device="cpu"))):
        with pytest.raises(ConfigError, match="no generator renders them"):
            write([runs[1], str(other)], options, tmp_path / "none")
