"""All that a run is, to a checkpoint and back: networks, average, optimizers, augmentation."""

from pathlib import Path
from typing import Any

import torch

from lightning_gan3d import config as cfg
from lightning_gan3d.checkpoints import native, store
from lightning_gan3d.checkpoints.store import CheckpointError
from lightning_gan3d.checkpoints.stored import Network
from lightning_gan3d.experiment import ExperimentConfig
from lightning_gan3d.training.module import AdversarialModule

TRAINING = "training.pt"
"""Optimizers and augmentation: tensors and plain values, read with `weights_only`."""
_NETWORKS: dict[str, Network] = {
    "average": "generator",
    "generator": "generator_raw",
    "discriminator": "discriminator",
}


def save(module: AdversarialModule, config: ExperimentConfig, folder: Path, seconds: float) -> Path:
    """Write a checkpoint of the present step into the folder of checkpoints."""
    average = module.average

    def write(directory: Path) -> None:
        (directory / native.CONFIG).write_text(cfg.to_yaml(config), encoding="utf-8")
        for attribute, kind in _NETWORKS.items():
            tensors = getattr(module, attribute).state_dict()
            sizes = (average.resolution, average.rendering_resolution)
            native.save_network(directory, kind, tensors, *sizes)
        torch.save(module.training_state(), directory / TRAINING)

    about = {
        "kimg": module.images_seen / 1000,
        "seconds": seconds,
        "images_before": module.images_before,
        "hash": config.hash,
        "seed": config.seed,
        "threads": torch.get_num_threads(),
    }
    return store.save(folder, module.steps_done, write, about, config.training.keep_checkpoints)


def load(module: AdversarialModule, config: ExperimentConfig, path: Path) -> dict[str, Any]:
    """Continue from a checkpoint; return what it says of itself."""
    about = store.verify(path)
    if about["hash"] != config.hash:
        raise CheckpointError(
            f"{path} belongs to configuration {about['hash']}, not to {config.hash}; "
            "a changed configuration is another run: start it afresh"
        )
    for attribute, kind in _NETWORKS.items():
        tensors, _ = native.read_tensors(path / f"{kind}.safetensors")
        getattr(module, attribute).load_state_dict(tensors)
    state = torch.load(path / TRAINING, map_location="cpu", weights_only=True)
    module.load_training_state(state, about["step"])
    module.images_before = about["images_before"]
    return about
