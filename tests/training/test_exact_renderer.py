"""A generator with an exact renderer is used and measured, but not trained."""

import dataclasses
from pathlib import Path

import pytest
import torch

from lightning_gan3d.benchmark.speed import QUICK
from lightning_gan3d.benchmark.stages import Profiler, stages
from lightning_gan3d.benchmark.training import measure_training
from lightning_gan3d.config import ConfigError
from lightning_gan3d.cost import count_cost, make_inputs
from lightning_gan3d.experiment import ExperimentConfig, load_experiment
from lightning_gan3d.generator import Generator
from lightning_gan3d.inference.config import InvertOptions
from lightning_gan3d.inference.inversion import invert
from lightning_gan3d.metrics.protocol import precision_of
from lightning_gan3d.metrics.sources import GeneratorSource, volume_of
from lightning_gan3d.networks.synthesis import Synthesis3dConfig
from lightning_gan3d.training.compatibility import check_trainable
from renderers.raster import RasterConfig
from renderers.volume import VolumeRendererConfig
from representations.solid import SolidConfig


@pytest.fixture
def exact() -> ExperimentConfig:
    config = load_experiment("demo/voxel")
    cfg = config.generator
    generator = dataclasses.replace(
        cfg,
        representation=SolidConfig(resolution=16, synthesis=Synthesis3dConfig(channels=(16, 8, 8))),
        renderer=RasterConfig(backend="grid_walk", background=1.0),
        scene=dataclasses.replace(cfg.scene, feature_dim=3),
        superresolution=dataclasses.replace(cfg.superresolution, factor=1),
    )
    return dataclasses.replace(config, generator=generator)


def test_training_is_rejected_with_the_remedy(exact: ExperimentConfig) -> None:
    message = r"renderer\.kind=raster: it has no gradient.*set generator\.renderer\.kind=volume"
    with pytest.raises(ConfigError, match=message):
        check_trainable(exact, 32)
    soft = dataclasses.replace(exact.generator, renderer=VolumeRendererConfig(background=1.0))
    check_trainable(dataclasses.replace(exact, generator=soft), 32)


def test_inversion_is_rejected_before_anything_is_read(
    exact: ExperimentConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.png").touch()

    class Opened:
        generator = Generator(exact.generator, 32)

    monkeypatch.setattr(invert, "open_model", lambda *_: Opened)
    with pytest.raises(ConfigError, match=r"kind=raster: it has no gradient"):
        invert.invert_files("run", tmp_path, InvertOptions())


def test_metrics_read_its_views_and_its_surface(exact: ExperimentConfig) -> None:
    torch.manual_seed(0)
    generator = Generator(exact.generator, 32).eval()
    inputs = make_inputs(generator)
    source = GeneratorSource(generator, exact.generator.z_dim, inputs.label)
    out = source.views(torch.arange(2), source.base(torch.arange(2)))
    assert out.image.shape == (2, 3, 32, 32)
    assert out.opacity is not None
    assert 0.05 < float(out.opacity.mean()) < 0.95
    assert set(out.opacity.unique().tolist()) == {0.0, 1.0}
    assert "rays by grid walk, numba" in precision_of(generator)
    volume = source.volume(torch.arange(1))
    assert volume is not None
    points = torch.tensor([[[0.0, 0.0, 0.0], [0.98, 0.98, 0.98]]])
    inside = volume.occupancy(volume.level(points))[0]
    assert inside[0] > 0.5 > inside[1]
    assert volume_of(generator.scene(torch.zeros(1, 6, generator.cfg.w_dim))).box == volume.box


def test_the_benchmark_measures_all_but_gradients(exact: ExperimentConfig) -> None:
    generator = Generator(exact.generator, 32).eval()
    cost = count_cost(generator)
    assert cost.flops["renderer"] == 0 < cost.flops["representation"]
    assert cost.scene_bytes == 4 * 4 * 16**3
    called = stages(generator, make_inputs(generator), cost)
    with torch.no_grad():
        for stage in called.values():
            stage.call()
    assert set(called) == {"mapping", "scene", "view", "image", "rendering"}
    (metric,) = measure_training(exact, 32, Profiler(QUICK, torch.device("cpu")))
    assert metric.value is None
    assert metric.note == "the renderer has no gradient"
