"""Frozen parts keep their bits, in training, averages and optimizers; the others move."""

import pytest
import torch

from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.datamodule import DataModule
from lightning_gan3d.training import checkpoint
from lightning_gan3d.training.checkpoint import initialise
from lightning_gan3d.training.fit import plan
from lightning_gan3d.training.module import AdversarialModule

FREEZE = "training.freeze=[mapping, representation.decoder, discriminator.b16]"
PREFIXES = ("mapping.", "representation.decoder.")
LAZY = ("loss.density_reg=0.1", "loss.density_reg_interval=2")


def state(network):
    return {k: v.clone() for k, v in network.state_dict().items()}


def moved(before, network):
    """Names of the values that have changed."""
    return {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}


def module_of(config):
    data = DataModule(config.data, 8, 8, config.seed)
    return AdversarialModule(config, 16, data.train.labels), data


def steps(module, data, count):
    for _, batch in zip(range(count), data.train_dataloader(0, 1), strict=False):
        module.training_step(batch, 0)


def test_frozen_parts_stay_bitwise_equal_and_the_others_move(tiny):
    module, data = module_of(tiny(FREEZE, *LAZY))
    before = [state(n) for n in (module.generator, module.average, module.discriminator)]
    steps(module, data, 3)
    g, average, d = map(moved, before, (module.generator, module.average, module.discriminator))
    for names in (g, average):
        assert not any(name.startswith(PREFIXES) for name in names)  # with w_avg
        assert {k.split(".")[1] for k in names} >= {"synthesis"}
    assert not any(name.startswith("b16.") for name in d)
    assert {name.split(".")[0] for name in d} == {"b8", "b4", "mapping"}
    networks = (module.generator, module.discriminator)
    for network, optimizer in zip(networks, module.configure_optimizers(), strict=True):
        frozen = [p for p in network.parameters() if not p.requires_grad]
        assert frozen
        assert all(p.grad is None and p not in optimizer.state for p in frozen)


def test_a_part_of_the_mapping_leaves_its_mean_to_follow(tiny):
    module, data = module_of(tiny("training.freeze=[mapping.fc0]"))
    before = state(module.generator)
    steps(module, data, 1)
    names = moved(before, module.generator)
    assert "mapping.w_avg" in names
    assert not any(name.startswith("mapping.fc0.") for name in names)


@pytest.mark.parametrize("views", [1, 2])
def test_a_penalty_of_frozen_parts_alone_is_skipped(tiny, views):
    options = (
        f"training.views={views}",
        "generator.superresolution={factor: 2, channels: [4, 4]}",
        *LAZY,
    )
    module, data = module_of(tiny("training.freeze=[mapping, representation]", *options))
    before = state(module.generator)
    steps(module, data, 2)
    assert {name.split(".")[0] for name in moved(before, module.generator)} == {"superresolution"}


def test_a_fine_tuning_keeps_the_frozen_parts_of_its_source(tiny, train, tmp_path):
    source = train(tiny("seed=5"), 2)
    with torch.no_grad():
        source.average.mapping.fc0.weight.add_(0.5)
    checkpoint.save(source, tiny("seed=5"), tmp_path / "source" / "checkpoints", 1.0)
    config = tiny(FREEZE, f"init_from.path={tmp_path / 'source'}")
    module, data = module_of(config)
    initialise(module, config, None)
    before = state(module.generator), state(module.average), state(module.discriminator)
    assert not torch.equal(before[0]["mapping.fc0.weight"], before[1]["mapping.fc0.weight"])
    steps(module, data, 2)
    for values, network in zip(before[:2], (module.generator, module.average), strict=True):
        names = moved(values, network)
        assert names
        assert not any(name.startswith(PREFIXES) for name in names)
    assert not any(name.startswith("b16.") for name in moved(before[2], module.discriminator))


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ("[maping]", "no `maping`; use representation, mapping, discriminator.b16, discrim"),
        ("[map]", "no `map`; use"),
        ("[discriminator.b99]", "no `discriminator.b99`; use"),
        ("[renderer]", "no `renderer`; use"),
        ("[mapping, representation]", "leaves no part of the generator"),
        ("[discriminator]", "leaves no part of the discriminator"),
    ],
)
def test_unknown_parts_and_nothing_to_train_are_rejected_before_the_start(tiny, parts, text):
    with pytest.raises(ConfigError, match=r"training\.freeze.*" + text):
        plan(tiny(f"training.freeze={parts}"))
