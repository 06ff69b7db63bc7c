"""Triton: kernels over points: density, features, and gradients of texels and decoder.

A program serves a tile of rays and a range of their samples, coarse samples before fine ones. Only
scalars are stored per sample; the backward kernel computes features and hidden units again.
"""

from typing import Any, NamedTuple, no_type_check

import triton
import triton.language as tl

from renderers.fused.gpu.decode_kernels import (
    activate,
    activation_slope,
    gather,
    gradient_product,
    hidden_weight_t,
    out_weight_t,
    point_of,
    product,
    rays_of,
    scatter,
    vector,
)


class Work(NamedTuple):
    """Tasks of a scene: tiles of rays, and splits of the samples of a tile."""

    tiles: Any
    splits: Any


class SigmaRange(NamedTuple):
    """Raw densities of all samples, of which `first` to `first + num` are computed."""

    sigma: Any
    first: Any
    num: Any


class DensityTerms(NamedTuple):
    """Terms of the raw density besides the decoder's."""

    noise: Any
    prior_strength: Any
    prior_radius: Any


@triton.jit
@no_type_check
def part_of(work, task, first, num):
    """Scene, tile, split, and range of samples of a task; splits of a tile are neighbours."""
    split = task % work.splits
    each = tl.cdiv(num, work.splits)
    begin = first + split * each
    end = min(begin + each, first + num)
    return task // work.splits // work.tiles, task // work.splits % work.tiles, split, begin, end


@triton.jit
@no_type_check
def scene_offset(scene, GRID: tl.constexpr):
    """Elements before the first texel of a scene."""
    size = GRID.grids * GRID.shape[0] * GRID.shape[1] * GRID.shape[2] * GRID.channels
    return scene.to(tl.int64) * size


@triton.jit
@no_type_check
def sigma_kernel(scene, decoder, terms, result, work, SHAPE: tl.constexpr):
    """Raw density of samples."""
    NET: tl.constexpr = SHAPE.net
    batch, tile, _, begin, end = part_of(work, tl.program_id(0), result.first, result.num)
    ray, ok = rays_of(tile, scene.num_rays, SHAPE.tile)
    ray += batch * scene.num_rays
    texels = scene.texels + scene_offset(batch, SHAPE.grid)
    weight = hidden_weight_t(decoder.w1, SHAPE.grid, NET)
    bias = vector(decoder.b1, NET.hidden, NET.padded_hidden)
    head = vector(decoder.w2, NET.hidden, NET.padded_hidden)
    for s in range(begin, end):
        at = ray * scene.samples + s
        x, y, z = point_of(scene, ray, s, ok)
        inside = ok
        if SHAPE.masked:
            inside &= tl.maximum(tl.maximum(tl.abs(x), tl.abs(y)), tl.abs(z)) <= 1
        feature = gather(texels, (x, y, z), inside, SHAPE.grid)
        hidden = product(feature, weight, NET.precision) + bias[None, :]
        hidden = activate(hidden, NET.activation)
        raw = tl.sum(hidden * head[None, :], 1) + tl.load(decoder.b2)
        if SHAPE.prior:
            radius = tl.sqrt(x * x + y * y + z * z)
            raw += terms.prior_strength * (terms.prior_radius - radius)
        if SHAPE.noise:
            raw += tl.load(terms.noise + at, mask=ok, other=0.0)
        if SHAPE.masked:
            raw = tl.where(inside, raw, float("-inf"))
        tl.store(result.sigma + at, raw, mask=ok)


@triton.jit
@no_type_check
def feature_kernel(scene, decoder, tables, work, SUM: tl.constexpr, SHAPE: tl.constexpr):
    """Decode the features c of all samples; sum them along rays, or multiply by a gradient.

    `tables`: input and result. SUM: the input are the weights omega of the samples, the result
    (splits, scenes, rays, features) is sum omega_i c_i over each split; samples of weight 0 are not
    read. Else the input is the gradient g (scenes, rays, features) of such a sum, and the result is
    q_i = g . c_i of each sample.
    """
    given, result = tables
    NET: tl.constexpr = SHAPE.net
    batch, tile, split, begin, end = part_of(work, tl.program_id(0), 0, scene.samples)
    ray, ok = rays_of(tile, scene.num_rays, SHAPE.tile)
    ray += batch * scene.num_rays
    texels = scene.texels + scene_offset(batch, SHAPE.grid)
    weight = hidden_weight_t(decoder.w1, SHAPE.grid, NET)
    bias = vector(decoder.b1, NET.hidden, NET.padded_hidden)
    out_weight = out_weight_t(decoder.w2, NET)
    out_bias = vector(decoder.b2 + 1, NET.features, NET.padded_features)
    f = tl.arange(0, NET.padded_features)
    per_ray = ray[:, None] * NET.features + f[None, :]
    mask = ok[:, None] & (f < NET.features)[None, :]
    total = tl.zeros((SHAPE.tile.rows * SHAPE.tile.columns, NET.padded_features), tl.float32)
    if not SUM:
        total = tl.load(given + per_ray, mask=mask, other=0.0)
    for s in range(begin, end):
        at = ray * scene.samples + s
        point = point_of(scene, ray, s, ok)
        used = ok
        if SUM:
            omega = tl.load(given + at, mask=ok, other=0.0)
            used &= omega != 0
        feature = gather(texels, point, used, SHAPE.grid)
        hidden = product(feature, weight, NET.precision) + bias[None, :]
        hidden = activate(hidden, NET.activation)
        out = product(hidden, out_weight, NET.precision) + out_bias[None, :]
        decoded = tl.sigmoid(out) * 1.002 - 0.001
        if SUM:
            total += omega[:, None] * decoded
        else:
            tl.store(result + at, tl.sum(total * decoded, 1), mask=ok)
    if SUM:
        all_rays = tl.num_programs(0) // work.splits // work.tiles * scene.num_rays
        result += split.to(tl.int64) * all_rays * NET.features
        tl.store(result + per_ray, total, mask=mask)


@triton.jit
@no_type_check
def gradient_kernel(scene, decoder, tables, results, work, SHAPE: tl.constexpr):
    """Add to the gradient of the texels, and to one partial sum per program for the decoder.

    `tables`: weights omega, gradients of raw densities, gradient of the features' sums; samples
    with both of the first two 0 are not read. `results`: gradient of the texels; partial sums
    (programs, size) of w1, b1, w2 of density, w2, b2, padded; number of tasks.
    """
    omega, d_sigma, d_feature = tables
    d_texels, partials, tasks = results
    GRID: tl.constexpr = SHAPE.grid
    NET: tl.constexpr = SHAPE.net
    CP: tl.constexpr = GRID.padded
    HP: tl.constexpr = NET.padded_hidden
    FP: tl.constexpr = NET.padded_features
    pid = tl.program_id(0)
    weight = hidden_weight_t(decoder.w1, GRID, NET)
    out_weight = out_weight_t(decoder.w2, NET)
    f = tl.arange(0, FP)
    d_w1 = tl.zeros((HP, CP), tl.float32)
    d_w2 = tl.zeros((HP, FP), tl.float32)
    d_b1 = tl.zeros((HP,), tl.float32)
    d_head = tl.zeros((HP,), tl.float32)
    d_b2 = tl.zeros((FP,), tl.float32)
    d_b0 = tl.zeros((SHAPE.tile.rows * SHAPE.tile.columns,), tl.float32)
    for task in range(pid, tasks, tl.num_programs(0)):
        batch, tile, _, begin, end = part_of(work, task, 0, scene.samples)
        ray, ok = rays_of(tile, scene.num_rays, SHAPE.tile)
        ray += batch * scene.num_rays
        offset = scene_offset(batch, GRID)
        per_ray = ray[:, None] * NET.features + f[None, :]
        mask = ok[:, None] & (f < NET.features)[None, :]
        for s in range(begin, end):
            at = ray * scene.samples + s
            factor = tl.load(omega + at, mask=ok, other=0.0)
            d_raw = tl.load(d_sigma + at, mask=ok, other=0.0)
            used = ok & ((factor != 0) | (d_raw != 0))
            point = point_of(scene, ray, s, ok)
            feature = gather(scene.texels + offset, point, used, GRID)
            hidden = product(feature, weight, NET.precision)
            hidden = activate(hidden + vector(decoder.b1, NET.hidden, HP)[None, :], NET.activation)
            out = product(hidden, out_weight, NET.precision)
            share = tl.sigmoid(out + vector(decoder.b2 + 1, NET.features, FP)[None, :])
            gradient = tl.load(d_feature + per_ray, mask=mask, other=0.0) * 1.002
            d_out = factor[:, None] * gradient * (share * (1 - share))
            d_w2 += gradient_product(tl.trans(hidden), d_out, NET.precision)
            d_b2 += tl.sum(d_out, 0)
            d_head += tl.sum(d_raw[:, None] * hidden, 0)
            d_b0 += d_raw
            d_before = gradient_product(d_out, tl.trans(out_weight), NET.precision)
            d_before += d_raw[:, None] * vector(decoder.w2, NET.hidden, HP)[None, :]
            d_before *= activation_slope(hidden, NET.activation)
            d_w1 += gradient_product(tl.trans(d_before), feature, NET.precision)
            d_b1 += tl.sum(d_before, 0)
            slope = gradient_product(d_before, tl.trans(weight), NET.precision)
            scatter(d_texels + offset, slope, point, used, GRID)
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
