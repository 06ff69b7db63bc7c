"""What reports decide by chance if nothing differs, and what they find if something does."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from lightning_gan3d.metric import Metric, MetricId
from lightning_gan3d.report.claims import claims
from lightning_gan3d.report.differences import Decisions
from lightning_gan3d.report.groups import Comparison, compare
from lightning_gan3d.report.records import RunRecord
from lightning_gan3d.report.statements import statements

KINDS = ("triplane", "voxel", "nerf_mlp", "image2d")
METRICS = {
    "quality.fid": 10.0,
    "quality.kid": 0.02,
    "quality.swd": 0.03,
    "quality.swd_progress": 0.5,
    "refit.deficit": 5.0,
    "consistency.deficit": 3.0,
    "pose.within_20deg": 0.9,
    "geometry.shape_to_data": 0.1,
    "geometry.shape_from_data": 0.1,
    "speed.view_ms": 3.0,
    "speed.image_ms": 9.0,
    "speed.train_img_s": 60.0,
}
"""Means that all groups share; one lies on the bound that a report checks."""


def comparison(rng, seeds, better=(), distance=500):
    """Four groups of equal numbers up to noise; those of `better` lie `distance` apart."""
    runs = []
    for k, kind in enumerate(KINDS):
        step = distance * k
        for seed in range(seeds):
            common = np.random.default_rng(seed)  # shared by the groups, as data order is
            metrics = [
                Metric(name, mean + common.normal() + rng.normal() + step * (name in better))
                for name, mean in METRICS.items()
            ]
            name = f"{kind}-s{seed}"
            runs.append(RunRecord(Path(name), name, kind, kind, seed, metrics=tuple(metrics)))
    return compare(runs)


def decided(groups):
    decisions = Decisions(groups)
    texts = [*statements(decisions), *claims(decisions)]
    return [s.text for s in texts if s.verdict != "open" and "All" not in s.text] + [
        f"{d.id.key}: {d.ahead}" for d in decisions.between_groups if d.ahead
    ]


def test_at_most_one_report_in_twenty_decides_anything_by_chance():
    """300 reports of 70 tests each. Without Holm's correction, nearly every report decides."""
    rng = np.random.default_rng(0)
    share = np.mean([bool(decided(comparison(rng, 3))) for _ in range(300)])
    assert share <= 0.05 + 2 * (0.05 * 0.95 / 300) ** 0.5


def test_two_seeds_decide_nothing_and_three_find_what_is_large():
    rng = np.random.default_rng(0)
    large = {"speed.view_ms"}
    assert not decided(comparison(rng, 2, large))
    texts = decided(comparison(rng, 3, large))
    assert any(text.startswith("Shortest render time per view: triplane") for text in texts)
    assert all("render" in text or "speed.view_ms" in text for text in texts)


def test_the_groups_that_are_shown_do_not_change_what_is_decided():
    whole = comparison(np.random.default_rng(0), 3, {"speed.view_ms"}, 20)
    part = Comparison(whole.groups[:2])
    own, selected = Decisions(whole), Decisions(part, whole)
    assert len(selected.between_groups) == len(own.between_groups) / 6
    for d in selected.between_groups:
        assert d.adjusted == own.between(d.first, d.second, d.id).adjusted
    alone = Decisions(part).between("triplane", "voxel", MetricId("speed.view_ms"))
    assert alone.adjusted < own.between("triplane", "voxel", MetricId("speed.view_ms")).adjusted


def test_a_label_may_end_as_the_name_of_an_image():
    groups = comparison(np.random.default_rng(0), 3).groups
    named = Comparison((replace(groups[0], label="voxel final"), *groups[1:]))
    decisions, groups = Decisions(named), {g.label: g for g in named.groups}
    claimed = [d for d in decisions.between_groups if decisions._is_of_a_claim(d, groups)]
    assert {d.id.key for d in claimed} == {"refit.deficit", "speed.view_ms"}


def test_claims_are_decided_by_smaller_differences():
    """Two metrics of equal spread and distance; a claim rests on one of them."""
    rng = np.random.default_rng(0)
    metrics = {"refit.deficit", "geometry.shape_to_data"}
    texts = [t for _ in range(40) for t in decided(comparison(rng, 3, metrics, 7))]
    claimed = sum(t.startswith("refit.deficit: triplane") for t in texts)
    other = sum(t.startswith("geometry.shape_to_data: triplane") for t in texts)
    assert claimed > 1.2 * other > 0, (claimed, other)


def test_groups_that_are_left_out_make_decisions_harder_as_if_none_differed():
    whole = comparison(np.random.default_rng(0), 3)
    part = Comparison(whole.groups[:2])
    alone, excerpt, family = Decisions(part), Decisions(part, part, whole), Decisions(part, whole)
    for d in excerpt.between_groups:
        if d.p is not None:
            others = [x.between(d.first, d.second, d.id).adjusted for x in (alone, family)]
            assert d.adjusted == 1 or d.adjusted > others[0]
            assert d.adjusted == 1 or d.adjusted >= others[1]  # there, others may be rejected
    assert [d.p for d in excerpt.between_groups] == [d.p for d in alone.between_groups]
