import pytest
import torch
from metric_views import Labels, Perturbed, figures
from stand_in import InMemory

from lightning_gan3d.images import Images, to_float
from lightning_gan3d.metrics.distribution import feature_store
from lightning_gan3d.metrics.distribution.feature_store import (
    Shards,
    StoreError,
    Subset,
    compute_features,
)
from lightning_gan3d.metrics.distribution.features import reduced_pixels

NUM = 43
PIXELS = reduced_pixels(4)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(feature_store, "SHARD", 8)


class Noise(Labels):
    """Real images of noise; records the items that are read."""

    def __init__(self):
        super().__init__()
        self.items = []

    def images(self, items):
        self.items += items.tolist()
        generators = [torch.Generator().manual_seed(int(i)) for i in items]
        images = [torch.randint(0, 256, (3, 16, 16), generator=g) for g in generators]
        return torch.stack(images).to(torch.uint8)


def vectors(folder, images=None, num=NUM):
    store = Shards(folder, num, PIXELS)
    compute_features(images or Noise(), [store], 3)
    return torch.cat(list(store.blocks()))


def test_shards_hold_the_features(tmp_path):
    expected = PIXELS(Noise().images(torch.arange(NUM)))
    assert torch.equal(vectors(tmp_path), expected)
    store = Shards(tmp_path, NUM, PIXELS)
    indices = torch.tensor([40, 3, 3, 17])
    assert torch.equal(store.rows(indices), expected[indices])
    reverse = Subset(store, torch.arange(NUM).flip(0))
    assert torch.equal(torch.cat(list(reverse.blocks(5))), expected.flip(0))
    assert torch.equal(torch.cat(list(InMemory(expected).blocks(5))), expected)
    assert all(len(b) <= 5 for b in store.blocks(5))


def test_an_interrupted_computation_continues_with_the_same_bits(tmp_path):
    whole = vectors(tmp_path / "whole")

    class Interrupted(Noise):
        def images(self, items):
            if len(self.items) == 7 * 3 - 2:  # shards of 8 are read in batches of 3, 3 and 2
                raise KeyboardInterrupt
            return super().images(items)

    with pytest.raises(KeyboardInterrupt):
        vectors(tmp_path / "broken", Interrupted())
    assert len(list((tmp_path / "broken").iterdir())) == 2
    second, third = Noise(), Noise()
    assert torch.equal(vectors(tmp_path / "broken", second), whole)
    assert second.items == list(range(16, NUM))
    assert torch.equal(vectors(tmp_path / "broken", third), whole)
    assert third.items == []


def test_more_images_reuse_whole_shards(tmp_path):
    vectors(tmp_path, num=20)
    images = Noise()
    assert torch.equal(vectors(tmp_path, images), vectors(tmp_path / "other"))
    assert images.items == list(range(16, NUM))


def test_damaged_shards_are_computed_again(tmp_path):
    expected = vectors(tmp_path)
    parts = sorted(tmp_path.iterdir())
    parts[0].write_bytes(parts[0].read_bytes()[:-4])
    parts[1].write_bytes(b"")
    parts[2].write_bytes(parts[5].read_bytes())
    assert torch.equal(vectors(tmp_path), expected)


def test_vectors_of_non_finite_images_are_nan(tmp_path):
    def change(_source, items, _cameras):
        image = to_float(Noise().images(items))
        image[items == 5, :, 3, 3] = torch.inf
        return Images(image, image)

    rows = vectors(tmp_path, Perturbed(figures(), change))
    assert rows[5].isnan().all()
    assert rows[torch.arange(NUM) != 5].isfinite().all()


def test_extractors_share_the_images_that_are_read(tmp_path):
    images, extractors = Noise(), [PIXELS, reduced_pixels(2)]
    stores = [Shards(tmp_path / f"{e.dim}", NUM, e) for e in extractors]
    compute_features(images, stores, 8)
    assert images.items == list(range(NUM))
    assert [s.missing() for s in stores] == [[], []]


def test_each_rank_computes_its_share_and_rank_0_stores_all(tmp_path, monkeypatch):
    """Five shards on two ranks; rank 1 runs first, and rank 0 receives its blocks."""
    monkeypatch.setattr(feature_store, "world_size", lambda: 2)
    blocks, images = [], (Noise(), Noise())

    def gather_to_main(block):
        if feature_store.rank() == 1:
            blocks.append(block)
            return []
        return [block, blocks.pop(0)]

    monkeypatch.setattr(feature_store, "gather_to_main", gather_to_main)
    for rank in (1, 0):
        monkeypatch.setattr(feature_store, "rank", lambda rank=rank: rank)
        store = Shards(tmp_path / f"rank {rank}", 35, PIXELS)
        compute_features(images[rank], [store], 3)
    even, odd = ([i for i in range(35) if i // 8 % 2 == number] for number in (0, 1))
    assert (images[0].items, images[1].items) == (even, odd)
    assert not (tmp_path / "rank 1").exists()
    monkeypatch.undo()
    monkeypatch.setattr(feature_store, "SHARD", 8)
    assert torch.equal(torch.cat(list(store.blocks())), vectors(tmp_path / "one", num=35))


def test_an_error_of_writing_names_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write features.*XDG_CACHE_HOME"):
        vectors(tmp_path / "file")
