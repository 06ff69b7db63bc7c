import pytest
import torch
from metric_views import context, figure_labels, figures

from lightning_gan3d.images import Images
from lightning_gan3d.metrics.config import ConsistencyConfig, FlickerConfig, RefitConfig
from lightning_gan3d.metrics.evaluate import evaluate, with_following_label
from lightning_gan3d.metrics.sources import GeneratorSource

CONSISTENCY = ConsistencyConfig(items=3, steps=1, flicker=FlickerConfig(2, 3))
REFIT = RefitConfig(items=2, iterations=6, rays=64, samples=8, grid=8, resolution=12, views=3)


class Cheater:
    """Renders figures correctly, but tints them by the azimuth of its label."""

    rendering_resolution = 32

    def __init__(self, strength):
        self.strength, self.calls = strength, []

    def views(self, z, label, cameras):
        self.calls.append((z, label, cameras))
        k = len(cameras.cam2world) // len(z)
        rendered = figures().render(
            (z[:, 0].abs() * 1e4).long().repeat_interleave(k) % 40, cameras, 32
        )
        side = label.repeat_interleave(k, dim=0)[:, 3]  # x of the camera
        tint = self.strength * side[:, None, None, None] * (rendered.mask > 0)
        image = (rendered.image + tint).clamp(-1, 1)
        return Images(image, image, rendered.depth, rendered.mask)


def source(strength=0.3):
    return GeneratorSource(Cheater(strength), 8, figure_labels(50))


def test_each_view_is_conditioned_on_its_own_camera():
    s = with_following_label(context(source())).source
    items = torch.tensor([4, 9])
    cameras = s.base(items).rotate_y(torch.tensor([-0.3, 0.0, 0.3]))
    s.views(items, cameras)
    z, label, cameras_of_call = s.generator.calls[0]
    assert torch.equal(label, cameras.to_label())
    assert torch.equal(z, s.latents(items).repeat_interleave(3, 0))
    assert torch.equal(cameras_of_call.cam2world, cameras.cam2world)


def measured(s):
    options = {"consistency": CONSISTENCY, "refit": REFIT, "following": True, "batch": 16}
    return {m.key: m for m in evaluate(context(s, **options))}


def test_a_subject_that_follows_its_label_is_noticed_only_with_the_label_following():
    for strength, changes in ((0.3, True), (0.0, False)):
        metrics = measured(source(strength))
        frozen = metrics["consistency.psnr"].value
        moved = metrics["consistency.psnr_following"].value
        assert frozen > 40
        assert (moved < frozen - 10) is changes
        if not changes:
            assert moved == pytest.approx(frozen, rel=1e-4)
    following = [m for m in metrics.values() if m.variant == "following"]
    assert all("own camera" in m.note for m in following if m.value is not None)
    keys = {m.key.removesuffix("_following") for m in following}
    assert keys == {k for k in metrics if "@" not in k and not k.endswith("_following")}


def test_a_source_without_label_lacks_these_metrics_for_a_reason():
    without = [m for m in measured(figures()).values() if m.variant == "following"]
    assert all(m.value is None and "no conditioning label" in m.note for m in without)
    with_label = [m for m in measured(source()).values() if m.variant == "following"]
    assert {(m.key, m.unit) for m in without} == {(m.key, m.unit) for m in with_label}


def test_the_original_source_stays_frozen():
    s = source()
    assert with_following_label(context(s)).source.follow
    assert not s.follow
