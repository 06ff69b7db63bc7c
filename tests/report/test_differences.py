import pytest
from fabricated_runs import edit, make_run

from lightning_gan3d.report.groups import compare
from lightning_gan3d.report.paired import difference, differences
from lightning_gan3d.report.records import find_runs
from lightning_gan3d.report.tables import differences_csv


def make(root, values):
    """Runs of two groups with these values of refit.psnr by seed."""
    for kind, by_seed in values.items():
        for seed, value in by_seed.items():
            path = make_run(root, kind, seed, finished=value is not None)
            if value is not None:
                more = value if isinstance(value, dict) else {"value": value}
                edit(path, "refit.psnr", **more)
    return compare(find_runs([root]))


def one(comparison, name="refit.psnr"):
    return difference(*comparison.groups, name)


def test_what_seeds_share_cancels(tmp_path):
    """Seeds differ by 5 dB, groups by 1: only the paired interval is narrow."""
    comparison = make(
        tmp_path,
        {"triplane": {0: 21.0, 1: 26.1, 2: 30.9}, "voxel": {0: 20.0, 1: 25.0, 2: 30.0}},
    )
    found = one(comparison)
    assert found.mean == pytest.approx(1.0)
    assert found.interval.low > 0.7
    assert found.interval.high < 1.3
    assert found.basis == "seeds 0, 1, 2"
    assert found.ahead == "triplane"


def test_where_lower_is_better_the_other_is_ahead(tmp_path):
    comparison = make(
        tmp_path, {kind: dict.fromkeys(range(3), 1.0) for kind in ("triplane", "voxel")}
    )
    found = one(comparison, "quality.swd")
    assert found.mean == pytest.approx(0.051 - 0.027)
    assert found.ahead == "voxel"


def test_what_is_not_beyond_the_interval_is_not_called(tmp_path):
    comparison = make(
        tmp_path,
        {"triplane": {0: 21.0, 1: 24.0, 2: 30.0}, "voxel": {0: 20.0, 1: 25.0, 2: 27.0}},
    )
    assert one(comparison).mean == pytest.approx(1.0)
    assert one(comparison).ahead == ""


def test_a_gap_leaves_no_difference(tmp_path):
    values = {"triplane": {0: 21.0, 1: 24.0, 2: None}, "voxel": {0: 20.0, 1: 25.0, 2: 27.0}}
    found = one(make(tmp_path, values))
    assert found.mean is None
    assert "triplane: seed 2: unfinished" in found.why


def test_other_seeds_are_not_paired(tmp_path):
    found = one(make(tmp_path, {"triplane": {0: 21.0}, "voxel": {1: 20.0}}))
    assert found.mean is None
    assert found.why == "they have no seed in common"


def test_only_shared_seeds_are_paired(tmp_path):
    found = one(make(tmp_path, {"triplane": {0: 21.0, 1: 22.0}, "voxel": {1: 20.0, 2: 90.0}}))
    assert found.mean == pytest.approx(2.0)
    assert found.interval is None
    assert found.basis == "seed 1"
    assert found.why == "no interval from 1 seed: it takes 3 or more"
    assert found.ahead == ""


def test_too_few_seeds_are_compared_item_by_item(tmp_path):
    first = {"value": 22.0, "items": [10.0, 21.2, 33.1, None, 99.0]}
    second = {"value": 21.0, "items": [9.0, 20.0, 32.0, 50.0, None]}
    found = one(make(tmp_path, {"triplane": {0: first}, "voxel": {0: second}}))
    assert found.mean == pytest.approx(1.1)  # of the three items that both have
    assert found.interval.low == pytest.approx(1.1 - 4.302653 * 0.1 / 3**0.5, rel=1e-4)
    assert found.basis == "3 items of seed 0; another seed may differ by more"


def test_items_of_different_protocols_are_not_paired(tmp_path):
    first, second = {"value": 2.0, "items": [1.0, 2.0, 3.0]}, {"value": 1.0, "items": [1.0] * 4}
    found = one(make(tmp_path, {"triplane": {0: first}, "voxel": {0: second}}))
    assert found.mean == pytest.approx(1.0)
    assert found.interval is None


def test_other_protocols_are_not_subtracted_and_unknown_ones_are(tmp_path):
    first = {"value": 2.0, "protocol": "a" * 16}
    make(tmp_path, {"triplane": {0: first}, "voxel": {0: {"protocol": "b" * 16}}})
    found = one(compare(find_runs([tmp_path])))
    assert found.mean is None
    assert found.why.startswith("measured differently, so not compared (protocol of triplane: aa")
    edit(tmp_path / "voxel" / "0000022e-s0", "refit.psnr", protocol="")
    assert one(compare(find_runs([tmp_path]))).mean == pytest.approx(2.0 - 27.9)


def test_all_pairs_are_listed_and_written(tmp_path):
    for kind in ("triplane", "voxel", "nerf_mlp"):
        make_run(tmp_path, kind)
    found = differences(compare(find_runs([tmp_path])))
    assert {(d.first, d.second) for d in found if d.metric.name == "refit.psnr"} == {
        ("triplane", "voxel"),
        ("triplane", "nerf_mlp"),
        ("voxel", "nerf_mlp"),
    }
    rows = differences_csv(found).splitlines()
    assert rows[0] == "metric,first,second,difference,low,high,unit,basis,why"
    assert len(rows) == 1 + len(found)
    row = next(r for r in rows if r.startswith("refit.psnr,triplane,voxel"))
    assert float(row.split(",")[3]) == pytest.approx(27.1 - 27.9)
    assert row.split(",")[4:7] == ["", "", "dB"]
