import itertools
import threading

import pytest
import torch

from lightning_gan3d.metrics import store
from lightning_gan3d.metrics.features import ReducedPixels
from lightning_gan3d.metrics.store import Chosen, Held, Pictures, Shards, StoreError, collect

NUM = 43


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(store, "SHARD", 8)


def read(items):
    images = torch.stack(
        [
            torch.randint(0, 256, (3, 16, 16), generator=torch.Generator().manual_seed(int(i)))
            for i in items
        ]
    ).to(torch.uint8)
    return Pictures(images, torch.ones(len(items), dtype=torch.bool))


def vectors(folder, read=read, num=NUM):
    (found,) = collect(read, num, [ReducedPixels(4)], [folder], 3)
    return torch.cat(list(found.blocks()))


def test_shards_hold_what_the_extractor_gives(tmp_path):
    wanted = ReducedPixels(4)(read(torch.arange(NUM)).images)
    assert torch.equal(vectors(tmp_path), wanted)
    found = Shards(tmp_path, NUM, 48)
    some = torch.tensor([40, 3, 3, 17])
    assert torch.equal(found.rows(some), wanted[some])
    chosen = Chosen(found, torch.arange(NUM).flip(0))
    assert torch.equal(torch.cat(list(chosen.blocks(5))), wanted.flip(0))
    assert torch.equal(torch.cat(list(Held(wanted).blocks(5))), wanted)
    assert all(len(b) <= 5 for b in found.blocks(5))


def nothing(items):
    raise AssertionError(f"{items} are shown again")


def test_what_was_broken_off_continues_with_the_same_bits(tmp_path):
    whole, count = vectors(tmp_path / "whole"), itertools.count()

    def breaks(items):
        if next(count) == 7:
            raise KeyboardInterrupt
        return read(items)

    with pytest.raises(KeyboardInterrupt):
        vectors(tmp_path / "broken", breaks)
    assert len(list((tmp_path / "broken").iterdir())) == 2
    seen = []
    again = vectors(tmp_path / "broken", lambda items: (seen.append(items), read(items))[1])
    assert torch.equal(again, whole)
    assert torch.cat(seen).tolist() == list(range(16, NUM))
    assert torch.equal(vectors(tmp_path / "broken", nothing), whole)


def test_more_images_reuse_whole_shards(tmp_path):
    vectors(tmp_path, num=20)
    seen = []
    found = vectors(tmp_path, lambda items: (seen.append(items), read(items))[1])
    assert torch.equal(found, vectors(tmp_path / "other"))
    assert torch.cat(seen).tolist() == list(range(16, NUM))


def test_damaged_shards_are_made_anew(tmp_path):
    wanted = vectors(tmp_path)
    parts = sorted(tmp_path.iterdir())
    parts[0].write_bytes(parts[0].read_bytes()[:-4])
    parts[1].write_bytes(b"")
    parts[2].write_bytes(parts[5].read_bytes())
    assert torch.equal(vectors(tmp_path), wanted)


def test_processes_share_the_work(tmp_path, monkeypatch):
    seen, results, turn = {0: [], 1: []}, {}, threading.Barrier(2)
    place = threading.local()
    monkeypatch.setattr(store, "_place", lambda: (place.rank, 2))

    def work(rank):
        place.rank = rank

        def shown(items):
            seen[rank] += items.tolist()
            if len(seen[rank]) <= 6:
                turn.wait(20)
            return read(items)

        results[rank] = vectors(tmp_path, shown)

    threads = [threading.Thread(target=work, args=(r,)) for r in (0, 1)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    alone = ReducedPixels(4)(read(torch.arange(NUM)).images)
    assert torch.equal(results[0], alone)
    assert torch.equal(results[1], alone)
    assert set(seen[0]) | set(seen[1]) == set(range(NUM))
    assert seen[0][0] == 0
    assert seen[1][0] == 24
    assert len(set(seen[0]) & set(seen[1])) <= 8  # at most the last shard


def test_each_process_begins_with_its_part_and_meets_the_others_at_their_ends():
    spans = [(i, i + 1) for i in range(6)]
    assert store._in_turn(spans, 0, 1) == spans
    first = [s[0] for s in store._in_turn(spans, 0, 2)]
    second = [s[0] for s in store._in_turn(spans, 1, 2)]
    assert (first, second) == ([0, 1, 2, 5, 4, 3], [3, 4, 5, 2, 1, 0])


def test_images_that_are_not_finite_have_no_vector(tmp_path):
    def broken(items):
        found = read(items)
        return found._replace(finite=items != 5)

    found = vectors(tmp_path, broken)
    assert found[5].isnan().all()
    assert found[torch.arange(NUM) != 5].isfinite().all()


def test_an_image_is_shown_once_for_all_extractors(tmp_path):
    seen = []
    extractors = [ReducedPixels(4), ReducedPixels(2)]
    collect(
        lambda items: (seen.append(items), read(items))[1],
        NUM,
        extractors,
        [tmp_path / "a", tmp_path / "b"],
        8,
    )
    assert torch.cat(seen).tolist() == list(range(NUM))


def test_a_folder_that_cannot_be_written_to_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be written.*XDG_CACHE_HOME"):
        vectors(tmp_path / "file")
