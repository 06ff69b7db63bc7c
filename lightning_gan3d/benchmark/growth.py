"""Growth of time and memory with the resolution of the rendering and of the scene.

Curves are metrics `growth.<axis>.<quantity>` with `at` the resolution. The axes are `rendering`
(edge of `image_raw` in pixels, with a cached scene) and `grid` (texels per axis of a scene stored
in a grid: a tri-plane's bytes grow with the square, a voxel grid's with the cube).
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from lightning_gan3d import registry
from lightning_gan3d.benchmark.stages import Profiler, cached_scene
from lightning_gan3d.contract import Representation
from lightning_gan3d.cost import make_inputs
from lightning_gan3d.generator import Generator, GeneratorConfig
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.stats import power_law_exponent


def curve(metrics: Iterable[Metric], axis: str, quantity: str) -> list[tuple[int, float]]:
    """Return (resolution, value) of one curve, ascending, without missing values."""
    name = f"growth.{axis}.{quantity}"
    return sorted(
        (int(m.at), m.value)
        for m in metrics
        if m.name == name and m.at is not None and m.value is not None
    )


def growth_with_rendering(
    generator: Generator, resolutions: Sequence[int], profiler: Profiler
) -> list[Metric]:
    """Time and memory of one view of a cached scene, by the rendering's edge in pixels."""
    axis = "growth.rendering"
    if generator.representation.view_in_label:
        return [missing(axis, "a picture has one size and is not rendered")]
    z, label, cameras = make_inputs(generator)
    ws, scene = cached_scene(generator, z, label)
    rows: list[Metric] = []
    with torch.no_grad():
        for resolution in resolutions:

            def view(resolution: int = resolution) -> Any:
                return generator.render(scene, ws, cameras, resolution)

            note = f"one view at {resolution}² of a cached scene"
            rows += profiler.measure(
                (f"{axis}.view_ms", f"{axis}.view_mb"), view, note, float(resolution)
            )
    return rows + _exponents(rows, "rendering", ("view_ms", "view_mb"))


def growth_with_grid(
    cfg: GeneratorConfig, image_resolution: int, factors: Sequence[float], profiler: Profiler
) -> list[Metric]:
    """Bytes, time and memory of one scene, for multiples of the configured grid resolution.

    Weights are as initialised: the cost of a grid does not depend on its values.
    """
    axis = "growth.grid"
    own = getattr(cfg.representation, "resolution", None)
    if own is None:
        no_grid = missing(axis, "this representation stores no grid")
        return [no_grid, *_growth_without_grid(cfg, image_resolution, factors, profiler.device)]
    rows: list[Metric] = []
    for resolution in sorted({int(own * f) for f in factors if own * f >= 8}):
        changed = _at_grid_resolution(cfg.representation, resolution)
        representation = _build(cfg, changed, image_resolution, profiler.device)
        ws = _styles(cfg, representation.num_ws, profiler.device)

        def scene(r: Representation = representation, ws: torch.Tensor = ws) -> Any:
            return r(ws)

        note = f"one scene at grid resolution {resolution}"
        with torch.no_grad():
            nbytes, at = float(scene().nbytes), float(resolution)
            rows.append(Metric(f"{axis}.scene_bytes", nbytes, "bytes", 1, note=note, at=at))
            names = f"{axis}.scene_ms", f"{axis}.scene_mb"
            rows += profiler.measure(names, scene, note, at)
    return rows + _exponents(rows, "grid", ("scene_bytes", "scene_ms", "scene_mb"))


def _growth_without_grid(
    cfg: GeneratorConfig, image_resolution: int, factors: Sequence[float], device: torch.device
) -> list[Metric]:
    """Growth of a scene's bytes with the image resolution; empty for 2D images."""
    if cfg.view_in_label:
        return []
    points = []
    with torch.no_grad():
        for resolution in sorted({int(image_resolution * f) for f in factors}):
            representation = _build(cfg, cfg.representation, resolution, device)
            scene = representation(_styles(cfg, representation.num_ws, device))
            points.append((resolution, float(scene.nbytes)))
    sizes = ", ".join(f"{nbytes:.0f} bytes at {r}" for r, nbytes in points)
    return [_exponent("growth.image.scene_bytes", points, f", of the image: {sizes}")]


def _exponents(rows: list[Metric], axis: str, quantities: Sequence[str]) -> list[Metric]:
    exponents = []
    for quantity in quantities:
        points = [p for p in curve(rows, axis, quantity) if p[1] > 0]
        sizes = ", ".join(str(r) for r, _ in points)
        exponents.append(_exponent(f"growth.{axis}.{quantity}", points, f" over {sizes}"))
    return exponents


def _exponent(name: str, points: Sequence[tuple[int, float]], sizes: str) -> Metric:
    name = f"{name}_exponent"
    if len(points) < 2:
        return missing(name, "fewer than two sizes were measured")
    note = f"p of value ~ resolution**p, least squares{sizes}"
    return Metric(name, power_law_exponent(points), "", len(points), note=note)


def _styles(cfg: GeneratorConfig, num_ws: int, device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, num_ws, cfg.w_dim, generator=generator).to(device)


def _build(
    cfg: GeneratorConfig, representation: Any, resolution: int, device: torch.device
) -> Representation:
    """Build a representation of this configuration, for images of `resolution`."""
    cls = registry.module_of("representations", representation)
    module: Representation = cls(
        representation, scene=cfg.scene, w_dim=cfg.w_dim, resolution=resolution
    )
    return module.to(device).eval()


def _at_grid_resolution(representation: Any, resolution: int) -> Any:
    """Change the grid resolution; common levels keep their channels, new ones repeat the last."""
    changes: dict[str, Any] = {"resolution": resolution}
    synthesis: Any = getattr(representation, "synthesis", None)
    channels = getattr(synthesis, "channels", None)
    if channels is not None:
        levels = round(math.log2(resolution)) - 1  # 4, 8, ..., resolution
        fitted = tuple(channels[min(i, len(channels) - 1)] for i in range(levels))
        changes["synthesis"] = dataclasses.replace(synthesis, channels=fitted)
    return dataclasses.replace(representation, **changes)
