"""Distribution metrics of small stand-in networks; keys have their digest, and never FID."""

import dataclasses
import json
import math
from functools import partial

import numpy as np
import pytest
import stand_in
import torch
from cleanfid import fid
from metric_views import Perturbed, RealFigures, figure_labels, figures

from lightning_gan3d.config import ConfigError, from_options
from lightning_gan3d.files import sha256_of_file
from lightning_gan3d.images import Images, to_float, to_uint8
from lightning_gan3d.metric import Metric, MetricId, parse_key
from lightning_gan3d.metrics import pretrained
from lightning_gan3d.metrics.config import DistributionConfig, EvaluationConfig, PosesConfig
from lightning_gan3d.metrics.context import EvaluationContext
from lightning_gan3d.metrics.distribution import compare_features, feature_store
from lightning_gan3d.metrics.distribution.compare_features import measure_distribution, summary
from lightning_gan3d.metrics.distribution.features import inception
from lightning_gan3d.metrics.distribution.memorisation import NEIGHBOURS
from lightning_gan3d.metrics.pretrained import WeightsError
from lightning_gan3d.metrics.sources import GeneratorSource, PosedSource

CFG = DistributionConfig(kid_subsets=4, kid_subset_size=20, kid_whole=50)
NUM = 60


@pytest.fixture(scope="module")
def data():
    return RealFigures(120, seed=1), RealFigures(50, seed=2)


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nets")
    return {
        "inception": stand_in.save(stand_in.Inception(channels=2), folder / "inception.pt"),
        "vgg16": stand_in.save(stand_in.Vgg(), folder / "vgg.pt"),
    }


@pytest.fixture(scope="module")
def digits(nets):
    return {name: sha256_of_file(path)[:8] for name, path in nets.items()}


@pytest.fixture(autouse=True)
def small_shards_without_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(feature_store, "SHARD", 16)


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def measure(shared_cache):
    return partial(measure_in, shared_cache)


def measure_in(cache, source, data, cfg=CFG, **options):
    """Metrics by key; each key gives back the fields."""
    evaluation = EvaluationConfig(num_images=NUM, batch=16, distribution=cfg, frontal=False)
    context = EvaluationContext(source, *data, evaluation, cache=cache, **options)
    metrics = measure_distribution(context)
    assert len({m.key for m in metrics}) == len(metrics)
    for m in metrics:
        fields = {k: getattr(m, k) for k in ("name", "network", "stage", "variant", "at")}
        assert parse_key(m.key) == MetricId(**fields)
    return {m.key: m for m in metrics}


class Plain(torch.nn.Module):
    """A generator whose images are smooth functions of the latent."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(8, 12, generator=torch.manual_seed(2)))
        self.batches = []

    def views(self, z, _label, _cameras):
        self.batches.append(len(z))
        small = (z @ self.weight).tanh().reshape(-1, 3, 2, 2)
        image = torch.nn.functional.interpolate(small, (32, 32), mode="bilinear")
        return Images(image, image)


def plain(seed=0):
    return GeneratorSource(Plain(), 8, figure_labels(50), seed)


def test_without_weights_metrics_are_missing_with_the_command_that_downloads_them(measure, data):
    metrics = measure(figures(), data)
    for name in ("fid", "kid", "inception_score"):
        assert metrics[f"quality.{name}"].value is None
        assert "`gan3d weights fetch inception`" in metrics[f"quality.{name}"].note
    assert "`gan3d weights fetch vgg16`" in metrics["quality.precision"].note
    assert metrics["memorisation.excess"].value is not None
    none_held_out = measure(figures(), (data[0], None))
    assert "data.holdout" in none_held_out["memorisation.excess"].note
    assert measure(figures(), data, None) == {}


def test_without_weights_only_the_images_of_memorisation_are_generated(measure, data, nets, digits):
    cfg = dataclasses.replace(CFG, num_images=70, repeats=2)
    source = plain()
    assert measure(source, data, cfg)["memorisation.excess"].n == NUM
    assert sum(source.generator.batches) == NUM
    source = plain()
    metrics = measure(source, data, cfg, weights=nets)
    assert sum(source.generator.batches) == 140
    assert metrics["memorisation.excess"].n == NUM
    assert metrics[f"quality.frechet_{digits['inception']}"].n == 70


def test_a_stand_in_has_its_digest_in_the_keys_and_no_fid(measure, data, nets, digits):
    metrics = measure(plain(), data, weights=nets)
    names = ("frechet", "kernel", "kernel_whole", "class_score", "precision_inception")
    for name in names:
        m = metrics[f"quality.{name}_{digits['inception']}"]
        assert math.isfinite(m.value)
        assert m.n in (NUM, 50)
        for text in (digits["inception"], "clean", "60 generated images", "32x32", "figures-120-1"):
            assert text in m.note
    assert metrics[f"quality.precision_{digits['vgg16']}"].value is not None
    assert "too few" in metrics[f"quality.frechet_infinity_{digits['inception']}"].note
    for name in ("fid", "kid", "inception_score", "precision", "recall", "fid_infinity"):
        assert f"quality.{name}" not in metrics


def features_of(source, path):
    items = torch.arange(NUM)
    images = to_uint8(source.views(items, source.base(items)).image)
    return inception("clean", given=path)(images).numpy()


def test_values_equal_those_of_clean_fid_on_the_same_features(measure, data, nets, monkeypatch):
    entry = pretrained.Weights("i.pt", "", sha256_of_file(nets["inception"]), "tests")
    monkeypatch.setitem(pretrained.KNOWN, "inception", entry)
    cfg = dataclasses.replace(CFG, kid_subset_size=NUM, kid_subsets=1)
    same_size = RealFigures(NUM, seed=1)
    metrics = measure(plain(), (same_size, data[1]), cfg, weights=nets)
    real = inception("clean", given=nets["inception"])(same_size.images(torch.arange(NUM))).numpy()
    fake = features_of(plain(), nets["inception"])
    # The covariances are rank-deficient here: clean-fid's own root is less exact.
    expected = fid.frechet_distance(
        real.mean(0, dtype=np.float64),
        np.cov(real.astype(np.float64).T),
        fake.mean(0, dtype=np.float64),
        np.cov(fake.astype(np.float64).T),
    )
    assert metrics["quality.fid"].value == pytest.approx(expected, rel=1e-3)
    assert "rank 59 of 128" in metrics["quality.fid"].note
    kid = fid.kernel_distance(real, fake, num_subsets=1, max_subset_size=NUM)
    assert metrics["quality.kid"].value == pytest.approx(kid, rel=1e-4)
    assert {"memorisation.excess_inception", "memorisation.distance_real_inception"} <= set(metrics)


def test_the_class_score_follows_its_definition(measure, data, nets, digits):
    cfg = dataclasses.replace(CFG, splits=2)
    metrics = measure(plain(), data, cfg, weights=nets)
    score = metrics[f"quality.class_score_{digits['inception']}"]
    network = inception("clean", given=nets["inception"])
    p = network.probabilities(torch.from_numpy(features_of(plain(), nets["inception"]))).double()
    scores = [
        float((part * (part.log() - part.mean(0).log())).sum(1).mean().exp())
        for part in (p[:30], p[30:])
    ]
    assert score.value == pytest.approx(np.mean(scores), rel=1e-6)
    assert score.spread == pytest.approx(np.std(scores, ddof=1), rel=1e-4)


def test_repeats_give_an_interval_over_other_latents(measure, data, nets, digits):
    distance = f"quality.frechet_{digits['inception']}"
    whole = f"quality.kernel_whole_{digits['inception']}"
    once = measure(plain(), data, weights=nets)
    assert once[distance].spread is None
    assert "one set of latents" in once[distance].note
    assert once[whole].note.count("95 % interval") == 1
    thrice = measure(plain(), data, dataclasses.replace(CFG, repeats=3), weights=nets)
    assert thrice[distance].spread > 0
    assert "3 sets of other latents" in thrice[distance].note
    assert thrice[distance].value != once[distance].value
    assert thrice[whole].note.count("95 % interval") == 1
    assert "jackknife" not in thrice[whole].note


def test_several_sets_have_the_interval_of_their_mean():
    sets = [Metric("quality.kid", value, n=50, note="cubic kernel") for value in (1.0, 3.0, 5.0)]
    one, two, three = (summary(sets[:n], "no truncation") for n in (1, 2, 3))
    assert (one.value, one.note) == (1.0, "cubic kernel; one set of latents; no truncation")
    assert (two.value, three.value) == (2.0, 3.0)
    assert "no interval from 2 sets" in two.note
    # Student's t of 2 degrees of freedom: 4.30265 * 2 / sqrt(3) about the mean.
    assert "95 % interval of the mean -1.9683 to 7.9683 (Student)" in three.note


def test_the_extrapolation_needs_enough_images(measure, data, nets, digits):
    cfg = dataclasses.replace(CFG, infinity_from=20)
    metrics = measure(plain(), data, cfg, weights=nets)
    keys = [f"quality.{x}_{digits['inception']}" for x in ("frechet_infinity", "frechet")]
    assert metrics[keys[0]].value < metrics[keys[1]].value
    assert "Chong and Forsyth" in metrics[keys[0]].note
    few = measure(plain(), data, dataclasses.replace(CFG, k=NUM), weights=nets)
    assert "num_images=10000 or more" in few[keys[0]].note
    assert "too few for neighbourhoods" in few[f"quality.precision_{digits['vgg16']}"].note


def test_an_interrupted_evaluation_continues_with_the_same_values(measure, data, nets, tmp_path):
    whole = measure(plain(), data, weights=nets)
    images, calls = data[0].images, []

    class Interrupted(RealFigures):
        def images(self, indices):
            calls.append(len(indices))
            if len(calls) == 3:
                raise KeyboardInterrupt
            return images(indices)

    broken = Interrupted(120, seed=1)
    with pytest.raises(KeyboardInterrupt):
        measure_in(tmp_path, plain(), (broken, data[1]), weights=nets)
    calls.clear()
    calls += [0] * 3
    assert measure_in(tmp_path, plain(), (broken, data[1]), weights=nets) == whole
    assert sum(calls) == 120 - 32
    folders = list((tmp_path / "features").iterdir())
    assert len(folders) == 6  # three extractors, two sets of real images


def test_cached_features_depend_on_the_library_versions(data, tmp_path, monkeypatch):
    """Another version of Pillow may resize differently."""
    measure_in(tmp_path, plain(), data)
    before = set((tmp_path / "features").iterdir())
    measure_in(tmp_path, plain(), data)
    assert set((tmp_path / "features").iterdir()) == before
    monkeypatch.setattr(compare_features, "version", lambda name: f"{name} of tomorrow")
    measure_in(tmp_path, plain(), data)
    assert len(list((tmp_path / "features").iterdir())) == 2 * len(before)


def test_copies_of_training_images_are_detected(measure, data, tmp_path):
    train = data[0]

    def copies(_source, items, _cameras):
        image = to_float(train.images(items * 7 % len(train)))
        return Images(image, image)

    metrics = measure(Perturbed(figures(), copies), data, folder=tmp_path)
    assert metrics["memorisation.excess"].value == 1
    assert metrics["memorisation.nearer"].value == 1
    assert metrics["memorisation.distance"].value == pytest.approx(0, abs=1e-3)
    table = json.loads((tmp_path / NEIGHBOURS).read_text())
    assert all(
        nearest[0] == item * 7 % 120
        for item, nearest in zip(table["items"], table["training_images"], strict=True)
    )
    fresh = measure(figures(), data)
    assert fresh["memorisation.excess"].value < 0.4
    assert 0.3 < fresh["memorisation.nearer"].value < 0.7


def test_metrics_of_non_finite_images_are_missing(measure, data, nets):
    def broken(source, items, cameras):
        image = source.views(items, cameras).image.clone()
        image[0, :, 3, 3] = math.nan
        return Images(image, image)

    metrics = measure(Perturbed(figures(), broken), data, weights=nets)
    assert all("not finite" in m.note for m in metrics.values())
    assert all(m.value is None for m in metrics.values())


def test_drawn_cameras_are_a_variant_and_have_the_configured_angles(measure, data, nets, digits):
    poses = PosesConfig("uniform", azimuth=0.4, elevation=0.2, mean_elevation=0.1)
    metrics = measure(plain(), data, dataclasses.replace(CFG, poses=poses), weights=nets)
    posed = metrics[f"quality.frechet_{digits['inception']}_posed"]
    assert (posed.network, posed.variant) == (digits["inception"], "posed")
    assert "cameras drawn" in posed.note
    items = torch.arange(300)
    source = PosedSource(plain(), poses)
    cameras, own = source.base(items), plain().base(items)
    assert torch.allclose(cameras.origins.norm(dim=1), own.origins.norm(dim=1), atol=1e-5)
    assert torch.equal(cameras.intrinsics, own.intrinsics)
    x, y, z = (cameras.origins / cameras.origins.norm(dim=1, keepdim=True)).T
    azimuth, elevation = torch.atan2(x, z), y.asin()
    assert float(azimuth.abs().max()) == pytest.approx(0.4, abs=0.02)
    assert float(elevation.mean()) == pytest.approx(0.1, abs=0.03)
    assert float((elevation - 0.1).abs().max()) <= 0.2 + 1e-5
    assert torch.equal(source.base(items[5:7]).cam2world, cameras.cam2world[5:7])


@pytest.mark.parametrize(
    "option",
    [
        *("swd.patches=0", "swd.projections=0", "swd.coarsest=6", "distribution.num_images=1"),
        *("distribution.repeats=0", "distribution.kid_subset_size=1"),
        *("distribution.poses.azimuth=-1.0", "distribution.poses.mean_elevation=1.6"),
    ],
)
def test_invalid_options_are_rejected(option):
    with pytest.raises(ConfigError, match=option):
        from_options(EvaluationConfig, [option])


def test_other_weights_on_a_rank_are_rejected(measure, data, monkeypatch):
    monkeypatch.setattr(compare_features, "from_main", lambda keys: ["vgg16", *keys])
    with pytest.raises(WeightsError, match="other weights than rank 0"):
        measure(plain(), data)


def test_ranks_other_than_0_return_no_metrics(measure, data, monkeypatch):
    monkeypatch.setattr(compare_features, "rank", lambda: 1)
    assert measure(plain(), data) == {}
