"""Time of a call: interleaved repeats with their spread, and replays of CUDA graphs."""

import gc
import platform
import shlex
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import lightning
import torch
import torch.utils._pytree as pytree
from torch import Tensor

import lightning_gan3d
from lightning_gan3d.config import UserError
from lightning_gan3d.devices import device_name
from lightning_gan3d.metric import Metric


@dataclass(frozen=True)
class Protocol:
    """Number of repeats of a timed call."""

    warmup: int
    """Calls before the first timed one, for allocators, autotuning and caches."""
    min_repeats: int
    """Minimum of timed calls, even beyond the budget."""
    max_repeats: int
    """Maximum of timed calls."""
    budget: float
    """Seconds per timed call. When they are spent, no further round starts, except for
    `min_repeats`."""


QUICK = Protocol(warmup=1, min_repeats=3, max_repeats=10, budget=0.4)
"""For a demo."""
FULL = Protocol(warmup=3, min_repeats=10, max_repeats=100, budget=5.0)
"""For numbers to publish."""


class Quartiles(NamedTuple):
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float


def quartiles(values: Sequence[float]) -> Quartiles:
    """Quartiles of one or more values."""
    if len(values) < 2:
        return Quartiles(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(median, low, high)


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated calls, in order."""

    seconds: tuple[float, ...]
    warmup: int = 0
    """Calls before the first timed one."""

    @property
    def median(self) -> float:
        """Median seconds: unlike the mean, robust on a shared machine."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> Quartiles:
        """Median and quartiles in seconds."""
        return quartiles(self.seconds)

    def metric(self, name: str, note: str = "", at: float | None = None) -> Metric:
        """Median in milliseconds; the note gives quartiles, range and warm-up."""
        _, low, high = self.quartiles
        text = (
            f"median of {len(self.seconds)} calls after {self.warmup} of warm-up; "
            f"quartiles {1e3 * low:.3g} to {1e3 * high:.3g} ms, "
            f"range {1e3 * min(self.seconds):.3g} to {1e3 * max(self.seconds):.3g} ms"
        )
        n = len(self.seconds)
        spread = 1e3 * statistics.stdev(self.seconds) if n > 1 else None
        note = f"{note}; {text}" if note else text
        return Metric(name, 1e3 * self.median, "ms", n, spread, note, at=at)


def speed_ratio(slow: Timing, fast: Timing) -> Quartiles:
    """Seconds of `slow` over those of `fast`, round by round."""
    return quartiles([a / b for a, b in zip(slow.seconds, fast.seconds, strict=True)])


def time_rounds(
    calls: Mapping[str, Callable[[], Any]],
    protocol: Protocol,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time calls in alternating rounds, so that noise of the machine affects all equally.

    The device is idle before and after each call.
    """
    for _ in range(protocol.warmup):
        for call in calls.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    begin = clock()
    for done in range(1, protocol.max_repeats + 1):
        for name, call in calls.items():
            synchronise(device)
            start = clock()
            call()
            synchronise(device)
            seconds[name].append(clock() - start)
        if done >= protocol.min_repeats and clock() - begin >= protocol.budget * len(calls):
            break
    return {name: Timing(tuple(times), protocol.warmup) for name, times in seconds.items()}


def time_calls(
    fn: Callable[[], Any],
    protocol: Protocol,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time repeated calls of one function."""
    return time_rounds({"": fn}, protocol, device, clock)[""]


ATTEMPTS = 3
"""Largest number of measurements, if a part takes longer than the whole."""
SLACK = 1.1
"""Largest ratio of the median times of a part and the whole that still counts as noise."""


def time_ordered(
    calls: Mapping[str, Callable[[], Any]],
    parts: Mapping[str, Sequence[str]],
    protocol: Protocol,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Time calls in rounds; repeat that while a part takes longer than the whole.

    `parts`: for each whole, the calls that it contains. Also returns the calls that are not ordered
    after the last attempt, each with the reason.
    """
    for _ in range(ATTEMPTS):
        timings = time_rounds(calls, protocol, device, clock)
        problems = {}
        for whole, names in parts.items():
            for part in (x for x in names if {x, whole} <= set(timings)):
                slow, fast = timings[part].median, timings[whole].median
                if slow > SLACK * fast:
                    problems[part] = problems[whole] = (
                        f"{part} took {1e3 * slow:.3g} ms, and {whole}, which contains it, "
                        f"{1e3 * fast:.3g} ms, in {ATTEMPTS} attempts: use an idle machine"
                    )
        if not problems:
            break
    return timings, problems


def synchronise(device: torch.device) -> None:
    """Wait until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@dataclass(frozen=True)
class Environment:
    """Device, threads, versions and command of a measurement."""

    device: str
    """Name of the processor or GPU."""
    threads: int
    """CPU threads of torch."""
    versions: str
    """Versions of Python and the main packages."""
    command: str
    """Command line."""

    @classmethod
    def current(cls, device: torch.device, command: Sequence[str]) -> "Environment":
        """The environment of this process."""
        versions = (
            f"lightning_gan3d {lightning_gan3d.__version__}, torch {torch.__version__}, "
            f"lightning {lightning.__version__}, Python {platform.python_version()}"
        )
        line = shlex.join([Path(command[0]).name, *command[1:]]) if command else ""
        return cls(
            device_name(device), torch.get_num_threads(), versions, line or "called from Python"
        )

    def metric(self, quick: bool, layers: str) -> Metric:
        """First row of a benchmark; `layers` describes the implementation of the layers."""
        repeats = "quick: few repeats" if quick else "full number of repeats"
        note = (
            f"{self.device}; {self.versions}; fp32 inference; layers: {layers}; {repeats}; "
            f"command: {self.command}"
        )
        return Metric("speed.threads", float(self.threads), "count", 1, note=note)


@contextmanager
def cpu_threads(num: int | None) -> Iterator[None]:
    """Run with `num` CPU threads of torch; None leaves torch's own number."""
    before = torch.get_num_threads()
    if num is not None:
        torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Result = TypeVar("Result")
WARM_UP = 3
"""Calls before recording: they compile kernels, fill caches and autotune."""


class GraphError(UserError):
    """Inputs that cannot be recorded, or that differ from the recorded ones."""


class Recorded(Generic[Result]):
    """A function of tensors (in tuples, named tuples or scenes), recorded for their shapes.

    At batch 1 a GPU finishes the many small kernels of a generator faster than the host launches
    them; a CUDA graph launches all at once.

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
