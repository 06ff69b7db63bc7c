import pytest
import yaml
from fabricated_runs import make_run, metric_of

from lightning_gan3d.config import ConfigError
from lightning_gan3d.metric import parse_key, write_metrics
from lightning_gan3d.report.records import find_runs, read_run
from lightning_gan3d.sweep.plan import SweepEntry, write_record
from lightning_gan3d.sweep.states import Failure, SweepFolder


def value(record, name):
    return record.metric(parse_key(name)).value


def test_a_finished_run_is_read_in_full(tmp_path):
    path = make_run(tmp_path, "voxel", 3)
    record = read_run(path)
    assert (record.experiment, record.representation, record.seed) == ("voxel", "voxel", 3)
    assert record.name == f"voxel/{path.name}"
    assert record.gap == ""
    assert record.problems == ()
    assert value(record, "quality.swd") == 0.027
    assert value(record, "speed.view_ms") == 4.4
    assert value(record, "training.kimg") == 8.0
    assert record.metric(parse_key("training.seconds")).unit == "s"


def test_an_unfinished_run_has_no_values_and_states_its_progress(tmp_path):
    record = read_run(make_run(tmp_path, "voxel", finished=False))
    assert record.gap == "unfinished: stopped at 4 of 8 kimg"
    m = record.metric(parse_key("quality.swd"))
    assert m.value is None
    assert m.note == record.gap
    assert record.curve("eval/swd", "kimg")[0] == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("missing_file", "metric", "reason"),
    [
        ("evaluation.json", "refit.psnr", "no evaluation.json: run `gan3d evaluate`"),
        ("bench.json", "speed.view_ms", "no bench.json: run `gan3d bench`"),
        (None, "refit.other", "not in evaluation.json"),
        (None, "growth.grid.scene_bytes@8", "not in bench.json"),
    ],
)
def test_missing_metrics_state_their_command(tmp_path, missing_file, metric, reason):
    path = make_run(tmp_path, "triplane")
    if missing_file:
        (path / missing_file).unlink()
    m = read_run(path).metric(parse_key(metric))
    assert m.value is None
    assert reason in m.note


@pytest.mark.parametrize(
    ("file", "text", "gap"),
    [
        ("config.yaml", "", "holds no configuration"),
        ("config.yaml", "{name: [", "config.yaml cannot be read"),
        ("config.yaml", "- a\n- b", "holds no configuration"),
        ("config.yaml", "!!python/object/apply:os.getcwd []", "config.yaml cannot be read"),
        ("manifest.json", '{"finished": tr', "unfinished: stopped at 8 of 8 kimg"),
        ("manifest.json", "[1]", "unfinished"),
    ],
)
def test_a_run_that_cannot_be_read_is_a_gap_with_the_reason(tmp_path, file, text, gap):
    path = make_run(tmp_path, "voxel")
    (path / file).write_text(text)
    record = read_run(path)
    assert gap in record.gap
    assert value(record, "quality.swd") is None


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '[{"metric": "a"}]', '[{"metric": "a", "value": NaN}]', '{"a": 1}']
)
def test_broken_metrics_are_missing_with_the_reason_and_the_others_stay(tmp_path, text):
    path = make_run(tmp_path, "voxel")
    (path / "evaluation.json").write_text(text)
    record = read_run(path)
    assert record.gap == ""
    m = record.metric(parse_key("refit.psnr"))
    assert m.value is None
    assert m.note.startswith("evaluation.json cannot be read")
    assert value(record, "speed.view_ms") == 4.4


def test_rows_survive_a_truncated_last_line_and_values_that_are_not_numbers(tmp_path):
    path = make_run(tmp_path, "voxel")
    with (path / "metrics.jsonl").open("a") as file:
        file.write(
            '{"step": 9, "kimg": 9, "eval/swd": null}\n{"step": 9, "kimg": null}\n{"kimg": 10, "ev'
        )
    record = read_run(path)
    assert record.last["kimg"] == 9
    assert len(record.curve("eval/swd", "kimg")[0]) == 8
    (path / "metrics.jsonl").write_text('nonsense\n{"step": 1, "kimg": 1}\n')
    record = read_run(path)
    assert record.rows == ()
    assert "metrics.jsonl" in record.problems[0]


def test_odd_configurations_keep_their_readable_fields(tmp_path):
    path = make_run(tmp_path, "voxel")
    (path / "config.yaml").write_text(yaml.safe_dump({"name": "x", "generator": "y", "seed": "z"}))
    record = read_run(path)
    assert (record.experiment, record.representation, record.seed) == ("x", "unknown", None)


def test_runs_are_read_below_folders_once_and_not_inside_runs(tmp_path):
    a, b = make_run(tmp_path, "voxel"), make_run(tmp_path, "triplane", 1)
    (a / "checkpoints" / "step-100").mkdir(parents=True)
    (a / "checkpoints" / "step-100" / "config.yaml").write_text("name: inner")
    records = find_runs([tmp_path, a, b.parent])
    assert [r.path for r in records] == [b, a]


def test_missing_paths_and_empty_folders_are_rejected(tmp_path):
    with pytest.raises(ConfigError, match="no such directory"):
        find_runs([tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match="no run in"):
        find_runs([tmp_path])
    with pytest.raises(ConfigError, match="no run in"):
        find_runs([])


def entry(path, seed):
    return SweepEntry(
        preset="p", overrides=("seed=0",), seed=seed, experiment="voxel", representation="voxel",
        path=path,
    )  # fmt: skip


@pytest.mark.parametrize("by_file", [True, False])
def test_a_planned_run_that_was_never_started_is_a_gap(tmp_path, by_file):
    path = make_run(tmp_path, "voxel")
    absent, broken = path.with_name("0000022e-s1"), path.with_name("0000022e-s2")
    record = tmp_path / "sweeps" / "s" / "sweep.json"
    entries = [entry(path, 0), entry(absent, 1), entry(broken, 2)]
    write_record(record, entries)
    SweepFolder(record.parent).failed(entries[2], Failure(4, "no memory"))
    records = find_runs([record if by_file else tmp_path])
    assert [r.seed for r in records] == [0, 1, 2]
    assert [r.gap for r in records] == [
        "",
        "not started",
        "failed before the first step: no memory",
    ]
    assert len({r.variant for r in records}) == 1


def test_the_sweep_states_why_an_unfinished_run_failed(tmp_path):
    path = make_run(tmp_path, "voxel", finished=False)
    record = tmp_path / "sweep.json"
    write_record(record, [entry(path, 0)])
    SweepFolder(tmp_path).failed(entry(path, 0), Failure(4, "D gradient not finite"))
    assert find_runs([tmp_path])[0].gap.endswith("; sweep: D gradient not finite")


def test_a_broken_sweep_record_is_rejected_by_name(tmp_path):
    make_run(tmp_path, "voxel")
    (tmp_path / "sweep.json").write_text('{"runs": [{"seed": 1}]}')
    with pytest.raises(ConfigError, match=r"sweep\.json: not a sweep record"):
        find_runs([tmp_path])


def test_a_missing_metric_keeps_its_own_reason(tmp_path):
    path = make_run(tmp_path, "image2d")
    m = read_run(path).metric(parse_key("consistency.psnr"))
    assert m.note == "no depth is rendered, so nothing can be warped"
    write_metrics(path / "bench.json", [metric_of("speed.view_ms", 1.0, "ms", 3)])
    assert value(read_run(path), "speed.view_ms") == 1.0
