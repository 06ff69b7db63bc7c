"""Every test that docs/reliability.md names exists, and every row names one."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")


def missing(page):
    """Return the names of tests in a page that do not exist."""
    names = set(re.findall(r"`(tests/[^`]+)`", page))
    functions = {}
    for file in {name.partition("::")[0] for name in names}:
        path = ROOT / file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        functions[file] = {n.name for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)}
    return sorted(n for n in names if n.partition("::")[2] not in functions[n.partition("::")[0]])


def rows():
    """Return the cells of all rows of tables, without their headings."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    cells = [[c.strip() for c in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if row[-1].strip("| ") != "test"]


def test_every_named_test_exists():
    assert not missing(PAGE)


def test_every_row_names_a_test():
    assert len(rows()) > 60
    assert not [row for row in rows() if len(row) != 3 or "::test_" not in row[2]]


@pytest.mark.parametrize(
    "name", ["tests/test_images.py::test_renamed", "tests/gone.py::test_a", "tests/test_images.py"]
)
def test_a_name_without_a_test_is_detected(name):
    assert missing(f"`{name}` `tests/test_images.py::test_uint8_round_trip_is_exact`") == [name]
