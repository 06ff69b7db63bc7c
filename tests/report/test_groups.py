import json
from dataclasses import replace

import pytest
from fabricated_runs import make_run

from lightning_gan3d.metric import read_metrics, write_metrics
from lightning_gan3d.metric_table import (
    gain_of,
    growth,
    leading,
    metric,
    order,
    rounded,
    significant,
)
from lightning_gan3d.report.groups import Comparison, compare
from lightning_gan3d.report.paired import difference
from lightning_gan3d.report.records import find_runs


def comparison(root):
    return compare(find_runs([root]))


def test_runs_that_differ_in_seed_alone_make_a_group_and_representations_have_an_order(tmp_path):
    for kind in ("image2d", "nerf_mlp", "voxel", "triplane"):
        for seed in (1, 0):
            make_run(tmp_path, kind, seed)
    groups = comparison(tmp_path).groups
    assert [g.label for g in groups] == ["triplane", "voxel", "nerf_mlp", "image2d"]
    assert [[r.seed for r in g.runs] for g in groups] == [[0, 1]] * 4
    assert [g.is_baseline for g in groups] == [False, False, False, True]


def test_configurations_of_one_representation_are_told_apart(tmp_path):
    make_run(tmp_path, "voxel")
    make_run(tmp_path, "voxel", experiment="voxel_small")
    make_run(tmp_path, "voxel", experiment="voxel_small", variant="12345678")
    make_run(tmp_path, "triplane")
    labels = [g.label for g in comparison(tmp_path).groups]
    assert labels == [
        "triplane",
        "voxel (voxel)",
        "voxel (voxel_small 0000022e)",
        "voxel (voxel_small 12345678)",
    ]


def checkpoint(root, name, digest, seed=0):
    """An evaluation of a checkpoint, written into a folder of its own."""
    facts = {"evaluated": "generator.safetensors"}
    path = make_run(root / name, "voxel", seed, variant="0000022e", manifest=facts)
    if digest:
        (path / "evaluation.conditions.json").write_text(json.dumps({"weights_sha256": digest}))
    return path


def test_two_records_of_one_seed_are_told_apart_by_their_weights(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path, "voxel", seed)
    checkpoint(tmp_path, "early", "1" * 64)
    checkpoint(tmp_path, "late", "2" * 64)
    both = comparison(tmp_path)
    found = {g.label: [r.seed for r in g.runs] for g in both.groups}
    assert found == {
        "voxel": [0, 1],
        "voxel, weights 11111111": [0],
        "voxel, weights 22222222": [0],
    }
    assert len(both.runs) == 4
    assert difference(both.groups[0], both.groups[1], "refit.psnr").basis.endswith("seed 0")


@pytest.mark.parametrize("digest", ["", "1" * 64])
def test_where_the_weights_do_not_tell_the_folders_do(tmp_path, digest):
    for name in ("a", "b"):
        checkpoint(tmp_path, name, digest)
        (tmp_path / name / "voxel").rename(tmp_path / name / f"x{name}")
    labels = [g.label for g in comparison(tmp_path).groups]
    assert len(set(labels)) == 2
    if digest:
        assert labels == ["voxel, xa/0000022e-s0", "voxel, xb/0000022e-s0"]


def test_seeds_that_were_measured_differently_have_no_mean(tmp_path):
    for seed, key in ((0, "a" * 16), (1, "b" * 16)):
        path = make_run(tmp_path, "voxel", seed)
        rows = read_metrics(path / "evaluation.json")
        write_metrics(path / "evaluation.json", [replace(m, protocol=key) for m in rows])
    cell = comparison(tmp_path).groups[0].cell("refit.psnr")
    assert len(cell.values) == 2
    assert cell.mean is None
    assert cell.why == (
        f"measured differently from seed to seed (protocol of seed 0: {'a' * 16}, "
        f"seed 1: {'b' * 16})"
    )


@pytest.mark.parametrize(
    ("name", "label", "short", "better"),
    [
        (
            "quality.fid_legacy_tensorflow_posed",
            "Fréchet distance of Inception features (FID), resized as by StyleGAN and EG3D, "
            "drawn cameras",
            "FID TF posed",
            "lower",
        ),
        (
            "consistency.psnr_enlarged",
            "View consistency by depth, rendering enlarged to the image",
            "Reproj. enl.",
            "higher",
        ),
        (
            "consistency.gain_raw_following",
            "Gain of warping over not warping, rendering, label following the camera",
            "Gain raw follow.",
            "higher",
        ),
        ("consistency.psnr", "View consistency by depth, final image", "Reproj.", "higher"),
        (
            "geometry.relief_truth",
            "Depth of the front over its width (0: flat), ground truth (ceiling)",
            "Relief truth",
            "",
        ),
        (
            "quality.frechet_1a2b3c4d",
            "Fréchet distance of features, by network 1a2b3c4d",
            "FD 1a2b3c4d",
            "lower",
        ),
        ("quality.precision_inception", "Precision in Inception features", "Prec. I", "higher"),
        (
            "consistency.psnr_truth@0.5",
            "View consistency by depth, final image, ground truth (ceiling), 0.5 rad apart",
            "consistency.psnr_truth@0.5",
            "",
        ),
        ("novelty.of_it_raw", "novelty.of_it_raw", "novelty.of_it_raw", ""),
    ],
)
def test_names_are_known_by_their_stem_and_suffixes_add_words(name, label, short, better):
    shown = metric(name)
    assert (shown.label, shown.short, shown.better) == (label, short, better)


def test_ends_of_names_make_no_new_family_of_columns():
    assert gain_of("consistency.psnr_raw_following") == "consistency.gain_raw_following"
    assert gain_of("consistency.psnr_raw@0.25") == "consistency.gain_raw"
    assert gain_of("refit.ssim") == "refit.gain"
    assert [gain_of(x) for x in ("consistency.depth_error", "quality.swd", "a.psnr")] == [""] * 3
    names = ["quality.swd", "quality.fid", "quality.fid_legacy_tensorflow", "quality.fid_infinity"]
    assert leading(["quality.fid", "refit.psnr"], names) == names[1:3]


def test_mean_and_deviation_over_seeds(tmp_path):
    for seed, shift in enumerate((0.0, 0.003, 0.006)):
        make_run(tmp_path, "voxel", seed, shift=shift)
    cell = comparison(tmp_path).groups[0].cell("quality.swd")
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
    cell = group.cell("quality.swd")
    assert cell.values == pytest.approx([0.027, 0.036])
    assert cell.mean is None
    assert cell.deviation is None
    assert cell.interval is None
    assert cell.why.startswith("seed 2: ")
    assert len(group.finished) == (2 if how == "unfinished" else 3)


def test_the_interval_widens_by_the_standard_error(tmp_path):
    make_run(tmp_path, "voxel")
    low, high = comparison(tmp_path).groups[0].cell("refit.psnr").interval
    assert (low + high) / 2 == pytest.approx(27.9)
    assert high - low == pytest.approx(4 * 1.1 / 8**0.5)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.031249, "0.0312"),
        (3.123, "3.12"),
        (312.4, "312"),
        (31234.0, "31,200"),
        (0.0, "0"),
        (-5.5, "-5.50"),
    ],
)
def test_numbers_have_three_significant_digits(value, text):
    assert significant(value) == text


def test_units_are_printed_as_people_read_them():
    assert metric("pose.within_20deg", "share").with_unit(0.9834) == "98.3 %"
    assert metric("cost.scene_bytes", "bytes").with_unit(98304.0) == "98.3 kB"
    assert metric("cost.representation_parameters", "count").format(2000123.0) == "2,000,123"
    assert metric("a.new_one", "K").with_unit(3.0) == "3.00 K"
    assert metric("a.new_one", "K").better == ""
    assert metric("speed.view_ms", "ms").format_like(0.0177, 3.11) == "0.02"
    assert rounded(31234.0, -2) == "31,200"


def test_growth_metrics_are_taken_apart_named_and_sorted_by_size():
    assert growth("growth.rendering.view_ms@64") == ("rendering", "view_ms", 64)
    assert growth("growth.rendering.view_ms_exponent") is None
    assert growth("speed.view_ms") is None
    assert metric("growth.grid.scene_bytes@64", "bytes").label == "Size of a scene, grid of 64"
    exponent = metric("growth.rendering.view_ms_exponent")
    assert exponent.label == "Time of a view: exponent of its growth (rendering)"
    names = ["growth.grid.scene_bytes@128", "growth.grid.scene_bytes@64", "odd.one", "quality.swd"]
    assert sorted(names, key=order) == [names[3], names[1], names[0], names[2]]


def test_what_is_missing_as_a_whole_is_missing_in_its_parts(tmp_path):
    make_run(tmp_path, "triplane")
    make_run(tmp_path, "nerf_mlp")
    both = comparison(tmp_path)
    assert "growth.grid" not in both.metrics
    assert (
        both.groups[1].cell("growth.grid.scene_bytes@32").why
        == "this representation stores no grid"
    )
    (alone,) = [g for g in both.groups if g.label == "nerf_mlp"]
    assert "growth.grid" in Comparison((alone,)).metrics
