"""Valid inputs with one or two mutations, and what every parser promises for them."""

import copy
import dataclasses
import json
import math
import resource
import signal
from collections.abc import Callable, Mapping
from typing import Any

import torch
from hypothesis import strategies as st

from lightning_gan3d.errors import UserError

SECONDS, MEGABYTES, CHARACTERS = 5, 200, 500
"""Bounds of a parser: CPU time, which ends a hang, memory, and the length of a message."""


def parse(parser: Callable[..., Any], *arguments: Any) -> Any:
    """Return the value of a parser, or its `UserError`, whose message is one short line."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    old = signal.signal(signal.SIGVTALRM, _hangs)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        value = parser(*arguments)
    except UserError as error:
        text = str(error)
        assert text.isprintable(), f"not one printable line: {text!r}"
        assert 0 < len(text) <= CHARACTERS, f"{len(text)} characters: {text}"
        value = error
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, old)
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert used < MEGABYTES, f"{used:.0f} MB"
    return value


def _hangs(*_: Any) -> None:
    raise AssertionError(f"takes more than {SECONDS} s")


def assert_finite(value: Any) -> None:
    """Check all numbers of a tree of plain values, dataclasses and tensors."""
    if dataclasses.is_dataclass(value):
        value = [getattr(value, f.name) for f in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        value = [*value.values()]
    if isinstance(value, list | tuple):
        for below in value:
            assert_finite(below)
    elif isinstance(value, torch.Tensor):
        assert bool(value.isfinite().all())
    else:
        assert not isinstance(value, float) or math.isfinite(value)


def _nested(depth: int) -> Any:
    leaf: Any = 1
    for _ in range(depth):
        leaf = [leaf]
    return leaf


numbers = st.sampled_from([
    *(0, 1, -1, 2, 7, 255, 2**31, 2**63, -(2**63) - 1, 2**64, 10**40, 10**400, -(10**400)),
    *(0.0, -0.0, 0.5, 1.5, -1e-9, 5e-324, 1e308, -1e308, math.nan, math.inf, -math.inf),
])  # fmt: skip
_long = {"long name": "x" * 300, "long text": "x" * 100_000, "long path": "a" * 5000 + ".yaml"}
texts = st.sampled_from([
    *("", "x", "\0", "a\0b", "\ud800", "\n", "a\nb: c", "\x1b[31m", "é", *_long),
    *("..", "../x", "/", "/dev/null", "~", "a/b", ".hidden", "x.yaml", " x ", "1", "1e3", "0x10"),
    *("1_0", "1:30", "-1", ".5", ".nan", "NaN", "inf", "null", "true", "off", "9" * 50, "1-3"),
    *("${x}", "${data.path}", "${oc.env:HOME}", "${", "$", "%s", "{0}", "*x", "&x", "!x", "#"),
    *("- ", "2020-01-01", "-", ",", "=", "a=b", "done", "auto", "\ufeff"),
]).map(lambda text: _long.get(text, text))  # fmt: skip
scalars = st.one_of(numbers, texts, st.sampled_from([None, True, False]))
odd = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.dictionaries(texts, scalars, max_size=2),
    st.sampled_from([[], {}, [[]], [{}], {"": {}}, {"kind": []}]),
    st.sampled_from([[1, 2, 3], ["a", "b"], [None], [[1.0] * 4] * 4]),
    st.sampled_from([30, 60, 200]).map(_nested),
).map(copy.deepcopy)


def _paths(tree: Any) -> list[tuple[Any, ...]]:
    """List the paths of all values below a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    paths: list[tuple[Any, ...]] = []
    for key, value in items:
        paths.append((key,))
        if isinstance(value, dict | list):
            paths += [(key, *below) for below in _paths(value)]
    return paths


@st.composite
def mutated(draw: st.DrawFn, tree: Any, times: int = 2) -> Any:
    """Return a tree of plain values in which values were deleted, replaced, added or renamed."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, times))):
        paths = _paths(tree) if isinstance(tree, dict | list) else []
        action = draw(st.sampled_from(["replace", "replace", "replace", "delete", "add", "rename"]))
        if not paths or draw(st.integers(0, 30)) == 0:
            tree = draw(odd)
            continue
        *above, key = draw(st.sampled_from(paths))
        parent = tree
        for step in above:
            parent = parent[step]
        value = parent[key]
        if action == "replace":
            parent[key] = draw(odd)
        elif action == "delete":
            del parent[key]
        elif isinstance(parent, list):
            parent.append(draw(odd) if action == "add" else value)
        elif action == "add":
            parent[draw(texts)] = draw(odd)
        else:
            parent[draw(texts)] = parent.pop(key)
    return tree


_DAMAGES = ["flip", "set", "insert", "delete", "repeat", "nest", "cut"]


@st.composite
def damaged_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Return bytes that were cut, flipped, repeated or replaced in a few places."""
    mutant = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        if not mutant:
            break
        at = draw(st.integers(0, len(mutant) - 1))
        match draw(st.sampled_from(_DAMAGES)):
            case "flip":
                mutant[at] ^= 1 << draw(st.integers(0, 7))
            case "set":
                mutant[at] = draw(st.sampled_from(b"\0\xff\x80 \n\"'{}[]:,0-9.eN()tRb"))
            case "insert":
                mutant[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "delete":
                del mutant[at : at + draw(st.integers(1, 16))]
            case "repeat":
                mutant[at:at] = mutant[at : at + draw(st.integers(1, 64))]
            case "nest":
                mutant[at:at] = draw(st.sampled_from([b"[", b'{"a":', b"{", b"- ", b"9"])) * 5000
            case "cut":
                del mutant[at:]
    return bytes(mutant)


@st.composite
def json_files(draw: st.DrawFn, tree: Any) -> bytes:
    """Return a JSON file with a mutated value, or with damaged bytes."""
    if draw(st.booleans()):
        return json.dumps(draw(mutated(tree))).encode()
    return draw(damaged_bytes(json.dumps(tree).encode()))
