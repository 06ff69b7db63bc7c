import pytest
import torch

from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.cache import default_folder, kept, kept_measures


class Maker:
    def __init__(self, value):
        self.value, self.calls = value, 0

    def __call__(self):
        self.calls += 1
        return self.value


def test_tensors_are_made_once_for_a_key(tmp_path):
    make = Maker({"a": torch.arange(6.0).view(2, 3).mT})
    folder = tmp_path / "new folder"
    for _ in range(2):
        found = kept(folder, "x", ["data", {"n": 1}], make)
        assert torch.equal(found["a"], make.value["a"])
    assert make.calls == 1
    kept(folder, "x", ["data", {"n": 2}], make)
    kept(folder, "y", ["data", {"n": 1}], make)
    kept(None, "x", ["data", {"n": 1}], make)
    assert make.calls == 4
    assert len(list(folder.iterdir())) == 3


def test_measures_come_back_as_they_were(tmp_path):
    make = Maker([Metric.of_key("a.b", 1.5, "dB", 3, 0.1, "note"), Metric.of_key("a.c", 2.0)])
    for _ in range(2):
        assert kept_measures(tmp_path, "m", 1, make) == make.value
    assert make.calls == 1


def test_what_is_missing_is_tried_again(tmp_path):
    """Weights that were fetched since, say."""
    make = Maker([Metric.of_key("a.b", 1.5, "dB"), missing("a.c", "no weights")])
    assert kept_measures(tmp_path, "m", 1, make) == make.value
    make.value = [Metric.of_key("a.b", 1.5, "dB"), Metric.of_key("a.c", 2.0)]
    for _ in range(2):
        assert kept_measures(tmp_path, "m", 1, make) == make.value
    assert make.calls == 2


@pytest.mark.parametrize("content", [b"", b"{", b"\x00" * 64])
def test_a_damaged_file_is_made_anew(tmp_path, content):
    tensors, measures = Maker({"a": torch.ones(2)}), Maker([Metric.of_key("a", 1.0)])
    kept(tmp_path, "t", 1, tensors)
    kept_measures(tmp_path, "m", 1, measures)
    for path in tmp_path.iterdir():
        path.write_bytes(content)
    assert torch.equal(kept(tmp_path, "t", 1, tensors)["a"], torch.ones(2))
    assert kept_measures(tmp_path, "m", 1, measures) == measures.value
    assert tensors.calls == measures.calls == 2
    kept(tmp_path, "t", 1, tensors)
    assert tensors.calls == 2


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path):
    (tmp_path / "file").write_text("")
    make = Maker({"a": torch.ones(2)})
    for _ in range(2):
        assert torch.equal(kept(tmp_path / "file", "x", 1, make)["a"], torch.ones(2))
    assert make.calls == 2


def test_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "lightning_gan3d" / "metrics"
