"""The modules work with a plain `lightning.Trainer`."""

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

import lightning_gan3d
from lightning_gan3d import make_modules
from lightning_gan3d.training.optimizers import NonFiniteGradient

QUIET = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "max_epochs": 1,
    "limit_train_batches": 8,
}


def test_all_public_names_exist():
    for name in lightning_gan3d.__all__:
        assert getattr(lightning_gan3d, name) is not None


def weights(module):
    return torch.cat([p.flatten() for p in module.average.parameters()])


def test_a_plain_trainer_trains_logs_saves_and_resumes_bit_exactly(tiny, tmp_path):
    config = tiny()
    module, data = make_modules(config)
    start = weights(module).clone()
    saves = ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1, filename="{step}")
    trainer = lightning.Trainer(
        **QUIET, logger=CSVLogger(tmp_path, "", ""), log_every_n_steps=2, callbacks=saves
    )
    trainer.fit(module, data)
    assert (module.steps_done, trainer.global_step) == (8, 8)
    assert not torch.equal(weights(module), start)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert {"loss/G", "loss/D", "D/accuracy"} <= set(rows[0].split(","))
    assert len(rows) == 1 + 4
    assert {p.name for p in tmp_path.glob("*.ckpt")} == {"step=3.ckpt", "step=6.ckpt"}

    again, data = make_modules(config)
    rest = lightning.Trainer(**QUIET, logger=False)
    rest.fit(again, data, ckpt_path=tmp_path / "step=3.ckpt")
    assert again.steps_done == 8
    assert torch.equal(weights(again), weights(module))


def test_epochs_continue_with_the_next_images(tiny):
    module, data = make_modules(tiny())
    steps = []
    step_of = module.training_step

    def counted(batch, batch_idx):
        steps.append(batch.step)
        step_of(batch, batch_idx)

    module.training_step = counted
    quiet = QUIET | {"max_epochs": 2, "limit_train_batches": 3}
    lightning.Trainer(**quiet, logger=False, enable_checkpointing=False).fit(module, data)
    assert steps == list(range(6))


@pytest.mark.parametrize("every", [1, 50])
def test_a_gradient_that_is_not_finite_stops_a_plain_trainer(tiny, every):
    module, data = make_modules(tiny())
    next(module.discriminator.parameters()).register_hook(lambda g: g * torch.nan)
    trainer = lightning.Trainer(
        **QUIET, logger=False, log_every_n_steps=every, enable_checkpointing=False
    )
    with pytest.raises(NonFiniteGradient, match="of the D loss is not finite in step 0"):
        trainer.fit(module, data)
