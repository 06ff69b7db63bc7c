from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from metric_views import figure_labels

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.experiment import load_experiment, make_networks
from lightning_gan3d.metric import Metric, missing, read_metrics, write_metrics
from lightning_gan3d.metrics.config import (
    DistributionConfig,
    EvaluationConfig,
    MasksConfig,
    RefitConfig,
)
from lightning_gan3d.metrics.context import EvaluationContext
from lightning_gan3d.metrics.protocol import keyed, precision_of
from lightning_gan3d.metrics.sources import GeneratorSource

ROWS = [
    *(Metric(name, 1.0) for name in ("quality.swd", "quality.fid", "memorisation.excess")),
    *(Metric("consistency.psnr", 1.0, stage=stage) for stage in ("", "raw")),
    *(Metric("refit.psnr", 1.0, variant=variant) for variant in ("", "following")),
    *(Metric(name, 1.0) for name in ("pose.median_deg", "geometry.relief", "geometry.filled")),
    *(Metric(name, 1.0) for name in ("parts.leak", "parts.mask_iou")),
]


class Images:
    labels, resolution = None, 32

    def __init__(self, fingerprint, resolution=32):
        self.fingerprint, self.resolution = fingerprint, resolution

    def __len__(self):
        return 9

    def images(self, indices):
        raise AssertionError(indices)


def keys(cfg=None, inner=16, train="a", test="b", resolution=32, seed=0, n=10):
    rows = [replace(m, n=n) for m in ROWS]
    generator = SimpleNamespace(rendering_resolution=inner)
    source = GeneratorSource(generator, 4, figure_labels(4))
    real = Images(train, resolution), Images(test, resolution)
    context = EvaluationContext(source, *real, cfg or EvaluationConfig(), seed=seed)
    result = keyed(rows, context)
    assert [replace(m, protocol="") for m in result] == rows
    return {m.key: m.protocol for m in result}


def changed(**values):
    plain, other = keys(), keys(**values)
    return {name for name in plain if plain[name] != other[name]}


def test_a_protocol_key_depends_on_its_own_block_alone():
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
    assert changed(cfg=replace(plain, masks=MasksConfig(scenes=50))) == {"parts.mask_iou"}
    many = DistributionConfig(num_images=10, repeats=3)
    assert changed(cfg=replace(plain, distribution=many)) == set()


def test_paths_are_no_protocol_but_names_of_files_are():
    plain = EvaluationConfig()

    def reading(path):
        return keys(cfg=replace(plain, consistency=replace(plain.consistency, lpips=path)))

    assert reading("/here/alex.pth") == reading("/there/alex.pth") != reading("/here/other.pth")


def test_protocol_keys_depend_on_data_seed_and_size_and_for_sets_on_their_number():
    for values in ({"train": "c"}, {"test": "c"}, {"seed": 1}, {"resolution": 64}):
        assert changed(**values) == {m.key for m in ROWS}
    assert changed(n=11) == {"quality.swd", "quality.fid", "memorisation.excess", "pose.median_deg"}
    with_depth = {"consistency.psnr", "consistency.psnr_raw", "geometry.relief"}
    assert changed(inner=32) == with_depth
    assert len({v for k, v in keys().items() if k.startswith("refit")}) == 1


def test_missing_metrics_have_no_protocol_key_and_others_store_it(tmp_path):
    rows = [Metric("refit.psnr", 1.0), missing("refit.gain", "no texture")]
    source = GeneratorSource(SimpleNamespace(rendering_resolution=16), 4, figure_labels(4))
    result = keyed(rows, EvaluationContext(source, Images("a"), None))
    assert result[1] == rows[1]
    write_metrics(tmp_path / "m.json", result)
    assert read_metrics(tmp_path / "m.json") == result
    assert (tmp_path / "m.json").read_text().count("protocol") == 1


@pytest.mark.parametrize("key", ["abc", "g" * 16, "A" * 16, "0" * 17])
def test_a_malformed_key_is_rejected(key):
    with pytest.raises(ValueError, match="16 hexadecimal digits"):
        Metric("a", 1.0, protocol=key)


def test_the_precision_names_stored_scenes_and_the_rendering_path():
    """Scenes of several views in 16 bits mean other numbers for consistency than for FID."""
    texts = []
    for bits in ("fp32", "bf16"):
        config = load_experiment("demo/triplane", [f"generator.renderer.cache_precision={bits}"])
        generator, _ = make_networks(config, 32)
        texts.append(precision_of(generator))
        assert ", rays by" not in texts[-1]
        label = Cameras.orbit(2).to_label()
        with torch.no_grad():
            generator(torch.zeros(2, generator.cfg.z_dim), label)
        assert f", rays by {generator.renderer.backend}" in precision_of(generator)
    assert texts == [
        "weights float32, rendering fp32",
        "weights float32, rendering fp32, scenes of several views bf16",
    ]
