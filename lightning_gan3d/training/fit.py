"""Training of one run: `train_run` prepares and evaluates it, `fit` trains in one process."""

import logging
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from lightning_gan3d import devices, files, runs
from lightning_gan3d.checkpoints import store
from lightning_gan3d.config import ConfigError, UserError
from lightning_gan3d.cost import count_cost, num_parameters
from lightning_gan3d.data.datamodule import DataModule
from lightning_gan3d.draws import Draws
from lightning_gan3d.experiment import ExperimentConfig, make_networks
from lightning_gan3d.networks.mapping import Mapping
from lightning_gan3d.networks.superresolution import SuperResolution
from lightning_gan3d.networks.synthesis import Synthesis2d, Synthesis3d
from lightning_gan3d.progress import counting
from lightning_gan3d.training import checkpoint, schedules
from lightning_gan3d.training.callbacks import CannotSave, PeriodicActions
from lightning_gan3d.training.compatibility import check_trainable, make_data
from lightning_gan3d.training.direction import DirectionModule, digests_of, open_critic
from lightning_gan3d.training.losses import recommended_gamma
from lightning_gan3d.training.module import AdversarialModule
from lightning_gan3d.training.optimizers import NonFiniteGradient
from lightning_gan3d.training.processes import (
    Ranks,
    Session,
    is_main,
    read_ranks,
    run_lock,
    run_processes,
)
from lightning_gan3d.training.signals import DONE, FAILED, STOPPED, Interrupted, StopRequest
from lightning_gan3d.training.trainer_plugins import (
    log_evaluation,
    make_callbacks,
    make_loggers,
    make_profiler,
    make_strategy,
)
from lightning_gan3d.training.wandb_logger import WandbLogger

log = logging.getLogger(__name__)


def train_run(
    config: ExperimentConfig,
    root: str | Path = "runs",
    prepare: Callable[[ExperimentConfig, Path], None] = checkpoint.prepare,
    command: Sequence[str] = (),
    evaluate: bool = True,
) -> int:
    """Train and evaluate; return the exit code: 0 done, 4 failed, 75 stopped.

    A stop signal lets the step finish, and saves; a second Ctrl-C raises `signals.Interrupted`.

    Continues an unfinished run of the same configuration and seed. `prepare` is called with its
    locked directory before: it may fill a new one, or raise. Progress goes to the log
    `lightning_gan3d` (`processes.print_log` prints it).
    """
    path, training = runs.run_path(config, root), config.training
    device = devices.choose_device(training.device, training.devices)
    ranks = read_ranks(training.devices, config.trainer.num_nodes)
    if ranks.node > 0:  # node 0 writes, evaluates and holds the lock
        start = store.newest(path / "checkpoints", log.warning)
        return run_processes(fit, (Session(config, path, device, start, tuple(command)),), ranks)
    new = runs.missing_folders(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with run_lock(path) as lock:
            for repaired in runs.repair(path):
                log.warning("warning: %s", repaired)
            prepare(config, path)
            if runs.read_manifest(path).get("finished"):
                log.info("%s: already finished", path)
                return DONE
            start = store.newest(path / "checkpoints", log.warning)
            partial = store.remove_unfinished(path / "checkpoints")
            if partial:
                log.info("removed %d incomplete checkpoint(s)", len(partial))
            session = Session(config, path, device, start, tuple(command))
            devices.set_threads(training.threads, device)
            runs.write_config(path, config)
            log.info("run directory: %s", path)
            if ranks.world_size == 1:
                code = fit(session)
            else:
                open_data(session)  # to raise errors once, not in each process
                code = run_processes(fit, (session,), ranks, lock=lock)
            if code == DONE and evaluate:
                if ranks.devices == 1:
                    code = _evaluate(session)
                else:  # of this node: the others have ended
                    here = Ranks(ranks.devices)
                    code = run_processes(_evaluate, (session, True), here, lock=lock)
            if code == DONE:
                manifest = {**runs.read_manifest(path), "finished": True}
                files.write_json(path / runs.MANIFEST, manifest)
            return code
    except UserError:
        if path in new and "command" not in runs.read_manifest(path):  # `fit` writes it
            runs.remove_run(path, new)
        raise
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error}); free space, or choose another --root"
        ) from error


def fit(session: Session) -> int:
    """Train in this process; return the exit code. Failures are logged, not raised."""
    config, training = session.config, session.config.training
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    devices.set_threads(training.threads, session.device)
    stop = StopRequest()
    try:
        with stop, warnings.catch_warnings(), ExitStack() as stack:
            warnings.filterwarnings("ignore", module="lightning")
            data, callbacks = open_data(session), make_callbacks(config.trainer)
            labels = config.fake_labels(data.train.labels).labels
            directed = config.critic.kind == "direction"
            module_type = DirectionModule if directed else AdversarialModule
            module = module_type(config, data.train.resolution, labels)
            if training.compile:
                compile_networks(module.generator)
            seconds, records = checkpoint.restore(module, session)
            module.set_level(module.schedule(module.steps_done))
            if training.complete(module.steps_done, seconds):
                return DONE
            main = is_main()
            if main:
                for text in data.train.warnings(config.generator.scene.box):
                    log.warning("warning: %s", text)
                runs.drop_rows_after(session.path / runs.METRICS, module.steps_done)
            loggers = make_loggers(config, session.path, module.steps_done) if main else []
            if main:
                manifest = {**describe(session, data, module), **records}
                files.write_json(session.path / runs.MANIFEST, {**manifest, "finished": False})
            num_ranks = training.devices * config.trainer.num_nodes
            total, shows = training.num_steps * training.batch, config.logging.progress
            bar = counting("images", total, module.images_seen, shows and main)
            show = stack.enter_context(bar)
            actions = PeriodicActions(session, data, stop, seconds, show)
            module.logs_losses = False  # `PeriodicActions` does
            trainer = lightning.Trainer(
                accelerator=session.device.type,
                devices=training.devices,
                num_nodes=config.trainer.num_nodes,
                strategy=make_strategy(config.trainer, num_ranks),
                # A scheduler's own environment would save within its signal handler.
                plugins=[LightningEnvironment()],
                max_epochs=1,
                limit_train_batches=training.num_steps - module.steps_done,
                callbacks=[*callbacks, actions],
                logger=loggers or False,
                profiler=make_profiler(config.trainer, session.path),
                log_every_n_steps=max(1, round(training.log_kimg * 1000 / training.batch)),
                enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,
                default_root_dir=session.path,
            )
            trainer.fit(module, datamodule=data)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        return _failure(error, training.batch, training.microbatch_size)
    if actions.complete:
        return DONE
    log.info(
        f"stopped at {module.images_seen / 1000:g} kimg ({stop.reason or 'another process'}), "
        "saved; the same command continues"
    )
    return STOPPED


def _failure(error: Exception | SystemExit, batch: int, microbatch: int) -> int:
    """Log why the training ended; return the exit code."""
    kind, trace, code = type(error).__name__, traceback.format_exc(), FAILED
    no_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if isinstance(error, NonFiniteGradient):
        text = f"{error}; weights and averages are as before that step"
    elif no_memory or "can't allocate memory" in str(error):  # torch's allocator on the CPU
        reason = (str(error) or kind).splitlines()[0]
        text = (
            f"out of memory at training.microbatch={microbatch}; try {max(1, microbatch // 2)} "
            f"(the batch stays {batch}), or smaller networks: {reason}"
        )
    elif isinstance(error, SystemExit):
        text = f"a plug-in or library ended the process with code {error.code}\n{trace}"
    elif isinstance(error, CannotSave):
        code, text = STOPPED, f"cannot save checkpoints ({error}); free space, then run it again"
    elif isinstance(error, OSError):
        code, text = STOPPED, f"{kind}: {error}; the same command continues"
    elif "DataLoader worker" in str(error):
        code = STOPPED
        text = (
            "a data loader process died; lower data.num_workers or enlarge /dev/shm; the same "
            "command continues from the last checkpoint"
        )
    else:
        text = f"{kind}: {error}\n{trace}"
    log.error("%s: %s", "failed" if code == FAILED else "stopped", text)
    return code


def _evaluate(session: Session, shared: bool = False) -> int:
    """Evaluate the trained generator; a failure leaves the trained run intact.

    `shared`: with the other processes of this node.
    """
    from lightning_gan3d.metrics.evaluate_target import evaluate_run
    from lightning_gan3d.metrics.process_group import joined

    kind = session.device.type
    with StopRequest(at_once=True):
        try:
            with joined(kind) if shared else nullcontext():
                evaluation = evaluate_run(session.path, kind)
            if not is_main():
                return DONE
            log.info(str(evaluation))
            wandb = WandbLogger(session.config, session.path)
            wandb.catch_up(session.config.training.num_steps)
            wandb.evaluation(evaluation.metrics)
            wandb.orbits(session.path)
            wandb.checkpoint(session.path)
            wandb.close(DONE)
            log_evaluation(session.config, session.path, evaluation.metrics)
        except Interrupted:
            log.info("stopped: trained, but not evaluated; the same command continues")
            return STOPPED
        except OSError as error:
            log.error(f"stopped: trained, but not evaluated: {error}; the same command continues")
            return STOPPED
        except (Exception, SystemExit) as error:
            log.error(f"failed: trained, but not evaluated: {type(error).__name__}: {error}")
            log.error(traceback.format_exc())
            return FAILED
    return DONE


def open_data(session: Session) -> DataModule:
    """Open the data; check that the run can train on it and that it has not changed."""
    config = session.config
    data = make_data(config)
    check_trainable(config, data.train.resolution)
    manifest = runs.read_manifest(session.path)
    digests = digests_of(config, open_critic(config, data.train.resolution)[0])
    for name, before in manifest.get("critic", {}).items():
        if digests.get(name) != before:
            raise ConfigError(
                f"critic.{name} has changed since {session.path} started (SHA-256 before: "
                f"{before}); restore it, or set another `name`"
            )
    for name, now in data.train.fingerprints.items():
        if (before := manifest.get(name, now)) != now:
            raise ConfigError(
                f"{config.data.path} has changed since {session.path} started ({name} {now}, "
                f"before {before}); restore it, or start another run"
            )
    if session.checkpoint is None and config.init_from.path:
        checkpoint.read_source(config, data.train.resolution)
    return data


def compile_networks(network: nn.Module, backend: str = "inductor") -> None:
    """Compile the convolutional networks in place; names of parameters do not change.

    Draws stay outside the graphs: traced, the key of each step would be a constant of a new graph.
    A plug-in marks a network with `compiles = True`.
    """
    import torch._dynamo

    torch._dynamo.config.recompile_limit = 256  # each block, with and without gradient
    for name in ("scope", "at", "generator", "uniform", "normal", "integers"):
        method = getattr(Draws, name)
        if not getattr(method, "_torchdynamo_disable", False):
            untraced: Any = torch.compiler.disable(method)  # type: ignore[no-untyped-call]  # torch
            setattr(Draws, name, untraced)
    for part in network.modules():
        networks = (Mapping, Synthesis2d, Synthesis3d, SuperResolution)
        if isinstance(part, networks) or getattr(part, "compiles", False):
            part.compile(backend=backend)


def describe_machine(
    config: ExperimentConfig, device: torch.device, command: Sequence[str]
) -> dict[str, Any]:
    """Describe what is known of a run before it opens its data."""
    return {
        "experiment": config.name,
        "hash": config.hash,
        "seed": config.seed,
        "device": devices.device_name(device),
        "processes": config.training.devices * config.trainer.num_nodes,
        "threads": torch.get_num_threads(),
        **files.provenance(command),
    }


def describe(session: Session, data: DataModule, module: AdversarialModule) -> dict[str, Any]:
    """Describe the run for its manifest."""
    config = session.config
    return {
        **describe_machine(config, session.device, session.command),
        "dataset": data.train.name,
        **data.train.fingerprints,
        "dataset_images": len(data.train),
        "resolution": data.train.resolution,
        "parameters": {
            "generator": num_parameters(module.generator),
            "representation": num_parameters(module.generator.representation),
            "discriminator": num_parameters(module.discriminator),
        },
        "continued_at_step": module.steps_done,
        **({"critic": module.digests} if isinstance(module, DirectionModule) else {}),
    }


def growth(config: ExperimentConfig) -> list[str]:
    """Describe the levels of progressive growing in a line; none without it."""
    training, growing = config.training, config.training.growing
    if growing is None:
        return []
    levels = ", ".join(f"{stage.resolution}²" for stage in growing.stages)
    end = schedules.level(growing, training.num_steps * training.batch)
    unfinished = (end.resolution, end.alpha) != (growing.stages[-1].resolution, 1.0)
    if unfinished and config.init_from.schedules != "keep":
        levels += (
            f"; ends at {end.resolution}², faded in to {end.alpha:.0%}: training.kimg is short"
        )
    return [f"growing         {levels}"]


def plan(config: ExperimentConfig) -> str:
    """Describe length, sizes and memory of a run, for `--dry-run`; writes nothing."""
    training = config.training
    device = devices.choose_device(training.device, training.devices)
    data = make_data(config)
    resolution = data.train.resolution
    check_trainable(config, resolution)
    if config.init_from.path:
        checkpoint.read_source(config, resolution)
    with torch.device("meta"):  # takes no memory
        generator, discriminator = make_networks(config, resolution)
        cost = count_cost(generator)
    g, d = num_parameters(generator), num_parameters(discriminator)
    # Weights, gradients and two moments of both, and the averaged generator; 4 bytes each.
    fixed = 4 * (4 * (g + d) + g) / 1e6
    held_out = 0 if data.test is None else len(data.test)
    gamma = recommended_gamma(resolution, training.batch)
    r3gan = "; R3GAN starts at 0.05 for CIFAR-10, 2 for FFHQ at 64², 150 at 256²"
    lines = [
        f"run             {config.name} {config.hash}, seed {config.seed}",
        f"data            {data.train.name}: {len(data.train)} images of {resolution}² "
        f"({held_out} held out), fingerprint {data.train.fingerprint}",
        f"device          {devices.device_name(device)}, {training.devices} process(es) on "
        f"{config.trainer.num_nodes} node(s)",
        f"length          {training.kimg:g} kimg: {training.num_steps} steps of {training.batch} "
        f"images in {training.num_microbatches} microbatch(es)"
        + (f"; at most {training.hours:g} hours" if training.hours else ""),
        f"generator       {g:,} parameters, representation "
        f"{num_parameters(generator.representation):,}",
        f"rendering       scene memory {cost.scene_bytes:,} bytes, "
        f"{cost.total_flops / 1e9:.3g} GFLOPs per image",
        f"discriminator   {d:,} parameters",
        *growth(config),
        *(
            f"encoder         {e.network.protocol}: images of {e.side}² to {e.dim} numbers; target "
            f"{config.critic.target}. FID, KID and SWD to the data will rise"
            for e in open_critic(config, resolution)[0]
        ),
        f"R1 gamma        {config.loss.r1_gamma:g}; recommended {gamma:.3g} = 0.0002 * "
        f"{resolution}² / batch {training.batch} (StyleGAN2-ADA; StyleGAN3 uses about 5 times this)"
        f"{r3gan if config.loss.adversarial == 'relativistic' else ''}",
        f"memory          {fixed:,.1f} MB for weights, gradients, moments and average, plus the "
        f"activations of {training.microbatch_size} images",
        *(f"warning: {text}" for text in data.train.warnings(config.generator.scene.box)),
    ]
    return "\n".join(lines)
