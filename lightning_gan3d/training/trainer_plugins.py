"""Lightning's callbacks, loggers, profilers and strategies, by the names in `trainer`."""

import csv
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.callbacks import Callback, DeviceStatsMonitor, LearningRateMonitor, Timer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.profilers import (
    AdvancedProfiler,
    Profiler,
    PyTorchProfiler,
    SimpleProfiler,
)
from lightning.pytorch.strategies import Strategy
from PIL import Image

from lightning_gan3d.config import ConfigError
from lightning_gan3d.experiment import ExperimentConfig
from lightning_gan3d.metric import Metric
from lightning_gan3d.registry import external, unknown
from lightning_gan3d.training.config import TrainerConfig
from lightning_gan3d.training.distributed import SharedStep

PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
CALLBACKS = {"LearningRateMonitor": LearningRateMonitor, "DeviceStatsMonitor": DeviceStatsMonitor}
"""Lightning's callbacks that work without arguments and with manual optimisation."""
LOGGERS = ("csv", "tensorboard")


def check_trainer(trainer: TrainerConfig) -> None:
    """Check that callbacks and loggers exist and that their packages are installed."""
    make_callbacks(trainer)
    make_strategy(trainer, 1)
    monitors = [name for name in trainer.callbacks if name in CALLBACKS]
    if monitors and not trainer.loggers:
        raise ConfigError(f"trainer.callbacks: {monitors[0]} needs trainer.loggers, e.g. [csv]")
    if "DeviceStatsMonitor" in monitors and find_spec("psutil") is None:
        raise ConfigError("trainer.callbacks: DeviceStatsMonitor needs pip install psutil")
    for name in trainer.loggers:
        if name not in LOGGERS:
            _load("loggers", name, LOGGERS)
        elif name == "tensorboard" and find_spec("tensorboard") is None:
            raise ConfigError(
                "trainer.loggers: tensorboard needs pip install 'lightning-gan3d[tensorboard]'"
            )


def make_callbacks(trainer: TrainerConfig) -> list[Callback]:
    """Build the time limit and the callbacks."""
    timer = [] if trainer.max_time is None else [Timer(trainer.max_time)]
    others = [CALLBACKS.get(n) or _load("callbacks", n, [*CALLBACKS]) for n in trainer.callbacks]
    return [*timer, *(_build("callbacks", make) for make in others)]


def make_strategy(trainer: TrainerConfig, num_ranks: int) -> Strategy | Literal["auto"]:
    """Build the strategy: one that leaves gradients to the module, or an entry point."""
    if trainer.strategy != "auto":
        strategy: Strategy = _build("strategy", _load("strategies", trainer.strategy, ["auto"]))
        return strategy
    return SharedStep() if num_ranks > 1 else "auto"


def make_profiler(trainer: TrainerConfig, path: Path) -> Profiler | None:
    """Build the profiler; its report goes into the run directory."""
    if trainer.profiler is None:
        return None
    profiler: Profiler = PROFILERS[trainer.profiler](dirpath=path, filename="profile")
    return profiler


def make_loggers(config: ExperimentConfig, path: Path, step: int) -> list[Logger]:
    """Build the loggers of rank 0. Their files continue after `step`; later rows are dropped."""
    loggers: list[Logger] = []
    for name in config.trainer.loggers:
        if name == "csv":
            loggers.append(_continued_csv(path, step))
        elif name == "tensorboard":
            purge = step + 1 if step else None
            loggers.append(TensorBoardLogger(path, name="", version=name, purge_step=purge))
        else:
            loggers.append(_build("loggers", _load("loggers", name, LOGGERS), config, path))
    return loggers


def _continued_csv(path: Path, step: int) -> CSVLogger:
    """Build a CSV logger; Lightning's removes an earlier file, so its rows are written again."""
    file = path / "csv/metrics.csv"
    rows: list[dict[str, str]] = []
    if file.is_file():
        with file.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    logger = CSVLogger(path, name="", version="csv")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Experiment logs directory")  # would be deleted
        _ = logger.experiment
    for row in rows:
        if float(row["step"]) <= step:
            values: dict[str, Any] = {k: float(v) for k, v in row.items() if v and k != "step"}
            logger.log_metrics(values, step=int(float(row["step"])))
    return logger


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
    step = config.training.num_steps
    loggers = make_loggers(config, path, step)
    values = {m.key: m.value for m in metrics if m.value is not None and m.at is None}
    log_row(loggers, {"step": step, **values})
    for logger in loggers:
        logger.finalize("success")


def _load(
    group: Literal["callbacks", "loggers", "strategies"], name: str, known: Sequence[str]
) -> Callable[..., Any]:
    """Return the class or function of an entry point."""
    points, option = external(group), "strategy" if group == "strategies" else group
    if name not in points:
        raise ConfigError(f"trainer.{option}: {unknown(group, name, [*known, *points])}")
    try:
        return points[name].load()  # type: ignore[no-any-return]  # of an entry point
    except Exception as error:
        raise ConfigError(
            f"trainer.{option}: {name} cannot be imported ({type(error).__name__}: {error})"
        ) from error


def _build(option: str, make: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return make(*arguments)
    except Exception as error:
        name = getattr(make, "__name__", make)
        raise ConfigError(
            f"trainer.{option}: {name} cannot be built ({type(error).__name__}: {error})"
        ) from error
