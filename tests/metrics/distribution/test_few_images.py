"""Sets of one to four images: every metric has a value or a reason."""

import dataclasses

import pytest
import stand_in
import torch
from metric_views import OFF, Perturbed, RealFigures, figures

from lightning_gan3d.images import Images
from lightning_gan3d.metrics.config import (
    DistributionConfig,
    EvaluationConfig,
    PoseConfig,
    SwdConfig,
)
from lightning_gan3d.metrics.context import EvaluationContext
from lightning_gan3d.metrics.evaluate import evaluate

FEW = EvaluationConfig(
    **OFF
    | {
        "batch": 4,
        "swd": SwdConfig(patches=4, projections=4),
        "distribution": DistributionConfig(kid_subsets=3),
        "pose": PoseConfig(resolution=16, iterations=1, batch=2),
    }
)


def constant(source, items, cameras):
    image = torch.full_like(source.views(items, cameras).image, -0.8)
    return Images(image, image)


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    path = tmp_path_factory.mktemp("nets") / "inception.pt"
    return {"inception": stand_in.save(stand_in.Inception(channels=1), path)}


@pytest.mark.parametrize(
    ("num", "real", "held_out"), [(1, 1, 1), (1, 9, 2), (2, 1, 0), (2, 2, 1), (3, 3, 0), (4, 9, 4)]
)
@pytest.mark.parametrize("change", [None, constant])
def test_few_images_have_values_or_reasons(num, real, held_out, change, nets):
    source = figures() if change is None else Perturbed(figures(), change)
    images = RealFigures(real, 1), RealFigures(held_out, 2) if held_out else None
    cfg = dataclasses.replace(FEW, num_images=num)
    metrics = {m.name: m for m in evaluate(EvaluationContext(source, *images, cfg, weights=nets))}
    frechet, kernel = metrics["quality.frechet"], metrics["quality.kernel"]
    assert (frechet.value is None) == (kernel.value is None) == (min(num, real) < 2)
    if min(num, real) < 2:
        assert frechet.note.startswith("one image of a set: use two or more (")
    swd, duplicates = metrics["quality.swd"], metrics["quality.duplicates"]
    assert (swd.value is None) == (real < 2 and not held_out)
    assert (duplicates.value is None) == ((held_out or real) < 2)
    assert swd.value is not None or swd.note == "one real image: use two or more"
    assert metrics["pose.median_deg"].value is not None


def test_the_reason_names_real_images_without_contrast():
    class Grey(RealFigures):
        def images(self, indices):
            return torch.full_like(super().images(indices), 128)

    cfg = dataclasses.replace(FEW, distribution=None, pose=None)
    (metric,) = [
        m
        for m in evaluate(EvaluationContext(figures(), Grey(9, 1), None, cfg))
        if m.name == "quality.contrast"
    ]
    assert metric.note.startswith("that of the real images is 0")
