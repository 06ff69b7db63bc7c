import json
from dataclasses import replace
from itertools import product

import pytest
import yaml
from fabricated_runs import make_run

from lightning_gan3d.metric import MetricId, read_metrics, write_metrics
from lightning_gan3d.report.differences import difference
from lightning_gan3d.report.groups import Comparison, compare
from lightning_gan3d.report.records import find_runs


def comparison(root):
    return compare(find_runs([root]))


def test_runs_that_differ_only_in_seed_are_a_group_and_representations_have_an_order(tmp_path):
    for kind in ("image2d", "nerf_mlp", "voxel", "triplane"):
        for seed in (1, 0):
            make_run(tmp_path, kind, seed)
    groups = comparison(tmp_path).groups
    assert [g.label for g in groups] == ["triplane", "voxel", "nerf_mlp", "image2d"]
    assert [[r.seed for r in g.runs] for g in groups] == [[0, 1]] * 4
    assert [g.is_baseline for g in groups] == [False, False, False, True]


def test_configurations_of_one_representation_have_different_labels(tmp_path):
    make_run(tmp_path, "voxel")
    make_run(tmp_path, "voxel", experiment="voxel_small")
    make_run(tmp_path, "voxel", experiment="voxel_small", variant="12345678")
    make_run(tmp_path, "triplane")
    labels = [g.label for g in comparison(tmp_path).groups]
    assert labels == [
        "triplane",
        "voxel (voxel)",
        "voxel (voxel_small) [0000022e]",
        "voxel (voxel_small) [12345678]",
    ]


def test_arms_of_an_ablation_are_named_by_their_settings(tmp_path):
    for i, (samples, width) in enumerate(product((8, 16), (32, 64))):
        path = make_run(tmp_path, "voxel", variant=f"0000000{i}") / "config.yaml"
        config = yaml.safe_load(path.read_text())
        renderer = {"kind": "volume", "samples_coarse": samples}
        config["generator"] |= {"renderer": renderer, "scene": {"decoder": {"width": width}}}
        path.write_text(yaml.safe_dump(config | {"label": "wide" if i == 3 else ""}))
    labels = [g.label for g in comparison(tmp_path).groups]
    assert labels == [
        "samples_coarse 8, width 32",
        "samples_coarse 8, width 64",
        "samples_coarse 16, width 32",
        "wide",
    ]


def checkpoint(root, name, digest, seed=0, fact="evaluated"):
    """An evaluation of a checkpoint, or a reproduction, in a folder of its own."""
    facts = {fact: "generator.safetensors"}
    path = make_run(root / name, "voxel", seed, variant="0000022e", manifest=facts)
    if digest:
        (path / "evaluation.conditions.json").write_text(json.dumps({"weights_sha256": digest}))
    return path


def test_duplicates_of_a_seed_are_labelled_by_their_weights(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path, "voxel", seed)
    checkpoint(tmp_path, "early", "1" * 64)
    checkpoint(tmp_path, "again", "2" * 64, fact="reproduces")
    both = comparison(tmp_path)
    seeds = {g.label: [r.seed for r in g.runs] for g in both.groups}
    assert seeds == {
        "voxel": [0, 1],
        "voxel, weights 11111111": [0],
        "voxel, weights 22222222": [0],
    }
    assert len(both.runs) == 4
    assert difference(both.groups[0], both.groups[1], MetricId("refit.psnr")).basis.endswith(
        "seed 0"
    )


@pytest.mark.parametrize("digest", ["", "1" * 64])
def test_duplicates_with_equal_weights_are_labelled_by_their_folders(tmp_path, digest):
    for name in ("a", "b"):
        checkpoint(tmp_path, name, digest)
        (tmp_path / name / "voxel").rename(tmp_path / name / f"x{name}")
    labels = [g.label for g in comparison(tmp_path).groups]
    assert len(set(labels)) == 2
    if digest:
        assert labels == ["voxel, xa/0000022e-s0", "voxel, xb/0000022e-s0"]


def test_seeds_of_different_protocols_have_no_mean(tmp_path):
    for seed, key in ((0, "a" * 16), (1, "b" * 16)):
        path = make_run(tmp_path, "voxel", seed)
        rows = read_metrics(path / "evaluation.json")
        write_metrics(path / "evaluation.json", [replace(m, protocol=key) for m in rows])
    cell = comparison(tmp_path).groups[0].cell(MetricId("refit.psnr"))
    assert len(cell.values) == 2
    assert cell.mean is None
    assert cell.why == (f"protocols differ between seeds (seed 0: {'a' * 16}, seed 1: {'b' * 16})")


def test_mean_and_deviation_over_seeds(tmp_path):
    for seed, shift in enumerate((0.0, 0.003, 0.006)):
        make_run(tmp_path, "voxel", seed, shift=shift)
    cell = comparison(tmp_path).groups[0].cell(MetricId("quality.swd"))
    assert cell.values == pytest.approx([0.027, 0.030, 0.033])
    assert cell.mean == pytest.approx(0.030)
    assert cell.deviation == pytest.approx(0.003)
    assert cell.counts == "n = 500"


@pytest.mark.parametrize("how", ["unfinished", "unmeasured"])
def test_a_gap_is_never_averaged_over(tmp_path, how):
    make_run(tmp_path, "voxel", 0)
    make_run(tmp_path, "voxel", 1, shift=0.009)
    make_run(
        tmp_path,
        "voxel",
        2,
        finished=how != "unfinished",
        evaluated=how != "unmeasured",
        shift=0.001,
    )
    group = comparison(tmp_path).groups[0]
    cell = group.cell(MetricId("quality.swd"))
    assert cell.values == pytest.approx([0.027, 0.036])
    assert cell.mean is None
    assert cell.deviation is None
    assert cell.why.startswith("seed 2: ")
    assert len(group.finished) == (2 if how == "unfinished" else 3)


def test_a_metric_that_is_missing_as_a_whole_is_missing_in_its_parts(tmp_path):
    make_run(tmp_path, "triplane")
    make_run(tmp_path, "nerf_mlp")
    both = comparison(tmp_path)
    assert MetricId("growth.grid") not in both.metrics
    part = MetricId("growth.grid.scene_bytes", at=32.0)
    assert both.groups[1].cell(part).why == "this representation stores no grid"
    (alone,) = [g for g in both.groups if g.label == "nerf_mlp"]
    assert MetricId("growth.grid") in Comparison((alone,)).metrics
