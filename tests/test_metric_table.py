import pytest

from lightning_gan3d.metric import MetricId, parse_key
from lightning_gan3d.metric_table import (
    Use,
    describe,
    order,
    rounded,
    selected,
    significant,
)


@pytest.mark.parametrize(
    ("key", "label", "short", "better"),
    [
        (
            "quality.fid_legacy_tensorflow_posed",
            "FID, resized as by StyleGAN and EG3D, drawn cameras",
            "FID TF posed",
            "lower",
        ),
        (
            "quality.fid_legacy_tensorflow_3d",
            "FID, resized as by StyleGAN and EG3D, mapping conditioned on the frontal camera",
            "FID TF 3D",
            "lower",
        ),
        ("refit.psnr", "PSNR of held-out views (refit; blur raises it)", "Refit PSNR", ""),
        (
            "consistency.psnr_enlarged",
            "Reprojection PSNR (compared pixels), upsampled rendering",
            "Reproj. PSNR ups.",
            "",
        ),
        (
            "consistency.gain_raw_following",
            "Reprojection PSNR gain over identity warp, rendering, label follows camera",
            "Reproj. gain raw follow.",
            "",
        ),
        (
            "geometry.relief_truth",
            "Depth relief of the front (0: flat), ground truth (ceiling)",
            "Relief truth",
            "",
        ),
        (
            "geometry.shape_to_data_truth",
            "Chamfer distance to nearest real object, ground truth (ceiling)",
            "Chamfer truth",
            "",
        ),
        (
            "quality.frechet_1a2b3c4d",
            "Fréchet distance, network 1a2b3c4d",
            "FD 1a2b3c4d",
            "lower",
        ),
        ("quality.precision_inception", "Precision (Inception features)", "Prec. Inc.", "higher"),
        (
            "consistency.psnr_truth@0.5",
            "Reprojection PSNR (compared pixels), ground truth (ceiling), 29°",
            "Reproj. PSNR truth 29°",
            "",
        ),
        ("growth.grid.scene_bytes@64", "Scene memory, 64²", "Scene memory 64²", "lower"),
        (
            "growth.rendering.view_ms_exponent",
            "Render time per view: growth exponent",
            "Render time per view exp.",
            "",
        ),
        ("novelty.of_it_raw", "novelty.of_it_raw", "novelty.of_it_raw", ""),
    ],
)
def test_labels_follow_from_the_fields_of_an_id(key, label, short, better):
    info = describe(parse_key(key))
    assert (info.label, info.short, info.better) == (label, short, better)


def test_headings_are_those_of_papers():
    headings = {
        "quality.fid": "FID ↓",
        "refit.deficit": "PSNR below the ceiling at equal sharpness (refit), dB ↓",
        "speed.view_ms": "Render time per view (ms) ↓",
        "cost.scene_bytes": "Scene memory (kB) ↓",
        "cost.flops": "FLOPs per image (GFLOP) ↓",
        "training.kimg": "Training images (kimg)",
    }
    assert {name: describe(MetricId(name)).heading for name in headings} == headings


def test_every_mode_of_a_selected_metric_is_selected():
    keys = ["quality.fid", "quality.fid_legacy_tensorflow", "quality.fid_legacy_tensorflow_posed"]
    others = ["quality.fid_infinity", "refit.psnr_truth", "refit.psnr_following"]
    others += ["consistency.psnr_raw", "consistency.psnr@0.5", "novelty.of_it"]
    ids = [parse_key(key) for key in keys + others]
    for use in (Use.SUMMARY, Use.PAPER, Use.PAIRED):
        assert selected(ids, use) == ids[:3]


def test_the_latex_table_and_the_paired_differences_have_their_own_metrics():
    ids = [MetricId(n) for n in ("speed.scene_ms", "cost.scene_bytes", "geometry.relief")]
    assert selected(ids, Use.SUMMARY) == ids[:2]
    assert selected(ids, Use.PAPER) == ids[1:2]
    assert selected(ids, Use.PAIRED) == ids[2:]


def test_metrics_are_sorted_by_block_table_and_position():
    keys = [
        "quality.swd",
        "consistency.psnr",
        "consistency.psnr@0.5",
        "consistency.psnr@1",
        "consistency.psnr_raw",
        "growth.grid.scene_bytes@64",
        "growth.grid.scene_bytes@128",
        "odd.one",
    ]
    ids = [parse_key(key) for key in keys]
    assert sorted(reversed(ids), key=order) == ids


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.031249, "0.0312"),
        (3.123, "3.12"),
        (312.4, "312"),
        (31234.0, "31,200"),
        (0.0, "0"),
        (-5.5, "-5.50"),
    ],
)
def test_numbers_have_three_significant_digits(value, text):
    assert significant(value) == text


def test_units_are_printed_as_people_read_them():
    assert describe(MetricId("pose.within_20deg")).with_unit(0.9834) == "98.3 %"
    assert describe(MetricId("cost.scene_bytes"), "bytes").with_unit(98304.0) == "98.3 kB"
    parameters = describe(MetricId("cost.representation_parameters"))
    assert parameters.format(2000123.0) == "2,000,123"
    assert describe(MetricId("a.new_one"), "K").with_unit(3.0) == "3.00 K"
    assert describe(MetricId("speed.view_ms")).format_like(0.0177, 3.11) == "0.02"
    assert rounded(31234.0, -2) == "31,200"


def test_the_ends_of_a_range_do_not_look_equal():
    info = describe(MetricId("refit.deficit"), "dB")
    assert info.format_range(1.0, 2.0, 1.5) == "1.00 to 2.00"
    assert info.format_range(1.0012, 1.0018, 1.5) == "1.0012 to 1.0018"
    assert info.format_range(1.5, 1.5, 1.5) == "1.50 to 1.50"
    close = info.format_range(0.780184960538572, 0.7801849605385721, 0.78).split(" to ")
    assert close[0] != close[1]
    memory = describe(MetricId("memory.train_mb"), "MB")
    assert memory.format_range(2190.1, 2190.3, 2190.0) == "2,190.1 to 2,190.3"
