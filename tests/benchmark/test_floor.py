import pytest
import torch

from lightning_gan3d.benchmark.floor import Peaks, measure_peaks, share_of_floor
from lightning_gan3d.benchmark.speed import Timing

PEAKS = Peaks(flops=100e9, traffic=10e9)


def test_the_slower_of_arithmetic_and_traffic_is_the_floor() -> None:
    assert PEAKS.floor(200_000_000_000, 1) == pytest.approx(2.0)
    assert PEAKS.floor(1, 30_000_000_000) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("flops", "nbytes", "share", "bound"),
    [(50_000_000_000, 0, 0.25, "arithmetic"), (0, 10_000_000_000, 0.5, "traffic")],
)
def test_a_share_is_the_floor_over_the_median(
    flops: int, nbytes: int, share: float, bound: str
) -> None:
    row = share_of_floor("view", Timing((1.0, 2.0, 9.0)), flops, nbytes, PEAKS)
    assert row.metric == "speed.view_floor_share"
    assert row.value == pytest.approx(share)
    assert f"by {bound}" in row.note


def test_measured_peaks_are_of_the_order_of_a_machine() -> None:
    peaks = measure_peaks(torch.device("cpu"), torch.get_num_threads())
    assert 1e8 < peaks.flops < 1e15
    assert 1e8 < peaks.traffic < 1e14
    assert peaks is measure_peaks(torch.device("cpu"), torch.get_num_threads())
