import pytest
import torch

from lightning_gan3d.draws import Draws
from lightning_gan3d.networks.synthesis import Synthesis2d, SynthesisConfig
from lightning_gan3d.training.fit import compile_networks, train_run
from lightning_gan3d.training.module import AdversarialModule
from lightning_gan3d.training.signals import Interrupted


@pytest.fixture(autouse=True)
def plain_draws(monkeypatch):
    """Restore the class."""
    for name in ("scope", "at", "generator", "uniform", "normal", "integers"):
        monkeypatch.setattr(Draws, name, getattr(Draws, name))


def test_the_discriminator_is_not_compiled(tiny, tmp_path, monkeypatch):
    compiled = []

    def note(part, backend):
        assert backend == "inductor"
        compiled.append(part)

    def caught(self, *_, **__):
        trained.append(self)
        raise Interrupted

    trained = []
    monkeypatch.setattr(torch.nn.Module, "compile", note)
    monkeypatch.setattr(AdversarialModule, "training_step", caught)
    with pytest.raises(Interrupted):
        train_run(tiny("training.compile=true"), tmp_path / "runs")
    generator, discriminator = trained[0].generator, trained[0].discriminator
    for part in ("mapping", "representation.synthesis", "superresolution"):
        assert any(m is generator.get_submodule(part) for m in compiled)
    others = [*discriminator.modules(), generator, generator.representation, generator.renderer]
    assert not any(m is c for m in others for c in compiled)


def test_steps_share_their_graphs():
    torch.manual_seed(0)
    network = Synthesis2d(SynthesisConfig(channels=(4,)), 8, 4, 3)
    network.b4.conv1.noise_strength.data.fill_(1.0)
    ws, draws = torch.randn(2, network.num_ws, 8), [Draws(0).at(step) for step in range(3)]
    with torch.no_grad():
        expected = [network(ws, "random", d) for d in draws]
        torch._dynamo.reset()
        compile_networks(network, backend="eager")
        graphs = []
        for d, image in zip(draws, expected, strict=True):
            torch.testing.assert_close(network(ws, "random", d), image)
            graphs.append(sum(torch._dynamo.utils.counters["frames"].values()))
    assert not torch.equal(expected[0], expected[1])
    assert graphs[0] > 0
    assert graphs == [graphs[0]] * 3


def test_a_plug_in_can_request_compilation():
    from lightning_gan3d.contract import SceneConfig
    from representations.nerf_mlp import NerfMlp, NerfMlpConfig

    torch.manual_seed(0)
    mlp = NerfMlp(NerfMlpConfig(hidden_dim=8, num_layers=2), SceneConfig(feature_dim=3), 8, 16)
    ws, points = torch.randn(2, mlp.num_ws, 8), torch.rand(2, 50, 3) - 0.5
    expected = mlp(ws)(points)
    torch._dynamo.reset()
    compile_networks(mlp, backend="aot_eager")
    leaf = ws.clone().requires_grad_()
    field = mlp(leaf)
    for num in (50, 30):  # chunks differ in length
        for a, b in zip(field(points[:, :num]), expected, strict=True):
            torch.testing.assert_close(a, b[:, :num])
    field(points).feature.sum().backward()
    assert sum(torch._dynamo.utils.counters["frames"].values()) > 0
    assert leaf.grad.abs().sum() > 0
