"""Networks as they lie on disk, in our terms, and how they become modules."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_gan3d.cameras import LABEL_DIM
from lightning_gan3d.checkpoints.source import shown
from lightning_gan3d.checkpoints.store import CheckpointError
from lightning_gan3d.experiment import ExperimentConfig
from lightning_gan3d.generator import Generator
from lightning_gan3d.networks.discriminator import Discriminator

Network = Literal["generator", "generator_raw", "discriminator"]
"""The averaged generator, the one that is trained, and the discriminator."""
NAMES: dict[Network, str] = {"generator": "G_ema", "generator_raw": "G", "discriminator": "D"}
"""What papers and EG3D's files call them."""


class Stored(NamedTuple):
    """Networks of one file or folder."""

    path: Path
    config: ExperimentConfig
    resolution: int
    """Of the images."""
    rendering_resolution: int
    """At which the generator renders `image_raw`."""
    tensors: dict[Network, dict[str, Tensor]]
    about: dict[str, Any]
    """Where they come from; `kimg` where that is known, `notes` for whoever loads them."""

    def generator(self, kind: Literal["generator", "generator_raw"]) -> Generator:
        """Build a generator, for evaluation and without gradients."""
        self.check(kind, self.config)
        generator = Generator(self.config.generator, self.resolution)
        generator.rendering_resolution = self.rendering_resolution
        fill(generator, self._tensors(kind))
        return generator

    def discriminator(self) -> Discriminator:
        """Build the discriminator, for evaluation and without gradients."""
        self.check("discriminator", self.config)
        discriminator = Discriminator(self.config.discriminator, self.resolution, LABEL_DIM)
        fill(discriminator, self._tensors("discriminator"))
        return discriminator

    def check(self, kind: Network, config: ExperimentConfig) -> None:
        """Refuse a network that is not one of `config`, before memory is spent on it."""
        tensors, where = self._tensors(kind), f"{self.path} ({NAMES[kind]})"
        with torch.device("meta"):
            network = (
                Discriminator(config.discriminator, self.resolution, LABEL_DIM)
                if kind == "discriminator"
                else Generator(config.generator, self.resolution)
            )
        wanted = network.state_dict()
        faults = [f"{k} is missing" for k in wanted if k not in tensors]
        faults += [f"{shown(k)} is not part of the network" for k in tensors if k not in wanted]
        faults += [
            f"{k} is {tuple(tensors[k].shape)}, not {tuple(v.shape)}"
            for k, v in wanted.items()
            if k in tensors and tensors[k].shape != v.shape
        ]
        if faults:
            more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
            raise CheckpointError(
                f"{where} does not fit its configuration: {'; '.join(faults[:3])}{more}"
            )

    def _tensors(self, kind: Network) -> dict[str, Tensor]:
        if kind not in self.tensors:
            there = ", ".join(NAMES[k] for k in self.tensors) or "no network"
            raise CheckpointError(f"{self.path}: holds no {NAMES[kind]}; it holds {there}")
        return self.tensors[kind]


def fill(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load tensors that were checked, for evaluation and without gradients."""
    network.load_state_dict(tensors)
    network.eval().requires_grad_(False)
