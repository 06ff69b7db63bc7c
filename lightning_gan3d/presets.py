"""Preset files by name. Imports no torch."""

import difflib
from pathlib import Path
from typing import Literal

from lightning_gan3d.errors import ConfigError


def presets_folder() -> Path:
    """Return the folder of the presets, beside the package in a clone and in an installation."""
    return Path(__file__).parent.parent / "experiments"


def preset_names(group: Literal["runs", "sweeps", "all"] = "all") -> list[str]:
    """List preset names, e.g. `triplane` or `equal/parameters_voxel`.

    `runs` leaves out sweeps and the `base` files that others start from.
    """
    folder = presets_folder()
    names = sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml"))
    if group == "sweeps":
        return [n for n in names if n.startswith("sweeps/")]
    if group == "runs":
        return [n for n in names if not n.startswith("sweeps/") and n.split("/")[-1] != "base"]
    return names


def describe(name: str) -> str:
    """Return the first comment of a preset's file."""
    text = (presets_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    return text.partition("\n")[0].removeprefix("# ")


def complete(beginning: str) -> list[tuple[str, str]]:
    """Presets for the shell's completion, each with its description."""
    names = [n for n in preset_names("runs") if n.startswith(beginning)]
    return [(name, describe(name)) for name in names]


def complete_sweep(beginning: str) -> list[tuple[str, str]]:
    """Sweeps for the shell's completion, each with its description."""
    names = [n.removeprefix("sweeps/") for n in preset_names("sweeps")]
    return [(n, describe(f"sweeps/{n}")) for n in names if n.startswith(beginning)]


def find_file(name: str | Path, folder: Path = Path()) -> Path:
    """Return the path of a YAML file, relative to `folder`, or of a preset."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return folder / path
    if str(name) in preset_names():  # not is_file, which raises for long names
        return presets_folder() / f"{name}.yaml"
    near = difflib.get_close_matches(str(name), preset_names(), n=1)
    hint = f"did you mean `{near[0]}`? " if near else ""
    raise ConfigError(
        f"no preset `{name}`; {hint}`gan3d presets` lists them; the name of a file ends in .yaml"
    )
