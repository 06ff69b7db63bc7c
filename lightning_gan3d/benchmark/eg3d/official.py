"""The official EG3D, run from a checkout that the user names; nothing of it is copied here.

Its networks are built with their own initialisation, and ours take the weights over by the importer
of its checkpoints, so that both compute the same images.
"""

import copy
import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gan3d.checkpoints import nvidia
from lightning_gan3d.checkpoints.nvidia_arguments import Network
from lightning_gan3d.checkpoints.pickled_objects import Record
from lightning_gan3d.config import ConfigError


class Checkout:
    """A clone of NVlabs/eg3d."""

    def __init__(self, path: Path) -> None:
        """Find the code. Raises `ConfigError` where it is not there or cannot be imported."""
        inner = path if (path / "training" / "triplane.py").is_file() else path / "eg3d"
        if not (inner / "training" / "triplane.py").is_file():
            raise ConfigError(
                f"--against {path}: no training/triplane.py there or in its folder eg3d; name a "
                "clone of NVlabs/eg3d"
            )
        self.path = inner
        if str(inner) not in sys.path:
            sys.path.append(str(inner))
        for module in ("training.triplane", "training.dual_discriminator", "training.loss"):
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise ConfigError(
                    f"--against {path}: {module} cannot be imported ({error}); install what the "
                    "official code needs beside this project"
                ) from error

    def module(self, name: str) -> Any:
        """Return one of its modules."""
        return importlib.import_module(name)

    def generator(self, kwargs: Mapping[str, Any], device: torch.device) -> nn.Module:
        """Build the official generator, initialised from a fixed seed."""
        torch.manual_seed(0)
        network = self.module("training.triplane").TriPlaneGenerator(**copy.deepcopy(dict(kwargs)))
        return network.to(device)  # type: ignore[no-any-return]  # the checkout is untyped

    def discriminator(self, kwargs: Mapping[str, Any], device: torch.device) -> nn.Module:
        """Build the official discriminator, initialised from a fixed seed."""
        torch.manual_seed(1)
        module = self.module("training.dual_discriminator")
        network = module.DualDiscriminator(**copy.deepcopy(dict(kwargs)))
        return network.to(device)  # type: ignore[no-any-return]  # the checkout is untyped

    def plugins(self) -> str:
        """Say whether its compiled CUDA operations are in use; they fall back in silence."""
        ops = {name: self.module(f"torch_utils.ops.{name}") for name in ("bias_act", "upfirdn2d")}
        built = [name for name, op in ops.items() if getattr(op, "_plugin", None) is not None]
        return f"its CUDA operations built: {', '.join(built) or 'none'}"


def described(network: Any, kind: str, kwargs: Mapping[str, Any]) -> Network:
    """Return a network as the importer of checkpoints takes it, tensors included."""
    attributes: dict[str, Any] = {"_init_kwargs": dict(kwargs)}
    if kind == "TriPlaneGenerator":
        renderer = Record("", "", {"plane_axes": network.renderer.plane_axes.cpu()})
        attributes |= {
            "rendering_kwargs": kwargs["rendering_kwargs"],
            "neural_rendering_resolution": 64,
            "_modules": {"renderer": renderer},
        }
    return Network(kind, attributes, dict(network.state_dict()))


def ours_of(generator: Any, kwargs: Mapping[str, Any]) -> nvidia.GeneratorParts:
    """Our configuration and tensors of the official generator."""
    return nvidia.read_generator(described(generator, "TriPlaneGenerator", kwargs))


INTERVALS = {"Gmain": 1, "Greg": 4, "Dmain": 1, "Dreg": 16}
"""Steps between two runs of a phase of training."""


class Trainer:
    """The official loss under its optimizers, one phase at a time, as its training loop runs it."""

    def __init__(
        self,
        checkout: Checkout,
        generator: nn.Module,
        discriminator: nn.Module,
        rendering: int,
        device: torch.device,
    ) -> None:
        """Keep the networks; `rendering` is the edge of the neural rendering."""
        self.g = generator.train().requires_grad_(False)
        self.d = discriminator.train().requires_grad_(False)
        self.average = copy.deepcopy(generator).eval()
        self.loss = checkout.module("training.loss").StyleGAN2Loss(
            device,
            self.g,
            self.d,
            r1_gamma=1.0,
            blur_init_sigma=10,
            blur_fade_kimg=200,
            gpc_reg_prob=0.5,
            neural_rendering_resolution_initial=rendering,
            dual_discrimination=True,
        )
        # Lazy regularisation: rate and moments for the steps that a penalty adds.
        self.optimizers = {}
        for name, net, rate in (("G", self.g, 0.0025), ("D", self.d, 0.002)):
            every = INTERVALS[f"{name}reg"]
            ratio = every / (every + 1)
            betas = 0.0, 0.99**ratio
            adam = torch.optim.Adam(net.parameters(), lr=rate * ratio, betas=betas, eps=1e-8)
            self.optimizers[name] = adam

    def phase(
        self, name: str, real: Tensor, real_label: Tensor, z: Tensor, label: Tensor
    ) -> Callable[[], None]:
        """Return a call of one phase with its step of Adam; real images are bytes."""
        net, optimizer = (self.g if name[0] == "G" else self.d), self.optimizers[name[0]]

        def run() -> None:
            optimizer.zero_grad(set_to_none=True)
            net.requires_grad_(True)
            self.loss.accumulate_gradients(
                phase=name,
                real_img=real.to(torch.float32) / 127.5 - 1,
                real_c=real_label,
                gen_z=z,
                gen_c=label,
                gain=INTERVALS[name],
                cur_nimg=1_000_000,  # the blur is over
            )
            net.requires_grad_(False)
            for parameter in net.parameters():
                if parameter.grad is not None:
                    torch.nan_to_num(
                        parameter.grad, nan=0, posinf=1e5, neginf=-1e5, out=parameter.grad
                    )
            optimizer.step()

        return run

    def follow(self) -> None:
        """Move the averaged generator."""
        with torch.no_grad():
            for mean, new in zip(self.average.parameters(), self.g.parameters(), strict=True):
                mean.lerp_(new, 0.001)
            for held, current in zip(self.average.buffers(), self.g.buffers(), strict=True):
                held.copy_(current)
