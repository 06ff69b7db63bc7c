"""Lightning's callbacks, loggers and profilers, by the names in `trainer`."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import Callback, Timer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.profilers import (
    AdvancedProfiler,
    Profiler,
    PyTorchProfiler,
    SimpleProfiler,
)
from PIL import Image

from lightning_gan3d import runs
from lightning_gan3d.config import ConfigError
from lightning_gan3d.experiment import ExperimentConfig
from lightning_gan3d.metric import Metric
from lightning_gan3d.registry import external, unknown
from lightning_gan3d.training.config import TrainerConfig

PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
KNOWN: dict[str, dict[str, Callable[..., Any]]] = {
    "callbacks": {name: getattr(lightning_callbacks, name) for name in lightning_callbacks.__all__},
    "loggers": {"csv": CSVLogger, "tensorboard": TensorBoardLogger},
}


def check_names(trainer: TrainerConfig) -> None:
    """Check that callbacks and loggers exist."""
    for group, names in (("callbacks", trainer.callbacks), ("loggers", trainer.loggers)):
        known = [*KNOWN[group], *external(group)]
        for name in names:
            if name not in known:
                raise ConfigError(f"trainer.{group}: {unknown(group, name, known)}")


def make_callbacks(trainer: TrainerConfig) -> list[Callback]:
    """Build the time limit and the callbacks."""
    timer = [] if trainer.max_time is None else [Timer(trainer.max_time)]
    return [*timer, *(_make("callbacks", name) for name in trainer.callbacks)]


def make_profiler(trainer: TrainerConfig, path: Path) -> Profiler | None:
    """Build the profiler; its report goes into the run directory."""
    if trainer.profiler is None:
        return None
    profiler: Profiler = PROFILERS[trainer.profiler](dirpath=path, filename="profile")
    return profiler


def make_loggers(config: ExperimentConfig, path: Path, main: bool = True) -> list[Logger]:
    """Build the loggers. `main`: on rank 0.

    CSV and TensorBoard files are written anew from `metrics.jsonl` and the sample grids, so that
    they hold each row once after a resume.
    """
    loggers: list[Logger] = []
    for name in config.trainer.loggers:
        if name in KNOWN["loggers"]:
            if main:
                shutil.rmtree(path / name, ignore_errors=True)
            loggers.append(_make("loggers", name, path, name="", version=name))
        else:
            loggers.append(_make("loggers", name, config, path))
    if main:
        _replay([x for x in loggers if isinstance(x, CSVLogger | TensorBoardLogger)], config, path)
    return loggers


def _replay(loggers: Sequence[Logger], config: ExperimentConfig, path: Path) -> None:
    rows = list(runs.read_rows(path / runs.METRICS))
    for row in rows:
        log_row(loggers, row)
    for file in sorted((path / "samples").glob("*kimg.png")):
        step = round(1000 * float(file.stem.removesuffix("kimg")) / config.training.batch)
        if rows and step <= rows[-1]["step"]:
            log_image(loggers, step, file)


def log_row(loggers: Sequence[Logger], row: Mapping[str, Any]) -> None:
    """Log a row of `metrics.jsonl`, under its step."""
    values = {k: v for k, v in row.items() if k != "step" and v is not None}
    for logger in loggers:
        logger.log_metrics(values, step=row["step"])
        logger.save()


def log_image(loggers: Sequence[Logger], step: int, file: Path) -> None:
    """Log a sample grid to the loggers that have images: TensorBoard."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            pixels = np.asarray(Image.open(file))
            logger.experiment.add_image("samples", pixels, step, dataformats="HWC")


def log_evaluation(config: ExperimentConfig, path: Path, metrics: Sequence[Metric]) -> None:
    """Add the metrics of the evaluation to all loggers, by their keys."""
    loggers = make_loggers(config, path)
    values = {m.key: m.value for m in metrics if m.value is not None and m.at is None}
    log_row(loggers, {"step": config.training.num_steps, **values})
    for logger in loggers:
        logger.finalize("success")


def _make(group: str, name: str, /, *arguments: Any, **options: Any) -> Any:
    """Call the class or function of a name."""
    try:
        make = KNOWN[group][name] if name in KNOWN[group] else external(group)[name].load()
        return make(*arguments, **options)
    except ModuleNotFoundError as error:
        package = f"lightning-gan3d[{name}]" if name in KNOWN[group] else str(error.name)
        raise ConfigError(f"trainer.{group}: {name} needs pip install '{package}'") from None
    except Exception as error:
        raise ConfigError(
            f"trainer.{group}: {name} cannot be made ({type(error).__name__}: {error})"
        ) from error
