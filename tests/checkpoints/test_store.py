import json
import os
import signal

import pytest

from lightning_gan3d.checkpoints import store
from lightning_gan3d.checkpoints.store import CheckpointError


def content(step):
    def write(directory):
        (directory / "weights").write_bytes(bytes([step]) * 100_000)
        (directory / "config.yaml").write_text(f"step: {step}")

    return write


def save(folder, step, keep=2):
    return store.save(folder, step, content(step), {"kimg": step / 10}, keep)


def newest(folder):
    warnings = []
    return store.newest(folder, warnings.append), warnings


def test_the_index_of_a_checkpoint(tmp_path):
    path = save(tmp_path / "checkpoints", 7)
    about = store.verify(path)
    assert (about["step"], about["kimg"], about["schema"]) == (7, 0.7, 1)
    assert set(about["files"]) == {"weights", "config.yaml"}
    assert newest(tmp_path / "checkpoints") == (path, [])


def test_the_newest_two_by_step_remain(tmp_path):
    for step in (3, 1, 12, 7):
        path = save(tmp_path, step)
        os.utime(path, (step * -1000 + 10**6,) * 2)
    assert [s for s, _ in store.steps_in(tmp_path)] == [7, 12]
    assert newest(tmp_path)[0].name == store.name_of(12)


def test_an_empty_folder_has_no_newest_checkpoint(tmp_path):
    assert newest(tmp_path / "checkpoints") == (None, [])


def test_damaged_checkpoints_do_not_count_as_kept(tmp_path):
    for step in (1, 8, 9):
        save(tmp_path, step, keep=3)
    for step in (8, 9):
        (tmp_path / store.name_of(step) / "weights").write_bytes(b"damaged")
    for step in (2, 3, 4):
        path = save(tmp_path, step)
        assert newest(tmp_path)[0] == path
    assert [s for s, _ in store.steps_in(tmp_path)] == [3, 4, 8, 9]
    save(tmp_path, 10)
    save(tmp_path, 11)
    assert [s for s, _ in store.steps_in(tmp_path)] == [10, 11]


def test_checkpoints_that_cannot_be_read_are_an_error_and_stay(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    index = tmp_path / store.name_of(2) / store.INDEX
    index.write_text(index.read_text().replace('"schema": 1', '"schema": 3'))
    with pytest.raises(CheckpointError, match="written by schema 3; this version reads 1"):
        newest(tmp_path)
    for step in (1, 2):
        (tmp_path / store.name_of(step) / store.INDEX).write_text("{")
    with pytest.raises(CheckpointError, match=r"all 2 checkpoint\(s\) are damaged .*moved away"):
        newest(tmp_path)
    assert [s for s, _ in store.steps_in(tmp_path)] == [1, 2]


def test_a_failed_save_leaves_nothing(tmp_path):
    def write(directory):
        content(1)(directory)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        store.save(tmp_path, 1, write, {}, keep=2)
    assert list(tmp_path.iterdir()) == []


def test_saving_a_step_again_keeps_it_unless_damaged(tmp_path):
    first = save(tmp_path, 4)
    stamp = (first / "weights").stat().st_mtime_ns
    assert save(tmp_path, 4) == first
    assert (first / "weights").stat().st_mtime_ns == stamp
    (first / "weights").write_bytes(b"damaged")
    store.verify(save(tmp_path, 4))


POINTS = ["mkdir", "first file", "files", "index", "flush", "renamed"]


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_while_saving_leaves_the_older_one_and_does_not_block(tmp_path, point):
    folder = tmp_path / "check points"
    save(folder, 1)
    pid = os.fork()
    if pid == 0:  # the child dies as by kill -9 or a power cut, at each stage of a save
        die_at(point)
        save(folder, 2)
        os._exit(99)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    path, warnings = newest(folder)
    assert path.name == store.name_of(2 if point == "renamed" else 1)
    assert warnings == []
    left = store.remove_unfinished(folder)
    assert bool(left) == (point != "renamed")
    store.verify(save(folder, 3))
    assert newest(folder)[0].name == store.name_of(3)


def die_at(point):
    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    if point == "mkdir":
        globals()["content"] = lambda _: die
    elif point == "first file":

        def write(directory):
            (directory / "weights").write_bytes(b"half")
            die()

        globals()["content"] = lambda _: write
    elif point == "files":
        store._fingerprint = die
    elif point == "index":
        store._flush = die
    else:
        genuine, calls = store._flush, []

        def flush(path):
            calls.append(path)
            if (point == "flush" and len(calls) == 2) or (
                point == "renamed" and not path.name.startswith(".unf") and path.is_dir()
            ):
                die()
            genuine(path)

        store._flush = flush


@pytest.mark.parametrize("position", [0, 50_000, 99_999])
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_checkpoint_is_skipped(tmp_path, position, damage):
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    data = bytearray((bad / "weights").read_bytes())
    if damage == "flip":
        data[position] ^= 4
    (bad / "weights").write_bytes(data if damage == "flip" else data[:position])
    with pytest.raises(CheckpointError, match=r"weights: checksum differs.*use an earlier one"):
        store.verify(bad)
    path, warnings = newest(tmp_path)
    assert path == good
    assert len(warnings) == 1
    assert "damaged" in warnings[0]


def test_missing_files_and_broken_indexes_are_rejected(tmp_path):
    path = save(tmp_path, 1)
    (path / "weights").unlink()
    with pytest.raises(CheckpointError, match="missing"):
        store.verify(path)
    for text in ("", "[]", "{", '{"schema": 1}'):
        (path / store.INDEX).write_text(text)
        with pytest.raises(CheckpointError, match="not a complete checkpoint"):
            store.verify(path)


def test_another_schema_is_rejected(tmp_path):
    path = save(tmp_path, 1)
    index = json.loads((path / store.INDEX).read_text())
    (path / store.INDEX).write_text(json.dumps({**index, "schema": 3}))
    with pytest.raises(CheckpointError, match="written by schema 3; this version reads 1"):
        store.verify(path)


def test_a_failed_write_raises_and_changes_nothing(tmp_path):
    save(tmp_path, 1)

    def full(directory):
        (directory / "weights").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        store.save(tmp_path, 2, full, {}, 2)
    assert [s for s, _ in store.steps_in(tmp_path)] == [1]
    store.verify(save(tmp_path, 2))
