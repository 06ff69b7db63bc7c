import sys

import numpy as np
import pytest
import torch

from lightning_gan3d.benchmark.resident import resident_peak

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the mark of resident memory is Linux's"
)


def test_the_peak_of_torch_and_of_others_is_seen() -> None:
    def by_torch() -> torch.Tensor:
        x = torch.ones(10_000_000)
        return x + 1  # 40 MB twice

    def by_numpy() -> None:
        np.ones(10_000_000, dtype=np.float32).sum()

    assert resident_peak(by_torch) == pytest.approx(80e6, rel=0.1)
    assert resident_peak(by_numpy) == pytest.approx(40e6, rel=0.15)


def test_what_was_freed_before_does_not_hide_the_peak() -> None:
    x = torch.ones(30_000_000)
    del x
    assert resident_peak(lambda: torch.ones(10_000_000)) == pytest.approx(40e6, rel=0.15)
