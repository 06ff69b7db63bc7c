"""A request in the terms of the kernels."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from renderers.fused.cpu.row_layout import EXP, RELU, SOFTPLUS, Rules
from renderers.fused.cpu.workspace import SIDE, TILE, Along, Sizes, Weights, sizes_of, weights_of
from renderers.paths import Request

NONE = np.zeros((0, 0), np.float32)


class Job(NamedTuple):
    """A request in the terms of the kernels."""

    request: Request
    sizes: Sizes
    weights: Weights
    held: list[Tensor]
    """The memory of `weights`."""
    rules: Rules
    side: int
    tiles: int
    """Of each scene."""


def prepare(request: Request) -> Job:
    """Collect what does not depend on the scene."""
    o, scene = request.options, request.scene_cfg
    sizes = sizes_of(request.grid, o.samples_coarse + o.samples_fine, scene.box)
    rules = Rules(
        coarse=o.samples_coarse,
        fine=o.samples_fine,
        pair_strata=o.rules == "eg3d",
        pair_weights=o.rules == "eg3d",
        pair_importance=o.rules == "eg3d",
        masked=o.masked,
        activation={"softplus": SOFTPLUS, "relu": RELU, "exp": EXP}[scene.density.activation],
        scale=float(scene.density.scale),
        prior=float(scene.density.prior_strength),
        radius=float(scene.density.prior_radius),
        half=scene.box / 2,
        softplus_hidden=request.grid.activation == "softplus",
        has_jitter=request.random.jitter is not None,
        has_u=request.random.u is not None,
        has_noise=request.random.noise is not None,
    )
    rays = request.rays.origins.shape[1]
    side = side_of(request.rays.origins[0]) if len(request.rays.origins) else 0
    across = -(-side // SIDE)
    tiles = rays // side**2 * across**2 if side else -(-rays // TILE)
    return Job(request, sizes, *weights_of(request.grid, sizes), rules, side, tiles)


def side_of(origins: Float[Tensor, "r 3"]) -> int:
    """Return the edge of the square images that rays form, or 0: pixels of one share an origin.

    A wrong guess costs locality, nothing else.
    """
    rays = len(origins)
    for views in range(1, rays // SIDE**2 + 1):
        side = math.isqrt(rays // views)
        if side * side * views == rays and bool((origins[0] == origins[side * side - 1]).all()):
            return side
    return 0


def along_of(job: Job, scene: int) -> Along:
    """Hand over the rays of a scene."""
    rays, part, random = job.request.rays, job.request.part, job.request.random
    jitter, u, noise = (NONE if x is None else array_of(x[scene]) for x in random)
    return Along(
        array_of(rays.origins[scene]),
        array_of(rays.dirs[scene]),
        array_of(part.near[scene, :, 0]),
        array_of(part.far[scene, :, 0]),
        jitter,
        u,
        noise,
        job.side,
    )


def array_of(x: Tensor) -> np.ndarray:
    """See a tensor as an array; a copy only where it is not contiguous."""
    array: np.ndarray = x.detach().contiguous().numpy()
    return array
