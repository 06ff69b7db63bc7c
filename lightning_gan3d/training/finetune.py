"""Fine-tuning: start from networks that were trained before, ours or NVIDIA's."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lightning_gan3d import config as cfg
from lightning_gan3d.checkpoints import load
from lightning_gan3d.checkpoints.stored import Stored, fill
from lightning_gan3d.config import ConfigError
from lightning_gan3d.experiment import ExperimentConfig
from lightning_gan3d.training.module import AdversarialModule

_PARTS = ("generator", "discriminator")


def check_init(config: ExperimentConfig, resolution: int) -> None:
    """Refuse a source that is not there, or whose networks are not those of the configuration."""
    _read(config, resolution)


def initialise(
    module: AdversarialModule,
    config: ExperimentConfig,
    began: dict[str, Any] | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Load G, its average and D, as far as the source holds them, and say what differs.

    A source without G (an export of the average alone) gives the average for both, one without the
    average gives G. Optimizers and augmentation start afresh, as with EG3D's `--resume`. Returns
    what a manifest says of the source; `began` is what it said when the run began, if it did.
    """
    stored = _read(config, module.generator.resolution)
    content = fingerprint(stored)
    if began is not None and began["content"] != content:
        raise ConfigError(
            f"init_from.path={config.init_from.path} is not what this run began with (content "
            f"{content}, then {began['content']}); restore it, or give another `name`"
        )
    for note in differences(stored.config, config):
        say(f"init_from: {note}")
    average, raw = (stored.tensors.get(kind) for kind in ("generator", "generator_raw"))
    if average is None or raw is None:
        have, lack = ("G", "G_ema") if average is None else ("G_ema", "G")
        say(f"init_from: {stored.path} holds no {lack}; it starts from {have}")
    networks = {
        "G_ema": (module.average, average or raw),
        "G": (module.generator, raw or average),
        "D": (module.discriminator, stored.tensors.get("discriminator")),
    }
    for name, (network, tensors) in networks.items():
        if tensors is None:
            say(f"init_from: {stored.path} holds no {name}; it starts from the seed")
            continue
        training = network.training
        fill(network, tensors)
        network.train(training).requires_grad_(name != "G_ema")
    if config.init_from.schedules == "keep":
        module.images_before = round(_kimg(config, stored) * 1000)
    say(f"starting from {stored.path}, schedules: {config.init_from.schedules}")
    return {
        "source": stored.path.name,
        "content": content,
        "step": stored.about.get("step"),
        "images_before": module.images_before,
    }


def fingerprint(stored: Stored) -> str:
    """Return 16 hexadecimal digits of the networks' tensors, equal for a pickle and its export."""
    digest = hashlib.sha256()
    for kind in sorted(stored.tensors):
        for name, tensor in sorted(stored.tensors[kind].items()):
            digest.update(f"{kind}\0{name}\0{tuple(tensor.shape)}\n".encode())
            # By bytes: NumPy has no bfloat16.
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def differences(source: ExperimentConfig, config: ExperimentConfig) -> list[str]:
    """What of the networks and the rendering is configured otherwise than in the source."""
    notes = []
    for part in _PARTS:
        there = _flat(cfg.to_tree(getattr(source, part)), part)
        here = _flat(cfg.to_tree(getattr(config, part)), part)
        notes += [
            f"{key} was {there.get(key)}, now {here.get(key)}"
            for key in sorted(there.keys() | here.keys())
            if there.get(key) != here.get(key)
        ]
    return notes


def _flat(tree: Any, path: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {k: v for key, value in tree.items() for k, v in _flat(value, f"{path}.{key}").items()}


def _read(config: ExperimentConfig, resolution: int) -> Stored:
    init = config.init_from
    stored = load.read_networks(Path(init.path), ["generator", "generator_raw", "discriminator"])
    if not {"generator", "generator_raw"} & stored.tensors.keys():
        raise ConfigError(f"init_from.path={init.path}: it holds no generator")
    if stored.resolution != resolution:
        raise ConfigError(
            f"init_from.path={init.path}: it makes images of {stored.resolution}, the data have "
            f"{resolution} pixels; prepare the data at {stored.resolution}"
        )
    if init.schedules == "keep":
        _kimg(config, stored)
    for kind in stored.tensors:
        stored.check(kind, config)
    return stored


def _kimg(config: ExperimentConfig, stored: Stored) -> float:
    about, known = stored.about, config.init_from.kimg
    if known is None and "kimg" in about:
        known = about["kimg"] + about.get("images_before", 0) / 1000
    if known is None:
        raise ConfigError(
            f"init_from.schedules=keep: {stored.path} does not say how many images it has seen; "
            "give init_from.kimg, e.g. 25000"
        )
    return float(known)
