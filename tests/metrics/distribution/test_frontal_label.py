"""FID and SWD with the mapping conditioned on the frontal camera (FID_3D)."""

import pytest
import stand_in
import torch
from metric_views import RealFigures, context, figure_labels, figures

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.files import sha256_of_file
from lightning_gan3d.images import Images
from lightning_gan3d.metric import MetricId
from lightning_gan3d.metrics.config import DistributionConfig, PosesConfig, SwdConfig
from lightning_gan3d.metrics.distribution import compare_features
from lightning_gan3d.metrics.distribution.compare_features import measure_distribution
from lightning_gan3d.metrics.evaluate import measure_images
from lightning_gan3d.metrics.sources import GeneratorSource, frontal_source

NUM = 24
SWD = SwdConfig(patches=16, projections=32)
CFG = DistributionConfig(kid_subsets=2, kid_subset_size=10)


class Leaky:
    """Renders figures, tinted by x of the camera of its label."""

    rendering_resolution = 32

    def __init__(self, strength):
        self.strength, self.labels, self.images = strength, [], 0

    def views(self, z, label, cameras):
        self.labels.append(label)
        self.images += len(cameras.cam2world)
        view = figures().render((z[:, 0].abs() * 1e4).long() % 40, cameras, 32)
        tint = self.strength * label[:, 3, None, None, None] * (view.mask > 0)
        image = (view.image + tint).clamp(-1, 1)
        return Images(image, image, view.depth, view.mask)


def source(strength, labels=None):
    return GeneratorSource(Leaky(strength), 8, figure_labels(50) if labels is None else labels)


@pytest.fixture(scope="module")
def train():
    return RealFigures(80, seed=1)


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    path = tmp_path_factory.mktemp("nets") / "inception.pt"
    return stand_in.save(stand_in.Inception(channels=2), path)


def test_all_latents_are_conditioned_on_the_middle_camera_and_keep_their_class():
    azimuth = torch.tensor([0.1, 0.3, 0.5])
    arc = Cameras.on_sphere(azimuth, torch.tensor([0.2, 0.1, 0.3]), 3.0, focal=1.5).to_label()
    s = source(0.3, torch.cat([arc, torch.eye(3)], dim=1))
    items = torch.arange(6)
    frontal = frontal_source(s)
    frontal.views(items, s.base(items))
    (label,) = s.generator.labels
    middle = Cameras.on_sphere(torch.tensor([0.3]), torch.tensor([0.2]), 3.0, focal=1.5).to_label()
    assert torch.allclose(label[:, :25], middle.expand(6, -1), atol=1e-5)
    assert torch.equal(label[:, 25:], s.label(items)[:, 25:])
    assert torch.equal(frontal.base(items).cam2world, s.base(items).cam2world)
    assert "frontal camera" in frontal.protocol


def test_swd_3d_differs_exactly_if_the_subject_follows_the_label(train):
    values = {}
    for strength in (0.0, 0.3):
        ctx = context(source(strength), train, swd=SWD, num_images=NUM, frontal=True)
        metrics = {m.key: m for m in measure_images(ctx)}
        values[strength] = metrics["quality.swd"].value, metrics["quality.swd_3d"].value
    assert values[0.0][0] == values[0.0][1]
    # x of the frontal camera is 0, so it has no tint.
    assert values[0.3][1] == pytest.approx(values[0.0][0], rel=1e-3)
    assert values[0.3][0] > 1.2 * values[0.3][1]
    assert metrics["quality.swd_3d"].note.startswith("mapping conditioned on the frontal camera")
    assert metrics["quality.swd_3d"].n == metrics["quality.swd"].n


def distances(s, train, weights, **options):
    options = {"distribution": CFG, "num_images": NUM, "frontal": True} | options
    ctx = context(s, train, weights=weights, **options)
    metrics = {m.id: m for m in measure_distribution(ctx)}
    digits = sha256_of_file(weights["inception"])[:8]
    return metrics, MetricId("quality.frechet", digits), digits


def test_the_frechet_distance_has_the_same_variant(train, inception):
    weights = {"inception": inception}
    honest, own, _ = distances(source(0.0), train, weights)
    leaky, own, digits = distances(source(0.3), train, weights)
    frontal = own._replace(variant="3d")
    assert frontal.key == f"quality.frechet_{digits}_3d"
    assert honest[frontal].value == honest[own].value
    assert leaky[frontal].value == pytest.approx(honest[own].value, rel=1e-2)
    assert abs(leaky[own].value / leaky[frontal].value - 1) > 0.1
    assert "conditioned on the frontal camera" in leaky[frontal].note
    assert {m.name for m in leaky if m.variant == "3d"} == {"quality.frechet"}


def test_drawn_cameras_do_not_change_it(train, inception):
    weights, posed = {"inception": inception}, DistributionConfig(poses=PosesConfig())
    data, own, _ = distances(source(0.3), train, weights)
    drawn, _, _ = distances(source(0.3), train, weights, distribution=posed)
    frontal = own._replace(variant="3d")
    assert drawn[frontal].value == data[frontal].value
    assert drawn[own._replace(variant="posed")].value != data[own].value


def test_a_generator_that_ignores_the_camera_renders_once(train, inception, monkeypatch):
    monkeypatch.setattr(compare_features, "frontal_source", lambda s: s)
    s = source(0.3)
    metrics, own, _ = distances(s, train, {"inception": inception})
    assert s.generator.images == NUM
    same = metrics[own._replace(variant="3d")]
    assert same.value == metrics[own].value
    assert "ignores the camera" in same.note


def test_it_is_missing_for_a_reason(train, inception, monkeypatch, tmp_path):
    metrics, _, _ = distances(figures(), train, {"inception": inception})
    assert "no conditioning label" in metrics[MetricId("quality.fid", variant="3d")].note
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ctx = context(source(0.3), train, distribution=CFG, num_images=NUM, frontal=True)
    without_weights = {m.key: m for m in measure_distribution(ctx)}
    assert "weights fetch inception" in without_weights["quality.fid_3d"].note
    off, _, _ = distances(source(0.3), train, {"inception": inception}, frontal=False)
    assert {m.variant for m in off} == {""}
