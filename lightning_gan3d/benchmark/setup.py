"""What a measurement was taken on: device, versions, threads, command."""

import platform
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch

import lightning_gan3d
from lightning_gan3d.devices import device_name
from lightning_gan3d.metric import Metric


@dataclass(frozen=True)
class Setup:
    """Enough to repeat a measurement, and to know with which others it may be compared."""

    device: str
    """Name of the processor or GPU."""
    threads: int
    """CPU threads of torch."""
    versions: str
    """Of Python and the packages that do the work."""
    command: str
    """The command line."""

    def measure(self, quick: bool, layers: str) -> Metric:
        """Return the row that heads a benchmark; `layers` says what computes these."""
        rhythm = "quick: few repeats" if quick else "full number of repeats"
        note = (
            f"{self.device}; {self.versions}; fp32 inference; layers: {layers}; {rhythm}; "
            f"command: {self.command}"
        )
        return Metric.of_key("speed.threads", float(self.threads), "count", 1, note=note)


def current(device: torch.device, command: Sequence[str]) -> Setup:
    """Describe this process."""
    versions = (
        f"lightning_gan3d {lightning_gan3d.__version__}, torch {torch.__version__}, "
        f"lightning {lightning.__version__}, Python {platform.python_version()}"
    )
    return Setup(
        device_name(device),
        torch.get_num_threads(),
        versions,
        shlex.join([Path(command[0]).name, *command[1:]]) if command else "called from Python",
    )


@contextmanager
def cpu_threads(num: int | None) -> Iterator[None]:
    """Run with this many CPU threads, as the run's configuration says; None leaves torch's own."""
    before = torch.get_num_threads()
    if num is not None:
        torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)
