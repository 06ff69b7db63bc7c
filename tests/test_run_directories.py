import json
import resource
import signal

import pytest

from lightning_gan3d import files, runs
from lightning_gan3d.config import ConfigError
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.runs import Run, read_rows


def test_run_reads_the_files_of_its_directory(tmp_path):
    config = load_experiment("demo/triplane", ["seed=3"])
    path = runs.run_path(config, tmp_path)
    assert path == tmp_path / config.name / f"{config.hash}-s3"
    path.mkdir(parents=True)
    with pytest.raises(ConfigError, match="not a run directory"):
        Run(path)
    runs.write_config(path, config)
    run = Run(path)
    assert run.config() == config
    assert (run.manifest(), run.metrics(), run.finished) == ({}, [], False)
    files.write_json(path / "manifest.json", {"finished": True})
    runs.append_row(path / "metrics.jsonl", {"step": 1, "loss/G": float("inf")})
    assert run.finished
    assert run.metrics() == [{"step": 1, "loss/G": None}]


def test_incomplete_last_rows_are_dropped_and_broken_rows_are_located(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 2}\n{"step": 4}\n{"st')
    assert list(runs.read_rows(file)) == [{"step": 2}, {"step": 4}]
    runs.drop_rows_after(file, 2)
    assert file.read_text() == '{"step": 2}\n'
    for text in ('{"step": 2}\n{"st\n{"step": 6}\n', '{"step": 2}\n\xff\n'):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"metrics.jsonl:2 is no row"):
            list(runs.read_rows(file))


def test_provenance_has_versions_and_commit():
    provenance = files.provenance(["gan3d", "train", "x"])
    assert provenance["command"] == ["gan3d", "train", "x"]
    assert set(provenance["versions"]) == {"python", "torch", "torchvision", "lightning", "numpy"}
    assert "commit" in provenance
    assert json.dumps(provenance)


def test_a_row_that_does_not_fit_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "metrics.jsonl"
    runs.append_row(path, {"step": 1})
    size = path.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, before[1]))  # bytes of a file
    try:
        with pytest.raises(OSError, match="File too large"):
            runs.append_row(path, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.stat().st_size == size
    runs.append_row(path, {"step": 2})
    assert [row["step"] for row in runs.read_rows(path)] == [1, 2]


@pytest.mark.parametrize(
    "content", [b"", b'{"finished": tr', b"[1]", b"7", b"\xff\xfe{}", b"[" * 100_000]
)
def test_a_damaged_manifest_is_an_error_and_set_aside_by_a_training(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"manifest.json: damaged"):
        runs.read_manifest(tmp_path)
    assert len(list(runs.repair(tmp_path))) == 1
    assert runs.read_manifest(tmp_path) == {}
    assert (tmp_path / "manifest.json.damaged").read_bytes() == content
    assert not list(runs.repair(tmp_path))


@pytest.mark.parametrize("bad", [b'{"kimg": 1}', b"[]", b'{"step": "2"}', b"\xff", b"{", b""])
def test_damaged_rows_are_an_error_and_left_out_by_a_training(tmp_path, bad):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1}\n' + bad + b'\n{"step": 2}\n{"st')
    with pytest.raises(ConfigError, match=r"metrics.jsonl:2 is no row"):
        list(runs.read_rows(file))
    (report,) = runs.repair(tmp_path)
    assert "2 damaged row(s) left out" in report
    assert [row["step"] for row in runs.read_rows(file)] == [1, 2]


def test_rows_with_a_key_and_the_last_one_are_enough_for_a_curve(tmp_path):
    file = tmp_path / "metrics.jsonl"
    rows = [{"step": i, "eval/swd": 0.5} if i % 3 == 0 else {"step": i} for i in range(8)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row["step"] for row in read_rows(file, "eval/swd")] == [0, 3, 6, 7]
    assert [row["step"] for row in read_rows(file)] == list(range(8))
    with file.open("a") as stream:
        stream.write('{"step": 8')
    assert [row["step"] for row in read_rows(file, "eval/swd")] == [0, 3, 6]
    with file.open("a") as stream:
        stream.write("\n")
    with pytest.raises(ConfigError, match="jsonl:9 is no row"):
        list(read_rows(file, "eval/swd"))
    assert list(read_rows(tmp_path / "missing")) == []
