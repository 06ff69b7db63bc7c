"""Adam for both networks, behind a gate that stays shut once a gradient was not finite."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lightning_gan3d.training.config import AdamConfig

Phase = Literal["G loss", "G density penalty", "D loss", "D penalty"]
PHASES: tuple[Phase, ...] = get_args(Phase)


class Gate(nn.Module):
    """Remembers on the device the first phase whose gradient was not finite; then it stays shut.

    Asking the device every step would stall it, so optimizers and averages ask the gate there, and
    the host reads it when it next logs. Nothing learned has changed since the breakage.
    """

    first: Tensor

    def __init__(self) -> None:
        """Start open."""
        super().__init__()
        self.register_buffer("first", torch.zeros((), dtype=torch.int64), persistent=False)

    def observe(self, norm: Float[Tensor, ""], phase: Phase, step: int) -> None:
        """Shut if the norm of a gradient is not finite; the first breakage is remembered."""
        code = step * len(PHASES) + PHASES.index(phase) + 1
        shuts = ~torch.isfinite(norm) & self.healthy
        self.first = torch.where(shuts, code, self.first)

    @property
    def healthy(self) -> Bool[Tensor, ""]:
        """True while the gate is open; on the device."""
        return self.first == 0

    def broken(self) -> tuple[Phase, int] | None:
        """Wait for the device, and return which phase broke in which step."""
        code = int(self.first.item())
        return (PHASES[(code - 1) % len(PHASES)], (code - 1) // len(PHASES)) if code else None


def make_adam(parameters: Sequence[nn.Parameter], cfg: AdamConfig) -> torch.optim.Adam:
    """Fused Adam: one call for all parameters, and the only one that can be gated on the device."""
    return torch.optim.Adam(parameters, lr=cfg.lr, betas=cfg.betas, eps=cfg.eps, fused=True)


def gated_step(optimizer: torch.optim.Adam, lr: float, healthy: Bool[Tensor, ""]) -> None:
    """Step where `healthy`, by the `found_inf` that fused optimizers honour; drop the gradients."""
    gate: Any = optimizer
    gate.found_inf, gate.grad_scale = (~healthy).float(), None
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
