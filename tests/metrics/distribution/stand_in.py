"""Stand-ins for tests: small TorchScript networks with the published calls; features in memory."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_gan3d.metrics.distribution.feature_store import Features

CLASSES = 10


class Inception(nn.Module):
    """32 numbers (or fewer) of each of 64 cells of the image, and a layer of classes."""

    def __init__(self, seed: int = 0, channels: int = 32) -> None:
        super().__init__()
        torch.manual_seed(seed)
        convolution = nn.Conv2d(3, channels, 1)
        self.layers = nn.Sequential(nn.AvgPool2d(37), convolution, nn.ReLU(), nn.Flatten())
        self.output = nn.Linear(64 * channels, CLASSES)

    def forward(
        self, img: Tensor, return_features: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        x = nn.functional.interpolate(img.float(), (299, 299), mode="bilinear")
        features = self.layers((x - 128) / 128)
        if return_features:
            return features
        logits = torch.mm(features, self.output.weight.t())
        if not no_output_bias:
            logits = logits + self.output.bias
        return logits.softmax(dim=1)


class Vgg(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 64))

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        features = self.layers(img / 255)
        return features if return_features else features.softmax(dim=1)


class Identity(nn.Module):
    def forward(self, img: Tensor) -> Tensor:
        return img


@dataclass(frozen=True, eq=False)
class InMemory(Features):
    vectors: Tensor

    def __len__(self) -> int:
        return len(self.vectors)

    def rows(self, indices: Tensor) -> Tensor:
        return self.vectors[indices]


def save(network: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        torch.jit.script(network.eval()).save(str(path))
    return path
