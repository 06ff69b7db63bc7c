"""Triton: gradients of texels and decoder, by computing features and hidden units once more."""

from typing import no_type_check

import triton
import triton.language as tl

from renderers.fused.gpu.decode_kernels import (
    activate,
    activation_slope,
    gather,
    gradient_product,
    matrix,
    points_of,
    product,
    rays_of,
    scatter,
    vector,
)


@triton.jit
@no_type_check
def gradient_kernel(
    texels,
    origins,
    dirs,
    t,
    omega,
    d_sigma,
    d_feature,
    w1,
    b1,
    w2,
    b2,
    d_texels,
    partials,
    scale,
    num_rays,
    samples,
    tiles,
    splits,
    tasks,
    C: tl.constexpr,
    CP: tl.constexpr,
    HIDDEN: tl.constexpr,
    HP: tl.constexpr,
    FEATURES: tl.constexpr,
    FP: tl.constexpr,
    GRIDS: tl.constexpr,
    AXES: tl.constexpr,
    SHAPE: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    MULTIPLY: tl.constexpr,
):
    """Add to the gradient of the texels, and to one partial sum per program for the decoder.

    `omega`, `d_sigma`: weight and gradient of the raw density of each sample; samples where both
    are 0 are not read. `partials` (programs, size) holds w1, b1, w2 of density, w2, b2, padded.
    """
    pid = tl.program_id(0)
    weight = matrix(w1, HIDDEN, C, HP, CP, True)
    out_weight = matrix(w2 + HIDDEN, FEATURES, HIDDEN, FP, HP, True)
    f = tl.arange(0, FP)
    d_w1 = tl.zeros((HP, CP), tl.float32)
    d_w2 = tl.zeros((HP, FP), tl.float32)
    d_b1 = tl.zeros((HP,), tl.float32)
    d_head = tl.zeros((HP,), tl.float32)
    d_b2 = tl.zeros((FP,), tl.float32)
    d_b0 = tl.zeros((TILE[0] * TILE[1],), tl.float32)
    each = tl.cdiv(samples, splits)
    for index in range(pid, tasks, tl.num_programs(0)):
        begin = index % splits * each
        end = min(begin + each, samples)
        scene = index // splits // tiles
        ray, ok = rays_of(index // splits % tiles, num_rays, TILE, WIDTH)
        ray += scene * num_rays
        offset = scene.to(tl.int64) * (GRIDS * SHAPE[0] * SHAPE[1] * SHAPE[2] * C)
        per_ray = ray[:, None] * FEATURES + f[None, :]
        mask = ok[:, None] & (f < FEATURES)[None, :]
        for s in range(begin, end):
            at = ray * samples + s
            weighed = tl.load(omega + at, mask=ok, other=0.0)
            d_raw = tl.load(d_sigma + at, mask=ok, other=0.0)
            used = ok & ((weighed != 0) | (d_raw != 0))
            x, y, z = points_of(origins, dirs, ray, tl.load(t + at, mask=ok, other=0.0), ok)
            x *= scale
            y *= scale
            z *= scale
            feature = gather(texels + offset, x, y, z, used, C, CP, GRIDS, AXES, SHAPE)
            hidden = activate(
                product(feature, weight, MULTIPLY) + vector(b1, HIDDEN, HP)[None, :], ACTIVATION
            )
            share = tl.sigmoid(
                product(hidden, out_weight, MULTIPLY) + vector(b2 + 1, FEATURES, FP)[None, :]
            )
            gradient = tl.load(d_feature + per_ray, mask=mask, other=0.0) * 1.002
            d_out = weighed[:, None] * gradient * (share * (1 - share))
            d_w2 += gradient_product(tl.trans(hidden), d_out, MULTIPLY)
            d_b2 += tl.sum(d_out, 0)
            d_head += tl.sum(d_raw[:, None] * hidden, 0)
            d_b0 += d_raw
            d_before = (
                gradient_product(d_out, tl.trans(out_weight), MULTIPLY)
                + d_raw[:, None] * vector(w2, HIDDEN, HP)[None, :]
            )
            d_before *= activation_slope(hidden, ACTIVATION)
            d_w1 += gradient_product(tl.trans(d_before), feature, MULTIPLY)
            d_b1 += tl.sum(d_before, 0)
            slope = gradient_product(d_before, tl.trans(weight), MULTIPLY)
            scatter(d_texels + offset, slope, x, y, z, used, C, CP, GRIDS, AXES, SHAPE)
    c = tl.arange(0, CP)
    h = tl.arange(0, HP)
    partials += pid * (CP * HP + HP + HP + HP * FP + FP + 1)
    tl.store(partials + h[:, None] * CP + c[None, :], d_w1)
    tl.store(partials + CP * HP + h, d_b1)
    tl.store(partials + CP * HP + HP + h, d_head)
    partials += CP * HP + HP + HP
    tl.store(partials + h[:, None] * FP + f[None, :], d_w2)
    tl.store(partials + HP * FP + f, d_b2)
    tl.store(partials + HP * FP + FP, tl.sum(d_b0, 0))
