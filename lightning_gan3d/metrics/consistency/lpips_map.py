"""LPIPS per pixel (Zhang et al. 2018)."""

import warnings
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.files import sha256_of_file
from lightning_gan3d.metrics.pretrained import WeightsError, WeightsFile, find

LEAST_SIDE = 32
"""Smallest images, in pixels, that AlexNet's pooling allows."""
TRUNK = "lpips-alex"
"""AlexNet's weights, by their name in `metrics.pretrained`."""
REMEDY = "run `gan3d weights fetch lpips-alex`, or set consistency.lpips to AlexNet's weights"


class LpipsMap:
    """LPIPS 0.1 on AlexNet: the distances of its layers, upsampled to the image and summed."""

    def __init__(self, trunk: dict[str, Tensor], file: WeightsFile) -> None:
        """Load AlexNet's weights, named as in torchvision, and the linear layers of `lpips`."""
        import lpips  # imports torchvision and torch.compile

        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips passes torchvision a deprecated argument
            net = lpips.LPIPS(net="alex", pnet_rand=True, spatial=True, verbose=False)
        state = {}
        for name in net.net.state_dict():  # slice2.3.weight is torchvision's features.3.weight
            source = "features." + name.partition(".")[2]
            if source not in trunk:
                raise WeightsError(
                    f"consistency.lpips: the file has no `{source}`; use torchvision's AlexNet "
                    f"(IMAGENET1K_V1): {REMEDY}"
                )
            state[name] = trunk[source]
        try:
            net.net.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise WeightsError(f"consistency.lpips: not AlexNet's weights: {reason}") from None
        self.net = net.eval().requires_grad_(False)
        self.network = "" if file.published else file.sha256[:8]
        """First digits of the trunk's digest; empty for the published trunk."""
        linear = sha256_of_file(Path(lpips.__file__).parent / "weights" / "v0.1" / "alex.pth")
        self.protocol = (
            f"LPIPS 0.1 on AlexNet, SHA-256 {file.sha256[:16]}, linear layers {linear[:16]}"
        )

    def __call__(
        self, a: Float[Tensor, "v 3 h w"], b: Float[Tensor, "v 3 h w"]
    ) -> Float[Tensor, "v 1 h w"]:
        """Compare images in [-1, 1]."""
        with torch.no_grad():
            distance: Tensor = self.net.to(a.device)(a, b)
        return distance


def find_trunk(path: str | None) -> WeightsFile | str:
    """Return the file of AlexNet's weights, or why there is none.

    `path`: None for the published file, in torch's folder of downloads. Raises `WeightsError` if
    the file at `path` cannot be read.
    """
    try:
        return find(TRUNK, None if path is None else Path(path).expanduser())
    except WeightsError as error:
        if path is not None:
            raise WeightsError(f"consistency.lpips={path}: {error}") from None
        return f"{error}; or set consistency.lpips to AlexNet's weights"


def load_lpips(path: str | None) -> LpipsMap | str:
    """Return LPIPS with the weights of `find_trunk`, or why there are none."""
    file = find_trunk(path)
    if isinstance(file, str):
        return file
    try:
        trunk = torch.load(file.path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise many types for a damaged file
        reason = " ".join(str(error).split())[:120]
        raise WeightsError(
            f"consistency.lpips={file.path}: not a state dict ({reason}): {REMEDY}"
        ) from None
    if not isinstance(trunk, dict):
        raise WeightsError(f"consistency.lpips={file.path}: not a state dict: {REMEDY}")
    return LpipsMap(trunk, file)
