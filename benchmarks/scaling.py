"""Communication of the EG3D preset on many GPUs: calculated, not measured.

`python -m benchmarks.scaling` prints the tables of docs/scaling.md, which states the assumptions.
"""

import math
from pathlib import Path
from typing import NamedTuple

import torch

from lightning_gan3d.cost import num_parameters
from lightning_gan3d.experiment import load_experiment, make_networks
from lightning_gan3d.training.distributed import BUCKET_BYTES

PRESET = Path(__file__).parent.parent / "experiments/eg3d/ffhq512.yaml"
GPUS = (8, 64, 256, 512)
PUBLISHED, GOAL = 0.192, 0.012
"""GPU seconds per image: EG3D on V100; the goal of docs/performance.md for an H100."""


class Link(NamedTuple):
    """Bus bandwidth of an all-reduce, as nccl-tests defines it."""

    name: str
    peak: float
    """GB/s per GPU with large messages."""
    share: float
    """Of the peak with messages of 25 MB."""


NVLINK = Link("NVLink 4, 8 GPUs of a node", 370, 0.5)
NDR = Link("8 NDR (400 Gb/s) per node", 8 * 46, 0.5)
HDR = Link("4 HDR (200 Gb/s) per node", 91, 0.5)
ETHERNET = (Link("25 GbE per node", 2.8, 1), Link("10 GbE per node", 1.1, 1))


class Sent(NamedTuple):
    """Gradients of a phase."""

    phase: str
    interval: int
    num_bytes: int

    @property
    def messages(self) -> int:
        """Full buckets and the rest."""
        return int(self.num_bytes // BUCKET_BYTES) + 1


def phases() -> list[Sent]:
    """Gradients of the preset."""
    config = load_experiment(PRESET, [])
    with torch.device("meta"):
        g, d = make_networks(config, 512)
    field = num_parameters(g.mapping) + num_parameters(g.representation)
    loss = config.loss
    return [
        Sent("G loss", 1, 4 * num_parameters(g)),
        Sent("G density penalty", loss.density_reg_interval, 4 * field),
        Sent("D loss", 1, 4 * num_parameters(d)),
        Sent("D penalty (R1)", loss.r1_interval, 4 * num_parameters(d)),
    ]


def seconds(link: Link, gpus: int, sent: list[Sent]) -> float:
    """Time of the sums of an average step: 2 (n - 1) / n * S / B, and the latency of messages."""
    num_bytes = sum(s.num_bytes / s.interval for s in sent)
    messages = sum(s.messages / s.interval for s in sent)
    latency = 47e-6 / 4 * math.log2(gpus)
    transfer = 2 * (gpus - 1) / gpus * num_bytes / (link.peak * link.share * 1e9)
    return transfer + messages * latency


def tables() -> list[str]:
    """Phases; links; numbers of GPUs, as Markdown."""
    sent = phases()
    of_phases = [
        "| phase | every | gradients (MB) | per step (MB) | messages |",
        "|---|---|---|---|---|",
    ]
    of_phases += [
        f"| {s.phase} | {s.interval} | {s.num_bytes / 1e6:.1f} | "
        f"{s.num_bytes / s.interval / 1e6:.1f} | {s.messages} |"
        for s in sent
    ]
    total = sum(s.num_bytes / s.interval for s in sent) / 1e6
    messages = sum(s.messages / s.interval for s in sent)
    of_phases.append(f"| average step | | | {total:.1f} | {messages:.1f} |")
    of_links = ["| link | GPUs | GB/s assumed | sums per step (ms) |", "|---|---|---|---|"]
    for link, gpus in [(NVLINK, 8), *((x, 64) for x in (NDR, HDR, *ETHERNET))]:
        milliseconds = 1e3 * seconds(link, gpus, sent)
        of_links.append(
            f"| {link.name} | {gpus} | {link.peak * link.share:.3g} | {milliseconds:.3g} |"
        )
    of_gpus = [
        "| GPUs | images per GPU | batch | sums (ms) | share at 192 ms per image | "
        "share at 12 ms | img/s at 12 ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for images in (4, 1):
        for gpus in GPUS:
            time = seconds(NVLINK if gpus <= 8 else NDR, gpus, sent)
            shares = [time / (time + images * x) for x in (PUBLISHED, GOAL)]
            of_gpus.append(
                f"| {gpus} | {images} | {gpus * images:,} | {1e3 * time:.1f} | {shares[0]:.1%} | "
                f"{shares[1]:.1%} | {gpus * images / (time + images * GOAL):,.0f} |"
            )
    return ["\n".join(lines) for lines in (of_phases, of_links, of_gpus)]


if __name__ == "__main__":
    print("\n\n".join(tables()))
