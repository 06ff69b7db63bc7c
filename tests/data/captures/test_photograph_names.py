"""Names in camera files are compared as people read them; unsupported types are called that."""

import json
import unicodedata

import pytest
from capture_parts import capture, transforms, write_colmap_txt, write_images

from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.captures.from_poses import prepare_from_poses
from lightning_gan3d.data.captures.posed_images import FromPosesConfig, ImageFolder

NFC, NFD = (unicodedata.normalize(form, "Küche") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("there", "named"),
    [
        ("IMG_1.jpg", "IMG_1.JPG"),
        ("img_1.png", "IMG_1.JPG"),
        (f"{NFD} 1.png", f"{NFC} 1.png"),
        (f"{NFC} 1.png", f"{NFD} 1.PNG"),
        ("a/frame.png", "a/frame.jpg"),
        ("a/frame.png", "./a/../a/frame.tif"),
        ("a/frame.png", "a\\frame.png"),
        ("a/frame.png", "A\\Frame"),
        ("frame.001.png", "frame.001"),
    ],
)
def test_names_that_read_the_same_are_one_image(tmp_path, there, named):
    images = folder_of(tmp_path, there)
    assert images.resolve(named, [""]) == there
    assert images.resolve(named, ["elsewhere", ""]) == there
    assert images.resolve(f"C:\\photos\\{named}", None) == there


def test_an_exact_match_wins(tmp_path):
    """Also one in a later folder, or of a shorter end of the path."""
    images = folder_of(tmp_path, "a.png", "A.png", "a.jpg", "images/A.PNG")
    for name in ("a.png", "A.png", "a.jpg"):
        assert images.resolve(name, ["images", ""]) == name
        assert images.resolve(f"images/{name}", None) == name


@pytest.mark.parametrize(
    ("there", "named"),
    [(("a.png", "A.png"), "a.PNG"), (("a.png", "a.webp"), "a.jpg"), (("a.png", "a.jpg"), "a")],
)
def test_ambiguous_names_are_rejected(tmp_path, there, named):
    with pytest.raises(DataError, match=r"matches .* and .*: remove one of them"):
        folder_of(tmp_path, *there).resolve(named, [""])


def test_an_unsupported_type_is_not_called_missing(tmp_path):
    images = folder_of(tmp_path, "images/a.tif", "images/b.HEIC")
    for name in ("images/a.tif", "images/b.heic"):
        with pytest.raises(DataError, match=r"of a type that is not read; .*\.png, \.jpg"):
            images.resolve(name, [""])
    assert images.resolve("images/c.tif", [""]) is None


@pytest.mark.parametrize("name", ["a\0.png", "a\nb.png", "a/" * 100_000])
def test_control_characters_and_endless_paths_are_rejected(tmp_path, name):
    for folders in ([""], None):
        with pytest.raises(DataError, match="too long or has control characters"):
            folder_of(tmp_path).resolve(name, folders)


def folder_of(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    return ImageFolder(folder)


def test_cut_out_images_replace_photographs(tmp_path):
    """Backgrounds are removed into PNGs; COLMAP's model and byte order marks stay."""
    shot = capture(6)
    write_colmap_txt(tmp_path / "a", shot._replace(names=[f"{i}.JPG" for i in range(6)]))
    for name in ("cameras.txt", "images.txt"):
        text = (tmp_path / "a" / name).read_bytes()
        (tmp_path / "a" / name).write_bytes(b"\xef\xbb\xbf" + text)
    write_images(tmp_path / "cut", shot._replace(names=[f"{i}.png" for i in range(6)]))
    cfg = FromPosesConfig(resolution=8, images=str(tmp_path / "cut"))
    assert prepare_from_poses(tmp_path / "a", tmp_path / "o.zip", cfg).num_images == 6


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"fl_x": 1e-300}, "focal lengths 1e-300 and 84 must be at least 1, in pixels"),
        ({"fl_y": 0.9}, "divided by the image size"),
        ({"w": 1e290, "h": 1e290}, "w=1e.290 must be a number up to 1e"),
    ],
)
def test_impossible_numbers_are_rejected_before_they_are_used(tmp_path, keys, message):
    shot = capture(4)
    write_images(tmp_path / "images", shot)
    (tmp_path / "transforms.json").write_text(json.dumps(transforms(shot, **keys)))
    with pytest.raises(DataError, match=message):
        prepare_from_poses(tmp_path, tmp_path / "o.zip", FromPosesConfig())


@pytest.mark.parametrize("place", [(0, 0), (0, 3)])
def test_huge_poses_are_rejected_without_overflow(tmp_path, place):
    shot = capture(4)
    shot.cam2world[0][place] = 1e200
    write_images(tmp_path / "images", shot)
    (tmp_path / "transforms.json").write_text(json.dumps(transforms(shot)))
    with pytest.raises(DataError, match=r"4 rows of 4 numbers, at most 1e"):
        prepare_from_poses(tmp_path, tmp_path / "o.zip", FromPosesConfig())
    (tmp_path / "transforms.json").unlink()
    if place == (0, 3):
        write_colmap_txt(tmp_path, shot)
        with pytest.raises(DataError, match=r"not finite, or above 1e\+09"):
            prepare_from_poses(tmp_path, tmp_path / "o.zip", FromPosesConfig())
