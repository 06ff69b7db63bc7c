"""Does the memory of an evaluation grow with the number of images? Stand-ins at 512x512 pixels.

`python -m benchmarks.evaluation_memory --out FILE` computes the distribution metrics for several
numbers of images, each in its own process, and writes the peak growth of that process. Images are
cheap, and the network is small but as wide as Inception (2048 numbers): the peak is that of the
evaluation itself, i.e. images, features and moments.

Buffers that do not depend on the number of images must be full at the lowest count, or filling them
would look like growth: blocks of 1,024 vectors, subsets of 1,000, and whole-set KID (`WHOLE` images
here) are. Freed memory must return to the system: the allocator would retain about 100 MB, varying
between runs, which hides a slope of bytes per image.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lightning_gan3d.benchmark.memory import resident_peak
from lightning_gan3d.benchmark.speed import Environment
from lightning_gan3d.cameras import Cameras
from lightning_gan3d.images import Images
from lightning_gan3d.metrics.config import DistributionConfig, EvaluationConfig
from lightning_gan3d.metrics.context import EvaluationContext
from lightning_gan3d.metrics.distribution.compare_features import measure_distribution
from lightning_gan3d.metrics.sources import GeneratorSource

RESOLUTION = 512
"""Side of the images."""
Z_DIM = 16
"""Length of a latent."""
WHOLE = 2000
"""Images of each set in KID without subsets: at most the lowest count."""
HELD_OUT = 1024
"""Held-out images: one block."""
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_ARENA_MAX": "1"}
"""Settings of glibc: buffers from 1 MiB return to the system when they are freed."""


class SmoothImages(nn.Module):
    """Stand-in for a generator: 16 squares whose colours depend on the latent."""

    def __init__(self) -> None:
        """Draw the weights."""
        super().__init__()
        self.mix = nn.Parameter(torch.randn(Z_DIM, 48, generator=torch.Generator().manual_seed(1)))

    def views(self, z: Tensor, label: Tensor, cameras: Cameras) -> Images:
        """Return an image for each latent."""
        del label, cameras
        small = (z @ self.mix).tanh().reshape(-1, 3, 4, 4)
        image = interpolate(small, (RESOLUTION, RESOLUTION), mode="nearest")
        return Images(image, image)


class SmoothSet:
    """Stand-in for a data set of any size: image i is drawn when it is read."""

    def __init__(self, num: int, seed: int) -> None:
        """Give all images the frontal camera."""
        self.labels = Cameras.orbit(1).to_label().repeat(num, 1)
        self.resolution, self.fingerprint, self._seed = RESOLUTION, f"smooth-{num}-{seed}", seed

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels)

    def images(self, indices: Tensor) -> UInt8[Tensor, "n 3 h w"]:
        """Draw images by their indices."""
        drawn = [
            torch.rand(
                3, 4, 4, generator=torch.Generator().manual_seed(self._seed * 10**6 + int(i))
            )
            for i in indices
        ]
        small = (torch.stack(drawn) * 255).to(torch.uint8)
        return interpolate(small, (RESOLUTION, RESOLUTION), mode="nearest")


class WideNetwork(nn.Module):
    """Stand-in for Inception: 2048 numbers of the image's cells."""

    def __init__(self) -> None:
        """Draw the weights."""
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(8), nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Flatten()
        )
        self.output = nn.Linear(2048, 1008)

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        """Return features, or class probabilities."""
        features: Tensor = self.layers(img)
        return features if return_features else self.output(features).softmax(dim=1)


def peak_of(num: int, batch: int = 32) -> int:
    """Return the peak growth of this process in bytes, in an evaluation of `num` images."""
    labels: Float[Tensor, "n 25"] = Cameras.orbit(1).to_label()
    source = GeneratorSource(SmoothImages(), Z_DIM, labels)
    sizes = iter((2 * batch, num))  # the first call only loads code and weights
    # This mode resizes inside the network: Pillow would take most of the time.
    cfg = DistributionConfig(mode="legacy_tensorflow", kid_subsets=10, kid_whole=WHOLE)

    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder) / "network.pt"
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            scripted: Any = torch.jit.script(WideNetwork().eval())  # type: ignore[no-untyped-call]  # torch's
            scripted.save(str(network))

        def work() -> object:
            n = next(sizes)
            context = EvaluationContext(
                source,
                SmoothSet(n, 1),
                SmoothSet(min(n, HELD_OUT), 2),
                EvaluationConfig(num_images=n, batch=batch, distribution=cfg),
                weights={"inception": network},
            )
            return measure_distribution(context)

        return resident_peak(work)


def measure(counts: Sequence[int], command: Sequence[str]) -> dict[str, object]:
    """Measure each count in a process of its own."""
    peaks = {}
    for num in counts:
        line = [sys.executable, "-m", __spec__.name, "--one", str(num)]
        environment = {**os.environ, **ALLOCATOR}
        done = subprocess.run(line, capture_output=True, text=True, check=True, env=environment)
        peaks[num] = int(done.stdout.split()[-1])
    (few, least), (many, most) = min(peaks.items()), max(peaks.items())
    return {
        "what": f"peak growth of resident memory in all distribution measures, {RESOLUTION}x"
        f"{RESOLUTION} pixels, as many training images as generated ones, {HELD_OUT} held-out "
        f"ones; stand-ins of generator and network; KID without subsets of {WHOLE} images of each "
        "set; mapped files count while they are mapped",
        "allocator": ALLOCATOR,
        "setup": asdict(Environment.current(torch.device("cpu"), command)),
        "peak_mb": {str(num): round(peak / 1e6, 1) for num, peak in peaks.items()},
        "growth_kb_per_image": round((most - least) / (many - few) / 1e3, 2),
    }


def main() -> None:
    """Measure and write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[2000, 4000, 8000])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", type=int, help="measure this count here, and print bytes")
    chosen = parser.parse_args()
    if chosen.one is not None:
        print(peak_of(chosen.one))
        return
    text = json.dumps(measure(chosen.counts, sys.argv), indent=1)
    print(text)
    if chosen.out is not None:
        chosen.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
