import pytest
from fabricated_runs import make_run

from lightning_gan3d.report.catalogue import growth, metric, order, rounded, significant
from lightning_gan3d.report.groups import Comparison, compare
from lightning_gan3d.report.runs import find_runs


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
