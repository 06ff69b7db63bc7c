from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.scaling import Link, Sent, seconds


def test_the_page_has_the_tables_of_the_script():
    page = (Path(scaling.__file__).parents[1] / "docs/scaling.md").read_text()
    for table in scaling.tables():
        assert table in page


def test_the_time_of_sums_by_hand():
    sent = [Sent("every step", 1, 80_000_000), Sent("every other step", 2, 40_000_000)]
    assert [s.messages for s in sent] == [4, 2]
    by_hand = 2 * 15 / 16 * 100e6 / 50e9 + (4 + 1) * 47e-6
    assert seconds(Link("", 100, 0.5), 16, sent) == pytest.approx(by_hand)
