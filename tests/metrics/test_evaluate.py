import dataclasses
import math

import pytest
import torch
from metric_views import Disturbed, RealFigures, change_colour, figures

from lightning_gan3d.config import ConfigError, build, to_tree
from lightning_gan3d.data.synthetic.synth import SynthConfig, make_synth
from lightning_gan3d.experiment import load_experiment, make_networks
from lightning_gan3d.metric import read_measures
from lightning_gan3d.metrics.config import (
    ConsistencyConfig,
    DistributionConfig,
    EvaluationConfig,
    FlickerConfig,
    GeometryConfig,
    PoseConfig,
    RefitConfig,
    SwdConfig,
)
from lightning_gan3d.metrics.consistency import flicker
from lightning_gan3d.metrics.consistency.reprojection import CURVES, STAGES, kinds_of
from lightning_gan3d.metrics.distribution.distance import ImageDistance, fakes
from lightning_gan3d.metrics.evaluate import evaluate, evaluate_source, swd_of
from lightning_gan3d.metrics.evaluate_target import evaluate_run
from lightning_gan3d.metrics.geometry.shape_statistics import INSIDE, SEEN
from lightning_gan3d.metrics.geometry.shapes import SHAPES
from lightning_gan3d.runs import write_config
from lightning_gan3d.training.config import InitConfig

SMALL = EvaluationConfig(
    num_images=40,
    num_images_training=20,
    batch=16,
    swd=SwdConfig(patches=16, projections=32),
    distribution=None,
    consistency=ConsistencyConfig(items=3, steps=1, flicker=FlickerConfig(2, 4)),
    refit=RefitConfig(items=2, iterations=10, rays=64, samples=8, grid=8, resolution=12, views=3),
    pose=PoseConfig(resolution=16, iterations=3, batch=8),
    geometry=GeometryConfig(items=2, grid=12, points=64),
)
ALL = {
    *("quality.swd", "quality.swd_32", "quality.swd_16", "quality.swd_pixels"),
    *("quality.swd_floor", "quality.swd_init", "quality.swd_way"),
    *("pose.within_20deg", "pose.median_deg", "pose.within_20deg_real", "pose.median_deg_real"),
    *(f"refit.{k}" for k in ("psnr", "psnr_fit", "gain", "ssim")),
    *(f"consistency.{k}{s}" for s in STAGES for k in kinds_of(s)),
    *(f"consistency.{k}{s}@{a}" for k in CURVES for s in ("", "_raw") for a in ("0.25", "0.5")),
    *flicker.rows(),
    *(f"geometry.{k}" for k in (*SEEN, *INSIDE)),
}
FOLLOWING = {
    f"{name}_following"
    for name in ALL
    if name.startswith(("consistency", "refit")) and "@" not in name
}
LPIPS = {"consistency.lpips", "consistency.lpips_raw"}
ENLARGED = {name for name in ALL if name.endswith("_enlarged")}  # the truth has one size of images


@pytest.fixture(scope="module")
def data():
    return RealFigures(120, seed=1), RealFigures(60, seed=2)


def by_name(measures):
    assert len({m.metric for m in measures}) == len(measures)
    return {m.metric: m for m in measures}


def test_ground_truth_gets_all_measures(data):
    found = by_name(evaluate_source(figures(), *data, SMALL, initial_swd=0.7, truth=figures()))
    truth = {m for m in found if "_truth" in m}
    assert set(found) - truth == ALL | FOLLOWING | {f"geometry.{k}" for k in SHAPES}
    assert all(m.note for m in found.values())
    absent = {m for m in found if found[m].value is None}
    assert absent == FOLLOWING | LPIPS | ENLARGED
    assert all("no conditioning label" in found[m].note for m in FOLLOWING)
    assert found["quality.swd"].n == 40
    assert "n = 40 against 40 held-out images; 16 patches" in found["quality.swd"].note
    assert found["quality.swd_way"].value > 0.9
    for name in truth:
        if name.startswith("geometry"):  # of other objects, to which the first ones are compared
            continue
        assert found[name].value == found[name.replace("_truth", "")].value


BARE = dataclasses.replace(
    SMALL, consistency=None, refit=None, pose=None, following=False, geometry=None
)


def test_the_share_of_the_way_is_that_from_start_to_floor(data):
    source = Disturbed(figures(), change_colour)
    found = by_name(evaluate_source(source, *data, BARE, initial_swd=0.7))
    now, floor = found["quality.swd"].value, found["quality.swd_floor"].value
    assert found["quality.swd_init"].value == 0.7
    assert found["quality.swd_way"].value == pytest.approx((0.7 - now) / (0.7 - floor))
    assert set(found) == {m for m in ALL if m.startswith("quality")}
    low = by_name(evaluate_source(source, *data, BARE, initial_swd=0.0))
    assert low["quality.swd_way"].value is None
    assert "not above the floor" in low["quality.swd_way"].note
    unknown = by_name(evaluate_source(source, *data, BARE))
    assert "not measured" in unknown["quality.swd_way"].note


def test_images_that_are_not_finite_make_measures_missing(data):
    def broken(source, items, cameras):
        found = source.views(items, cameras)
        image = found.image.clone()
        image[0, :, 3, 3] = math.nan
        return found._replace(image=image, image_raw=image)

    found = by_name(evaluate_source(Disturbed(figures(), broken), *data, SMALL))
    for name in ("quality.swd", "pose.within_20deg", "refit.psnr"):
        assert found[name].value is None
        assert "not finite" in found[name].note


def test_fakes_are_as_they_would_be_stored():
    def out_of_range(source, items, cameras):
        return source.views(items, cameras)._replace(image=torch.full((len(items), 3, 8, 8), 1.7))

    (found,) = fakes(Disturbed(figures(), out_of_range), 2, 4)
    assert torch.equal(found.images, torch.ones(2, 3, 8, 8))


def test_where_nothing_is_held_out_disjoint_halves_take_the_places(data):
    train, _ = data
    distance = ImageDistance(train, None, SMALL.swd, 1000)
    assert distance.num_images == 60
    assert distance.floor["mean"] > 0
    assert "none are held out" in distance.protocol
    assert ImageDistance(train, train, SMALL.swd, 1000).num_images == 120


def test_what_depends_on_data_alone_is_kept(data, tmp_path, monkeypatch):
    first = evaluate_source(figures(), *data, SMALL, truth=figures(), cache=tmp_path)
    for name in ("distance.reals", "pose.train_regressor"):
        monkeypatch.setattr(f"lightning_gan3d.metrics.{name}", None)
    again = evaluate_source(figures(), *data, SMALL, truth=figures(), cache=tmp_path)
    assert again == first
    other = dataclasses.replace(SMALL, swd=SwdConfig(patches=8, projections=32))
    with pytest.raises(TypeError):
        evaluate_source(figures(), *data, other, cache=tmp_path)


@pytest.mark.parametrize("other", [{"num_images": 30}, {"swd": SwdConfig(patches=8)}])
def test_options_have_an_effect(data, other):

    a, b = (
        evaluate_source(figures(), *data, c) for c in (BARE, dataclasses.replace(BARE, **other))
    )
    assert a[0].value != b[0].value


def test_parts_can_be_left_out_by_null():
    tree = to_tree(EvaluationConfig(swd=None, refit=None))
    assert tree["swd"] is None
    assert build(EvaluationConfig, tree) == EvaluationConfig(swd=None, refit=None)
    assert build(EvaluationConfig, {"swd": {"patches": 5}}).swd == SwdConfig(patches=5)


@pytest.mark.parametrize("field", ["num_images", "num_images_training", "batch"])
def test_impossible_values_name_the_field(field):
    with pytest.raises(ConfigError, match=f"evaluation.{field}=0") as error:
        EvaluationConfig(**{field: 0})
    assert error.value.field == field


def test_distribution_measures_are_among_them_and_can_be_left_out(data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no weights"))
    none = dataclasses.replace(BARE, swd=None)
    cfg = dataclasses.replace(none, distribution=DistributionConfig(num_images=30))
    found = by_name(evaluate_source(figures(), *data, cfg, folder=tmp_path))
    assert found["quality.fid"].value is None
    assert found["memorisation.excess"].n == 30
    assert (tmp_path / "neighbours.json").is_file()
    assert evaluate_source(figures(), *data, none) == []


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A function from a demo preset to its experiment on a small procedural data set."""
    path = tmp_path_factory.mktemp("synth") / "figures"
    make_synth(SynthConfig(num_images=120, num_objects=60, holdout=0.4), path)

    def load(kind):
        config = load_experiment(f"demo/{kind}", [f"data.path={path}"])
        return dataclasses.replace(config, evaluation=SMALL)

    return load


@pytest.mark.parametrize("kind", ["triplane", "image2d"])
def test_a_generator_is_measured_as_it_is_and_left_as_it_was(experiment, data, kind):
    generator, _ = make_networks(experiment(kind), 32)
    generator.train()
    modes = set()
    generator.mapping.register_forward_pre_hook(lambda module, _: modes.add(module.training))
    before = {k: v.clone() for k, v in generator.state_dict().items()}
    found = by_name(evaluate(generator, *data, SMALL, initial=generator))
    assert set(found) == ALL | FOLLOWING
    assert generator.training
    assert modes == {False}
    assert all(torch.equal(v, before[k]) for k, v in generator.state_dict().items())
    assert found["quality.swd_way"].value == 0  # it is its own start
    assert found["quality.swd"].value > 5 * found["quality.swd_floor"].value
    flat = [m for n, m in found.items() if n.startswith("consistency") and n not in FOLLOWING]
    why = {"triplane": "condition=none", "image2d": "always follows"}[kind]
    assert all(why in found[m].note for m in FOLLOWING)
    if kind == "image2d":
        assert all(m.value is None and "no depth" in m.note for m in flat)
        assert found["refit.psnr"].value is not None
    else:
        assert found["consistency.psnr"].value > 25


def test_the_distance_while_training_is_that_of_fewer_images(experiment, data):
    generator, _ = make_networks(experiment("triplane"), 32)
    found = swd_of(generator, data[1], SMALL)
    assert set(found) == {"swd", "swd_32", "swd_16", "swd_pixels"}
    assert found == swd_of(generator, data[1], SMALL)
    more = dataclasses.replace(SMALL, num_images_training=40)
    assert found["swd"] != swd_of(generator, data[1], more)["swd"]


def test_a_run_is_measured_and_the_result_is_beside_it(experiment, tmp_path):
    from lightning_gan3d.checkpoints.native import save_generator

    config = experiment("triplane")
    path = tmp_path / "runs" / "a run"
    generator, _ = make_networks(config, 32)
    save_generator(path, generator, config)
    write_config(path, config)
    result = evaluate_run(path, "cpu", cache=tmp_path / "cache")
    assert read_measures(path / "evaluation.json") == result.measures
    found = by_name(result.measures)
    shapes = {f"geometry.{k}" for k in SHAPES}  # which need the data's own objects
    assert {m for m in found if "_truth" not in m} == ALL | FOLLOWING | shapes
    assert found["consistency.psnr_truth"].value > 30  # the procedural data's own objects
    assert found["quality.swd_way"].value == pytest.approx(0, abs=1e-6)  # nothing was trained
    write_config(path, dataclasses.replace(config, init_from=InitConfig("elsewhere.pkl")))
    tuned = by_name(evaluate_run(path, "cpu", cache=tmp_path / "cache").measures)
    assert tuned["quality.swd"] == found["quality.swd"]
    for name in ("quality.swd_init", "quality.swd_way"):  # it began as another generator
        assert tuned[name].value is None
        assert "fine-tuned or imported" in tuned[name].note
    text = str(result)
    assert "quality.swd" in text
    assert str(path / "evaluation.json") in text


def test_values_carry_the_key_of_their_protocol_and_another_protocol_another_key(data):
    cfg = dataclasses.replace(BARE, pose=SMALL.pose)
    first = by_name(evaluate_source(figures(), *data, cfg))
    assert all(bool(m.protocol) == (m.value is not None) for m in first.values())
    other = dataclasses.replace(cfg, swd=SwdConfig(patches=8, projections=32))
    second = by_name(evaluate_source(figures(), *data, other))
    assert first["quality.swd"].protocol != second["quality.swd"].protocol
    assert first["pose.median_deg"].protocol == second["pose.median_deg"].protocol
