import torch

from benchmarks import evaluation_memory
from benchmarks.evaluation_memory import SmoothImages, SmoothSet, measure
from lightning_gan3d.metrics.sources import GeneratorSource


def test_stand_ins_have_the_given_size_and_digest():
    images = SmoothSet(10, 1).images(torch.tensor([3, 7]))
    assert images.shape == (2, 3, 512, 512)
    assert torch.equal(images[1:], SmoothSet(10, 1).images(torch.tensor([7])))
    assert not torch.equal(images, SmoothSet(10, 2).images(torch.tensor([3, 7])))
    source = GeneratorSource(SmoothImages(), 16, SmoothSet(1, 1).labels)
    items = torch.arange(2)
    assert source.views(items, source.base(items)).image.shape == (2, 3, 512, 512)


def test_growth_is_the_slope_between_the_counts(monkeypatch):
    monkeypatch.setattr(evaluation_memory, "__spec__", torch.__spec__)

    class Done:
        def __init__(self, line):
            self.stdout = f"a warning\n{100_000_000 + 8_192 * int(line[-1])}\n"

    monkeypatch.setattr(evaluation_memory.subprocess, "run", lambda line, **_: Done(line))
    metrics = measure([500, 2000], ["evaluation_memory"])
    assert metrics["growth_kb_per_image"] == 8.19
    assert metrics["peak_mb"] == {"500": 104.1, "2000": 116.4}
