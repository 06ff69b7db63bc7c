"""Similarity of two images by pixel: SSIM and LPIPS maps."""

import warnings
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import conv2d

from lightning_gan3d.files import sha256_of_file
from lightning_gan3d.metrics.pretrained import WeightsError, WeightsFile, find

LEAST_ERROR = 1e-10
"""Squared error at which PSNR saturates, at 100 dB: equal images would have infinity."""
WINDOW, SIGMA = 11, 1.5
"""Side and deviation in pixels of SSIM's Gaussian window (Wang et al. 2004, section III-B)."""
LEAST_SHARE = 0.5
"""Share of a window's weight that must lie on valid pixels."""


def psnr(squared_error: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Peak signal-to-noise ratio in dB of a mean squared error in [0, 1] images; at most 100."""
    return -10 * squared_error.clamp(min=LEAST_ERROR).log10()


def ssim_map(
    a: Float[Tensor, "v c h w"], b: Float[Tensor, "v c h w"], valid: Bool[Tensor, "v 1 h w"]
) -> tuple[Float[Tensor, "v h1 w1"], Bool[Tensor, "v h1 w1"]]:
    """Return SSIM of [0, 1] images per window, and which windows count.

    Wang et al. 2004, eq. 13, mean over channels, for windows entirely inside the image. Means,
    variances and covariance are those of a window's valid pixels, their weights normalised to 1. A
    window counts if its centre and at least half of its weight are valid. If all pixels are valid,
    the mean over windows is the usual SSIM. Images below 11 pixels have no window.
    """
    v, c, h, w = a.shape
    if min(h, w) < WINDOW:
        return a.new_zeros(v, 0, 0), valid.new_zeros(v, 0, 0)
    offset = torch.arange(WINDOW, device=a.device, dtype=a.dtype) - WINDOW // 2
    line = torch.exp(-offset.square() / (2 * SIGMA**2))
    line = line / line.sum()

    def smooth(x: Tensor) -> Tensor:
        flat = rearrange(x, "v c h w -> (v c) 1 h w")
        flat = conv2d(conv2d(flat, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))
        return rearrange(flat, "(v c) 1 h w -> v c h w", v=v)

    mask = valid.to(a.dtype)
    # Replace rather than multiply: invalid pixels may be NaN.
    a, b = torch.where(valid, a, 0.0), torch.where(valid, b, 0.0)
    weight = smooth(mask)
    sums = smooth(torch.cat([a, b, a * a, b * b, a * b], dim=1))
    mean_a, mean_b, square_a, square_b, product = torch.split(
        sums / weight.clamp(min=1e-6), c, dim=1
    )
    var_a = (square_a - mean_a.square()).clamp(min=0)
    var_b = (square_b - mean_b.square()).clamp(min=0)
    covariance = product - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_a.square() + mean_b.square() + c1) * (var_a + var_b + c2))
    r = WINDOW // 2
    counts = valid[:, 0, r : h - r, r : w - r] & (weight[:, 0] >= LEAST_SHARE)
    return similarity.mean(dim=1), counts


LEAST_SIDE = 32
"""Smallest images, in pixels, that AlexNet's pooling allows."""
TRUNK = "lpips-alex"
"""AlexNet's weights, by their name in `metrics.pretrained`."""
OPTION = "evaluation.consistency.lpips"
REMEDY = f"run `gan3d weights fetch lpips-alex`, or set {OPTION} to AlexNet's weights"


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
                    f"{OPTION}: the file has no `{source}`; use torchvision's AlexNet "
                    f"(IMAGENET1K_V1): {REMEDY}"
                )
            state[name] = trunk[source]
        try:
            net.net.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise WeightsError(f"{OPTION}: not AlexNet's weights: {reason}") from None
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
            raise WeightsError(f"{OPTION}={path}: {error}") from None
        return f"{error}; or set {OPTION} to AlexNet's weights"


def load_lpips(path: str | None) -> LpipsMap | str:
    """Return LPIPS with the weights of `find_trunk`, or why there are none."""
    file = find_trunk(path)
    if isinstance(file, str):
        return file
    try:
        trunk = torch.load(file.path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise many types for a damaged file
        reason = " ".join(str(error).split())[:120]
        raise WeightsError(f"{OPTION}={file.path}: not a state dict ({reason}): {REMEDY}") from None
    if not isinstance(trunk, dict):
        raise WeightsError(f"{OPTION}={file.path}: not a state dict: {REMEDY}")
    return LpipsMap(trunk, file)
