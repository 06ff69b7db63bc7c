"""Does the memory of an evaluation grow with the number of images? Stand-ins at 512x512 pixels.

`python -m lightning_gan3d.benchmark.evaluation_memory --out FILE` takes all distribution measures
of two numbers of images, each in a process of its own, and writes by how much that process grew at
most. The generator is a few products, the network small but as wide as Inception (2048 numbers),
so that what is measured is the evaluation's own: images, resizing, features, moments, kernels.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lightning_gan3d.benchmark.resident import resident_peak
from lightning_gan3d.benchmark.setup import current
from lightning_gan3d.cameras import Cameras
from lightning_gan3d.contract import Images
from lightning_gan3d.metrics.distribution import measure_distribution
from lightning_gan3d.metrics.distribution_config import DistributionConfig
from lightning_gan3d.metrics.sources import GeneratorSource

RESOLUTION = 512
"""Side of the images."""
Z_DIM = 16
"""Size of a latent."""


class SmoothImages(nn.Module):
    """Stands in for a generator: few numbers of a latent, enlarged to an image."""

    def __init__(self) -> None:
        """Draw the weights."""
        super().__init__()
        self.mix = nn.Parameter(torch.randn(Z_DIM, 48, generator=torch.Generator().manual_seed(1)))

    def views(self, z: Tensor, label: Tensor, cameras: Cameras) -> Images:
        """Return an image for each latent."""
        del label, cameras
        small = (z @ self.mix).tanh().reshape(-1, 3, 4, 4)
        image = interpolate(small, (RESOLUTION, RESOLUTION), mode="bilinear")
        return Images(image, image)


class SmoothSet:
    """Stands in for a data set of any size: image i is drawn when it is read."""

    def __init__(self, num: int, seed: int) -> None:
        """Give all images the frontal camera."""
        self.labels = Cameras.orbit(1).to_label().repeat(num, 1)
        self.resolution, self.fingerprint, self._seed = RESOLUTION, f"smooth-{num}-{seed}", seed

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels)

    def images(self, indices: Tensor) -> UInt8[Tensor, "n 3 h w"]:
        """Draw some images."""
        drawn = [
            torch.rand(
                3, 4, 4, generator=torch.Generator().manual_seed(self._seed * 10**6 + int(i))
            )
            for i in indices
        ]
        image = interpolate(torch.stack(drawn) * 255, (RESOLUTION, RESOLUTION), mode="bilinear")
        return image.to(torch.uint8)


class WideNetwork(nn.Module):
    """Answers Inception's calls with 2048 numbers of the image's cells."""

    def __init__(self) -> None:
        """Draw the weights."""
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.AvgPool2d(37), nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Flatten())
        self.output = nn.Linear(2048, 1008)

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        """Return features, or class probabilities."""
        features: Tensor = self.layers(img)
        return features if return_features else self.output(features).softmax(dim=1)


def peak_of(num: int, batch: int = 32) -> int:
    """Return by how many bytes this process grew in an evaluation of `num` images."""
    labels: Float[Tensor, "n 25"] = Cameras.orbit(1).to_label()
    source = GeneratorSource(SmoothImages(), Z_DIM, labels)
    sizes = iter((2 * batch, num))  # the first only loads what stays

    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder) / "network.pt"
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            torch.jit.script(WideNetwork().eval()).save(str(network))  # type: ignore[no-untyped-call]

        def work() -> object:
            n = next(sizes)
            return measure_distribution(
                source,
                SmoothSet(n, 1),
                SmoothSet(n // 2, 2),
                DistributionConfig(),
                n,
                batch,
                weights={"inception": network},
            )

        return resident_peak(work)


def measure(counts: Sequence[int], command: Sequence[str]) -> dict[str, object]:
    """Measure each count in a process of its own."""
    peaks = {}
    for num in counts:
        line = [sys.executable, "-m", __spec__.name, "--one", str(num)]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        peaks[num] = int(done.stdout.split()[-1])
    (few, least), (many, most) = min(peaks.items()), max(peaks.items())
    return {
        "what": f"peak growth of resident memory in all distribution measures, {RESOLUTION}x"
        f"{RESOLUTION} pixels, as many training images as generated ones, half as many held-out "
        "ones; stand-ins of generator and network",
        "setup": asdict(current(torch.device("cpu"), command)),
        "peak_mb": {str(num): round(peak / 1e6, 1) for num, peak in peaks.items()},
        "growth_kb_per_image": round((most - least) / (many - few) / 1e3, 2),
    }


def main() -> None:
    """Measure and write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[500, 2000])
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
