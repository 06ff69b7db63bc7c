"""CUDA graphs: the generation of images of fixed size, recorded once and replayed.

At batch 1 a GPU finishes the many small kernels of a generator sooner than a host can launch them.
A graph launches all of them at once. What is recorded is what the kernels do, not what Python
decides: sizes, settings and the path of the renderer stay as they were, weights and inputs are read
anew where they lie.
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
"""Calls before the recording: they compile kernels, fill caches and let libraries choose."""


class GraphError(UserError):
    """Inputs that a graph cannot be recorded with, or replayed on."""


class Recorded(Generic[Result]):
    """A function of tensors (in tuples, named tuples or scenes), recorded for their shapes.

    A call copies its inputs to where the recording reads them, replays it, and returns copies of
    what it wrote. There is no gradient. Tensors that the function holds besides its inputs, such as
    weights or a cached scene, may change in place, but not be replaced. Raises a `GraphError` where
    inputs are not on a CUDA device, or differ from the recorded ones in structure, shape, type or
    device.
    """

    def __init__(self, function: Callable[..., Result], *inputs: Any) -> None:
        """Call `function(*inputs)` a few times and record it; its result holds tensors too."""
        # A graph reads tensors where they lie: what the function holds must outlive the caller's.
        self._function = function
        leaves, self._structure = pytree.tree_flatten(inputs)
        _check_devices(leaves)
        self._inputs = [x.detach().clone() for x in leaves]
        held = pytree.tree_unflatten(self._inputs, self._structure)
        with torch.no_grad():
            self._outputs, self._replay = _record(lambda: function(*held), leaves[0].device)

    def __call__(self, *inputs: Any) -> Result:
        """Do what `function(*inputs)` does."""
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
    """Record `generator(z, label, cameras, **options)`, a function of these three.

    Without `cameras` it is a function of `z` and `label`. With `draws` it would repeat one and the
    same draw: leave them out.
    """
    if options.get("draws") is not None:
        raise GraphError("a graph repeats what was drawn when it was recorded: leave draws out")
    inputs = (z, label) if cameras is None else (z, label, cameras)
    return Recorded(lambda *args: generator(*args, **options), *inputs)


def record_view(
    generator: Generator,
    scene: Scene,
    ws: Float[Tensor, "b num_ws w_dim"],
    cameras: Cameras,
    resolution: int | None = None,
) -> Recorded[Images]:
    """Record the view of a cached scene, a function of the cameras."""
    return Recorded(lambda seen_from: generator.render(scene, ws, seen_from, resolution), cameras)


def _check_devices(leaves: list[Any]) -> None:
    for i, x in enumerate(leaves):
        if not isinstance(x, Tensor) or x.device.type != "cuda":
            what = _describe(x) if isinstance(x, Tensor) else repr(x)
            raise GraphError(
                f"input {i} of the graph is {what}: CUDA graphs read tensors on a CUDA device; "
                "move it there, or call the generator itself"
            )


def _describe(x: Tensor) -> str:
    return f"{x.dtype} {tuple(x.shape)} on {x.device}"


def _record(
    function: Callable[[], Result], device: torch.device
) -> tuple[Result, Callable[[], None]]:
    """Warm up on a stream of its own, as recording demands, and record."""
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
