"""The decoder of the explicit representations: gathered features to density and features."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from lightning_gan3d.config import Count, Positive
from lightning_gan3d.networks.layers import FullyConnected
from lightning_gan3d.networks.lowering import Lowered, LoweredGrid, NotLowered


@dataclass(frozen=True)
class DecoderConfig:
    """EG3D's decoder, FC, activation, FC; the same for all explicit representations."""

    hidden_dim: Count = 64
    """Width of the hidden layers."""
    num_layers: Annotated[int, Ge(0)] = 1
    """Hidden layers. 0: density and colour are linear in the grid's channels."""
    activation: Literal["softplus", "lrelu"] = "softplus"
    """`lrelu` is several times cheaper on a CPU."""
    lr_mul: Positive = 1.0
    """Learning-rate multiplier (equalised learning rate)."""


class Decoder(nn.Module):
    """FC, activation, FC, as EG3D's decoder; no view dependence."""

    def __init__(self, cfg: DecoderConfig, in_dim: int, feature_dim: int) -> None:
        """Build for `in_dim` gathered channels and `feature_dim` output features."""
        super().__init__()
        self.cfg = cfg
        layers: list[nn.Module] = []
        for i in range(cfg.num_layers):
            below = in_dim if i == 0 else cfg.hidden_dim
            layers.append(FullyConnected(below, cfg.hidden_dim, lr_mul=cfg.lr_mul))
            layers.append(
                nn.Softplus() if cfg.activation == "softplus" else nn.LeakyReLU(0.2, inplace=True)
            )
        below = in_dim if cfg.num_layers == 0 else cfg.hidden_dim
        layers.append(FullyConnected(below, 1 + feature_dim, lr_mul=cfg.lr_mul))
        self.net = nn.Sequential(*layers)

    @property
    def head(self) -> FullyConnected:
        """The last layer: row 0 is the raw density, the others are features."""
        last = self.net[-1]
        assert isinstance(last, FullyConnected)
        return last

    def lower(
        self, grids: Float[Tensor, "b p d h w c"], axes: tuple[tuple[int, int, int], ...]
    ) -> Lowered:
        """Describe the decoding of the mean over `grids` to the fused kernels."""
        if self.cfg.num_layers != 1:
            return NotLowered(f"decoder.num_layers={self.cfg.num_layers}; the kernels need 1")
        first, last = self.net[0], self.head
        assert isinstance(first, FullyConnected)
        return LoweredGrid(
            grids,
            axes,
            first.weight * first.weight_gain,
            first.bias * first.bias_gain,
            last.weight * last.weight_gain,
            last.bias * last.bias_gain,
            self.cfg.activation,
        )

    def forward(
        self, x: Float[Tensor, "b n c"]
    ) -> tuple[Float[Tensor, "b n 1"], Float[Tensor, "b n f"]]:
        """Return raw density, unactivated, and features in [-0.001, 1.001].

        Features are sigmoid(x) * 1.002 - 0.001, which reaches 0 and 1 (Mip-NeRF, Barron et al.
        2021, supplement).
        """
        # Channels first, as fields gather: products and gradients copy no points.
        y = x.mT
        for layer in self.net:
            if isinstance(layer, FullyConnected):
                weight = (layer.weight * layer.weight_gain).expand(len(y), -1, -1)
                y = torch.bmm(weight, y).add_((layer.bias * layer.bias_gain)[:, None])
            else:
                y = layer(y)
        return y[:, :1].mT, (torch.sigmoid(y[:, 1:]) * 1.002 - 0.001).mT
