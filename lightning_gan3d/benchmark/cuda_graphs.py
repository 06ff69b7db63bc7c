"""CUDA graphs: image generation at fixed sizes, recorded once and replayed.

At batch 1 a GPU finishes the many small kernels of a generator faster than the host launches them.
A graph launches all at once. It repeats the recorded kernels, not Python's decisions: sizes,
settings and the renderer's path are fixed; weights and inputs are read anew.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
import torch.utils._pytree as pytree
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import UserError
from lightning_gan3d.contract import Scene
from lightning_gan3d.generator import Generator
from lightning_gan3d.images import Images

Result = TypeVar("Result")
WARM_UP = 3
"""Calls before recording: they compile kernels, fill caches and autotune."""


class GraphError(UserError):
    """Inputs that a graph cannot be recorded with, or replayed on."""


class Recorded(Generic[Result]):
    """A function of tensors (in tuples, named tuples or scenes), recorded for their shapes.

    A call copies its inputs into the recorded ones, replays the graph and returns copies of its
    outputs, without gradient. Other tensors that the function uses (weights, a cached scene) may
    change in place, but not be replaced. Raises `GraphError` if inputs are not on a CUDA device or
    differ from the recorded ones in structure, shape, dtype or device.
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
                f"the graph was recorded for inputs {self._structure}, not {structure}: record anew"
            )
        for i, (new, old) in enumerate(zip(leaves, self._inputs, strict=True)):
            if (new.shape, new.dtype, new.device) != (old.shape, old.dtype, old.device):
                raise GraphError(
                    f"input {i} of the graph is {_describe(new)}, recorded was {_describe(old)}: "
                    "record anew, or call the generator itself"
                )
        with torch.no_grad():
            for new, old in zip(leaves, self._inputs, strict=True):
                old.copy_(new)
            self._replay()
            result: Result = pytree.tree_map(
                lambda x: x.clone() if isinstance(x, Tensor) else x, self._outputs
            )
        return result


def record_forward(
    generator: Generator,
    z: Float[Tensor, "b z_dim"],
    label: Float[Tensor, "b 25"],
    cameras: Cameras | None = None,
    **options: Any,
) -> Recorded[Images]:
    """Record `generator(z, label, cameras, **options)` as a function of z, label and cameras.

    Without `cameras` it is a function of `z` and `label`.
    """
    if options.get("draws") is not None:
        raise GraphError("a graph would repeat the recorded draws: leave draws out")
    inputs = (z, label) if cameras is None else (z, label, cameras)
    return Recorded(lambda *args: generator(*args, **options), *inputs)


def record_view(
    generator: Generator,
    scene: Scene,
    ws: Float[Tensor, "b num_ws w_dim"],
    cameras: Cameras,
    resolution: int | None = None,
) -> Recorded[Images]:
    """Record the rendering of a cached scene as a function of the cameras."""
    return Recorded(lambda cameras: generator.render(scene, ws, cameras, resolution), cameras)


def _check_devices(leaves: list[Any]) -> None:
    for i, x in enumerate(leaves):
        if not isinstance(x, Tensor) or x.device.type != "cuda":
            value = _describe(x) if isinstance(x, Tensor) else repr(x)
            raise GraphError(
                f"input {i} of the graph is {value}: CUDA graphs read tensors on a CUDA device; "
                "move it there, or call the generator itself"
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
