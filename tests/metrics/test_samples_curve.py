import pytest
import torch
from metric_views import context, figure_labels, figures

from lightning_gan3d.config import ConfigError, from_options
from lightning_gan3d.experiment import load_experiment, make_networks
from lightning_gan3d.metrics.config import ConsistencyConfig, SamplesConfig, SwdConfig
from lightning_gan3d.metrics.samples_curve import measure_samples, with_samples
from lightning_gan3d.metrics.sources import GeneratorSource
from renderers.config import VolumeRendererConfig

SMALL = SamplesConfig(counts=(4, 12, 48), reference=96, images=2)


@pytest.fixture(scope="module")
def generator():
    made, _ = make_networks(load_experiment("demo/triplane"), 32)
    return made.eval()


def source(generator):
    return GeneratorSource(generator, generator.cfg.z_dim, figure_labels(20))


def measured(generator, samples, **options):
    own = generator.renderer
    rows = measure_samples(context(source(generator), samples=samples, **options))
    assert generator.renderer is own
    return {m.key: m for m in rows}


@pytest.mark.parametrize("placement", ["own", "stratified", "weights", "nucleus"])
def test_more_samples_are_nearer_to_the_reference(generator, placement):
    rows = measured(generator, SamplesConfig((4, 12, 48), placement, 0.5, 96, 2))
    few, more, many = (rows[f"samples.psnr@{n}"].value for n in (4, 12, 48))
    assert few < more < many
    assert all(rows[f"samples.view_ms@{n}"].value > 0 for n in (4, 12, 48))
    expected = "12 samples, stratified"
    if placement in ("weights", "nucleus"):
        expected = f"6 + 6 samples, fine ones by {placement}"
    assert rows["samples.psnr@12"].note.startswith(expected)


def test_the_reference_equals_itself(generator):
    rows = measured(generator, SamplesConfig((96,), "stratified", reference=96, images=2))
    assert rows["samples.psnr@96"].value == 100


def test_quality_is_measured_by_the_replaced_renderer(generator):
    options = {
        "swd": SwdConfig(patches=8, projections=16),
        "consistency": ConsistencyConfig(items=1, steps=1),
        "num_images_training": 8,
        "train": Images(),
    }
    rows = measured(generator, SMALL, **options)
    for name in ("swd", "consistency"):
        assert rows[f"samples.{name}@4"].value != rows[f"samples.{name}@48"].value


class Images:
    """Noise as real images."""

    resolution, fingerprint, labels = 32, "noise", figure_labels(20)

    def __len__(self):
        return 20

    def images(self, indices):
        draws = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, (len(indices), 3, 32, 32), generator=draws, dtype=torch.uint8)


def test_a_count_that_the_rules_forbid_is_missing_with_the_reason():
    config = load_experiment("demo/triplane", ["generator.renderer.rules=eg3d"])
    generator, _ = make_networks(config, 32)
    rows = measured(generator.eval(), SamplesConfig((1, 8), images=1, reference=16))
    assert rows["samples.psnr@1"].value is None
    assert "rules=eg3d needs 2 or more" in rows["samples.psnr@1"].note
    assert rows["samples.psnr@8"].value is not None


def test_the_configured_ratio_is_kept():
    own = VolumeRendererConfig(samples_coarse=8, samples_fine=4, oversample=2, chunk=20)
    o = with_samples(own, 24, SamplesConfig())
    assert (o.samples_coarse, o.samples_fine, o.oversample) == (16, 8, 1)


def test_only_volume_renderers_have_samples():
    (row,) = measure_samples(context(figures(), samples=SamplesConfig()))
    assert row.value is None
    assert "renderer.kind=volume" in row.note
    assert measure_samples(context(figures())) == []


@pytest.mark.parametrize("option", ["counts=[0]", "coarse=1.5", "placement=other", "images=0"])
def test_impossible_options_are_rejected(option):
    with pytest.raises(ConfigError, match=option.partition("=")[0]):
        from_options(SamplesConfig, [option])
