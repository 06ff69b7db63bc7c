"""How time and memory grow: with the resolution of the rendering, and with that of the scene.

Rows are named `growth.<axis>.<quantity>@<resolution>`; `curve` reads them back. The axes are
`rendering` (edge of `image_raw` in pixels, the scene being cached) and `grid` (texels along an axis
of a scene that is stored in a grid: a tri-plane's bytes grow with the square, a voxel grid's with
the cube; an MLP stores none).
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from lightning_gan3d import registry
from lightning_gan3d.benchmark.inputs import make_inputs
from lightning_gan3d.benchmark.memory import measure_peak
from lightning_gan3d.benchmark.speed import Protocol, time_calls
from lightning_gan3d.contract import Representation
from lightning_gan3d.generator import Generator, GeneratorConfig
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.stats import power_law_exponent


def curve(measures: Iterable[Metric], axis: str, quantity: str) -> list[tuple[int, float]]:
    """Return (resolution, value) of one curve, in rising order; missing values are left out."""
    prefix = f"growth.{axis}.{quantity}@"
    return sorted(
        (int(m.metric.removeprefix(prefix)), m.value)
        for m in measures
        if m.metric.startswith(prefix) and m.value is not None
    )


def _exponents(measures: list[Metric], axis: str, quantities: Sequence[str]) -> list[Metric]:
    rows = []
    for quantity in quantities:
        points = [p for p in curve(measures, axis, quantity) if p[1] > 0]
        metric = f"growth.{axis}.{quantity}_exponent"
        if len(points) < 2:
            rows.append(missing(metric, "fewer than two sizes were measured"))
            continue
        sizes = ", ".join(str(r) for r, _ in points)
        note = f"p of value ~ resolution**p, least squares over {sizes}"
        rows.append(Metric.of_key(metric, power_law_exponent(points), "", len(points), note=note))
    return rows


def growth_with_rendering(
    generator: Generator, resolutions: Sequence[int], protocol: Protocol
) -> list[Metric]:
    """Time and memory of one view of a cached scene, for each edge of the rendering in pixels."""
    if generator.representation.view_in_label:
        why = "a picture has one size and is not rendered"
        return [missing("growth.rendering", why)]
    inputs = make_inputs(generator)
    device = inputs.z.device
    rows: list[Metric] = []
    with torch.no_grad():
        ws = generator.mapping(inputs.z, inputs.label)
        scene = generator.renderer.prepare(generator.scene(ws))
        for resolution in resolutions:

            def view(r: int = resolution) -> Any:
                return generator.render(scene, ws, inputs.cameras, r)

            note = f"one view at {resolution}² of a cached scene"
            name = "growth.rendering.{}@" + str(resolution)
            rows.append(time_calls(view, protocol, device).measure(name.format("view_ms"), note))
            rows.append(measure_peak(name.format("view_mb"), view, device, note))
    return rows + _exponents(rows, "rendering", ("view_ms", "view_mb"))


def growth_with_grid(
    cfg: GeneratorConfig,
    image_resolution: int,
    factors: Sequence[float],
    protocol: Protocol,
    device: torch.device,
) -> list[Metric]:
    """Bytes, time and memory of making one scene, for multiples of the configured grid resolution.

    Weights are as initialised, for what a grid costs does not depend on what it holds.
    """
    own = getattr(cfg.representation, "resolution", None)
    if own is None:
        why = "this representation stores no grid"
        return [missing("growth.grid", why), *_without_grid(cfg, image_resolution, factors, device)]
    rows: list[Metric] = []
    for resolution in sorted({int(own * f) for f in factors if own * f >= 8}):
        representation = _at_grid_resolution(cfg, image_resolution, resolution).to(device).eval()
        ws = torch.randn(
            1, representation.num_ws, cfg.w_dim, generator=torch.Generator().manual_seed(0)
        ).to(device)

        def scene(r: Representation = representation, w: torch.Tensor = ws) -> Any:
            return r(w)

        note = f"one scene at grid resolution {resolution}"
        name = "growth.grid.{}@" + str(resolution)
        with torch.no_grad():
            size = float(scene().nbytes)
            rows.append(Metric.of_key(name.format("scene_bytes"), size, "bytes", 1, note=note))
            rows.append(time_calls(scene, protocol, device).measure(name.format("scene_ms"), note))
            rows.append(measure_peak(name.format("scene_mb"), scene, device, note))
    return rows + _exponents(rows, "grid", ("scene_bytes", "scene_ms", "scene_mb"))


def _without_grid(
    cfg: GeneratorConfig, image_resolution: int, factors: Sequence[float], device: torch.device
) -> list[Metric]:
    """How the bytes of a scene grow with the image's resolution, for which it is made anew each.

    What has no grid of its own may still store one that follows the image; the number tells. It
    is not measured for pictures, which grow with the image by what they are.
    """
    cls = registry.module_of("representations", cfg.representation)
    if getattr(cls, "view_in_label", False):
        return []
    ws = torch.randn(1, 1, cfg.w_dim, generator=torch.Generator().manual_seed(0)).to(device)
    points = []
    with torch.no_grad():
        for resolution in sorted({int(image_resolution * f) for f in factors}):
            made: Representation = cls(
                cfg.representation, scene=cfg.scene, w_dim=cfg.w_dim, resolution=resolution
            )
            made = made.to(device).eval()
            points.append((resolution, float(made(ws.expand(-1, made.num_ws, -1)).nbytes)))
    name = "growth.image.scene_bytes_exponent"
    if len(points) < 2:
        return [missing(name, "fewer than two sizes were measured")]
    sizes = ", ".join(f"{size:.0f} bytes at {r}" for r, size in points)
    note = f"p of value ~ resolution**p, least squares, of the image: {sizes}"
    return [Metric.of_key(name, power_law_exponent(points), "", len(points), note=note)]


def _at_grid_resolution(
    cfg: GeneratorConfig, image_resolution: int, resolution: int
) -> Representation:
    """Build the representation at another grid resolution.

    A list of channels by level is cut, or its last entry repeated, so that the levels in common
    stay the same.
    """
    changes: dict[str, Any] = {"resolution": resolution}
    synthesis: Any = getattr(cfg.representation, "synthesis", None)
    channels = getattr(synthesis, "channels", None)
    if channels is not None:
        levels = round(math.log2(resolution)) - 1  # 4, 8, ..., resolution
        fitted = tuple(channels[min(i, len(channels) - 1)] for i in range(levels))
        changes["synthesis"] = dataclasses.replace(synthesis, channels=fitted)
    changed = dataclasses.replace(cfg.representation, **changes)
    cls = registry.module_of("representations", changed)
    representation: Representation = cls(
        changed, scene=cfg.scene, w_dim=cfg.w_dim, resolution=image_resolution
    )
    return representation
