from collections.abc import Callable

import pytest
import torch

from lightning_gan3d.benchmark.speed import (
    Environment,
    Protocol,
    Timing,
    cpu_threads,
    speed_ratio,
    time_calls,
    time_ordered,
    time_rounds,
)

CPU = torch.device("cpu")


class FakeClock:
    """A clock that timed functions advance."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def function(self, name: str, *seconds: float) -> Callable[[], None]:
        """A function whose calls take the given seconds; the last ones repeat."""
        remaining = list(seconds)

        def call() -> None:
            self.calls.append(name)
            self.now += remaining.pop(0) if len(remaining) > 1 else remaining[0]

        return call


def run(protocol: Protocol, *seconds: float) -> tuple[Timing, int]:
    clock = FakeClock()
    timing = time_calls(clock.function("", *seconds), protocol, CPU, clock)
    return timing, len(clock.calls)


def test_warm_up_is_not_timed() -> None:
    protocol = Protocol(warmup=2, min_repeats=3, max_repeats=3, budget=0.0)
    timing, calls = run(protocol, 50.0, 40.0, 1.0, 2.0, 3.0)
    assert timing.seconds == pytest.approx((1.0, 2.0, 3.0))
    assert calls == 5
    assert timing.median == timing.quartiles.median == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("seconds", "protocol", "repeats"),
    [
        (1.0, Protocol(warmup=0, min_repeats=4, max_repeats=100, budget=2.5), 4),
        (0.25, Protocol(warmup=0, min_repeats=2, max_repeats=100, budget=2.0), 8),
        (0.001, Protocol(warmup=1, min_repeats=2, max_repeats=5, budget=100.0), 5),
    ],
)
def test_repeats_end_at_the_budget_within_their_limits(
    seconds: float, protocol: Protocol, repeats: int
) -> None:
    assert len(run(protocol, seconds)[0].seconds) == repeats


def test_the_median_is_robust_to_one_stall_which_the_note_shows() -> None:
    timing = Timing((0.010, 0.011, 0.012, 0.013, 5.0), warmup=1)
    row = timing.metric("growth.grid.scene_ms", "one scene", at=64.0)
    assert row.key == "growth.grid.scene_ms@64"
    assert row.value == pytest.approx(12.0)
    assert row.unit == "ms"
    assert row.n == 5
    assert row.note == (
        "one scene; median of 5 calls after 1 of warm-up; "
        "quartiles 11 to 13 ms, range 10 to 5e+03 ms"
    )
    assert row.spread == pytest.approx(1e3 * 2.2309, rel=1e-3)


def test_one_call_has_no_spread() -> None:
    row = Timing((0.5,)).metric("speed.scene_ms")
    assert row.spread is None
    assert row.value == pytest.approx(500.0)


def test_calls_alternate_after_their_warm_up() -> None:
    clock = FakeClock()
    timings = time_rounds(
        {"a": clock.function("a", 3.0), "b": clock.function("b", 1.0)},
        Protocol(warmup=1, min_repeats=2, max_repeats=2, budget=0.0),
        CPU,
        clock,
    )
    assert clock.calls == ["a", "b"] * 3
    assert timings == {"a": Timing((3.0, 3.0), 1), "b": Timing((1.0, 1.0), 1)}


PARTS = {"image": ("scene", "view"), "view": ("rendering",)}
ONCE = Protocol(warmup=0, min_repeats=1, max_repeats=1, budget=0.0)


def test_a_part_that_is_slower_than_the_whole_is_measured_again() -> None:
    clock = FakeClock()
    calls = {
        "image": clock.function("image", 1.0, 3.0),
        "view": clock.function("view", 2.5, 2.6),
        "mapping": clock.function("mapping", 9.0),
    }
    timings, problems = time_ordered(calls, PARTS, ONCE, CPU, clock)
    assert clock.calls == ["image", "view", "mapping"] * 2
    assert not problems
    assert timings["image"].median == pytest.approx(3.0)


def test_parts_that_stay_slower_are_reported() -> None:
    clock = FakeClock()
    calls = {
        "image": clock.function("image", 1.0),
        "view": clock.function("view", 2.0),
        "rendering": clock.function("rendering", 2.1),  # within noise
    }
    _, problems = time_ordered(calls, PARTS, ONCE, CPU, clock)
    assert len(clock.calls) == 9
    assert set(problems) == {"image", "view"}
    assert problems["view"] == (
        "view took 2e+03 ms, and image, which contains it, 1e+03 ms, in 3 attempts: "
        "use an idle machine"
    )


def test_the_budget_is_that_of_each_call() -> None:
    clock = FakeClock()
    protocol = Protocol(warmup=0, min_repeats=1, max_repeats=100, budget=2.0)
    calls = {name: clock.function(name, 1.0) for name in "abc"}
    timings, _ = time_ordered(calls, {}, protocol, CPU, clock)
    assert len(timings["a"].seconds) == 2


def test_a_ratio_pairs_the_calls_of_each_round() -> None:
    # A machine that is ten times slower in one round slows both sides.
    slow, fast = Timing((2.0, 20.0, 2.0)), Timing((1.0, 10.0, 1.0))
    assert speed_ratio(slow, fast) == (2.0, 2.0, 2.0)
    assert speed_ratio(Timing((6.0,)), Timing((2.0,))) == (3.0, 3.0, 3.0)


def test_threads_are_restored() -> None:
    before = torch.get_num_threads()
    with cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        assert Environment.current(CPU, ()).threads == before + 1
    assert torch.get_num_threads() == before
    with cpu_threads(None):
        assert torch.get_num_threads() == before
