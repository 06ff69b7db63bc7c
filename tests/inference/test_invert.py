import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gan3d.cameras import spherical
from lightning_gan3d.checkpoints.load import load_generator
from lightning_gan3d.checkpoints.store import CheckpointError
from lightning_gan3d.checkpoints.stored_networks import save_generator
from lightning_gan3d.config import ConfigError, UserError, build
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.generator import Generator
from lightning_gan3d.images import to_uint8
from lightning_gan3d.inference.config import GenerateOptions, InvertOptions, RenderOptions
from lightning_gan3d.inference.generate import generate
from lightning_gan3d.inference.inversion import invert as command
from lightning_gan3d.inference.inversion.invert import (
    find_images,
    find_mask,
    invert_files,
    read_photos,
)
from lightning_gan3d.inference.inversion.projection import (
    Problem,
    find_start,
    invert,
    noise_maps,
    optimise,
    pose_grid,
)
from lightning_gan3d.inference.inversion.targets import (
    Target,
    image_distance,
    noise_regulariser,
    perceptual_distance,
    read_target,
)
from lightning_gan3d.inference.model import Subject, open_model, save_latent
from lightning_gan3d.inference.styles import interpolated
from lightning_gan3d.metrics.consistency.image_similarity import LpipsMap

sys.path.insert(0, str(Path(__file__).parent.parent / "report"))

from fabricated_runs import write_labels  # after its folder is known

FEW = InvertOptions(device="cpu", candidates=8, starts=2, steps=6, tuning_steps=3, rate=0.1, seed=3)


SMALL = {
    "triplane": ["resolution=16", "synthesis.channels=[32,32,16]"],
    "nerf_mlp": ["hidden_dim=16", "num_layers=2"],
    "image2d": ["synthesis.channels=[32,32,16]"],
}


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Exported tiny generators of 16 pixels with random weights, by kind."""
    folder = tmp_path_factory.mktemp("generators")
    labels = write_labels(folder / "data")
    paths = {}
    for kind, sizes in SMALL.items():
        options = [f"data.path={labels}", *(f"generator.representation.{x}" for x in sizes)]
        if kind != "image2d":
            options.append("generator.renderer.samples_coarse=8")
        config = load_experiment(f"demo/{kind}", options)
        torch.manual_seed(0)
        generator = Generator(config.generator, 16)
        for name, x in generator.named_parameters():
            if name.endswith("noise_strength"):
                x.data.fill_(0.1)
        paths[kind] = save_generator(folder / kind, generator, config)
    return paths


@pytest.fixture(scope="module")
def models(exports):
    return {kind: open_model(path, RenderOptions(device="cpu")) for kind, path in exports.items()}


def shown(model, seed, cameras, options=FEW):
    """The picture of a seed as target."""
    image = Subject(model, model.styles_of(seed, options)).render(cameras).image
    return Target(image, torch.ones_like(image[:, :1]))


def error_db(image, target):
    return -10 * math.log10(float((image - target.image).square().mean()) / 4)


def write_image(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(to_uint8(target.image[0]).permute(1, 2, 0).numpy()).save(path)
    return path


@pytest.mark.parametrize("kind", ["triplane", "nerf_mlp", "image2d"])
def test_an_own_picture_is_recovered_without_tuning(models, kind):
    model = models[kind]
    cameras = model.orbit.cameras(1)
    target = shown(model, 11, cameras)
    options = replace(FEW, space="w", prior=0.0, steps=60, tuning_steps=0, starts=1)
    result = invert(model, target, cameras, options)
    start, end = (error_db(result.stages[i].image, target) for i in (0, -1))
    assert end > max(start + 8, 32)
    if kind == "image2d":
        return  # another view is another style: the offset does not determine it
    other = model.orbit.cameras(4)
    novel = Subject(result.model, result.model.inverted[0]).render(other).image
    truth = Subject(model, model.styles_of(11, options)).render(other).image
    assert error_db(novel, Target(truth, novel)) > 30


def test_the_gradient_by_the_camera_matches_finite_differences(models):
    model = models["triplane"]
    cameras = model.orbit.cameras(8).select(slice(1, 2))
    problem = Problem(model, shown(model, 2, model.orbit.cameras(1)), FEW, [])
    offset = problem.drawn("test", 1)

    def loss(move):
        seen = cameras.moved(move, model.orbit.target)
        return problem.distance(problem.images(offset, seen).image).sum()

    move = torch.tensor([[0.1, -0.05, 0.02]], requires_grad=True)
    loss(move).backward()
    step = 2e-3
    for i in range(3):
        change = torch.zeros(1, 3)
        change[0, i] = step
        with torch.no_grad():
            numeric = (loss(move + change) - loss(move - change)) / (2 * step)
        assert float(move.grad[0, i]) == pytest.approx(float(numeric), rel=0.05, abs=1e-4)


def test_pixels_outside_the_mask_change_nothing(models, tmp_path):
    model = models["triplane"]
    cameras = model.orbit.cameras(1)
    own = to_uint8(shown(model, 1, cameras).image[0]).permute(1, 2, 0).numpy()
    pixels = np.full((32, 32, 4), 255, np.uint8)  # to be reduced: the mask ends inside a pixel
    pixels[..., :3] = own.repeat(2, axis=0).repeat(2, axis=1)
    pixels[:15, :, 3] = 0
    garbage = np.random.default_rng(0).integers(0, 256, (15, 32, 3))
    results = []
    for name, rest in (("black", 0), ("random", garbage)):
        pixels[:15, :, :3] = rest
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        target = read_target(tmp_path / f"{name}.png", 16)
        results.append(invert(model, target, cameras, FEW))
    assert torch.equal(results[0].offset, results[1].offset)
    assert torch.equal(results[0].stages[-1].image, results[1].stages[-1].image)


def test_a_mask_file_replaces_the_alpha_channel(tmp_path):
    Image.new("RGB", (20, 10), "red").save(tmp_path / "image.png")
    mask = np.zeros((10, 20), np.uint8)
    mask[:, 10:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    target = read_target(tmp_path / "image.png", 10, "5:0:10", tmp_path / "mask.png")
    assert torch.equal(target.mask[0, 0, 0], (torch.arange(10) >= 5).float())
    assert target.image[0, :, 0, 7].tolist() == [1, -1, -1]
    assert target.image[0, :, 0, 2].tolist() == [0, 0, 0]
    assert target.box == (0.25, 0.0, 0.5, 1.0)


def test_the_distance_is_a_mean_over_the_mask():
    a, mask = torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    target = Target(torch.full_like(a, 0.5) * mask, mask)
    assert float(image_distance(a, target)) == pytest.approx(0.25)
    a[..., 8:] = 100.0
    assert float(image_distance(a, target)) == pytest.approx(0.25)


def test_lpips_has_a_gradient_and_ignores_pixels_outside_the_mask():
    class Squares(LpipsMap):
        def __init__(self):
            self.net = torch.nn.Module()
            self.net.forward = lambda a, b: (a - b).square().mean(dim=1, keepdim=True)

    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :8] = 1
    target = Target(torch.zeros(1, 3, 32, 32), mask)
    image = torch.full((2, 3, 32, 32), 0.5, requires_grad=True)
    distance = perceptual_distance(image, target, Squares())
    assert distance.tolist() == pytest.approx([0.25, 0.25])
    distance.sum().backward()
    assert torch.equal(image.grad[:1] != 0, mask.bool().expand(1, 3, 32, 32))


def test_a_result_keeps_the_rendering_resolution(models):
    model = models["triplane"]
    cameras = model.orbit.cameras(1)
    options = replace(FEW, rendering_resolution=8, steps=1, tuning_steps=0)
    result = invert(model, shown(model, 1, cameras), cameras, options)
    images = Subject(result.model, result.model.inverted[0]).render(cameras)
    assert images.image_raw.shape[-1] == 8
    assert torch.equal(images.image, result.stages[-1].image)


def test_the_search_finds_the_camera(models):
    model = models["triplane"]
    model = replace(model, orbit=model.orbit._replace(elevation=0.3))
    options = replace(FEW, candidates=3, starts=2, steps=30, prior=0.0, tuning_steps=0, space="w")
    true = model.orbit.cameras(12).select(slice(4, 5)).moved(torch.tensor([[0.12, 0.09, 0.0]]))
    problem = Problem(model, shown(model, 0, true), options, [])
    with torch.no_grad():  # one of the candidates
        image = problem.images(problem.drawn("start", 3)[1:2], true).image
    target = problem.target._replace(image=image)
    found = spherical(invert(model, target, pose_grid(model.orbit), options).cameras.origins)
    expected = spherical(true.origins)
    assert float((found.azimuth - expected.azimuth).abs()) < 0.05
    assert float((found.elevation - expected.elevation).abs()) < 0.05


def test_the_start_has_the_least_loss(models):
    model = models["triplane"]
    cameras = model.orbit.cameras(1)
    problem = Problem(model, shown(model, 2, cameras), replace(FEW, candidates=5, starts=6), [])
    u, _ = find_start(problem, cameras)
    losses = problem.distance(
        torch.cat([problem.images((x @ problem.axes.T)[None], cameras).image for x in u])
    )
    assert torch.equal(losses.argsort(), torch.arange(6))
    assert float(u.square().mean()) == pytest.approx(1, abs=0.5)


def test_noise_maps_are_optimised_and_stay_white(models):
    model = models["image2d"]
    cameras = model.orbit.cameras(1)
    options = replace(FEW, noise=True, tuning_steps=0, starts=1)
    before = [x.clone() for x in noise_maps(model.generator)]
    result = invert(model, shown(model, 2, cameras), cameras, options)
    after = noise_maps(result.model.generator)
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, noise_maps(model.generator), strict=True))
    assert all(float(x.detach().square().mean()) == pytest.approx(1, abs=1e-4) for x in after)
    with pytest.raises(ConfigError, match="noise=true: this generator has no noise maps"):
        invert(models["nerf_mlp"], shown(model, 2, cameras), cameras, options)


def test_the_noise_regulariser_detects_structure_at_every_scale():
    white = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    coarse = white[:16, :16].repeat_interleave(4, 0).repeat_interleave(4, 1)
    checks = torch.ones(64, 64)
    checks[::2, 1::2] = checks[1::2, ::2] = -1
    low = float(noise_regulariser([white]))
    assert float(noise_regulariser([coarse])) > 30 * low
    assert float(noise_regulariser([checks])) > 30 * low


@pytest.mark.parametrize("kind", ["triplane", "image2d"])
def test_tuning_fits_a_picture_that_no_latent_has_and_keeps_the_rest(models, kind):
    model = models[kind]
    cameras = model.orbit.cameras(1)
    target = shown(model, 1, cameras)
    target = target._replace(image=target.image.flip(-1) * 0.5 + 0.3)
    before = {k: v.clone() for k, v in model.generator.state_dict().items()}
    options = replace(FEW, steps=3, starts=1, tuning_steps=14, tuning_rate=5e-3)
    changes = {}
    for locality in (0.0, 3.0):
        result = invert(model, target, cameras, replace(options, locality=locality))
        latent, tuned = (error_db(s.image, target) for s in result.stages[-2:])
        assert tuned > latent + 1
        others = [Subject(m, m.styles(m.latent(9))).render(cameras).image
                  for m in (model, result.model)]  # fmt: skip
        changes[locality] = float((others[0] - others[1]).square().mean())
    assert 0 < changes[3.0] < 0.7 * changes[0.0]
    assert all(torch.equal(v, before[k]) for k, v in model.generator.state_dict().items())


def test_a_loss_that_stays_ends_the_stage_early_and_nan_is_an_error():
    x = torch.zeros(1, requires_grad=True)
    losses = optimise([{"params": [x], "lr": 0.1}], lambda _: (x * 0).sum() + 1, 100, 10)
    assert len(losses) == 10 + 1 + 25
    falling = optimise([{"params": [x], "lr": 1}], lambda _: (x - 300).square().sum(), 100, 10)
    assert len(falling) == 100
    with pytest.raises(UserError, match="the loss is nan at step 0: lower rate"):
        optimise([{"params": [x], "lr": 1}], lambda _: x.sum() * math.nan, 9, 1)


@pytest.fixture(scope="module")
def results(exports, models, tmp_path_factory):
    """A folder of two views of one object, inverted: (images, results, options)."""
    folder = tmp_path_factory.mktemp("images")
    model = models["triplane"]
    cameras = model.orbit.cameras(8)
    labels = {}
    for i in range(2):
        camera = cameras.select(slice(i, i + 1))
        write_image(folder / "photos" / f"{i}.png", shown(model, 4, camera))
        labels[f"photos/{i}.png"] = camera.to_label()[0].tolist()
    index = {"labels": list(labels.items()), "objects": dict.fromkeys(labels, 7)}
    (folder / "dataset.json").write_text(json.dumps(index))
    options = replace(FEW, camera="label")
    summary = invert_files(str(exports["triplane"]), folder, options, folder / "out")
    return folder, options, summary


def test_a_result_holds_latent_weights_sheets_and_metrics(results):
    folder, _, summary = results
    out = folder / "out" / "photos-0"
    assert {p.name for p in out.iterdir()} == {
        "config.yaml", "generator.safetensors", "latent.safetensors", "checkpoint.json",
        "inversion.json", "progress.png", "views.png",
    }  # fmt: skip
    record = json.loads((out / "inversion.json").read_text())
    metrics = record["metrics"]
    assert 10 < metrics["psnr"] < 60
    assert 0 < metrics["held_out_psnr"] < metrics["psnr"] + 5
    assert metrics["consistency_psnr"] is None or metrics["consistency_psnr"] > 0
    assert [len(x) for x in record["losses"].values()] == [0, 2, 6, 3]
    assert f"{metrics['psnr']:.3f}" in summary
    assert "without LPIPS" in summary or metrics["lpips"] is not None


def test_an_opened_result_reproduces_the_picture_bitwise(results, exports):
    folder, options, _ = results
    root, names = find_images(folder / "photos" / "1.png")
    assert (root, names) == (folder, ["photos/1.png"])
    model = open_model(exports["triplane"], options)
    (photo,) = read_photos(root, names, model, options)
    expected = invert(model, photo.read(), photo.cameras, options)
    result = open_model(folder / "out" / "photos-1", options)
    image = Subject(result, result.styles_of(0, options)).render(photo.cameras).image
    assert torch.equal(image, expected.stages[-1].image)
    tuned = load_generator(folder / "out" / "photos-1").state_dict()
    assert all(torch.equal(x, tuned[k]) for k, x in expected.model.generator.state_dict().items())


def test_an_opened_result_has_the_latent_as_seed_0(results):
    folder, options, _ = results
    out = folder / "out" / "photos-0"
    model = open_model(out, options)
    own, other = (model.styles_of(seed, options)(model.label) for seed in (0, 1))
    assert torch.equal(other, model.styles(model.latent(1))(model.label))
    assert not torch.equal(own, model.styles(model.latent(0))(model.label))
    half = model.styles_of(0, replace(options, psi=0.5))(model.label)
    assert torch.allclose(half, model.generator.mapping.w_avg.lerp(own, 0.5))
    middle = interpolated(model, (0, 1), 0.5, options, "w")(model.label)
    assert torch.allclose(middle, own.lerp(other, 0.5))
    with pytest.raises(ConfigError, match="has no z"):
        interpolated(model, (0, 1), 0.5, options, "z")


def test_an_estimator_gives_the_camera(models, tmp_path):
    class Estimator(torch.nn.Module):
        def __init__(self, rotation):
            super().__init__()
            self.register_buffer("rotation", rotation)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.rotation.expand(len(image), 3, 3)

    model = models["triplane"]
    true = model.orbit.cameras(5).select(slice(3, 4))
    file = tmp_path / "estimator.pt"
    torch.jit.script(Estimator(true.cam2world[0, :3, :3])).save(str(file))
    write_image(tmp_path / "a.png", shown(model, 0, true))
    (photo,) = command.read_photos(tmp_path, ["a.png"], model, replace(FEW, camera=str(file)))
    assert torch.allclose(photo.cameras.cam2world, true.cam2world, atol=1e-5)
    assert torch.equal(photo.cameras.intrinsics, true.intrinsics)


def test_finished_images_are_skipped(results, exports, monkeypatch):
    folder, options, _ = results
    inverted = []

    def counted(model, target, cameras, options):
        inverted.append(target)
        return invert(model, target, cameras, options)

    monkeypatch.setattr(command, "invert", counted)
    arguments = (str(exports["triplane"]), folder / "photos" / "1.png")
    first = folder / "out" / "photos-1"
    invert_files(*arguments, options, folder / "out")
    assert inverted == []
    first.rename(first.with_name(".unfinished-photos-1"))  # as if interrupted
    invert_files(*arguments, options, folder / "out")
    assert len(inverted) == 1
    assert (first / "inversion.json").is_file()
    assert not first.with_name(".unfinished-photos-1").exists()
    with pytest.raises(ConfigError, match="made with another steps: use another --out"):
        invert_files(*arguments, replace(options, steps=7), folder / "out")
    other = folder / "other" / "photos" / "1.png"
    other.parent.mkdir(parents=True)
    shutil.copy(folder / "photos" / "0.png", other)
    shutil.copy(folder / "dataset.json", folder / "other")
    with pytest.raises(ConfigError, match="made with another image"):
        invert_files(arguments[0], other, options, folder / "out")
    (folder / "else" / "photos-1").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"exists without inversion\.json"):
        invert_files(*arguments, options, folder / "else")


def test_the_2d_baseline_is_inverted_by_command(exports, models, tmp_path):
    model = models["image2d"]
    file = write_image(tmp_path / "a.png", shown(model, 4, model.orbit.cameras(1)))
    options = replace(FEW, camera="0.2:0.1", refine_camera=True)
    summary = invert_files(str(exports["image2d"]), file, options, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "a" / "inversion.json").read_text())
    assert record["metrics"]["consistency_psnr"] is None
    assert record["metrics"]["held_out_psnr"] is None
    assert "held-out" not in summary
    # The other commands show the latent as seed 0.
    result, cameras = open_model(tmp_path / "out" / "a", options), model.orbit.cameras(1)
    view = GenerateOptions(seeds="0", cameras="frontal", device="cpu")
    generate([str(tmp_path / "out" / "a")], view, tmp_path / "generated")
    image = Subject(result, result.styles_of(0, options)).render(cameras).image
    pixels = np.asarray(Image.open(tmp_path / "generated" / "seed0000_view00.png"))
    assert np.array_equal(pixels, to_uint8(image[0]).permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"camera": "label"}, r"there is no .*dataset\.json; use search"),
        ({"camera": "sideways"}, "camera=sideways: use frontal"),
        ({"camera": "0:0,1:0"}, "camera=0:0,1:0: use one camera"),
        ({"crop": "1:2"}, "crop=1:2: use LEFT:TOP:SIDE"),
        ({"crop": "0:0:33"}, "crop=0:0:33: not inside .*a.png, 32x24"),
        ({"mask": "missing.png"}, "missing.png: not a readable image"),
    ],
)
def test_bad_input_is_one_line_before_any_work(exports, tmp_path, options, message):
    Image.new("RGB", (32, 24)).save(tmp_path / "a.png")
    arguments = {"device": "cpu", **options}
    with pytest.raises(ConfigError, match=message) as error:
        invert_files(
            str(exports["image2d"]), tmp_path / "a.png", build(InvertOptions, arguments),
            tmp_path / "out",
        )  # fmt: skip
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_bad_files_and_foreign_latents_are_rejected(exports, models, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    run = str(exports["image2d"])
    with pytest.raises(ConfigError, match="not a readable image"):
        invert_files(run, tmp_path / "bad.png", FEW, tmp_path / "out")
    with pytest.raises(ConfigError, match="empty: no images"):
        invert_files(run, tmp_path / "empty", FEW, tmp_path / "out")
    empty = Image.new("RGBA", (8, 8), (9, 9, 9, 0))
    empty.save(tmp_path / "empty.png")
    with pytest.raises(ConfigError, match="the mask is empty"):
        read_target(tmp_path / "empty.png", 8)
    foreign = save_generator(
        tmp_path / "foreign",
        models["image2d"].generator,
        load_experiment(exports["image2d"] / "config.yaml"),
    )
    save_latent(foreign / "latent.safetensors", torch.zeros(1, 2))
    with pytest.raises(CheckpointError, match="not a latent of this generator"):
        open_model(foreign, RenderOptions(device="cpu"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"steps": 0}, "steps=0: use a whole number from 1"),
        ({"space": "z"}, "space=z"),
        ({"rate": 0.0}, "rate=0.*positive"),
    ],
)
def test_options_out_of_range_are_rejected(option, message):
    with pytest.raises(ConfigError, match=message):
        build(InvertOptions, option)


def test_a_folder_of_images_below_its_labels_is_read_like_a_single_one(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name)
    names = ["images/a.jpg", "images/b.png"]
    (tmp_path / "dataset.json").write_text("{}")
    assert find_images(tmp_path / "images") == (tmp_path, names)
    assert find_images(tmp_path / "images" / "a.jpg") == (tmp_path, names[:1])
    (tmp_path / "dataset.json").unlink()
    assert find_images(tmp_path / "images") == (tmp_path / "images", ["a.jpg", "b.png"])


def test_masks_of_a_folder_are_found_by_name(tmp_path):
    for name in ("a.png", "images/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_mask(tmp_path, "images/a.jpg") == tmp_path / "a.png"
    assert find_mask(tmp_path, "images/b.jpg") == tmp_path / "images/b.jpg"
    assert find_mask(tmp_path / "a.png", "images/b.jpg") == tmp_path / "a.png"
    with pytest.raises(ConfigError, match=r"no mask of c\.png"):
        find_mask(tmp_path, "c.png")
