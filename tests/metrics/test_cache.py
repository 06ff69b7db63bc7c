import pytest
import torch

from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.protocol import cached, cached_metrics, default_folder


class Maker:
    def __init__(self, value):
        self.value, self.calls = value, 0

    def __call__(self):
        self.calls += 1
        return self.value


def test_tensors_are_computed_once_per_key(tmp_path):
    make = Maker({"a": torch.arange(6.0).view(2, 3).mT})
    folder = tmp_path / "new folder"
    for _ in range(2):
        tensors = cached(folder, "x", ["data", {"n": 1}], make)
        assert torch.equal(tensors["a"], make.value["a"])
    assert make.calls == 1
    cached(folder, "x", ["data", {"n": 2}], make)
    cached(folder, "y", ["data", {"n": 1}], make)
    cached(None, "x", ["data", {"n": 1}], make)
    assert make.calls == 4
    assert len(list(folder.iterdir())) == 3


def test_metrics_are_read_as_they_were_written(tmp_path):
    first = Metric("a.b", 1.5, "dB", 3, 0.1, "note", [1.0, None], network="inception", at=0.25)
    make = Maker([first, Metric("a.c", 2.0)])
    for _ in range(2):
        assert cached_metrics(tmp_path, "m", 1, make) == make.value
    assert make.calls == 1


def test_missing_metrics_are_not_cached(tmp_path):
    """Weights may be downloaded before the next call."""
    make = Maker([Metric("a.b", 1.5, "dB"), missing("a.c", "no weights")])
    assert cached_metrics(tmp_path, "m", 1, make) == make.value
    make.value = [Metric("a.b", 1.5, "dB"), Metric("a.c", 2.0)]
    for _ in range(2):
        assert cached_metrics(tmp_path, "m", 1, make) == make.value
    assert make.calls == 2


@pytest.mark.parametrize("content", [b"", b"{", b"\x00" * 64])
def test_a_damaged_file_is_computed_again(tmp_path, content):
    tensors, metrics = Maker({"a": torch.ones(2)}), Maker([Metric("a", 1.0)])
    cached(tmp_path, "t", 1, tensors)
    cached_metrics(tmp_path, "m", 1, metrics)
    for path in tmp_path.iterdir():
        path.write_bytes(content)
    assert torch.equal(cached(tmp_path, "t", 1, tensors)["a"], torch.ones(2))
    assert cached_metrics(tmp_path, "m", 1, metrics) == metrics.value
    assert tensors.calls == metrics.calls == 2
    cached(tmp_path, "t", 1, tensors)
    assert tensors.calls == 2


def test_a_read_only_folder_costs_only_time(tmp_path):
    (tmp_path / "file").write_text("")
    make = Maker({"a": torch.ones(2)})
    for _ in range(2):
        assert torch.equal(cached(tmp_path / "file", "x", 1, make)["a"], torch.ones(2))
    assert make.calls == 2


def test_the_user_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "lightning_gan3d" / "metrics"
