from dataclasses import replace
from types import SimpleNamespace

import pytest

from lightning_gan3d.metric import Metric, missing, read_measures, write_measures
from lightning_gan3d.metrics.config import DistributionConfig, EvaluationConfig, RefitConfig
from lightning_gan3d.metrics.protocol import keyed
from lightning_gan3d.metrics.sources import ViewSource

NAMES = (
    "quality.swd",
    "quality.fid",
    "memorisation.excess",
    "consistency.psnr",
    "consistency.psnr_raw",
    "refit.psnr",
    "refit.psnr_following",
    "pose.median_deg",
    "geometry.relief",
)


class Source(ViewSource):
    """A generator whose renderings have `inner` pixels a side."""

    def __init__(self, inner=16):
        self.generator = SimpleNamespace(rendering_resolution=inner)


class Images:
    labels, resolution = None, 32

    def __init__(self, fingerprint, resolution=32):
        self.fingerprint, self.resolution = fingerprint, resolution

    def __len__(self):
        return 9

    def images(self, indices):
        raise AssertionError(indices)


def keys(cfg=None, inner=16, train="a", test="b", resolution=32, seed=0, n=10):
    rows = [Metric.of_key(name, 1.0, n=n) for name in NAMES]
    real = Images(train, resolution), Images(test, resolution)
    found = keyed(rows, cfg or EvaluationConfig(), Source(inner), *real, seed)
    assert [replace(m, protocol="") for m in found] == rows
    return {m.metric: m.protocol for m in found}


def changed(**values):
    plain, other = keys(), keys(**values)
    return {name for name in NAMES if plain[name] != other[name]}


def test_each_measure_depends_on_its_own_block_alone():
    plain = EvaluationConfig()
    assert changed(cfg=replace(plain, batch=7, num_images=50)) == set()
    assert changed(cfg=replace(plain, refit=RefitConfig(iterations=50))) == {
        "refit.psnr",
        "refit.psnr_following",
    }
    legacy = DistributionConfig(mode="legacy_tensorflow")
    assert changed(cfg=replace(plain, distribution=legacy)) == {
        "quality.fid",
        "memorisation.excess",
    }
    many = DistributionConfig(num_images=10, repeats=3)
    assert changed(cfg=replace(plain, distribution=many)) == set()


def test_paths_are_no_protocol_but_names_of_files_are():
    plain = EvaluationConfig()

    def reading(path):
        return keys(cfg=replace(plain, consistency=replace(plain.consistency, lpips=path)))

    assert reading("/here/alex.pth") == reading("/there/alex.pth") != reading("/here/other.pth")


def test_data_seed_and_size_count_for_all_and_the_number_where_images_are_compared_as_sets():
    for values in ({"train": "c"}, {"test": "c"}, {"seed": 1}, {"resolution": 64}):
        assert changed(**values) == set(NAMES)
    assert changed(n=11) == {"quality.swd", "quality.fid", "memorisation.excess", "pose.median_deg"}
    assert changed(inner=32) == {"consistency.psnr_raw"}
    assert len({v for k, v in keys().items() if k.startswith("refit")}) == 1


def test_what_is_missing_has_no_protocol_and_the_file_keeps_the_others(tmp_path):
    rows = [Metric.of_key("refit.psnr", 1.0), missing("refit.gain", "no texture")]
    found = keyed(rows, EvaluationConfig(), Source(), Images("a"), None, 0)
    assert found[1] == rows[1]
    write_measures(tmp_path / "m.json", found)
    assert read_measures(tmp_path / "m.json") == found
    assert (tmp_path / "m.json").read_text().count("protocol") == 1


@pytest.mark.parametrize("key", ["abc", "g" * 16, "A" * 16, "0" * 17])
def test_a_key_of_another_form_is_refused(key):
    with pytest.raises(ValueError, match="16 hexadecimal digits"):
        Metric.of_key("a", 1.0, protocol=key)
