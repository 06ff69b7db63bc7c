from dataclasses import replace

import pytest
from fabricated_runs import NUMBERS, make_run

from lightning_gan3d.metric import Metric, missing, read_metrics, write_metrics
from lightning_gan3d.report.decide import best_labels, why_not_bold
from lightning_gan3d.report.document import compose
from lightning_gan3d.report.groups import compare
from lightning_gan3d.report.markdown import to_markdown
from lightning_gan3d.report.page import to_html
from lightning_gan3d.report.records import find_runs


@pytest.fixture
def runs(tmp_path):
    return {kind: make_run(tmp_path, kind) for kind in NUMBERS}


def edit(path, change):
    found = read_metrics(path / "evaluation.json")
    write_metrics(path / "evaluation.json", [change(m) for m in found])


def setting(path, name, value, note="no texture"):
    edit(path, lambda m: replace(m, value=value, note=note) if m.metric == name else m)


def best(root, name):
    comparison = compare(find_runs([root]))
    return best_labels(comparison, name), why_not_bold(comparison, name)


def test_psnr_is_bold_only_where_the_gain_is_bold_too(tmp_path, runs):
    assert best(tmp_path, "refit.psnr") == ({"nerf_mlp"}, "")
    setting(runs["voxel"], "refit.psnr", 30.7)  # blurred: more PSNR, less gain
    found, why = best(tmp_path, "refit.psnr")
    assert found == set()
    assert "voxel leads, but not by" in why
    assert best(tmp_path, "refit.gain") == ({"nerf_mlp"}, "")


def test_one_colour_is_never_bold(tmp_path, runs):
    setting(runs["voxel"], "refit.psnr", 50.5)
    setting(runs["voxel"], "refit.gain", None)
    assert best(tmp_path, "refit.psnr")[0] == set()
    for kind in runs:
        setting(runs[kind], "refit.gain", -1.0 - len(kind))
    found, why = best(tmp_path, "refit.gain")
    assert found == set()
    assert why == "none is in bold: no group gains"


def test_nothing_is_bold_across_protocols_and_the_page_says_so(tmp_path, runs):
    name = "quality.swd"
    assert best(tmp_path, name) == ({"voxel"}, "")
    for kind, key in (("triplane", "a" * 16), ("voxel", "a" * 16)):
        edit(runs[kind], lambda m, key=key: replace(m, protocol=key))
    assert best(tmp_path, name) == ({"voxel"}, "")
    edit(runs["image2d"], lambda m: replace(m, protocol="b" * 16))
    found, why = best(tmp_path, name)
    assert found == set()
    assert why == (
        "measured differently, so not compared (protocol of triplane, voxel: "
        f"{'a' * 16}; image2d: {'b' * 16})"
    )
    document = compose(compare(find_runs([tmp_path])), [], [], [], [])
    for text in (to_markdown(document, "plots"), to_html(document)):
        assert why in text


def test_what_no_run_has_for_one_reason_is_one_sentence_and_no_rows(tmp_path, runs):
    why = "the generator does not look at the label"
    for path in runs.values():
        rows = [missing(f"refit.{k}_following", why, "dB") for k in ("psnr", "gain")]
        write_metrics(path / "evaluation.json", read_metrics(path / "evaluation.json") + rows)
    document = compose(compare(find_runs([tmp_path])), [], [], [], [])
    table = next(t for t in document.tables if t.title == "View consistency without depth")
    assert [m.name for m, _ in table.rows] == ["refit.psnr", "refit.gain"]
    sentence = (
        "Missing in every run: View consistency without depth (refit), label following the camera "
        "and Refit over showing the nearest fitted view, label following the camera (the generator "
        "does not look at the label)."
    )
    assert table.remarks == (sentence,)
    assert sentence in to_html(document)
    assert sentence.replace("_", "\\_") in to_markdown(document, "plots")
    one = runs["voxel"] / "evaluation.json"
    rows = [m for m in read_metrics(one) if m.metric != "refit.psnr_following"]
    write_metrics(one, [*rows, Metric.of_key("refit.psnr_following", 20.0, "dB", 8)])
    document = compose(compare(find_runs([tmp_path])), [], [], [], [])
    table = next(t for t in document.tables if t.title == "View consistency without depth")
    assert "refit.psnr_following" in [m.name for m, _ in table.rows]
