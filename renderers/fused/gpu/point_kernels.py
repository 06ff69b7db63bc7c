"""Triton: kernels over points: density, features, and gradients of texels and decoder.

A program serves a tile of rays and a range of their samples. Tables of samples are (scenes, rays,
samples), coarse samples before fine ones. Only scalars are stored per sample; the backward kernel
computes features and hidden units again.
"""

from typing import no_type_check

import triton
import triton.language as tl

from renderers.fused.gpu.decode_kernels import (
    activate,
    activation_slope,
    gather,
    gradient_product,
    hidden_weight_t,
    out_weight_t,
    points_of,
    product,
    rays_of,
    scatter,
    vector,
)


@triton.jit
@no_type_check
def task(tiles, splits, num, first):
    """Scene, tile, split and samples of a program; splits of a tile are neighbours."""
    pid = tl.program_id(0)
    split = pid % splits
    each = tl.cdiv(num, splits)
    begin = first + split * each
    return (
        pid // splits // tiles,
        pid // splits % tiles,
        split,
        begin,
        min(begin + each, first + num),
    )


@triton.jit
@no_type_check
def scene_offset(scene, GRID: tl.constexpr):
    """Elements before the first texel of a scene."""
    size = GRID.grids * GRID.shape[0] * GRID.shape[1] * GRID.shape[2] * GRID.channels
    return scene.to(tl.int64) * size


@triton.jit
@no_type_check
def sigma_kernel(
    texels,
    origins,
    dirs,
    t,
    noise,
    w1,
    b1,
    w2,
    b2,
    sigma,
    scale,
    prior_strength,
    prior_radius,
    num_rays,
    samples,
    first,
    num,
    tiles,
    splits,
    NOISE: tl.constexpr,
    PRIOR: tl.constexpr,
    MASKED: tl.constexpr,
    GRID: tl.constexpr,
    NET: tl.constexpr,
    TILE: tl.constexpr,
):
    """Raw density of samples `first` to `first + num`.

    MASKED: -inf, which absorbs nothing, outside the box.
    """
    scene, tile, _, begin, end = task(tiles, splits, num, first)
    ray, ok = rays_of(tile, num_rays, TILE)
    ray += scene * num_rays
    texels += scene_offset(scene, GRID)
    weight = hidden_weight_t(w1, GRID, NET)
    bias = vector(b1, NET.hidden, NET.padded_hidden)
    head = vector(w2, NET.hidden, NET.padded_hidden)
    for s in range(begin, end):
        at = ray * samples + s
        distance = tl.load(t + at, mask=ok, other=0.0)
        x, y, z = points_of(origins, dirs, ray, distance, ok)
        x *= scale
        y *= scale
        z *= scale
        read = ok
        if MASKED:
            read &= tl.maximum(tl.maximum(tl.abs(x), tl.abs(y)), tl.abs(z)) <= 1
        feature = gather(texels, (x, y, z), read, GRID)
        hidden = product(feature, weight, NET.precision) + bias[None, :]
        hidden = activate(hidden, NET.activation)
        raw = tl.sum(hidden * head[None, :], 1) + tl.load(b2)
        if PRIOR:
            radius = tl.sqrt(x * x + y * y + z * z)
            raw += prior_strength * (prior_radius - radius)
        if NOISE:
            raw += tl.load(noise + at, mask=ok, other=0.0)
        if MASKED:
            raw = tl.where(read, raw, float("-inf"))
        tl.store(sigma + at, raw, mask=ok)


@triton.jit
@no_type_check
def feature_kernel(
    texels,
    origins,
    dirs,
    t,
    given,
    w1,
    b1,
    w2,
    b2,
    result,
    scale,
    num_rays,
    samples,
    tiles,
    splits,
    SUM: tl.constexpr,
    GRID: tl.constexpr,
    NET: tl.constexpr,
    TILE: tl.constexpr,
):
    """Decode the features c of all samples; sum them along rays, or multiply by a gradient.

    SUM: `given` are the weights omega of the samples, `result` (splits, scenes, rays, features) is
    sum omega_i c_i over each split; samples of weight 0 are not read. Else `given` is the gradient
    g (scenes, rays, features) of such a sum, and `result` is q_i = g . c_i of each sample.
    """
    scene, tile, split, begin, end = task(tiles, splits, samples, 0)
    ray, ok = rays_of(tile, num_rays, TILE)
    ray += scene * num_rays
    texels += scene_offset(scene, GRID)
    weight = hidden_weight_t(w1, GRID, NET)
    bias = vector(b1, NET.hidden, NET.padded_hidden)
    out_weight = out_weight_t(w2, NET)
    out_bias = vector(b2 + 1, NET.features, NET.padded_features)
    f = tl.arange(0, NET.padded_features)
    per_ray = ray[:, None] * NET.features + f[None, :]
    mask = ok[:, None] & (f < NET.features)[None, :]
    total = tl.zeros((TILE.rows * TILE.columns, NET.padded_features), tl.float32)
    if not SUM:
        total = tl.load(given + per_ray, mask=mask, other=0.0)
    for s in range(begin, end):
        at = ray * samples + s
        distance = tl.load(t + at, mask=ok, other=0.0)
        x, y, z = points_of(origins, dirs, ray, distance, ok)
        read = ok
        if SUM:
            omega = tl.load(given + at, mask=ok, other=0.0)
            read &= omega != 0
        feature = gather(texels, (x * scale, y * scale, z * scale), read, GRID)
        hidden = product(feature, weight, NET.precision) + bias[None, :]
        hidden = activate(hidden, NET.activation)
        out = product(hidden, out_weight, NET.precision) + out_bias[None, :]
        decoded = tl.sigmoid(out) * 1.002 - 0.001
        if SUM:
            total += omega[:, None] * decoded
        else:
            tl.store(result + at, tl.sum(total * decoded, 1), mask=ok)
    if SUM:
        all_rays = tl.num_programs(0) // splits // tiles * num_rays
        result += split.to(tl.int64) * all_rays * NET.features
        tl.store(result + per_ray, total, mask=mask)


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
    GRID: tl.constexpr,
    NET: tl.constexpr,
    TILE: tl.constexpr,
):
    """Add to the gradient of the texels, and to one partial sum per program for the decoder.

    `omega`, `d_sigma`: weight, and gradient of the raw density, of each sample; samples where both
    are 0 are not read. `partials` (programs, size): w1, b1, w2 of density, w2, b2, padded.
    """
    pid = tl.program_id(0)
    weight = hidden_weight_t(w1, GRID, NET)
    out_weight = out_weight_t(w2, NET)
    CP: tl.constexpr = GRID.padded
    HP: tl.constexpr = NET.padded_hidden
    FP: tl.constexpr = NET.padded_features
    f = tl.arange(0, FP)
    d_w1 = tl.zeros((HP, CP), tl.float32)
    d_w2 = tl.zeros((HP, FP), tl.float32)
    d_b1 = tl.zeros((HP,), tl.float32)
    d_head = tl.zeros((HP,), tl.float32)
    d_b2 = tl.zeros((FP,), tl.float32)
    d_b0 = tl.zeros((TILE.rows * TILE.columns,), tl.float32)
    each = tl.cdiv(samples, splits)
    for index in range(pid, tasks, tl.num_programs(0)):
        begin = index % splits * each
        end = min(begin + each, samples)
        scene = index // splits // tiles
        ray, ok = rays_of(index // splits % tiles, num_rays, TILE)
        ray += scene * num_rays
        offset = scene_offset(scene, GRID)
        per_ray = ray[:, None] * NET.features + f[None, :]
        mask = ok[:, None] & (f < NET.features)[None, :]
        for s in range(begin, end):
            at = ray * samples + s
            weighed = tl.load(omega + at, mask=ok, other=0.0)
            d_raw = tl.load(d_sigma + at, mask=ok, other=0.0)
            used = ok & ((weighed != 0) | (d_raw != 0))
            x, y, z = points_of(origins, dirs, ray, tl.load(t + at, mask=ok, other=0.0), ok)
            x *= scale
            y *= scale
            z *= scale
            feature = gather(texels + offset, (x, y, z), used, GRID)
            hidden = product(feature, weight, NET.precision)
            hidden = activate(hidden + vector(b1, NET.hidden, HP)[None, :], NET.activation)
            out = product(hidden, out_weight, NET.precision)
            share = tl.sigmoid(out + vector(b2 + 1, NET.features, FP)[None, :])
            gradient = tl.load(d_feature + per_ray, mask=mask, other=0.0) * 1.002
            d_out = weighed[:, None] * gradient * (share * (1 - share))
            d_w2 += gradient_product(tl.trans(hidden), d_out, NET.precision)
            d_b2 += tl.sum(d_out, 0)
            d_head += tl.sum(d_raw[:, None] * hidden, 0)
            d_b0 += d_raw
            d_before = (
                gradient_product(d_out, tl.trans(out_weight), NET.precision)
                + d_raw[:, None] * vector(w2, NET.hidden, HP)[None, :]
            )
            d_before *= activation_slope(hidden, NET.activation)
            d_w1 += gradient_product(tl.trans(d_before), feature, NET.precision)
            d_b1 += tl.sum(d_before, 0)
            slope = gradient_product(d_before, tl.trans(weight), NET.precision)
            scatter(d_texels + offset, slope, (x, y, z), used, GRID)
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
