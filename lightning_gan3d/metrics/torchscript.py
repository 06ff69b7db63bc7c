"""Networks that a user gives as TorchScript files: their graph is run, no Python of theirs."""

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_gan3d.config import UserError


class ScriptedError(UserError):
    """A file that is no TorchScript, or a network that answers otherwise than it should."""


@dataclass(frozen=True, eq=False)
class Scripted:
    """A network from images in [-1, 1] to numbers, and the hash of the file it came from."""

    field: str
    """The field of the configuration that names the file."""
    path: Path
    digest: str
    """SHA-256 of the file, in hexadecimal."""
    module: Any
    device: torch.device | str

    @property
    def protocol(self) -> str:
        """Which network it is, in words."""
        return f"{self.path.name}, SHA-256 {self.digest[:16]}"

    def __call__(self, image: Float[Tensor, "n 3 h w"], size: int | None) -> Tensor:
        """Read images, resized to `size` where one is given; float32, one row an image."""
        image = image.to(self.device)
        if size is not None and image.shape[-1] != size:
            image = interpolate(image, (size, size), mode="bilinear", antialias=True)
        try:
            with torch.no_grad():
                found = self.module(image)
        except RuntimeError as error:
            last = [line for line in str(error).splitlines() if line.strip()][-1].strip()
            raise ScriptedError(
                f"{self.field}={self.path}: the network refuses images of shape "
                f"{tuple(image.shape)}: {last}"
            ) from None
        if not isinstance(found, Tensor) or len(found) != len(image):
            raise ScriptedError(
                f"{self.field}={self.path}: the network must return one tensor with a row for each "
                "image"
            )
        return found.float()


def load_scripted(field: str, path: str, device: torch.device | str = "cpu") -> Scripted:
    """Load a TorchScript file. `field` is that of the configuration, for messages."""
    file = Path(path).expanduser()
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ScriptedError(
            f"{field}={path}: cannot be read ({error.strerror}); name a TorchScript file, or leave "
            "it null"
        ) from None
    try:
        with warnings.catch_warnings():
            # Torch would rather have torch.export; what users have are TorchScript files.
            warnings.simplefilter("ignore", FutureWarning)
            module = torch.jit.load(io.BytesIO(content), map_location=device)  # type: ignore[no-untyped-call]  # torch's
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise ScriptedError(
            f"{field}={path}: not a TorchScript file ({first}); write one by torch.jit.script or "
            "torch.jit.trace"
        ) from None
    return Scripted(field, file, hashlib.sha256(content).hexdigest(), module.eval(), device)
