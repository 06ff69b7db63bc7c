import dataclasses

import pytest
import torch

from lightning_gan3d.benchmark import cuda_graphs
from lightning_gan3d.benchmark.inputs import make_inputs
from lightning_gan3d.benchmark.stages import _replays, stages
from lightning_gan3d.cost import count_cost
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.generator import Generator


@pytest.mark.parametrize("skip_cells", [0, 4])
def test_every_stage_runs_and_training_prepares_nothing(
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
    found = stages(generator, make_inputs(generator), count_cost(generator))
    assert {"rendering", "rendering_gradient"} <= set(found)
    rendered = []
    march = type(generator.renderer)._march  # type: ignore[attr-defined]  # of a volume renderer

    def watched(self: object, o: object, field: object, *args: object) -> object:
        rendered.append(type(field).__name__)
        return march(self, o, field, *args)

    monkeypatch.setattr(type(generator.renderer), "_march", watched)
    for name, stage in found.items():
        with torch.no_grad():
            rendered.clear()
            stage.call()
        if name == "rendering_gradient":
            assert rendered == ["TriPlaneField"]


@pytest.mark.parametrize("preset", ["demo/triplane", "demo/image2d"])
def test_graphs_replay_the_stages_whose_names_they_bear(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU records nothing: the function stands in for its recording."""
    monkeypatch.setattr(cuda_graphs, "_record", lambda function, _: (function(), lambda: None))
    monkeypatch.setattr(cuda_graphs, "_check_devices", lambda _: None)
    generator = Generator(load_experiment(preset).generator, 32).eval()
    inputs = make_inputs(generator)
    called = stages(generator, inputs, count_cost(generator))
    with torch.no_grad():
        ws = generator.mapping(inputs.z, inputs.label)
        found = _replays(generator, called, inputs, ws, generator.scene(ws))
        assert set(found) == {"image_replayed"} | (
            set() if "image2d" in preset else {"view_replayed"}
        )
        for name, stage in found.items():
            torch.testing.assert_close(
                stage.call().image, called[name.removesuffix("_replayed")].call().image
            )
