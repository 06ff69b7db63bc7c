"""CUDA graphs: image generation at fixed sizes, recorded once and replayed.

At batch 1 a GPU finishes the many small kernels of a generator faster than the host launches them.
A graph launches all at once. It replays recorded kernels, not Python's decisions: sizes, settings
and the renderer's path are fixed; weights and inputs may change.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from lightning_gan3d.config import UserError

Result = TypeVar("Result")
WARM_UP = 3
"""Calls before recording: they compile kernels, fill caches and autotune."""


class GraphError(UserError):
    """Inputs that cannot be recorded, or that differ from the recorded ones."""


class Recorded(Generic[Result]):
    """A function of tensors (in tuples, named tuples or scenes), recorded for their shapes.

    E.g. `Recorded(generator, z, label, cameras)`, without draws: a graph would repeat them. A call
    copies its inputs into the recorded ones, replays the graph and returns copies of its outputs,
    without gradient. Other tensors that the function uses (weights, a cached scene) may change in
    place, but not be replaced. Raises `GraphError` if inputs are not on a CUDA device or differ
    from the recorded ones in structure, shape, dtype or device.
    """

    def __init__(self, function: Callable[..., Result], *inputs: Any) -> None:
        """Call `function(*inputs)` a few times and record it."""
        self._function = function  # a replay uses addresses: keep tensors of the closure alive
        leaves, self._structure = pytree.tree_flatten(inputs)
        _check_devices(leaves)
        self._inputs = [x.detach().clone() for x in leaves]
        recorded = pytree.tree_unflatten(self._inputs, self._structure)
        with torch.no_grad():
            self._outputs, self._replay = _record(lambda: function(*recorded), leaves[0].device)

    def __call__(self, *inputs: Any) -> Result:
        """Return `function(*inputs)`."""
        leaves, structure = pytree.tree_flatten(inputs)
        if structure != self._structure:
            raise GraphError(
                f"the graph was recorded for inputs {self._structure}, not {structure}: record it "
                "for these"
            )
        for i, (new, old) in enumerate(zip(leaves, self._inputs, strict=True)):
            if (new.shape, new.dtype, new.device) != (old.shape, old.dtype, old.device):
                raise GraphError(
                    f"input {i} of the graph is {_describe(new)}, recorded was {_describe(old)}: "
                    "record it for this input, or call the function itself"
                )
        with torch.no_grad():
            for new, old in zip(leaves, self._inputs, strict=True):
                old.copy_(new)
            self._replay()
            result: Result = pytree.tree_map(
                lambda x: x.clone() if isinstance(x, Tensor) else x, self._outputs
            )
        return result


def _check_devices(leaves: list[Any]) -> None:
    for i, x in enumerate(leaves):
        if not isinstance(x, Tensor) or x.device.type != "cuda":
            value = _describe(x) if isinstance(x, Tensor) else repr(x)
            raise GraphError(
                f"input {i} of the graph is {value}: CUDA graphs read tensors on a CUDA device; "
                "move it there, or call the function itself"
            )


def _describe(x: Tensor) -> str:
    return f"{x.dtype} {tuple(x.shape)} on {x.device}"


def _record(
    function: Callable[[], Result], device: torch.device
) -> tuple[Result, Callable[[], None]]:
    """Warm up on a side stream, as recording requires, and record."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = function()
    return outputs, graph.replay
