"""State of a run: saving, resuming, fine-tuning other networks, extending a shorter run."""

import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

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
from lightning_gan3d.training.schedules import learning_rate_factor

log = logging.getLogger(__name__)
TRAINING = "training.pt"
"""Optimizers and augmentation: tensors and plain values, read with `weights_only`."""
LEVELS = "fromrgb."
"""Layers of a discriminator that read images of lower levels of growing; not those of blocks."""
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
            sizes = stored_networks.sizes_of(average)
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


def restore(module: AdversarialModule, session: Session) -> tuple[float, dict[str, Any]]:
    """Load the session's checkpoint, the source of a fine-tuning, or nothing.

    Returns the training time so far in seconds, and the manifest's records of sources.
    """
    config, manifest = session.config, runs.read_manifest(session.path)
    records = {k: v for k, v in manifest.items() if k in ("init_from", "extends", "reproduces")}
    if session.checkpoint is not None:
        about = load(module, config, session.checkpoint)
        log.info("continuing from %g kimg (%s)", about["kimg"], session.checkpoint.name)
        threads = torch.get_num_threads()
        if about["threads"] != threads:
            log.info("resume is not bit-exact: %d CPU threads now, %d before", threads,
                     about["threads"])  # fmt: skip
        return float(about["seconds"]), records
    if config.init_from.path:
        records["init_from"] = initialise(module, config, records.get("init_from"))
    return 0.0, records


def load(module: AdversarialModule, config: ExperimentConfig, path: Path) -> dict[str, Any]:
    """Restore a checkpoint; return its index."""
    about = store.verify(path)
    if missing := {"step", "kimg", "seconds", "threads", "images_before", "hash"} - about.keys():
        raise CheckpointError(f"{path}: no {min(missing)} in {store.INDEX}; use an earlier one")
    if about["hash"] != config.hash:
        raise CheckpointError(
            f"{path} has configuration {about['hash']}, not {config.hash}: a run cannot change its "
            "configuration; start a new one"
        )
    file = TRAINING
    try:
        state = torch.load(path / TRAINING, map_location="cpu", weights_only=True)
        module.load_training_state(state, about["step"])
        for attribute, kind in _NETWORKS.items():
            file = f"{kind}.safetensors"
            tensors, _ = stored_networks.read_tensors(path / file)
            getattr(module, attribute).load_state_dict(tensors)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a file that was changed and sealed again can raise anything
        raise CheckpointError(
            f"{path / file} cannot be read ({type(error).__name__}: {error}): it holds other "
            "objects than those of this run, or another version of torch wrote it"
        ) from None
    module.images_before = about["images_before"]
    return about


def prepare(
    config: ExperimentConfig, path: Path, how: Literal["start", "resume", "extend"] = "start"
) -> None:
    """Check that a run may start as asked; extend a shorter one, or log that there is one."""
    if (path / runs.CONFIG).is_file():
        if how == "extend" and "extends" not in runs.read_manifest(path):
            raise ConfigError(f"{path}: started from scratch; remove --extend to continue it")
        return
    shorter = _shorter_run(config, path)
    if how == "resume":
        hint = f", or use --extend to continue {shorter}" if shorter else ""
        raise ConfigError(f"{path}: no such run to resume; remove --resume to start it{hint}")
    if how == "start":
        if shorter is not None:
            log.info("%s differs only by a lower training.kimg; to extend it, stop this run, "
                     "remove %s and add --extend", shorter, path)  # fmt: skip
        return
    if shorter is None:
        raise ConfigError(
            f"--extend: {path.parent} has no finished run of seed {config.seed} that is shorter "
            f"than training.kimg={config.training.kimg:g} and equal otherwise; remove --extend to "
            "start one"
        )
    if config.trainer.num_nodes > 1:
        raise ConfigError(
            f"--extend: trainer.num_nodes={config.trainer.num_nodes}: use 1, stop the run, and "
            "continue it on several nodes"
        )
    note = copy_state(shorter, config, path)["note"]
    log.info("extending %s, with optimizers, averages and augmentation", shorter)
    if note:
        log.warning("warning: %s", note)


def _shorter_run(config: ExperimentConfig, path: Path) -> Path | None:
    """The longest finished run beside `path` that has fewer steps, and is equal otherwise."""
    lengths = {}
    for file in path.parent.glob(f"*-s{config.seed}/{runs.CONFIG}"):
        # One line instead of the configuration: a sweep has hundreds.
        kimg = re.search(
            r"\ntraining:\n  kimg: (\d+(\.\d*)?(e[+-]?\d+)?)\n", file.read_text(errors="replace")
        )
        training = replace(config.training, kimg=float(kimg[1]) if kimg else 0.0)
        run = runs.run_path(replace(config, training=training), path.parent.parent)
        fewer = training.num_steps < config.training.num_steps
        if fewer and run == file.parent and runs.Run(run).finished:
            lengths[run] = training.num_steps
    return max(lengths, key=lambda run: lengths[run], default=None)


def copy_state(source: Path, config: ExperimentConfig, path: Path) -> dict[str, Any]:
    """Start a longer run from checkpoint and rows of `source`; return the manifest's record."""
    newest, manifest = store.newest(source / "checkpoints", log.warning), runs.read_manifest(source)
    if newest is None:
        raise CheckpointError(f"{source}: has no checkpoint to start from")
    about, training, optimizer = store.read_index(newest), config.training, config.optimizer

    def write(folder: Path) -> None:
        for name in about["files"]:
            shutil.copy(newest / name, folder)
        write_config(folder, config)

    index = {**about, "hash": config.hash}
    store.save(path / "checkpoints", about["step"], write, index, training.keep_checkpoints)
    shutil.copy(source / runs.METRICS, path)  # `fit` drops later rows
    notes = [manifest.get("extends", {}).get("note", "")]
    if optimizer.decay_start < 1 and optimizer.decay_to < 1:  # shares of the length
        images, total = (n * training.batch for n in (about["step"] + 1, training.num_steps))
        notes.append(
            f"not equal to {training.kimg:g} kimg from scratch: the learning rates, which had "
            f"decayed by {about['kimg']:g} kimg (optimizer.decay_start), continue at "
            f"{learning_rate_factor(optimizer, images, total):.3g} of the initial ones"
        )
    record = {
        "run": source.name,
        "kimg": about["kimg"],
        "content": about["files"][TRAINING]["sha256"],
        "note": "; ".join(filter(None, notes)),
    }
    keys = "dataset_fingerprint", "boxes_fingerprint", "init_from", "critic"
    kept = {k: manifest[k] for k in keys if k in manifest}
    files.write_json(path / runs.MANIFEST, {**kept, "extends": record})
    return record


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
        training, trained = network.training, [p for p in network.parameters() if p.requires_grad]
        own = network.state_dict()
        for key in sorted(own.keys() ^ tensors.keys()):  # `read_source` checked the others
            what = "starts at random" if key in own else "is not used"
            log.info("init_from: layer of a level of growing: %s's %s %s", name, key, what)
        fill(network, {key: tensors.get(key, value) for key, value in own.items()})
        network.train(training)
        for p in trained:
            p.requires_grad_(True)
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
        stored.check(kind, config, (LEVELS,) if kind == "discriminator" else ())
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
        old = flat(cfg.to_tree(getattr(source, part)), part)
        new = flat(cfg.to_tree(getattr(config, part)), part)
        notes += [
            f"{key} was {old.get(key)}, now {new.get(key)}"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
    return notes


def flat(tree: Any, path: str) -> dict[str, Any]:
    """Return the leaves of a tree by their dotted paths below `path`."""
    if not isinstance(tree, dict):
        return {path: tree}
    return {k: v for key, value in tree.items() for k, v in flat(value, f"{path}.{key}").items()}
