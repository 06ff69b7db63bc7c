import gc
import weakref

import pytest
import torch

from lightning_gan3d.benchmark import speed
from lightning_gan3d.benchmark.speed import GraphError, Recorded
from lightning_gan3d.cameras import Cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.generator import Generator


@pytest.fixture
def fake_recording(monkeypatch):
    """Recording on a CPU: a replay runs the function on the recorded inputs, into its outputs."""

    def record(function, _):
        outputs = function()

        def replay():
            for old, new in zip(outputs, function(), strict=True):
                old.copy_(new)

        return outputs, replay

    monkeypatch.setattr(speed, "_record", record)
    monkeypatch.setattr(speed, "_check_devices", lambda _: None)


def inputs(device="cpu"):
    generator = Generator(load_experiment("demo/triplane").generator, 32).eval().to(device)
    cameras = Cameras.on_sphere(torch.tensor([0.4]), torch.tensor([0.2]), 3.2, focal=1.5)
    z, label = Draws(1).normal("z", (1, generator.cfg.z_dim)), cameras.to_label()
    return generator, z.to(device), label.to(device), cameras.to(device)


@pytest.mark.usefixtures("fake_recording")
def test_a_replay_reads_new_inputs_and_returns_copies():
    recorded = Recorded(lambda x, pair: (x + pair[0], x * pair[1]), *arguments(1.0))
    first = recorded(*arguments(2.0))
    second = recorded(*arguments(5.0))
    assert [x.tolist() for x in first] == [[5.0, 5.0], [8.0, 8.0]]
    assert [x.tolist() for x in second] == [[11.0, 11.0], [35.0, 35.0]]


@pytest.mark.usefixtures("fake_recording")
def test_inputs_are_copied():
    x = torch.zeros(2)
    recorded = Recorded(lambda y: (y + 1,), x)
    recorded(torch.ones(2))
    assert x.tolist() == [0, 0]


def test_tensors_of_the_function_live_as_long_as_the_recording(monkeypatch):
    # As a CUDA graph: a replay holds addresses, not the tensors.
    monkeypatch.setattr(speed, "_record", lambda function, _: (function(), lambda: None))
    monkeypatch.setattr(speed, "_check_devices", lambda _: None)

    def view_of(scene):
        return Recorded(lambda x: (x + scene,), torch.zeros(2))

    scene = torch.ones(2)
    alive = weakref.ref(scene)
    recorded = view_of(scene)
    del scene
    gc.collect()
    assert alive() is not None
    del recorded
    gc.collect()
    assert alive() is None


def arguments(value):
    return torch.full((2,), value), (torch.full((2,), value + 1), torch.full((2,), value + 2))


@pytest.mark.usefixtures("fake_recording")
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((torch.ones(3), (torch.ones(2), torch.ones(2))), r"input 0 .*\(3,\).*recorded was .*\(2"),
        ((torch.ones(2), (torch.ones(2), torch.ones(2).half())), "input 2 .*float16"),
        ((torch.ones(2), torch.ones(2)), "recorded for inputs"),
    ],
)
def test_inputs_unlike_the_recorded_ones_are_rejected(inputs, message):
    recorded = Recorded(lambda x, _: (x + 1,), *arguments(1.0))
    with pytest.raises(GraphError, match=message):
        recorded(*inputs)


def test_tensors_on_a_cpu_are_rejected():
    generator, z, label, _ = inputs()
    with pytest.raises(GraphError, match=r"input 0 of the graph is torch.float32 \(1, 64\) on cpu"):
        Recorded(generator, z, label)
    assert GraphError("").exit_code == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_returns_the_images_of_the_generator():
    generator, z, label, cameras = inputs("cuda")
    other = Cameras.on_sphere(torch.tensor([1.4]), torch.tensor([-0.2]), 3.2, focal=1.5).to("cuda")
    recorded = Recorded(generator, torch.zeros_like(z), label, other)
    with torch.no_grad():
        expected = generator(z, label, cameras)
        ws = generator.mapping(z, label)
        scene = generator.scene(ws)
    view = Recorded(lambda cameras: generator.render(scene, ws, cameras), other)
    for images in (recorded(z, label, cameras), view(cameras)):
        for name in ("image", "image_raw", "depth"):
            torch.testing.assert_close(
                getattr(images, name), getattr(expected, name), atol=1e-3, rtol=1e-3
            )
