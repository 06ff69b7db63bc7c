"""No call of the package can run code from a file that it reads."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEVER = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "torch.hub.load", "eval",
    "exec", "os.system", "yaml.unsafe_load", "yaml.full_load", "yaml.Loader", "yaml.UnsafeLoader",
    "yaml.FullLoader", "Trainer.load_from_checkpoint", "shutil.unpack_archive",
}  # fmt: skip
"""Calls and names that never occur."""
ALLOWED = {"lightning_gan3d/checkpoints/restricted_unpickler.py": {"pickle.Unpickler"}}


def violations(text):
    """Return the unsafe names and calls of a module."""
    nodes = list(ast.walk(ast.parse(text)))
    names = {ast.unparse(n) for n in nodes if isinstance(n, ast.Attribute)}
    calls = [(ast.unparse(n.func), n) for n in nodes if isinstance(n, ast.Call)]
    names |= {name for name, _ in calls}
    for name, call in calls:
        given = {k.arg: ast.unparse(k.value) for k in call.keywords}
        if name == "torch.load" and given.get("weights_only") != "True":
            yield "torch.load without weights_only=True"
        if "allow_pickle" in given and given["allow_pickle"] != "False":
            yield f"{name} with allow_pickle"
        if "shell" in given:
            yield f"{name} with a shell"
        if name.endswith((".load_from_checkpoint", ".extractall")):
            yield name
    yield from names & NEVER


def test_no_file_that_is_read_can_run_code():
    modules = [
        file
        for folder in ("lightning_gan3d", "representations", "renderers")
        for file in sorted((ROOT / folder).rglob("*.py"))
    ]
    assert len(modules) > 100
    for file in modules:
        name = file.relative_to(ROOT).as_posix()
        unsafe = set(violations(file.read_text(encoding="utf-8")))
        assert unsafe == ALLOWED.get(name, set()), name


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)", "torch.load(path, weights_only=False)", "pickle.load(file)",
        "np.load(path, allow_pickle=True)", "yaml.load(text, Loader=yaml.Loader)", "eval(text)",
        "Module.load_from_checkpoint(path)", "archive.extractall(path)", "run(text, shell=True)",
    ],
)  # fmt: skip
def test_an_unsafe_call_is_detected(line):
    assert list(violations(line))
