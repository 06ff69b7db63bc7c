"""Sweeps of a stand-in for `gan3d train`, which does what its overrides tell it to do."""

import json
import os
import signal
import sys
import textwrap
import threading
import time

import pytest
import yaml

from lightning_gan3d.sweep.config import expand, load_sweep
from lightning_gan3d.sweep.local import plan_sweep, run_sweep
from lightning_gan3d.sweep.process import Job
from lightning_gan3d.sweep.record import read_record

# `plan.json` in the root says, by name of the run: the exit code, and how long it takes.
TRAINER = """
import json, os, signal, sys, time
from pathlib import Path

preset, *rest = sys.argv[1:]
root = Path(rest[rest.index("--root") + 1])
seed = next(a for a in rest if a.startswith("seed=")).removeprefix("seed=")
name = f"{preset}-s{seed}"
told = json.loads((root / "plan.json").read_text()).get(name, {})
path = Path(told["path"]) if "path" in told else None

def note(what):
    with (root / "calls.txt").open("a") as file:
        file.write(f"{what} {name} {'resumed' if '--resume' in rest else 'new'} "
                   f"{os.environ.get('OMP_NUM_THREADS')} {time.monotonic():.2f}\\n")

def stop(number, frame):
    note(f"stopped{number}")
    if not told.get("stubborn"):
        sys.exit(75)

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
note("begin")
print(f"step 1 of {name}", flush=True)
if path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.yaml").write_text(f"name: {name}")
deadline = time.monotonic() + told.get("seconds", 0)
while time.monotonic() < deadline:
    time.sleep(0.02)
if path and told.get("code", 0) == 0 and not told.get("forgets"):
    (path / "manifest.json").write_text(json.dumps({"finished": True}))
for line in told.get("says", []):
    print(line, flush=True)
note("end")
sys.exit(told.get("code", 0))
"""


class Sweep:
    """A sweep file in a folder of its own, and what its stand-ins did."""

    def __init__(self, folder, presets=("demo/triplane", "demo/voxel", "demo/nerf_mlp"), **values):
        self.root = folder / "the runs"
        self.root.mkdir(parents=True)
        self.file = folder / "grid.yaml"
        self.file.write_text(yaml.safe_dump({"runs": list(presets), **values}))
        self.script = folder / "train.py"
        self.script.write_text(textwrap.dedent(TRAINER))
        self.record = self.root / "sweeps" / "grid" / "sweep.json"
        entries = expand(*load_sweep(self.file), self.root)
        self.paths = {f"{e.preset}-s{e.seed}": str(e.path) for e in entries}
        self.tell()

    def tell(self, **by_kind):
        plan = {
            name: {"path": path} | by_kind.get(name.split("/")[1].partition("-")[0], {})
            for name, path in self.paths.items()
        }
        (self.root / "plan.json").write_text(json.dumps(plan))

    def run(self, **options):
        self.said = []
        command = (sys.executable, str(self.script))
        return run_sweep(self.file, self.root, command, say=self.said.append, **options)

    @property
    def states(self):
        return [e.state for e in read_record(self.record)]

    @property
    def calls(self):
        file = self.root / "calls.txt"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def test_all_runs_are_done_in_order_and_not_again(tmp_path):
    sweep = Sweep(tmp_path, seeds=[0, 1])
    assert sweep.run() == 0
    assert sweep.states == ["done"] * 6
    begun = [name for what, name, *_ in sweep.calls if what == "begin"]
    assert begun == [f"demo/{k}-s{s}" for s in (0, 1) for k in ("triplane", "voxel", "nerf_mlp")]
    assert sum(line.startswith("done") for line in sweep.said) == 6
    assert sweep.run() == 0
    assert len(sweep.calls) == 12
    assert all("was finished before" in line for line in sweep.said[:-1])
    assert sweep.said[-1].startswith("sweep grid: 6 done; record: ")


def test_one_failure_stops_no_other_and_is_told(tmp_path):
    sweep = Sweep(tmp_path)
    lines = ["\x1b[31mfailed: D gradient not finite, step 812\x1b[0m", "", "  "]
    sweep.tell(voxel={"code": 4, "says": ["a traceback", *lines]})
    assert sweep.run() == 4
    assert sweep.states == ["done", "failed", "done"]
    (line,) = [line for line in sweep.said if line.startswith("failed")]
    assert "exit code 4: failed: D gradient not finite, step 812\n" in line
    assert ".log" in line
    assert "2 done, 1 failed" in sweep.said[-1]
    entry = read_record(sweep.record)[1]
    assert (entry.exit_code, entry.last_line) == (4, "failed: D gradient not finite, step 812")


def test_the_same_command_goes_on_where_it_stopped(tmp_path):
    sweep = Sweep(tmp_path)
    sweep.tell(voxel={"code": 75}, nerf_mlp={"code": 4, "says": ["broke"]})
    assert sweep.run() == 4
    assert sweep.states == ["done", "preempted", "failed"]
    sweep.tell(nerf_mlp={"code": 75})
    assert sweep.run() == 75
    assert sweep.said[-1] == "the same command continues it"
    assert sweep.states == ["done", "done", "preempted"]
    sweep.tell()
    assert sweep.run() == 0
    begun = [(name.split("/")[1], how) for what, name, how, *_ in sweep.calls if what == "begin"]
    assert begun == [
        ("triplane-s0", "new"),
        ("voxel-s0", "new"),
        ("nerf_mlp-s0", "new"),
        ("voxel-s0", "resumed"),
        ("nerf_mlp-s0", "resumed"),
        ("nerf_mlp-s0", "resumed"),
    ]


def test_a_claim_to_be_done_is_checked(tmp_path):
    sweep = Sweep(tmp_path, presets=["demo/voxel"])
    sweep.tell(voxel={"forgets": True})
    assert sweep.run() == 4
    assert "exit code 0, but" in sweep.said[1]


def test_a_failure_without_a_word_says_so(tmp_path):
    sweep = Sweep(tmp_path, presets=["demo/voxel"])
    sweep.script.write_text("raise SystemExit(9)")
    assert sweep.run() == 4
    assert "exit code 9: exit code 9, and an empty log" in sweep.said[1]


def spans(sweep):
    begun, out = {}, []
    for what, name, _, _, at in sweep.calls:
        if what == "begin":
            begun[name] = float(at)
        else:
            out.append((begun[name], float(at)))
    return out


@pytest.mark.parametrize("jobs", [1, 2])
def test_as_many_run_side_by_side_as_asked_for(tmp_path, jobs):
    sweep = Sweep(tmp_path, jobs=jobs, threads=3)
    sweep.tell(**{kind: {"seconds": 0.6} for kind in ("triplane", "voxel", "nerf_mlp")})
    assert sweep.run() == 0
    together = max(sum(a <= at < b for a, b in spans(sweep)) for at, _ in spans(sweep))
    assert together == jobs
    assert {threads for *_, threads, _ in sweep.calls} == {"3"}


def test_running_ones_are_heard_of(tmp_path):
    sweep = Sweep(tmp_path, presets=["demo/voxel"])
    sweep.tell(voxel={"seconds": 0.8})
    sweep.run(heartbeat=0.1)
    assert any(x.startswith("running") and "step 1 of demo/voxel-s0" in x for x in sweep.said)


def test_a_plan_starts_nothing(tmp_path):
    sweep = Sweep(tmp_path, jobs=2, threads=1)
    assert plan_sweep(sweep.file, sweep.root).endswith("3 to start; 2 at a time, 1 thread(s) each")
    sweep.tell(voxel={"code": 75}, nerf_mlp={"code": 75})
    sweep.run()
    before = sorted(sweep.root.rglob("*"))
    lines = plan_sweep(sweep.file, sweep.root).splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["skip", "resume", "resume"]
    assert lines[-1].startswith("2 to resume, 1 to skip")
    assert sorted(sweep.root.rglob("*")) == before


def run_and_signal(sweep, *steps):
    """Run here, while a thread sends (signal, condition to wait for first) to this process."""
    usual = {number: signal.getsignal(number) for number, _ in steps}

    def send():
        for number, condition in steps:
            wait_for(condition)
            assert signal.getsignal(number) is not usual[number], "the signal would end the tests"
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    code = sweep.run()
    thread.join()
    assert {number: signal.getsignal(number) for number in usual} == usual
    return code


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def happened(sweep, what, times):
    return lambda: sum(call[0].startswith(what) for call in sweep.calls) == times


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_stop_reaches_every_run_once_and_starts_no_other(tmp_path, number):
    sweep = Sweep(tmp_path, jobs=2)
    sweep.tell(**{kind: {"seconds": 50} for kind in ("triplane", "voxel", "nerf_mlp")})
    assert run_and_signal(sweep, (number, happened(sweep, "begin", 2))) == 75
    assert sweep.states == ["preempted", "preempted", "planned"]
    passed = signal.SIGTERM if number == signal.SIGHUP else number
    stops = [what for what, *_ in sweep.calls if what.startswith("stopped")]
    assert stops == [f"stopped{int(passed)}"] * 2
    assert "2 preempted, 1 not begun" in sweep.said[-2]
    assert sweep.said[-1] == "the same command continues it"


def test_a_second_ctrl_c_kills(tmp_path):
    sweep = Sweep(tmp_path, presets=["demo/triplane", "demo/voxel"], jobs=2)
    sweep.tell(**{kind: {"seconds": 50, "stubborn": True} for kind in ("triplane", "voxel")})
    first = (signal.SIGINT, happened(sweep, "begin", 2))
    second = (signal.SIGINT, happened(sweep, "stopped", 2))
    assert run_and_signal(sweep, first, second) == 4
    assert [e.exit_code for e in read_record(sweep.record)] == [-9, -9]


def test_the_last_line_is_that_of_this_attempt_and_of_a_progress_bar(tmp_path):
    log = tmp_path / "logs" / "a.log"
    for text in ("first", "10 %\\r20 %\\r"):
        job = Job.start([sys.executable, "-c", f"print('{text}')"], log, os.environ)
        job.process.wait()
    assert job.last_line() == "20 %"
    job = Job.start([sys.executable, "-c", ""], log, os.environ)
    job.process.wait()
    assert job.last_line() == ""
