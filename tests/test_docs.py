"""The documentation builds without warnings, and its API reference is complete."""

import dataclasses
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from lightning_gan3d import _MODULES
from lightning_gan3d.experiment import ExperimentConfig
from lightning_gan3d.training.terms import LOSS_TERMS
from renderers import RENDERERS
from renderers.image_heads import HEADS
from representations import REPRESENTATIONS

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    build = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert build.returncode == 0, build.stderr
    return out


@pytest.fixture(scope="module")
def anchors(site):
    pages = [page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html")]
    return set(re.findall(r'id="([\w.]+)"', "".join(pages)))


def text_of(page):
    html = page.read_text(encoding="utf-8")
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html))


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("contract", "Base class of scenes: frozen dataclasses of tensors batched over b"),
        ("contract", "density(points: Float[Tensor, 'b n 3']) -> Float[Tensor, 'b n 1']"),
        ("cameras", "Azimuth 0 is the frontal camera on +z and grows toward +x."),
        ("configuration", "samples_coarse: Count = 48 Stratified samples per ray."),
        ("generator", "the pickle asks for code; nothing was executed (exit 3)."),
    ],
)
def test_the_reference_shows_signatures_and_docstrings(site, page, text):
    assert text in text_of(site / f"api/{page}.html").replace("&#39;", "'").replace("&gt;", ">")


def test_public_names_are_in_the_reference(anchors):
    public = {f"lightning_gan3d.{module}.{name}" for name, module in _MODULES.items()}
    assert public <= anchors


def dataclasses_in(kind):
    """Yield a dataclass and those in the types of its fields."""
    if dataclasses.is_dataclass(kind):
        yield kind
        for hint in typing.get_type_hints(kind).values():
            yield from dataclasses_in(hint)
    for part in typing.get_args(kind):
        yield from dataclasses_in(part)


def test_fields_of_the_configuration_are_in_the_reference(anchors):
    plugins = (
        *REPRESENTATIONS.values(),
        *RENDERERS.values(),
        *HEADS.values(),
        *LOSS_TERMS.values(),
    )
    kinds = [config for config, _ in plugins]
    missing = {
        f"{base.__module__}.{base.__qualname__}.{field}"
        for kind in (ExperimentConfig, *kinds)
        for config in dataclasses_in(kind)
        for base in config.__mro__[:-1]
        for field in base.__annotations__
    } - anchors
    assert not missing
