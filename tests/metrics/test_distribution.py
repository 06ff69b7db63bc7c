"""The real path on small stand-ins of the networks, told by their digest, never called FID."""

import dataclasses
import json
import math

import numpy as np
import pytest
import stand_in
import torch
from cleanfid import fid
from metric_views import Disturbed, RealFigures, figure_labels, figures

from lightning_gan3d.config import ConfigError
from lightning_gan3d.images import Images, to_float, to_uint8
from lightning_gan3d.metrics import pretrained
from lightning_gan3d.metrics.config import DistributionConfig, PosesConfig
from lightning_gan3d.metrics.distribution import compare_features, feature_store
from lightning_gan3d.metrics.distribution.compare_features import measure_distribution
from lightning_gan3d.metrics.distribution.features import inception
from lightning_gan3d.metrics.posed import PosedSource
from lightning_gan3d.metrics.pretrained import digest_of
from lightning_gan3d.metrics.sources import GeneratorSource

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


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(feature_store, "SHARD", 16)


def by_name(measures):
    assert len({m.metric for m in measures}) == len(measures)
    return {m.metric: m for m in measures}


def measure(source, data, cfg=CFG, **options):
    return by_name(measure_distribution(source, *data, cfg, NUM, 16, **options))


class Plain(torch.nn.Module):
    """A generator whose images are smooth functions of the latent."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(8, 12, generator=torch.manual_seed(2)))
        self.seen = []

    def views(self, z, _label, _cameras):
        self.seen.append(len(z))
        small = (z @ self.weight).tanh().reshape(-1, 3, 2, 2)
        image = torch.nn.functional.interpolate(small, (32, 32), mode="bilinear")
        return Images(image, image)


def plain(seed=0):
    return GeneratorSource(Plain(), 8, figure_labels(50), seed)


def test_without_weights_they_are_missing_with_the_command_that_fetches_them(data):
    found = measure(figures(), data)
    for name in ("fid", "kid", "inception_score"):
        assert found[f"quality.{name}"].value is None
        assert "`gan3d weights fetch inception`" in found[f"quality.{name}"].note
    assert "`gan3d weights fetch vgg16`" in found["quality.precision"].note
    assert found["memorisation.excess"].value is not None
    none_held_out = by_name(measure_distribution(figures(), data[0], None, CFG, NUM))
    assert "data.holdout" in none_held_out["memorisation.excess"].note


def test_without_weights_no_more_images_are_made_than_memorisation_needs(data, nets):
    cfg = dataclasses.replace(CFG, num_images=100, repeats=2)
    source = plain()
    assert measure(source, data, cfg)["memorisation.excess"].n == NUM
    assert sum(source.generator.seen) == NUM
    source = plain()
    found = measure(source, data, cfg, weights=nets)
    assert sum(source.generator.seen) == 200
    assert found["memorisation.excess"].n == NUM
    assert found[f"quality.frechet_{digest_of(nets['inception'])[:8]}"].n == 100


def test_a_stand_in_is_measured_under_its_digest_and_never_called_fid(data, nets):
    found = measure(plain(), data, weights=nets)
    digits = {k: digest_of(v)[:8] for k, v in nets.items()}
    names = ("frechet", "kernel", "kernel_whole", "class_score", "precision_inception")
    for name in names:
        m = found[f"quality.{name}_{digits['inception']}"]
        assert math.isfinite(m.value)
        assert m.n in (NUM, 50)
        for word in (digits["inception"], "clean", "60 generated images", "32x32", "figures-120-1"):
            assert word in m.note
    assert found[f"quality.precision_{digits['vgg16']}"].value is not None
    assert "too few" in found[f"quality.frechet_infinity_{digits['inception']}"].note
    for name in ("fid", "kid", "inception_score", "precision", "recall", "fid_infinity"):
        assert f"quality.{name}" not in found


def features_of(source, path, mode="clean", first=0):
    items = torch.arange(first, first + NUM)
    images = to_uint8(source.views(items, source.base(items)).image)
    return inception(mode, given=path)(images).numpy()


def test_the_values_are_clean_fids_on_the_same_features(data, nets, monkeypatch):
    digest = digest_of(nets["inception"])
    entry = pretrained.Weights("i.pt", "", digest, "tests")
    monkeypatch.setitem(pretrained.KNOWN, "inception", entry)
    cfg = dataclasses.replace(CFG, kid_subset_size=NUM, kid_subsets=1)
    same_size = RealFigures(NUM, seed=1)
    found = by_name(measure_distribution(plain(), same_size, data[1], cfg, NUM, 16, weights=nets))
    real = inception("clean", given=nets["inception"])(same_size.images(torch.arange(NUM))).numpy()
    fake = features_of(plain(), nets["inception"])
    # The covariances are rank-deficient here, where clean-fid's own root is less exact.
    wanted = fid.frechet_distance(
        real.mean(0, dtype=np.float64),
        np.cov(real.astype(np.float64).T),
        fake.mean(0, dtype=np.float64),
        np.cov(fake.astype(np.float64).T),
    )
    assert found["quality.fid"].value == pytest.approx(wanted, rel=1e-3)
    assert "rank 59 of 128" in found["quality.fid"].note
    kid = fid.kernel_distance(real, fake, num_subsets=1, max_subset_size=NUM)
    assert found["quality.kid"].value == pytest.approx(kid, rel=1e-4)


def test_the_class_score_is_that_of_its_definition(data, nets):
    digits = digest_of(nets["inception"])[:8]
    cfg = dataclasses.replace(CFG, splits=2)
    found = measure(plain(), data, cfg, weights=nets)[f"quality.class_score_{digits}"]
    network = inception("clean", given=nets["inception"])
    p = network.probabilities(torch.from_numpy(features_of(plain(), nets["inception"]))).double()
    scores = [
        float((part * (part.log() - part.mean(0).log())).sum(1).mean().exp())
        for part in (p[:30], p[30:])
    ]
    assert found.value == pytest.approx(np.mean(scores), rel=1e-6)
    assert found.spread == pytest.approx(np.std(scores, ddof=1), rel=1e-4)


def test_repeats_give_an_interval_over_other_latents(data, nets):
    digits = digest_of(nets["inception"])[:8]
    name = f"quality.frechet_{digits}"
    once = measure(plain(), data, weights=nets)[name]
    assert once.spread is None
    assert "one set of latents" in once.note
    cfg = dataclasses.replace(CFG, repeats=3)
    thrice = measure(plain(), data, cfg, weights=nets)[name]
    assert thrice.spread > 0
    assert "3 sets of other latents" in thrice.note
    assert thrice.value != once.value


def test_extrapolation_where_there_are_images_enough(data, nets):
    digits = digest_of(nets["inception"])[:8]
    cfg = dataclasses.replace(CFG, infinity_from=20)
    found = measure(plain(), data, cfg, weights=nets)
    infinite, finite = (found[f"quality.{x}_{digits}"] for x in ("frechet_infinity", "frechet"))
    assert infinite.value < finite.value
    assert "Chong and Forsyth" in infinite.note


def test_a_broken_off_evaluation_continues_with_the_same_values(data, nets, tmp_path):
    whole = measure(plain(), data, weights=nets, cache=tmp_path / "a")
    broken = plain()
    views, calls = broken.generator.views, []

    def breaks(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return views(*arguments)

    broken.generator.views = breaks
    with pytest.raises(KeyboardInterrupt):
        measure(broken, data, weights=nets, cache=tmp_path / "b")
    del broken.generator.views
    broken.generator.seen = []
    assert measure(broken, data, weights=nets, cache=tmp_path / "b") == whole
    assert sum(broken.generator.seen) == NUM - 32
    kept = {p.name.partition("-")[0] for p in (tmp_path / "b" / "features").iterdir()}
    assert kept == {"real"}  # what the generator made goes when all is measured


def test_features_are_those_of_the_libraries_that_made_them(data, nets, tmp_path, monkeypatch):
    """A Pillow that resizes otherwise must not meet real images of the one before."""
    measure(plain(), data, weights=nets, cache=tmp_path)
    before = set((tmp_path / "features").iterdir())
    measure(plain(), data, weights=nets, cache=tmp_path)
    assert set((tmp_path / "features").iterdir()) == before
    monkeypatch.setattr(compare_features, "version", lambda name: f"{name} of tomorrow")
    measure(plain(), data, weights=nets, cache=tmp_path)
    assert len(list((tmp_path / "features").iterdir())) == 2 * len(before)


def test_another_generator_is_not_taken_for_this_one(data, tmp_path, monkeypatch):
    monkeypatch.setattr(compare_features.shutil, "rmtree", lambda *_, **__: None)
    first, other = plain(), plain()
    measure(first, data, cache=tmp_path)
    other.generator.weight.data[0, 0] += 1e-3
    measure(other, data, cache=tmp_path)
    assert sum(other.generator.seen) == NUM
    again = plain()
    measure(again, data, cache=tmp_path)
    assert again.generator.seen == []
    measure(plain(seed=1), data, cache=tmp_path)
    assert len([p for p in (tmp_path / "features").iterdir() if "fake" in p.name]) == 3


def test_a_generator_that_repeats_training_images_is_caught(data, tmp_path):
    train = data[0]

    def repeats(_source, items, _cameras):
        image = to_float(train.images(items * 7 % len(train)))
        return Images(image, image)

    found = measure(Disturbed(figures(), repeats), data, folder=tmp_path)
    assert found["memorisation.excess"].value == 1
    assert found["memorisation.nearer"].value == 1
    assert found["memorisation.distance"].value == pytest.approx(0, abs=1e-3)
    table = json.loads((tmp_path / compare_features.NEIGHBOURS).read_text())
    assert all(
        shown[0] == item * 7 % 120
        for item, shown in zip(table["items"], table["training_images"], strict=True)
    )
    honest = measure(figures(), data)
    assert honest["memorisation.excess"].value < 0.4
    assert 0.3 < honest["memorisation.nearer"].value < 0.7


def test_images_that_are_not_finite_make_measures_missing(data, nets):
    def broken(source, items, cameras):
        image = source.views(items, cameras).image.clone()
        image[0, :, 3, 3] = math.nan
        return Images(image, image)

    found = measure(Disturbed(figures(), broken), data, weights=nets)
    assert all("not finite" in m.note for m in found.values())
    assert all(m.value is None for m in found.values())


def test_drawn_cameras_have_their_own_names_and_stand_where_they_should(data, nets):
    poses = PosesConfig("uniform", azimuth=0.4, elevation=0.2, mean_elevation=0.1)
    cfg = dataclasses.replace(CFG, poses=poses)
    found = measure(plain(), data, cfg, weights=nets)
    digits = digest_of(nets["inception"])[:8]
    assert "cameras drawn anew" in found[f"quality.frechet_{digits}_posed"].note
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
    some = source.base(items[5:7]).cam2world
    assert torch.equal(some, cameras.cam2world[5:7])


def test_impossible_protocols_are_refused():
    for field, value in (("num_images", 1), ("repeats", 0), ("kid_subset_size", 1)):
        with pytest.raises(ConfigError, match=f"distribution.{field}={value}"):
            DistributionConfig(**{field: value})
    with pytest.raises(ConfigError, match="azimuth"):
        PosesConfig(azimuth=-1.0)
    with pytest.raises(ConfigError, match="mean_elevation"):
        PosesConfig(mean_elevation=1.6)
