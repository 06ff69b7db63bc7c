"""Tensors and constants with which fused kernels evaluate a field."""

from collections.abc import Hashable
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

    @property
    def kind(self) -> tuple[Hashable, ...]:
        """What kernels branch by."""
        sizes = (x.shape for x in self.tensors[1:])
        return self.activation, self.axes, self.grids.dtype, self.grids.shape[2] == 1, *sizes


class LoweredMlp(NamedTuple):
    """An MLP whose l + 1 layers of width h differ between scenes: a NeRF with FiLM.

    x_0 = a(W_0 e(p) + b_0), x_i = a(W_i x_(i-1) + b_i); the last layer also adds W_d dirs. The raw
    density is linear in x_(l-1), the features are sigmoids of linear maps of x_l. p: the position,
    divided by half the edge of the box. All tensors stay in the autograd graph.
    """

    first_weight: Float[Tensor, "b h i"]
    weights: Float[Tensor, "b l h h"]
    """Of layers 1 to l."""
    biases: Float[Tensor, "b l1 h"]
    """Of layers 0 to l."""
    dirs_weight: Float[Tensor, "b h 3"]
    """Of the directions of rays, in the last layer; "b h 0" if features do not depend on them."""
    density_weight: Float[Tensor, "1 h"]
    density_bias: Float[Tensor, " 1"]
    out_weight: Float[Tensor, "c h"]
    out_bias: Float[Tensor, " c"]
    activation: Literal["sine", "relu"]
    octaves: int
    """e(p): the position, and sines, then cosines, of pi 2^k p for k < octaves, by axis."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, in the order of the fields: kernels differentiate by these."""
        return self[:8]

    @property
    def kind(self) -> tuple[Hashable, ...]:
        """What kernels branch by."""
        shapes = (x.shape[1:] for x in self.tensors)
        return "mlp", self.activation, self.octaves, self.first_weight.dtype, *shapes


class NotLowered(NamedTuple):
    """The reason why a field has no kernel."""

    reason: str


SDF_NOT_LOWERED = NotLowered("density.activation=sdf; the kernels have no signed distance")

LoweredField = LoweredGrid | LoweredMlp
Lowered = LoweredField | NotLowered
