"""Cost of a generator by count: parameters, bytes of a scene, FLOPs of an image.

Counts, unlike times, are equal on every machine, so equal budgets are stated in them.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
import torch.utils._pytree as pytree
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.metric import Metric
from lightning_gan3d.networks.mapping import with_class

if TYPE_CHECKING:
    from lightning_gan3d.generator import Generator

Module = TypeVar("Module", bound=nn.Module)

PARTS = ("mapping", "representation", "renderer", "superresolution")
"""Parts of a generator, in the order of the data.

A field's FLOPs (decoder or MLP) count as the renderer's, which queries it; its parameters as the
representation's.
"""
COUNTED = (
    "multiplications and additions of matrix products, convolutions (FIR filters included) and "
    "interpolated reads (2 per corner and channel); not counted: activations, biases, "
    "normalisation, modulation, compositing, antialiased reductions"
)
"""What counts as a FLOP. One multiply-add is 2 FLOPs."""
ELEVATION = 0.35
"""Radians above the equator: rays cross the box obliquely, as in training."""
RADIUS_OVER_BOX = 2.7
"""EG3D's camera distance from the centre, in edges of the box."""


class Inputs(NamedTuple):
    """Latents and their cameras."""

    z: Float[Tensor, "b z_dim"]
    label: Float[Tensor, "b label_dim"]
    cameras: Cameras


def make_inputs(generator: "Generator", batch: int = 1) -> Inputs:
    """Fixed random latents, each with a camera on a circle around the box; the benchmark's inputs.

    The box's middle slice fills the frame. The distance is the middle of the renderer's near and
    far, if it has them.
    """
    device = next(generator.parameters()).device
    box = generator.cfg.scene.box
    near = getattr(generator.cfg.renderer, "near", None)
    far = getattr(generator.cfg.renderer, "far", None)
    radius = (near + far) / 2 if near is not None and far is not None else RADIUS_OVER_BOX * box
    with torch.device("cpu"):  # the default device may be meta
        cameras = Cameras.orbit(batch, ELEVATION, radius, focal=radius / box)
        z = torch.randn(batch, generator.cfg.z_dim, generator=torch.Generator().manual_seed(0))
    label = with_class(cameras.to_label(), generator.mapping.num_classes)
    return Inputs(z.to(device), label.to(device), cameras.to(device))


@dataclass(frozen=True)
class Cost:
    """Counts of one generator, for one scene and one view of it."""

    parameters: dict[str, int]
    """Trained numbers by part."""
    scene_bytes: int
    """Bytes of one scene as stored: what another view needs."""
    flops: dict[str, int]
    """FLOPs of one image by part."""

    @property
    def total_parameters(self) -> int:
        """Parameters of the whole generator."""
        return sum(self.parameters.values())

    @property
    def total_flops(self) -> int:
        """FLOPs of one image, mapping included."""
        return sum(self.flops.values())

    def metrics(self) -> list[Metric]:
        """All counts as metrics."""

        def count(name: str, value: int | float, unit: str, note: str = "") -> Metric:
            return Metric(name=f"cost.{name}", value=float(value), unit=unit, n=1, note=note)

        return [
            count("parameters", self.total_parameters, "count", "of the generator"),
            *(count(f"{p}_parameters", n, "count") for p, n in self.parameters.items()),
            count("scene_bytes", self.scene_bytes, "bytes", "of one scene"),
            count("flops", self.total_flops / 1e9, "GFLOP", f"one image: {COUNTED}"),
            *(count(f"{p}_flops", n / 1e9, "GFLOP", COUNTED) for p, n in self.flops.items()),
        ]


def count_cost(generator: "Generator", resolution: int | None = None) -> Cost:
    """Count one scene and one view; `resolution` is that of the rendering."""
    generator = to_meta(generator)
    inputs = make_inputs(generator)
    flops = count_flops(lambda: generator(*inputs, resolution=resolution))
    with torch.no_grad():
        scene = generator.scene(generator.mapping(inputs.z, inputs.label))
    root = type(generator).__name__
    return Cost(
        parameters={part: num_parameters(getattr(generator, part)) for part in PARTS},
        scene_bytes=num_bytes(scene),
        flops={part: flops.get(f"{root}.{part}", 0) for part in PARTS},
    )


def count_pair(
    generator: "Generator", discriminator: nn.Module, resolution: int
) -> tuple[int, int]:
    """FLOPs of one image rendered at `resolution`, and of its logit, at their level of detail."""
    generator, discriminator = to_meta(generator), to_meta(discriminator)
    inputs = make_inputs(generator)
    images = generator(*inputs, resolution=resolution)
    images = images._replace(image=images.image_raw)
    of_image = count_flops(lambda: generator(*inputs, resolution=resolution))["Global"]
    return of_image, count_flops(lambda: discriminator(images, inputs.label))["Global"]


def to_meta(module: Module) -> Module:
    """Copy a module to the device `meta`, where nothing is computed and no kernel is fused."""
    # With trained parameters, the counter's hooks take a view of one for part of a graph.
    return copy.deepcopy(module).requires_grad_(False).to("meta")


def num_parameters(module: nn.Module) -> int:
    """Number of trained values of a module."""
    return sum(p.numel() for p in module.parameters())


def num_bytes(value: Any) -> int:
    """Bytes of a module's parameters and buffers, or of all tensors of a scene or tuple."""
    if isinstance(value, nn.Module):
        value = [*value.parameters(), *value.buffers()]
    leaves = pytree.tree_leaves(value)
    return sum(x.numel() * x.element_size() for x in leaves if isinstance(x, Tensor))


def count_flops(fn: Callable[[], Any]) -> dict[str, int]:
    """FLOPs of a call by dotted module name; `Global` is the total.

    Only torch's own operations are counted: use modules of `to_meta`, since fused kernels are
    invisible.
    """
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=RULES) as counter:
        fn()
    counts = {name: sum(by_op.values()) for name, by_op in counter.get_flop_counts().items()}
    return {"Global": 0, **counts}


def _interpolation(corners: int) -> Callable[..., int]:
    """One multiply-add per corner of each value."""

    def count(*_: Any, out_shape: Any = None, **__: Any) -> int:
        return 2 * corners * int(torch.Size(out_shape).numel())

    return count


def _grid_sample(corners: int) -> Callable[..., int]:
    linear = _interpolation(corners)

    def count(input_shape: Any, grid_shape: Any, mode: int, *rest: Any, **kwargs: Any) -> int:
        if mode != 0:  # nearest: a read without arithmetic
            return 0
        return linear(input_shape, grid_shape, *rest, **kwargs)

    return count


def _embedding_bag(weight_shape: Any, indices_shape: Any, *_: Any, **__: Any) -> int:
    """A weighted sum of rows: how an interpolated gather may be written."""
    return 2 * int(torch.Size(indices_shape).numel()) * int(weight_shape[-1])


aten = torch.ops.aten
RULES: dict[Any, Callable[..., int]] = {
    aten.grid_sampler_2d: _grid_sample(4),
    aten.grid_sampler_3d: _grid_sample(8),
    aten.cudnn_grid_sampler: _interpolation(4),
    aten._embedding_bag: _embedding_bag,
    aten._embedding_bag_forward_only: _embedding_bag,
    aten.upsample_bilinear2d: _interpolation(4),
    aten.upsample_trilinear3d: _interpolation(8),
}
"""Counted in addition to torch's own rules for matrix products and convolutions."""
