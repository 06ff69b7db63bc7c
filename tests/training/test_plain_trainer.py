"""The modules work with a plain `lightning.Trainer`."""

import lightning
import pytest
import torch
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


def test_a_plain_trainer_trains_logs_and_resumes_bit_exactly(tiny, tmp_path):
    config = tiny()
    module, data = make_modules(config)
    start = weights(module).clone()
    logger = CSVLogger(tmp_path, name="", version="")
    trainer = lightning.Trainer(
        **QUIET,
        logger=logger,
        log_every_n_steps=2,
        callbacks=lightning.pytorch.callbacks.ModelCheckpoint(
            tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}"
        ),
    )
    trainer.fit(module, data)
    assert module.steps_done == 8
    assert not torch.equal(weights(module), start)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert {"loss/G", "loss/D", "D/accuracy"} <= set(rows[0].split(","))
    assert len(rows) == 1 + 4

    trainer.save_checkpoint(tmp_path / "end.ckpt")
    first, data = make_modules(config)
    part = lightning.Trainer(**(QUIET | {"limit_train_batches": 3}), logger=False)
    part.fit(first, data)
    part.save_checkpoint(tmp_path / "part.ckpt")
    again, data = make_modules(config)
    rest = lightning.Trainer(**(QUIET | {"max_epochs": 2, "limit_train_batches": 5}), logger=False)
    rest.fit(again, data, ckpt_path=tmp_path / "part.ckpt")
    assert again.steps_done == 8
    assert torch.equal(weights(again), weights(module))


def test_a_gradient_that_is_not_finite_stops_a_plain_trainer(tiny, tmp_path):
    module, data = make_modules(tiny())
    module.discriminator.requires_grad_(True)
    next(module.discriminator.parameters()).register_hook(lambda g: g * torch.nan)
    trainer = lightning.Trainer(
        **QUIET, logger=CSVLogger(tmp_path), log_every_n_steps=1, enable_checkpointing=False
    )
    with pytest.raises(
        NonFiniteGradient, match="the gradient of the D loss is not finite in step 0"
    ):
        trainer.fit(module, data)
