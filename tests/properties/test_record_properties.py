"""The files of runs and sweeps: manifest, rows, metrics, sweep record."""

import json
import math

from hypothesis import example, given
from hypothesis import strategies as st
from mutations import assert_finite, damaged_bytes, json_files, parse

from lightning_gan3d import runs
from lightning_gan3d.errors import UserError
from lightning_gan3d.metric import read_metrics, write_metrics
from lightning_gan3d.report.records import find_runs, read_run
from lightning_gan3d.sweep.plan import read_record, write_record

MANIFEST = {"experiment": "a", "hash": "0123abcd", "seed": 3, "finished": True, "versions": {}}
ROWS = [
    {"step": n, "kimg": n / 8, "seconds": 1.5 * n, "loss/g": None if n else 0.5} for n in range(3)
]
ENTRY = {
    "preset": "demo/voxel", "overrides": ["training.kimg=1", "seed=0"], "seed": 0,
    "experiment": "a", "representation": "voxel", "path": "a/0123abcd-s0",
    "state": "failed", "exit_code": 4,
    "seconds": 1.5, "last_line": "no memory", "arm": "b", "factors": {"lr": "0.1"},
}  # fmt: skip
METRICS = [
    {"name": "quality.swd", "value": 1.5, "unit": "", "n": 4, "spread": 0.5, "note": "",
     "items": [1.0, None, 2.0], "protocol": "0123456789abcdef", "stage": "raw", "at": 0.25},
    {"metric": "consistency.psnr_raw_following@0.25", "value": None, "unit": "dB", "note": "none"},
]  # fmt: skip
CONFIG = b"name: a\nseed: 3\ntraining: {kimg: 1}\ndata: {path: x}\n"


@st.composite
def row_files(draw):
    lines = [
        draw(json_files(row)) if draw(st.booleans()) else json.dumps(row).encode() for row in ROWS
    ]
    end = draw(st.sampled_from([b"", b"\n"]))
    return b"\n".join(lines) + end


@given(json_files(MANIFEST), row_files())
@example(b'{"dataset": "\xff"', b"9223372036854775\xff\xff\xff\xff")
@example(b"", b'\xd7\xd3\n{"step": 1}\n')
@example(b'[["a", 1]]', b'{"step": 1, "kimg": 1%s}\n' % (b"0" * 400))
def test_a_run_is_repaired(tmp_path_factory, manifest, rows):
    path = tmp_path_factory.mktemp("run")
    (path / runs.MANIFEST).write_bytes(manifest)
    (path / runs.METRICS).write_bytes(rows)
    read = parse(runs.read_manifest, path)
    logged = parse(lambda: list(runs.read_rows(path / runs.METRICS)))
    for message in runs.repair(path):
        assert message.isprintable()
    after = runs.read_manifest(path)
    assert after == ({} if isinstance(read, UserError) else read)
    assert_finite(after)
    left = list(runs.read_rows(path / runs.METRICS))
    assert isinstance(logged, UserError) or left == logged
    assert all(type(row["step"]) is int for row in left)
    assert_finite(left)
    for name, content in ((runs.MANIFEST, manifest), (runs.METRICS, rows)):
        damaged = path / f"{name}.damaged"
        assert (damaged if damaged.exists() else path / name).read_bytes() == content
    runs.drop_rows_after(path / runs.METRICS, 10**50)
    runs.append_row(path / runs.METRICS, {"step": 7, "x": math.nan})
    assert [*runs.read_rows(path / runs.METRICS)] == [*left, {"step": 7, "x": None}]


@given(json_files({"runs": [ENTRY, ENTRY]}))
@example(json.dumps({"runs": [{**ENTRY, "overrides": [["x"]]}]}).encode())
@example(json.dumps({"runs": [{**ENTRY, "path": "a\0b"}]}).encode())
def test_a_sweep_record(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "sweep.json"
    path.write_bytes(content)
    entries = parse(read_record, path)
    if isinstance(entries, UserError):
        return
    assert_finite(entries)
    assert all(isinstance(e.label, str) for e in entries)
    write_record(path, entries)
    assert [e.overrides for e in read_record(path)] == [e.overrides for e in entries]
    parse(find_runs, [path])


@given(json_files(METRICS))
@example(b"[null]")
@example(b"0")
@example(b"[" * 5000)
@example(b'[{"name": "a", "value": 1.0, "items": "abc"}]')
@example(b'[{"name": "a", "value": 1.0, "n": [1]}]')
@example(b'[{"name": "a", "value": 1e999}]')
@example(b'[{"name": "a", "value": 1.0, "note": "\\ud800"}]')
def test_metrics(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "evaluation.json"
    path.write_bytes(content)
    metrics = parse(read_metrics, path)
    if not isinstance(metrics, UserError):
        assert_finite(metrics)
        assert all(isinstance(m.key, str) for m in metrics)
        write_metrics(path, metrics)
        assert read_metrics(path) == metrics


WHOLE = {
    runs.CONFIG: CONFIG,
    runs.MANIFEST: json.dumps(MANIFEST).encode(),
    runs.EVALUATION: json.dumps(METRICS).encode(),
    runs.CONDITIONS: b'{"images": 4}',
    runs.METRICS: b"".join(json.dumps(row).encode() + b"\n" for row in ROWS),
}


@st.composite
def run_files(draw):
    name = draw(st.sampled_from([*WHOLE]))
    if name == runs.METRICS:
        return {**WHOLE, name: draw(row_files())}
    if name == runs.CONFIG:
        return {**WHOLE, name: draw(damaged_bytes(CONFIG))}
    return {**WHOLE, name: draw(json_files(json.loads(WHOLE[name])))}


@given(run_files())
@example({**WHOLE, runs.CONDITIONS: b"[" * 5000})
@example({**WHOLE, runs.METRICS: b'{"step": 1, "kimg": 1, "seconds": 18446744073709551616}\n'})
def test_a_run_is_read_for_a_report(tmp_path_factory, files):
    path = tmp_path_factory.mktemp("run")
    for name, content in files.items():
        (path / name).write_bytes(content)
    record = parse(read_run, path)
    assert not isinstance(record, UserError)
    assert all(text.isprintable() for text in (record.gap, *record.problems))
    assert_finite([record.metrics, record.conditions, record.manifest])
    record.curve("loss/g", "kimg")
    for metric in record.metrics:
        record.metric(metric.id)
