"""`gan3d sweep run`: processes on this machine, each with its own GPUs."""

import logging
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from lightning_gan3d.devices import visible_gpus
from lightning_gan3d.sweep.plan import PlannedRun, SweepConfig, expand
from lightning_gan3d.sweep.search import add_trial
from lightning_gan3d.sweep.states import SweepFolder, is_finished, read_states, summary
from lightning_gan3d.sweep.tables import results
from lightning_gan3d.sweep.task import TRAIN, Task
from lightning_gan3d.training.processes import lock_holder, run_lock
from lightning_gan3d.training.signals import DONE, FAILED, STOPPED, SignalHandler

log = logging.getLogger(__name__)
POLL = 0.1
"""Seconds between checks of the processes."""
LOCK_POLL = 2.0
"""Seconds between checks of the runs that another process trains."""


def run_sweep(
    loaded: tuple[SweepConfig, Path],
    root: Path = Path("runs"),
    retry: bool = False,
    command: Sequence[str] = TRAIN,
    heartbeat: float = 30.0,
) -> int:
    """Run what is not finished; return the exit code: 0 all done, 4 some failed, 75 stopped.

    A failed run does not stop the others, and is run again only with `retry`. One process at a time
    runs a sweep. A run that another process trains is waited for. `loaded`: of `load_sweep`;
    `heartbeat`: seconds between log lines of running processes.
    """
    pool = LocalPool(loaded, root, retry, command, heartbeat)
    sweep, folder = pool.sweep, pool.folder
    folder.path.mkdir(parents=True, exist_ok=True)
    with run_lock(folder.path):
        stopped = pool.run()
    states = read_states(pool.runs, folder)
    log.info("sweep %s: %s; folder: %s", sweep.name, summary(states), folder.path)
    if any(s.state == "failed" for s in states):
        log.info("`--retry` runs the failed ones again")
        return FAILED
    if stopped or any(s.state != "done" for s in states):
        log.info("the same command continues it")
        return STOPPED
    return DONE


class LocalPool:
    """Keeps `sweep.jobs` processes busy; those that compute on CUDA get the least used GPUs."""

    def __init__(
        self,
        loaded: tuple[SweepConfig, Path],
        root: Path,
        retry: bool,
        command: Sequence[str],
        heartbeat: float,
    ) -> None:
        self._loaded, self._root = loaded, root
        self.sweep, self.retry = loaded[0], retry
        self.folder = SweepFolder.of(self.sweep, root)
        self.command, self.heartbeat = command, heartbeat
        self.stopping = False
        self._signal: int | None = None
        self.runs = expand(*loaded, root)
        self._running: list[Task] = []
        self._waiting = list(self.runs)
        self._locked = set[Path]()
        """Of `_waiting`: trained by another process."""

    def run(self) -> bool:
        """Run all that is not finished; return whether a signal stopped the sweep.

        A signal stops every process once; a second Ctrl-C kills them.
        """
        self.folder.write(self.runs)
        if not self.runs:
            self._next_trial()
        self._gpus = visible_gpus() if any(_needs_gpus(run) for run in self.runs) else []
        most = max(run.config.training.devices for run in self.runs)
        self._jobs = self.sweep.jobs or max(1, len(self._gpus) // most)
        last_heartbeat, next_start = time.monotonic(), 0.0
        try:
            with SignalHandler(self._stop):
                while self._has_next() or self._running:
                    room = self._jobs - len(self._running)
                    due = time.monotonic() >= next_start
                    if self._waiting and room > 0 and due and not self.stopping:
                        for run in self._startable()[:room]:
                            if not self.stopping:
                                self._start(run)
                        next_start = time.monotonic() + (LOCK_POLL if self._locked else 0)
                    for task in list(self._running):
                        if task.process.poll() is not None:
                            self._finish(task)
                    if time.monotonic() - last_heartbeat >= self.heartbeat:
                        last_heartbeat = time.monotonic()
                        for task in self._running:
                            line = task.last_line() or "starting"
                            log.info("running    %s: %s", task.run.label, line)
                    time.sleep(POLL)
        finally:
            for task in self._running:  # not empty only after an exception
                task.send(signal.SIGTERM)
            for task in self._running:
                task.process.wait()
        return self.stopping

    def _extend(self) -> None:
        """Plan again, and let what is new wait."""
        known = {run.path for run in self.runs}
        self.runs = expand(*self._loaded, self._root)
        self._waiting += [run for run in self.runs if run.path not in known]
        self.folder.write(self.runs)

    def _has_next(self) -> bool:
        """Whether runs are to start, after the next trial of a search was chosen if there is room.

        None are after a stop signal.
        """
        if self.stopping:
            return False
        if not self._waiting and len(self._running) < self._jobs:
            self._next_trial()
        return bool(self._waiting)

    def _next_trial(self) -> None:
        search = self.sweep.search
        if search is None or search.sampler == "random":
            return
        if add_trial(search, self.folder.path, results(search, self.runs, self.folder)):
            self._extend()

    def _startable(self) -> list[PlannedRun]:
        """Return the runs to start, without those that ended before or that another trains."""
        locked = set[Path]()
        for run in list(self._waiting):
            if holder := lock_holder(run.path):
                locked.add(run.path)
                if run.path not in self._locked:
                    log.info("waiting    %s: trained by %s", run.label, holder)
            elif is_finished(run.path):
                self._waiting.remove(run)
                log.info("done       %s: already finished  %s", run.label, run.path)
            elif not self.retry and (failure := self.folder.failure(run)):
                self._waiting.remove(run)
                log.info("failed     %s: before this start: %s", run.label, failure.reason)
        self._locked = locked
        return [run for run in self._waiting if run.path not in locked]

    def _stop(self, number: int) -> None:
        """Forward the first signal; kill at a second Ctrl-C."""
        kill = self.stopping and number == signal.SIGINT
        if kill or not self.stopping:
            for task in self._running:
                task.send(signal.SIGKILL if kill else number)
        self.stopping, self._signal = True, number

    def _start(self, run: PlannedRun) -> None:
        self._waiting.remove(run)
        gpus = self._choose_gpus(run)
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
        if self.sweep.threads is not None:
            names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
            environment |= dict.fromkeys(names, str(self.sweep.threads))
        task = Task.start(self.folder, run, environment, self.command)
        task.gpus = gpus
        self._running.append(task)
        if self._signal is not None and not task.signalled:  # it came while the process was started
            task.send(self._signal)
        on = f" on GPU {', '.join(gpus)}" if gpus else ""
        log.info("start      %s%s  log: %s", run.label, on, task.log)

    def _choose_gpus(self, run: PlannedRun) -> list[str]:
        """Return the GPUs with the fewest runs; [] without GPUs or for a run on the CPU."""
        if not _needs_gpus(run):
            return []
        used = [gpu for task in self._running for gpu in task.gpus]
        return sorted(self._gpus, key=used.count)[: run.config.training.devices]

    def _finish(self, task: Task) -> None:
        self._running.remove(task)
        run = task.run
        if task.trained_elsewhere:
            self._waiting += [r for r in self.runs if r.path == run.path]
            return
        failure = task.finish(self.stopping)
        state = "failed" if failure else "done" if is_finished(run.path) else "stopped"
        minutes, rest = divmod(round(time.monotonic() - task.started), 60)
        text = f"{state:<9}  {run.label}  {minutes}:{rest:02d} min  {run.path}"
        if failure:
            text += f"\n           exit code {failure.exit_code}: {failure.reason}"
            text += f"\n           log: {task.log}"
        log.info(text)


def _needs_gpus(run: PlannedRun) -> bool:
    return run.config.training.device != "cpu"
