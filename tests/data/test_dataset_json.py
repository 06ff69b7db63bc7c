"""`dataset.json` of other tools: bounds, wrong types, and spellings of names."""

import json
import unicodedata
import zipfile
from pathlib import Path

import pytest
from data_parts import Parts

from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.check import check_dataset
from lightning_gan3d.data.datamodule import DataModule
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.metrics.stored_images import StoredImages

LONG = 10**400


def opens(path: str) -> set[str]:
    """Errors of checking, training and evaluating: one for all, in one printable line."""
    errors = set()
    for open_ in (
        check_dataset,
        lambda p: DataModule(DataConfig(path=p), 2, 2, 0),
        lambda p: StoredImages(p),
    ):
        with pytest.raises(DataError) as raised:
            open_(path)
        assert raised.value.exit_code == 2
        errors.add(str(raised.value))
    (error,) = errors
    assert "\n" not in error
    assert len(error.encode()) < 500
    return error


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("splits", None, "`splits` must map"),
        ("splits", [["img0.png"]], "`splits` must map"),
        ("splits", 5, "`splits` must map"),
        ("splits", {"train": 5}, "`splits` must map"),
        ("splits", {"train": None}, "`splits` must map"),
        ("splits", {"train": [["img0.png"]]}, "`splits` must map"),
        ("splits", {"train": ["img0.png"], "test": ["nope.png"]}, "split `test` of "),
        ("splits", {"train": ["img0\0.png"]}, "'img0\\x00.png', which does not exist"),
        ("splits", {"train": ["a" * 3000]}, "aaa, which does not exist"),
        ("objects", None, "`objects` must map"),
        ("objects", "cars", "`objects` must map"),
        ("objects", {"img0.png": [1]}, "`objects` must map"),
        ("objects", {"img0.png": 10**30}, "`objects` has a number beyond 64 bits"),
        ("objects", {"nope.png": 1}, "`objects` of dataset.json"),
        ("copies", {"img0.png": None}, "`copies` must map"),
        ("sha256", ["img0.png"], "`sha256` must map"),
        ("sha256", {"nope.png": "00"}, "`sha256` of dataset.json"),
        ("labels", [["\ud800.png", [0]]], "not a valid JSON object"),
        ("labels", [["img0.png", [LONG] * 25]], "in the label is not finite"),
        ("labels", [["img0.png", LONG]], "the label is 1000"),
        ("labels", [[LONG, 1]], 'is not ["name.png", [25 numbers]]'),
    ],
)
def test_wrong_values_are_one_error_for_all_who_read_them(tmp_path, key, value, message):
    parts = Parts()
    parts.index[key] = value
    assert message in opens(parts.zip(tmp_path / "a.zip"))


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 900 + "]" * 900, '"\\ud800"', "NaN"])
def test_numbers_and_nesting_beyond_bounds(tmp_path, text):
    folder = Path(Parts().folder(tmp_path / "set"))
    index = json.dumps(Parts().index).replace("0.0", text, 1)
    (folder / "dataset.json").write_text(index)
    assert "img0.png" in opens(str(folder)) or "is not a valid JSON object" in opens(str(folder))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (3, 1e30, "1e+30 world units from the origin"),
        (3, 1e300, "world units from the origin"),
        (0, 1e300, "img3.png: the rotation mirrors"),
        (16, 1e-300, "must be positive"),
        (17, 1e300, "looks like pixels"),
    ],
)
def test_cameras_beyond_single_precision(tmp_path, place, value, message):
    parts = Parts()
    parts.label(3)[place] = value
    assert message in opens(parts.zip(tmp_path / "a.zip"))


def renamed(name: str, spell) -> Parts:
    """All images are called `name` with a number; everything else spells that otherwise."""
    parts = Parts()
    number = {n: name.format(i) for i, n in enumerate(sorted(parts.files))}
    parts.files = {number[n]: data for n, data in parts.files.items()}
    names = [spell(number[n]) for n in sorted(number)]
    labels = parts.index["labels"]
    parts.index["labels"] = [[spell(number[n]), label] for n, label in labels]
    parts.index["splits"] = {"train": names[:7], "test": names[7:]}
    parts.index["objects"] = {n: i for i, n in enumerate(names)}
    parts.index["copies"] = {names[1]: names[0]}
    return parts


@pytest.mark.parametrize(
    ("name", "spell"),
    [
        ("a/img{}.png", lambda n: f"./{n}"),
        ("a/img{}.png", lambda n: n.replace("/", "\\")),
        ("a\\img{}.png", lambda n: n.replace("\\", "/")),
        ("a\\img{}.png", lambda n: n),
        ("a/IMG{}.PNG", str.lower),
        ("a/Müller{}.png", lambda n: unicodedata.normalize("NFD", n)),
        ("a/img{}.png", lambda n: n.replace(".png", ".jpg")),
    ],
)
def test_names_are_compared_as_people_read_them(tmp_path, name, spell):
    right = renamed(name, lambda n: n).folder(tmp_path / "right") if "\\" not in name else None
    path = renamed(name, spell).zip(tmp_path / "a.zip")
    check_dataset(path)
    data = DataModule(DataConfig(path=path), 2, 2, 0)
    assert data.test is not None
    assert (len(data.train), len(data.test)) == (7, 3)
    assert data.train.objects is not None
    assert data.train.objects.tolist() == list(range(7))
    assert data.train.copies is not None
    assert data.train.copies.tolist() == [-1, 0] + [-1] * 8
    assert StoredImages(path).objects is not None
    if right is not None:
        assert data.train.names == ImageDataset(DataConfig(path=right)).names


def test_an_exact_name_takes_precedence_and_two_readings_are_rejected(tmp_path):
    parts = Parts()
    parts.files["IMG0.png"] = parts.files["img1.png"]
    parts.index["labels"].append(["IMG0.png", parts.label(1)])
    assert len(ImageDataset(DataConfig(path=parts.zip(tmp_path / "a.zip")))) == 11
    parts.index["labels"][-1][0] = "Img0.png"  # the only image that is left
    assert len(ImageDataset(DataConfig(path=parts.zip(tmp_path / "b.zip")))) == 11
    parts.index["splits"] = {"train": ["iMG0.png"]}
    assert "iMG0.png, which does not exist" in opens(parts.zip(tmp_path / "c.zip"))
    parts = Parts()
    parts.index["labels"][1][0] = "./img0.png"
    parts.index["labels"][0][0] = "Img0.png"
    assert "img0.png: two labels" in opens(parts.zip(tmp_path / "d.zip"))


def test_an_unsupported_type_is_not_called_missing(tmp_path):
    parts = Parts()
    parts.files["img3.jfif"] = parts.files.pop("img3.png")
    parts.index["labels"][3][0] = "img3.jfif"
    assert "img3.jfif, which has an unsupported type: use .png" in opens(parts.zip(tmp_path / "a"))


def test_hidden_files_of_archives_are_ignored(tmp_path):
    clean = ImageDataset(DataConfig(path=Parts().zip(tmp_path / "clean.zip")))
    path = Parts().zip(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as z:
        for name in ("__MACOSX/._img0.png", "._img0.png", ".DS_Store", "Thumbs.db"):
            z.writestr(name, b"\0\5\26\7")
    check_dataset(path)
    assert ImageDataset(DataConfig(path=path)).fingerprint == clean.fingerprint
    assert StoredImages(path).names == clean.names


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks(tmp_path, encoding):
    folder = Path(Parts().folder(tmp_path / "set"))
    (folder / "dataset.json").write_text(json.dumps(Parts().index), encoding=encoding)
    check_dataset(str(folder))


def test_names_of_files_that_are_not_text(tmp_path):
    folder = Path(Parts().folder(tmp_path / "set"))
    (folder / "img\udcff.png").write_bytes(b"")
    assert "'img\\udcff.png'" in opens(str(folder))
    (folder / "img\udcff.png").unlink()
    (folder / "loop.png").symlink_to(folder / "loop.png")
    assert "1 of 11 images lack a label: loop.png" in opens_labelled(str(folder))


def opens_labelled(path: str) -> str:
    with pytest.raises(DataError) as raised:
        check_dataset(path)
    return str(raised.value)


def test_an_entry_without_a_name(tmp_path):
    path = Parts().zip(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as z:
        z.writestr("x", b"")
    data = bytearray(Path(path).read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 46] = 0  # a name ends at the first zero
    Path(path).write_bytes(data)
    assert "entry ''" in opens(path)


def test_keys_that_nothing_reads_are_listed(tmp_path):
    parts = Parts()
    parts.index["camera_angle"] = 1
    parts.index["turntable"] = {}
    (warning,) = check_dataset(parts.zip(tmp_path / "a.zip")).warnings
    assert warning == "dataset.json has keys that are not used: 'camera_angle'"
