"""Pose estimators: a regressor trained on real images, or a TorchScript file."""

import hashlib
import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import UserError
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import to_float
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import PoseConfig
from lightning_gan3d.metrics.context import EvaluationContext, mean_of
from lightning_gan3d.metrics.protocol import cached
from lightning_gan3d.metrics.sources import ImageSet

Batch = Callable[[Draws], tuple[Float[Tensor, "b 3 h w"], Tensor]]
"""Draws images in [-1, 1] and the targets of a regressor."""
Loss = Callable[[Tensor, Tensor], Tensor]
"""Loss of outputs and targets."""
LEARNING_RATE = 2e-3
"""Initial learning rate of Adam; decays to zero along a cosine."""


def rotation_from_6d(x: Float[Tensor, "n 6"]) -> Float[Tensor, "n 3 3"]:
    """Orthonormalise the first two columns of a rotation (Zhou et al. 2019).

    Unlike angles, these numbers are continuous.
    """
    first = normalize(x[:, :3], dim=-1)
    rest = x[:, 3:] - (first * x[:, 3:]).sum(-1, keepdim=True) * first
    second = normalize(rest, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-1)


def angle_between(a: Float[Tensor, "n 3 3"], b: Float[Tensor, "n 3 3"]) -> Float[Tensor, " n"]:
    """Angle in radians of the rotation from a to b, in [0, pi].

    Computed from the chord: the arc cosine of the trace loses small angles in float32.
    """
    chord = (a - b).flatten(1).norm(dim=1) / (2 * math.sqrt(2))
    return 2 * torch.asin(chord.clamp(max=1))


class ImageReader(nn.Module):
    """A network from an image in [-1, 1], reduced to `resolution`, to numbers."""

    def __init__(self, resolution: int, layers: nn.Module) -> None:
        """Build the network from `layers`, with their initial weights."""
        super().__init__()
        self.layers = layers
        self.resolution = resolution

    def forward(self, image: Float[Tensor, "n 3 h w"]) -> Tensor:
        """Estimate the numbers of images of any size."""
        if image.shape[-1] != self.resolution:
            size = (self.resolution, self.resolution)
            image = interpolate(image, size, mode="bilinear", antialias=True)
        return self.layers(image)  # type: ignore[no-any-return]  # nn.Module


class ImageRegressor(ImageReader):
    """A network from an image in [-1, 1] to `dim` numbers."""

    def __init__(self, resolution: int, dim: int) -> None:
        """Build the network with torch's initial weights."""
        layers: list[nn.Module] = []
        channels = 3
        for width in (32, 64, 96):
            layers += [nn.Conv2d(channels, width, 3, 2, 1), nn.LeakyReLU(0.1)]
            channels = width
        layers += [nn.AdaptiveAvgPool2d(4), nn.Flatten()]
        layers += [nn.Linear(16 * channels, 128), nn.LeakyReLU(0.1), nn.Linear(128, dim)]
        super().__init__(resolution, nn.Sequential(*layers))


class PoseRegressor(ImageRegressor):
    """A network from an image in [-1, 1] to the rotation of its camera (cam2world)."""

    def __init__(self, resolution: int) -> None:
        """Build the network with torch's initial weights."""
        super().__init__(resolution, 6)

    def forward(self, image: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 3"]:
        """Estimate the rotations of images of any size."""
        return rotation_from_6d(super().forward(image))


def rotations(labels: Float[Tensor, "n 25"]) -> Float[Tensor, "n 3 3"]:
    """Rotations of the labels' cameras."""
    return Cameras.from_label(labels).cam2world[:, :3, :3]


def _augment(image: Float[Tensor, "n 3 h w"], draws: Draws) -> Float[Tensor, "n 3 h w"]:
    """Vary contrast and tint and add noise, so that the network relies on shape, not colours."""
    n = len(image)
    gain = 0.8 + 0.4 * draws.uniform("gain", (n, 1, 1, 1), image.device)
    tint = 0.1 * draws.normal("tint", (n, 3, 1, 1), image.device)
    return image * gain + tint + 0.05 * draws.normal("noise", image.shape, image.device)


def train_regressor(
    train: ImageSet, cfg: PoseConfig, seed: int = 0, device: torch.device | str = "cpu"
) -> PoseRegressor:
    """Train on real images and their labels, by the squared distance of rotation matrices."""
    labels = torch.as_tensor(train.labels)
    regressor = PoseRegressor(min(cfg.resolution, train.resolution)).to(device)

    def batch(step: Draws) -> tuple[Tensor, Tensor]:
        indices = step.integers("images", len(train), (cfg.batch,))
        image = _augment(to_float(train.images(indices)).to(device), step)
        return image, rotations(labels[indices]).to(device)

    fit(regressor, batch, cfg.iterations, Draws(seed).scope("pose"))
    return regressor


def squared_distance(output: Float[Tensor, "*s"], target: Float[Tensor, "*s"]) -> Tensor:
    """Squared distance to the targets, mean over images; NaN is ignored."""
    error = torch.where(target.isnan(), 0, output - target)
    return error.square().flatten(1).sum(dim=1).mean()


def fit(
    network: ImageReader,
    batch: Batch,
    iterations: int,
    draws: Draws,
    loss: Loss = squared_distance,
) -> None:
    """Train by a loss of outputs and targets."""
    with torch.no_grad():
        for name, p in network.named_parameters():
            bound = math.sqrt(6 / p[0].numel()) if p.dim() > 1 else 0.0
            p.copy_((draws.uniform(f"init/{name}", p.shape) * 2 - 1) * bound)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    for i in range(iterations):
        image, target = batch(draws.at(i))
        value = loss(network(image), target)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
        schedule.step()
    network.eval().requires_grad_(False)


def cached_regressor(context: EvaluationContext, cfg: PoseConfig) -> PoseRegressor:
    """Return the regressor of a data set: from the cache, else trained."""
    train, seed, device = context.train, context.seed, context.device
    key = [train.fingerprint, cfg.resolution, cfg.iterations, cfg.batch, seed]
    regressor = PoseRegressor(min(cfg.resolution, train.resolution))

    def train_state() -> dict[str, Tensor]:
        return train_regressor(train, cfg, seed, device).state_dict()

    regressor.load_state_dict(cached(context.cache, "pose", key, train_state))
    return regressor.to(device).eval().requires_grad_(False)


class ScriptError(UserError):
    """A file that is not TorchScript, or a network with the wrong output shape."""


@dataclass(frozen=True, eq=False)
class ScriptedNetwork:
    """A network from images in [-1, 1] to one row of numbers each."""

    field: str
    """Field of the configuration that names the file, for messages."""
    path: Path
    digest: str
    """SHA-256 of the file, in hexadecimal."""
    module: Any
    device: torch.device | str

    @property
    def protocol(self) -> str:
        """File name and digest."""
        return f"{self.path.name}, SHA-256 {self.digest[:16]}"

    def __call__(self, image: Float[Tensor, "n 3 h w"], size: int | None = None) -> Tensor:
        """Evaluate images, resized to `size` if given; float32, one row per image."""
        image = image.to(self.device)
        if size is not None and image.shape[-1] != size:
            image = interpolate(image, (size, size), mode="bilinear", antialias=True)
        with torch.no_grad():
            return self.evaluate(image)

    def evaluate(self, given: Tensor) -> Tensor:
        """Evaluate images, or tokens of texts, as they are and with a gradient."""
        try:
            output = self.module(given)
        except RuntimeError as error:
            last = [line for line in str(error).splitlines() if line.strip()][-1].strip()
            shape = tuple(given.shape)
            raise self.error(f"the network rejects images of shape {shape}: {last}") from None
        if not isinstance(output, Tensor) or len(output) != len(given):
            raise self.error("the network must return one tensor with a row per image")
        return output.float()

    def error(self, problem: str) -> ScriptError:
        """Return an error that names field and file."""
        return ScriptError(f"{self.field}={self.path}: {problem}")


def load_network(field: str, path: str, device: torch.device | str = "cpu") -> ScriptedNetwork:
    """Load a TorchScript file, named by a field of the configuration."""
    file = Path(path).expanduser()
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ScriptError(
            f"{field}={path}: cannot be read ({error.strerror}); name a TorchScript file, or "
            "leave it out"
        ) from None
    try:
        with warnings.catch_warnings():
            # Torch recommends torch.export; users have TorchScript files.
            warnings.simplefilter("ignore", FutureWarning)
            module = torch.jit.load(io.BytesIO(content), map_location=device)  # type: ignore[no-untyped-call]  # torch's
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise ScriptError(
            f"{field}={path}: not a TorchScript file ({first}); write one by torch.jit.script or "
            "torch.jit.trace"
        ) from None
    module.eval()
    for p in module.parameters():  # TorchScript has no `module.requires_grad_`
        p.requires_grad_(False)
    return ScriptedNetwork(field, file, hashlib.sha256(content).hexdigest(), module, device)


def read_rotations(
    network: ScriptedNetwork, images: Float[Tensor, "n 3 h w"]
) -> Float[Tensor, "n 3 3"]:
    """Estimate the rotation of cam2world by the user's network.

    The network returns rotations, or their first two columns; raises ScriptError otherwise.
    """
    output = network(images)
    if output.shape[1:] == (6,):
        return rotation_from_6d(output)
    if output.shape[1:] == (3, 3):  # orthonormalise: it may not be an exact rotation
        return rotation_from_6d(torch.cat([output[:, :, 0], output[:, :, 1]], dim=-1))
    raise network.error(
        f"returns shape {tuple(output.shape)}; use (n, 3, 3), the rotation of cam2world, or "
        "(n, 6), its first two columns"
    )


def measure_identity(context: EvaluationContext) -> list[Metric]:
    """Measure the mean cosine of two views of a latent, and of different latents as the floor.

    The label is fixed. The floor pairs each latent's first view with the second view of the next
    latent, so that both have equally many pairs.
    """
    cfg, source = context.cfg.identity, context.source
    if cfg is None:
        return []
    names = ("identity.cosine", "identity.cosine_others")
    fixed = "stored images have one camera per latent" if source.fixed_cameras else ""
    if why := fixed or context.without_cameras:
        return [missing(name, why) for name in names]
    network = load_network("identity.embedding", cfg.embedding, context.device)
    azimuth = torch.tensor([-0.5, 0.5]) * cfg.angle
    parts = []
    for items, cameras in context.arcs(cfg.items, azimuth):
        views = source.views(items, cameras)
        vectors = network(views.image.float().clamp(-1, 1), cfg.resolution)
        if vectors.dim() != 2:
            shape = tuple(vectors.shape)
            raise network.error(f"returns shape {shape}; an embedding is one vector per image")
        parts.append(normalize(vectors, dim=-1).cpu())
    vectors = torch.cat(parts)
    first, second = vectors[0::2], vectors[1::2]
    size = "original size" if cfg.resolution is None else f"{cfg.resolution} pixels"
    protocol = (
        f"cosine of embeddings by {network.protocol}, of images at {size}; two cameras "
        f"{cfg.angle:g} rad apart around the world's y axis, label fixed"
    )
    same = (first * second).sum(-1)
    others = (first * second.roll(-1, dims=0)).sum(-1)
    return [
        mean_of(names[0], same, "", f"two views of a latent: {protocol}"),
        mean_of(names[1], others, "", f"views of different latents: {protocol}"),
    ]
