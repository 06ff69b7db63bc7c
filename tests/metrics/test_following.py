import dataclasses

import pytest
import torch
from metric_views import figure_labels, figures

from lightning_gan3d.images import Images
from lightning_gan3d.metrics.config import ConsistencyConfig, FlickerConfig, RefitConfig
from lightning_gan3d.metrics.consistency.label_follows_camera import following, measure_following
from lightning_gan3d.metrics.consistency.reprojection import measure_consistency
from lightning_gan3d.metrics.consistency.warp import carry
from lightning_gan3d.metrics.sources import GeneratorSource

CONSISTENCY = ConsistencyConfig(items=3, steps=1, flicker=FlickerConfig(2, 3))
REFIT = RefitConfig(items=2, iterations=6, rays=64, samples=8, grid=8, resolution=12, views=3)


class Cheater:
    """Renders figures truly, but tints them by the azimuth that its label names."""

    def __init__(self, strength):
        self.strength, self.calls = strength, []

    def views(self, z, label, cameras):
        self.calls.append((z, label, cameras))
        k = len(cameras.cam2world) // len(z)
        found = figures().render(
            (z[:, 0].abs() * 1e4).long().repeat_interleave(k) % 40, cameras, 32
        )
        side = label.repeat_interleave(k, dim=0)[:, 3]  # x of the camera
        tint = self.strength * side[:, None, None, None] * (found.mask > 0)
        image = (found.image + tint).clamp(-1, 1)
        return Images(image, image, found.depth, found.mask)


def source(strength=0.3):
    return GeneratorSource(Cheater(strength), 8, figure_labels(50))


def test_each_view_is_conditioned_on_its_own_camera():
    s = following(source())
    items = torch.tensor([4, 9])
    cameras = carry(s.base(items), torch.tensor([-0.3, 0.0, 0.3]))
    s.views(items, cameras)
    z, label, seen = s.generator.calls[0]
    assert torch.equal(label, cameras.to_label())
    assert torch.equal(z, s.latents(items).repeat_interleave(3, 0))
    assert torch.equal(seen.cam2world, cameras.cam2world)


def test_a_subject_that_follows_its_label_is_seen_only_with_the_label_following():
    def psnr(measures):
        return {m.metric: m.value for m in measures}

    for strength, changes in ((0.3, True), (0.0, False)):
        s = source(strength)
        frozen = psnr(measure_consistency(s, CONSISTENCY))["consistency.psnr"]
        found = measure_following(s, s.labels, CONSISTENCY, REFIT, batch=16)
        moved = psnr(found)["consistency.psnr_following"]
        assert frozen > 40
        assert (moved < frozen - 10) is changes
        if not changes:
            assert moved == pytest.approx(frozen, rel=1e-4)
    assert all(m.metric.endswith("_following") for m in found)
    assert all("own camera" in m.note for m in found if m.value is not None)
    assert {"refit.psnr_following", "refit.ssim_following"} < {m.metric for m in found}


def test_what_has_no_label_is_missing_with_the_reason():
    found = measure_following(figures(), figure_labels(), CONSISTENCY, REFIT)
    assert all(m.value is None and "no conditioning label" in m.note for m in found)
    measured = measure_following(source(), source().labels, CONSISTENCY, REFIT, batch=16)
    assert {(m.metric, m.unit) for m in found} == {(m.metric, m.unit) for m in measured}
    assert measure_following(figures(), figure_labels(), None, None) == []


def test_the_frozen_source_stays_as_it_was():
    s = source()
    assert following(s).follow
    assert not s.follow
    assert dataclasses.replace(following(s), follow=False) is not s
