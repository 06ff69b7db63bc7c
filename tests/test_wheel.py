"""The wheel holds the packages with their data and nothing else; the sdist holds the clone."""

import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import pytest

from lightning_gan3d.version import __version__

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("experiments", "lightning_gan3d", "renderers", "representations")
DIST_INFO = f"lightning_gan3d-{__version__}.dist-info"
LEFT_OUT = (".gitignore", ".github/")  # of the sdist: these serve a clone only

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="lists a clone with git")


def build(kind: str, source: Path, out: Path) -> Path:
    """Build a `wheel` or an `sdist` as a frontend without build isolation, and return its path."""
    code = f"import sys; from setuptools import build_meta as b; b.build_{kind}(sys.argv[1])"
    command = [sys.executable, "-c", code, str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (archive,) = out.iterdir()
    return archive


@pytest.fixture(scope="module")
def sources() -> set[str]:
    """Return the files of the clone that git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def sdist(sources: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist in a copy, so that nothing is written into the clone, and unpack it."""
    folder = tmp_path_factory.mktemp("packaging")
    for name in sources:
        (folder / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / "clone" / name)
    for name in ("examples/data/synth32.zip", "examples/plugin/cp_field.egg-info/PKG-INFO"):
        (folder / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "clone" / name).touch()  # as the notebook and a local installation leave them
    with tarfile.open(build("sdist", folder / "clone", folder / "sdist")) as archive:
        archive.extractall(folder, filter="data")
    return folder / f"lightning_gan3d-{__version__}"


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build the wheel from the sdist, as `uv build` does."""
    return zipfile.ZipFile(build("wheel", sdist, tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return email.message_from_bytes(wheel.read(f"{DIST_INFO}/METADATA"))


def test_the_sdist_holds_the_clone(sdist, sources):
    packed = {p.relative_to(sdist).as_posix() for p in sdist.rglob("*") if p.is_file()}
    assert {name for name in sources - packed if not name.startswith(LEFT_OUT)} == set()
    built = ("PKG-INFO", "setup.cfg", "lightning_gan3d.egg-info/")
    assert {name for name in packed - sources if not name.startswith(built)} == set()


def test_the_wheel_holds_the_packages_and_nothing_else(wheel, sources):
    expected = {name for name in sources if name.partition("/")[0] in PACKAGES}
    packed = {n for n in wheel.namelist() if not n.startswith(DIST_INFO)}
    assert packed == expected
    for name in (
        "lightning_gan3d/py.typed",
        "lightning_gan3d/report/templates/report.html",
        "lightning_gan3d/pretrained/triplane/generator.safetensors",
        "experiments/base.yaml",
    ):
        assert name in packed
    assert f"{DIST_INFO}/licenses/LICENSE" in wheel.namelist()


def test_the_metadata_describes_the_package(metadata):
    assert metadata["Name"] == "lightning-gan3d"
    assert metadata["Version"] == __version__
    assert "3D-aware" in metadata["Summary"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "The lightning_gan3d developers" in metadata["Author"]
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    for url in metadata.get_all("Project-URL", []):
        assert re.fullmatch(r"[\w ]+, https://\S+", url)


def test_the_long_description_needs_no_clone(metadata):
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = metadata.get_payload()
    assert text.startswith("# lightning_gan3d")
    targets = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)", text)
    assert [t for t in targets if not t.startswith(("https://", "#"))] == []


def test_the_version_of_the_citation_is_that_of_the_package():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
