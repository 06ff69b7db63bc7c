import json

import pytest

from lightning_gan3d.metric import (
    Metric,
    MetricId,
    missing,
    parse_key,
    read_metrics,
    write_metrics,
)


def test_metrics_survive_a_round_trip(tmp_path):
    rows = [
        Metric("speed.view_ms", 1.5, "ms", 7, 0.1, "median"),
        Metric("consistency.psnr", 25.0, "dB", stage="raw", variant="following", at=0.25),
        Metric("refit.psnr", 1.0, items=[0.5, None, 1.5], protocol="0123456789abcdef"),
        missing("quality.fid", "no weights", network="legacy_tensorflow"),
    ]
    write_metrics(tmp_path / "m.json", rows)
    assert read_metrics(tmp_path / "m.json") == rows
    assert read_metrics(tmp_path / "m.json")[2].items == (0.5, None, 1.5)
    assert [p.name for p in tmp_path.iterdir()] == ["m.json"]
    text = (tmp_path / "m.json").read_text()
    assert len(text.splitlines()) == len(rows)
    assert text.count('"items"') == text.count('"at"') == text.count('"network"') == 1


def test_files_of_earlier_versions_name_a_metric_by_its_key(tmp_path):
    file = tmp_path / "m.json"
    old = [
        {"metric": "quality.fid_legacy_tensorflow_posed", "value": 5.0, "n": 50000, "spread": 0.1},
        {"metric": "growth.grid", "value": None, "unit": "", "note": "no grid"},
        {"metric": "quality.swd_way", "value": 0.5, "unit": "share"},
    ]
    file.write_text(json.dumps(old))
    assert read_metrics(file) == [
        Metric(
            "quality.fid", 5.0, n=50000, spread=0.1, network="legacy_tensorflow", variant="posed"
        ),
        missing("growth.grid", "no grid"),
        Metric("quality.swd_progress", 0.5, "share"),
    ]


@pytest.mark.parametrize(
    ("key", "fields"),
    [
        ("quality.fid", {}),
        ("quality.kid_whole_legacy_pytorch", {"network": "legacy_pytorch"}),
        ("quality.frechet_legacy_tensorflow_1a2b3c4d_posed", None),
        ("quality.precision_inception", {}),
        ("quality.recall_inception_legacy_tensorflow", {"network": "legacy_tensorflow"}),
        ("quality.frechet_clip_1a2b3c4d", {"network": "1a2b3c4d"}),
        ("memorisation.excess_inception", {"network": "inception"}),
        ("quality.inception_score", {}),
        ("consistency.psnr_raw_following", {"stage": "raw", "variant": "following"}),
        ("consistency.psnr_enlarged@0.25", {"stage": "enlarged", "at": 0.25}),
        ("geometry.shape_to_data_truth", {"variant": "truth"}),
        ("growth.grid.scene_bytes@128", {"at": 128.0}),
        ("pose.within_20deg_real", {}),
    ],
)
def test_keys_are_parsed_into_fields_and_back(key, fields):
    if fields is None:
        fields = {"network": "legacy_tensorflow_1a2b3c4d", "variant": "posed"}
    metric_id = parse_key(key)
    assert metric_id.key == key
    assert metric_id == MetricId(metric_id.name, **fields)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_becomes_missing_and_loses_no_other(value, tmp_path):
    rows = [
        Metric("quality.kid", value, n=2, note="the protocol"),
        Metric("quality.fid", 3.0, n=2, spread=value, items=[value, 3.0]),
    ]
    assert rows[0].value is None
    assert rows[0].note == f"the value is {value}, not finite: the protocol"
    assert (rows[1].value, rows[1].spread, rows[1].items) == (3.0, None, (None, 3.0))
    write_metrics(tmp_path / "m.json", rows)
    assert read_metrics(tmp_path / "m.json") == rows


def test_a_missing_value_needs_a_reason():
    with pytest.raises(ValueError, match="give the reason"):
        Metric("swd", None)
