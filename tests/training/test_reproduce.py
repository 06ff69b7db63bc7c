"""`gan3d reproduce`: a repeated run is compared bit by bit, and differences are explained."""

import json
import shutil
import sys

import pytest
import torch

from lightning_gan3d import runs
from lightning_gan3d.checkpoints import store, stored_networks
from lightning_gan3d.config import ConfigError, UserError
from lightning_gan3d.data.synthetic.synth import SynthConfig, make_synth
from lightning_gan3d.metric import read_metrics, write_metrics
from lightning_gan3d.reproduce import reproduce
from lightning_gan3d.runs import Run, run_path
from lightning_gan3d.training.checkpoint import prepare
from lightning_gan3d.training.fit import train_run

EVALUATION = (
    "evaluation={num_images: 8, num_images_training: 8, swd: {patches: 8, projections: 8}, "
    "distribution: null, consistency: null, refit: null, pose: null, geometry: null, "
    "following: false}",
    "training.kimg=0.032",
)


@pytest.fixture(scope="module")
def trained():
    """The evaluated run and its repetition, once they exist."""
    return {}


@pytest.fixture
def original(tiny, tmp_path, trained, tmp_path_factory, caplog):
    """A copy of a finished run with its repetition, `again`."""
    caplog.set_level("INFO", "lightning_gan3d")
    if not trained:
        root = tmp_path_factory.mktemp("trained")
        config = tiny(*EVALUATION, kind="image2d")
        assert train_run(config, root / "runs", command=["gan3d", "train"]) == 0
        trained["path"] = run_path(config, root / "runs")
        assert reproduce(trained["path"], root / "again", [], ["gan3d", "reproduce"]) == 0
        trained["log"] = "\n".join(caplog.messages)
    caplog.clear()
    path = shutil.copytree(trained["path"], tmp_path / "runs" / "tiny" / trained["path"].name)
    again = tmp_path / "again"
    shutil.copytree(trained["path"].parents[2] / "again", again)
    manifest = again / "tiny" / path.name / runs.MANIFEST
    edit(manifest, reproduces=str(path))
    return path


def edit(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def compare(path, caplog):
    """Compare with the finished repetition: returns exit code, log and report."""
    caplog.clear()
    root = path.parents[2] / "again"
    code = reproduce(path, root, [], sys.argv)
    report = json.loads((root / "tiny" / path.name / "reproduction.json").read_text())
    return code, "\n".join(caplog.messages), report


def test_a_repeated_run_is_equal_in_every_bit(original, trained, caplog):
    assert "reproduced; all: " in trained["log"]
    for part in ("training", "evaluation", "weights"):
        assert any(
            line.startswith(part) and line.endswith(" equal") for line in trained["log"].split("\n")
        )
    code, log, report = compare(original, caplog)
    assert code == 0
    assert "already finished" in log
    assert report["equal"]
    assert report["differences"] == {"training": [], "evaluation": [], "weights": []}
    manifest = runs.read_manifest(original.parents[2] / "again" / "tiny" / original.name)
    assert manifest["reproduces"] == str(original)
    assert manifest["command"] == ["gan3d", "reproduce"]


def test_each_difference_is_reported_with_possible_reasons(original, caplog):
    rows = Run(original).metrics()
    rows[1]["loss/D"] += 1
    rows[0]["speed/img_s"] += 1
    (original / runs.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, log, report = compare(original, caplog)
    assert code == 4
    (change,) = report["differences"]["training"]
    assert change[:2] == ["loss/D at step 4", rows[1]["loss/D"]]
    assert f"  loss/D at step 4: {rows[1]['loss/D']} then, {change[2]} now" in log
    metrics = read_metrics(original / runs.EVALUATION)
    write_metrics(original / runs.EVALUATION, metrics[1:])
    newest = store.steps_in(original / "checkpoints")[-1][1]
    tensors, sizes = stored_networks.read_tensors(newest / "discriminator.safetensors")
    tensors[min(tensors)].view(-1)[0] += 1
    resolution = int(sizes["resolution"]), int(sizes["rendering_resolution"])
    stored_networks.save_network(newest, "discriminator", tensors, *resolution)
    edit(original / runs.MANIFEST, threads=torch.get_num_threads() + 2, dirty=False)
    edit(original / runs.CONDITIONS, device="abacus")
    code, log, report = compare(original, caplog)
    assert code == 4
    missing = f"{metrics[0].key} value", "-", metrics[0].value
    assert list(missing) in report["differences"]["evaluation"]
    assert [name for name, *_ in report["differences"]["weights"]] == ["D at step 4"]
    threads = f"manifest.threads {torch.get_num_threads() + 2} then, {torch.get_num_threads()} now"
    assert f"environment: {threads}" in log.split("\ntraining")[0]
    assert threads in report["environment"]
    assert "evaluation.device abacus then, cpu now" in report["environment"]
    assert threads in log.split("possible reasons: ")[1]
    assert "different; all: " in log


def test_a_stopped_repetition_is_continued(original, at_step, caplog):
    at_step(1)
    assert reproduce(original, None, [], sys.argv) == 75
    at_step(None)
    before = {p: p.read_bytes() for p in original.rglob("*") if p.is_file()}
    assert reproduce(original, None, [], sys.argv) == 0
    assert "continuing from 0.016 kimg" in caplog.text
    target = original.with_name(f"{original.name}-reproduced") / "tiny" / original.name
    assert (target / "reproduction.json").is_file()
    assert before == {p: p.read_bytes() for p in before}


def test_what_cannot_be_repeated_is_rejected(original, tmp_path):
    other = tmp_path / "other.zip"
    make_synth(SynthConfig(num_images=34, num_objects=17, resolution=16), other)
    manifest = original / runs.MANIFEST
    for overrides, root, message in (
        ([f"data.path={other}"], "a", "has changed since"),
        ([f"data.path={tmp_path}/none.zip"], "a", "none.zip"),
        ([], "runs", "choose another --root"),
        ([], f"runs/tiny/{original.name}", "choose another --root"),
    ):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UserError, match=message):
            reproduce(original, tmp_path / root, overrides, sys.argv)
        assert sorted(tmp_path.rglob("*")) == before
    (original / runs.EVALUATION).rename(original / "moved")
    with pytest.raises(ConfigError, match="has no complete results"):
        reproduce(original, tmp_path / "a", [], sys.argv)
    edit(manifest, finished=False)
    with pytest.raises(ConfigError, match="is not a finished run"):
        reproduce(original, tmp_path / "a", [], sys.argv)


def test_an_extended_run_is_repeated_from_the_same_source(original, tiny, tmp_path):
    config = tiny(*EVALUATION, "training.kimg=0.048", kind="image2d")

    def extend(config, path):
        prepare(config, path, "extend")

    assert train_run(config, tmp_path / "runs", extend) == 0
    path = run_path(config, tmp_path / "runs")
    assert reproduce(path, tmp_path / "twice", [], sys.argv) == 0
    copy = tmp_path / "twice" / "tiny" / path.name
    assert Run(copy).manifest()["extends"] == Run(path).manifest()["extends"]
    manifest = Run(path).manifest()
    edit(path / runs.MANIFEST, extends={**manifest["extends"], "content": "0" * 16})
    with pytest.raises(ConfigError, match=f"{original}: has changed since"):
        reproduce(path, tmp_path / "thrice", [], sys.argv)
    shutil.rmtree(original)
    with pytest.raises(ConfigError, match="has no checkpoint to start from"):
        reproduce(path, tmp_path / "thrice", [], sys.argv)
    assert not (tmp_path / "thrice").exists()


def test_a_fine_tuned_run_is_repeated_from_the_same_source(original, tiny, tmp_path):
    config = tiny(*EVALUATION, f"init_from.path={original}", "training.kimg=0.016", kind="image2d")
    assert train_run(config, tmp_path / "runs") == 0
    path = run_path(config, tmp_path / "runs")
    assert reproduce(path, tmp_path / "twice", [], sys.argv) == 0
    record = Run(path).manifest()["init_from"]
    edit(path / runs.MANIFEST, init_from={**record, "content": "0" * 16})
    with pytest.raises(ConfigError, match="has changed since this run started"):
        reproduce(path, tmp_path / "thrice", [], sys.argv)
