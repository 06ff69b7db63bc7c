import pytest
import yaml
from fabricated_runs import NUMBERS, make_run

from lightning_gan3d.measure import Measure, read_measures, write_measures
from lightning_gan3d.report.claims import claims
from lightning_gan3d.report.groups import compare
from lightning_gan3d.report.runs import find_runs
from lightning_gan3d.report.statements import MARKS
from lightning_gan3d.report.tables import claims_tex

FASTER = "The tri-plane renders faster"
FLAT = "A 2D generator is less consistent"
COSTS = "Super-resolution costs"


def one(root, start):
    found = [s for s in claims(compare(find_runs([root]))) if s.text.startswith(start)]
    assert len(found) == 1, [s.text for s in found]
    return found[0]


def bytes_of(kind):
    return f"The bytes of a {kind} scene"


def edit(path, change, file="bench.json"):
    write_measures(path / file, [m for old in read_measures(path / file) for m in change(old)])


def setting(metric, **values):
    def change(m):
        row = {"metric": m.metric, "value": m.value, "unit": m.unit, "n": m.n, "spread": m.spread}
        return [Measure(**row | {"note": m.note} | values)] if m.metric == metric else [m]

    return change


@pytest.fixture
def runs(tmp_path):
    return {kind: make_run(tmp_path, kind) for kind in NUMBERS}


def super_resolved(path, before, after, items=None):
    """Give a run a super-resolution, and its consistency before and after."""
    config = yaml.safe_load((path / "config.yaml").read_text())
    config["generator"]["superresolution"] = {"factor": 2}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    found = read_measures(path / "evaluation.json")
    kept = [m for m in found if m.metric not in ("consistency.psnr", "consistency.psnr_raw")]
    more = {"items": items or []}
    kept.append(Measure("consistency.psnr_raw", before, "dB", 32, 0.1, "raw"))
    kept.append(Measure("consistency.psnr", after, "dB", 32, 0.1, "after"))
    if items:
        steps = range(len(items))
        kept[-2] = Measure(
            "consistency.psnr_raw", before, "dB", 32, 9.0, "raw", [before + i for i in steps]
        )
        kept[-1] = Measure("consistency.psnr", after, "dB", 32, 9.0, "after", **more)
    write_measures(path / "evaluation.json", kept)


@pytest.mark.usefixtures("runs")
def test_the_page_has_all_claims_and_without_injected_faults_they_hold(tmp_path):
    found = claims(compare(find_runs([tmp_path])))
    starts = [FASTER, *map(bytes_of, ("voxel", "triplane", "nerf_mlp")), FLAT, COSTS]
    assert [s.text.startswith(start) for s, start in zip(found, starts, strict=True)] == [True] * 6
    assert [s.verdict for s in found] == ["holds"] * 5 + ["open"]


def test_a_claim_without_its_runs_is_open_and_says_what_it_needs(tmp_path):
    make_run(tmp_path, "voxel")
    assert "needs runs of triplane and nerf_mlp" in one(tmp_path, FASTER).text
    assert "needs runs of a 2D baseline" in one(tmp_path, FLAT).text
    assert "needs a run with super-resolution" in one(tmp_path, COSTS).text
    assert "needs a run of triplane" in one(tmp_path, bytes_of("triplane")).text
    verdicts = [s.verdict for s in claims(compare(find_runs([tmp_path])))]
    assert verdicts == ["open", "holds", "open", "open", "open", "open"]


def test_faster_holds_is_open_or_fails(tmp_path, runs):
    assert one(tmp_path, FASTER).verdict == "holds"
    assert "triplane 3.10 ms, nerf_mlp 18.9 ms" in one(tmp_path, FASTER).text
    edit(runs["nerf_mlp"], setting("speed.view_ms", value=3.12, spread=0.5))
    assert one(tmp_path, FASTER).verdict == "open"
    assert "too close to call against nerf_mlp" in one(tmp_path, FASTER).text
    edit(runs["nerf_mlp"], setting("speed.view_ms", value=2.0))
    assert one(tmp_path, FASTER).verdict == "fails"
    assert "no, triplane is not faster than nerf_mlp" in one(tmp_path, FASTER).text
    (runs["nerf_mlp"] / "bench.json").unlink()
    missing = one(tmp_path, FASTER)
    assert missing.verdict == "open"
    assert "run `gan3d bench`" in missing.text


def test_three_seeds_decide_by_the_paired_interval(tmp_path):
    """Seeds scatter by more than the groups differ, so that their ranges overlap."""
    for seed in range(3):
        for kind, extra in (("triplane", 0.0), ("nerf_mlp", 0.5 + 0.01 * seed)):
            path = make_run(tmp_path, kind, seed)
            edit(path, setting("speed.view_ms", value=10.0 + 5 * seed + extra, spread=None))
    held = one(tmp_path, FASTER)
    assert held.verdict == "holds"
    assert "triplane - nerf_mlp -0.510 ms, 95 % interval -0.535 to -0.485 ms" in held.text
    path = tmp_path / "nerf_mlp" / f"{sum(b'nerf_mlp'):08x}-s1"
    edit(path, setting("speed.view_ms", value=18.0))
    assert one(tmp_path, FASTER).verdict == "open"


@pytest.mark.usefixtures("runs")
def test_a_run_that_is_missing_leaves_a_claim_open(tmp_path):
    make_run(tmp_path, "triplane", 1, finished=False)
    found = one(tmp_path, FASTER)
    assert found.verdict == "open"
    assert "triplane (seed 1: unfinished" in found.text


@pytest.mark.parametrize(("kind", "power"), [("voxel", 3), ("triplane", 2)])
def test_bytes_grow_as_claimed_or_the_claim_fails(tmp_path, runs, kind, power):
    held = one(tmp_path, bytes_of(kind))
    assert held.verdict == "holds"
    assert f"exponent {power}" in held.text

    def linear(m):
        name = "growth.grid.scene_bytes@"
        size = int(m.metric.removeprefix(name)) if m.metric.startswith(name) else 0
        return [Measure(m.metric, 1000.0 * size, "bytes", 1)] if size else [m]

    edit(runs[kind], linear)
    failed = one(tmp_path, bytes_of(kind))
    assert failed.verdict == "fails"
    assert f"exponent 1.00, not {power}" in failed.text
    edit(runs[kind], lambda m: [] if m.metric.startswith("growth.grid") else [m])
    assert one(tmp_path, bytes_of(kind)).verdict == "open"


def test_an_mlp_that_stores_a_grid_fails_its_claim(tmp_path, runs):
    held = one(tmp_path, bytes_of("nerf_mlp"))
    assert held.verdict == "holds"
    assert "stores no grid, and a scene takes 4.61 kB" in held.text

    def grid(m):
        rows = [Measure(f"growth.grid.scene_bytes@{r}", r**3.0, "bytes", 1) for r in (16, 32)]
        return rows if m.metric == "growth.grid" else [m]

    edit(runs["nerf_mlp"], grid)
    assert one(tmp_path, bytes_of("nerf_mlp")).verdict == "fails"
    (runs["nerf_mlp"] / "bench.json").unlink()
    assert one(tmp_path, bytes_of("nerf_mlp")).verdict == "open"


def test_the_2d_claim_needs_all_three_representations_to_hold(tmp_path):
    for kind in ("triplane", "image2d", "nerf_mlp"):
        make_run(tmp_path, kind)
    found = one(tmp_path, FLAT)
    assert found.verdict == "open"
    assert "as far as measured, but there is no run of voxel" in found.text


def test_superresolution_costs_or_does_not(tmp_path, runs):
    super_resolved(runs["voxel"], 31.0, 30.3)
    assert one(tmp_path, COSTS).verdict == "holds"
    assert "voxel, 31.00 dB before, 30.30 dB after" in one(tmp_path, COSTS).text
    super_resolved(runs["voxel"], 30.31, 30.3)
    assert one(tmp_path, COSTS).verdict == "open"
    super_resolved(runs["voxel"], 30.0, 30.3)
    assert one(tmp_path, COSTS).verdict == "fails"
    (runs["voxel"] / "evaluation.json").unlink()
    assert one(tmp_path, COSTS).verdict == "open"


def test_superresolution_is_compared_item_by_item(tmp_path, runs):
    """Items scatter by 9 dB, but each loses 0.1: only pairing shows it."""
    super_resolved(runs["voxel"], 30.0, 29.9, [29.9, 30.91, 31.9, 32.89])
    held = one(tmp_path, COSTS)
    assert held.verdict == "holds"
    assert "before - after 0.10 dB" in held.text
    assert "4 items of seed 0" in held.text
    super_resolved(runs["voxel"], 30.0, 29.9, [25.0, 36.0, 27.0, 37.0])
    assert one(tmp_path, COSTS).verdict in ("open", "fails")


def test_claims_are_set_in_latex_with_their_verdicts(tmp_path, runs):
    edit(runs["nerf_mlp"], setting("speed.view_ms", value=2.0))
    text = claims_tex(claims(compare(find_runs([tmp_path]))))
    assert text.count(r"\item[") == 6
    assert rf"\item[\textbf{{{MARKS['fails']}}}] The tri-plane renders faster" in text
    assert r"nerf\_mlp" in text
