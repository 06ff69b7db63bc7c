"""Matching cameras to images."""

import numpy as np
import pytest

from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.preparers.camera_files import CameraFile, match_cameras


def listing(*keys: str, folder: str = "") -> CameraFile:
    return CameraFile("labels", "labels.json", {k: np.zeros(25) for k in keys}, {}, folder)


@pytest.mark.parametrize("missing", ["reject", "skip"])
def test_equal_file_names_in_different_folders_do_not_match(missing):
    message = "train/cat/x.png" if missing == "skip" else "test/cat/x.png; `missing=skip`"
    with pytest.raises(DataError, match=message):
        match_cameras(["test/cat/x.png"], listing("train/cat/x.png"), missing)
    both = listing("train/cat/x.png", "test/cat/x.png")
    match = match_cameras(["test/cat/x.png"], both, "skip")
    assert match == ([("test/cat/x.png", "test/cat/x.png")], 0, 1)


@pytest.mark.parametrize(
    ("image", "key"),
    [
        ("00000/img.png", "img.png"),
        ("img.png", "00000/img.png"),
        ("FFHQ/00000/img.jpg", "00000/img.png"),
        ("00000/img.jpg", "/home/me/FFHQ/00000/img.png"),
        ("a/00000/img.png", "00000\\img.png"),
        ("a\\00000\\img.png", "00000/img.png"),
        ("00000/img.png", "./00000/IMG.PNG"),
        ("00000/Mu\u0308ller.png", "00000/M\u00fcller.png"),
        ("cat/a.b.png", "a.b"),
        ("cat/a.b.png", "cat/a.b"),
    ],
)
def test_leading_folders_and_suffixes_are_optional(image, key):
    match = match_cameras(["other/b.png", image], listing(key, "other/b.png"), "reject")
    assert match.pairs == [(image, key), ("other/b.png", "other/b.png")]


def test_exact_paths_take_precedence_in_any_order():
    names = ["cat/x.png"]
    for keys in (("x.png", "cat/x.png"), ("cat/x.png", "x.png")):
        match = match_cameras(names, listing(*keys), "skip")
        assert match == ([("cat/x.png", "cat/x.png")], 0, 1)
        with pytest.raises(DataError, match=r"1 of 2 cameras .* no image, e\.g\. x\.png"):
            match_cameras(names, listing(*keys), "reject")


def test_pairs_follow_the_file_and_names_may_be_relative_to_its_folder():
    names = ["top/a/x.png", "top/b/y.png", "b/y.png"]
    match = match_cameras(names[:2], listing("y", "a/x.png", folder="top/"), "reject")
    assert match.pairs == [("top/b/y.png", "y"), ("top/a/x.png", "a/x.png")]
    match = match_cameras(names, listing("b/y.png", folder="top/"), "skip")
    assert match.pairs == [("top/b/y.png", "b/y.png")]


def test_ambiguous_matches_are_rejected():
    with pytest.raises(DataError, match=r"`x` of labels\.json matches a/x\.png and b/x"):
        match_cameras(["a/x.png", "b/x.png"], listing("x"), "skip")
    with pytest.raises(DataError, match=r"x\.png: two cameras, `x\.png` and `x`"):
        match_cameras(["x.png"], listing("x.png", "x"), "skip")
