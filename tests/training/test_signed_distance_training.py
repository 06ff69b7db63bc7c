"""Training with `density.activation=sdf`: beta learns, is averaged, stored and restored."""

import pytest
import torch

from lightning_gan3d.checkpoints.load import load_generator
from lightning_gan3d.config import ConfigError

SDF = ("generator.scene.density.activation=sdf", "loss.density_reg=0")


@pytest.mark.parametrize("views", [1, 2])
def test_beta_learns_and_is_averaged(tiny, train, views):
    module = train(tiny(*SDF, "training.ema_rampup=null", f"training.views={views}"), steps=2)
    start, learnt = train(tiny(*SDF), steps=0).generator, module.generator
    before, after = (float(g.representation.log_beta.detach()) for g in (start, learnt))
    average = float(module.average.representation.log_beta)
    assert after != before
    assert min(before, after) < average < max(before, after)
    state = module.optimizer_g.state[learnt.representation.log_beta]
    assert state["step"] == 2
    assert "G/beta" in module.meter.read()


def test_differences_of_a_distance_are_not_penalised(tiny):
    with pytest.raises(ConfigError, match=r"flattens a signed distance; .*kind: eikonal"):
        tiny(*SDF, "loss.density_reg=0.1")


def test_a_checkpoint_holds_beta(tiny, start):
    code, run, log = start(tiny(*SDF))
    assert code == 0
    assert "density.activation=sdf; the kernels have no signed distance" in log
    generator = load_generator(run)
    assert generator.cfg.scene.density.activation == "sdf"
    beta = generator.representation.sdf_beta(1)
    assert 0.05 < float(beta) < 0.2
    assert float(beta) != pytest.approx(0.1, abs=1e-6)
    scene = generator.scene(torch.zeros(1, generator.representation.num_ws, 8))
    torch.testing.assert_close(scene.sdf_beta, beta)
