"""Tests that every own representation needs."""

from pathlib import Path

import lightning
import torch
from cp_field import CP, Cp, CpConfig, CpField

from lightning_gan3d import load_experiment, make_modules
from lightning_gan3d.conformance import SCENE, check_field
from lightning_gan3d.contract import SceneConfig
from lightning_gan3d.data.synthetic.synth import SynthConfig, make_synth
from lightning_gan3d.networks.decoder import Decoder, DecoderConfig
from lightning_gan3d.registry import find

PRESET = Path(__file__).parent.parent / "cp_field.yaml"


def test_the_installed_entry_point_is_this_module():
    assert find("representations", "cp") == CP


def test_it_conforms_to_the_contract():
    check_field(CpConfig(resolution=8, components=6, hidden_dim=8))


def test_a_product_of_ramps_is_exact():
    ramp = (torch.arange(8) + 0.5) / 8 * 2 - 1
    scene = SceneConfig(box=0.5, decoder=DecoderConfig(num_layers=0))
    field = CpField(ramp.expand(1, 3, 1, 8), Decoder(scene.decoder, 1, 3), scene)
    points = (torch.rand(1, 20, 3) * 1.6 - 0.8) / 4  # the box spans [-1/4, 1/4]
    torch.testing.assert_close(field.features(points), (4 * points).prod(dim=-1, keepdim=True))


def test_memory_grows_linearly_with_the_resolution():
    def nbytes(resolution):
        cfg = CpConfig(resolution=resolution, components=6)
        return Cp(cfg, scene=SCENE, w_dim=16, resolution=64)(torch.randn(2, 1, 16)).nbytes

    assert nbytes(32) == 2 * nbytes(16) == 2 * 3 * 6 * 32 * 4


def test_two_steps_change_every_parameter(tmp_path):
    data = tmp_path / "tiny.zip"
    make_synth(SynthConfig(num_images=16, num_objects=8), data)
    module, images = make_modules(load_experiment(PRESET, [f"data.path={data}"]))
    network = module.generator.representation
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    ).fit(module, images)
    assert module.steps_done == 2
    assert [n for n, p in network.named_parameters() if torch.equal(p, before[n])] == []
