"""Files of edit directions, and the option `edits` that applies them.

A direction is a tensor (num_ws, w_dim); strength 1 is one standard deviation of the generator's
styles along it.
"""

import math
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_gan3d.config import ConfigError
from lightning_gan3d.files import atomic_path
from lightning_gan3d.generator import Generator

Directions = dict[str, Float[Tensor, "num_ws w_dim"]]


def save(path: Path, directions: Directions) -> None:
    """Write directions as safetensors, in their order."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in directions.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"order": "\n".join(directions)})


def read(path: Path) -> Directions:
    """Read a file of directions."""
    try:
        with safe_open(path, framework="pt") as file:
            names = (file.metadata() or {}).get("order", "").split("\n")
            return {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"edits={path}: not a file of directions: {error}") from None


def parse_edits(text: str) -> tuple[Path, dict[str, float]]:
    """Parse `FILE:pc1=2,pc3=-1` into the file and the strengths, in standard deviations."""
    name, _, terms = text.rpartition(":")
    try:
        pairs = [term.split("=") for term in terms.split(",")]
        strengths = {key.strip(): float(value) for key, value in pairs}
    except ValueError:
        strengths = {}
    if not name or not strengths or not all(map(math.isfinite, strengths.values())):
        raise ConfigError(f"edits={text}: use FILE:NAME=STRENGTH,...", field="edits")
    return Path(name), strengths


def sum_edits(text: str, generator: Generator) -> Float[Tensor, "num_ws w_dim"]:
    """Sum the directions that the option `edits` names."""
    file, strengths = parse_edits(text)
    directions = read(file)
    total = torch.zeros(generator.representation.num_ws, generator.cfg.w_dim)
    for name, strength in strengths.items():
        if name not in directions:
            raise ConfigError(f"edits={text}: {name}; use any of {', '.join(directions)}")
        if directions[name].shape != total.shape:
            raise ConfigError(
                f"edits={text}: made for another generator: {tuple(directions[name].shape)}, not "
                f"{tuple(total.shape)}"
            )
        total += strength * directions[name]
    return total.to(generator.mapping.w_avg.device)
