import math
from pathlib import Path

import pytest
import torch
from kinds import KINDS

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.inference import model as model_module
from lightning_gan3d.inference.config import RenderOptions
from lightning_gan3d.inference.model import (
    Subject,
    by_settings,
    captions,
    latents,
    name_of,
    open_model,
    output_folder,
    parse_seeds,
)
from lightning_gan3d.inference.styles import along_loop, interpolated, slerp
from lightning_gan3d.runs import write_config

RENDER = RenderOptions(device="cpu")


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
    with pytest.raises(ConfigError, match="cols=0-32: 33 seeds; use 32 or fewer"):
        parse_seeds("0-32", "cols", 32)
    with pytest.raises(ConfigError, match="more than 100,000 numbers"):
        parse_seeds("0-1000000000")


def test_a_latent_depends_on_its_seed_alone():
    together, alone = latents([3, 8], 16), latents([8], 16)
    assert torch.equal(together[1:], alone)
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_subject_renders_what_the_generator_does(models, kind):
    model = models[kind]
    cameras = model.orbit.cameras(3)
    subject = Subject(model, model.styles(model.latent(4), 0.7))
    with torch.no_grad():
        expected = model.generator.views(model.latent(4), model.label, cameras, 0.7)
    images = subject.render(cameras)
    assert torch.equal(images.image, expected.image)
    one = subject.render(cameras.select(slice(1, 2)))
    assert torch.allclose(one.image, images.image[1:2], atol=1e-5)


@pytest.mark.parametrize("limit", ["RAYS", "PIXELS"])
def test_batches_of_views_are_bounded(models, limit, monkeypatch):
    subject = Subject(models["triplane"], models["triplane"].styles_of(0, RENDER))
    cameras = models["triplane"].orbit.cameras(5)
    whole = subject.render(cameras).image
    side = {
        "RAYS": models["triplane"].generator.rendering_resolution,
        "PIXELS": models["triplane"].generator.resolution,
    }[limit]
    monkeypatch.setattr(model_module, limit, 2 * side**2)
    parts = [images.image for _, images in subject.batches(cameras)]
    assert [len(x) for x in parts] == [2, 2, 1]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)


def test_the_cutoff_truncates_coarse_styles_only(models):
    model = models["triplane"]
    z = model.latent(0)
    whole, cut = model.styles(z, 0.0)(model.label), model.styles(z, 0.0, 2)(model.label)
    free = model.styles(z)(model.label)
    assert torch.equal(cut[:, :2], whole[:, :2])
    assert torch.equal(cut[:, 2:], free[:, 2:])


def test_the_conditioning_label_is_apart_from_the_cameras(models):
    model = models["image2d"]
    frontal, side = model.orbit.cameras(2).select(slice(0, 1)), model.orbit.cameras(2)
    assert model.generator.mapping.cfg.condition == "camera"
    ws = model.styles(model.latent(0))(side.to_label())
    assert not torch.equal(ws[0], ws[1])
    subject = Subject(model, model.styles(model.latent(0)))
    assert torch.allclose(subject.render(side).image[:1], subject.render(frontal).image, atol=1e-5)


def test_more_samples_and_another_resolution(exports):
    plain, fine = (
        open_model(exports["triplane"], RenderOptions(device="cpu", samples=n)) for n in (1, 4)
    )
    oversample = plain.generator.cfg.renderer.oversample
    assert fine.generator.cfg.renderer.oversample == 4 * oversample
    images = Subject(plain, plain.styles(plain.latent(0))).render(plain.orbit.cameras(1), 48)
    assert images.image_raw.shape[-1] == 48
    with pytest.raises(ConfigError, match=r"samples=2: .* has no samples per ray"):
        open_model(exports["image2d"], RenderOptions(device="cpu", samples=2))


def test_a_loop_passes_all_seeds_and_closes(models):
    model = models["triplane"]
    label = model.label
    for space in ("z", "w"):
        for i, seed in enumerate((3, 5, 8)):
            styles = along_loop(model, [3, 5, 8], i / 3, RENDER, space)
            expected = model.styles(model.latent(seed))(label)
            assert torch.allclose(styles(label), expected, atol=1e-5)
        near = along_loop(model, [3, 5, 8], 0.9999, RENDER, space)(label)
        assert torch.allclose(near, model.styles(model.latent(3))(label), atol=5e-3)
    middle = interpolated(model, (3, 5), 0.5, RENDER, "w")(label)
    ends = [model.styles(model.latent(s))(label) for s in (3, 5)]
    assert torch.allclose(middle, (ends[0] + ends[1]) / 2, atol=1e-6)


def test_slerp_turns_at_constant_speed():
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    for t in (0.0, 0.3, 1.0):
        mixed = slerp(a, b, t)[0]
        assert float(torch.atan2(mixed[1], mixed[0])) == pytest.approx(t * math.pi / 2, abs=1e-6)
        assert float(mixed.norm()) == pytest.approx(2 + 2 * t)
    assert torch.allclose(slerp(a, a, 0.5), a)


def test_names_and_output_folders(exports, tmp_path):
    assert name_of("pretrained:triplane") == "triplane"
    assert name_of("hf://org/some.name") == "some.name"
    folder = exports["voxel"]
    assert output_folder([str(folder)], "videos", None) == folder / "videos"
    assert output_folder([str(folder)], "videos", tmp_path) == tmp_path
    step = folder.parent / "run" / "checkpoints" / "step000000001"
    step.mkdir(parents=True)
    for path in (step, folder.parent / "run"):
        (path / "config.yaml").touch()
    assert output_folder([str(step)], "videos", None) == Path("videos") / name_of(step)
    both = output_folder(["pretrained:triplane", "a.pkl"], "videos", None)
    assert both.as_posix() == "videos/triplane-a"


def test_cameras_come_from_data_or_circle_the_box(exports, labels, tmp_path):
    import shutil

    model = open_model(exports["triplane"], RENDER)
    assert model.cameras_from == f"cameras of {labels.name}"
    assert float(model.orbit.intrinsics[0, 0]) == pytest.approx(1.5)
    moved = shutil.copytree(exports["triplane"], tmp_path / "moved")
    text = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(text.replace(str(labels), str(tmp_path / "none")))
    model = open_model(moved, RENDER)
    assert "circle around the box (cannot read the data set" in model.cameras_from


def test_unknown_devices_and_folders_are_rejected(exports, tmp_path):
    with pytest.raises(ConfigError, match="use one of auto, cpu"):
        open_model(exports["triplane"], RenderOptions(device="gpu"))
    with pytest.raises(ValueError, match="no such folder"):
        open_model(tmp_path / "nothing", RENDER)


def test_precision_changes_the_rounding(exports):
    images = []
    for precision in ("fp32", "bf16"):
        options = RenderOptions(device="cpu", precision=precision)
        model = open_model(exports["triplane"], options)
        subject = Subject(model, model.styles(model.latent(0)))
        images.append(subject.render(Cameras.from_label(model.label)).image)
    difference = (images[0] - images[1]).abs()
    assert 0 < difference.max() < 0.25
    assert difference.mean() < 0.03


def test_latest_is_named_by_its_run_and_an_import_may_lie_in_checkpoints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Path("runs/own/a-s0")
    (run / "checkpoints").mkdir(parents=True)
    write_config(run, load_experiment("demo/voxel"))
    assert name_of("own/latest") == "own-a-s0"
    assert output_folder(["own/latest"], "videos", None) == run / "videos"
    imported = Path("checkpoints/cars")
    imported.mkdir(parents=True)
    write_config(imported, load_experiment("demo/voxel"))
    assert name_of("checkpoints/cars") == "cars"
    assert output_folder(["checkpoints/cars"], "generated", None) == imported / "generated"


def test_runs_are_named_by_their_arms_and_seeds_in_pictures(tmp_path):
    def run(name, *overrides):
        folder = tmp_path / name
        (folder / "checkpoints").mkdir(parents=True)
        write_config(folder, load_experiment("demo/voxel", overrides))
        return folder

    wide = run("b", "generator.scene.decoder.hidden_dim=48")
    assert captions([run("a"), wide]) == ["hidden_dim 32", "hidden_dim 48"]
    assert captions([wide, run("c", "generator.scene.decoder.hidden_dim=48", "seed=1")]) == [
        "voxel seed 0",
        "voxel seed 1",
    ]
    assert captions([tmp_path / "a", "pretrained:image2d", wide]) == [
        "hidden_dim 32",
        "image2d",
        "hidden_dim 48",
    ]
    assert by_settings([str(wide), str(tmp_path / "a")]) == [str(tmp_path / "a"), str(wide)]
    assert by_settings([str(wide), "pretrained:voxel"]) == [str(wide), "pretrained:voxel"]
    assert captions(["pretrained:voxel", wide]) == ["voxel", name_of(wide)]  # both are "voxel"
