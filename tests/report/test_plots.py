import itertools

import numpy as np
import pytest
from fabricated_runs import NUMBERS, edit, make_run
from matplotlib.colors import to_rgb

from lightning_gan3d.metric import Metric, MetricId, missing, read_metrics, write_metrics
from lightning_gan3d.report.groups import compare
from lightning_gan3d.report.plots.charts import (
    angles,
    growths,
    pareto,
    pareto_front,
    quality,
    samples,
)
from lightning_gan3d.report.plots.style import DARK, LIGHT, inks, spread_out, tick
from lightning_gan3d.report.records import find_runs

OWN = ("triplane", "voxel", "nerf_mlp", "image2d")


def linear(colour):
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def luminance(colour):
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


def cielab(rgb):
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ rgb / [0.9505, 1.0, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_every_colour_can_be_read_on_its_page(theme):
    palette = inks([*OWN, "a", "b", "c", "d", "e"])
    assert len({ink.light for ink in palette.values()}) == 9
    assert len({ink.marker for ink in palette.values()}) == 9
    for kind, ink in palette.items():
        assert contrast(ink.on(theme), theme.page) > 3.5, kind
    assert contrast(theme.text, theme.page) > 10


# Machado et al. (2009), full deficiency, on linear RGB.
DEFICIENT = {
    "protan": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deutan": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6728, 0.0471], [-0.0118, 0.0429, 0.9689]],
    "tritan": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0048, 0.6914, 0.3039]],
}


@pytest.mark.parametrize("matrix", DEFICIENT.values(), ids=DEFICIENT)
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_own_representations_differ_under_colour_vision_deficiency(matrix, theme):
    def simulated(ink):
        return cielab(np.clip(np.array(matrix) @ linear(ink.on(theme)), 0, 1))

    for a, b in itertools.combinations(inks(OWN).values(), 2):
        assert np.linalg.norm(simulated(a) - simulated(b)) > 20


def test_a_colour_belongs_to_a_representation_whatever_else_is_shown():
    assert inks(["voxel"])["voxel"] == inks(OWN)["voxel"]
    assert inks(["zeta", "alpha"]) == inks(["alpha", "zeta"])


def test_the_front_holds_undominated_points():
    points = {"a": (1.0, 5.0), "b": (2.0, 9.0), "c": (3.0, 8.0), "d": (1.0, 4.0)}
    assert pareto_front(points, x_up=False, y_up=True) == {"a", "b"}
    assert pareto_front(points, x_up=True, y_up=True) == {"b", "c"}
    assert pareto_front(points, x_up=False, y_up=False) == {"d"}
    assert pareto_front({"a": (1.0, 1.0), "b": (1.0, 1.0)}, True, True) == {"a", "b"}


def test_labels_are_moved_apart_and_keep_their_order():
    out = spread_out([10.0, 11.0, 50.0, 0.0], 10.0, 0.0, 100.0)
    assert out == pytest.approx([10.0, 20.0, 50.0, 0.0])
    crowded = spread_out([99.0, 98.0, 97.0], 10.0, 0.0, 100.0)
    assert crowded == pytest.approx([100.0, 90.0, 80.0])


def test_ticks_are_plain_numbers():
    assert [tick(x) for x in (0.05, 2.0, 1000.0, 15.0)] == ["0.05", "2", "1000", "15"]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for kind in NUMBERS:
        make_run(root, kind)
    make_run(root, "voxel", 1, finished=False)
    return compare(find_runs([root]))


def test_a_plot_is_recoloured_for_dark_pages_and_marks_unfinished_runs(comparison):
    plot = quality(comparison, "seconds")
    assert "unfinished run" in plot.caption
    assert plot.file == "quality_time.svg"
    assert b"</svg>" in plot.light
    own = [ink for kind, ink in inks(OWN).items() if kind in NUMBERS]
    for theme, svg in ((LIGHT, plot.light.decode()), (DARK, plot.dark.decode())):
        other = DARK if theme is LIGHT else LIGHT
        assert all(ink.on(theme) in svg and ink.on(other) not in svg for ink in own)
        assert theme.page in svg
        assert other.page not in svg
    assert len(plot.light) == len(plot.dark)


def test_flops_are_those_of_all_training_images(comparison, tmp_path, monkeypatch):
    drawn = []

    def record(ax, _comparison, lines):
        ax.plot([0, 1], [1, 2])
        drawn.append({line.group.label: line.xs for line in lines})

    monkeypatch.setattr("lightning_gan3d.report.plots.charts.draw_lines", record)
    plot = quality(comparison, "flops")
    assert "FLOPs of the generator's forward pass" in plot.caption
    assert quality(comparison, "kimg").light
    gflop = NUMBERS["triplane"][7] / 40  # per image
    assert drawn[0]["triplane"] == pytest.approx([gflop * x for x in drawn[1]["triplane"]])
    make_run(tmp_path, "voxel", benched=False)
    without = quality(compare(find_runs([tmp_path])), "flops")
    assert "run `gan3d bench` on voxel/" in without.why


def test_a_trade_off_without_a_mean_states_the_reason(comparison):
    plot = pareto(comparison, MetricId("speed.view_ms"), MetricId("refit.psnr"), "title")
    assert "No mean: voxel: seed 1: unfinished: stopped at 4 of 8 kimg." in plot.caption
    nothing = pareto(comparison, MetricId("speed.nothing"), MetricId("refit.psnr"), "title")
    assert nothing.light == b""
    assert "triplane: not in bench.json" in nothing.why


def test_growth_is_plotted_with_its_exponents_and_reasons(comparison):
    plots = {p.name: p for p in growths(comparison)}
    assert list(plots) == ["growth_rendering_view_ms", "growth_grid_scene_bytes"]
    assert "triplane 2.0; voxel 3.0" in plots["growth_grid_scene_bytes"].caption
    caption = plots["growth_grid_scene_bytes"].caption
    assert "nerf_mlp seed 0: this representation stores no grid" in caption
    assert "image2d seed 0: a picture has one size" in plots["growth_rendering_view_ms"].caption


def test_unmeasured_growth_states_the_command(tmp_path):
    make_run(tmp_path, "voxel", benched=False)
    (plot,) = growths(compare(find_runs([tmp_path])))
    assert "run `gan3d bench`" in plot.why


def with_angles(path, values, variant=""):
    """Add a curve of reprojection PSNR to a run, by angle in radians."""
    file = path / "evaluation.json"
    rows = [Metric("consistency.psnr", v, "dB", variant=variant, at=a) for a, v in values.items()]
    write_metrics(file, [*read_metrics(file), *rows])


def test_consistency_falls_with_the_angle_under_the_ceiling_of_the_data(tmp_path, monkeypatch):
    path = make_run(tmp_path, "triplane")
    with_angles(path, {0.25: 30.0, 0.5: 25.0, 1.0: 20.0})
    with_angles(path, {0.25: 40.0, 0.5: 39.0}, variant="truth")
    flat = make_run(tmp_path, "image2d")
    rows = [missing("consistency.psnr", "no depth", "dB", at=a) for a in (0.25, 0.5, 1.0)]
    write_metrics(flat / "evaluation.json", [*read_metrics(flat / "evaluation.json"), *rows])
    drawn = []
    module = "lightning_gan3d.report.plots.charts"
    monkeypatch.setattr(f"{module}.draw_lines", lambda _, __, lines: drawn.extend(lines))
    plot = angles(compare(find_runs([tmp_path])))
    (line,) = drawn
    assert line.xs == pytest.approx(np.rad2deg([0.25, 0.5, 1.0]))
    assert line.ys == [30.0, 25.0, 20.0]
    assert "(ceiling)" in plot.caption
    assert "image2d seed 0: no depth" in plot.caption
    assert b"</svg>" in plot.light


def test_consistency_by_angle_states_how_to_measure_it_or_why_it_is_missing(tmp_path):
    path = make_run(tmp_path, "image2d")
    assert "run `gan3d evaluate`" in angles(compare(find_runs([tmp_path]))).why
    edit(path, "consistency.psnr@0.25", value=None, note="no depth")
    assert angles(compare(find_runs([tmp_path]))).why == "image2d seed 0: no depth"


def test_samples_are_plotted_only_if_a_run_measured_them(tmp_path, monkeypatch):
    path = make_run(tmp_path, "triplane")
    metric = MetricId("samples.psnr")
    assert samples(compare(find_runs([tmp_path])), metric) == []
    file = path / "evaluation.json"
    rows = [Metric("samples.psnr", 10.0 * n, "dB", at=float(n)) for n in (2, 4)]
    write_metrics(file, [*read_metrics(file), *rows])
    drawn = []
    module = "lightning_gan3d.report.plots.charts"
    monkeypatch.setattr(f"{module}.draw_lines", lambda _, __, lines: drawn.extend(lines))
    (plot,) = samples(compare(find_runs([tmp_path])), metric)
    assert (drawn[0].xs, drawn[0].ys) == ([2, 4], [20, 40])
    assert b"</svg>" in plot.light
