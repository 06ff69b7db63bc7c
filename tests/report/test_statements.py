import pytest
from fabricated_runs import NUMBERS, edit, make_run

from lightning_gan3d.report.claims import claims
from lightning_gan3d.report.groups import compare
from lightning_gan3d.report.records import find_runs
from lightning_gan3d.report.statements import statements


def checked(root):
    comparison = compare(find_runs([root]))
    return [*claims(comparison), *statements(comparison)]


def one(root, start):
    found = [s for s in checked(root) if s.text.startswith(start)]
    assert len(found) == 1, [s.text for s in checked(root)]
    return found[0]


@pytest.fixture
def runs(tmp_path):
    return {kind: make_run(tmp_path, kind) for kind in NUMBERS}


def test_superlatives_name_the_best_by_the_direction_of_the_metric(tmp_path, runs):
    fastest = one(tmp_path, "Fastest per view")
    assert fastest.verdict == "found"
    assert "triplane, 3.10 ms (voxel 4.40 ms, a factor of 1.4; " in fastest.text
    by_refit = one(tmp_path, "Most consistent between views, by the measure that")
    assert "nerf_mlp, 7.40 dB (voxel 5.10 dB; " in by_refit.text
    assert "image2d, 75.0 img/s" in one(tmp_path, "Fastest in training").text
    edit(runs["voxel"], "speed.view_ms", value=0.5)
    assert ": voxel, 0.500 ms" in one(tmp_path, "Fastest per view").text


@pytest.mark.usefixtures("runs")
def test_what_could_not_be_ranked_says_why(tmp_path):
    text = one(tmp_path, "Most consistent between views, by reprojection").text
    assert "Not ranked: image2d (no depth is rendered, so nothing can be warped)." in text


def test_what_is_too_close_is_not_called(tmp_path, runs):
    edit(runs["voxel"], "refit.gain", value=7.3)
    s = one(tmp_path, "Most consistent between views, by the m")
    assert s.verdict == "open"
    assert "Too close to call against voxel." in s.text


def test_superlatives_do_not_go_by_what_one_colour_wins(tmp_path, runs):
    edit(runs["image2d"], "refit.psnr", value=50.5)
    edit(runs["image2d"], "refit.gain", value=None, note="no texture")
    s = one(tmp_path, "Most consistent between views, by the measure that")
    assert ": nerf_mlp, " in s.text
    assert "Not ranked: image2d (no texture)" in s.text
    for kind in ("triplane", "voxel", "nerf_mlp"):
        edit(runs[kind], "refit.gain", value=-10.0 * len(kind))
    s = one(tmp_path, "Most consistent between views, by the measure that")
    assert s.verdict == "open"
    assert "None gains" in s.text


def test_fid_is_ranked_in_each_mode_where_it_is_measured(tmp_path, runs):
    for i, kind in enumerate(runs):
        key = "quality.fid_legacy_tensorflow"
        edit(runs[kind], key, value=5.0 + i, n=50000, spread=0.1)
    s = one(tmp_path, "Lowest FID (FID TF)")
    assert ": triplane, 5.00 (" in s.text
    assert s.mark == "finding for these runs"


def test_one_seed_without_a_spread_is_not_called(tmp_path, runs):
    for kind in ("triplane", "voxel"):
        edit(runs[kind], "quality.swd", spread=None)
    s = one(tmp_path, "Images nearest")
    assert s.verdict == "open"
    assert "Not called, for fewer than three seeds without a spread" in s.text


def test_sizes_are_counted_and_called_from_one_seed(tmp_path, runs):
    assert one(tmp_path, "Smallest scene").mark == "finding"
    assert len(runs) == 4


def test_what_was_measured_differently_is_not_ranked(tmp_path, runs):
    edit(runs["triplane"], "quality.swd", protocol="a" * 16)
    edit(runs["voxel"], "quality.swd", protocol="b" * 16)
    s = one(tmp_path, "Images nearest")
    assert s.verdict == "open"
    assert f"measured differently, so not compared (protocol of triplane: {'a' * 16}" in s.text


def test_three_seeds_are_called_by_their_paired_difference(tmp_path):
    """Seeds move both by far more than they are apart, so that only pairing can tell."""
    for seed in range(3):
        for kind in ("triplane", "voxel"):
            make_run(tmp_path, kind, seed, shift=0.05 * seed)
    s = one(tmp_path, "Most consistent between views, by the m")
    assert s.verdict == "found"
    assert ": voxel, " in s.text
    path = tmp_path / "voxel" / f"{sum(b'voxel'):08x}-s1"
    edit(path, "refit.gain", value=5.0)
    assert one(tmp_path, "Most consistent between views, by the m").verdict == "open"


def test_the_way_to_the_floor_holds_and_fails_group_by_group(tmp_path, runs):
    assert one(tmp_path, "Training brings the SWD").verdict == "holds"
    edit(runs["voxel"], "quality.swd_way", value=0.36)
    (runs["nerf_mlp"] / "evaluation.json").unlink()
    found = [s for s in checked(tmp_path) if s.text.startswith("Training brings the SWD")]
    assert [s.verdict for s in found] == ["holds", "fails", "open"]
    assert "to its floor: no; voxel, 36 % of the way." in found[1].text
    assert "not decided; nerf_mlp, no evaluation.json" in found[2].text
    assert "triplane" in found[0].text
    assert "voxel" not in found[0].text


def test_the_baseline_is_compared_by_the_measure_without_depth_whatever_comes_out(tmp_path, runs):
    start = "A 2D generator is less consistent"
    assert one(tmp_path, start).verdict == "holds"
    edit(runs["image2d"], "refit.psnr", value=28.0)
    edit(runs["image2d"], "refit.gain", value=5.2)
    failed = one(tmp_path, start)
    assert failed.verdict == "fails"
    assert (
        "no, image2d is at least as consistent as triplane and voxel (image2d 28.00 dB"
        in failed.text
    )
    edit(runs["image2d"], "refit.psnr", value=27.0)
    edit(runs["image2d"], "refit.gain", value=4.2)
    assert one(tmp_path, start).verdict == "open"
    (runs["voxel"] / "evaluation.json").unlink()
    undecided = one(tmp_path, start)
    assert undecided.verdict == "open"
    assert "not decided; voxel (no evaluation.json" in undecided.text


def test_warping_is_expected_to_gain_where_there_is_depth(tmp_path, runs):
    assert one(tmp_path, "Warping one view").verdict == "holds"
    edit(runs["triplane"], "consistency.gain", value=-0.4)
    found = [s for s in checked(tmp_path) if s.text.startswith("Warping one view")]
    assert [s.verdict for s in found] == ["holds", "fails"]
    assert found[1].text.endswith("beats not warping: no; triplane, -0.40 dB.")
    assert all("image2d" not in s.text for s in found)


def test_gaps_and_unequal_conditions_are_said_first(tmp_path):
    make_run(tmp_path, "triplane")
    make_run(tmp_path, "voxel", finished=False)
    make_run(tmp_path, "nerf_mlp", manifest={"device": "another", "threads": 4}, kimg=16.0)
    comparison = compare(find_runs([tmp_path]))
    texts = [(s.verdict, s.text) for s in statements(comparison)]
    assert texts[0][0] == "fails"
    assert "1 of 3 not" in texts[0][1]
    assert "unfinished: stopped at 4 of 8 kimg" in texts[0][1]
    fails = [t for v, t in texts if v == "fails"]
    assert any("the same device" in t and "another" in t for t in fails)
    assert any("the same number of CPU threads" in t for t in fails)
    assert any("triplane 8, nerf_mlp 16" in t for t in fails)
    same = "the same data, the same commit and the same versions of libraries"
    assert ("holds", f"All finished runs had {same}.") in texts


def test_conditions_that_nobody_recorded_are_open(tmp_path):
    for kind in ("triplane", "voxel"):
        path = make_run(tmp_path, kind)
        (path / "manifest.json").write_text('{"finished": true}')
    assert any(s.verdict == "open" and "No run recorded" in s.text for s in checked(tmp_path))


@pytest.mark.usefixtures("runs")
def test_a_seed_without_a_value_keeps_its_group_out_of_the_ranking(tmp_path):
    make_run(tmp_path, "triplane", 1, benched=False)
    s = one(tmp_path, "Fastest per view")
    assert ": voxel, 4.40 ms" in s.text
    assert "triplane (seed 1: no bench.json" in s.text


def test_one_group_alone_is_not_ranked(tmp_path):
    make_run(tmp_path, "triplane")
    assert not any("Fastest" in s.text for s in checked(tmp_path))


def test_the_path_of_the_rays_is_said_of_each_group(tmp_path, runs):
    for kind, note in (("triplane", "numba, AVX-512"), ("nerf_mlp", "plain (no kernel)")):
        edit(runs[kind], "speed.fused", value=1.0, n=1, note=note)
    said = one(tmp_path, "Rays were marched")
    assert "triplane by numba, AVX-512" in said.text
    assert "nerf_mlp by plain (no kernel)" in said.text
    assert "image2d" not in said.text
