"""EQ-T and EQ-R: does a picture move with its network's input? (Karras et al. 2021, appendix E)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d

from lightning_gan3d.contract import transformed
from lightning_gan3d.draws import Draws
from lightning_gan3d.generator import Generator
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.consistency.image_similarity import psnr
from lightning_gan3d.metrics.context import NOT_FINITE, EvaluationContext
from lightning_gan3d.metrics.sources import GeneratorSource

LOBES, UP = 3, 4
"""Radius of the Lanczos kernel in pixels, and samples per pixel of rotated images."""
REACH = math.ceil(LOBES * math.sqrt(2))
"""Radius of the rotated kernel in pixels."""
FURTHEST = 0.125
"""Largest translation along each axis, as a share of the image."""
KINDS = {
    "eq_t_int": "translation by up to 1/8 of the image, in whole pixels",
    "eq_t_frac": "translation by up to 1/8 of the image, Lanczos filter of 3 pixels",
    "eq_r": "rotation by any angle, each image low-pass filtered to the other's pixel grid "
            "(Lanczos, 3 pixels)",
}  # fmt: skip
"""Definition of each metric, by the last part of its name."""


def lanczos(x: Tensor) -> Tensor:
    """Lanczos kernel; `x` in pixels."""
    return torch.sinc(x) * torch.sinc(x / LOBES) * (x.abs() < LOBES)


def look_up(image: Float[Tensor, "c n n"], at: Float[Tensor, "h w 2"]) -> Float[Tensor, "c h w"]:
    """Interpolate at positions (x, y) in pixels from the centre; the border is repeated."""
    at = at + (image.shape[-1] - 1) / 2
    taps = at.floor()[:, :, None] + torch.arange(1 - LOBES, LOBES + 1).to(at)[:, None]
    weights = lanczos(at[:, :, None] - taps)
    x, y = (weights / weights.sum(dim=2, keepdim=True)).unbind(-1)
    column, row = taps.long().clamp(0, image.shape[-1] - 1).unbind(-1)
    result = torch.zeros_like(at[None, :, :, 0])
    for i in range(2 * LOBES):
        for j in range(2 * LOBES):
            result = result + image[:, row[..., i], column[..., j]] * (y[..., i] * x[..., j])
    return result


def grid(size: int, samples: int = 1, beyond: int = 0) -> Float[Tensor, "h h 2"]:
    """Positions (x, y) of pixels from the centre, or of several samples per pixel."""
    half = (size - 1) / 2 + beyond
    line = torch.linspace(-half, half, round(2 * half * samples) + 1)
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)


def reduced(fine: Float[Tensor, "c n n"], turn: Float[Tensor, "2 2"]) -> Float[Tensor, "c h h"]:
    """Filter samples by the Lanczos kernel of a rotated pixel grid, and keep one per pixel."""
    kernel = lanczos(grid(2 * REACH + 1, UP).to(turn) @ turn.T).prod(dim=-1)
    return conv2d(fine[:, None], (kernel / kernel.sum())[None, None], stride=UP)[:, 0]


def squared_error(
    image: Float[Tensor, "c h h"], moved: Float[Tensor, "c h h"], matrix: Float[Tensor, "3 3"]
) -> tuple[Tensor, Tensor]:
    """Sum of squared differences of `moved` and the transformed image, and number of values.

    `matrix`: that of `Representation.input_transform`, with which `moved` was generated. Only
    pixels whose filter support lies inside both images count.
    """
    size, turn = image.shape[-1], matrix[:2, :2]
    at, shift = grid(size).to(image), matrix[:2, 2] * size
    origin = at @ turn.T + shift
    if torch.equal(turn, torch.eye(2).to(turn)):
        reference, outermost = look_up(image, origin), origin.abs()
        margin = 0.0 if torch.allclose(shift, shift.round(), atol=1e-4) else float(LOBES)
    else:
        fine = grid(size, UP, REACH).to(image)
        reference = reduced(look_up(image, fine @ turn.T + shift), torch.eye(2).to(turn))
        moved = reduced(look_up(moved, fine), turn)
        outermost = torch.maximum(origin.abs(), at.abs())
        margin = LOBES * (1 + float(turn[0].abs().sum()))
    inside = outermost.amax(dim=-1) <= (size - 1) / 2 - margin + 1e-3
    return ((reference - moved).square() * inside).sum(), inside.sum() * len(image)


def draw(kind: str, draws: Draws, size: int) -> Float[Tensor, "3 3"]:
    """Draw the input transform of one latent."""
    u, matrix = 2 * draws.uniform("transform", (3,)) - 1, torch.eye(3)
    if kind == "eq_r":
        c, s = (math.pi * u[2]).cos(), (math.pi * u[2]).sin()
        matrix[:2, :2] = torch.stack([c, s, -s, c]).view(2, 2)
    else:
        pixels = -FURTHEST * size * u[:2]
        matrix[:2, 2] = (pixels.round() if kind == "eq_t_int" else pixels) / size
    return matrix


def measure_equivariance(context: EvaluationContext) -> list[Metric]:
    """Measure the equivariance of generators whose input can be transformed."""
    if context.cfg.motion is None or context.cfg.motion.equivariance is None:
        return []
    return [_measure(kind, context, context.cfg.motion.equivariance) for kind in KINDS]


def _measure(kind: str, context: EvaluationContext, latents: int) -> Metric:
    source, name = context.source, f"motion.{kind}"
    generator = source.generator if isinstance(source, GeneratorSource) else None
    if not isinstance(generator, Generator) or generator.representation.input_transform is None:
        return missing(name, "the network has no input that can be transformed", "dB")
    sums = []
    for i in range(latents):
        item = torch.tensor([i])
        cameras = source.base(item)
        image = source.views(item, cameras).image[0].float()
        matrix = draw(kind, Draws(context.seed).scope("equivariance").at(i), image.shape[-1])
        try:
            with transformed(generator.representation, matrix):
                moved = source.views(item, cameras).image[0].float()
        except NotImplementedError as why:
            return missing(name, str(why), "dB")
        sums.append(torch.stack(squared_error(image, moved, matrix.to(image))).double().cpu())
    error, num = torch.stack(sums).unbind(1)
    if not bool(error.isfinite().all()):
        return missing(name, NOT_FINITE, "dB")
    value, each = psnr(error.sum() / num.sum() / 4), psnr(error / num / 4)  # of images in [0, 1]
    note = f"{KINDS[kind]}; PSNR over all compared pixels of images in [-1, 1]; constant noise"
    return Metric(name, float(value), "dB", latents, float(each.std(correction=0)), note)
