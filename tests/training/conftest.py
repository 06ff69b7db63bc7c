import os
import signal

import pytest
import torch

from lightning_gan3d.data.datamodule import DataModule
from lightning_gan3d.data.synthetic.synth import SynthConfig, make_synth
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.runs import run_path
from lightning_gan3d.training import checkpoint
from lightning_gan3d.training import module as module_file
from lightning_gan3d.training.checkpoint import prepare as prepare_run
from lightning_gan3d.training.fit import train_run
from lightning_gan3d.training.module import AdversarialModule

TINY = """
name: tiny
data: {path: %s}
generator:
  z_dim: 8
  w_dim: 8
  mapping: {lr_mul: 1.0, condition: none}
  scene:
    box: 2.0
    feature_dim: 3
    decoder: {hidden_dim: 8, activation: lrelu}
    density: {scale: 10.0, prior_strength: 4.0, prior_radius: 0.85}
discriminator: {channels: [8, 8, 8], dual: false, mapping_layers: 1, unconditional_term: true}
loss: {r1_gamma: 0.5, r1_interval: 2}
training:
  kimg: 0.064
  batch: 8
  threads: 1
  device: cpu
  log_kimg: 0.016
  sample_kimg: 0
  snapshot_kimg: 0.032
  rendering_resolution: {initial: 8, final: 16, start_kimg: 0.032, fade_kimg: 0}
logging: {sample_latents: 2, sample_views: 2}
"""
PARTS = {
    "triplane": """
  representation: {kind: triplane, resolution: 16, channels: 4, synthesis: {channels: [8, 8, 8]}}
  renderer: {kind: volume, samples_coarse: 4, samples_fine: 0, background: 1.0}
""",
    "solid": """
  representation: {kind: solid, resolution: 16, colour: white, synthesis: {channels: [8, 8, 8]}}
  renderer: {kind: proxied, exact: {kind: raster}, proxy: {kind: soft}}
""",
    "splats": """
  representation: {kind: splats, resolution: 16, synthesis: {channels: [8, 8, 8]}}
  renderer: {kind: splat, background: 1.0}
""",
    "image2d": """
  representation: {kind: image2d, output: sigmoid, synthesis: {channels: [8, 8, 8]}}
  renderer: {kind: picture}
""",
}


@pytest.fixture(scope="session")
def data_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "tiny.zip"
    make_synth(SynthConfig(num_images=32, num_objects=16, resolution=16), path)
    return path


@pytest.fixture
def tiny(data_path, tmp_path):
    """A function from overrides to an experiment: 8 steps of 8 images of 16 pixels."""

    def make(*overrides, kind="triplane"):
        file = tmp_path / f"{kind}.yaml"
        text = (TINY % data_path).replace("generator:", "generator:" + PARTS[kind].rstrip(), 1)
        if kind == "image2d":
            text = text.replace("condition: none", "condition: camera")
        file.write_text(text)
        return load_experiment(file, overrides)

    return make


@pytest.fixture
def start(tmp_path, caplog):
    """A function that runs an experiment: returns exit code, run directory and log."""

    def run(config, root="runs", prepare=prepare_run):
        caplog.clear()
        caplog.set_level("INFO", "lightning_gan3d")
        command = ["gan3d", "train"]
        code = train_run(config, tmp_path / root, prepare, command, evaluate=False)
        return code, run_path(config, tmp_path / root), "\n".join(caplog.messages)

    return run


@pytest.fixture
def at_step(monkeypatch):
    """A function that schedules an action between the G and the D step of a step; None: never."""
    genuine = AdversarialModule.discriminator_step

    def when(step, action=lambda _: os.kill(os.getpid(), signal.SIGINT)):
        def hooked(self, microbatches):
            if microbatches[0].schedule.step == step:
                action(self)
            genuine(self, microbatches)

        monkeypatch.setattr(AdversarialModule, "discriminator_step", hooked)

    return when


@pytest.fixture
def train():
    """A function that trains without Lightning and returns the module."""

    def run(config, steps=2, first=0):
        data = DataModule(
            config.data, config.training.batch, config.training.microbatch_size, config.seed
        )
        module = AdversarialModule(config, data.train.resolution, data.train.labels)
        data.set_start_step(first)
        for _, batch in zip(range(steps), data.train_dataloader(0, 1), strict=False):
            module.training_step(batch, 0)
        return module

    return run


@pytest.fixture
def resumed(train, tmp_path):
    """A function that trains 4 steps, 2 steps, and 2 more from a checkpoint of these."""

    def run(config):
        whole, half = train(config, 4), train(config, 2)
        checkpoint.save(half, config, tmp_path, 1.0)
        data = DataModule(config.data, 8, 8, 0)
        module = AdversarialModule(config, 16, data.train.labels)
        checkpoint.load(module, config, next(tmp_path.glob("step*")))
        data.set_start_step(2)
        for _, batch in zip(range(2), data.train_dataloader(0, 1), strict=False):
            module.training_step(batch, 0)
        return whole, half, module

    return run


@pytest.fixture
def numbers():
    """A function from a module to all its weights and buffers, as one vector."""

    def flat(module):
        networks = (module.generator, module.discriminator, module.average)
        return torch.cat([t.flatten().float() for n in networks for t in n.state_dict().values()])

    return flat


@pytest.fixture(autouse=True)
def _handle_ctrl_c():
    """Restore the default handler: a background process ignores Ctrl-C, and so would training."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def gradients(monkeypatch):
    """The gradient of each optimizer step, in order; the steps themselves are skipped."""
    collected = []

    def skip(optimizer, *_):
        parameters = optimizer.param_groups[0]["params"]
        collected.append([None if p.grad is None else p.grad.clone() for p in parameters])
        optimizer.zero_grad()

    monkeypatch.setattr(module_file, "gated_step", skip)
    return collected
