import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
def test_kernels_agree_with_the_plain_path_in_the_interpreter():
    # Triton decides at import whether it interprets: hence a process of its own.
    pytest.importorskip("triton")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "interpreted_gpu.py"],
        cwd=HERE,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path()},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
    assert "............" in result.stdout  # as many tests as there are


def path() -> str:
    return os.pathsep.join([str(HERE.parent), *filter(None, sys.path)])
