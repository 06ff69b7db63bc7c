"""Feature vectors of images, by clean-fid's resizing and networks, read from files at hand.

An extractor is a name that goes into the measures' names, a protocol in words, and a function from
stored images to vectors. Only the published Inception gives what is called FID, KID and Inception
score: a network with another digest puts the first eight digits of that digest into every name.
"""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
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


@runtime_checkable
class Extractor(Protocol):
    """Turns stored images into feature vectors."""

    name: str
    """Part of the names of measures; empty for the published network of that purpose."""
    key: str
    """Says apart all extractors whose vectors differ, for what is kept."""
    dim: int
    """Length of a vector."""
    protocol: str
    """Network, digest of its weights and resizing in words."""

    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Float32[Tensor, "n d"]:
        """Return a vector for each image, on the CPU."""
        ...


class ReducedPixels:
    """Images reduced to a few pixels by antialiased interpolation; values in [0, 1], no weights."""

    def __init__(self, side: int) -> None:
        """Reduce to `side` x `side` pixels; smaller images are enlarged."""
        self.name, self.key = f"pixels{side}", f"pixels{side}"
        self.side, self.dim = side, 3 * side * side
        self.protocol = f"images reduced to {side}x{side} pixels"

    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Float32[Tensor, "n d"]:
        """Return the pixels, channel by channel."""
        small = interpolate(
            to_float(images), (self.side, self.side), mode="bilinear", antialias=True
        )
        return small.flatten(1).add(1).div(2).cpu()


class Network:
    """Vectors of a pretrained network, computed in float32 on a device."""

    def __init__(
        self,
        found: WeightsFile,
        what: str,
        name: str,
        device: torch.device | str,
        prepare: Callable[[UInt8[Tensor, "n 3 h w"]], Tensor],
        run: Callable[[Tensor], Tensor],
        classifier: Float[Tensor, "k d"] | None = None,
    ) -> None:
        """Wrap `run(prepare(images))`; the width of a vector is found by running a grey image.

        `classifier` holds the rows of the network's last layer, without its bias.
        """
        self.sha256, self.published, self.device = found.sha256, found.published, device
        digits = found.sha256[:8]
        self.name = "_".join(x for x in (name, "" if found.published else digits) if x)
        self.key = f"{what}|{name}|{found.sha256}"
        whose = "published weights" if found.published else "weights that are not the published"
        self.protocol = f"{what}, {whose}, SHA-256 {digits}..."
        self._prepare, self._run, self.classifier = prepare, run, classifier
        self.dim = int(self(torch.full((1, 3, 64, 64), 128, dtype=torch.uint8)).shape[1])

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Float32[Tensor, "n d"]:
        """Return a vector for each image."""
        # Convolutions on CUDA may otherwise round their input to ten bits (TF32).
        with torch.backends.cudnn.flags(allow_tf32=False):
            out = self._run(self._prepare(images.cpu()).to(self.device))
        return out.float().flatten(1).cpu()

    def probabilities(self, features: Float32[Tensor, "n d"]) -> Float32[Tensor, "n k"]:
        """Class probabilities of vectors, without the last layer's bias, as for StyleGAN's score.

        They are made of the features, so that these alone need be kept.
        """
        if self.classifier is None:
            raise ValueError(f"{self.protocol} has no classes")
        return (features @ self.classifier.mT).softmax(dim=1)


def inception(
    mode: Mode, device: torch.device | str = "cpu", given: str | Path | None = None
) -> Network:
    """Return Inception's pooled features (2048 numbers) as clean-fid takes them in that mode.

    Raises:
        WeightsError: the weights are not at hand, or are not those of such a network.
    """
    found = find("inception-pytorch" if mode == "legacy_pytorch" else "inception", given)
    what = f"Inception ({mode}: images {_RESIZING[mode]})"
    name = "" if mode == "clean" else mode
    if mode == "legacy_pytorch":
        return _pytorch_inception(found, what, name, device)
    network = _script(found, device)
    try:
        layers, classifier = network.layers, network.output.weight.detach().float().cpu()
    except AttributeError:
        raise _not_such(found, "an Inception with `layers` and `output`") from None

    def clean(x: Tensor) -> Tensor:
        out: Tensor = layers((x - 128) / 128)
        return out

    run: Callable[[Tensor], Tensor] = clean
    if mode == "legacy_tensorflow":
        run = partial(network, return_features=True)
    return Network(found, what, name, device, partial(_resized, mode), run, classifier)


def vgg16(device: torch.device | str = "cpu", given: str | Path | None = None) -> Network:
    """Return VGG16's second fully connected layer (4096 numbers), the network resizing to 224.

    Raises:
        WeightsError: the weights are not at hand, or are not those of such a network.
    """
    found = find("vgg16", given)
    network = _script(found, device)
    run = partial(network, return_features=True)
    return Network(found, "VGG16", "", device, lambda x: x.float(), run)


def clip(device: torch.device | str = "cpu", given: str | Path | None = None) -> Network:
    """Return CLIP's image features (512 numbers of ViT-B/32) as clean-fid takes them.

    Raises:
        WeightsError: the weights or OpenAI's package `clip` are not at hand.
    """
    found = find("clip", given)
    try:
        from cleanfid.clip_features import CLIP_fx, img_preprocess_clip
    except ImportError:
        raise WeightsError(
            "the package clip is not installed: pip install "
            "git+https://github.com/openai/CLIP.git, or leave evaluation.distribution.clip off"
        ) from None
    network = CLIP_fx(str(found.path), device=device)

    def prepare(images: Tensor) -> Tensor:
        arrays = rearrange(images, "n c h w -> n h w c").numpy()
        small = np.stack([img_preprocess_clip(x) for x in arrays])
        return torch.from_numpy(rearrange(small, "n h w c -> n c h w")).float()

    return Network(found, "CLIP ViT-B/32, images resized to 224", "", device, prepare, network)


def _script(found: WeightsFile, device: torch.device | str) -> Any:
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # as published
            return torch.jit.load(  # type: ignore[no-untyped-call]  # torch's
                str(found.path), map_location=device
            ).eval()
    except RuntimeError as error:
        raise _not_such(found, f"a TorchScript file ({str(error).splitlines()[0]})") from None


def _not_such(found: WeightsFile, what: str) -> WeightsError:
    return WeightsError(f"weights {found.path} (SHA-256 {found.sha256[:16]}...): not {what}")


def _pytorch_inception(
    found: WeightsFile, what: str, name: str, device: torch.device | str
) -> Network:
    from cleanfid import inception_pytorch

    try:
        tensors = torch.load(found.path, map_location="cpu", weights_only=True)
        # Its constructor downloads; the file at hand takes that place. Its way of asking
        # torchvision for a network is deprecated, which is no business of the user's.
        with (
            patch.object(inception_pytorch, "load_state_dict_from_url", lambda *_, **__: tensors),
            warnings.catch_warnings(action="ignore"),
        ):
            network = inception_pytorch.InceptionV3(output_blocks=[3], resize_input=False)
    except Exception as error:  # whatever unpickling and load_state_dict raise
        raise _not_such(
            found, f"a state dictionary of pytorch-fid ({str(error).splitlines()[0]})"
        ) from None
    network = network.to(device).eval()

    def run(x: Tensor) -> Tensor:
        out: Tensor = network(x / 255)[0]
        return out

    classifier = tensors["fc.weight"].float()
    prepare = partial(_resized, "legacy_pytorch")
    return Network(found, what, name, device, prepare, run, classifier)


def _resized(mode: Mode, images: UInt8[Tensor, "n 3 h w"]) -> Float32[Tensor, "n 3 _ _"]:
    """Resize as clean-fid does; values in [0, 255]."""
    if mode == "legacy_tensorflow":
        return images.float()
    from cleanfid.resize import build_resizer

    with warnings.catch_warnings():  # it silences all warnings of the process
        resize = build_resizer(mode)
    arrays = list(rearrange(images, "n c h w -> n h w c").numpy())
    # Pillow and torch let other threads run while they resize.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        found = np.stack(list(pool.map(resize, arrays)))
    return torch.from_numpy(rearrange(found, "n h w c -> n c h w").astype(np.float32))
