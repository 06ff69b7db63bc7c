"""What do sums of gradients cost? Buckets within the backward pass, one message after it, none.

`python -m benchmarks.gradient_buckets --out FILE` trains a 2D generator and its discriminator with
the widths of EG3D at 32x32 pixels. Steps of both variants are interleaved in pairs on the same
batch; their order alternates. Steps have no R1, except for the first warm-up. CPU time is that of
rank 0: other programs on the machine change it less than the time.

- One process: `GradientBuckets` against a stand-in that does nothing.
- Two processes on this machine (gloo, one thread each): buckets against one message.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lightning_gan3d.benchmark.speed import Environment, quartiles
from lightning_gan3d.data.synthetic.synth import SynthConfig, make_synth
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.metrics.process_group import joined, rank, world_size
from lightning_gan3d.training import distributed
from lightning_gan3d.training.distributed import GradientBuckets
from lightning_gan3d.training.module import make_modules
from lightning_gan3d.training.processes import Ranks, run_processes

RESOLUTION = 32
WARMUP = 2
EXPERIMENT = Path(__file__).parent.parent / "experiments/image2d.yaml"


class NoSums:
    """Stand-in without sums, hooks or checks."""

    seconds = 0.0

    @contextmanager
    def sending(self, phase: str, last: bool) -> Iterator[None]:
        """Do nothing."""
        del phase, last
        yield

    def finish(self, *_: Any) -> None:
        """Do nothing."""


class Timed(GradientBuckets):
    """Buckets of at least `size` bytes, which measure how long `finish` takes."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], size: float) -> None:
        super().__init__(parameters)
        self.size, self.seconds = size, 0.0

    def finish(self, *arguments: Any) -> None:
        """Send the other gradients, and wait for all."""
        distributed.BUCKET_BYTES, start = self.size, time.perf_counter()
        super().finish(*arguments)
        self.seconds += time.perf_counter() - start


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles, rounded."""
    return {name: round(x, 4) for name, x in quartiles(values)._asdict().items()}


def time_steps(folder: Path, microbatch: int, pairs: int) -> int:
    """Time pairs of steps in all processes; rank 0 writes the result."""
    torch.set_num_threads(1)
    width = "{channel_base: 32768, channel_max: 512}"
    ranks = world_size()
    overrides = [
        *(f"data.path={folder}/data.zip", f"training.batch={microbatch * ranks}"),
        *(f"training.microbatch={microbatch}", "training.precision=fp32"),
        *(f"data.resolution={RESOLUTION}", "loss.r1_interval=1000"),
        *(f"discriminator={width}", f"generator.representation.synthesis={width}"),
    ]
    module, data = make_modules(load_experiment(EXPERIMENT, overrides))
    parameters = [*module.generator.parameters(), *module.discriminator.parameters()]
    after: Any = NoSums() if ranks == 1 else Timed(parameters, float("inf"))
    variants = (Timed(parameters, distributed.BUCKET_BYTES), after)
    seconds: list[list[float]] = [[], []]
    cpu: list[list[float]] = [[], []]
    waits: list[list[float]] = [[], []]
    for batch in islice(data.train_dataloader(rank(), ranks), WARMUP + pairs):
        for i in (0, 1) if batch.step % 2 else (1, 0):
            module.buckets, variants[i].seconds = variants[i], 0.0
            if ranks > 1:
                dist.barrier()
            start, cpu_start = time.perf_counter(), time.process_time()
            module.training_step(batch, 0)
            if batch.step >= WARMUP:
                seconds[i].append(time.perf_counter() - start)
                cpu[i].append(time.process_time() - cpu_start)
                waits[i].append(variants[i].seconds)
    if rank() == 0:
        sizes = (module.generator, module.discriminator)
        result = {
            "processes": ranks,
            "load": os.getloadavg()[0],
            "images_per_process": microbatch,
            "gradient_mb": [sum(p.nbytes for p in x.parameters()) / 1e6 for x in sizes],
            "pairs": pairs,
            "ratio_of_step_times": spread([a / b for a, b in zip(*seconds, strict=True)]),
            "ratio_of_cpu_times": spread([a / b for a, b in zip(*cpu, strict=True)]),
            "step_s": [spread(values) for values in seconds],
            "finish_s": [spread(values) for values in waits],
            "variants": ["buckets", "no sums" if ranks == 1 else "one message"],
        }
        (folder / f"{ranks}.json").write_text(json.dumps(result))
    return 0


def in_group(*arguments: Any) -> int:
    """Time the steps of one of several processes."""
    with joined("cpu"):
        return time_steps(*arguments)


def main() -> None:
    """Measure and write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--microbatch", type=int, default=1, help="images per process")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_synth(
            SynthConfig(num_images=64, num_objects=64, resolution=RESOLUTION), folder / "data.zip"
        )
        arguments = (folder, chosen.microbatch, chosen.pairs)
        time_steps(*arguments)
        run_processes(in_group, arguments, Ranks(2))
        results = [json.loads((folder / f"{n}.json").read_text()) for n in (1, 2)]
    setup = asdict(Environment.current(torch.device("cpu"), sys.argv))
    text = json.dumps({"setup": setup, "results": results}, indent=1)
    print(text)
    if chosen.out is not None:
        chosen.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
