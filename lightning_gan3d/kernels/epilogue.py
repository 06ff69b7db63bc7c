"""All that follows the convolution of a synthesis layer, in one pass over memory, in Triton.

    y = clamp(leaky_relu(fir(x) * demod + noise * strength + bias, 0.2), -clamp, clamp)

Activations are read and written in their own precision, with their channels innermost; everything
between is float32. The backward pass is first order, and needs only the output, which the next
convolution keeps anyway: where the clamp acted the gradient is 0, and elsewhere the output tells
what went into the leaky ReLU, but for its rounding.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

PIXELS, CHANNELS = 32, 64
"""A program's block: consecutive pixels of one image times channels."""


@triton.jit
@no_type_check
def tap(k):
    """Tap k of [1, 3, 3, 1] / 4: the binomial filter with the gain 2 of an upsampled axis."""
    return tl.where((k == 0) | (k == 3), 0.25, 0.75)


@triton.jit
@no_type_check
def forward_kernel(
    x,
    demod,
    noise,
    strength,
    bias,
    y,
    clamp,
    height,
    width,
    channels,
    FIR: tl.constexpr,
    NOISE: tl.constexpr,
    PER_IMAGE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One block of one image; `height` and `width` are of the output, x is 1 larger under FIR."""
    v = tl.program_id(2)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    ok = (pixel < height * width)[:, None] & (c < channels)[None, :]
    row, column = pixel // width, pixel % width
    if FIR:
        x += v.to(tl.int64) * (height + 1) * (width + 1) * channels
        total = tl.zeros((PIXELS, CHANNELS), tl.float32)
        for k in tl.static_range(16):
            i, j = row + (k // 4 - 1), column + (k % 4 - 1)
            inside = (i >= 0) & (i <= height) & (j >= 0) & (j <= width)
            at = (i * (width + 1) + j)[:, None] * channels + c[None, :]
            value = tl.load(x + at, mask=ok & inside[:, None], other=0.0).to(tl.float32)
            total += tap(k // 4) * tap(k % 4) * value
    else:
        x += v.to(tl.int64) * height * width * channels
        at = pixel[:, None] * channels + c[None, :]
        total = tl.load(x + at, mask=ok, other=0.0).to(tl.float32)
    total *= tl.load(demod + v * channels + c, mask=c < channels, other=0.0)[None, :]
    total += tl.load(bias + c, mask=c < channels, other=0.0)[None, :]
    if NOISE:
        at = pixel + (v * height * width if PER_IMAGE else 0)
        drawn = tl.load(noise + at, mask=pixel < height * width, other=0.0)
        total += (drawn * tl.load(strength))[:, None]
    total = tl.where(total > 0, total, 0.2 * total)
    total = tl.minimum(tl.maximum(total, -clamp), clamp)
    y += v.to(tl.int64) * height * width * channels
    tl.store(y + pixel[:, None] * channels + c[None, :], total.to(y.dtype.element_ty), mask=ok)


@triton.jit
@no_type_check
def sums_kernel(
    y,
    g,
    demod,
    noise,
    strength,
    bias,
    d_demod,
    d_bias,
    d_strength,
    clamp,
    height,
    width,
    channels,
    NOISE: tl.constexpr,
    PER_IMAGE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Partial sums over STEPS blocks of pixels: (images, programs, channels), and of strength."""
    v, part, channel = tl.program_id(2), tl.program_id(0), tl.program_id(1)
    parts = tl.num_programs(0)
    c = channel * CHANNELS + tl.arange(0, CHANNELS)
    known = c < channels
    factor = tl.load(demod + v * channels + c, mask=known, other=1.0)[None, :]
    shift = tl.load(bias + c, mask=known, other=0.0)[None, :]
    base = v.to(tl.int64) * height * width * channels
    sum_demod = tl.zeros((CHANNELS,), tl.float32)
    sum_bias = tl.zeros((CHANNELS,), tl.float32)
    sum_strength = tl.zeros((PIXELS,), tl.float32)
    for step in range(STEPS):
        pixel = (part * STEPS + step) * PIXELS + tl.arange(0, PIXELS)
        ok = (pixel < height * width)[:, None] & known[None, :]
        at = base + pixel[:, None] * channels + c[None, :]
        out = tl.load(y + at, mask=ok, other=0.0).to(tl.float32)
        slope = tl.load(g + at, mask=ok, other=0.0).to(tl.float32)
        slope = tl.where(tl.abs(out) < clamp, tl.where(out > 0, slope, 0.2 * slope), 0.0)
        before = tl.where(out > 0, out, 5.0 * out) - shift
        if NOISE:
            at_noise = pixel + (v * height * width if PER_IMAGE else 0)
            drawn = tl.load(noise + at_noise, mask=pixel < height * width, other=0.0)
            before -= (drawn * tl.load(strength))[:, None]
            sum_strength += tl.sum(slope, 1) * drawn
        sum_demod += tl.sum(slope * before, 0)
        sum_bias += tl.sum(slope, 0)
    at = (v * parts + part) * channels + c
    tl.store(d_demod + at, sum_demod / tl.sum(factor, 0), mask=known)
    tl.store(d_bias + at, sum_bias, mask=known)
    if NOISE:
        place = (v * parts + part) * tl.num_programs(1) + channel
        tl.store(d_strength + place, tl.sum(sum_strength, 0))


@triton.jit
@no_type_check
def input_kernel(
    y,
    g,
    demod,
    d_x,
    clamp,
    height,
    width,
    channels,
    FIR: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Gradient by x: that by the sum before the activation, demodulated, and filtered back."""
    v = tl.program_id(2)
    tall, wide = height, width
    if FIR:
        tall, wide = height + 1, width + 1
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    ok = (pixel < tall * wide)[:, None] & (c < channels)[None, :]
    row, column = pixel // wide, pixel % wide
    base = v.to(tl.int64) * height * width * channels
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for k in tl.static_range(16 if FIR else 1):
        i, j = row, column
        if FIR:
            i, j = row - (k // 4 - 1), column - (k % 4 - 1)
        inside = ok & ((i >= 0) & (i < height) & (j >= 0) & (j < width))[:, None]
        at = base + (i * width + j)[:, None] * channels + c[None, :]
        out = tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
        slope = tl.load(g + at, mask=inside, other=0.0).to(tl.float32)
        slope = tl.where(tl.abs(out) < clamp, tl.where(out > 0, slope, 0.2 * slope), 0.0)
        if FIR:
            slope *= tap(k // 4) * tap(k % 4)
        total += slope
    total *= tl.load(demod + v * channels + c, mask=c < channels, other=0.0)[None, :]
    d_x += v.to(tl.int64) * tall * wide * channels
    at = pixel[:, None] * channels + c[None, :]
    tl.store(d_x + at, total.to(d_x.dtype.element_ty), mask=ok)


class _Epilogue(torch.autograd.Function):
    """On (v, h, w, c) tensors without gaps."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        demod: Tensor,
        bias: Tensor,
        strength: Tensor | None,
        noise: Tensor | None,
        clamp: float,
        fir: bool,
    ) -> Tensor:
        v, height, width, channels = x.shape
        if fir:
            height, width = height - 1, width - 1
        y = x.new_empty(v, height, width, channels)
        noisy = {"NOISE": noise is not None, "PER_IMAGE": noise is not None and noise.ndim > 2}
        sizes = (clamp, height, width, channels)
        forward_kernel[_programs(height * width, channels, v)](
            x,
            demod,
            bias if noise is None else noise,
            bias if strength is None else strength,
            bias,
            y,
            *sizes,
            FIR=fir,
            **noisy,
            PIXELS=PIXELS,
            CHANNELS=CHANNELS,
        )
        ctx.save_for_backward(y, demod, bias, strength, noise)
        ctx.sizes, ctx.fir, ctx.noisy = sizes, fir, noisy
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        y, demod, bias, strength, noise = ctx.saved_tensors
        g, fir = gradients[0].contiguous(), ctx.fir
        _, height, width, channels = ctx.sizes
        d_x = y.new_empty(len(y), height + fir, width + fir, channels)
        input_kernel[_programs((height + fir) * (width + fir), channels, len(y))](
            y, g, demod, d_x, *ctx.sizes, FIR=fir, PIXELS=PIXELS, CHANNELS=CHANNELS
        )
        steps = min(16, triton.cdiv(height * width, PIXELS))
        parts, blocks, _ = grid = _programs(triton.cdiv(height * width, steps), channels, len(y))
        d_demod, d_bias = (demod.new_empty(len(y), parts, channels) for _ in range(2))
        d_strength = demod.new_empty(len(y), parts, blocks)
        sums_kernel[grid](
            y,
            g,
            demod,
            bias if noise is None else noise,
            bias if strength is None else strength,
            bias,
            d_demod,
            d_bias,
            d_strength,
            *ctx.sizes,
            **ctx.noisy,
            PIXELS=PIXELS,
            CHANNELS=CHANNELS,
            STEPS=steps,
        )
        by_strength = None if strength is None else d_strength.sum().reshape(strength.shape)
        return d_x, d_demod.sum(1), d_bias.sum((0, 1)), by_strength, None, None, None


def _programs(pixels: int, channels: int, images: int) -> tuple[int, int, int]:
    return triton.cdiv(pixels, PIXELS), triton.cdiv(channels, CHANNELS), images


def epilogue(
    x: Float[Tensor, "v c h w"],
    demod: Float[Tensor, "v c"],
    bias: Float[Tensor, " c"],
    noise: Float[Tensor, "h2 w2"] | Float[Tensor, "v 1 h2 w2"] | None = None,
    strength: Float[Tensor, ""] | None = None,
    clamp: float | None = None,
    fir: bool = False,
) -> Float[Tensor, "v c h2 w2"]:
    """Filter, demodulate, add noise and bias, activate and clamp.

    `x`: what the convolution returned, best in `torch.channels_last` (else it is copied). Gains are
    folded into `demod`, `bias` and `strength` by the caller, as in `SynthesisLayer`. `fir`: filter
    what a convolution transposed with stride 2 returned, one larger than the output in height and
    width, by [1, 3, 3, 1] with gain 2 per axis: `resample.fir(x, 1, gain=2.0)`. Differentiable once
    by x, demod, bias and strength. Raises a ValueError where noise comes without a strength, or
    requires a gradient.
    """
    if (noise is None) != (strength is None):
        raise ValueError("epilogue: noise and strength go together; give both or neither")
    if noise is not None and noise.requires_grad:
        raise ValueError("epilogue: noise requires a gradient, which is not computed; detach it")
    if noise is not None:
        noise = noise.float().contiguous()
    y: Tensor = _Epilogue.apply(
        rearrange(x, "v c h w -> v h w c").contiguous(),
        demod.float().contiguous(),
        bias.float().contiguous(),
        None if strength is None else strength.float(),
        noise,
        float("inf") if clamp is None else clamp,
        fir,
    )
    return rearrange(y, "v h w c -> v c h w")
