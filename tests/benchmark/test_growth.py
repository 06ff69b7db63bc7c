from typing import Any, Literal

import pytest
import torch

from lightning_gan3d.benchmark.growth import curve, growth_with_grid, growth_with_rendering
from lightning_gan3d.benchmark.speed import Protocol
from lightning_gan3d.benchmark.stages import Profiler
from lightning_gan3d.contract import SceneConfig
from lightning_gan3d.generator import Generator, GeneratorConfig
from lightning_gan3d.metric import Metric
from lightning_gan3d.networks.decoder import DecoderConfig
from lightning_gan3d.networks.synthesis import Synthesis3dConfig, SynthesisConfig
from lightning_gan3d.stats import power_law_exponent
from renderers.picture import PictureRendererConfig
from renderers.volume import VolumeRendererConfig
from representations.image2d import Image2dConfig
from representations.nerf_mlp import NerfMlp, NerfMlpConfig
from representations.triplane import TriPlaneConfig
from representations.voxel import VoxelConfig

ONCE = Profiler(Protocol(warmup=0, min_repeats=1, max_repeats=1, budget=0.0), torch.device("cpu"))
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


def test_a_curve_is_sorted_and_omits_missing_values() -> None:
    def point(quantity: str, at: float | None, value: float | None, axis: str = "grid") -> Metric:
        return Metric(name=f"growth.{axis}.{quantity}", at=at, value=value, note="missing")

    rows = [
        point("scene_ms", 32.0, 4.0),
        point("scene_ms", 8.0, 1.0),
        point("scene_ms", 16.0, None),
        point("scene_mb", 8.0, 9.0),
        point("scene_ms", 8.0, 9.0, axis="rendering"),
        point("scene_ms_exponent", None, 2.0),
    ]
    assert curve(rows, "grid", "scene_ms") == [(8, 1.0), (32, 4.0)]


@pytest.mark.parametrize(("representation", "power"), [(PLANES, 2), (VOXELS, 3)])
def test_a_scene_grows_with_the_square_or_the_cube(representation: Any, power: int) -> None:
    rows = growth_with_grid(config(representation), 16, (0.5, 1.0, 2.0), ONCE)
    channels = 3 * 4 if power == 2 else 4
    stored = curve(rows, "grid", "scene_bytes")
    assert stored == [(r, 4 * channels * r**power) for r in (8, 16, 32)]
    exponents = {m.key: m.value for m in rows if m.at is None}
    assert exponents["growth.grid.scene_bytes_exponent"] == pytest.approx(power)
    # Making a scene needs at least the memory of the scene.
    for (_, peak_mb), (_, size) in zip(curve(rows, "grid", "scene_mb"), stored, strict=True):
        assert peak_mb * 1e6 >= size
    assert all(ms > 0 for _, ms in curve(rows, "grid", "scene_ms"))


def peaks(renderer: VolumeRendererConfig, resolutions: tuple[int, ...]) -> dict[int, float]:
    """Peak memory in MB of a view, by rendering resolution."""
    rows = growth_with_rendering(Generator(config(PLANES, renderer), 16), resolutions, ONCE)
    return dict(curve(rows, "rendering", "view_mb"))


def test_memory_of_a_rendering_within_one_chunk_grows_with_its_points() -> None:
    renderer = VolumeRendererConfig(samples_coarse=4, samples_fine=0, path="plain")
    mb = peaks(renderer, (16, 32, 64))
    # The planes are copied to rows once, at any resolution.
    assert mb[32] == pytest.approx(4 * mb[16], rel=0.1)
    assert mb[64] == pytest.approx(4 * mb[32], rel=0.1)


def test_small_chunks_bound_the_memory_of_a_large_rendering() -> None:
    def peak(chunk: int) -> float:
        renderer = VolumeRendererConfig(samples_coarse=4, samples_fine=0, chunk=chunk, path="plain")
        return peaks(renderer, (64,))[64]

    assert peak(1024) < 0.5 * peak(1 << 20)


def test_a_fused_rendering_needs_less_memory_than_a_plain_one() -> None:
    pytest.importorskip("numba")

    def peak(path: Literal["plain", "numba"]) -> float:
        renderer = VolumeRendererConfig(samples_coarse=16, samples_fine=16, path=path)
        return peaks(renderer, (64,))[64]

    assert peak("numba") < 0.2 * peak("plain")


def test_growth_that_does_not_apply_is_missing_with_a_reason() -> None:
    row = growth_with_grid(config(NerfMlpConfig(hidden_dim=8)), 16, (1.0,), ONCE)[0]
    assert (row.key, row.value) == ("growth.grid", None)
    assert "no grid" in row.note
    picture = config(PICTURE, PictureRendererConfig())
    assert len(growth_with_grid(picture, 16, (0.5, 1.0), ONCE)) == 1
    (row,) = growth_with_rendering(Generator(picture, 16), (8, 16), ONCE)
    assert (row.key, row.value) == ("growth.rendering", None)
    assert "not rendered" in row.note


def test_one_size_has_no_exponent() -> None:
    rows = growth_with_rendering(Generator(config(PLANES), 16), (8,), ONCE)
    values = {m.key: m.value for m in rows}
    assert values["growth.rendering.view_ms_exponent"] is None
    assert values["growth.rendering.view_ms@8"] is not None


def test_bytes_without_a_grid_are_fitted_over_image_resolutions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fit() -> Metric:
        cfg = config(NerfMlpConfig(hidden_dim=8))
        return growth_with_grid(cfg, 16, (0.5, 1.0, 2.0), ONCE)[1]

    row = fit()
    assert (row.key, row.value, row.n) == ("growth.image.scene_bytes_exponent", 0.0, 3)
    initialise = NerfMlp.__init__

    def with_resolution(self: Any, *args: Any, resolution: int, **rest: Any) -> None:
        initialise(self, *args, resolution=resolution, **rest)
        self.hidden_grid = resolution

    def square(self: Any, ws: torch.Tensor) -> Any:
        return torch.zeros(len(ws), self.hidden_grid, self.hidden_grid)

    monkeypatch.setattr(NerfMlp, "__init__", with_resolution)
    monkeypatch.setattr(NerfMlp, "forward", square)
    assert fit().value == pytest.approx(2)
