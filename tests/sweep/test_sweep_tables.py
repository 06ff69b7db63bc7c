"""Status and collected results of runs that are made by hand."""

import csv
import json

import pytest
import yaml

from lightning_gan3d.config import ConfigError, to_yaml
from lightning_gan3d.metric import Metric, missing, write_metrics
from lightning_gan3d.sweep import tables
from lightning_gan3d.sweep.plan import expand, load_sweep
from lightning_gan3d.sweep.states import Failure, SweepFolder, read_states
from lightning_gan3d.sweep.tables import collect_sweep, plan_sweep, sweep_status, watch_status
from lightning_gan3d.training.processes import run_lock


class Sweep:
    """Four runs of one preset; the methods change them as a launcher would."""

    def __init__(self, folder):
        self.root, file = folder / "runs", folder / "grid.yaml"
        grid = {"training.batch": [4, 8]}
        file.write_text(yaml.safe_dump({"runs": ["demo/voxel"], "grid": grid, "seeds": [0, 1]}))
        self.loaded = load_sweep(file)
        self.runs = expand(*self.loaded, self.root)
        self.folder = SweepFolder(self.root / "sweeps" / "grid")
        self.folder.write(self.runs)

    def start(self, number, kimg, finished=False, metrics=()):
        run = self.runs[number]
        run.path.mkdir(parents=True)
        (run.path / "config.yaml").write_text(to_yaml(run.config))
        (run.path / "manifest.json").write_text(json.dumps({"finished": finished}))
        rows = [
            {"step": n, "kimg": kimg * n / 2, "seconds": n, **({"speed/img_s": 4} if n < 2 else {})}
            for n in (1, 2)
        ]
        text = "\n".join(map(json.dumps, rows)) + '\n{"step": 3, "ki'
        (run.path / "metrics.jsonl").write_text(text)
        if metrics:
            write_metrics(run.path / "evaluation.json", metrics)
        return run

    @property
    def states(self):
        return [s.state for s in read_states(self.runs, self.folder)]


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path)


def test_status_shows_progress_time_left_and_reasons(sweep):
    sweep.start(0, 6.0, finished=True)
    running = sweep.start(1, 1.5)
    sweep.folder.failed(sweep.runs[2], Failure(4, "no memory"))
    sweep.start(3, 0.5)
    with run_lock(running.path):
        assert sweep.states == ["done", "running", "failed", "stopped"]
        head, *rows, total = sweep_status(sweep.loaded, sweep.root).splitlines()
    assert head.split() == ["experiment", "batch", "seed", "kimg", "img/s", "left"]
    assert rows[0].split() == ["done", "demo-voxel", "4", "0", "6", "of", "6"]
    assert rows[1].split()[4:9] == ["1.5", "of", "6", "4.0", "0:18:45"]
    assert "pid " in rows[1]
    assert rows[2].endswith("exit code 4: no memory")
    assert total == "1 done, 1 running, 1 stopped, 1 failed"
    assert [line.split()[0] for line in plan_sweep(sweep.loaded, sweep.root).splitlines()[1:5]] == [
        "skip", "resume", "leave", "resume",
    ]  # fmt: skip


def test_status_names_the_jobs_of_runs_that_wait(sweep, monkeypatch):
    sweep.start(1, 0.5)
    jobs = {sweep.runs[0].id: "7_0", sweep.runs[1].id: "7_1"}
    monkeypatch.setattr(tables, "queued", lambda _: jobs)
    rows = sweep_status(sweep.loaded, sweep.root).splitlines()
    assert [row.endswith(f"queued: job 7_{i}") for i, row in enumerate(rows[1:4])] == [
        True, True, False,
    ]  # fmt: skip
    sweep.folder.failed(sweep.runs[0], Failure(4, "before --retry"))
    assert "before --retry" not in sweep_status(sweep.loaded, sweep.root)


def test_the_live_table_ends_with_the_last_run(sweep, monkeypatch, capsys):
    for number in range(3):
        sweep.start(number, 6.0, finished=True)
    slept = []

    def finish_the_last(seconds):
        slept.append(seconds)
        sweep.start(3, 6.0, finished=True)

    monkeypatch.setattr(tables.time, "sleep", finish_the_last)
    watch_status(sweep.loaded, sweep.root)
    assert slept == [tables.REFRESH]
    assert "4 done" in capsys.readouterr().out


def test_results_are_collected_run_by_run(sweep, tmp_path):
    values = [
        Metric("quality.swd", 0.25, items=(0.2, 0.3), n=2),
        Metric("quality.sharpness", 0.5, "share"),
        missing("refit.deficit", "not computed", "dB"),
        Metric("consistency.psnr", 20.0, "dB", at=0.25),
    ]
    sweep.start(0, 6.0, finished=True, metrics=values)
    sweep.start(2, 6.0, finished=True, metrics=values[:1])
    sweep.folder.failed(sweep.runs[3], Failure(-9, "killed"))
    out = tmp_path / "elsewhere" / "table.csv"
    text = collect_sweep(sweep.loaded, sweep.root, out)
    assert text.splitlines()[0].endswith("batch 8, seed 1: exit code -9: killed")
    assert text.splitlines()[-1].startswith("2 done, 1 failed, 1 planned; 2 metrics of 2 runs")
    rows = list(csv.DictReader(out.open()))
    assert [(r["batch"], r["seed"], r["state"]) for r in rows] == [
        ("4", "0", "done"), ("8", "0", "planned"), ("4", "1", "done"), ("8", "1", "failed"),
    ]  # fmt: skip
    assert [r["quality.swd"] for r in rows] == ["0.25", "", "0.25", ""]
    assert list(rows[0])[-2:] == ["quality.swd", "quality.sharpness"]
    collect_sweep(sweep.loaded, sweep.root)
    assert (sweep.folder.path / "results.csv").read_text() == out.read_text()


def test_a_changed_file_adds_only_what_is_new(sweep, tmp_path):
    for number in range(4):
        sweep.start(number, 6.0, finished=True)
    grid = {"training.batch": [4, 8, 16]}
    values = {"runs": ["demo/voxel"], "grid": grid, "seeds": [0, 1, 2]}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(values))
    text = plan_sweep(load_sweep(tmp_path / "grid.yaml"), sweep.root)
    assert "5 to start, 4 to skip" in text


def test_a_sweep_that_still_chooses_runs_has_not_ended(sweep):
    for number in range(4):
        sweep.start(number, 6.0, finished=True)
    states = read_states(sweep.runs, sweep.folder)
    assert sweep.folder.has_ended(states)
    with run_lock(sweep.folder.path):
        assert not sweep.folder.has_ended(states)


def test_an_edited_configuration_is_not_started(sweep):
    file = sweep.folder.config(sweep.runs[0])
    file.write_text(file.read_text().replace("kimg: 6.0", "kimg: 7.0"))
    with pytest.raises(ConfigError, match=r"is now demo-voxel-.*: it was edited"):
        sweep.folder.entry(sweep.runs[0].id)


def test_runs_start_from_the_configuration_that_was_planned(sweep):
    run = sweep.runs[0]
    file = sweep.folder.config(run)
    assert file.name == f"{run.id}.yaml" == f"demo-voxel-{run.path.name}.yaml"
    assert file.read_text() == to_yaml(run.config)
    entry = sweep.folder.entry(run.id)
    assert (entry.id, entry.path, entry.kimg) == (run.id, run.path, 6.0)
    with pytest.raises(ConfigError, match=r"has no run other-s0: .*other-s0\.yaml is missing"):
        sweep.folder.entry("other-s0")
