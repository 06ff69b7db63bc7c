"""LPIPS as a map (Zhang et al. 2018), its trunk's weights from a file."""

import warnings
from pathlib import Path
from typing import Protocol, runtime_checkable

import lpips
import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.config import UserError
from lightning_gan3d.metrics.pretrained import Found, WeightsError, digest_of, find

LEAST_SIDE = 32
"""Pixels below which AlexNet's pooling has nothing left to look at."""
TRUNK = "lpips-alex"
"""AlexNet's weights, by the name of `lightning_gan3d.metrics.pretrained`."""
REMEDY = "run `gan3d weights fetch lpips-alex`, or name AlexNet's weights in consistency.lpips"


class PerceptualError(UserError):
    """Weights that LPIPS cannot use."""


@runtime_checkable
class Perceptual(Protocol):
    """A map of perceived differences of images in [-1, 1]."""

    name: str
    """What it is called in the names of measures: `lpips`, and digits with a trunk of one's own."""
    protocol: str
    """Network and the hash of its weights, in words."""

    def __call__(
        self, a: Float[Tensor, "v 3 h w"], b: Float[Tensor, "v 3 h w"]
    ) -> Float[Tensor, "v 1 h w"]:
        """Compare images pixel by pixel."""
        ...


class LpipsMap:
    """LPIPS 0.1 on AlexNet: its layers' distances, each enlarged to the image, and summed."""

    def __init__(self, trunk: dict[str, Tensor], found: Found) -> None:
        """Take AlexNet's weights under torchvision's names, and the linear layers of `lpips`.

        With another trunk than the published one the first digits of its digest are in the name.
        """
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision's words on an argument that lpips passes
            net = lpips.LPIPS(net="alex", pnet_rand=True, spatial=True, verbose=False)
        state = {}
        for name in net.net.state_dict():  # slice2.3.weight is torchvision's features.3.weight
            known = "features." + name.partition(".")[2]
            if known not in trunk:
                raise PerceptualError(
                    f"consistency.lpips: the file has no `{known}`; use torchvision's AlexNet "
                    f"(IMAGENET1K_V1): {REMEDY}"
                )
            state[name] = trunk[known]
        try:
            net.net.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise PerceptualError(f"consistency.lpips: not AlexNet's weights: {reason}") from None
        self.net = net.eval().requires_grad_(False)
        self.name = "lpips" if found.published else f"lpips_{found.sha256[:8]}"
        linear = digest_of(Path(lpips.__file__).parent / "weights" / "v0.1" / "alex.pth")
        self.protocol = (
            f"LPIPS 0.1 on AlexNet, SHA-256 {found.sha256[:16]}, linear layers {linear[:16]}"
        )

    def __call__(
        self, a: Float[Tensor, "v 3 h w"], b: Float[Tensor, "v 3 h w"]
    ) -> Float[Tensor, "v 1 h w"]:
        """Compare images in [-1, 1] pixel by pixel."""
        with torch.no_grad():
            found: Tensor = self.net.to(a.device)(a, b)
        return found


def trunk_of(path: str | None) -> Found | str:
    """Return the file of LPIPS' trunk, or why there is none.

    The one given by hand; without a path the published one, where torch keeps downloaded weights.

    Raises:
        PerceptualError: the one given by hand is not there, or cannot be read.
    """
    try:
        return find(TRUNK, None if path is None else Path(path).expanduser())
    except WeightsError as error:
        if path is not None:
            raise PerceptualError(f"consistency.lpips={path}: {error}") from None
        return f"{error}; or name AlexNet's weights in consistency.lpips"


def load_lpips(path: str | None) -> Perceptual | str:
    """Return LPIPS with the trunk that `trunk_of` finds, or why there is none."""
    found = trunk_of(path)
    if isinstance(found, str):
        return found
    try:
        trunk = torch.load(found.path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise whatever they like at a damaged file
        reason = " ".join(str(error).split())[:120]
        raise PerceptualError(
            f"consistency.lpips={found.path}: not a state dict ({reason}): {REMEDY}"
        ) from None
    if not isinstance(trunk, dict):
        raise PerceptualError(f"consistency.lpips={found.path}: not a state dict: {REMEDY}")
    return LpipsMap(trunk, found)
