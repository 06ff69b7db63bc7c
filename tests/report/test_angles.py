from fabricated_runs import make_run

from lightning_gan3d.metric import Metric, missing, read_metrics, write_metrics
from lightning_gan3d.metric_table import angle_curve, metric, order
from lightning_gan3d.report.groups import compare
from lightning_gan3d.report.plots.angles import angles
from lightning_gan3d.report.records import find_runs


def add(path, rows):
    file = path / "evaluation.json"
    write_metrics(file, [*read_metrics(file), *rows])


def curve(suffix, values):
    return [
        Metric.of_key(f"consistency.psnr{suffix}@{a:g}", v, "dB", 8, note="pairs")
        for a, v in zip((0.25, 0.5, 1.0), values, strict=True)
    ]


def test_each_run_is_a_line_over_the_angle_and_a_missing_one_is_named(tmp_path):
    first = make_run(tmp_path, "triplane")
    second = make_run(tmp_path, "image2d")
    add(first, [*curve("", (30.0, 27.0, 22.0)), *curve("_truth", (40.0, 39.0, 38.0))])
    add(second, [missing(f"consistency.psnr@{a}", "no depth is rendered") for a in (0.25, 0.5, 1)])
    (plot,) = angles(compare(find_runs([tmp_path])))
    assert set(plot.files) == {"png", "svg", "dark"}
    assert "dashed line" in plot.caption
    assert "no depth is rendered" in plot.caption
    without = make_run(tmp_path / "other", "voxel")
    (plot,) = angles(compare(find_runs([without])))
    assert not plot.files
    assert "gan3d evaluate" in plot.why


def test_points_of_a_curve_are_named_in_words_and_sorted_by_angle():
    assert angle_curve("consistency.psnr_raw@0.25") == ("consistency.psnr_raw", 0.25)
    assert angle_curve("growth.rendering.view_ms@64") is None
    shown = metric("consistency.psnr@0.5", "dB")
    assert shown.label == "View consistency by depth, final image, 0.5 rad apart"
    assert shown.better == "higher"
    assert metric("consistency.depth_error@1").better == "lower"
    names = [f"consistency.psnr@{a}" for a in ("0.25", "0.5", "0.75", "1")]
    assert sorted(reversed(names), key=order) == names
