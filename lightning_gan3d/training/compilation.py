"""Compiled leaf networks: convolutions and products, never scenes, never what is penalised."""

from typing import Any

import torch
import torch._dynamo
from torch import nn

from lightning_gan3d.draws import Draws
from lightning_gan3d.networks.mapping import Mapping
from lightning_gan3d.networks.superresolution import SuperResolution
from lightning_gan3d.networks.synthesis import Synthesis2d
from lightning_gan3d.networks.synthesis3d import Synthesis3d

_LEAVES = (Mapping, Synthesis2d, Synthesis3d, SuperResolution)
"""The core's networks; a plug-in marks one of its own by `compiles = True`."""
_UNTRACED = ("scope", "at", "generator", "uniform", "normal", "integers")
_GRAPHS = 256
"""Graphs of one piece of code: each block of a network is one, with and without gradient."""


def compile_leaves(network: nn.Module, backend: str = "inductor") -> None:
    """Compile the leaf networks in place; names of parameters stay as they are.

    Draws stay outside the graphs: traced, the key of every step would be a constant of a new graph.
    """
    torch._dynamo.config.recompile_limit = _GRAPHS
    for name in _UNTRACED:
        method = getattr(Draws, name)
        if not getattr(method, "_torchdynamo_disable", False):
            untraced: Any = torch.compiler.disable(method)  # type: ignore[no-untyped-call]  # torch
            setattr(Draws, name, untraced)
    for part in network.modules():
        if isinstance(part, _LEAVES) or getattr(part, "compiles", False):
            part.compile(backend=backend)
