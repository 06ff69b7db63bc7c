"""Triton: the kernels over points of the forward pass, and of q, which the backward pass needs.

A program serves a tile of 64 rays and a run of their samples. Per-sample scalars are tables of
(scenes, rays, samples), coarse before fine; nothing wider than a scalar is stored per sample.
"""

from typing import no_type_check

import triton
import triton.language as tl

from renderers.fused.gpu.decode_kernels import (
    activate,
    gather,
    matrix,
    points_of,
    product,
    rays_of,
    vector,
)


@triton.jit
@no_type_check
def task(tiles, splits, num, first):
    """Scene, tile, part and samples of a task; the parts of a tile are neighbours."""
    pid = tl.program_id(0)
    part = pid % splits
    each = tl.cdiv(num, splits)
    begin = first + part * each
    return (
        pid // splits // tiles,
        pid // splits % tiles,
        part,
        begin,
        min(begin + each, first + num),
    )


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
    EMPTY_OUTSIDE: tl.constexpr,
    C: tl.constexpr,
    CP: tl.constexpr,
    HIDDEN: tl.constexpr,
    HP: tl.constexpr,
    GRIDS: tl.constexpr,
    AXES: tl.constexpr,
    SHAPE: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    MULTIPLY: tl.constexpr,
):
    """Raw density of samples `first` to `first + num`; -inf, which absorbs nothing, outside."""
    scene, tile, _, begin, end = task(tiles, splits, num, first)
    ray, ok = rays_of(tile, num_rays, TILE, WIDTH)
    ray += scene * num_rays
    texels += scene.to(tl.int64) * (GRIDS * SHAPE[0] * SHAPE[1] * SHAPE[2] * C)
    weight = matrix(w1, HIDDEN, C, HP, CP, True)
    bias = vector(b1, HIDDEN, HP)
    head = vector(w2, HIDDEN, HP)
    for s in range(begin, end):
        at = ray * samples + s
        distance = tl.load(t + at, mask=ok, other=0.0)
        x, y, z = points_of(origins, dirs, ray, distance, ok)
        x *= scale
        y *= scale
        z *= scale
        read = ok
        if EMPTY_OUTSIDE:
            read &= tl.maximum(tl.maximum(tl.abs(x), tl.abs(y)), tl.abs(z)) <= 1
        feature = gather(texels, x, y, z, read, C, CP, GRIDS, AXES, SHAPE)
        hidden = activate(product(feature, weight, MULTIPLY) + bias[None, :], ACTIVATION)
        raw = tl.sum(hidden * head[None, :], 1) + tl.load(b2)
        if PRIOR:
            radius = tl.sqrt(x * x + y * y + z * z)
            raw += prior_strength * (prior_radius - radius)
        if NOISE:
            raw += tl.load(noise + at, mask=ok, other=0.0)
        if EMPTY_OUTSIDE:
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
    wanted,
    scale,
    num_rays,
    samples,
    tiles,
    splits,
    SUM: tl.constexpr,
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
    """Decode the features c of all samples, and sum them along rays, or against a gradient.

    SUM: `given` are the weights omega of the samples, `wanted` (splits, scenes, rays, features) is
    sum omega_i c_i over each part; samples without weight are not read. Else `given` is the
    gradient g (scenes, rays, features) of such a sum, `wanted` are q_i = g . c_i of each sample.
    """
    scene, tile, part, begin, end = task(tiles, splits, samples, 0)
    ray, ok = rays_of(tile, num_rays, TILE, WIDTH)
    ray += scene * num_rays
    texels += scene.to(tl.int64) * (GRIDS * SHAPE[0] * SHAPE[1] * SHAPE[2] * C)
    weight = matrix(w1, HIDDEN, C, HP, CP, True)
    bias = vector(b1, HIDDEN, HP)
    out_weight = matrix(w2 + HIDDEN, FEATURES, HIDDEN, FP, HP, True)
    out_bias = vector(b2 + 1, FEATURES, FP)
    f = tl.arange(0, FP)
    per_ray = ray[:, None] * FEATURES + f[None, :]
    mask = ok[:, None] & (f < FEATURES)[None, :]
    total = tl.zeros((TILE[0] * TILE[1], FP), tl.float32)
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
        feature = gather(texels, x * scale, y * scale, z * scale, read, C, CP, GRIDS, AXES, SHAPE)
        hidden = activate(product(feature, weight, MULTIPLY) + bias[None, :], ACTIVATION)
        out = product(hidden, out_weight, MULTIPLY) + out_bias[None, :]
        decoded = tl.sigmoid(out) * 1.002 - 0.001
        if SUM:
            total += omega[:, None] * decoded
        else:
            tl.store(wanted + at, tl.sum(total * decoded, 1), mask=ok)
    if SUM:
        rays_in_all = tl.num_programs(0) // splits // tiles * num_rays
        wanted += part.to(tl.int64) * rays_in_all * FEATURES
        tl.store(wanted + per_ray, total, mask=mask)
