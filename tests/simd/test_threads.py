import multiprocessing
import threading
import time

import pytest
import torch

pytest.importorskip("numba")

from lightning_gan3d.simd import num_workers, run


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def done(tasks: int) -> list[int]:
    calls: list[int] = []
    run(lambda _, i: calls.append(i), tasks)
    return sorted(calls)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("tasks", [0, 1, 2, 100])
def test_each_task_runs_once(tasks):
    assert done(tasks) == list(range(tasks))


@pytest.mark.usefixtures("three_threads")
def test_each_of_torchs_threads_is_one_worker():
    together = threading.Barrier(3, timeout=20)
    used: dict[int, set[int]] = {}

    def task(worker, i):
        if i < 3:
            together.wait()  # three tasks are under way at once
        used.setdefault(worker, set()).add(threading.get_ident())

    run(task, 50)
    assert sorted(used) == [0, 1, 2]
    assert all(len(threads) == 1 for threads in used.values())
    assert num_workers(2) == 2


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("culprit", [0, 7])
def test_an_exception_reaches_the_caller_and_stops_the_rest(culprit):
    calls = []

    def task(_, i):
        if i == culprit:
            raise KeyError("broken")
        time.sleep(0.001)
        calls.append(i)

    with pytest.raises(KeyError, match="broken"):
        run(task, 1000)
    assert len(calls) < 900
    assert done(5) == list(range(5))


@pytest.mark.usefixtures("three_threads")
def test_tasks_may_run_tasks():
    calls = []
    run(lambda _, i: run(lambda _, j: calls.append((i, j)), 6), 6)
    assert sorted(calls) == [(i, j) for i in range(6) for j in range(6)]


def _child(queue):
    queue.put(done(20))


@pytest.mark.usefixtures("three_threads")
def test_a_forked_child_starts_its_own_threads():
    done(20)  # the parent's pool exists
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(queue,))
    child.start()
    assert queue.get(timeout=30) == list(range(20))
    child.join(30)
    assert child.exitcode == 0
