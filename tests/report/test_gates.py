"""Degenerate generators with leading numbers are shown, but lead nothing."""

import pytest
from fabricated_runs import NUMBERS, edit, make_seeds

from lightning_gan3d.report.claims import claims
from lightning_gan3d.report.differences import Decisions, best_labels
from lightning_gan3d.report.groups import compare
from lightning_gan3d.report.make import make_report
from lightning_gan3d.report.records import find_runs
from lightning_gan3d.report.statements import statements

FAULTS = {
    "memorises training images": {"memorisation.excess": 1.0, "memorisation.nearer": 1.0},
    "is flat": {"geometry.billboards": 0.9},
    "is transparent": {"geometry.half_transparent": 0.95},
    "hides pixels from the reprojection": {"consistency.hidden": 0.7},
    "is blurred": {"quality.sharpness": 0.3},
    "is pale": {"quality.contrast": 0.3},
    "is smoother than the data's objects": {"refit.deficit": -3.5, "refit.deficit_truth": -0.5},
}


@pytest.fixture
def runs(tmp_path):
    """Three seeds of each kind; the voxel grid leads every metric."""
    runs = {kind: make_seeds(tmp_path, kind) for kind in NUMBERS}
    for key, value in {
        "quality.swd": 0.0129,
        "quality.swd_progress": 1.0,
        "refit.deficit": 0.01,
        "consistency.deficit": 0.01,
        "speed.view_ms": 0.01,
    }.items():
        edit(runs["voxel"], key, value=value)
    return runs


@pytest.mark.parametrize("fault", FAULTS)
def test_a_degenerate_leader_is_shown_but_not_ranked(tmp_path, runs, fault):
    before = Decisions(compare(find_runs([tmp_path])))
    assert not before.unranked
    assert any(": voxel" in s.text for s in statements(before) if s.verdict == "finding")
    for key, value in FAULTS[fault].items():
        edit(runs["voxel"], key, value=value, unit="share")
    decisions = Decisions(compare(find_runs([tmp_path])))
    assert fault in decisions.unranked["voxel"]
    said = statements(decisions)
    assert any(f"voxel {fault}" in s.text and s.verdict == "fails" for s in said)
    for s in said:
        ranked = s.text.partition(" Not ranked")[0]
        assert not (s.verdict in ("finding", "holds") and "voxel" in ranked), s.text
    assert any(f"Not ranked: voxel ({fault}" in s.text for s in said)
    assert all("voxel" not in s.text for s in claims(decisions) if s.text.startswith("A 2D")
               and s.verdict != "open")  # fmt: skip
    assert not any(d.ahead for d in decisions.between_groups if "voxel" in (d.first, d.second))
    for metric_id in decisions.comparison.metrics:
        assert "voxel" not in best_labels(decisions.comparison, metric_id)


def test_one_faulty_seed_is_enough_and_the_page_says_so(tmp_path, runs):
    edit(runs["voxel"][1], "geometry.billboards", value=0.6, unit="share")
    page = make_report([tmp_path], tmp_path / "report", load_generator=lambda _: 1 / 0).read_text()
    assert "voxel is flat (geometry.billboards 60.0 %)" in page
    table = (tmp_path / "report/table.tex").read_text()
    assert r"voxel$^\dagger$ &" in table
    assert r"$^\dagger$ Not ranked" in table
    assert "% voxel is flat (geometry.billboards 60.0 %)" in table
    assert table.count("dagger") == 2


def test_values_of_soft_but_honest_generators_pass(tmp_path, runs):
    """A trained MLP had 33 % half-transparent pixels."""
    honest = {
        "memorisation.excess": 0.75,
        "memorisation.nearer": 0.4,
        "geometry.half_transparent": 0.35,
        "consistency.hidden": 0.1,
        "consistency.deficit": -9.0,  # without objects of the data set, it means nothing
        "refit.deficit": 0.02,
        "refit.deficit_truth": 2.2,  # the truth's images are aliased
        "quality.sharpness": 0.7,
        "quality.contrast": 0.8,
        "geometry.billboards": 0.0,
    }
    for key, value in honest.items():
        edit(runs["nerf_mlp"], key, value=value, unit="share")
    assert not Decisions(compare(find_runs([tmp_path]))).unranked
