import pytest
import torch

from lightning_gan3d.benchmark.paired import Rounds, time_in_turns
from lightning_gan3d.benchmark.speed import Protocol


def test_calls_take_turns_and_the_warm_up_is_left_out() -> None:
    order: list[str] = []
    now = [0.0]

    def call(name: str, seconds: float) -> None:
        order.append(name)
        now[0] += seconds

    rounds = time_in_turns(
        {"a": lambda: call("a", 3.0), "b": lambda: call("b", 1.0)},
        Protocol(warmup=1, min_repeats=2, max_repeats=2, budget=0.0),
        torch.device("cpu"),
        lambda: now[0],
    )
    assert order == ["a", "b"] * 3
    assert rounds.seconds == {"a": [3.0, 3.0], "b": [1.0, 1.0]}
    assert rounds.ratio("a", "b") == (3.0, 3.0, 3.0)


def test_a_ratio_is_taken_round_by_round() -> None:
    # A machine that slows down by ten in one round slows both: the ratio does not see it.
    rounds = Rounds({"slow": [2.0, 20.0, 2.0], "fast": [1.0, 10.0, 1.0]})
    assert rounds.ratio("slow", "fast") == (2.0, 2.0, 2.0)
    assert Rounds({"slow": [6.0], "fast": [2.0]}).ratio("slow", "fast").median == pytest.approx(3)
