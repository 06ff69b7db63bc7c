"""Checkpoints and exports: the index, tensors and state of training, also when resealed."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mutations import damaged_bytes, json_files, mutated, parse

from lightning_gan3d.checkpoints import store
from lightning_gan3d.checkpoints.load import load_generator, orbit_of, read_networks
from lightning_gan3d.checkpoints.references import PRETRAINED
from lightning_gan3d.errors import UserError

SOURCE = PRETRAINED / "nerf_mlp"
INDEX = json.loads((SOURCE / store.INDEX).read_text())
TENSORS = (SOURCE / "generator.safetensors").read_bytes()
OURS = {"format": "lightning_gan3d", "schema": "1"}
HEADER = int.from_bytes(TENSORS[:8], "little")


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return Path(shutil.copytree(SOURCE, tmp_path_factory.mktemp("export") / "copy"))


def restored(export, **changed):
    for path in SOURCE.iterdir():
        (export / path.name).write_bytes(changed.pop(path.stem, None) or path.read_bytes())
    return export


def reseal(export, about):
    (export / store.INDEX).unlink(missing_ok=True)
    store.seal(export, about)


def use(path):
    stored = read_networks(path, ["generator"])
    orbit, source = orbit_of(stored)
    assert isinstance(source, str)
    orbit.cameras(2)
    return load_generator(path)


def check(export):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        generator = parse(use, export)
    if not isinstance(generator, UserError):
        assert generator.resolution > 0


@given(json_files(INDEX))
@example(b'{"schema": 1, "step": 1, "files": [[9223372036854775808, 0]]}')
@example(b'{"schema": 1, "files": {"/dev/zero": {}}}')
@example(b'{"schema": 1, "files": {"a\\u0000b": {}}}')
def test_an_index(export, content):
    restored(export, checkpoint=content)
    check(export)


@given(mutated({k: v for k, v in INDEX.items() if k not in ("schema", "files")}))
@example({"orbit": {"radius": [1.0], "target": [0, 0, 0]}})
@example({"orbit": {"radius": 1.0, "target": [0, 0, 0], "intrinsics": [[1.5, 0.0], [1.0]]}})
@example({"orbit": 7, "cameras": []})
def test_a_resealed_index(export, about):
    restored(export)
    reseal(export, about if isinstance(about, dict) else {"x": about})
    check(export)


def with_header(header):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + TENSORS[8 + HEADER :]


@st.composite
def headers(draw):
    header = json.loads(TENSORS[8 : 8 + HEADER])
    if draw(st.booleans()):
        header["__metadata__"] = draw(mutated(header["__metadata__"]))
    else:
        header = draw(mutated(header))
    return with_header(header)


@given(
    st.one_of(
        headers(), damaged_bytes(TENSORS[: 8 + HEADER]).map(lambda b: b + TENSORS[8 + HEADER :])
    )
)
@example(with_header({**json.loads(TENSORS[8 : 8 + HEADER]), "__metadata__": OURS}))
@example(
    with_header(
        {**json.loads(TENSORS[8 : 8 + HEADER]), "__metadata__": {**OURS, "resolution": "a=b"}}
    )
)
def test_tensors(export, content):
    restored(export, generator=content)
    reseal(export, {"notes": []})
    check(export)
