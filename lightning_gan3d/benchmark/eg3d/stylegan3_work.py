"""StyleGAN3's synthesis network with equal weights: theirs and ours."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor

from lightning_gan3d.benchmark.eg3d.inference_work import difference, relative_error
from lightning_gan3d.benchmark.eg3d.official import Checkout, Work
from lightning_gan3d.checkpoints import nvidia
from lightning_gan3d.checkpoints.nvidia_arguments import Network
from lightning_gan3d.generator import Generator
from lightning_gan3d.networks.precision import Precision, set_precision

CHANNEL_BASES = {256: 16384, 512: 32768}
"""By resolution, of configuration T, as in its `train.py` (256²: the paper's ablations)."""


class StyleGAN3Checkout(Checkout):
    """A clone of NVlabs/stylegan3."""

    repository = "NVlabs/stylegan3"
    modules = ("training.networks_stylegan3",)
    operations = ("bias_act", "upfirdn2d", "filtered_lrelu")

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """True for a clone of StyleGAN3; EG3D's repository, with a copy of its network, is none."""
        return cls.folder(path) is not None and Checkout.folder(path) is None


def works(
    code: Checkout,
    device: torch.device,
    precisions: tuple[str, ...],
    selected: Callable[[str], bool],
) -> Iterator[Work]:
    """Yield the selected works: images of both configurations, gradients of T at 256²."""
    for resolution in CHANNEL_BASES:
        for variant in ("t", "r"):
            key = f"stylegan3_{variant}_{resolution}"
            keys = [key, *([f"{key}_backward"] if key == "stylegan3_t_256" else [])]
            keys = [k for k in keys if selected(k)]
            if keys:
                theirs, ours, ws = _build(code, device, precisions, (variant, resolution))
                for k in keys:
                    make = _gradient if k.endswith("backward") else _image
                    yield make(k, theirs, ours, ws)


def kwargs_of(variant: str, resolution: int) -> dict[str, Any]:
    """Arguments of the official generator as its `train.py` sets them."""
    is_r = variant == "r"
    radial = {"conv_kernel": 1, "use_radial_filters": True} if is_r else {}
    return {
        "z_dim": 512,
        "c_dim": 0,
        "w_dim": 512,
        "img_resolution": resolution,
        "img_channels": 3,
        "mapping_kwargs": {"num_layers": 2},
        "channel_base": CHANNEL_BASES[resolution] * (2 if is_r else 1),
        "channel_max": 1024 if is_r else 512,
        **radial,
    }


def _build(
    code: Checkout, device: torch.device, precisions: tuple[str, ...], which: tuple[str, int]
) -> tuple[Any, dict[str, Generator], Tensor]:
    """Build both sides with equal random weights, and styles."""
    kwargs, draw = kwargs_of(*which), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    theirs: Any = code.module("training.networks_stylegan3").Generator(**kwargs).to(device)
    theirs.eval().requires_grad_(False)
    state = theirs.state_dict()
    for name, x in state.items():  # initial values hide errors: zeros, ones, the identity
        noise = torch.randn(x.shape, generator=draw).to(x)
        if name.endswith("magnitude_ema"):
            x.copy_(noise.exp())
        elif name.endswith(("input.affine.weight", "bias")):
            x.add_(noise, alpha=0.1)
        elif name.endswith("input.transform"):
            x[:2].add_(noise[:2], alpha=0.1)  # affine: the last row stays
    network = Network("Generator", {"_init_kwargs": kwargs}, dict(state))
    parts = nvidia.read_generator(network)
    ours = {}
    for precision in precisions:
        ours[precision] = Generator(parts.config, parts.resolution).to(device)
        ours[precision].load_state_dict(parts.tensors)
        ours[precision].eval().requires_grad_(False)
        set_precision(ours[precision], cast(Precision, precision))
    z = torch.randn(1, 512, generator=draw).to(device)
    with torch.no_grad():
        ws = theirs.mapping(z, None)
    return theirs, ours, ws


def _image(key: str, theirs: Any, ours: dict[str, Generator], ws: Tensor) -> Work:
    @torch.no_grad()
    def official() -> Tensor:
        return theirs.synthesis(ws, force_fp32=True)  # type: ignore[no-any-return]  # untyped

    @torch.no_grad()
    def own(generator: Generator) -> Tensor:
        scene: Any = generator.scene(ws)
        return scene.image  # type: ignore[no-any-return]  # a `Picture`

    calls: dict[str, Callable[[], Any]] = {p: functools.partial(own, g) for p, g in ours.items()}

    def agreement(precision: str) -> str:
        return difference(calls[precision](), official(), precision)

    _, variant, resolution = key.split("_")
    description = f"StyleGAN3-{variant.upper()}, image of {resolution}² from styles, batch 1"
    return Work(key, description, official, calls, agreement)


@contextmanager
def _float32_as_float64() -> Iterator[None]:
    """Let code that names float32, as the official network does, compute in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(torch, "float32", torch.float64):
            yield
    finally:
        torch.set_default_dtype(before)


def _gradient(key: str, theirs: Any, ours: dict[str, Generator], ws: Tensor) -> Work:
    """Gradients by the styles and all weights of the layers, in float32.

    The agreement is that in float64 on the CPU: in float32, signs of samples near 0 differ.
    """
    generator = torch.Generator().manual_seed(1)
    _, variant, resolution, _ = key.split("_")
    size = int(resolution)
    cotangent = torch.randn(1, 3, size, size, generator=generator).to(ws.device)

    def gradient(synthesis: Any) -> Tensor:
        leaf = ws.detach().to(next(synthesis.parameters())).requires_grad_()
        synthesis.requires_grad_(True)
        try:
            (synthesis(leaf) * cotangent.to(leaf)).sum().backward()
        finally:
            synthesis.requires_grad_(False)
            for parameter in synthesis.parameters():
                parameter.grad = None
        assert leaf.grad is not None, "the styles have a gradient"
        return leaf.grad

    def official() -> Tensor:
        return gradient(theirs.synthesis)

    own: Any = ours["fp32"].representation if "fp32" in ours else None
    calls = {} if own is None else {"fp32": lambda: gradient(own.synthesis)}
    description = f"StyleGAN3-{variant.upper()}, image of {resolution}² and all gradients, batch 1"

    def agreement(_: str) -> str:
        networks = own.synthesis, theirs.synthesis
        for network in networks:
            network.to("cpu", torch.float64)
        try:
            a = gradient(own.synthesis)
            with _float32_as_float64():
                b = gradient(theirs.synthesis)
        finally:
            for network in networks:
                network.to(ws.device, torch.float32)
        return f"gradient of the styles, in float64 {relative_error(a, b)}"

    return Work(key, description, official, calls, agreement)
