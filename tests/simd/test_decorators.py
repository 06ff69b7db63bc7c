import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

from lightning_gan3d.config import ConfigError
from lightning_gan3d.simd.decorators import cache_folder
from lightning_gan3d.simd.processor import choose_width

KERNEL = """
import numpy as np
from lightning_gan3d.simd import WIDTH, entry, simd
from lightning_gan3d.simd.vector import Int, load, store

@simd
def double(x: Int) -> None:
    store(load(x) + load(x), x)

@entry
def double_all(x: np.ndarray) -> None:
    for i in range(0, x.size, WIDTH):
        double(x.ctypes.data + 4 * i)
"""
MAIN = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, kernel
x = np.ones(32, np.float32)
kernel.double_all(x)
assert (x == 2).all()
print(sum(kernel.double_all.stats.cache_hits.values()), kernel.double_all._cache.cache_path)
"""


def compiled(folder: Path, **env: str) -> tuple[int, Path]:
    """Run the kernel in its own process; return cache hits and the cache folder."""
    (folder / "kernel.py").write_text(KERNEL)
    done = subprocess.run(
        [sys.executable, "-c", MAIN, str(folder)],
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache"), **env},
        capture_output=True,
        text=True,
        check=True,
    )
    hits, path = done.stdout.split(maxsplit=1)
    return int(hits), Path(path.strip())


def test_a_kernel_is_cached_by_width_for_the_next_process(tmp_path):
    hits, path = compiled(tmp_path)
    assert hits == 0
    assert (tmp_path / "cache") in path.parents
    assert compiled(tmp_path) == (1, path)
    hits, other = compiled(tmp_path, GAN3D_SIMD_WIDTH="4")
    assert hits == 0
    assert other != path


def test_a_cache_folder_that_cannot_be_written_is_replaced(tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    blocked = tmp_path / "home"
    blocked.write_text("")
    hits, path = compiled(tmp_path, XDG_CACHE_HOME=str(blocked), TMPDIR=str(tmp_path))
    assert hits == 0
    assert path.is_relative_to(tmp_path)


def test_a_cache_folder_that_others_can_write_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    ours = cache_folder(Path(__file__).parent)
    assert ours.is_relative_to(tmp_path)
    ours.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert cache_folder(Path(__file__).parent).is_relative_to(tmp_path / "home")


def test_the_cache_folder_changes_with_the_sources(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "kernel.py").write_text("a")
    first = cache_folder(tmp_path)
    assert cache_folder(tmp_path) == first
    (tmp_path / "kernel.py").write_text("b")
    assert cache_folder(tmp_path) != first


def test_importing_compiles_nothing():
    code = "import lightning_gan3d.simd as s; assert s.matmul.signatures == []"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_the_error_without_numba_names_the_remedy():
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "try: import lightning_gan3d.simd\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "numba is missing: pip install 'lightning-gan3d[numba]'"


def test_choose_width():
    assert choose_width(None, {"avx512f": True, "avx2": True}) == 16
    assert choose_width("", {"avx2": True}) == 8
    assert choose_width(None, {}) == 4
    assert choose_width("4", {"avx512f": True}) == 4
    with pytest.raises(ConfigError, match="GAN3D_SIMD_WIDTH=12: use 4, 8 or 16"):
        choose_width("12", {})
