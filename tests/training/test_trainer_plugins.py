"""`trainer` in YAML: time limit, profiler, callbacks and loggers."""

import csv
import time
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import SingleDeviceStrategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_gan3d.checkpoints import store
from lightning_gan3d.config import ConfigError
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.metric import Metric
from lightning_gan3d.runs import Run
from lightning_gan3d.training.config import TrainerConfig
from lightning_gan3d.training.trainer_plugins import check_trainer, log_evaluation


class Spy(Callback):
    steps: ClassVar[list] = []

    def on_train_batch_end(self, trainer, module, *_):
        Spy.steps.append(module.steps_done)
        if module.steps_done == 3:
            trainer.should_stop = True


class Picky(Callback):
    def __init__(self, monitor):
        self.monitor = monitor


class Late(Checkpoint):
    """Stops the trainer after the project's own actions: Lightning calls checkpoints last."""

    def on_train_batch_end(self, trainer, module, *_):
        if module.steps_done == 3:
            trainer.should_stop = True


class Own(SingleDeviceStrategy):
    made: ClassVar[list] = []

    def __init__(self):
        super().__init__("cpu")
        Own.made.append(self)


class Rows(Logger):
    name, version = "rows", 0
    made: ClassVar[list] = []

    def __init__(self, config, path):
        super().__init__()
        self.rows, self.config, self.path = [], config, path
        Rows.made.append(self)

    def log_metrics(self, metrics, step):
        self.rows.append({"step": step, **metrics})

    def log_hyperparams(self, params):
        pass


@pytest.fixture
def plugins(monkeypatch):
    points = {"callbacks": ["Spy", "Picky", "Late"], "loggers": ["Rows"], "strategies": ["Own"]}

    def entry_points(group):
        names = points.get(group.rpartition(".")[2], [])
        found = [EntryPoint(name.lower(), f"{__name__}:{name}", group) for name in names]
        return [*found, EntryPoint("broken", "nowhere:Broken", group)]

    monkeypatch.setattr("lightning_gan3d.registry.entry_points", entry_points)
    monkeypatch.setattr(Spy, "steps", [])
    monkeypatch.setattr(Rows, "made", [])


def csv_rows(path):
    with (path / "csv/metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def board(path):
    return EventAccumulator(str(path / "tensorboard")).Reload()


@pytest.mark.usefixtures("plugins")
def test_a_callback_that_stops_saves_and_all_loggers_get_each_row_once(tiny, start):
    options = ("training.sample_kimg=0.032", "trainer.callbacks=[spy, LearningRateMonitor]")
    config = tiny("trainer.loggers=[csv, tensorboard, rows]", *options)
    code, path, log = start(config)
    assert (code, Spy.steps) == (75, [1, 2, 3])
    assert "stopped at 0.024 kimg (trainer.max_time or a callback), saved" in log
    code, path, log = start(config)
    assert (code, Spy.steps) == (0, list(range(1, 9)))

    rows = Run(path).metrics()
    assert len(rows) == 4  # every two steps
    of_csv = [row for row in csv_rows(path) if "kimg" in row]
    assert [{k: pytest.approx(v) for k, v in row.items()} for row in rows] == of_csv
    losses = board(path).Scalars("loss/G")
    assert [e.step for e in losses] == [row["step"] for row in rows]
    assert [e.value for e in losses] == pytest.approx([row["loss/G"] for row in rows])
    assert [e.step for e in board(path).Images("samples")] == [0, 4, 8]
    of_monitor = [row["step"] for row in csv_rows(path) if "lr-Adam" in row]
    assert of_monitor == sorted(of_monitor)
    assert of_monitor[0] < 3 < of_monitor[-1]  # before and after the stop
    rates = [e.step for e in board(path).Scalars("lr-Adam")]
    assert rates == sorted(rates)
    own = [row for logger in Rows.made for row in logger.rows if "kimg" in row]
    assert own == rows
    assert Rows.made[0].config == config
    assert Rows.made[0].path == path

    log_evaluation(config, path, [Metric("quality.swd", 0.5), Metric("refit.psnr", 20.0, at=0.1)])
    assert csv_rows(path)[-1] == {"step": 8, "quality.swd": 0.5}
    assert [row for row in csv_rows(path) if "kimg" in row] == of_csv
    assert [row["step"] for row in csv_rows(path) if "lr-Adam" in row] == of_monitor
    assert [(e.step, e.value) for e in board(path).Scalars("quality.swd")] == [(8, 0.5)]
    assert len(board(path).Scalars("loss/G")) == 4
    assert [e.step for e in board(path).Images("samples")] == [0, 4, 8]


def test_a_time_limit_saves_and_stops_and_the_profiler_writes_its_report(tiny, start, at_step):
    at_step(1, lambda _: time.sleep(1.1))
    code, path, log = start(tiny("trainer.max_time=00:00:00:01", "trainer.profiler=simple"))
    assert code == 75
    assert "stopped at 0.016 kimg" in log
    assert "training_step" in (path / "fit-profile.txt").read_text()


@pytest.mark.usefixtures("plugins")
def test_a_strategy_of_another_package_trains(tiny, start):
    code, *_ = start(tiny("trainer.strategy=own", "training.kimg=0.016"))
    assert code == 0
    assert Own.made[-1].lightning_module.steps_done == 2


@pytest.mark.usefixtures("plugins")
def test_a_callback_that_stops_last_saves_too(tiny, start):
    code, path, log = start(tiny("trainer.callbacks=[late]"))
    assert code == 75
    assert "stopped at 0.024 kimg (trainer.max_time or a callback), saved" in log
    assert [s for s, _ in store.steps_in(path / "checkpoints")] == [3]


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize(
    ("option", "error"),
    [
        ("callbacks=[DeviceStatMonitor]", "trainer.callbacks: no callback `DeviceStatMonitor`"),
        ("loggers=[tensorbord]", "rows, tensorboard; did you mean `tensorboard`?"),
        ("callbacks=[EarlyStopping]", "no callback `EarlyStopping`"),
        ("callbacks=[LearningRateMonitor]", "LearningRateMonitor needs trainer.loggers, e.g. [csv"),
        (
            "callbacks=[broken]",
            "broken cannot be imported (ModuleNotFoundError: No module named 'n",
        ),
        ("strategy=ddp", "no strategy `ddp`; have auto, broken, own"),
        ("callbacks=[picky]", "Picky cannot be built (TypeError"),
    ],
)
def test_wrong_names_leave_nothing(tiny, start, tmp_path, option, error, devices):
    with pytest.raises(ConfigError) as caught:
        start(tiny(f"trainer.{option}", f"training.devices={devices}", "training.microbatch=4"))
    assert error in str(caught.value)
    assert not list((tmp_path / "runs").glob("*/*"))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("lightning_gan3d.training.trainer_plugins.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'lightning-gan3d\[tensorboard\]'"):
        check_trainer(TrainerConfig(loggers=("tensorboard",)))
    with pytest.raises(ConfigError, match="pip install psutil"):
        check_trainer(TrainerConfig(callbacks=("DeviceStatsMonitor",), loggers=("csv",)))


def test_the_time_has_days_and_callbacks_alone_change_the_hash():
    for wrong in ("12:00", "00:00:00:00"):
        with pytest.raises(ConfigError, match="above 0, DD:HH:MM:SS"):
            load_experiment("demo/voxel", [f"trainer.max_time={wrong}"])
    plain, observed, changed = (
        load_experiment("demo/voxel", options).hash
        for options in ([], ["trainer.loggers=[csv]"], ["trainer.callbacks=[Spy]"])
    )
    assert plain == observed != changed
