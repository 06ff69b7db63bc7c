import dataclasses
import random
from pathlib import Path

import pytest
import torch
from metric_views import context, figure_labels, figures
from typer.testing import CliRunner

from lightning_gan3d import gates
from lightning_gan3d.cameras import Cameras
from lightning_gan3d.metrics.config import ConsistencyConfig
from lightning_gan3d.metrics.consistency.reprojection import measure_consistency
from lightning_gan3d.metrics.selftest import selftest
from lightning_gan3d.metrics.selftest.cheats import CHEATS, HONEST, check_cheats
from lightning_gan3d.metrics.selftest.known_scenes import OFFSET, Balls
from lightning_gan3d.metrics.selftest.perturbations import PERTURBATIONS, Perturbed
from lightning_gan3d.metrics.selftest.selftest import (
    METRICS,
    PLAIN,
    run_self_test,
    table,
)
from lightning_gan3d.report.claims import claims
from lightning_gan3d.report.differences import Decisions, best_labels
from lightning_gan3d.report.groups import compare
from lightning_gan3d.report.records import RunRecord
from lightning_gan3d.report.statements import statements


@pytest.fixture(scope="module")
def shipped():
    """The self-test as `gan3d evaluate --self-test` runs it."""
    return run_self_test()


def test_every_metric_responds_as_expected(shipped):
    assert shipped.failures == []
    assert len(shipped.checks) > 140


def records(shipped, cheat):
    """Three seeds of a cheat, named voxel, and of two honest generators that all metrics see."""
    rng = random.Random(0)
    groups = {"voxel": shipped.cheats[cheat], "triplane": shipped.cheats[HONEST]}
    worse = [
        dataclasses.replace(m, value=m.value and m.value * 1.1) for m in shipped.cheats[HONEST]
    ]
    for kind, metrics in (groups | {"nerf_mlp": worse}).items():
        for seed in range(3):
            varied = tuple(
                m if m.value is None else dataclasses.replace(m, value=m.value + rng.gauss(0, 1e-4))
                for m in metrics
            )
            name = f"{kind}-s{seed}"
            yield RunRecord(Path(name), name, kind, kind, seed, metrics=varied)


@pytest.mark.parametrize("cheat", CHEATS)
def test_no_cheat_leads_a_ranking_wins_a_claim_or_is_left_unmarked(shipped, cheat):
    decisions = Decisions(compare(list(records(shipped, cheat))))
    assert CHEATS[cheat][1] in decisions.unranked["voxel"]
    assert set(decisions.unranked) == {"voxel"}
    assert not any(d.ahead for d in decisions.between_groups if "voxel" in (d.first, d.second))
    for metric_id in decisions.comparison.metrics:
        assert "voxel" not in best_labels(decisions.comparison, metric_id)
    for s in (*statements(decisions), *claims(decisions)):
        ranked = s.text.partition(" Not ranked")[0]
        assert not (s.verdict in ("finding", "holds") and "voxel" in ranked), s.text


def test_without_its_gates_a_cheat_fails_the_self_test(shipped, monkeypatch):
    monkeypatch.setattr(gates, "GATES", ())
    failed = [text for text, holds in check_cheats(shipped.cheats) if not holds]
    assert len(failed) == len(CHEATS)


def test_expected_responses_are_consistent():
    for metric in METRICS:
        assert any(metric in d.notices for d in PERTURBATIONS)
        assert any(metric in d.strict for d in PERTURBATIONS)
    blind = {m for d in PERTURBATIONS for m in d.blind}
    assert {"refit", "pose", "depth_error"} <= blind
    for d in PERTURBATIONS:
        assert sorted(d.amounts) == list(d.amounts)
        assert not set(d.notices) & set(d.blind)
        assert {*d.notices, *d.blind} <= set(METRICS)
    assert all(r.slack < r.margin for r in METRICS.values())


def test_without_texture_the_gain_is_undefined_on_every_scene(shipped):
    assert all(shipped.readings[scene, PLAIN, 1.0]["gain"] is None for scene in shipped.ceilings)


def test_a_metric_that_notices_nothing_fails_the_self_test(shipped):
    """Every reading is replaced by the ceiling: the values of blind metrics."""
    broken = dataclasses.replace(shipped, checks=[])
    broken.readings = {key: dict(shipped.ceilings[key[0]]) for key in shipped.readings}
    selftest.check(broken)
    failures = "\n".join(broken.failures)
    for d in PERTURBATIONS:
        for metric in d.notices:
            assert f"figures, {d.name}: {metric} notices" in failures
    assert "the gain is undefined" in failures
    assert "does not move" not in failures


def test_a_metric_that_should_be_blind_fails_the_self_test(shipped):
    broken = dataclasses.replace(shipped, checks=[])
    broken.readings = {
        key: {m: None if v is None else v + 5 for m, v in r.items()}
        for key, r in shipped.readings.items()
    }
    selftest.check(broken)
    failures = "\n".join(broken.failures)
    assert "figures, depth too large: refit does not move" in failures
    assert "figures, noise in every view: depth_error does not move" in failures


def test_a_series_that_is_not_monotonic_fails_the_self_test(shipped):
    broken = dataclasses.replace(shipped, readings=dict(shipped.readings))
    for d in PERTURBATIONS:
        for scene in shipped.ceilings:
            worst = shipped.readings[scene, d.name, d.amounts[-1]]
            broken.readings.update({(scene, d.name, a): worst for a in d.amounts})
    selftest.check(broken)
    failures = "\n".join(broken.failures)
    assert "figures, noise in every view: flicker gets worse at each step" in failures


def test_the_table_shows_values_marks_and_failures(shipped):
    text = table(shipped)
    assert "| unperturbed |" in text
    assert "**●**" in text
    assert "undefined" in text
    broken = dataclasses.replace(shipped, checks=[("x is above y", False)])
    assert "0 of 1 checks hold.\nFAILED: x is above y" in table(broken)


def test_the_command_line_has_an_exit_code(shipped, monkeypatch):
    from lightning_gan3d.cli import app

    monkeypatch.setattr(selftest, "run_self_test", lambda **_: shipped)
    monkeypatch.setattr(shipped, "checks", [("a", True)])
    assert CliRunner().invoke(app, ["evaluate", "--self-test"]).exit_code == 0
    monkeypatch.setattr(shipped, "checks", [("a", True), ("b", False)])
    result = CliRunner().invoke(app, ["evaluate", "--self-test"])
    assert result.exit_code == 4
    assert "FAILED: b" in result.output
    for arguments in ([], ["run", "--self-test"]):
        error = CliRunner().invoke(app, ["evaluate", *arguments]).exception
        assert "evaluate" in str(error)


@pytest.mark.parametrize("d", PERTURBATIONS, ids=lambda d: d.name)
def test_perturbations_change_nothing_at_zero_and_depend_on_no_batch(d):
    source, items = figures(16), torch.tensor([3, 4])
    cameras = source.base(items).rotate_y(torch.tensor([0.0, 0.3, 0.7]))
    plain = source.views(items, cameras)
    zero = Perturbed(source, d.change, 0.0).views(items, cameras)
    pairs = zip(plain[:4], zero[:4], strict=True)  # without masks of objects
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)
    changed = Perturbed(source, d.change, d.amounts[-1])
    together = changed.views(items, cameras)
    assert any(
        not torch.allclose(a, b, atol=1e-3) for a, b in zip(plain[:4], together[:4], strict=True)
    )
    alone = changed.views(items[1:], cameras.select(slice(3, 6)))
    assert torch.allclose(together.image[3:], alone.image, atol=1e-5)


def test_the_depth_of_balls_is_exact_and_their_views_are_consistent():
    balls = Balls(figure_labels(), 32)
    items = torch.arange(3)
    cameras = balls.base(items).rotate_y(torch.tensor([0.0, 1.0]))
    rendered = balls.views(items, cameras)
    points = cameras.unproject(rendered.depth)
    hit = rendered.opacity.flatten(1) > 0
    for i in range(3):  # both views of an item lie on one sphere
        both = torch.cat([points[2 * i][hit[2 * i]], points[2 * i + 1][hit[2 * i + 1]]])
        ones = torch.ones(len(both), 1)
        fit = torch.linalg.lstsq(torch.cat([2 * both, ones], 1), both.square().sum(1)[:, None])
        centre = fit.solution[:3, 0]
        assert centre.norm() == pytest.approx(OFFSET, abs=1e-3)
        assert (both - centre).norm(dim=1).std() < 1e-4
    cfg = ConsistencyConfig(items=3, flicker=None)
    large = Balls(figure_labels(), 64)
    metrics = measure_consistency(context(large, consistency=cfg, curves=False))
    (psnr,) = (m.value for m in metrics if m.key == "consistency.psnr")
    assert psnr > 45  # interpolation alone is left
    assert isinstance(balls.base(items), Cameras)
