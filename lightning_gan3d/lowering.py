"""What a field hands to fused kernels instead of being called: tensors and constants, no code."""

from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor


class LoweredGrid(NamedTuple):
    """A field of grids: read linearly at a point, averaged over p grids, decoded by a small MLP.

    sigma_raw, feature = W2 a(W1 mean_p(grid_p(x)) + b1) + b2; feature = sigmoid * 1.002 - 0.001.
    All tensors are in the graph that made them, so that gradients of the kernels reach parameters.
    """

    grids: Float[Tensor, "b p d h w c"]
    """Values, half-texel convention, zero outside. d = 1: planes, read at their two first axes.
    Strides are the maker's: kernels that want the channels innermost copy where they are not."""
    axes: tuple[tuple[int, int, int], ...]
    """Of each grid: the world axis along its width, its height, its depth."""
    hidden_weight: Float[Tensor, "h c"]
    hidden_bias: Float[Tensor, " h"]
    out_weight: Float[Tensor, "o h"]
    """Row 0 makes the raw density, the others the features."""
    out_bias: Float[Tensor, " o"]
    activation: Literal["softplus", "lrelu"]
    """Of the hidden layer; the slope of `lrelu` is 0.2."""


class NotLowered(NamedTuple):
    """Why a field has to be called."""

    why: str


Lowered = LoweredGrid | NotLowered
