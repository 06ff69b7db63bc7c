"""One run from its configuration to its exit code."""

import logging
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from lightning_gan3d import devices, files, runs
from lightning_gan3d.checkpoints import store
from lightning_gan3d.config import ConfigError, UserError
from lightning_gan3d.data.datamodule import DataModule
from lightning_gan3d.experiment import ExperimentConfig, load_experiment
from lightning_gan3d.training import checkpoint, distributed, launch
from lightning_gan3d.training.callbacks import BrokenGradient, CannotSave, Clock, Rhythm
from lightning_gan3d.training.finetune import check_init, initialise
from lightning_gan3d.training.module import AdversarialModule
from lightning_gan3d.training.plan import check_trainable, describe, plan
from lightning_gan3d.training.samples import sample_cameras
from lightning_gan3d.training.signals import StopRequest
from lightning_gan3d.training.wandb_mirror import Mirror

__all__ = ["plan", "train_process", "train_run"]

DONE, FAILED, STOPPED = 0, 4, 75
Say = Callable[[str], None]


def train_run(
    config: ExperimentConfig,
    root: str | Path = "runs",
    resume: bool = False,
    command: Sequence[str] = (),
    say: Say = print,
    measure: bool = True,
) -> int:
    """Train and measure; return the exit code.

    A directory that holds an unfinished run of the same configuration and seed is continued;
    `resume` insists that there is one. `measure=False` leaves out the measures at the end.
    """
    path = runs.run_path(config, root)
    device = devices.choose_device(config.training.device, config.training.devices)
    if resume and not (path / runs.CONFIG).is_file():
        raise ConfigError(f"{path}: no such run to resume; leave out --resume to start it")
    new = runs.missing_folders(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with runs.RunLock(path):
            return _locked(config, path, device, command, say, measure)
    except UserError:
        if path in new and not (path / runs.MANIFEST).is_file():
            runs.remove_traces(path, new)
        raise
    except (PermissionError, NotADirectoryError) as error:
        raise ConfigError(f"{path}: cannot be written ({error}); choose another --root") from error


def _locked(
    config: ExperimentConfig,
    path: Path,
    device: torch.device,
    command: Sequence[str],
    say: Say,
    measure: bool,
) -> int:
    if runs.read_manifest(path).get("finished"):
        say(f"{path}: finished before, nothing to do")
        return DONE
    left = store.remove_unfinished(path / "checkpoints")
    if left:
        say(f"ignored {len(left)} unfinished save(s)")
    start = store.newest(path / "checkpoints", say)
    devices.set_threads(config.training.threads, device)
    runs.write_config(path, config)
    say(f"run directory: {path}")
    if config.training.devices == 1:
        code = train_process(config, path, start, device, command, say)
    else:
        # Here, where a refusal is one line, not in each process.
        check_source(config, start, check_data(config, path))
        arguments = (path, start, list(command))
        code = launch.processes(_one_of_many, arguments, config.training.devices, say)
    if code != DONE:
        return code
    if measure:
        code = _measure(path, device, say)
        if code != DONE:
            return code
    files.write_json(path / runs.MANIFEST, {**runs.Run(path).manifest(), "finished": True})
    return DONE


def check_data(config: ExperimentConfig, path: Path) -> DataModule:
    """Open the data and refuse what cannot be trained on, or is not what the run began with."""
    training = config.training
    data = DataModule(config.data, training.batch, training.microbatch_size, config.seed)
    check_trainable(config, data.train.resolution)
    began = runs.read_manifest(path).get("dataset_fingerprint", data.train.fingerprint)
    if began != data.train.fingerprint:
        raise ConfigError(
            f"{config.data.path} is not the data that {path} began with (fingerprint "
            f"{data.train.fingerprint}, then {began}); restore it, or start another run"
        )
    return data


def check_source(config: ExperimentConfig, start: Path | None, data: DataModule) -> None:
    """Refuse what cannot be fine-tuned, where a run starts from it and not from a checkpoint."""
    if start is None and config.init_from.path:
        check_init(config, data.train.resolution)


def _measure(path: Path, device: torch.device, say: Say) -> int:
    """Measure the trained generator; what was trained is safe whatever happens here."""
    from lightning_gan3d.metrics.evaluate_target import evaluate_run

    with StopRequest(at_once=True):
        try:
            say(str(evaluate_run(path, device.type)))
        except KeyboardInterrupt:
            say("stopped: trained, but not measured; the same command continues")
            return STOPPED
        except Exception as error:
            say(f"failed: trained, but not measured: {type(error).__name__}: {error}")
            say(traceback.format_exc())
            return FAILED
    return DONE


def _one_of_many(path: Path, start: Path | None, command: list[str]) -> int:
    """Body of one of several processes; the first has written the configuration."""
    config = load_experiment(path / runs.CONFIG)
    device = devices.choose_device(config.training.device, config.training.devices)
    devices.set_threads(config.training.threads, device)

    def say(text: str) -> None:
        if launch.rank_of_environment() == 0:
            print(text, flush=True)

    return train_process(config, path, start, device, command, say)


def train_process(
    config: ExperimentConfig,
    path: Path,
    start: Path | None,
    device: torch.device,
    command: Sequence[str],
    say: Say,
) -> int:
    """Train in this process; what goes wrong while training becomes a line and an exit code."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with StopRequest() as stop, warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            return _fit(config, path, start, device, command, say, stop)
    except UserError:
        raise
    except BrokenGradient as error:
        say(f"failed: {error}; weights and averages are as they were before that")
        return FAILED
    except torch.OutOfMemoryError as error:
        size = config.training.microbatch_size
        say(
            f"failed: out of memory at training.microbatch={size}; try {max(1, size // 2)} "
            f"(the batch stays {config.training.batch}): {str(error).splitlines()[0]}"
        )
        return FAILED
    except CannotSave as error:
        say(f"stopped: checkpoints cannot be saved ({error}); make room, then run it again")
        return STOPPED
    except Exception as error:
        if "DataLoader worker" in str(error):
            say(
                "stopped: a process that reads images died; lower data.num_workers or enlarge "
                "/dev/shm; the same command continues from the last checkpoint"
            )
            return STOPPED
        say(f"failed: {type(error).__name__}: {error}\n{traceback.format_exc()}")
        return FAILED


def _fit(
    config: ExperimentConfig,
    path: Path,
    start: Path | None,
    device: torch.device,
    command: Sequence[str],
    say: Say,
    stop: StopRequest,
) -> int:
    training = config.training
    data = check_data(config, path)
    if training.devices == 1:
        check_source(config, start, data)
    module = AdversarialModule(config, data.train.resolution, data.train.labels)
    if training.compile:
        # Imported where it is asked for: the compiler alone takes seconds to load.
        from lightning_gan3d.training.compilation import compile_leaves

        compile_leaves(module.generator)
    began = runs.read_manifest(path).get("init_from")
    seconds, source = _continue(module, config, start, began, say)
    module.average.rendering_resolution = module.now(module.steps_done).rendering_resolution
    if module.steps_done >= training.num_steps:
        return DONE
    data.set_start_step(module.steps_done)
    leads = launch.rank_of_environment() == 0
    if leads:
        runs.drop_rows_after(path / runs.METRICS, module.steps_done)
        about = {**describe(config, device, data, module), **files.provenance(command)}
        if source is not None:
            about["init_from"] = source
        files.write_json(path / runs.MANIFEST, {**about, "finished": False})
    clock = Clock(seconds, device)
    mirror = Mirror(config, path, leads, say)
    rhythm = Rhythm(
        config,
        path,
        sample_cameras(data.train.labels, config.logging),
        clock,
        stop,
        mirror,
        save=lambda: checkpoint.save(module, config, path / "checkpoints", clock.seconds),
        measure=lambda: _distance(module, data, config, device),
        say=say,
    )
    trainer = lightning.Trainer(
        accelerator=device.type,
        devices=training.devices,
        strategy=distributed.SharedStep() if training.devices > 1 else "auto",
        plugins=[LightningEnvironment()],  # a scheduler's own would save within its signal handler
        max_epochs=1,
        limit_train_batches=training.num_steps - module.steps_done,
        callbacks=[rhythm],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=path,
    )
    code = FAILED
    try:
        trainer.fit(module, datamodule=data)
        code = STOPPED if rhythm.stopped else DONE
    finally:
        mirror.close(code)
    if code == STOPPED:
        say(
            f"stopped at {module.images_seen / 1000:g} kimg ({stop.reason or 'another process'}), "
            "saved; the same command continues"
        )
    return code


def _continue(
    module: AdversarialModule,
    config: ExperimentConfig,
    start: Path | None,
    began: dict[str, Any] | None,
    say: Say,
) -> tuple[float, dict[str, Any] | None]:
    """Load the checkpoint to start from, or what is to be fine-tuned, or nothing.

    Returns the seconds trained before, and what the manifest says of the source (`began`, if the
    run began before).
    """
    if start is None:
        if not config.init_from.path:
            return 0.0, None
        return 0.0, initialise(module, config, began, say)
    about = checkpoint.load(module, config, start)
    say(f"continuing from {about['kimg']:g} kimg ({start.name})")
    if about["threads"] != torch.get_num_threads():
        say(
            f"resume is approximate: {about['threads']} CPU threads then, "
            f"{torch.get_num_threads()} now"
        )
    return float(about["seconds"]), began


def _distance(
    module: AdversarialModule, data: DataModule, config: ExperimentConfig, device: torch.device
) -> dict[str, float]:
    """Sliced Wasserstein distance of the averaged generator, under the names of a row."""
    from lightning_gan3d.metrics.evaluate import swd_of

    found = swd_of(module.average, data.test or data.train, config.evaluation, device)
    return {f"eval/{name}": value for name, value in found.items()}
