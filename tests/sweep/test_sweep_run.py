"""Sweeps of a fake `gan3d train` that follows a script."""

import functools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import yaml

from lightning_gan3d.config import ConfigError
from lightning_gan3d.sweep import local
from lightning_gan3d.sweep.local import run_sweep
from lightning_gan3d.sweep.plan import SweepEntry, expand, load_sweep, read_record
from lightning_gan3d.sweep.states import Failure, SweepFolder, read_states
from lightning_gan3d.sweep.tables import plan_sweep
from lightning_gan3d.sweep.task import Task
from lightning_gan3d.training.processes import lock_holder

# `plan.json` in the root maps run names to exit code, duration and output.
TRAINER = """
import fcntl, json, os, signal, sys, time
from pathlib import Path

file, *rest = sys.argv[1:]
root = Path(rest[rest.index("--root") + 1])
options = json.loads((root / "plan.json").read_text())[Path(file).stem]
name, path = options["name"], Path(options["path"])
how = "resumed" if path.exists() else "new"

def note(event):
    with (root / "calls.txt").open("a") as file:
        file.write(f"{event} {name} {how} {os.environ.get('OMP_NUM_THREADS')} "
                   f"{time.monotonic():.2f} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")

def stop(number, frame):
    note(f"stopped{number}")
    if not options.get("stubborn"):
        sys.exit(75)

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, stop)
print(f"step 1 of {name}", flush=True)
path.mkdir(parents=True, exist_ok=True)
lock = (path / "run.lock").open("a")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("error: in use", flush=True)
    note("rejected")
    sys.exit(2)
(path / "config.yaml").write_text(f"name: {name}")
note("begin")
deadline = time.monotonic() + options.get("seconds", 0)
while time.monotonic() < deadline:
    time.sleep(0.02)
if options.get("code", 0) == 0 and not options.get("forgets"):
    (path / "manifest.json").write_text(json.dumps({"finished": True}))
for line in options.get("says", []):
    print(line, flush=True)
note("end")
sys.exit(options.get("code", 0))
"""


@pytest.fixture(autouse=True)
def _handle_ctrl_c():
    """Restore the default handler: a background process ignores Ctrl-C, and so would a sweep."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Sweep:
    """A sweep file in its own folder, and the calls of the fake trainer."""

    def __init__(self, folder, presets=("demo/triplane", "demo/voxel", "demo/nerf_mlp"), **values):
        self.root = folder / "the runs"
        self.root.mkdir(parents=True)
        self.file = folder / "grid.yaml"
        self.file.write_text(yaml.safe_dump({"runs": list(presets), **values}))
        self.script = folder / "train.py"
        self.script.write_text(textwrap.dedent(TRAINER))
        self.record = self.root / "sweeps" / "grid" / "sweep.json"
        self.folder = SweepFolder(self.record.parent)
        self.entries = expand(*load_sweep(self.file), self.root)
        self.paths = {f"{e.preset}-s{e.seed}": str(e.path) for e in self.entries}
        self.script_runs()

    def script_runs(self, **by_kind):
        plan = {
            e.id: {"name": f"{e.preset}-s{e.seed}", "path": str(e.path)}
            | by_kind.get(e.preset.split("/")[1], {})
            for e in self.entries
        }
        (self.root / "plan.json").write_text(json.dumps(plan))

    def run(self, **options):
        """Run the sweep; `log` collects its messages."""
        self.log = []
        handler = logging.Handler()
        handler.emit = lambda record: self.log.append(record.getMessage())
        logger = logging.getLogger("lightning_gan3d.sweep")
        logger.setLevel("INFO")
        logger.addHandler(handler)
        try:
            return run_sweep(
                load_sweep(self.file),
                self.root,
                command=(sys.executable, str(self.script)),
                **options,
            )
        finally:
            logger.removeHandler(handler)

    @property
    def states(self):
        return [s.state for s in read_states(read_record(self.record), self.folder)]

    @property
    def calls(self):
        file = self.root / "calls.txt"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def test_runs_are_done_in_order_and_only_once(tmp_path):
    sweep = Sweep(tmp_path, seeds=[0, 1])
    assert sweep.run() == 0
    assert sweep.states == ["done"] * 6
    started = [name for event, name, *_ in sweep.calls if event == "begin"]
    assert started == [f"demo/{k}-s{s}" for s in (0, 1) for k in ("triplane", "voxel", "nerf_mlp")]
    assert sum(line.startswith("done") for line in sweep.log) == 6
    assert sweep.run() == 0
    assert len(sweep.calls) == 12
    assert all("already finished" in line for line in sweep.log[:-1])
    assert sweep.log[-1].startswith("sweep grid: 6 done; folder: ")


def test_a_failed_run_is_logged_and_does_not_stop_the_others(tmp_path):
    sweep = Sweep(tmp_path)
    lines = ["\x1b[31mfailed: D gradient not finite, step 812\x1b[0m", "", "  "]
    sweep.script_runs(voxel={"code": 4, "says": ["a traceback", *lines]})
    assert sweep.run() == 4
    assert sweep.states == ["done", "failed", "done"]
    (line,) = [line for line in sweep.log if line.startswith("failed")]
    assert "exit code 4: failed: D gradient not finite, step 812\n" in line
    assert ".log" in line
    assert "2 done, 1 failed" in sweep.log[-2]
    assert "--retry" in sweep.log[-1]
    failure = sweep.folder.failure(sweep.entries[1])
    assert failure == Failure(4, "failed: D gradient not finite, step 812")


def test_a_failed_run_is_run_again_on_request_alone(tmp_path):
    sweep = Sweep(tmp_path)
    sweep.script_runs(voxel={"code": 4, "says": ["no memory"]})
    assert sweep.run() == 4
    sweep.script_runs()
    assert sweep.run() == 4
    assert "failed     demo-voxel seed 0: before this start: no memory" in sweep.log
    assert sweep.states == ["done", "failed", "done"]
    loaded = load_sweep(sweep.file)
    assert plan_sweep(loaded, sweep.root).splitlines()[2].startswith("leave")
    assert plan_sweep(loaded, sweep.root, retry=True).splitlines()[2].startswith("retry")
    assert sweep.run(retry=True) == 0
    assert sweep.states == ["done"] * 3
    assert sum(event == "begin" for event, *_ in sweep.calls) == 4


def test_the_same_command_continues(tmp_path):
    sweep = Sweep(tmp_path)
    sweep.script_runs(voxel={"code": 75}, nerf_mlp={"code": 4, "says": ["broke"]})
    assert sweep.run() == 4
    assert sweep.states == ["done", "stopped", "failed"]
    sweep.script_runs(nerf_mlp={"code": 75})
    assert sweep.run(retry=True) == 75
    assert sweep.log[-1] == "the same command continues it"
    assert sweep.states == ["done", "done", "stopped"]
    sweep.script_runs()
    assert sweep.run() == 0
    started = [
        (name.split("/")[1], how) for event, name, how, *_ in sweep.calls if event == "begin"
    ]
    assert started == [
        ("triplane-s0", "new"),
        ("voxel-s0", "new"),
        ("nerf_mlp-s0", "new"),
        ("voxel-s0", "resumed"),
        ("nerf_mlp-s0", "resumed"),
        ("nerf_mlp-s0", "resumed"),
    ]


def test_exit_code_0_requires_a_finished_run(tmp_path):
    sweep = Sweep(tmp_path, presets=["demo/voxel"])
    sweep.script_runs(voxel={"forgets": True})
    assert sweep.run() == 4
    assert "exit code 0, but" in sweep.log[1]


def test_a_failure_without_output_has_its_exit_code(tmp_path):
    sweep = Sweep(tmp_path, presets=["demo/voxel"])
    sweep.script.write_text("raise SystemExit(9)")
    assert sweep.run() == 4
    assert "exit code 9: exit code 9, and an empty log" in sweep.log[1]


def spans(sweep):
    starts, out = {}, []
    for event, name, _, _, at, _ in sweep.calls:
        if event == "begin":
            starts[name] = float(at)
        else:
            out.append((starts[name], float(at)))
    return out


@pytest.mark.parametrize("jobs", [1, 2])
def test_jobs_run_in_parallel(tmp_path, jobs):
    sweep = Sweep(tmp_path, jobs=jobs, threads=3)
    sweep.script_runs(**{kind: {"seconds": 2} for kind in ("triplane", "voxel", "nerf_mlp")})
    assert sweep.run() == 0
    together = max(sum(a <= at < b for a, b in spans(sweep)) for at, _ in spans(sweep))
    assert together == jobs
    assert {threads for *_, threads, _, _ in sweep.calls} == {"3"}


def test_running_jobs_are_logged(tmp_path):
    sweep = Sweep(tmp_path, presets=["demo/voxel"])
    sweep.script_runs(voxel={"seconds": 0.8})
    sweep.run(heartbeat=0.1)
    assert any(x.startswith("running") and "step 1 of demo/voxel-s0" in x for x in sweep.log)


def test_a_plan_starts_nothing(tmp_path):
    sweep = Sweep(tmp_path, jobs=2, threads=1)
    assert plan_sweep(load_sweep(sweep.file), sweep.root).endswith(
        "3 to start; 2 at a time; 1 thread(s) each"
    )
    sweep.script_runs(voxel={"code": 75}, nerf_mlp={"code": 75})
    sweep.run()
    before = sorted(sweep.root.rglob("*"))
    lines = plan_sweep(load_sweep(sweep.file), sweep.root).splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == ["skip", "resume", "resume"]
    assert lines[-1].startswith("2 to resume, 1 to skip")
    assert sorted(sweep.root.rglob("*")) == before


def run_and_signal(sweep, *steps):
    """Run the sweep while a thread sends this process each signal after its condition."""
    before = {number: signal.getsignal(number) for number, _ in steps}

    def send():
        for number, condition in steps:
            wait_for(condition)
            assert signal.getsignal(number) is not before[number], "the signal would end the tests"
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    code = sweep.run()
    thread.join()
    assert {number: signal.getsignal(number) for number in before} == before
    return code


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def happened(sweep, event, times):
    return lambda: sum(call[0].startswith(event) for call in sweep.calls) == times


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_signal_reaches_every_run_once_and_starts_no_other(tmp_path, number):
    sweep = Sweep(tmp_path, jobs=2)
    sweep.script_runs(**{kind: {"seconds": 50} for kind in ("triplane", "voxel", "nerf_mlp")})
    assert run_and_signal(sweep, (number, happened(sweep, "begin", 2))) == 75
    assert sweep.states == ["stopped", "stopped", "planned"]
    stops = [event for event, *_ in sweep.calls if event.startswith("stopped")]
    assert stops == [f"stopped{int(number)}"] * 2
    assert "2 stopped, 1 planned" in sweep.log[-2]
    assert sweep.log[-1] == "the same command continues it"


def test_a_second_ctrl_c_kills(tmp_path):
    sweep = Sweep(tmp_path, presets=["demo/triplane", "demo/voxel"], jobs=2)
    sweep.script_runs(**{kind: {"seconds": 50, "stubborn": True} for kind in ("triplane", "voxel")})
    first = (signal.SIGINT, happened(sweep, "begin", 2))
    second = (signal.SIGINT, happened(sweep, "stopped", 2))
    assert run_and_signal(sweep, first, second) == 75
    assert sweep.states == ["stopped"] * 2


def test_the_last_line_is_from_this_attempt_and_the_latest_progress(tmp_path):
    folder = SweepFolder(tmp_path)
    entry = SweepEntry(
        preset="", overrides=(), seed=0, experiment="", representation="", path=tmp_path / "a" / "b"
    )

    def last_line(code):
        task = Task.start(folder, entry, command=[sys.executable, "-c", code])
        task.process.wait()
        return task.last_line()

    last_line("print('first')")
    assert last_line("print('10 %\\r20 %\\r')") == "20 %"
    assert last_line("") == ""


def in_thread(function, *arguments):
    """Start a function; return a function that waits for its value."""
    values = []
    thread = threading.Thread(target=lambda: values.append(function(*arguments)))
    thread.start()

    def value():
        thread.join()
        return values[0]

    return value


def test_one_process_at_a_time_runs_a_sweep(tmp_path):
    sweep = Sweep(tmp_path, presets=["demo/voxel"])
    sweep.script_runs(voxel={"seconds": 2})
    first = in_thread(sweep.run)
    wait_for(happened(sweep, "begin", 1))
    with pytest.raises(ConfigError, match=r"sweeps/grid: in use by pid \d+ on .*; wait for it"):
        run_sweep(load_sweep(sweep.file), sweep.root, command=(sys.executable, str(sweep.script)))
    assert first() == 0
    assert sweep.states == ["done"]


@pytest.mark.parametrize("known", [True, False])
def test_a_sweep_waits_for_runs_that_another_process_trains(tmp_path, monkeypatch, known):
    sweep = Sweep(tmp_path)
    sweep.script_runs(triplane={"seconds": 2})
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"runs": ["demo/triplane", "demo/voxel"]}))
    command = (sys.executable, str(sweep.script))
    first = in_thread(run_sweep, load_sweep(other), sweep.root, False, command)
    wait_for((Path(sweep.paths["demo/triplane-s0"]) / "config.yaml").is_file)
    if not known:  # the lock is taken between the look and the start
        holders = iter([""] * 3)
        monkeypatch.setattr(local, "lock_holder", lambda path: next(holders, lock_holder(path)))
    assert sweep.run() == 0
    assert first() == 0
    assert any(line.startswith("waiting    demo-triplane seed 0: trained by") for line in sweep.log)
    assert sweep.states == ["done"] * 3
    others = SweepFolder(sweep.root / "sweeps" / "other")
    states = read_states(read_record(others.path / "sweep.json"), others)
    assert [s.state for s in states] == ["done", "done"]
    ended = sorted(name for event, name, *_ in sweep.calls if event == "end")
    assert ended == ["demo/nerf_mlp-s0", "demo/triplane-s0", "demo/voxel-s0"]
    assert happened(sweep, "rejected", 0 if known else 1)()


def test_each_run_has_gpus_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "visible_gpus", lambda: ["0", "2", "5", "7"])
    sweep = Sweep(tmp_path, overrides=["training.device=auto", "training.microbatch=1"])
    sweep.script_runs(**{kind: {"seconds": 0.6} for kind in ("triplane", "voxel", "nerf_mlp")})
    assert sweep.run() == 0
    begun = [gpus for event, *_, gpus in sweep.calls if event == "begin"]
    assert sorted(begun) == ["0", "2", "5"]
    assert "start      demo-voxel seed 0 on GPU 2" in "\n".join(sweep.log)


def test_runs_of_several_gpus_do_not_share_them(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "visible_gpus", lambda: ["0", "1", "2", "3", "4"])
    sweep = Sweep(tmp_path, overrides=["training.devices=2", "training.microbatch=1"])
    sweep.script_runs(**{kind: {"seconds": 0.6} for kind in ("triplane", "voxel", "nerf_mlp")})
    assert sweep.run() == 0
    events = [(event, gpus) for event, *_, gpus in sweep.calls]
    assert sorted(events[:2]) == [("begin", "0,1"), ("begin", "2,3")]
    assert events[2][0] == "end"  # the third waits


def run_task_of(sweep, kind):
    """Run one task as a scheduler would; return its process."""
    sweep.folder.write(sweep.entries)
    (run,) = [e for e in sweep.entries if e.preset == f"demo/{kind}"]
    code = (
        "import sys; from pathlib import Path; from lightning_gan3d.sweep.task import run_task; "
        "sys.exit(run_task(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])[0])"
    )
    arguments = [str(sweep.folder.path), run.id, sys.executable, str(sweep.script)]
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE)


def test_a_task_forwards_the_warning_of_a_scheduler(tmp_path):
    sweep = Sweep(tmp_path)
    sweep.script_runs(voxel={"seconds": 50}, nerf_mlp={"code": 4, "says": ["no memory"]})
    process = run_task_of(sweep, "voxel")
    wait_for(happened(sweep, "begin", 1))
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    assert sweep.states == ["planned", "stopped", "planned"]
    process = run_task_of(sweep, "nerf_mlp")
    output, _ = process.communicate()
    assert process.returncode == 4
    assert b"demo-nerf_mlp seed 0: exit code 4: no memory\nlog: " in output
    assert sweep.states == ["planned", "stopped", "failed"]


def test_a_signal_before_a_process_is_known_reaches_it(tmp_path, monkeypatch):
    sweep = Sweep(tmp_path, jobs=2)
    sweep.script_runs(**{kind: {"seconds": 50} for kind in ("triplane", "voxel", "nerf_mlp")})
    genuine = Task.start.__func__

    def start(cls, *arguments):
        task = genuine(cls, *arguments)
        wait_for(happened(sweep, "begin", 1))
        os.kill(os.getpid(), signal.SIGTERM)
        return task

    monkeypatch.setattr(Task, "start", classmethod(start))
    assert sweep.run() == 75
    assert sweep.states == ["stopped", "planned", "planned"]


def test_removed_logs_do_not_end_a_sweep(tmp_path):
    sweep = Sweep(tmp_path, presets=["demo/voxel"])
    sweep.script_runs(voxel={"seconds": 1.5, "code": 4})
    value = in_thread(functools.partial(sweep.run, heartbeat=0.1))
    wait_for(happened(sweep, "begin", 1))
    shutil.rmtree(sweep.folder.path / "logs")
    assert value() == 4
    assert sweep.folder.failure(sweep.entries[0]).reason == "exit code 4, and an empty log"


def test_only_the_first_node_records_a_failure(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_NODEID", "1")
    sweep = Sweep(tmp_path)
    sweep.script_runs(voxel={"code": 4})
    earlier = Failure(4, "of node 0")
    sweep.folder.failed(sweep.entries[1], earlier)
    assert run_task_of(sweep, "voxel").wait() == 4
    assert sweep.folder.failure(sweep.entries[1]) == earlier
    assert [f.name.split(".")[-2] for f in (sweep.folder.path / "logs").iterdir()] == ["node1"]
