"""Tensors and constants with which fused kernels evaluate a field."""

from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor


class LoweredGrid(NamedTuple):
    """Grids that are interpolated linearly, averaged over p grids and decoded by a small MLP.

    sigma_raw, feature = W2 a(W1 mean_p(grid_p(x)) + b1) + b2; feature = sigmoid * 1.002 - 0.001.
    All tensors stay in the autograd graph.
    """

    grids: Float[Tensor, "b p d h w c"]
    """Values, half-texel convention, zero outside. d = 1: planes, read at their two first axes.
    Kernels copy grids whose channels are not innermost."""
    axes: tuple[tuple[int, int, int], ...]
    """World axes along width, height and depth of each grid."""
    hidden_weight: Float[Tensor, "h c"]
    hidden_bias: Float[Tensor, " h"]
    out_weight: Float[Tensor, "o h"]
    """Row 0 is the raw density, the others are features."""
    out_bias: Float[Tensor, " o"]
    activation: Literal["softplus", "lrelu"]
    """Of the hidden layer; the slope of `lrelu` is 0.2."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, in the order of the fields: kernels differentiate by these."""
        decoder = self.hidden_weight, self.hidden_bias, self.out_weight, self.out_bias
        return self.grids, *decoder


class NotLowered(NamedTuple):
    """The reason why a field has no kernel."""

    reason: str


SDF_NOT_LOWERED = NotLowered("density.activation=sdf; the kernels have no signed distance")

Lowered = LoweredGrid | NotLowered
