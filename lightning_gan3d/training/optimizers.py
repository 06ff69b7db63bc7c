"""Adam and the moving average of the generator, gated against non-finite gradients."""

import copy
import functools
from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeVar, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lightning_gan3d.config import ConfigError
from lightning_gan3d.training.config import AdamConfig

Averaged = TypeVar("Averaged", bound=nn.Module)
Phase = Literal["G loss", "G density penalty", "D loss", "D penalty", "proxy loss"]
"""Name of an optimizer step in logs and errors."""
PHASES: tuple[Phase, ...] = get_args(Phase)


class NonFiniteGradient(Exception):
    """A gradient was NaN or infinite; weights have not changed since."""

    def __init__(self, phase: Phase, step: int) -> None:
        super().__init__(f"the gradient of the {phase} is not finite in step {step}")


class Gate(nn.Module):
    """Closes at the first non-finite gradient and stays closed, so that no weight changes after it.

    A check on the host in every step would stall the device. Optimizers and averages therefore read
    the gate on the device, and the host reads it when it logs.
    """

    first: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("first", torch.zeros((), dtype=torch.int64), persistent=False)

    def observe(self, norm: Float[Tensor, ""], phase: Phase, step: int) -> None:
        """Close if a gradient norm is not finite; record the first phase and step."""
        code = step * len(PHASES) + PHASES.index(phase) + 1
        self.first = torch.where(~torch.isfinite(norm) & self.healthy, code, self.first)

    @property
    def healthy(self) -> Bool[Tensor, ""]:
        """True while the gate is open; on the device."""
        return self.first == 0

    def broken(self) -> tuple[Phase, int] | None:
        """Return phase and step of the first non-finite gradient; synchronises with the device."""
        code = int(self.first.item())
        return (PHASES[(code - 1) % len(PHASES)], (code - 1) // len(PHASES)) if code else None


def make_adam(parameters: Sequence[nn.Parameter], cfg: AdamConfig) -> torch.optim.Adam:
    """Fused Adam: one call for all parameters, and the only Adam that can skip a step on device.

    It leaves frozen parameters out.
    """
    trained = [p for p in parameters if p.requires_grad]
    return torch.optim.Adam(trained, lr=cfg.lr, betas=cfg.betas, eps=cfg.eps, fused=True)


def freeze(generator: nn.Module, discriminator: nn.Module, parts: Sequence[str]) -> None:
    """Exclude parameters below dotted paths from training; `discriminator.` leads to its parts.

    FreezeD (Mo et al. 2020) is `discriminator.b<resolution>` of the highest resolutions.
    """
    networks = {"": generator, "discriminator.": discriminator}
    named = {f"{at}{name}": p for at, net in networks.items() for name, p in net.named_parameters()}
    for part in parts:
        below = [p for name, p in named.items() if f"{name}.".startswith(f"{part}.")]
        if not below:
            children = [(at, *c) for at, net in networks.items() for c in net.named_children()]
            names = ", ".join(f"{at}{name}" for at, name, m in children if list(m.parameters()))
            raise ConfigError(f"training.freeze: no `{part}`; use {names}, or parts of these")
        for parameter in below:
            parameter.requires_grad_(False)
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        if not any(p.requires_grad for p in network.parameters()):
            raise ConfigError(
                f"training.freeze={list(parts)} leaves no part of the {name} to train; remove one"
            )


def gated_step(
    optimizer: torch.optim.Adam,
    factor: float,
    healthy: Bool[Tensor, ""],
    beta2: float | None = None,
) -> None:
    """Step with `factor` on the learning rate if `healthy`; clear the gradients.

    Fused optimizers skip a step on the device if `found_inf` is set. With `beta2` of the step, t
    steps are corrected for bias by 1 - beta2 ** t, as torch does, and R3GAN with it.
    """
    gate: Any = optimizer
    gate.found_inf, gate.grad_scale = (~healthy).float(), None
    for group in optimizer.param_groups:
        group["lr"] = optimizer.defaults["lr"] * factor
        if beta2 is not None:
            group["betas"] = (group["betas"][0], beta2)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class ExponentialMovingAverage(Generic[Averaged]):
    """A copy of a module: trained parameters are averaged over steps, buffers are copied."""

    def __init__(self, source: Averaged) -> None:
        self.source = source
        self.module: Averaged = copy.deepcopy(source)
        self.module.eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, decay: float, healthy: Bool[Tensor, ""]) -> None:
        """Average += (1 - decay) * healthy * (parameter - average), on the device."""
        averages, parameters, copies, buffers = self._tensors
        difference = torch._foreach_sub(parameters, averages)
        torch._foreach_mul_(difference, healthy * (1.0 - decay))
        torch._foreach_add_(averages, difference)
        if buffers:
            torch._foreach_copy_(copies, buffers)

    @functools.cached_property
    def _tensors(self) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Averages, parameters, copies, buffers: listed once, after the move to the device."""
        pairs = zip(self.module.parameters(), self.source.parameters(), strict=True)
        trained = [(average, p) for average, p in pairs if p.requires_grad]
        return (
            [average for average, _ in trained],
            [p for _, p in trained],
            list(self.module.buffers()),
            list(self.source.buffers()),
        )
