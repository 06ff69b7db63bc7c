"""Feature vectors of images, by clean-fid's resizing and networks, from weight files on disk.

`inception`, `vgg16` and `clip` raise `WeightsError` for missing or wrong files. Only metrics of the
published Inception are called FID, KID and Inception score. For other weights, the first eight
digits of their SHA-256 are part of each metric's key.
"""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float32, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_gan3d.images import to_float
from lightning_gan3d.metrics.config import Mode
from lightning_gan3d.metrics.pretrained import WeightsError, WeightsFile, find

_RESIZING: dict[str, str] = {
    "clean": "resized to 299 by antialiased bicubic filtering in float",
    "legacy_pytorch": "resized to 299 by bilinear interpolation without antialiasing (pytorch-fid)",
    "legacy_tensorflow": "resized to 299 inside the network without antialiasing, as StyleGAN and "
    "EG3D do",
}


@dataclass(frozen=True, eq=False)
class Extractor:
    """Maps 8-bit images to feature vectors, in float32 on the CPU."""

    forward: Callable[[UInt8[Tensor, "n 3 h w"]], Any]
    """Maps images on the CPU to features, on any device and of any shape per image."""
    protocol: str
    """Network, digest of its weights and resizing, for the notes of metrics."""
    key: str
    """Cache key: differs if vectors differ."""
    network: str = ""
    """`Metric.network` of its metrics; empty for the published network in its default mode."""
    published: bool = True
    """Whether the weights are the published ones."""
    classifier: Float[Tensor, "k d"] | None = None
    """The network's last layer, without its bias."""

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Float32[Tensor, "n d"]:
        """Return a vector for each image."""
        # Convolutions on CUDA would use TF32, with ten bits.
        with torch.backends.cudnn.flags(allow_tf32=False):
            features: Tensor = self.forward(images.cpu())
        return features.float().flatten(1).cpu()

    @cached_property
    def dim(self) -> int:
        """Length of a vector."""
        return self(torch.full((1, 3, 64, 64), 128, dtype=torch.uint8)).shape[1]

    def probabilities(self, features: Float32[Tensor, "n d"]) -> Float32[Tensor, "n k"]:
        """Class probabilities of feature vectors, without the last layer's bias, as StyleGAN's."""
        assert self.classifier is not None, f"{self.protocol} has no classes"
        return (features @ self.classifier.mT).softmax(dim=1)


def reduced_pixels(side: int) -> Extractor:
    """Images reduced to `side` x `side` pixels by antialiased interpolation; values in [0, 1]."""

    def forward(images: Tensor) -> Tensor:
        small = interpolate(to_float(images), (side, side), mode="bilinear", antialias=True)
        return small.flatten(1).add(1).div(2)

    return Extractor(forward, f"images reduced to {side}x{side} pixels", f"pixels{side}")


def inception(
    mode: Mode, device: torch.device | str = "cpu", given: str | Path | None = None
) -> Extractor:
    """Load Inception's pooled features (2048 numbers), as clean-fid computes them in that mode."""
    weights = find("inception-pytorch" if mode == "legacy_pytorch" else "inception", given)
    title = f"Inception ({mode}: images {_RESIZING[mode]})"
    if mode == "legacy_pytorch":
        return _pytorch_inception(weights, title, device)
    network = _load_script(weights, device)
    try:
        layers, classifier = network.layers, network.output.weight.detach().float().cpu()
    except AttributeError:
        raise _wrong_file(weights, "an Inception with `layers` and `output`") from None

    def forward(images: Tensor) -> Any:
        if mode == "clean":
            return layers((_resize(mode, images).to(device) - 128) / 128)
        return network(images.float().to(device), return_features=True)

    name = "" if mode == "clean" else mode
    return _extractor(weights, title, forward, name, classifier)


def vgg16(device: torch.device | str = "cpu", given: str | Path | None = None) -> Extractor:
    """Load VGG16's second fully connected layer (4096 numbers); the network resizes to 224."""
    weights = find("vgg16", given)
    network = partial(_load_script(weights, device), return_features=True)
    return _extractor(weights, "VGG16", lambda x: network(x.float().to(device)))


def clip(device: torch.device | str = "cpu", given: str | Path | None = None) -> Extractor:
    """Load CLIP's image features (512 numbers of ViT-B/32), as clean-fid computes them."""
    weights = find("clip", given)
    try:
        from cleanfid.clip_features import CLIP_fx, img_preprocess_clip
    except ImportError:
        raise WeightsError(
            "the package clip is not installed: pip install "
            "git+https://github.com/openai/CLIP.git, or set evaluation.distribution.clip=false"
        ) from None
    network = CLIP_fx(str(weights.path), device=device)

    def forward(images: Tensor) -> Any:
        arrays = rearrange(images, "n c h w -> n h w c").numpy()
        small = np.stack([img_preprocess_clip(x) for x in arrays])
        small = rearrange(small, "n h w c -> n c h w")
        return network(torch.from_numpy(small).float().to(device))

    return _extractor(weights, "CLIP ViT-B/32, images resized to 224", forward)


def _extractor(
    weights: WeightsFile,
    title: str,
    forward: Callable[[UInt8[Tensor, "n 3 h w"]], Any],
    mode: str = "",
    classifier: Float[Tensor, "k d"] | None = None,
) -> Extractor:
    """`mode`: resizing, if it is not the default."""
    digits, published = weights.sha256[:8], weights.published
    origin = "published weights" if published else "weights that are not published"
    return Extractor(
        forward,
        f"{title}, {origin}, SHA-256 {digits}...",
        f"{title}|{mode}|{weights.sha256}",
        "_".join(x for x in (mode, "" if published else digits) if x),
        published,
        classifier,
    )


def _load_script(weights: WeightsFile, device: torch.device | str) -> Any:
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            return torch.jit.load(  # type: ignore[no-untyped-call]  # torch's
                str(weights.path), map_location=device
            ).eval()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise _wrong_file(weights, f"a TorchScript file ({reason})") from None


def _wrong_file(weights: WeightsFile, expected: str) -> WeightsError:
    return WeightsError(
        f"weights {weights.path} (SHA-256 {weights.sha256[:16]}...): not {expected}"
    )


def _pytorch_inception(weights: WeightsFile, title: str, device: torch.device | str) -> Extractor:
    from cleanfid import inception_pytorch

    try:
        tensors = torch.load(weights.path, map_location="cpu", weights_only=True)
        # Its constructor downloads: give it our file instead. It also uses a deprecated argument
        # of torchvision, which warns.
        with (
            patch.object(inception_pytorch, "load_state_dict_from_url", lambda *_, **__: tensors),
            warnings.catch_warnings(action="ignore"),
        ):
            network = inception_pytorch.InceptionV3(output_blocks=[3], resize_input=False)
    except Exception as error:  # unpickling and load_state_dict raise many kinds
        reason = str(error).splitlines()[0]
        raise _wrong_file(weights, f"a state dictionary of pytorch-fid ({reason})") from None
    network = network.to(device).eval()

    mode: Mode = "legacy_pytorch"
    classifier = tensors["fc.weight"].float()
    return _extractor(
        weights, title, lambda x: network(_resize(mode, x).to(device) / 255)[0], mode, classifier
    )


def _resize(mode: Mode, images: UInt8[Tensor, "n 3 h w"]) -> Float32[Tensor, "n 3 _ _"]:
    """Resize as clean-fid does; values in [0, 255]."""
    from cleanfid.resize import build_resizer

    with warnings.catch_warnings():  # it silences all warnings of the process
        resize = build_resizer(mode)
    arrays = list(rearrange(images, "n c h w -> n h w c").numpy())
    # Pillow and torch release the GIL while they resize.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        resized = np.stack(list(pool.map(resize, arrays)))
    return torch.from_numpy(rearrange(resized, "n h w c -> n c h w").astype(np.float32))
