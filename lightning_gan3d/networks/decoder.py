"""The decoder of the explicit representations: a small MLP from gathered features to density and features."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DecoderConfig:
    """A shared decoder, as EG3D's: FC, activation, FC; the same for every explicit representation of a comparison."""

    hidden_dim: int = 64
    """Width of the hidden layers."""
    num_layers: int = 1
    """Hidden layers. 0 reads density and colour straight from the grid by one linear layer."""
    activation: Literal["softplus", "lrelu"] = "softplus"
    """`lrelu` is several times cheaper on a CPU."""
    lr_mul: float = 1.0
    """Learning-rate multiplier (equalised learning rate)."""
