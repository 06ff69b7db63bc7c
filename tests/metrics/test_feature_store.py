import itertools
import threading

import pytest
import torch

from lightning_gan3d.metrics.distribution import crew, feature_store
from lightning_gan3d.metrics.distribution.crew import Crew, CrewError
from lightning_gan3d.metrics.distribution.feature_store import (
    Chosen,
    Held,
    Pictures,
    Shards,
    StoreError,
    collect,
)
from lightning_gan3d.metrics.distribution.features import ReducedPixels

NUM = 43


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(feature_store, "SHARD", 8)


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


def test_processes_share_the_work(tmp_path):
    seen, results = {0: [], 1: []}, {}

    def work(rank):
        def shown(items):
            seen[rank] += items.tolist()
            return read(items)

        extractors, crew = [ReducedPixels(4)], Crew(rank, 2)
        results[rank] = collect(shown, NUM, extractors, [tmp_path], 3, crew, 1.0)[0]

    threads = [threading.Thread(target=work, args=(r,)) for r in (1, 0)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert (seen[0], seen[1]) == (list(range(24)), list(range(24, NUM)))
    alone = ReducedPixels(4)(read(torch.arange(NUM)).images)
    assert torch.equal(torch.cat(list(results[0].blocks())), alone)


def test_a_process_that_leaves_its_part_undone_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(crew, "POLL", 0.01)
    args = NUM, [ReducedPixels(4)], [tmp_path], 3
    collect(read, *args, Crew(1, 3))  # ends with its own
    with pytest.raises(CrewError, match=r"missing of process 2 \(RANK=2\): 2 of its 2\. See"):
        collect(read, *args, Crew(0, 3), 0.001)
    collect(read, *args, Crew(2, 3))
    collect(nothing, *args, Crew(0, 3), 0.001)


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
