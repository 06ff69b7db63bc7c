import torch

from benchmarks import evaluation_memory
from benchmarks.evaluation_memory import SmoothImages, SmoothSet, measure
from lightning_gan3d.metrics.sources import GeneratorSource


def test_stand_ins_are_as_large_as_they_say_and_keyed():
    some = SmoothSet(10, 1).images(torch.tensor([3, 7]))
    assert some.shape == (2, 3, 512, 512)
    assert torch.equal(some[1:], SmoothSet(10, 1).images(torch.tensor([7])))
    assert not torch.equal(some, SmoothSet(10, 2).images(torch.tensor([3, 7])))
    source = GeneratorSource(SmoothImages(), 16, SmoothSet(1, 1).labels)
    items = torch.arange(2)
    assert source.views(items, source.base(items)).image.shape == (2, 3, 512, 512)


def test_growth_is_the_slope_between_the_counts(monkeypatch):
    monkeypatch.setattr(evaluation_memory, "__spec__", torch.__spec__)

    class Done:
        def __init__(self, line):
            self.stdout = f"some warning\n{100_000_000 + 8_192 * int(line[-1])}\n"

    monkeypatch.setattr(evaluation_memory.subprocess, "run", lambda line, **_: Done(line))
    found = measure([500, 2000], ["evaluation_memory"])
    assert found["growth_kb_per_image"] == 8.19
    assert found["peak_mb"] == {"500": 104.1, "2000": 116.4}
