import pytest
from fabricated_runs import make_run

from lightning_gan3d.report.groups import compare
from lightning_gan3d.report.protocols import UNKNOWN, conditions
from lightning_gan3d.report.records import find_runs


def test_conditions_are_those_of_each_run(tmp_path):
    make_run(tmp_path, "voxel")
    make_run(tmp_path, "triplane", evaluated=False)
    table = conditions(compare(find_runs([tmp_path])).runs)
    assert all(len(row) == 1 + len(table.heads) for row in table.rows)
    without, known = (dict(zip(("run", *table.heads), row, strict=True)) for row in table.rows)
    assert {v for k, v in without.items() if k != "run"} == {UNKNOWN}
    assert known["images"] == "32²"
    assert known["renderings"] == "16²"
    assert known["truncation"] == "none"
    assert known["seed of latents"] == "0"
    assert known["weights (SHA-256)"] == "abcdef0123456789"
    assert known["data fingerprint"] == "f00dfeed"
    assert known["measured by commit"] == "0123abc0123a, changed"


@pytest.mark.parametrize("text", ["[1]", "{", "null"])
def test_a_damaged_file_is_no_more_than_a_gap_in_the_table(tmp_path, text):
    path = make_run(tmp_path, "voxel")
    (path / "evaluation.conditions.json").write_text(text)
    (run,) = compare(find_runs([tmp_path])).runs
    assert set(conditions([run]).rows[0][1:]) == {UNKNOWN}
    assert bool(run.problems) == (text == "{")
    assert run.measure("refit.psnr").value is not None
