import dataclasses

import pytest
import torch

from lightning_gan3d.benchmark import speed
from lightning_gan3d.benchmark.speed import Timing
from lightning_gan3d.benchmark.stages import (
    Roofline,
    _replays,
    cached_scene,
    measure_roofline,
    stages,
)
from lightning_gan3d.cost import count_cost, make_inputs
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.generator import Generator

ROOFLINE = Roofline(flops=100e9, bandwidth=10e9)


def test_the_lower_bound_is_the_slower_of_compute_and_traffic() -> None:
    assert ROOFLINE.lower_bound(200_000_000_000, 1) == pytest.approx(2.0)
    assert ROOFLINE.lower_bound(1, 30_000_000_000) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("flops", "nbytes", "share", "limit"),
    [(50_000_000_000, 0, 0.25, "compute"), (0, 10_000_000_000, 0.5, "bandwidth")],
)
def test_the_roofline_share_is_the_lower_bound_over_the_median(
    flops: int, nbytes: int, share: float, limit: str
) -> None:
    row = ROOFLINE.share("view", Timing((1.0, 2.0, 9.0)), flops, nbytes)
    assert row.name == "speed.view_floor_share"
    assert row.value == pytest.approx(share)
    assert f"by {limit}" in row.note


def test_measured_peaks_are_plausible_and_measured_once() -> None:
    roofline = measure_roofline(torch.device("cpu"), torch.get_num_threads())
    assert 1e8 < roofline.flops < 1e15
    assert 1e8 < roofline.bandwidth < 1e14
    assert roofline is measure_roofline(torch.device("cpu"), torch.get_num_threads())


@pytest.mark.parametrize("skip_cells", [0, 4])
def test_every_stage_runs_and_only_training_renders_an_unprepared_scene(
    skip_cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = load_experiment("demo/triplane").generator
    renderer = dataclasses.replace(
        cfg.renderer,  # type: ignore[type-var]  # a dataclass
        skip_cells=skip_cells,
        samples_coarse=4,
        samples_fine=0,
        path="plain",
    )
    generator = Generator(dataclasses.replace(cfg, renderer=renderer), 32).eval()
    called = stages(generator, make_inputs(generator), count_cost(generator))
    rendered: list[str] = []
    forward = type(generator.renderer).forward

    def record(self: object, scene: object, *args: object) -> object:
        rendered.append(type(scene).__name__)
        return forward(self, scene, *args)

    monkeypatch.setattr(type(generator.renderer), "forward", record)
    with torch.no_grad():
        for stage in called.values():
            stage.call()
    prepared = "OccupiedField" if skip_cells else "TriPlaneField"
    assert set(called) == {
        "mapping", "scene", "view", "image", "rendering", "rendering_gradient"
    }  # fmt: skip
    # view and rendering use the prepared scene, image and rendering_gradient an unprepared one
    assert rendered == [prepared, "TriPlaneField", prepared, "TriPlaneField"]


@pytest.mark.parametrize("preset", ["demo/triplane", "demo/image2d"])
def test_graphs_replay_the_stages_of_their_names(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU records nothing: the function stands in for its recording."""
    monkeypatch.setattr(speed, "_record", lambda function, _: (function(), lambda: None))
    monkeypatch.setattr(speed, "_check_devices", lambda _: None)
    generator = Generator(load_experiment(preset).generator, 32).eval()
    inputs = make_inputs(generator)
    called = stages(generator, inputs, count_cost(generator))
    with torch.no_grad():
        ws, scene = cached_scene(generator, inputs.z, inputs.label)
        replays = _replays(generator, called, inputs, ws, scene)
        assert set(replays) == {"image_replayed"} | (
            set() if "image2d" in preset else {"view_replayed"}
        )
        for name, stage in replays.items():
            torch.testing.assert_close(
                stage.call().image, called[name.removesuffix("_replayed")].call().image
            )


@pytest.mark.parametrize("preset", ["demo/triplane", "demo/nerf_mlp"])
def test_the_plain_path_is_timed_beside_the_kernels(preset: str) -> None:
    pytest.importorskip("numba")
    generator = Generator(load_experiment(preset).generator, 32).eval()
    called = stages(generator, make_inputs(generator), count_cost(generator))
    with torch.no_grad():
        ours, plain = (called[name].call() for name in ("rendering", "rendering_plain"))
    torch.testing.assert_close(ours.feature, plain.feature, atol=2e-5, rtol=0)
    assert not torch.equal(ours.feature, plain.feature)
