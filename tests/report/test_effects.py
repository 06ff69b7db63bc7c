from dataclasses import replace
from itertools import product

import pytest
import yaml
from fabricated_runs import edit, make_run

from lightning_gan3d.arms import factors, natural_key
from lightning_gan3d.metric import MetricId
from lightning_gan3d.report.differences import Decisions
from lightning_gan3d.report.document import compose
from lightning_gan3d.report.effects import arm_table, effect_table, effects
from lightning_gan3d.report.groups import Comparison, compare
from lightning_gan3d.report.plots.style import group_inks
from lightning_gan3d.report.records import find_runs

SWD = MetricId("quality.swd")


def ablation(root, seeds=(0, 1, 2), noise=1e-4):
    """A grid: 8 more samples lower the SWD by 0.01, the width does not matter."""
    for i, (samples, width) in enumerate(product((8, 16), (32, 64))):
        for seed in seeds:
            path = make_run(root, "voxel", seed, variant=f"0000000{i}")
            config = yaml.safe_load((path / "config.yaml").read_text())
            config["generator"] |= {"renderer": {"samples": samples}, "width": width}
            (path / "config.yaml").write_text(yaml.safe_dump(config))
            edit(path, "quality.swd", value=0.05 - 0.01 * (samples == 16) + noise * seed * (i - 1))
    return compare(find_runs([root]))


def test_effects_are_differences_over_pairs_with_all_other_settings_equal(tmp_path):
    first, second = effects(ablation(tmp_path), [SWD])
    assert (first.factor, first.before, first.after, first.pairs) == ("samples", "8", "16", 2)
    assert first.mean == pytest.approx(-0.01 + 2e-4)
    assert first.interval.low < -0.01 + 2e-4 < first.interval.high
    assert first.interval.half == pytest.approx(4.3027 * 2e-4 / 3**0.5, rel=1e-3)
    assert (second.factor, second.mean) == ("width", pytest.approx(1e-4))


def test_values_are_in_order_and_an_unknown_configuration_names_nothing(tmp_path):
    groups = ablation(tmp_path)
    renamed = [replace(g, label=x) for g, x in zip(groups.groups, "dcba", strict=True)]
    changes = [(e.before, e.after) for e in effects(Comparison(tuple(renamed[::-1])), [SWD])]
    assert changes == [("8", "16"), ("32", "64")]
    assert factors([{"a": 1, "b": 2}, {}, {"a": 1, "b": 3}]) == [{"b": "2"}, {}, {"b": "3"}]
    assert sorted(["n 16", "n 1e+06", "n 8", "n 2e-05"], key=natural_key) == [
        "n 2e-05", "n 8", "n 16", "n 1e+06",
    ]  # fmt: skip


def test_a_missing_arm_leaves_the_pairs_that_are_there(tmp_path):
    ablation(tmp_path)
    for seed in range(3):
        (tmp_path / f"voxel/00000003-s{seed}/config.yaml").unlink()
    groups = compare(find_runs([tmp_path]))
    assert [(e.factor, e.pairs) for e in effects(groups, [SWD])] == [("samples", 1), ("width", 1)]


def test_tables_of_settings_and_effects(tmp_path):
    groups = ablation(tmp_path)
    table = arm_table(groups)
    assert table.heads == ("", "samples", "width")
    assert table.rows[1] == ("samples 8, width 64", "8", "64")
    table = effect_table(groups)
    assert table.heads[:3] == ("change", "pairs", "SWD ↓")
    assert table.rows[0][:3] == ("samples 8 to 16", "2", "-0.00980 (-0.01030 to -0.00930)")
    two_seeds = effect_table(ablation(tmp_path / "two", seeds=(0, 1)))
    assert two_seeds.rows[0][2] == "-0.00990"
    assert compose(groups).title == "Ablation of voxel: samples and width"


def test_representations_are_no_settings(tmp_path):
    make_run(tmp_path, "voxel")
    make_run(tmp_path, "triplane")
    groups = compare(find_runs([tmp_path]))
    assert not arm_table(groups).rows
    assert not effect_table(groups).rows


def test_every_arm_has_its_own_colour_and_mark(tmp_path):
    inks = group_inks(ablation(tmp_path, seeds=(0,)))
    assert len({ink.light for ink in inks.values()}) == 4
    assert len({ink.marker for ink in inks.values()}) == 4


def test_a_mismatch_of_protocols_names_the_setting_that_differs(tmp_path):
    for kind, num in (("voxel", 64), ("triplane", 32)):
        path = make_run(tmp_path, kind)
        edit(path, "quality.swd", protocol=f"{num:016x}")
        conditions = path / "evaluation.conditions.json"
        conditions.write_text(f'{{"evaluation": {{"num_images": {num}}}, "commit": "{kind}"}}')
    groups = compare(find_runs([tmp_path]))
    difference = Decisions(groups).between("triplane", "voxel", SWD)
    assert "triplane: num_images 32; voxel: num_images 64" in difference.why
