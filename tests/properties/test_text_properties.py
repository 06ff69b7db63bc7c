"""Ranges, names of presets, references to networks, and zips."""

import io
import zipfile
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st
from mutations import assert_finite, damaged_bytes, parse, texts

from lightning_gan3d.checkpoints import references
from lightning_gan3d.cli_options import numbers_of
from lightning_gan3d.data.archive import open_source
from lightning_gan3d.errors import UserError
from lightning_gan3d.inference.directions import parse_edits
from lightning_gan3d.inference.model import parse_seeds
from lightning_gan3d.presets import find_file
from lightning_gan3d.ranges import is_folder_name, parse_ranges

BITS = st.sampled_from(
    [
        "1",
        "-",
        ",",
        "10",
        "007",
        " ",
        "99999",
        "100000",
        "9" * 30,
        "+1",
        "_",
        "x",
        "\u0661",
        "\u00b2",
    ]
)
TERMS = st.sampled_from(["f.st", ":", "=", ",", "pc1", "2", "nan", "1e999"])
FILES = {"dataset.json": b'{"labels": []}', "a/b.png": b"png" * 20, "c.png": b""}
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)


@given(st.one_of(texts, st.lists(BITS, max_size=6).map("".join)))
def test_ranges(text):
    numbers = parse(parse_seeds, text)
    if not isinstance(numbers, UserError):
        assert 0 < len(numbers) <= 100_000
        assert len(set(numbers)) == len(numbers)
        assert min(numbers) >= 0
        assert parse_ranges(",".join(map(str, numbers))) == numbers
        again = parse(numbers_of, "--seeds", text)
        assert again == numbers


@given(texts)
@example("a" * 5000)
def test_names(text):
    assert isinstance(parse(find_file, text), Path | UserError)
    parse(references.local_path, text)
    parse(references.resolve, f"pretrained:{text}")
    references.name_of(text)
    if is_folder_name(text):
        assert Path(text).name == text


@given(st.one_of(texts, st.lists(TERMS, max_size=8).map("".join)))
@example("f.st:pc1=nan")
def test_edits(text):
    edits = parse(parse_edits, text)
    if not isinstance(edits, UserError):
        assert_finite(edits[1])


def zipped(compression):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in FILES.items():
            file.writestr(zipfile.ZipInfo(name), data)
        file.comment = b"comment"
    return buffer.getvalue()


ZIPS = [zipped(method) for method in METHODS]
NAMELESS = ZIPS[0][: ZIPS[0].rindex(b"c.png")] + b"\0" + ZIPS[0][ZIPS[0].rindex(b"c.png") + 1 :]


@given(st.sampled_from(ZIPS).flatmap(damaged_bytes))
@example(NAMELESS)
def test_a_zip(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "data.zip"
    path.write_bytes(content)
    source = parse(open_source, path)
    if isinstance(source, UserError):
        return
    assert source.table.num_images <= len(source.names)
    source.digest()
    for name in source.names:
        assert not Path(name).is_absolute()
        assert ".." not in Path(name).parts
        data = parse(source.read, name)
        assert isinstance(data, bytes | UserError)
