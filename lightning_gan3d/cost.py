"""What a generator costs by count: parameters, bytes of a scene, FLOPs of an image.

Counts, unlike times, are the same on every machine, so equal budgets are stated in them.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from lightning_gan3d.benchmark.inputs import make_inputs
from lightning_gan3d.generator import Generator, num_parameters
from lightning_gan3d.metric import Metric

PARTS = ("mapping", "representation", "renderer", "superresolution")
"""The parts of a generator, in the order of the data.

The renderer's FLOPs hold those of the field that it queries, be that a decoder or a whole MLP; the
field's parameters belong to the representation.
"""

COUNTED = (
    "multiplications and additions of matrix products, convolutions (FIR filters among them) and "
    "interpolated reads (2 per corner and channel); not counted: activations, biases, "
    "normalisation, modulation, compositing, antialiased reductions"
)
"""The rule behind every FLOP here. One multiply-add is 2 FLOPs."""


def _interpolation(corners: int) -> Callable[..., int]:
    """FLOPs of a linear interpolation: a multiply-add for each corner of each value."""

    def count(*_: Any, out_shape: Any = None, **__: Any) -> int:
        return 2 * corners * int(torch.Size(out_shape).numel())

    return count


def _grid_sample(corners: int) -> Callable[..., int]:
    linear = _interpolation(corners)

    def count(input_shape: Any, grid_shape: Any, mode: int, *rest: Any, **kwargs: Any) -> int:
        return (
            linear(input_shape, grid_shape, *rest, **kwargs) if mode == 0 else 0
        )  # 0: linear; nearest only reads

    return count


def _embedding_bag(weight_shape: Any, indices_shape: Any, *_: Any, **__: Any) -> int:
    """A weighted sum of rows, which is how a gather with interpolation may be written."""
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
"""What we count besides torch's own rules for matrix products and convolutions."""


@dataclass(frozen=True)
class Cost:
    """Counts of one generator, for one scene and one view of it."""

    parameters: dict[str, int]
    """Trained numbers by part."""
    scene_bytes: int
    """Bytes of one scene as stored: what has to be kept to render another view."""
    flops: dict[str, int]
    """Of one image by part, at the rendering resolution that was asked for."""

    @property
    def total_parameters(self) -> int:
        """Of the whole generator."""
        return sum(self.parameters.values())

    @property
    def total_flops(self) -> int:
        """Of one whole image, mapping included."""
        return sum(self.flops.values())

    def measures(self) -> list[Metric]:
        """Return the counts as rows of a report."""
        parts = [
            Metric.of_key(f"cost.{part}_parameters", float(n), "count", 1)
            for part, n in self.parameters.items()
        ]
        work = [
            Metric.of_key(f"cost.{part}_flops", n / 1e9, "GFLOP", 1, note=COUNTED)
            for part, n in self.flops.items()
        ]
        total = float(self.total_parameters)
        return [
            Metric.of_key("cost.parameters", total, "count", 1, note="of the generator"),
            *parts,
            Metric.of_key(
                "cost.scene_bytes", float(self.scene_bytes), "bytes", 1, note="of one scene"
            ),
            Metric.of_key(
                "cost.flops", self.total_flops / 1e9, "GFLOP", 1, note=f"one image: {COUNTED}"
            ),
            *work,
        ]


def count_flops(fn: Callable[[], Any]) -> dict[str, int]:
    """Count the FLOPs of a call by our rule, by dotted module name; `Global` is the sum."""
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=RULES) as counter:
        fn()
    counts = {name: sum(by_op.values()) for name, by_op in counter.get_flop_counts().items()}
    return {"Global": 0, **counts}


def count_cost(generator: Generator, resolution: int | None = None) -> Cost:
    """Count one scene and one view; `resolution` is that of the rendering.

    Counted on the device `meta`, where nothing is computed and every renderer takes its plain path:
    what fused kernels do cannot be seen, and is the same work.
    """
    # The counter's hooks take a view of a trained parameter for part of a graph, even without one.
    generator = copy.deepcopy(generator).requires_grad_(False).to("meta")
    inputs = make_inputs(generator)
    by_module = count_flops(
        lambda: generator(inputs.z, inputs.label, inputs.cameras, resolution=resolution)
    )
    root = type(generator).__name__
    with torch.no_grad():
        scene = generator.scene(generator.mapping(inputs.z, inputs.label))
    return Cost(
        parameters={part: num_parameters(getattr(generator, part)) for part in PARTS},
        scene_bytes=scene.nbytes,
        flops={part: by_module.get(f"{root}.{part}", 0) for part in PARTS},
    )
