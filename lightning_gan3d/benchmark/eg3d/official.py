"""The official EG3D, run from the user's checkout; none of its code is copied here.

Our networks load its initial weights through the checkpoint importer, so that both compute the same
images.
"""

import copy
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gan3d.checkpoints import nvidia
from lightning_gan3d.checkpoints.nvidia_arguments import Network
from lightning_gan3d.checkpoints.pickled_objects import Record
from lightning_gan3d.config import ConfigError

SUPERRESOLUTIONS = {128: "2X", 256: "4X", 512: "8XDC"}
INTERVALS = {"Gmain": 1, "Greg": 4, "Dmain": 1, "Dreg": 16}
"""Phases of the official training, and the steps from one run of each to the next."""


@dataclass(frozen=True)
class Work:
    """One task that the official code and ours both do."""

    key: str
    """Name in tables and files, e.g. `renderer_128_forward`."""
    description: str
    theirs: Callable[[], Any]
    ours: dict[str, Callable[[], Any]]
    """By precision."""
    agreement: Callable[[str], str]
    """Difference between ours, in a precision, and theirs, as text with a number."""
    path: Callable[[], str] = lambda: ""
    """The renderer's path, known after a call."""
    every: float = 1.0
    """Steps from one run to the next, for phases of training."""
    share: float = 1.0
    """Part of the task that `theirs` does, if its parts take equal times: its time is divided."""


class Checkout:
    """A clone of NVlabs/eg3d; subclasses: of other repositories."""

    repository = "NVlabs/eg3d"
    modules: tuple[str, ...] = (
        "training.triplane",
        "training.dual_discriminator",
        "training.loss",
    )
    """What is used; the first identifies the repository."""
    operations: tuple[str, ...] = ("bias_act", "upfirdn2d")

    @classmethod
    def folder(cls, path: Path) -> Path | None:
        """Return the folder of the code: `path`, or the one inside it with the project's name."""
        file = Path(*cls.modules[0].split(".")).with_suffix(".py")
        candidates = (path, path / cls.repository.partition("/")[2])
        return next((p for p in candidates if (p / file).is_file()), None)

    def __init__(self, path: Path) -> None:
        """Import the code; raises `ConfigError` if it is missing or cannot be imported."""
        inner = self.folder(path)
        if inner is None:
            first = self.modules[0].replace(".", "/")
            raise ConfigError(
                f"--against {path}: no {first}.py there or in its folder "
                f"{self.repository.partition('/')[2]}; name a clone of NVlabs/eg3d or "
                "NVlabs/stylegan3"
            )
        self.path = inner
        if str(inner) not in sys.path:
            sys.path.append(str(inner))
        for module in self.modules:
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise ConfigError(
                    f"--against {path}: {module} cannot be imported ({error}); install the "
                    "dependencies of the official code"
                ) from error

    def module(self, name: str) -> Any:
        """Import one of its modules."""
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
        """List its compiled CUDA operations: without a compiler it falls back silently."""
        ops = {name: self.module(f"torch_utils.ops.{name}") for name in self.operations}
        built = [name for name, op in ops.items() if getattr(op, "_plugin", None) is not None]
        return f"its CUDA operations built: {', '.join(built) or 'none'}"


def our_generator(network: Any, kwargs: Mapping[str, Any]) -> nvidia.GeneratorParts:
    """Our configuration and tensors of the official generator."""
    renderer = Record("", "", {"plane_axes": network.renderer.plane_axes.cpu()})
    attributes = {
        "_init_kwargs": dict(kwargs),
        "rendering_kwargs": kwargs["rendering_kwargs"],
        "neural_rendering_resolution": 64,
        "_modules": {"renderer": renderer},
    }
    return nvidia.read_generator(
        Network("TriPlaneGenerator", attributes, dict(network.state_dict()))
    )


def our_discriminator(network: Any, kwargs: Mapping[str, Any]) -> nvidia.DiscriminatorParts:
    """Our configuration and tensors of the official discriminator."""
    attributes = {"_init_kwargs": dict(kwargs)}
    return nvidia.read_discriminator(
        Network("DualDiscriminator", attributes, dict(network.state_dict()))
    )


class Trainer:
    """The official loss and optimizers, one phase at a time, as in its training loop."""

    def __init__(
        self,
        checkout: Checkout,
        generator: nn.Module,
        discriminator: nn.Module,
        rendering: int,
        device: torch.device,
    ) -> None:
        """`rendering` is the edge of the neural rendering."""
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
        # Lazy regularisation scales learning rate and momentum (Karras et al. 2020b, appendix B).
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
        """Return a call of one phase with its optimizer; `real` is uint8."""
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
                cur_nimg=1_000_000,  # after the blur has faded
            )
            net.requires_grad_(False)
            for parameter in net.parameters():
                if (grad := parameter.grad) is not None:
                    torch.nan_to_num(grad, nan=0, posinf=1e5, neginf=-1e5, out=grad)
            optimizer.step()

        return run

    def update_average(self) -> None:
        """Update the moving average of the generator."""
        with torch.no_grad():
            for mean, parameter in zip(self.average.parameters(), self.g.parameters(), strict=True):
                mean.lerp_(parameter, 0.001)
            for copied, buffer in zip(self.average.buffers(), self.g.buffers(), strict=True):
                copied.copy_(buffer)


def generator_kwargs(
    resolution: int, channel_base: int = 32768, channel_max: int = 512, **changes: Any
) -> dict[str, Any]:
    """Arguments of the official generator as its `train.py` sets them, with `changes`."""
    widths = {"channel_base": channel_base, "channel_max": channel_max}
    return {
        "z_dim": 512,
        "c_dim": 25,
        "w_dim": 512,
        "img_resolution": resolution,
        "img_channels": 3,
        "sr_num_fp16_res": 4,
        "mapping_kwargs": {"num_layers": 2},
        "rendering_kwargs": rendering_kwargs(resolution),
        "sr_kwargs": {**widths, "fused_modconv_default": "inference_only"},
        "num_fp16_res": 0,
        "conv_clamp": None,
        "fused_modconv_default": "inference_only",
        **widths,
        **changes,
    }


def rendering_kwargs(resolution: int, **changes: Any) -> dict[str, Any]:
    """Rendering options of its `train.py`: those of ShapeNet for 128, else of FFHQ."""
    name = f"training.superresolution.SuperresolutionHybrid{SUPERRESOLUTIONS[resolution]}"
    options: dict[str, Any] = {
        "image_resolution": resolution,
        "disparity_space_sampling": False,
        "clamp_mode": "softplus",
        "superresolution_module": name,
        "c_gen_conditioning_zero": resolution == 128,
        "gpc_reg_prob": None if resolution == 128 else 0.5,
        "c_scale": 1,
        "superresolution_noise_mode": "none",
        "density_reg": 0.25,
        "density_reg_p_dist": 0.004,
        "reg_type": "l1",
        "decoder_lr_mul": 1,
        "sr_antialias": True,
        "depth_resolution": 48,
        "depth_resolution_importance": 48,
        "ray_start": 2.25,
        "ray_end": 3.3,
        "box_warp": 1,
        "avg_camera_radius": 2.7,
        "avg_camera_pivot": [0, 0, 0.2],
    }
    if resolution == 128:
        options |= {
            "depth_resolution": 64,
            "depth_resolution_importance": 64,
            "ray_start": 0.1,
            "ray_end": 2.6,
            "box_warp": 1.6,
            "white_back": True,
            "avg_camera_radius": 1.7,
            "avg_camera_pivot": [0, 0, 0],
        }
    return options | changes


def discriminator_kwargs(
    resolution: int, channel_base: int = 32768, channel_max: int = 512, **changes: Any
) -> dict[str, Any]:
    """Arguments of the official discriminator as its `train.py` sets them, with `changes`."""
    return {
        "c_dim": 25,
        "img_resolution": resolution,
        "img_channels": 3,
        "num_fp16_res": 4,
        "conv_clamp": 256,
        "disc_c_noise": 0,
        "block_kwargs": {"freeze_layers": 0},
        "mapping_kwargs": {},
        "epilogue_kwargs": {"mbstd_group_size": 4},
        "channel_base": channel_base,
        "channel_max": channel_max,
        **changes,
    }
