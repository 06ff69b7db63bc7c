"""State of a run: saving, resuming, and starting from other networks (fine-tuning)."""

import logging
import pickle
from pathlib import Path
from typing import Any

import torch

from lightning_gan3d import config as cfg
from lightning_gan3d import files, runs
from lightning_gan3d.checkpoints import load as networks
from lightning_gan3d.checkpoints import store, stored_networks
from lightning_gan3d.checkpoints.store import CheckpointError
from lightning_gan3d.checkpoints.stored_networks import NetworkKind, Stored, fill
from lightning_gan3d.config import ConfigError
from lightning_gan3d.experiment import ExperimentConfig
from lightning_gan3d.runs import write_config
from lightning_gan3d.training.module import AdversarialModule
from lightning_gan3d.training.processes import Session

log = logging.getLogger(__name__)
TRAINING = "training.pt"
"""Optimizers and augmentation: tensors and plain values, read with `weights_only`."""
_NETWORKS: dict[str, NetworkKind] = {
    "average": "generator",
    "generator": "generator_raw",
    "discriminator": "discriminator",
}


def save(module: AdversarialModule, config: ExperimentConfig, folder: Path, seconds: float) -> Path:
    """Write a checkpoint of the current step. `seconds`: training time so far."""
    average = module.average

    def write(directory: Path) -> None:
        write_config(directory, config)
        for attribute, kind in _NETWORKS.items():
            tensors = getattr(module, attribute).state_dict()
            sizes = (average.resolution, average.rendering_resolution)
            stored_networks.save_network(directory, kind, tensors, *sizes)
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


def restore(module: AdversarialModule, session: Session) -> tuple[float, dict[str, Any] | None]:
    """Load the session's checkpoint, the source of a fine-tuning, or nothing.

    Returns the training time so far in seconds, and the manifest's record of the source.
    """
    config = session.config
    record = runs.read_manifest(session.path).get("init_from")
    if session.checkpoint is not None:
        about = load(module, config, session.checkpoint)
        log.info("continuing from %g kimg (%s)", about["kimg"], session.checkpoint.name)
        threads = torch.get_num_threads()
        if about["threads"] != threads:
            log.info("resume is not bit-exact: %d CPU threads now, %d before", threads,
                     about["threads"])  # fmt: skip
        return float(about["seconds"]), record
    if config.init_from.path:
        return 0.0, initialise(module, config, record)
    return 0.0, None


def load(module: AdversarialModule, config: ExperimentConfig, path: Path) -> dict[str, Any]:
    """Restore a checkpoint; return its index."""
    about = store.verify(path)
    if about["hash"] != config.hash:
        raise CheckpointError(
            f"{path} has configuration {about['hash']}, not {config.hash}: a run cannot change its "
            "configuration; start a new one"
        )
    for attribute, kind in _NETWORKS.items():
        tensors, _ = stored_networks.read_tensors(path / f"{kind}.safetensors")
        getattr(module, attribute).load_state_dict(tensors)
    try:
        state = torch.load(path / TRAINING, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path / TRAINING} cannot be read ({type(error).__name__}): it holds other objects "
            "than tensors, or another version of torch wrote it"
        ) from None
    module.load_training_state(state, about["step"])
    module.images_before = about["images_before"]
    return about


def initialise(
    module: AdversarialModule, config: ExperimentConfig, record: dict[str, Any] | None
) -> dict[str, Any]:
    """Load the available ones of G, G_ema and D from `init_from`; log differing options.

    If only one of G and G_ema exists, it initialises both. Optimizers and augmentation start as in
    a new run, as with EG3D's `--resume`. Returns the manifest's record of the source; `record` is
    that of an earlier start of this run.
    """
    stored = read_source(config, module.generator.resolution)
    content = fingerprint(stored)
    if record is not None and record["content"] != content:
        raise ConfigError(
            f"init_from.path={config.init_from.path} has changed since this run started (content "
            f"{content}, before {record['content']}); restore it, or set another `name`"
        )
    for difference in differences(stored.config, config):
        log.info("init_from: %s", difference)
    average, raw = (stored.tensors.get(kind) for kind in ("generator", "generator_raw"))
    if average is None or raw is None:
        present, missing = ("G", "G_ema") if average is None else ("G_ema", "G")
        log.info("init_from: %s has no %s; using %s", stored.path, missing, present)
    sources = {
        "G_ema": (module.average, average or raw),
        "G": (module.generator, raw or average),
        "D": (module.discriminator, stored.tensors.get("discriminator")),
    }
    for name, (network, tensors) in sources.items():
        if tensors is None:
            log.info("init_from: %s has no %s; using random weights", stored.path, name)
            continue
        training = network.training
        fill(network, tensors)
        network.train(training).requires_grad_(name != "G_ema")
    if config.init_from.schedules == "keep":
        module.images_before = round(_source_kimg(config, stored) * 1000)
    log.info("starting from %s, schedules: %s", stored.path, config.init_from.schedules)
    return {
        "source": stored.path.name,
        "content": content,
        "step": stored.about.get("step"),
        "images_before": module.images_before,
    }


def read_source(config: ExperimentConfig, resolution: int) -> Stored:
    """Read the networks of `init_from`; reject any that do not fit the configuration."""
    init = config.init_from
    stored = networks.read_networks(
        Path(init.path), ["generator", "generator_raw", "discriminator"]
    )
    if not {"generator", "generator_raw"} & stored.tensors.keys():
        raise ConfigError(f"init_from.path={init.path}: contains no generator")
    if stored.resolution != resolution:
        raise ConfigError(
            f"init_from.path={init.path}: its images have {stored.resolution} pixels, the data "
            f"{resolution}; prepare the data at {stored.resolution}"
        )
    if init.schedules == "keep":
        _source_kimg(config, stored)
    for kind in stored.tensors:
        stored.check(kind, config)
    return stored


def _source_kimg(config: ExperimentConfig, stored: Stored) -> float:
    about, kimg = stored.about, config.init_from.kimg
    if kimg is None and "kimg" in about:
        kimg = about["kimg"] + about.get("images_before", 0) / 1000
    if kimg is None:
        raise ConfigError(
            f"init_from.schedules=keep: {stored.path} has no record of its training images; set "
            "init_from.kimg, e.g. 25000"
        )
    return float(kimg)


def fingerprint(stored: Stored) -> str:
    """Hash the networks' tensors: 16 hexadecimal digits, equal for a pickle and its import."""
    tensors = {f"{kind}/{k}": v for kind, part in stored.tensors.items() for k, v in part.items()}
    return files.sha256_of_tensors(tensors)[:16]


def differences(source: ExperimentConfig, config: ExperimentConfig) -> list[str]:
    """List the options of the networks that differ from those of the source."""
    notes = []
    for part in ("generator", "discriminator"):
        old = _flat(cfg.to_tree(getattr(source, part)), part)
        new = _flat(cfg.to_tree(getattr(config, part)), part)
        notes += [
            f"{key} was {old.get(key)}, now {new.get(key)}"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
    return notes


def _flat(tree: Any, path: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {k: v for key, value in tree.items() for k, v in _flat(value, f"{path}.{key}").items()}
