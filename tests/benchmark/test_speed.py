import pytest
import torch

from lightning_gan3d.benchmark.speed import Protocol, Timing, time_calls

CPU = torch.device("cpu")


class FakeClock:
    """A clock that the timed function moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Slow:
    """A function whose calls take the given seconds."""

    def __init__(self, clock: FakeClock, seconds: list[float]) -> None:
        self.clock, self.seconds, self.calls = clock, seconds, 0

    def __call__(self) -> None:
        self.clock.now += self.seconds[min(self.calls, len(self.seconds) - 1)]
        self.calls += 1


def run(seconds: list[float], protocol: Protocol) -> tuple[Timing, Slow]:
    clock = FakeClock()
    fn = Slow(clock, seconds)
    return time_calls(fn, protocol, CPU, clock), fn


def test_warm_up_is_left_out() -> None:
    timing, fn = run(
        [50.0, 40.0, 1.0, 2.0, 3.0], Protocol(warmup=2, min_repeats=3, max_repeats=3, budget=0.0)
    )
    assert timing.seconds == pytest.approx((1.0, 2.0, 3.0))
    assert fn.calls == 5
    assert timing.median == pytest.approx(2.0)


def test_the_budget_ends_the_repeats_but_never_before_the_least() -> None:
    timing, _ = run([1.0], Protocol(warmup=0, min_repeats=4, max_repeats=100, budget=2.5))
    assert len(timing.seconds) == 4
    timing, _ = run([0.25], Protocol(warmup=0, min_repeats=2, max_repeats=100, budget=2.0))
    assert len(timing.seconds) == 8


def test_the_greatest_number_of_repeats_holds() -> None:
    timing, _ = run([0.001], Protocol(warmup=1, min_repeats=2, max_repeats=5, budget=100.0))
    assert len(timing.seconds) == 5


def test_the_median_forgives_one_stalled_call_and_the_note_shows_it() -> None:
    row = Timing((0.010, 0.011, 0.012, 0.013, 5.0), warmup=1).measure("speed.view_ms", "one view")
    assert row.value == pytest.approx(12.0)
    assert row.unit == "ms"
    assert row.n == 5
    assert row.note == (
        "one view; median of 5 calls after 1 of warm-up; "
        "quartiles 11 to 13 ms, range 10 to 5e+03 ms"
    )
    assert row.spread == pytest.approx(1e3 * 2.2309, rel=1e-3)


def test_one_call_has_no_spread() -> None:
    row = Timing((0.5,)).measure("speed.scene_ms")
    assert row.spread is None
    assert row.value == pytest.approx(500.0)
