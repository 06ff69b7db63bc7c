import pytest

from lightning_gan3d.metric import Metric, missing, read_measures, write_measures


def test_measures_survive_a_round_trip(tmp_path):
    rows = [
        Metric.of_key("speed.view_ms", 1.5, "ms", 7, 0.1, "median"),
        missing("fid", "no weights"),
    ]
    write_measures(tmp_path / "m.json", rows)
    assert read_measures(tmp_path / "m.json") == rows
    assert [p.name for p in tmp_path.iterdir()] == ["m.json"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match="report it as missing"):
        Metric.of_key("swd", value)


def test_a_missing_value_needs_a_reason():
    with pytest.raises(ValueError, match="give the reason"):
        Metric.of_key("swd", None)
