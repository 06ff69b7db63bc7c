import pytest
import yaml
from fabricated_runs import NUMBERS, edit, edit_all, make_run, make_seeds

from lightning_gan3d.metric import Metric, read_metrics, write_metrics
from lightning_gan3d.report.claims import claims
from lightning_gan3d.report.differences import Decisions
from lightning_gan3d.report.groups import compare
from lightning_gan3d.report.make import claims_tex
from lightning_gan3d.report.records import find_runs

FASTER = "The tri-plane renders faster"
FLAT = "A 2D generator is less consistent"
COSTS = "Super-resolution reduces"


def one(root, start):
    matches = [s for s in claims(Decisions(compare(find_runs([root])))) if s.text.startswith(start)]
    assert len(matches) == 1, [s.text for s in matches]
    return matches[0]


def memory_of(kind):
    return f"Scene memory of {kind}"


def rewrite(paths, change, file="bench.json"):
    """Replace each stored metric of runs by those that `change` returns."""
    for path in paths:
        write_metrics(path / file, [m for old in read_metrics(path / file) for m in change(old)])


def remove(paths, file):
    for path in paths:
        (path / file).unlink()


@pytest.fixture
def runs(tmp_path):
    """Three seeds of each kind."""
    return {kind: make_seeds(tmp_path, kind) for kind in NUMBERS}


def super_resolved(paths, enlarged, final):
    """Give runs a super-resolution, and a deficit without and with it."""
    for i, path in enumerate(paths):
        config = yaml.safe_load((path / "config.yaml").read_text())
        config["generator"]["superresolution"] = {"factor": 2}
        (path / "config.yaml").write_text(yaml.safe_dump(config))
        edit(path, "consistency.deficit_enlarged", value=enlarged + 1e-4 * i, unit="dB")
        edit(path, "consistency.deficit", value=final)


@pytest.mark.usefixtures("runs")
def test_the_page_has_all_claims_and_without_injected_faults_they_hold(tmp_path):
    checked = claims(Decisions(compare(find_runs([tmp_path]))))
    starts = [FASTER, *map(memory_of, ("voxel", "triplane", "nerf_mlp")), FLAT]
    assert all(s.text.startswith(start) for s, start in zip(checked, starts, strict=True))
    assert [s.verdict for s in checked] == ["holds"] * 5


def test_claims_are_only_about_what_was_run(tmp_path):
    make_run(tmp_path, "voxel")
    (claim,) = claims(Decisions(compare(find_runs([tmp_path]))))
    assert claim.verdict == "holds"
    assert claim.lead == "Scene memory of voxel grows with the cube of the grid resolution"
    assert claim.text == f"{claim.lead}: exponent 3.00."


def test_each_arm_has_its_own_claim_about_memory(tmp_path):
    for label in ("8 channels", "16 channels"):
        folder = make_run(tmp_path, "voxel", variant=f"{len(label):08x}")
        config = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(f"{config}label: {label}\n")
    checked = claims(Decisions(compare(find_runs([tmp_path]))))
    memory = [s.lead for s in checked if s.lead.startswith("Scene memory")]
    grows = "grows with the cube of the grid resolution"
    assert sorted(memory) == [f"Scene memory of {n} channels {grows}" for n in (16, 8)]


def test_faster_holds_is_open_or_fails(tmp_path, runs):
    assert one(tmp_path, FASTER).verdict == "holds"
    assert "triplane 3.10 ms, nerf_mlp 18.9 ms" in one(tmp_path, FASTER).text
    edit(runs["nerf_mlp"], "speed.view_ms", value=[3.0, 3.2, 3.3])
    assert one(tmp_path, FASTER).verdict == "open"
    assert "not decided against nerf_mlp, too close to call" in one(tmp_path, FASTER).text
    edit(runs["nerf_mlp"], "speed.view_ms", value=2.0)
    assert one(tmp_path, FASTER).verdict == "fails"
    assert "no, triplane is slower than nerf_mlp" in one(tmp_path, FASTER).text
    remove(runs["nerf_mlp"], "bench.json")
    missing = one(tmp_path, FASTER)
    assert missing.verdict == "open"
    assert "run `gan3d bench`" in missing.text


def test_three_seeds_decide_by_the_paired_interval(tmp_path):
    """Seeds scatter by more than the groups differ, so that their ranges overlap."""
    for seed in range(3):
        for kind, extra in (("triplane", 0.0), ("nerf_mlp", 0.5 + 0.001 * seed)):
            path = make_run(tmp_path, kind, seed)
            edit(path, "speed.view_ms", value=10.0 + 5 * seed + extra, spread=None)
    held = one(tmp_path, FASTER)
    assert held.verdict == "holds"
    assert "triplane - nerf_mlp -0.501 ms, 95 % interval -0.503 to -0.499 ms" in held.text
    path = tmp_path / "nerf_mlp" / f"{sum(b'nerf_mlp'):08x}-s1"
    edit(path, "speed.view_ms", value=18.0)
    assert one(tmp_path, FASTER).verdict == "open"


@pytest.mark.usefixtures("runs")
def test_an_unfinished_run_leaves_a_claim_open(tmp_path):
    make_run(tmp_path, "triplane", 3, finished=False)
    claim = one(tmp_path, FASTER)
    assert claim.verdict == "open"
    assert "triplane (seed 3: unfinished" in claim.text


@pytest.mark.parametrize(("kind", "power"), [("voxel", 3), ("triplane", 2)])
def test_scene_memory_grows_as_claimed_or_the_claim_fails(tmp_path, runs, kind, power):
    held = one(tmp_path, memory_of(kind))
    assert held.verdict == "holds"
    assert f"exponent {power}" in held.text

    def linear(m):
        grid = m.name == "growth.grid.scene_bytes"
        return [Metric(m.name, 1000.0 * m.at, "bytes", 1, at=m.at)] if grid else [m]

    rewrite(runs[kind], linear)
    failed = one(tmp_path, memory_of(kind))
    assert failed.verdict == "fails"
    assert f"exponent 1.00, not {power}" in failed.text
    rewrite(runs[kind], lambda m: [] if m.name.startswith("growth.grid") else [m])
    assert one(tmp_path, memory_of(kind)).verdict == "open"


def test_an_mlp_that_stores_a_grid_fails_its_claim(tmp_path, runs):
    held = one(tmp_path, memory_of("nerf_mlp"))
    assert held.verdict == "holds"
    assert "(no grid): exponent 0." in held.text
    edit(runs["nerf_mlp"], "growth.grid", note="in other words")
    assert one(tmp_path, memory_of("nerf_mlp")).verdict == "holds"
    edit(runs["nerf_mlp"], "growth.image.scene_bytes_exponent", value=2.0)
    assert one(tmp_path, memory_of("nerf_mlp")).verdict == "fails"
    edit(runs["nerf_mlp"], "growth.image.scene_bytes_exponent", value=0.0)

    def grid(m):
        name = "growth.grid.scene_bytes"
        rows = [Metric(name, r**3.0, "bytes", 1, at=float(r)) for r in (16, 32)]
        return rows if m.name == "growth.grid" else [m]

    rewrite(runs["nerf_mlp"], grid)
    assert one(tmp_path, memory_of("nerf_mlp")).verdict == "fails"
    remove(runs["nerf_mlp"], "bench.json")
    assert one(tmp_path, memory_of("nerf_mlp")).verdict == "open"


def test_the_2d_claim_needs_all_three_representations_to_hold(tmp_path):
    for kind in ("triplane", "image2d", "nerf_mlp"):
        make_seeds(tmp_path, kind)
    claim = one(tmp_path, FLAT)
    assert claim.verdict == "open"
    assert "holds so far, but there is no run of voxel" in claim.text


def test_superresolution_costs_or_does_not(tmp_path, runs):
    super_resolved(runs["voxel"], 1.0, 1.7)
    assert one(tmp_path, COSTS).verdict == "holds"
    text = one(tmp_path, COSTS).text
    assert "voxel, Reproj. deficit 1.00 dB of the upsampled rendering, 1.70 dB of the final" in text
    super_resolved(runs["voxel"], 1.7, 1.7)
    assert one(tmp_path, COSTS).verdict == "open"
    super_resolved(runs["voxel"], 2.0, 1.7)
    assert one(tmp_path, COSTS).verdict == "fails"
    remove(runs["voxel"], "evaluation.json")
    assert one(tmp_path, COSTS).verdict == "open"


def test_superresolution_is_judged_at_one_pixel_scale(tmp_path, runs):
    """The rendering itself, at its own pixels, decides nothing: there scale alone counts."""
    super_resolved(runs["voxel"], 1.0, 1.7)
    edit(runs["voxel"], "consistency.deficit_raw", value=5.0, unit="dB")
    assert one(tmp_path, COSTS).verdict == "holds"
    rewrite(runs["voxel"], lambda m: [] if m.stage == "enlarged" else [m], "evaluation.json")
    claim = one(tmp_path, COSTS)
    assert claim.verdict == "open"
    assert "consistency.deficit_enlarged (not in evaluation.json)" in claim.text


def test_a_2d_generator_of_blurred_pictures_does_not_win(tmp_path, runs):
    assert one(tmp_path, FLAT).verdict == "holds"
    edit(runs["image2d"], "refit.psnr", value=50.0)
    assert one(tmp_path, FLAT).verdict == "holds"
    edit(runs["image2d"], "quality.sharpness", value=0.2, unit="share")
    blurred = one(tmp_path, FLAT)
    assert blurred.verdict == "open"
    assert "image2d is blurred" in blurred.text
    edit(runs["image2d"], "quality.sharpness", value=0.9)
    edit(runs["image2d"], "refit.deficit", value=None, note="no texture")
    assert one(tmp_path, FLAT).verdict == "open"
    assert "image2d (no texture)" in one(tmp_path, FLAT).text


def test_two_seeds_decide_nothing(tmp_path):
    for kind in NUMBERS:
        for seed in (0, 1):
            make_run(tmp_path, kind, seed)
    claim = one(tmp_path, FASTER)
    assert claim.verdict == "open"
    assert "not decided against nerf_mlp, fewer than 3 seeds decide nothing" in claim.text


def test_equal_values_of_all_seeds_decide_nothing(tmp_path, runs):
    for kind in ("triplane", "nerf_mlp"):
        edit(runs[kind], "speed.view_ms", value=[float(len(kind))] * 3)
    assert "equal in all seeds, so the spread is unknown" in one(tmp_path, FASTER).text


def test_nothing_is_claimed_across_protocols(tmp_path, runs):
    keys = {"triplane": "a" * 16, "nerf_mlp": "b" * 16}
    for kind, key in keys.items():
        edit_all(runs[kind], protocol=key)
    claim = one(tmp_path, FASTER)
    assert claim.verdict == "open"
    assert f"triplane: {'a' * 16}; nerf_mlp: {'b' * 16}" in claim.text
    edit_all(runs["nerf_mlp"], protocol="")  # not recorded
    assert one(tmp_path, FASTER).verdict == "holds"


def test_claims_are_printed_in_latex_with_their_verdicts(tmp_path, runs):
    edit(runs["nerf_mlp"], "speed.view_ms", value=2.0)
    text = claims_tex(claims(Decisions(compare(find_runs([tmp_path])))))
    assert text.count(r"\item[") == 5
    assert r"\item[\textbf{fails}] The tri-plane renders faster" in text
    assert r"nerf\_mlp" in text
