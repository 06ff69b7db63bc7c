"""Targets of `gan3d evaluate`: runs, generator files, folders of images."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.checkpoints.store import CheckpointError
from lightning_gan3d.checkpoints.stored_networks import save_generator
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.archive import open_source
from lightning_gan3d.data.labels import read_index
from lightning_gan3d.data.synthetic.synth import SynthConfig, SynthObjects, make_synth
from lightning_gan3d.experiment import load_experiment, make_networks
from lightning_gan3d.images import to_uint8
from lightning_gan3d.metric import Metric, MetricId, missing, read_metrics
from lightning_gan3d.metrics import evaluate as evaluation
from lightning_gan3d.metrics.evaluate_target import (
    Evaluation,
    evaluate_run,
    open_run,
    open_target,
)
from lightning_gan3d.report.claims import claims
from lightning_gan3d.report.differences import Decisions
from lightning_gan3d.report.document import _opening
from lightning_gan3d.report.groups import compare
from lightning_gan3d.report.records import find_runs
from lightning_gan3d.runs import Run, write_config

SMALL = [
    *("evaluation.num_images=30", "evaluation.swd.patches=16", "evaluation.swd.projections=32"),
    *("evaluation.refit.items=2", "evaluation.refit.iterations=40", "evaluation.refit.views=3"),
    *("evaluation.refit.rays=256", "evaluation.refit.resolution=16", "evaluation.refit.samples=12"),
    *("evaluation.pose.iterations=3", "evaluation.pose.batch=8", "evaluation.pose.resolution=16"),
    *("evaluation.consistency.items=2", "evaluation.consistency.steps=1"),
    *("evaluation.features.items=2", "evaluation.features.views=3"),
    *("evaluation.consistency.flicker=null", "evaluation.geometry.items=2"),
    "evaluation.geometry.grid=12",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("synth") / "figures"
    make_synth(SynthConfig(num_images=120, num_objects=60, holdout=0.4), path)
    return path


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Results and caches of a test stay with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def evaluate_target(path, overrides=(), out=None):
    target = open_target(path, overrides, "cpu", out)
    return target.measure()


def by_name(result):
    return {m.key: m for m in result.metrics}


def copy_images(data, folder, split, with_cameras):
    """Copy the images of a split, as images of another generator."""
    folder.mkdir()
    index = read_index(open_source(data))
    names = index["splits"][split]
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data / name, target)
    if with_cameras:
        labels = [row for row in index["labels"] if row[0] in set(names)]
        (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    return folder


def test_real_images_score_as_real_images_and_stand_in_a_report(data, tmp_path):
    folder = copy_images(data, tmp_path / "somebody's", "train", True)
    metrics = by_name(evaluate_target(folder, [f"data.path={data}", *SMALL]))
    assert metrics["quality.swd"].value < 1.5 * metrics["quality.swd_floor"].value
    assert metrics["pose.median_deg"].value is not None
    assert metrics["memorisation.excess"].value > 0.9  # they are the training images
    assert "stored images come without depth" in metrics["consistency.psnr"].note
    assert "no depth" in metrics["geometry.relief"].note
    for name in ("quality.swd", "pose.median_deg", "memorisation.excess"):
        assert "truncation unknown" in metrics[name].note
        assert "no truncation" not in metrics[name].note
        assert "drawn at random" in metrics[name].note
    assert "no conditioning label" in metrics["refit.psnr_following"].note
    assert "the object of each image" in metrics["refit.psnr"].note
    comparison = compare(find_runs([tmp_path / "runs"]))
    (group,) = comparison.groups
    assert group.label == "somebody's"
    assert group.is_images  # and no claim about 3D representations waits for its values
    assert all("somebody's" not in s.text for s in claims(Decisions(comparison)))
    assert "training loop" not in _opening(comparison)[0]
    assert group.cell(MetricId("quality.swd")).mean == metrics["quality.swd"].value


def test_images_without_cameras_have_no_metrics_of_cameras(data, tmp_path):
    folder = copy_images(data, tmp_path / "plain", "test", False)
    out = tmp_path / "out"
    result = evaluate_target(folder, [f"data.path={data}", *SMALL], out)
    values = by_name(result)
    assert read_metrics(out / "evaluation.json") == result.metrics
    assert values["quality.swd"].value is not None
    for name in ("pose.median_deg", "refit.psnr"):
        assert values[name].value is None
        assert "without cameras" in values[name].note


def test_user_networks_read_stored_images_or_give_a_reason(data, tmp_path):
    class Front(torch.nn.Module):
        def forward(self, x):
            turn = torch.tensor([1.0, 0.0, 0.0, 0.0, -1.0, 0.0])
            return turn.expand(x.shape[0], 6)

    network = tmp_path / "front.pt"
    torch.jit.script(Front()).save(str(network))
    given = [f"data.path={data}", *SMALL, f"evaluation.pose.estimator={network}"]
    given += [f"evaluation.identity.embedding={network}", "evaluation.refit=null"]
    for cameras in (True, False):
        folder = copy_images(data, tmp_path / f"cameras {cameras}", "test", cameras)
        metrics = by_name(evaluate_target(folder, given))
        row = metrics["pose.estimator_median_deg"]
        assert (row.value is not None) == cameras
        assert metrics["identity.cosine"].value is None
        if not cameras:
            assert "without cameras" in row.note


def test_views_of_one_set_of_cameras_are_refitted(data, tmp_path):
    cameras = Cameras.orbit(6, 0.3, 3.2, 1.5)
    objects = SynthObjects(SynthConfig(num_images=4, num_objects=4, holdout=0.0))
    index = {"labels": [], "objects": {}}
    (tmp_path / "views").mkdir()
    for item in range(2):
        views = objects.render(torch.full((6,), item), cameras, 32)
        for v, (image, label) in enumerate(zip(views.image, cameras.to_label(), strict=True)):
            name = f"{item}_{v}.png"
            array = np.ascontiguousarray(to_uint8(image).permute(1, 2, 0).numpy())
            Image.fromarray(array).save(tmp_path / "views" / name)
            index["labels"].append([name, label.tolist()])
            index["objects"][name] = item
    (tmp_path / "views" / "dataset.json").write_text(json.dumps(index))
    overrides = [f"data.path={data}", *SMALL, "evaluation.refit.iterations=120"]
    metrics = by_name(evaluate_target(tmp_path / "views", overrides))
    assert metrics["refit.psnr"].n == 2
    assert metrics["refit.psnr_fit"].value > metrics["refit.psnr"].value
    assert metrics["refit.gain"].value > 0
    # The stored objects are no ceiling, even if they are the data: photographs may not agree.
    overrides = [f"data.path={tmp_path / 'views'}", *SMALL, "evaluation.refit.iterations=120"]
    own = by_name(evaluate_target(tmp_path / "views", [*overrides, "data.holdout=0.0"]))
    assert own["refit.psnr"].value == metrics["refit.psnr"].value
    assert sorted(own["refit.ceiling"].items) != sorted(own["refit.psnr"].items)


def test_a_generator_file_has_the_metrics_of_its_run(data, tmp_path):
    config = load_experiment("demo/triplane", [f"data.path={data}", *SMALL])
    generator, _ = make_networks(config, 32)
    for name in ("run", "export"):
        save_generator(tmp_path / name, generator, config)
    write_config(tmp_path / "run", config)
    inside = by_name(evaluate_run(tmp_path / "run", "cpu"))
    elsewhere = dataclasses.replace(config, data=dataclasses.replace(config.data, path="gone.zip"))
    save_generator(tmp_path / "export", generator, elsewhere)
    out = tmp_path / "out"
    export = tmp_path / "export"
    alone = by_name(evaluate_target(export, [f"data.path={data}"], out))
    start = {"quality.swd_init", "quality.swd_progress"}
    assert {k: v for k, v in alone.items() if k not in start} == {
        k: v for k, v in inside.items() if k not in start
    }
    assert alone["quality.swd_progress"].value is None
    (run,) = find_runs([out])
    assert (run.gap, run.representation) == ("", "triplane")
    kept = (out / "evaluation.json").read_bytes()
    other, _ = make_networks(dataclasses.replace(config, seed=5), 32)
    save_generator(tmp_path / "other", other, config)
    with pytest.raises(ConfigError, match="the evaluation of export, which is another target"):
        evaluate_target(tmp_path / "other", (), out)
    assert (out / "evaluation.json").read_bytes() == kept
    lost = ["evaluation.refit=null"]
    with pytest.raises(ConfigError, match=r"evaluation\.refit is off: .* would lose its metrics"):
        open_run(Run(tmp_path / "run"), lost, torch.device("cpu"))
    more = [f"data.path={data}", "evaluation.num_images=20"]
    assert by_name(evaluate_target(export, more, out))["quality.swd"].n == 20


def test_an_unfinished_run_is_evaluated_with_a_warning(data, tmp_path, caplog):
    path = tmp_path / "run"
    (path / "checkpoints").mkdir(parents=True)
    write_config(path, load_experiment("demo/triplane", [f"data.path={data}", *SMALL]))
    for finished in (True, False):
        (path / "manifest.json").write_text(json.dumps({"finished": finished}))
        with pytest.raises(CheckpointError):  # there is none
            open_target(path, device="cpu")
        assert ("not finished; evaluates its newest checkpoint" in caplog.text) is not finished


def test_unusable_targets_are_rejected(data, tmp_path):
    folder = copy_images(data, tmp_path / "plain", "test", False)
    with pytest.raises(ConfigError, match=r"name the data to compare with, data\.path=FILE"):
        evaluate_target(folder)
    with pytest.raises(ConfigError, match=r"images of 32 pixels, but .* has 16"):
        evaluate_target(folder, [f"data.path={data}", "data.resolution=16"])
    with pytest.raises(ConfigError, match="unknown key `generator`"):
        evaluate_target(folder, [f"data.path={data}", "generator.z_dim=3"])
    with pytest.raises(ConfigError, match="no such file or folder"):
        evaluate_target(tmp_path / "gone")
    posed = [f"data.path={data}", "evaluation.distribution.poses.kind=uniform"]
    with pytest.raises(ConfigError, match="stored images have fixed cameras"):
        evaluate_target(folder, posed)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="name another --out"):
        evaluate_target(folder, [f"data.path={data}"], tmp_path / "file" / "out")


def test_a_killed_evaluation_keeps_its_metrics_and_equal_earlier_ones(data, tmp_path, monkeypatch):
    folder, out = copy_images(data, tmp_path / "plain", "test", False), tmp_path / "out"
    options = [f"data.path={data}", *SMALL]

    def killed(_context):
        raise KeyboardInterrupt

    def evaluate_killed(options):
        groups = (*evaluation.GROUPS[:3], evaluation.MetricGroup(killed))
        with monkeypatch.context() as patch:
            patch.setattr(evaluation, "GROUPS", groups)
            with pytest.raises(KeyboardInterrupt):
                open_target(folder, options, "cpu", out).measure()
        return read_metrics(out / "evaluation.json")

    some = evaluate_killed(options)
    assert "quality.swd" in {m.name for m in some}
    assert not (out / "manifest.json").exists()  # a report treats it as incomplete
    every = open_target(folder, options, "cpu", out).measure().metrics
    assert len(every) > len(some)
    assert sorted(map(repr, evaluate_killed(options))) == sorted(map(repr, every))
    other = evaluate_killed([*options, "evaluation.swd.patches=8"])
    assert {m.id for m in other} == {m.id for m in some}


def test_headline_metrics_and_each_reason_are_printed_once(tmp_path):
    rows = [
        Metric("consistency.gain", 30.0, "dB", 8, 1.5, "protocol"),
        Metric("consistency.gain", 29.0, "dB", 8, 1.5, "protocol", at=0.5),
        Metric("consistency.gain", 28.0, "dB", 8, 1.5, "protocol", variant="truth"),
        Metric("geometry.thickness", 0.5),
        *(missing(f"quality.{name}", "no weights") for name in ("kid", "fid")),
        Metric("quality.swd", 0.01234),
        missing("pose.within_20deg", "no cameras"),
    ]
    assert str(Evaluation(tmp_path / "evaluation.json", rows)).splitlines() == [
        "SWD (sliced Wasserstein distance) ↓        0.0123",
        "Reprojection PSNR gain over identity warp  30.00 ± 1.50 dB",
        "missing: FID, KID: no weights",
        "missing: Pose @20°: no cameras",
        f"all 8 metrics, with protocols: {tmp_path / 'evaluation.json'}",
    ]


def test_the_conditions_of_an_export_name_its_rendering_path(data, tmp_path):
    config = load_experiment("demo/triplane", [f"data.path={data}", *SMALL])
    generator, _ = make_networks(config, 32)
    save_generator(tmp_path / "export", generator, config)
    evaluate_target(tmp_path / "export", (), tmp_path / "out")
    conditions = json.loads((tmp_path / "out" / "evaluation.conditions.json").read_text())
    assert "rays by" in conditions["precision"]
