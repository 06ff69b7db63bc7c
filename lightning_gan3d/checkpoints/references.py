"""References to networks that are not paths: `pretrained:NAME` and `hf://ORG/NAME`."""

import re
from pathlib import Path

from lightning_gan3d.checkpoints.store import CheckpointError
from lightning_gan3d.runs import CONFIG

PRETRAINED = Path(__file__).parent.parent / "pretrained"
"""Generators that the package contains, one folder each."""
_HUB = re.compile(
    r"hf:/+(?P<repo>[\w.-]+/[\w.-]+)(?P<file>(?:/[\w.-]+)*)(?:@(?P<revision>[\w./-]+))?"
)
_FILES = ["*.safetensors", "*.yaml", "*.json"]
"""What is downloaded of a folder: tensors and text, nothing that can hold code."""


def resolve(reference: str | Path) -> Path:
    """Return the path of a network; download it if it is on the Hugging Face Hub.

    `pretrained:triplane` is a generator of this package. `hf://org/name` is an exported folder in a
    repository of the Hub, `hf://org/name/folder@revision` a folder in it at a branch, tag or
    commit, and `hf://org/name/file.pkl` an NVIDIA pickle. `triplane/latest` is the newest run of
    `triplane` or `runs/triplane`. Everything else is a path.
    """
    text = str(reference)
    if text.startswith("pretrained:"):
        return _pretrained(text.removeprefix("pretrained:"))
    if text.startswith("hf:"):
        return _download(text)
    return local_path(reference)


def pretrained_names() -> list[str]:
    """Names of the generators that the package contains."""
    return sorted(path.parent.name for path in PRETRAINED.glob("*/generator.safetensors"))


def name_of(reference: str | Path) -> str:
    """Return a file name for a reference: `pretrained:triplane` becomes `triplane`."""
    path = Path(str(reference).replace(":", "/"))
    name = (path.parent if path.name == "latest" else path).name.removesuffix(".pkl")
    return re.sub(r"[^\w.-]+", "-", name)


def local_path(reference: str | Path) -> Path:
    """Return a path; for `NAME/latest`, the run of NAME that was started or continued last."""
    path = Path(reference)
    if path.name != "latest" or path.exists():
        return path
    folders = [path.parent, "runs" / path.parent]
    runs = [config.parent for folder in folders for config in folder.glob(f"*/{CONFIG}")]
    if not runs:
        raise CheckpointError(f"{path}: no run in {' or '.join(map(str, folders))}")
    return max(runs, key=lambda run: (run / CONFIG).stat().st_mtime)


def _pretrained(name: str) -> Path:
    if name not in pretrained_names():
        raise CheckpointError(f"pretrained:{name}: use one of {', '.join(pretrained_names())}")
    return PRETRAINED / name


def _download(text: str) -> Path:
    match = _HUB.fullmatch(text)
    if match is None:
        raise CheckpointError(f"{text}: use hf://org/name, or hf://org/name/folder@revision")
    try:
        import huggingface_hub
    except ImportError:
        raise CheckpointError(
            f"{text}: huggingface_hub is missing; pip install 'lightning-gan3d[hub]'"
        ) from None
    repository, inside, revision = match["repo"], match["file"].strip("/"), match["revision"]
    try:
        if inside.endswith(".pkl"):
            return Path(huggingface_hub.hf_hub_download(repository, inside, revision=revision))
        patterns = [f"{inside}/{pattern}" if inside else pattern for pattern in _FILES]
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=patterns
        )
    except Exception as error:  # the errors of the Hub share no other base class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{text}: cannot be downloaded: {reason}") from None
    return Path(folder) / inside
