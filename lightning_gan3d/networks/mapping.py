"""The mapping network: latents and labels to styles, truncated toward the mean style."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge, Interval
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lightning_gan3d.cameras import LABEL_DIM
from lightning_gan3d.config import ConfigError, Positive
from lightning_gan3d.networks.layers import FullyConnected, normalize_second_moment


@dataclass(frozen=True)
class MappingConfig:
    """StyleGAN2's mapping network, conditioned on the camera as EG3D's."""

    num_layers: Annotated[int, Ge(0)] = 2
    """Fully connected layers. 0: the normalised latent is the style (ProGAN), of equal size."""
    lr_mul: Positive = 0.01
    """Learning-rate multiplier of the layers."""
    condition: Literal["camera", "class", "none"] = "camera"
    """What of the label is embedded beside z; `none` ignores it."""
    label_scale: float = 1.0
    """Factor on the label before it is embedded; EG3D's `c_scale`."""
    w_avg_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.998
    """Decay of the running mean of w per update."""

    def __post_init__(self) -> None:
        """Check that a network without layers is given the latent alone."""
        if self.num_layers == 0 and self.condition != "none":
            raise ConfigError(
                f"generator.mapping.num_layers=0 with condition={self.condition}: use 1 or more, "
                "or condition: none",
                field="num_layers",
            )


def camera_or_class(
    label: Float[Tensor, "b label_dim"], of_class: bool
) -> Float[Tensor, "b given_dim"]:
    """Return the part of labels that conditions a network: 25 of the camera, or the classes."""
    return label[:, LABEL_DIM:] if of_class else label[:, :LABEL_DIM]


def with_class(
    label: Float[Tensor, "b 25"], num_classes: int, index: int = 0
) -> Float[Tensor, "b label_dim"]:
    """Append a class to labels of cameras, as zeros and a one."""
    label = functional.pad(label, (0, num_classes))
    if num_classes:
        label[:, LABEL_DIM + index] = 1
    return label


class Mapping(nn.Module):
    """z and embedded label, each divided by its root mean square, through FC layers to w.

    w is repeated `num_ws` times, once for each layer.
    """

    w_avg: Tensor

    def __init__(
        self, cfg: MappingConfig, z_dim: int, w_dim: int, num_ws: int, num_classes: int = 0
    ) -> None:
        """Build for `num_ws` styles of width `w_dim`; `num_classes` of the labels."""
        super().__init__()
        self.cfg, self.num_ws, self.num_classes = cfg, num_ws, num_classes
        in_dim = z_dim
        if cfg.condition != "none":
            dim = LABEL_DIM if cfg.condition == "camera" else num_classes
            self.embed = FullyConnected(dim, w_dim)
            in_dim += w_dim
        if cfg.num_layers == 0 and z_dim != w_dim:
            raise ConfigError(
                f"generator.mapping.num_layers=0: the style is the latent; set w_dim={z_dim}"
            )
        for i in range(cfg.num_layers):
            layer = FullyConnected(
                in_dim if i == 0 else w_dim, w_dim, activation="lrelu", lr_mul=cfg.lr_mul
            )
            self.add_module(f"fc{i}", layer)
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: Float[Tensor, "b z_dim"],
        label: Float[Tensor, "b label_dim"],
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Float[Tensor, "b num_ws w_dim"]:
        """Return the styles of each latent.

        `truncation_psi` < 1 pulls the first `truncation_cutoff` (None: all) toward the mean.
        """
        x = normalize_second_moment(z)
        if self.cfg.condition != "none":
            given = camera_or_class(label, self.cfg.condition == "class")
            embedded = self.embed(given * self.cfg.label_scale)
            x = torch.cat([x, normalize_second_moment(embedded)], dim=1)
        for i in range(self.cfg.num_layers):
            x = getattr(self, f"fc{i}")(x)
        ws = repeat(x, "b d -> b n d", n=self.num_ws)
        return self.truncate(ws, truncation_psi, truncation_cutoff)

    def truncate(
        self, ws: Float[Tensor, "b num_ws w_dim"], psi: float, cutoff: int | None = None
    ) -> Float[Tensor, "b num_ws w_dim"]:
        """Pull the first `cutoff` styles (None: all) toward the mean; `psi` 1 keeps them."""
        if psi == 1:
            return ws
        truncated = self.w_avg.lerp(ws[:, :cutoff], psi)
        return truncated if cutoff is None else torch.cat([truncated, ws[:, cutoff:]], dim=1)

    def mean_style(self, ws: Float[Tensor, "b num_ws w_dim"]) -> Float[Tensor, " w_dim"]:
        """Mean of a batch, for `update_w_avg`."""
        return ws[:, 0].mean(0)

    @torch.no_grad()
    def update_w_avg(self, w: Float[Tensor, " w_dim"]) -> None:
        """Move the running mean toward `w`, the mean style of the global batch."""
        self.w_avg.lerp_(w.to(self.w_avg.dtype), 1 - self.cfg.w_avg_decay)


class Code(NamedTuple):
    """A named part of the latent, such as the shape of an object."""

    name: str
    num_ws: int
    """Number of styles that it gives."""
    network: str | None
    """Mapping network; codes may share one. None: the latent's own numbers are the style."""
    least: int = 1
    """Fewest numbers of its part of the latent."""


class CodesMapping(nn.Module):
    """Maps a latent of several codes: z is split equally, each part gives the styles of its code.

    Codes of one network share its weights. The numbers of a code without a network are its style.
    """

    w_avg: Tensor

    def __init__(
        self,
        cfg: MappingConfig,
        z_dim: int,
        w_dim: int,
        codes: Sequence[Code],
        num_classes: int = 0,
    ) -> None:
        """Build one mapping network for each name of a network among the codes."""
        super().__init__()
        self.cfg, self.codes, self.num_classes = cfg, tuple(codes), num_classes
        if z_dim % len(self.codes):
            names = ", ".join(code.name for code in self.codes)
            raise ConfigError(
                f"generator.z_dim={z_dim}: use a multiple of {len(self.codes)}, since the latent "
                f"has equal parts ({names})"
            )
        least = max(code.least for code in self.codes)
        if z_dim < least * len(self.codes):
            raise ConfigError(
                f"generator.z_dim={z_dim}: each of {len(self.codes)} codes needs {least} numbers; "
                f"use {least * len(self.codes)} or more"
            )
        self.part_dim, self.num_ws = z_dim // len(self.codes), sum(c.num_ws for c in self.codes)
        networks = dict.fromkeys(code.network for code in self.codes if code.network)
        self.networks = nn.ModuleDict(
            {name: Mapping(cfg, self.part_dim, w_dim, 1, num_classes) for name in networks}
        )
        self.register_buffer("w_avg", torch.zeros(self.num_ws, w_dim))

    def forward(
        self,
        z: Float[Tensor, "b z_dim"],
        label: Float[Tensor, "b label_dim"],
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Float[Tensor, "b num_ws w_dim"]:
        """Return the styles of each latent, truncated as by `Mapping`."""
        parts = []
        for code, part in zip(self.codes, torch.split(z, self.part_dim, dim=1), strict=True):
            if code.network is None:
                w = functional.pad(part, (0, self.w_avg.shape[1] - self.part_dim))[:, None]
            else:
                w = self.networks[code.network](part, label)
            parts.append(w.expand(-1, code.num_ws, -1))
        return self.truncate(torch.cat(parts, dim=1), truncation_psi, truncation_cutoff)

    def truncate(
        self, ws: Float[Tensor, "b num_ws w_dim"], psi: float, cutoff: int | None = None
    ) -> Float[Tensor, "b num_ws w_dim"]:
        """Pull the first `cutoff` styles (None: all) toward their means; `psi` 1 keeps them."""
        if psi == 1:
            return ws
        truncated = self.w_avg[:cutoff].lerp(ws[:, :cutoff], psi)
        return truncated if cutoff is None else torch.cat([truncated, ws[:, cutoff:]], dim=1)

    def mean_style(self, ws: Float[Tensor, "b num_ws w_dim"]) -> Float[Tensor, " n"]:
        """Means of a batch, flat; those of numbers that are not mapped are 0."""
        mapped = [float(c.network is not None) for c in self.codes for _ in range(c.num_ws)]
        return (ws.mean(0) * ws.new_tensor(mapped)[:, None]).flatten()

    @torch.no_grad()
    def update_w_avg(self, w: Float[Tensor, "num_ws w_dim"]) -> None:
        """Move the running means toward `w`, those of the global batch."""
        self.w_avg.lerp_(w.to(self.w_avg.dtype), 1 - self.cfg.w_avg_decay)
