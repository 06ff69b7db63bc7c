"""The page about a sweep that runs."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import wandb
from fabricated_runs import make_run
from PIL import Image
from wandb_server import WandbServer

from lightning_gan3d.config import ConfigError
from lightning_gan3d.report import dashboard as dashboard_file
from lightning_gan3d.report.dashboard import CHARTS, Dashboard, find_folder
from lightning_gan3d.report.logged_curves import POINTS, LoggedCurves, mean_curve, read_curves
from lightning_gan3d.sweep.plan import SWEEP_FILE, SweepEntry, write_record
from lightning_gan3d.sweep.states import Failure, SweepFolder
from lightning_gan3d.training.processes import run_lock


def write_rows(file, num, of_row=lambda _: {}):
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"step": i, "kimg": i / 10, "loss/G": 0.5 + i, **of_row(i)} for i in range(1, num + 1)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def sweep(tmp_path):
    """A sweep with a run in each state: done, running, stopped, failed, planned."""
    entries = []
    for seed, kind in enumerate(("triplane", "voxel", "voxel", "voxel", "image2d")):
        path = tmp_path / "runs" / kind / f"0badf00d-s{seed}"
        entry = SweepEntry(
            preset=f"demo/{kind}",
            overrides=(),
            seed=seed,
            experiment=kind,
            representation=kind,
            path=path,
            kimg=8.0,
            arm=f"{kind} <b>",
        )
        entries.append(entry)
        if kind != "image2d":
            make_run(tmp_path / "runs", kind, seed, finished=seed == 0, variant="0badf00d")
    folder = SweepFolder(tmp_path / "runs/sweeps/mine")
    write_record(folder.path / SWEEP_FILE, entries)
    folder.failed(entries[3], Failure(4, "OSError: /home/me/data/x.zip: no such file"))
    grid = entries[1].path / "samples/000004.000kimg.png"
    grid.parent.mkdir()
    Image.new("RGB", (640, 640), "red").save(grid)
    with run_lock(entries[1].path):
        yield folder.path


class Checker(HTMLParser):
    """Counts elements, and requires that each is closed."""

    VOID = frozenset({"meta", "img", "source", "br"})

    def __init__(self, page):
        super().__init__()
        self.open, self.count = [], {}
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, _):
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, _):
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_shows_states_progress_curves_samples_and_metrics(sweep, tmp_path):
    board = Dashboard(find_folder(str(sweep), tmp_path))
    states = board.write(reload=5.0)
    assert [s.state for s in states] == ["done", "running", "stopped", "failed", "planned"]
    page = board.out.read_text()
    count = Checker(page).count
    assert board.out == sweep / "dashboard.html"
    assert '<meta http-equiv="refresh" content="5">' in page
    assert "50.0 %" in page  # 8 + 4 + 4 + 4 + 0 of 40 kimg
    assert count["svg"] == 3  # SWD, loss of G and D
    assert "voxel &lt;b&gt;: 0.7" in page
    assert page.count("data:image/webp;base64,") == 1
    assert "OSError: …: no such file" in page
    assert str(tmp_path) not in page
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page


def test_the_page_links_the_report_beside_it(sweep, tmp_path):
    (sweep / "report").mkdir()
    (sweep / "report/index.html").touch()
    for out, expected in ((None, True), (tmp_path / "elsewhere.html", False)):
        board = Dashboard(sweep, out)
        board.write()
        assert ('href="report/index.html"' in board.out.read_text()) == expected


def test_watching_ends_with_the_last_run(sweep, monkeypatch):
    pages, board = [], Dashboard(sweep)
    monkeypatch.setattr(SweepFolder, "has_ended", lambda *_: len(pages) == 2)
    monkeypatch.setattr(dashboard_file.time, "sleep", lambda s: pages.append(s))
    board.watch(7.0)
    assert pages == [7.0, 7.0]
    assert "http-equiv" not in board.out.read_text()  # the last page does not reload


def test_only_runs_with_new_rows_are_read_again(sweep, monkeypatch):
    read = []
    monkeypatch.setattr(dashboard_file, "read_curves", lambda file, keys: read.append(file) or
                        read_curves(file, keys))  # fmt: skip
    board = Dashboard(sweep)
    board.write()
    first = len(read)
    entry = board.states()[1].entry
    with (entry.path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 9, "kimg": 5.0, "loss/G": 0.123}) + "\n")
    board.write()
    assert read[first:] == [entry.path / "metrics.jsonl"]
    assert "0.123" in board.out.read_text()


def test_curves_keep_some_rows_all_evaluations_and_the_last(tmp_path):
    file = tmp_path / "metrics.jsonl"
    write_rows(file, 10_000, lambda i: {"eval/swd": i} if i % 1000 == 0 else {})
    with file.open("a") as stream:
        stream.write('{"step": 10001, "kimg": 1000.1, "loss/G": null}\n{"step": 10002, "ki')
    curves = read_curves(file, list(CHARTS))
    assert list(curves.values["eval/swd"]) == list(range(1000, 10_001, 1000))
    assert POINTS / 2 < len(curves.values["loss/G"]) < 2 * POINTS
    assert [*curves.kimg["loss/G"]] == sorted(curves.kimg["loss/G"])
    write_rows(file, 4242)
    assert read_curves(file, ["loss/G"]).newest == {"loss/G": 4242.5}
    assert read_curves(tmp_path / "missing", ["loss/G"]).newest == {}


def test_the_mean_is_that_of_the_runs_that_have_come_so_far(tmp_path):
    curves = []
    for number, (length, slope) in enumerate(((10, 1.0), (20, 3.0))):
        write_rows(tmp_path / f"{number}.jsonl", length, lambda i, s=slope: {"x": s * i})
        curves.append(read_curves(tmp_path / f"{number}.jsonl", ["x"]))
    mean = mean_curve(curves, "x")
    half = mean.kimg <= 1.0
    np.testing.assert_allclose(mean.mean[half], 20 * mean.kimg[half])
    np.testing.assert_allclose(mean.mean[~half], 30 * mean.kimg[~half])
    np.testing.assert_allclose(mean.low[half], 10 * mean.kimg[half])
    assert mean_curve(curves, "y") is None
    assert mean_curve([LoggedCurves()], "x") is None


def test_a_sweep_that_was_not_started_is_named(tmp_path):
    with pytest.raises(ConfigError, match="demo/sweep"):
        Dashboard(find_folder("demo", tmp_path))
    assert re.search("sweeps/demo$", str(find_folder("demo", tmp_path)))


def test_the_wandb_report_has_the_same_table_and_plots(sweep, monkeypatch):
    pytest.importorskip("wandb_workspaces")
    from lightning_gan3d.report.wandb_report import save_report

    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
        address = save_report(Dashboard(sweep), "team/p")
        wandb.teardown()
    assert address.startswith(f"{server.url}/team/p/reports/mine")
    (report,) = server.reports
    spec = report["spec"]
    for text in ('"xAxis":"kimg"', '"metrics":["eval/swd"]', '"metrics":["loss/G"]', "samples"):
        assert text in spec
    assert "voxel-0badf00d-s1" in spec  # the id of its W&B run
    assert "1 running, 1 stopped, 1 failed" in spec
    assert str(sweep.parents[2]) not in server.received.decode()


@pytest.mark.parametrize("project", ["team", "team/", "a/b/c"])
def test_the_wandb_project_has_an_entity(sweep, project):
    from lightning_gan3d.report.wandb_report import wandb_report

    with pytest.raises(ConfigError, match="give ENTITY/PROJECT"):
        wandb_report(Dashboard(sweep), project)


def test_many_arms_are_sorted_and_the_best_have_colours(tmp_path):
    entries = []
    for i in range(12):
        path = tmp_path / f"runs/voxel/{i:08x}-s0"
        make_run(tmp_path / "runs", "voxel", variant=f"{i:08x}", shift=0.1 - 0.001 * i)
        entry = {"preset": "demo/voxel", "overrides": (), "seed": 0, "experiment": "voxel"}
        entry |= {"representation": "voxel", "path": path, "kimg": 8.0, "arm": f"arm {i}"}
        entries.append(SweepEntry(**entry))
    write_record(tmp_path / "sweep" / SWEEP_FILE, entries)
    board = Dashboard(tmp_path / "sweep")
    arms = board.arms(board.states())
    assert [arm.label for arm in arms] == [f"arm {i}" for i in reversed(range(12))]
    board.write()
    page = board.out.read_text()
    assert page.count('<span class="dot">') == 9
    assert "The 9 of 12 arms with the lowest SWD come first and have colours." in page
