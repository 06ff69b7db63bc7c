import pytest
from fabricated_runs import NUMBERS, edit, make_run, make_seeds

from lightning_gan3d.report.claims import claims
from lightning_gan3d.report.differences import Decisions
from lightning_gan3d.report.groups import compare
from lightning_gan3d.report.records import find_runs
from lightning_gan3d.report.statements import statements


def checked(root):
    comparison = compare(find_runs([root]))
    decisions = Decisions(comparison)
    return [*claims(decisions), *statements(decisions)]


def one(root, start):
    matches = [s for s in checked(root) if s.text.startswith(start)]
    assert len(matches) == 1, [s.text for s in checked(root)]
    return matches[0]


REFIT = "Highest multi-view consistency by refit"


@pytest.fixture
def runs(tmp_path):
    return {kind: make_seeds(tmp_path, kind) for kind in NUMBERS}


def test_superlatives_name_the_best_by_the_direction_of_the_metric(tmp_path, runs):
    fastest = one(tmp_path, "Shortest render time per view")
    assert fastest.verdict == "finding"
    assert "triplane, 3.10 ms (voxel 4.40 ms, a factor of 1.4; " in fastest.text
    by_refit = one(tmp_path, REFIT)
    assert "nerf_mlp, 0.20 dB (voxel 2.50 dB; " in by_refit.text
    assert "image2d, 75.0 img/s" in one(tmp_path, "Highest training throughput").text
    edit(runs["voxel"], "speed.view_ms", value=0.5)
    assert ": voxel, 0.500 ms" in one(tmp_path, "Shortest render time per view").text


@pytest.mark.usefixtures("runs")
def test_unranked_groups_state_their_reason(tmp_path):
    text = one(tmp_path, "Highest multi-view consistency by reprojection").text
    assert "Not ranked: image2d (no depth is rendered, so nothing can be warped)." in text


def test_no_winner_is_named_if_it_is_too_close(tmp_path, runs):
    edit(runs["voxel"], "refit.deficit", value=[0.1, 0.3, 0.6])
    s = one(tmp_path, REFIT)
    assert s.verdict == "open"
    assert "Too close to call: voxel." in s.text


def test_superlatives_ignore_metrics_that_uniform_colour_improves(tmp_path, runs):
    edit(runs["image2d"], "refit.psnr", value=50.5)
    edit(runs["image2d"], "refit.deficit", value=None, note="no texture")
    s = one(tmp_path, REFIT)
    assert ": nerf_mlp, " in s.text
    assert "Not ranked: image2d (no texture)" in s.text


def test_fid_is_ranked_in_each_mode(tmp_path, runs):
    for i, kind in enumerate(runs):
        key = "quality.fid_legacy_tensorflow"
        edit(runs[kind], key, value=5.0 + i, n=50000, spread=0.1)
    s = one(tmp_path, "Lowest FID (FID TF)")
    assert ": triplane, 5.00 (" in s.text
    assert s.mark == "finding"


def test_two_seeds_are_described_without_a_winner(tmp_path):
    for kind in NUMBERS:
        for seed in (0, 1):
            make_run(tmp_path, kind, seed)
    s = one(tmp_path, "Lowest SWD")
    assert s.mark == "not decided"
    assert s.text.endswith("Fewer than 3 seeds decide nothing.")
    assert one(tmp_path, "Smallest scene memory").verdict == "finding"


def test_exact_values_need_no_common_seed(tmp_path):
    for seed, kind in enumerate(NUMBERS):
        make_run(tmp_path, kind, seed)
    assert one(tmp_path, "Smallest scene memory").verdict == "finding"
    assert "No seed in common" in one(tmp_path, "Lowest SWD").text


def test_sizes_are_counted_so_one_seed_decides(tmp_path, runs):
    assert one(tmp_path, "Smallest scene memory").mark == "finding"
    assert len(runs) == 4


def test_different_protocols_are_not_ranked(tmp_path, runs):
    edit(runs["triplane"], "quality.swd", protocol="a" * 16)
    edit(runs["voxel"], "quality.swd", protocol="b" * 16)
    s = one(tmp_path, "Lowest SWD")
    assert s.verdict == "open"
    assert f"not compared: protocols differ (triplane: {'a' * 16}" in s.text


def test_three_seeds_are_decided_by_their_paired_difference(tmp_path):
    """Seeds move both by far more than they are apart, so that only pairing can tell."""
    for seed in range(3):
        for kind in ("triplane", "voxel"):
            path = make_run(tmp_path, kind, seed, shift=0.05 * seed)
            value = 10.0 - len(kind) + 5.0 * seed - 1e-4 * (kind == "voxel") * seed
            edit(path, "refit.deficit", value=value)
    s = one(tmp_path, REFIT)
    assert s.verdict == "finding"
    assert ": triplane, " in s.text
    path = tmp_path / "voxel" / f"{sum(b'voxel'):08x}-s1"
    edit(path, "refit.deficit", value=7.0)
    assert one(tmp_path, REFIT).verdict == "open"


def test_swd_progress_holds_and_fails_group_by_group(tmp_path, runs):
    assert one(tmp_path, "Training covers at least half").verdict == "holds"
    edit(runs["voxel"], "quality.swd_progress", value=0.36)
    for path in runs["nerf_mlp"]:
        (path / "evaluation.json").unlink()
    matches = [s for s in checked(tmp_path) if s.text.startswith("Training covers at least half")]
    assert [s.verdict for s in matches] == ["holds", "fails", "open"]
    assert "real-real floor: no; voxel, 36.0 %." in matches[1].text
    assert "not decided; nerf_mlp, no evaluation.json" in matches[2].text
    assert "triplane" in matches[0].text
    assert "voxel" not in matches[0].text


def test_the_baseline_is_compared_by_refit_whatever_the_result(tmp_path, runs):
    start = "A 2D generator is less consistent"
    assert one(tmp_path, start).verdict == "holds"
    edit(runs["image2d"], "refit.deficit", value=2.0)
    failed = one(tmp_path, start)
    assert failed.verdict == "fails"
    assert "no, image2d is more consistent than triplane and voxel (image2d 2.00 dB" in failed.text
    edit(runs["image2d"], "refit.deficit", value=[3.2, 3.3, 3.4])
    assert one(tmp_path, start).verdict == "open"
    (runs["voxel"][0] / "evaluation.json").unlink()
    undecided = one(tmp_path, start)
    assert undecided.verdict == "open"
    assert "not decided; voxel (seed 0: no evaluation.json" in undecided.text


def test_gaps_and_unequal_conditions_come_first(tmp_path):
    make_run(tmp_path, "triplane")
    make_run(tmp_path, "voxel", finished=False)
    make_run(tmp_path, "nerf_mlp", manifest={"device": "another", "threads": 4}, kimg=16.0)
    comparison = compare(find_runs([tmp_path]))
    texts = [(s.verdict, s.text) for s in statements(Decisions(comparison))]
    assert texts[0][0] == "fails"
    assert "1 of 3 not" in texts[0][1]
    assert "unfinished: stopped at 4 of 8 kimg" in texts[0][1]
    fails = [t for v, t in texts if v == "fails"]
    assert any("the same device" in t and "another" in t for t in fails)
    assert any("the same number of CPU threads" in t for t in fails)
    assert any("triplane 8, nerf_mlp 16" in t for t in fails)
    same = "the same data, the same commit and the same library versions"
    assert ("holds", f"All finished runs had {same}.") in texts


def test_extended_runs_that_differ_from_scratch_are_stated(tmp_path):
    make_run(tmp_path, "triplane", 0, manifest={"extends": {"run": "ab-s0", "note": "not equal"}})
    make_run(tmp_path, "triplane", 1, manifest={"extends": {"run": "ab-s1", "note": ""}})
    statement = one(tmp_path, "triplane seed 0 extends")
    assert statement.verdict == "fails"
    assert statement.text == "triplane seed 0 extends ab-s0: not equal."
    assert not [s for s in checked(tmp_path) if "triplane seed 1 extends" in s.text]


def test_unrecorded_conditions_are_open(tmp_path):
    for kind in ("triplane", "voxel"):
        path = make_run(tmp_path, kind)
        (path / "manifest.json").write_text('{"finished": true}')
    assert any(s.verdict == "open" and "No run recorded" in s.text for s in checked(tmp_path))


@pytest.mark.usefixtures("runs")
def test_a_seed_without_a_value_keeps_its_group_out_of_the_ranking(tmp_path):
    make_run(tmp_path, "triplane", 3, benched=False)
    s = one(tmp_path, "Shortest render time per view")
    assert ": voxel, 4.40 ms" in s.text
    assert "triplane (seed 3: no bench.json" in s.text


def test_one_group_alone_is_not_ranked(tmp_path):
    make_run(tmp_path, "triplane")
    assert not any("Shortest" in s.text for s in checked(tmp_path))


def test_the_renderer_backend_is_stated_for_each_group(tmp_path, runs):
    for kind, note in (("triplane", "numba, AVX-512"), ("nerf_mlp", "plain (no kernel)")):
        edit(runs[kind], "speed.fused", value=1.0, n=1, note=note)
    said = one(tmp_path, "Renderer backend")
    assert "triplane numba, AVX-512" in said.text
    assert "nerf_mlp plain (no kernel)" in said.text
    assert "image2d" not in said.text
