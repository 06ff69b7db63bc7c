"""LPIPS as a map (Zhang et al. 2018), its trunk's weights from a file."""

import hashlib
import warnings
from pathlib import Path
from typing import Protocol, runtime_checkable

import lpips
import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.config import Refusal

LEAST_SIDE = 32
"""Pixels below which AlexNet's pooling has nothing left to look at."""
TRUNK = "alexnet-owt-7be5be79.pth"
"""Torchvision's file of AlexNet's weights, under the name that its downloads have."""
REMEDY = "run `gan3d weights fetch lpips-alex`, or name AlexNet's weights in consistency.lpips"


class PerceptualError(Refusal):
    """Weights that LPIPS cannot use."""


@runtime_checkable
class Perceptual(Protocol):
    """A map of perceived differences of images in [-1, 1]."""

    protocol: str
    """Network and the hash of its weights, in words."""

    def __call__(
        self, a: Float[Tensor, "v 3 h w"], b: Float[Tensor, "v 3 h w"]
    ) -> Float[Tensor, "v 1 h w"]:
        """Compare images pixel by pixel."""
        ...


class LpipsMap:
    """LPIPS 0.1 on AlexNet: its layers' distances, each enlarged to the image, and summed."""

    def __init__(self, trunk: dict[str, Tensor], digest: str) -> None:
        """Take AlexNet's weights under torchvision's names, and the linear layers of `lpips`."""
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
        self.protocol = f"LPIPS 0.1 on AlexNet, SHA-256 {digest[:16]}"

    def __call__(
        self, a: Float[Tensor, "v 3 h w"], b: Float[Tensor, "v 3 h w"]
    ) -> Float[Tensor, "v 1 h w"]:
        """Compare images in [-1, 1] pixel by pixel."""
        with torch.no_grad():
            found: Tensor = self.net.to(a.device)(a, b)
        return found


def load_lpips(path: str | None) -> Perceptual | str:
    """Return LPIPS with the trunk of a file, or why there is none.

    Without a path, the file is that of the folder where torch keeps downloaded weights.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / TRUNK
    if path is not None:
        file = Path(path).expanduser()
    elif not file.exists():
        return f"the weights of LPIPS are not at hand: {REMEDY}"
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        trunk = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise PerceptualError(
            f"consistency.lpips={file}: cannot be read ({error.strerror}): {REMEDY}"
        ) from None
    except Exception as error:  # torch and pickle raise whatever they like at a damaged file
        reason = " ".join(str(error).split())[:120]
        raise PerceptualError(
            f"consistency.lpips={file}: not a state dict ({reason}): {REMEDY}"
        ) from None
    if not isinstance(trunk, dict):
        raise PerceptualError(f"consistency.lpips={file}: not a state dict: {REMEDY}")
    return LpipsMap(trunk, digest)
