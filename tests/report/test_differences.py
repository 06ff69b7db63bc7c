from dataclasses import replace

import pytest
from fabricated_runs import NUMBERS, edit, edit_all, make_run, make_seeds

from lightning_gan3d.metric import MetricId, missing, read_metrics, write_metrics
from lightning_gan3d.report.differences import (
    Decisions,
    best_labels,
    difference,
    why_not_bold,
)
from lightning_gan3d.report.document import compose
from lightning_gan3d.report.groups import compare
from lightning_gan3d.report.make import differences_csv, to_html, to_markdown
from lightning_gan3d.report.records import find_runs


def make(root, values):
    """Runs of two groups with these values of refit.deficit by seed."""
    for kind, by_seed in values.items():
        for seed, value in by_seed.items():
            path = make_run(root, kind, seed, finished=value is not None)
            if value is not None:
                more = value if isinstance(value, dict) else {"value": value}
                edit(path, "refit.deficit", **more)
    return compare(find_runs([root]))


def one(comparison, name="refit.deficit"):
    """The difference without Holm's correction over other metrics."""
    gap = difference(*comparison.groups, MetricId(name))
    return replace(gap, adjusted=gap.p)


def test_variation_common_to_both_groups_cancels(tmp_path):
    """Seeds differ by 5 dB, groups by 1: only the paired interval is narrow."""
    comparison = make(
        tmp_path,
        {"triplane": {0: 20.0, 1: 25.0, 2: 30.0}, "voxel": {0: 21.0, 1: 26.1, 2: 30.9}},
    )
    gap = one(comparison)
    assert gap.mean == pytest.approx(-1.0)
    assert gap.interval.low > -1.3
    assert gap.interval.high < -0.7
    assert gap.basis == "seeds 0, 1, 2"
    assert gap.ahead == "triplane"


def test_the_lower_group_is_ahead_if_lower_is_better(tmp_path):
    for kind in ("triplane", "voxel"):
        make_seeds(tmp_path, kind)
    gap = one(compare(find_runs([tmp_path])), "quality.swd")
    assert gap.mean == pytest.approx(0.051 - 0.027, abs=1e-5)
    assert gap.ahead == "voxel"


def test_a_difference_within_the_interval_has_no_winner(tmp_path):
    comparison = make(
        tmp_path,
        {"triplane": {0: 21.0, 1: 24.0, 2: 30.0}, "voxel": {0: 20.0, 1: 25.0, 2: 27.0}},
    )
    assert one(comparison).mean == pytest.approx(1.0)
    assert one(comparison).ahead == ""


def test_a_gap_leaves_no_difference(tmp_path):
    values = {"triplane": {0: 21.0, 1: 24.0, 2: None}, "voxel": {0: 20.0, 1: 25.0, 2: 27.0}}
    gap = one(make(tmp_path, values))
    assert gap.mean is None
    assert "triplane: seed 2: unfinished" in gap.why


def test_other_seeds_are_not_paired(tmp_path):
    gap = one(make(tmp_path, {"triplane": {0: 21.0}, "voxel": {1: 20.0}}))
    assert gap.mean is None
    assert gap.why == "no seed in common"


def test_only_shared_seeds_are_paired(tmp_path):
    gap = one(make(tmp_path, {"triplane": {0: 21.0, 1: 22.0}, "voxel": {1: 20.0, 2: 90.0}}))
    assert gap.mean == pytest.approx(2.0)
    assert gap.interval is None
    assert gap.basis == "seed 1"
    assert gap.why == "fewer than 3 seeds decide nothing"
    assert gap.ahead == ""


def test_different_protocols_are_not_subtracted_but_unrecorded_ones_are(tmp_path):
    first = {"value": 2.0, "protocol": "a" * 16}
    make(tmp_path, {"triplane": {0: first}, "voxel": {0: {"protocol": "b" * 16}}})
    gap = one(compare(find_runs([tmp_path])))
    assert gap.mean is None
    assert gap.why.startswith("not compared: protocols differ (triplane: aa")
    edit(tmp_path / "voxel" / "0000022e-s0", "refit.deficit", protocol="")
    assert one(compare(find_runs([tmp_path]))).mean == pytest.approx(2.0 - 2.5)


def test_all_pairs_are_listed_and_written(tmp_path):
    for kind in ("triplane", "voxel", "nerf_mlp"):
        make_run(tmp_path, kind)
    gaps = Decisions(compare(find_runs([tmp_path]))).between_groups
    assert {(d.first, d.second) for d in gaps if d.id.name == "refit.deficit"} == {
        ("triplane", "voxel"),
        ("triplane", "nerf_mlp"),
        ("voxel", "nerf_mlp"),
    }
    rows = differences_csv(gaps).splitlines()
    assert rows[0] == "metric,first,second,difference,low,high,unit,p,basis,why"
    assert len(rows) == 1 + len(gaps)
    row = next(r for r in rows if r.startswith("refit.deficit,triplane,voxel"))
    assert float(row.split(",")[3]) == pytest.approx(3.3 - 2.5)
    assert row.split(",")[4:7] == ["", "", "dB"]


@pytest.fixture
def runs(tmp_path):
    return {kind: make_run(tmp_path, kind) for kind in NUMBERS}


def best(root, name):
    comparison = compare(find_runs([root]))
    return best_labels(comparison, MetricId(name)), why_not_bold(comparison, MetricId(name))


def test_metrics_that_blur_improves_are_never_bold(tmp_path, runs):
    assert best(tmp_path, "refit.deficit") == ({"nerf_mlp"}, "")
    edit(runs["voxel"], "refit.psnr", value=50.5)
    for name in ("refit.psnr", "refit.gain", "consistency.psnr", "consistency.gain"):
        assert best(tmp_path, name) == (set(), "")


def test_nothing_is_bold_across_protocols_and_the_page_states_it(tmp_path, runs):
    name = "quality.swd"
    assert best(tmp_path, name) == ({"voxel"}, "")
    for kind, key in (("triplane", "a" * 16), ("voxel", "a" * 16)):
        edit_all(runs[kind], protocol=key)
    assert best(tmp_path, name) == ({"voxel"}, "")
    edit_all(runs["image2d"], protocol="b" * 16)
    labels, why = best(tmp_path, name)
    assert labels == set()
    assert why == (
        f"not compared: protocols differ (triplane, voxel: {'a' * 16}; image2d: {'b' * 16})"
    )
    document = compose(compare(find_runs([tmp_path])))
    for text in (to_markdown(document, "plots"), to_html(document)):
        assert why in text


def test_metrics_missing_everywhere_for_one_reason_are_one_sentence(tmp_path, runs):
    why = "the generator ignores the label"
    for path in runs.values():
        names = ("refit.psnr", "refit.gain")
        rows = [missing(name, why, "dB", variant="following") for name in names]
        write_metrics(path / "evaluation.json", read_metrics(path / "evaluation.json") + rows)
    document = compose(compare(find_runs([tmp_path])))
    table = next(t for t in document.tables if t.title == "Multi-view consistency by refit")
    assert [m.name for m, _ in table.rows] == ["refit.deficit", "refit.psnr", "refit.gain"]
    sentence = (
        "Missing in every run: PSNR of held-out views (refit; blur raises it), label follows "
        "camera and PSNR gain over nearest view (refit; blur raises it), label follows camera (the "
        "generator ignores the label)."
    )
    assert table.remarks == (sentence,)
    assert sentence in to_html(document)
    assert sentence.replace("_", "\\_") in to_markdown(document, "plots")
    edit(runs["voxel"], "refit.psnr_following", value=20.0, note="")
    document = compose(compare(find_runs([tmp_path])))
    table = next(t for t in document.tables if t.title == "Multi-view consistency by refit")
    labels = [info.label for info, _ in table.rows]
    assert "PSNR of held-out views (refit; blur raises it), label follows camera" in labels
