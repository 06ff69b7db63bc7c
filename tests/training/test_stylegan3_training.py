"""Training of StyleGAN3: the running magnitudes follow the discriminator's steps."""

import pytest
import torch

from lightning_gan3d.networks.stylegan3 import MAGNITUDE_HALF_LIFE

NETWORK = (
    "generator.representation.network=stylegan3-t",
    "generator.representation.stylegan3={num_layers: 2, num_critical: 1, channel_max: 8}",
)


@pytest.fixture
def config(tiny):
    return lambda *overrides: tiny(*NETWORK, *overrides, kind="image2d")


def magnitudes(module):
    state = module.generator.state_dict()
    return torch.stack([x for name, x in state.items() if name.endswith("magnitude_ema")])


def test_magnitudes_follow_the_global_batch_of_any_microbatches(config, train):
    module = train(config("training.microbatch=4"), 0)
    from lightning_gan3d.data.datamodule import DataModule

    data = DataModule(module.config.data, 8, 4, module.config.seed)
    data.set_start_step(0)
    microbatches = module.split(next(iter(data.train_dataloader(0, 1))))
    expected = []
    for mb in [m.scope("D") for m in microbatches]:
        with module.magnitudes.recorded() as squares:
            module.generate(module.fake_labels(mb), mb)
        expected.append(torch.cat(squares))
    assert torch.equal(magnitudes(module), torch.ones(3))
    module.generator_step(microbatches)
    assert torch.equal(magnitudes(module), torch.ones(3))
    with torch.no_grad():  # the generator that `expected` saw
        module.generator.load_state_dict(module.average.state_dict())
    module.discriminator_step(microbatches)
    decay = 0.5 ** (8 / MAGNITUDE_HALF_LIFE)
    mean = torch.stack(expected).mean(0)
    torch.testing.assert_close(magnitudes(module), torch.lerp(mean, torch.ones(3), decay))


def test_a_gradient_that_is_not_finite_stops_the_magnitudes(config, train):
    module = train(config(), 1)
    before = magnitudes(module)
    assert not torch.equal(before, torch.ones(3))
    module.gate.observe(torch.tensor(float("nan")), "D loss", 1)
    squares = torch.full([3], 5.0)
    module.magnitudes.update(squares, 8, module.gate.healthy)
    assert torch.equal(magnitudes(module), before)


def test_a_resumed_run_continues_with_the_magnitudes(config, resumed):
    whole, _, again = resumed(config())
    for (name, a), b in zip(
        whole.generator.state_dict().items(), again.generator.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    assert not torch.equal(magnitudes(again), torch.ones(3))
    state = again.average.state_dict()
    copies = [x for name, x in state.items() if name.endswith("magnitude_ema")]
    assert torch.equal(torch.stack(copies), magnitudes(again))
