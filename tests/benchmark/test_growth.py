from typing import Any, Literal

import pytest
import torch

from lightning_gan3d.benchmark.growth import curve, growth_with_grid, growth_with_rendering
from lightning_gan3d.benchmark.speed import Protocol
from lightning_gan3d.contract import SceneConfig
from lightning_gan3d.generator import Generator, GeneratorConfig
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.networks.decoder import DecoderConfig
from lightning_gan3d.networks.synthesis import Synthesis3dConfig, SynthesisConfig
from lightning_gan3d.stats import power_law_exponent
from renderers.picture import PictureRendererConfig
from renderers.volume import VolumeRendererConfig
from representations.image2d import Image2dConfig
from representations.nerf_mlp import NerfMlp, NerfMlpConfig
from representations.triplane import TriPlaneConfig
from representations.voxel import VoxelConfig

ONCE = Protocol(warmup=0, min_repeats=1, max_repeats=1, budget=0.0)
CPU = torch.device("cpu")
SCENE = SceneConfig(feature_dim=3, decoder=DecoderConfig(hidden_dim=8))
VOLUME = VolumeRendererConfig(samples_coarse=4, samples_fine=0)
PLANES = TriPlaneConfig(16, 4, synthesis=SynthesisConfig(channels=(8, 8, 6)))
VOXELS = VoxelConfig(16, 4, Synthesis3dConfig(channels=(8, 6, 4)))
PICTURE = Image2dConfig(synthesis=SynthesisConfig(channels=(8, 8, 8)))


def config(representation: Any, renderer: Any = VOLUME) -> GeneratorConfig:
    return GeneratorConfig(representation, renderer, z_dim=8, w_dim=8, scene=SCENE)


def test_a_power_law_gives_its_exponent() -> None:
    assert power_law_exponent([(r, 7.0 * r**3) for r in (8, 16, 64)]) == pytest.approx(3)
    assert power_law_exponent([(8, 5.0), (32, 5.0)]) == pytest.approx(0)


def test_a_curve_is_read_back_in_order_and_without_what_is_missing() -> None:
    rows = [
        Metric.of_key("growth.grid.scene_ms@32", 4.0, "ms"),
        Metric.of_key("growth.grid.scene_ms@8", 1.0, "ms"),
        missing("growth.grid.scene_ms@16", "why"),
        Metric.of_key("growth.grid.scene_mb@8", 9.0, "MB"),
        Metric.of_key("growth.rendering.scene_ms@8", 9.0, "ms"),
        Metric.of_key("growth.grid.scene_ms_exponent", 2.0),
    ]
    assert curve(rows, "grid", "scene_ms") == [(8, 1.0), (32, 4.0)]


@pytest.mark.parametrize(("representation", "power"), [(PLANES, 2), (VOXELS, 3)])
def test_a_scene_grows_with_the_square_or_the_cube(representation: Any, power: int) -> None:
    rows = growth_with_grid(config(representation), 16, (0.5, 1.0, 2.0), ONCE, CPU)
    channels = 3 * 4 if power == 2 else 4
    stored = curve(rows, "grid", "scene_bytes")
    assert stored == [(r, 4 * channels * r**power) for r in (8, 16, 32)]
    by_name = {m.metric: m for m in rows}
    assert by_name["growth.grid.scene_bytes_exponent"].value == pytest.approx(power)
    # Making a scene takes at least the memory that keeps it.
    for (_, peak_mb), (_, size) in zip(curve(rows, "grid", "scene_mb"), stored, strict=True):
        assert peak_mb * 1e6 >= size
    assert all(ms > 0 for _, ms in curve(rows, "grid", "scene_ms"))


def test_a_rendering_that_is_no_multiple_of_chunks_grows_by_its_points() -> None:
    renderer = VolumeRendererConfig(samples_coarse=4, samples_fine=0, path="plain")
    generator = Generator(config(PLANES, renderer), 16)
    rows = growth_with_rendering(generator, (16, 32, 64), ONCE)
    peaks = dict(curve(rows, "rendering", "view_mb"))
    # Beside what grows, the planes are copied to rows once.
    assert peaks[32] == pytest.approx(4 * peaks[16], rel=0.1)
    assert peaks[64] == pytest.approx(4 * peaks[32], rel=0.1)


def test_small_chunks_bound_the_memory_of_a_large_rendering() -> None:
    def peak(chunk: int) -> float:
        renderer = VolumeRendererConfig(samples_coarse=4, samples_fine=0, chunk=chunk, path="plain")
        generator = Generator(config(PLANES, renderer), 16)
        return dict(curve(growth_with_rendering(generator, (64,), ONCE), "rendering", "view_mb"))[
            64
        ]

    assert peak(1024) < 0.5 * peak(1 << 20)


def test_a_fused_rendering_needs_less_than_a_plain_one() -> None:
    pytest.importorskip("numba")

    def peak(path: Literal["plain", "numba"]) -> float:
        renderer = VolumeRendererConfig(samples_coarse=16, samples_fine=16, path=path)
        generator = Generator(config(PLANES, renderer), 16)
        rows = growth_with_rendering(generator, (64,), ONCE)
        return dict(curve(rows, "rendering", "view_mb"))[64]

    assert peak("numba") < 0.2 * peak("plain")


def test_what_does_not_grow_is_missing_with_a_reason() -> None:
    row = growth_with_grid(config(NerfMlpConfig(hidden_dim=8)), 16, (1.0,), ONCE, CPU)[0]
    assert row.value is None
    assert "no grid" in row.note
    assert (
        len(growth_with_grid(config(PICTURE, PictureRendererConfig()), 16, (0.5, 1.0), ONCE, CPU))
        == 1
    )
    picture = Generator(config(PICTURE, PictureRendererConfig()), 16)
    row = growth_with_rendering(picture, (8, 16), ONCE)[0]
    assert row.value is None
    assert "not rendered" in row.note


def test_one_size_has_no_exponent() -> None:
    rows = growth_with_rendering(Generator(config(PLANES), 16), (8,), ONCE)
    found = {m.metric: m for m in rows}
    assert found["growth.rendering.view_ms_exponent"].value is None
    assert found["growth.rendering.view_ms@8"].value is not None


def test_without_a_grid_the_bytes_are_measured_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measured() -> Metric:
        cfg = config(NerfMlpConfig(hidden_dim=8))
        return growth_with_grid(cfg, 16, (0.5, 1.0, 2.0), ONCE, CPU)[1]

    row = measured()
    assert (row.metric, row.value, row.n) == ("growth.image.scene_bytes_exponent", 0.0, 3)
    made = NerfMlp.__init__

    def sized(self: Any, *args: Any, resolution: int, **rest: Any) -> None:
        made(self, *args, resolution=resolution, **rest)
        self.hidden_grid = resolution

    def stored(self: Any, ws: torch.Tensor) -> Any:
        return torch.zeros(len(ws), self.hidden_grid, self.hidden_grid)

    monkeypatch.setattr(NerfMlp, "__init__", sized)
    monkeypatch.setattr(NerfMlp, "forward", stored)
    assert measured().value == pytest.approx(2)
