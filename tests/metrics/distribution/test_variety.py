import pytest
import torch
from stand_in import InMemory
from torch.nn.functional import avg_pool2d

from lightning_gan3d.data.synthetic.synth import SynthConfig, SynthObjects, sample_cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.metrics.distribution.precision_recall import coverage
from lightning_gan3d.metrics.distribution.variety import variety_metrics

NUM = 400


def test_coverage_of_points_on_a_line():
    """Real points 0, 1, ..., 9: with k = 1 each ball has radius 1."""
    real = InMemory(torch.arange(10.0)[:, None])
    assert coverage(real, InMemory(torch.tensor([[0.0]])), k=1) == pytest.approx(0.2)
    assert coverage(real, InMemory(torch.tensor([[4.5], [4.5]])), k=1) == pytest.approx(0.2)
    assert coverage(real, InMemory(torch.tensor([[20.0]])), k=1) == 0
    assert coverage(real, real, k=1) == 1


@pytest.fixture(scope="module")
def sets():
    """Figures at 16 pixels: training, held-out, others like them, and sets that lack variety."""
    cfg = SynthConfig(num_images=3 * NUM, num_objects=3 * NUM, holdout=0.0)
    objects, num = SynthObjects(cfg), torch.arange(NUM)
    cameras = [sample_cameras(cfg, NUM, Draws(i)) for i in range(3)]
    views = {
        "training": (num, cameras[0]),
        "held-out": (num + NUM, cameras[1]),
        "honest": (num + 2 * NUM, cameras[2]),
        "four objects": (2 * NUM + num % 4, cameras[2]),
        "one camera": (num + 2 * NUM, cameras[2].select(num * 0)),
        "40 images": (2 * NUM + num % 40, cameras[2].select(num % 40)),
    }
    images = {name: objects.render(*view, 32).image for name, view in views.items()}
    return {name: InMemory(avg_pool2d(x, 2).flatten(1)) for name, x in images.items()}


def values(sets, name):
    rows = variety_metrics(sets[name], sets["training"], sets["held-out"], "16 pixels")
    assert [m.n for m in rows] == [NUM] * 4
    return [m.value for m in rows]


def test_missing_variety_lowers_recall_and_coverage(sets):
    recall, cover, recall_real, cover_real = values(sets, "honest")
    assert abs(recall - recall_real) < 0.08
    assert abs(cover - cover_real) < 0.08
    for name in ("40 images", "four objects", "one camera"):
        low_recall, low_cover, *ceiling = values(sets, name)
        assert ceiling == [recall_real, cover_real]
        assert low_recall < recall / 4, name
        assert low_cover < cover - 0.2, name


def test_too_few_images_are_missing(sets):
    few = InMemory(sets["honest"].vectors[:3])
    rows = variety_metrics(few, sets["training"], sets["held-out"], "16 pixels")
    assert [m.value for m in rows] == [None, None]
    assert "3 images of each set are too few" in rows[0].note
