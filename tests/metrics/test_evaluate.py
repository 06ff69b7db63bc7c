import dataclasses
import math

import pytest
import torch
from metric_views import OFF, Perturbed, RealFigures, change_colour, figures

from lightning_gan3d.config import ConfigError, build, from_options, to_tree
from lightning_gan3d.data.camera_prior import FakeLabels
from lightning_gan3d.data.synthetic.synth import SynthConfig, make_synth
from lightning_gan3d.draws import Draws
from lightning_gan3d.experiment import load_experiment, make_networks
from lightning_gan3d.images import Images, quantise, to_float
from lightning_gan3d.metric import read_metrics
from lightning_gan3d.metrics import evaluate as evaluation
from lightning_gan3d.metrics.config import (
    ConsistencyConfig,
    DistributionConfig,
    EvaluationConfig,
    FeaturesConfig,
    FlickerConfig,
    GeometryConfig,
    MotionConfig,
    PoseConfig,
    RefitConfig,
    SwdConfig,
)
from lightning_gan3d.metrics.consistency import (
    equivariance,
    flicker,
    keypoint_tracks,
    refit,
    sticking,
)
from lightning_gan3d.metrics.consistency.reprojection import rows
from lightning_gan3d.metrics.context import EvaluationContext
from lightning_gan3d.metrics.distribution.swd import ImageDistance
from lightning_gan3d.metrics.evaluate import evaluate, source_of, swd_of
from lightning_gan3d.metrics.evaluate_target import evaluate_run
from lightning_gan3d.metrics.geometry.shape_statistics import (
    SHAPE_METRICS,
    VIEW_METRICS,
    VOLUME_METRICS,
)
from lightning_gan3d.metrics.sources import ObjectSource, ViewSource
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
    features=FeaturesConfig(items=6, views=3),
    pose=PoseConfig(resolution=16, iterations=3, batch=8),
    geometry=GeometryConfig(items=2, grid=12, points=64),
    motion=MotionConfig(equivariance=2, items=2),
)
REFIT_RAW = {f"refit.{k}_raw" for k in refit.KINDS if k not in refit.OF_KNOWN}
ALL = {
    *("quality.sharpness", "quality.contrast"),
    *("quality.swd", "quality.swd_32", "quality.swd_16", "quality.swd_pixels"),
    *("quality.swd_floor", "quality.swd_init", "quality.swd_progress"),
    *("quality.swd_3d", "pose.aligned_median_deg", "pose.alignment_deg"),
    *("pose.within_20deg", "pose.median_deg", "pose.within_20deg_real", "pose.median_deg_real"),
    *(f"refit.{k}" for k in refit.KINDS),
    *(f"features.{k}" for k in keypoint_tracks.KINDS),
    *REFIT_RAW,
    *(row.missing("no value").key for row in rows(SMALL.consistency, True)),
    *(f"consistency.{k}{s}" for s in ("", "_raw") for k in flicker.KINDS),
    *(f"geometry.{k}" for k in (*VIEW_METRICS, *VOLUME_METRICS)),
    *(f"motion.{k}" for k in (*equivariance.KINDS, *sticking.KINDS)),
}
FOLLOWING = {
    f"{name}_following"
    for name in ALL
    if name.startswith(("consistency", "refit", "features", "motion.sticking")) and "@" not in name
}
EQ = {f"motion.{k}" for k in equivariance.KINDS}
LPIPS = {"consistency.lpips", "consistency.lpips_raw"}
ENLARGED = {name for name in ALL if name.endswith("_enlarged")}  # the truth has one size of images


@pytest.fixture(scope="module")
def data():
    return RealFigures(120, seed=1), RealFigures(60, seed=2)


def by_name(metrics):
    assert len({m.key for m in metrics}) == len(metrics)
    return {m.key: m for m in metrics}


def measured(source, data, cfg, **options):
    return by_name(evaluate(EvaluationContext(source, *data, cfg, **options)))


def constant(source, items, cameras):
    views = source.views(items, cameras)
    return Images(*(torch.full_like(views.image, -0.8) for _ in range(2)))


UNTRAINED = Perturbed(figures(), constant)


def test_ground_truth_has_all_metrics(data):
    metrics = measured(figures(), data, SMALL, initial=UNTRAINED, truth=figures())
    truth = {m for m in metrics if "_truth" in m}
    assert set(metrics) - truth == ALL | FOLLOWING | {f"geometry.{k}" for k in SHAPE_METRICS}
    assert all(m.note for m in metrics.values())
    missing = {m for m in metrics if metrics[m].value is None}
    more = {"quality.swd_3d", "motion.sticking", "motion.sticking_depth"}  # too few pixels
    assert missing == FOLLOWING | LPIPS | ENLARGED | REFIT_RAW | EQ | more
    assert all("no conditioning label" in metrics[m].note for m in FOLLOWING)
    assert metrics["quality.swd"].n == 40
    assert "n = 40 against 40 held-out images; 16 patches" in metrics["quality.swd"].note
    assert metrics["quality.swd_progress"].value > 0.9
    for name in truth:
        if name.startswith("geometry"):  # of other objects, to which the first ones are compared
            continue
        assert metrics[name].value == metrics[name.replace("_truth", "")].value


BARE = dataclasses.replace(SMALL, **OFF | {"swd": SMALL.swd})


class HeldOut(ViewSource):
    """Returns the held-out images in the order of their comparison: at distance zero from them."""

    def __init__(self, images):
        self.data = images
        self.order = Draws(0).scope("distance").permutation("test", len(images))

    def base(self, items):
        return figures().base(items)

    def views(self, items, _cameras):
        image = to_float(self.data.images(self.order[items]))
        return Images(image, image)


def test_the_progress_is_that_from_the_initial_generator_to_the_floor(data):
    source = Perturbed(figures(), change_colour)
    metrics = measured(source, data, BARE, initial=UNTRAINED)
    now, floor = metrics["quality.swd"].value, metrics["quality.swd_floor"].value
    start = metrics["quality.swd_init"].value
    assert start == measured(UNTRAINED, data, BARE)["quality.swd"].value > floor
    assert metrics["quality.swd_progress"].value == pytest.approx((start - now) / (start - floor))
    assert set(metrics) == {m for m in ALL if m.startswith("quality")} - {"quality.swd_3d"}
    low = measured(source, data, BARE, initial=HeldOut(data[1]))
    assert low["quality.swd_init"].value == pytest.approx(0, abs=1e-6)
    assert low["quality.swd_progress"].value is None
    assert "not above the floor" in low["quality.swd_progress"].note
    assert "not measured" in measured(source, data, BARE)["quality.swd_progress"].note


def test_metrics_of_images_that_are_not_finite_are_missing(data):
    def broken(source, items, cameras):
        metrics = source.views(items, cameras)
        image = metrics.image.clone()
        image[0, :, 3, 3] = math.nan
        return metrics._replace(image=image, image_raw=image)

    metrics = measured(Perturbed(figures(), broken), data, SMALL)
    for name in ("quality.swd", "pose.within_20deg", "refit.psnr"):
        assert metrics[name].value is None
        assert "not finite" in metrics[name].note


@pytest.mark.parametrize(
    ("error", "ranks"), [(TypeError("a bug"), 1), (ConfigError("no such file"), 2)]
)
def test_an_error_of_one_group_loses_no_other_and_is_raised_at_the_end(
    data, monkeypatch, error, ranks
):
    monkeypatch.setattr(evaluation, "world_size", lambda: ranks)

    def broken(_context):
        raise error

    context, kept = EvaluationContext(figures(), *data, SMALL), []
    whole = [evaluation.GROUPS[2], evaluation.GROUPS[-1]]
    monkeypatch.setattr(evaluation, "GROUPS", whole)
    expected = evaluate(context)
    wrong = evaluation.MetricGroup(broken)
    monkeypatch.setattr(evaluation, "GROUPS", [whole[0], wrong, wrong, whole[1]])
    with pytest.raises(type(error), match=str(error)):
        evaluate(context, lambda metrics: kept.append([*metrics]))
    assert kept[-1] == expected
    assert kept[0] == expected[: len(kept[0])]
    assert 0 < len(kept[0]) < len(expected)
    if ranks > 1:  # the others wait for the first group
        monkeypatch.setattr(evaluation, "GROUPS", [wrong, *whole])
        kept.clear()
        with pytest.raises(type(error), match=str(error)):
            evaluate(context, kept.append)
        assert not kept


def test_generated_images_are_rounded_as_if_stored():
    image = torch.tensor([1.7, -3.0, 0.001, math.inf, math.nan])
    assert torch.equal(quantise(image)[:2], torch.tensor([1.0, -1.0]))
    assert float(quantise(image)[2] * 127.5 + 127.5) == pytest.approx(128)
    assert bool(quantise(image)[3:].isnan().all())


def test_without_held_out_images_disjoint_halves_are_compared(data):
    train, _ = data
    distance = ImageDistance(train, None, SMALL.swd, 1000)
    assert distance.num_images == 60
    assert distance.floor["mean"] > 0
    assert "none are held out" in distance.protocol
    assert ImageDistance(train, train, SMALL.swd, 1000).num_images == 120


class Unseen(ObjectSource):
    """Objects of which only the volume may be used."""

    def base(self, items):
        raise AssertionError(items)

    def views(self, items, cameras):
        raise AssertionError(items, cameras)

    def volume(self, items):
        return figures().volume(items)


def test_results_that_depend_on_data_alone_are_cached(data, tmp_path, monkeypatch):
    first = measured(figures(), data, SMALL, truth=figures(), cache=tmp_path)
    for name in ("distribution.swd.ImageDistance._describe", "pose.estimators.train_regressor"):
        monkeypatch.setattr(f"lightning_gan3d.metrics.{name}", None)
    again = measured(figures(), data, SMALL, truth=Unseen(**vars(figures())), cache=tmp_path)
    assert again == first
    other = dataclasses.replace(SMALL, swd=SwdConfig(patches=8, projections=32))
    with pytest.raises(TypeError):
        measured(figures(), data, other, cache=tmp_path)


@pytest.mark.parametrize("other", [{"num_images": 30}, {"swd": SwdConfig(patches=8)}])
def test_options_have_an_effect(data, other):
    a, b = (measured(figures(), data, c) for c in (BARE, dataclasses.replace(BARE, **other)))
    assert a["quality.swd"].value != b["quality.swd"].value


def test_parts_can_be_left_out_by_null():
    tree = to_tree(EvaluationConfig(swd=None, refit=None))
    assert tree["swd"] is None
    assert build(EvaluationConfig, tree) == EvaluationConfig(swd=None, refit=None)
    assert build(EvaluationConfig, {"swd": {"patches": 5}}).swd == SwdConfig(patches=5)


@pytest.mark.parametrize("field", ["num_images", "num_images_training", "batch"])
def test_invalid_values_name_the_field(field):
    with pytest.raises(ConfigError, match=f"{field}=0 .*: use a whole number from 1"):
        from_options(EvaluationConfig, [f"{field}=0"])


def test_distribution_metrics_can_be_turned_off(data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no weights"))
    none = dataclasses.replace(BARE, swd=None)
    cfg = dataclasses.replace(none, distribution=DistributionConfig(num_images=30))
    metrics = measured(figures(), data, cfg, folder=tmp_path)
    assert metrics["quality.fid"].value is None
    assert metrics["memorisation.excess"].n == 30
    assert (tmp_path / "neighbours.json").is_file()
    assert measured(figures(), data, none) == {}


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
def test_a_generator_is_measured_and_not_changed(experiment, data, kind):
    generator, _ = make_networks(experiment(kind), 32)
    generator.eval()
    before = {k: v.clone() for k, v in generator.state_dict().items()}
    source = source_of(generator, FakeLabels(data[0].labels, "cameras of training images"))
    metrics = measured(source, data, SMALL, initial=source)
    assert set(metrics) == ALL | FOLLOWING
    assert all(torch.equal(v, before[k]) for k, v in generator.state_dict().items())
    assert metrics["quality.swd_progress"].value == 0  # it is its own start
    assert metrics["quality.swd"].value > 5 * metrics["quality.swd_floor"].value
    frontal = metrics["quality.swd_3d"]
    assert frontal.value == (metrics["quality.swd"].value if kind == "triplane" else None)
    why = {"triplane": "ignores the camera", "image2d": "the label is the view"}[kind]
    assert why in frontal.note
    flat = [m for n, m in metrics.items() if n.startswith("consistency") and n not in FOLLOWING]
    why = {"triplane": "condition=none", "image2d": "always follows"}[kind]
    assert all(why in metrics[m].note for m in FOLLOWING)
    if kind == "image2d":
        assert all(m.value is None and "no depth" in m.note for m in flat)
        assert metrics["refit.psnr"].value is not None
    else:
        assert metrics["consistency.psnr"].value > 25


def test_the_distance_while_training_is_that_of_fewer_images(experiment, data):
    generator, _ = make_networks(experiment("triplane"), 32)
    generator.train()
    modes = set()
    generator.mapping.register_forward_pre_hook(lambda module, _: modes.add(module.training))
    source = source_of(generator, FakeLabels(data[1].labels, "cameras"))
    metrics = swd_of(source, data[1], SMALL)
    assert modes == {False}
    assert generator.training
    assert set(metrics) == {"swd", "swd_32", "swd_16", "swd_pixels"}
    assert metrics == swd_of(source, data[1], SMALL)
    more = dataclasses.replace(SMALL, num_images_training=40)
    assert metrics["swd"] != swd_of(source, data[1], more)["swd"]


def test_a_run_is_measured_and_the_result_is_beside_it(experiment, tmp_path, monkeypatch):
    from lightning_gan3d.checkpoints.stored_networks import save_generator

    config = experiment("triplane")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "runs" / "a run"
    generator, _ = make_networks(config, 32)
    save_generator(path, generator, config)
    write_config(path, config)
    result = evaluate_run(path, "cpu")
    assert read_metrics(path / "evaluation.json") == result.metrics
    values = by_name(result.metrics)
    shapes = {f"geometry.{k}" for k in SHAPE_METRICS}  # which need the data's own objects
    assert {m for m in values if "_truth" not in m} == ALL | FOLLOWING | shapes
    assert values["consistency.psnr_truth"].value > 30  # the procedural data's own objects
    assert values["quality.swd_progress"].value == pytest.approx(0, abs=1e-6)  # nothing was trained
    write_config(path, dataclasses.replace(config, init_from=InitConfig("elsewhere.pkl")))
    tuned = by_name(evaluate_run(path, "cpu").metrics)
    assert tuned["quality.swd"] == values["quality.swd"]
    for name in ("quality.swd_init", "quality.swd_progress"):  # it began as another generator
        assert tuned[name].value is None
        assert "fine-tuned and imported" in tuned[name].note
    text = str(result)
    assert text.startswith("SWD (sliced Wasserstein distance) ↓")
    assert str(path / "evaluation.json") in text


def test_values_carry_the_key_of_their_protocol_and_another_protocol_another_key(data):
    cfg = dataclasses.replace(BARE, pose=SMALL.pose)
    first = measured(figures(), data, cfg)
    assert all(bool(m.protocol) == (m.value is not None) for m in first.values())
    other = dataclasses.replace(cfg, swd=SwdConfig(patches=8, projections=32))
    second = measured(figures(), data, other)
    assert first["quality.swd"].protocol != second["quality.swd"].protocol
    assert first["pose.median_deg"].protocol == second["pose.median_deg"].protocol
