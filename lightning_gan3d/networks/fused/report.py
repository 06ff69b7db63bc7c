"""What computes a network's synthesis layers, in words for reports."""

from torch import nn

from lightning_gan3d.networks import fused
from lightning_gan3d.networks.layers import SynthesisLayer
from lightning_gan3d.networks.precision import MixedPrecision


def describe(network: nn.Module) -> str:
    """Say what computes the layers where they are now, and why it is not the kernels.

    Such as `numba, AVX-512`, `numba, AVX-512, in 5 of 7 layers` (the others are plain),
    `plain torch (numba is missing: ...)`, or `none` without such layers. What compilers make of a
    network is not looked at.
    """
    layers = [m for m in network.modules() if isinstance(m, SynthesisLayer)]
    if not layers:
        return "none"
    devices = {m.weight.device.type for m in layers} - {"cpu"}
    if devices:
        return f"plain torch (layers on {', '.join(sorted(devices))}; the kernels serve a CPU)"
    try:
        from lightning_gan3d import simd
    except ImportError as error:
        return f"plain torch ({error})"
    halves = _in_float16(network)
    num = sum(_fits(m) and m not in halves for m in layers)
    if num == 0:
        return (
            "plain torch (no layer of images with float32 weights, activations in float32 or "
            f"bfloat16, and channels in multiples of {simd.WIDTH})"
        )
    whole = f"numba, {simd.describe()}"
    return whole if num == len(layers) else f"{whole}, in {num} of {len(layers)} layers"


def _fits(layer: SynthesisLayer) -> bool:
    # Activations of the layer have the device, the axes and at most the precision of its weight.
    return fused.reads(layer.weight) and fused.serves(layer.weight, *layer.weight.shape[:2])


def _in_float16(network: nn.Module) -> set[nn.Module]:
    parts = [m for m in network.modules() if isinstance(m, MixedPrecision)]
    return {m for part in parts if part.precision == "fp16" for m in part.modules()}
