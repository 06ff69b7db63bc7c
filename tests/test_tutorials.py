"""The tutorials work as written: every block runs, in order, in a temporary directory.

`gan3d` and `pytest` run in this process, which saves the start of torch; other commands by bash.
"""

import re
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from glob import glob
from pathlib import Path
from types import SimpleNamespace

import pytest

from lightning_gan3d import cli
from lightning_gan3d.sweep.task import Task

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs/tutorials").glob("*.md"))


def gan3d(arguments):
    """Run the command line; return the exit code."""
    try:
        cli.main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def start_task(_, folder, run, *_others):
    """Run a task of a sweep in this process, as `Task.start` does in another."""
    file = folder.log(run)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream, redirect_stdout(stream), redirect_stderr(stream):
        code = gan3d(["train", str(folder.config(run)), "--root", str(run.path.parent.parent)])
    return Task(folder, run, SimpleNamespace(poll=lambda: code, returncode=code), file, 0)


def run_command(line):
    """Run one line of a shell block; pytest sees nothing of the tests around it."""
    program, *arguments = shlex.split(line, comments=True) or ["true"]
    if program == "gan3d":
        code = gan3d([file for a in arguments for file in sorted(glob(a)) or [a]])
    elif program == "pytest":
        code = pytest.main(["-q", "-p", "no:cacheprovider", *arguments])
    else:
        code = subprocess.run(["bash", "-ec", line], check=False).returncode
    assert code == 0, line


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """Set PATH and the target of pip, so that an installation leaves the environment alone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(Task, "start", classmethod(start_task))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    monkeypatch.setenv("PIP_TARGET", str(site))
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_runs(page):
    blocks = re.findall(r"```(sh|python|yaml)\n(.*?)```", page.read_text(), re.DOTALL)
    names: dict = {}
    for language, text in blocks:
        if language == "sh":
            for line in text.replace("\\\n", "").splitlines():
                run_command(line)
        elif language == "python":
            exec(compile(text, page.name, "exec"), names)
        else:
            file = re.match(r"# (\S+\.yaml)\n", text)
            assert file is not None, f"name the file in the first line: {text}"
            Path(file.group(1)).write_text(text)
