"""The user's networks in TorchScript files: an identity embedding, a pose estimator.

A TorchScript file contains a graph and no Python code.
"""

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from lightning_gan3d.config import UserError
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.context import EvaluationContext, mean_of


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
        try:
            with torch.no_grad():
                output = self.module(image)
        except RuntimeError as error:
            last = [line for line in str(error).splitlines() if line.strip()][-1].strip()
            shape = tuple(image.shape)
            raise self.error(f"the network rejects images of shape {shape}: {last}") from None
        if not isinstance(output, Tensor) or len(output) != len(image):
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
            f"{field}={path}: cannot be read ({error.strerror}); name a TorchScript file, or use "
            "null"
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
    return ScriptedNetwork(field, file, hashlib.sha256(content).hexdigest(), module.eval(), device)


def measure_identity(context: EvaluationContext) -> list[Metric]:
    """Measure the mean cosine of two views of a latent, and of different latents as the floor.

    The label is fixed. The floor pairs each latent's first view with the second view of the next
    latent, so that both have equally many pairs.
    """
    cfg, source = context.cfg.identity, context.source
    if cfg is None:
        return []
    names = ("identity.cosine", "identity.cosine_others")
    if source.fixed_cameras:
        return [missing(name, "stored images have one camera per latent") for name in names]
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
