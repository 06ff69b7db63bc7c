"""Adaptive discriminator augmentation (ADA, Karras et al. 2020a): pixel blits, geometry, colour.

Mirroring is left out on purpose. The discriminator rejects rotated or tinted images, so the
generator does not learn them; but a mirrored object under an unmirrored camera is plausible, and
would teach wrong views. A data set can be mirrored together with its poses instead.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Interval
from jaxtyping import Float
from torch import Tensor, nn

from lightning_gan3d.config import Count, Positive, Share
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images

SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
"""Scaling filter of the symlet with six vanishing moments (Daubechies 1992, table 8.3), as ADA."""
SYM6_CENTRE = 5
"""Its centre, in taps. The centre of mass is 5.1; an integer keeps quarter turns on samples."""


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of the discriminator's inputs, real and generated."""

    mode: Literal["none", "fixed", "ada"] = "none"
    """`fixed` keeps the probability; `ada` adapts it to the discriminator's overfitting."""
    probability: Share = 0.2
    """Probability of each transform in mode `fixed`; `ada` starts from 0."""
    target: Annotated[float, Interval(ge=-1, le=1)] = 0.6
    """Mean sign of the real logits, controlled by `ada`."""
    speed_kimg: Positive = 500.0
    """Thousands of images in which `ada` goes from 0 to 1 at most."""
    interval: Count = 4
    """Steps between adaptations."""


class Augment(nn.Module):
    """ADA's augmentation pipeline `bgc` without mirroring, and its adaptive probability `p`."""

    p: Tensor

    def __init__(self, cfg: AugmentConfig) -> None:
        """Start from the fixed probability, or from 0 if it adapts."""
        super().__init__()
        self.cfg = cfg
        self.register_buffer(
            "p", torch.tensor(cfg.probability if cfg.mode == "fixed" else 0.0, dtype=torch.float32)
        )

    def forward(self, images: Images, draws: Draws) -> Images:
        """Transform image and raw image alike, each sample on its own; twice differentiable.

        Depth and opacity are dropped, for they are not warped. The raw image is warped at its own
        size. EG3D enlarges it to the image first and reduces it afterwards, which blurs it even if
        no transform is applied.
        """
        if self.cfg.mode == "none":
            return images
        image, raw = images.image, images.image_raw
        v, size = image.shape[0], image.shape[-1]
        if image.shape[-2] != size or raw.shape[-2] != raw.shape[-1]:
            raise ValueError(f"augmentation needs square images, not {tuple(image.shape[-2:])}")
        uniform = draws.uniform("uniform", (v, 19), image.device)
        normal = draws.normal("normal", (v, 7), image.device)
        warp = geometry(uniform[:, :12], normal[:, :4], self.p, size).to(image.dtype)
        colours = colour(uniform[:, 12:], normal[:, 4:], self.p).to(image.dtype)
        if image.shape == raw.shape:
            both = transform(torch.cat([image, raw], dim=1), warp, colours)
            return Images(both[:, :3], both[:, 3:])
        return Images(transform(image, warp, colours), transform(raw, warp, colours))

    @torch.no_grad()
    def update(self, mean_sign_real: Float[Tensor, ""], num_images: int) -> None:
        """Adapt p (Karras et al. 2020a, section 3.1), without a device synchronisation.

        `mean_sign_real` is the mean sign of the real logits over the `num_images` since the last
        update, on all ranks: above the target, the discriminator overfits and p rises. p is not
        limited: values above 1 act as 1, and have to fall first.
        """
        if self.cfg.mode == "ada":
            step = num_images / (self.cfg.speed_kimg * 1000)
            self.p.add_(torch.sign(mean_sign_real - self.cfg.target) * step).clamp_min_(0)


def geometry(
    u: Float[Tensor, "v 12"], n: Float[Tensor, "v 4"], p: Float[Tensor, ""], size: int
) -> Float[Tensor, "v 3 3"]:
    """Draw affine maps of output to input positions, in units of half the image, about its centre.

    Blits: rotation by quarters, translation by whole pixels of `size`, up to an eighth of it.
    Geometry: scaling by 2^(0.2 n), rotation, stretching by 2^(0.2 n), rotation, translation by
    0.125 n of the size. Each with probability p, but each of the two rotations with
    1 - sqrt(1 - p), so that one or both happen with p. `u`: uniform, `n`: normal numbers.
    """
    on = (u[:, :5] < p).to(u.dtype)
    rotates = (u[:, 5:7] < 1 - (1 - p).clamp_min(0).sqrt()).to(u.dtype)
    angles = (u[:, 7:9] * 2 - 1) * math.pi * rotates
    quarter = torch.floor(u[:, 9] * 4) * (math.pi / 2) * on[:, 0]
    whole = torch.round((u[:, 10:] * 2 - 1) * (size / 8)) * (2 / size) * on[:, 1:2]
    scale = torch.exp2(0.2 * n[:, 0] * on[:, 2])
    stretch = torch.exp2(0.2 * n[:, 1] * on[:, 3])
    shift = n[:, 2:] * 0.25 * on[:, 4:]
    warp = _rotation(quarter) @ _translation(whole)
    warp = warp @ _scaling(scale, scale) @ _rotation(angles[:, 0])
    warp = warp @ _scaling(stretch, 1 / stretch) @ _rotation(angles[:, 1])
    return warp @ _translation(shift)


def colour(
    u: Float[Tensor, "v 7"], n: Float[Tensor, "v 3"], p: Float[Tensor, ""]
) -> Float[Tensor, "v 3 4"]:
    """Draw affine maps of colours in [-1, 1].

    Brightness + 0.2 n, contrast * 2^(0.5 n), luma inversion in half of the cases, rotation of hue,
    saturation * 2^n, in this order, each with probability p. Luma is the grey axis; the linear
    parts do not mix it with the plane of hues, so that their product has a closed form. `u`:
    uniform, `n`: normal numbers.
    """
    on = (u[:, :5] < p).to(u.dtype)
    brightness = 0.2 * n[:, 0] * on[:, 0]
    contrast = torch.exp2(0.5 * n[:, 1] * on[:, 1])
    reversal = 1 - 2 * torch.floor(u[:, 5] * 2) * on[:, 2]
    hue = (u[:, 6] * 2 - 1) * math.pi * on[:, 3]
    chroma = contrast * torch.exp2(n[:, 2] * on[:, 4])
    grey, plane, turn = _colour_axes(u.dtype, u.device)

    def times(factor: Tensor, matrix: Tensor) -> Tensor:
        return factor[:, None, None] * matrix

    linear = times(contrast * reversal, grey)
    linear = linear + times(chroma * hue.cos(), plane) + times(chroma * hue.sin(), turn)
    offset = (brightness * contrast * reversal)[:, None, None].expand(-1, 3, 1)
    return torch.cat([linear, offset], dim=2)


def transform(
    x: Float[Tensor, "v c n n"], warp: Float[Tensor, "v 3 3"], colours: Float[Tensor, "v 3 4"]
) -> Float[Tensor, "v c n n"]:
    """Warp square images of 3 channels, or pairs of 6, then map their colours.

    Warped between a twofold enlargement and its adjoint, with the filter SYM6, whose even shifts
    are orthonormal: the identity leaves an image unchanged. Borders are reflected.
    """
    n = x.shape[-1]
    enlarge, reduce = _resampling(n, x.dtype, x.device)
    length = enlarge.shape[0]
    # Positions of the enlarged samples in pixels, the first pixel's centre at 0.
    first = -SYM6_CENTRE / 2
    at = torch.arange(length, dtype=x.dtype, device=x.device) / 2 + first
    half = (at + 0.5) * (2 / n) - 1
    target = torch.stack(
        [
            half.expand(length, length),
            half[:, None].expand(length, length),
            torch.ones_like(half).expand(length, length),
        ]
    )
    source = (warp[:, :2] @ target.flatten(1) + 1) * (n / 2) - 0.5
    # Positions beyond the enlarged margin are reflected.
    folded = n - 0.5 - (torch.remainder(source + 0.5, 2 * n) - n).abs()
    last = first + (length - 1) / 2
    beyond = (source < first - 0.25) | (source > last + 0.25)
    source = torch.where(beyond, folded, source)
    index = (source - first) * (4 / (length - 1)) - 1
    grid = index.reshape(-1, 2, length, length).permute(0, 2, 3, 1)
    y = enlarge @ x @ enlarge.T
    y = F.grid_sample(y, grid, mode="bilinear", padding_mode="border", align_corners=True)
    y = reduce @ y @ reduce.T
    v, c = x.shape[:2]
    flat = y.reshape(v, c // 3, 3, n * n)
    return (colours[:, None, :, :3] @ flat + colours[:, None, :, 3:]).reshape(v, c, n, n)


@lru_cache(maxsize=32)
def _resampling(n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Matrices that enlarge n samples twofold, with the filter's margins, and reduce them again."""
    with torch.inference_mode(False):
        taps = torch.tensor(SYM6, dtype=torch.float64)
        length = 2 * n + len(SYM6) - 2
        enlarge = torch.zeros(length, n, dtype=torch.float64)
        reduce = torch.zeros(n, length, dtype=torch.float64)
        margin = len(SYM6) // 2
        for i in range(-margin, n + margin):
            inside = i % (2 * n)  # mirrored about the outer edges of the border pixels
            inside = inside if inside < n else 2 * n - 1 - inside
            for k in range(len(SYM6)):
                j = 2 * i + k
                if 0 <= j < length:
                    enlarge[j, inside] += taps[k] * math.sqrt(2)
                    if 0 <= i < n:
                        reduce[i, j] = taps[k] / math.sqrt(2)
        return enlarge.to(device, dtype), reduce.to(device, dtype)


@lru_cache(maxsize=8)
def _colour_axes(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Projections on the grey axis and on the plane of hues, and the quarter turn within it."""
    with torch.inference_mode(False):
        grey = torch.full((3, 3), 1 / 3, dtype=torch.float64)
        plane = torch.eye(3, dtype=torch.float64) - grey
        turn = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]).double() / 3**0.5
        return grey.to(device, dtype), plane.to(device, dtype), turn.to(device, dtype)


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([x for row in rows for x in row], dim=1).reshape(-1, 3, 3)


def _rotation(angle: Float[Tensor, " v"]) -> Float[Tensor, "v 3 3"]:
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return _matrix([[cos, -sin, zero], [sin, cos, zero], [zero, zero, one]])


def _scaling(x: Float[Tensor, " v"], y: Float[Tensor, " v"]) -> Float[Tensor, "v 3 3"]:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix([[x, zero, zero], [zero, y, zero], [zero, zero, one]])


def _translation(shift: Float[Tensor, "v 2"]) -> Float[Tensor, "v 3 3"]:
    x, y = shift.unbind(1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix([[one, zero, x], [zero, one, y], [zero, zero, one]])
