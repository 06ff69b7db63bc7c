"""Time, memory and roofline share of each stage of generating an image."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.benchmark.memory import MB, measure_memory
from lightning_gan3d.benchmark.speed import (
    Protocol,
    Recorded,
    Timing,
    time_calls,
    time_ordered,
)
from lightning_gan3d.contract import DensityScene, Renderer, Scene
from lightning_gan3d.cost import Cost, Inputs, count_cost, make_inputs, num_bytes
from lightning_gan3d.generator import Generator
from lightning_gan3d.images import Rendering
from lightning_gan3d.metric import Metric, missing
from renderers.splat import SplatRenderer
from renderers.volume import VolumeRenderer

PEAK_PROTOCOL = Protocol(warmup=2, min_repeats=5, max_repeats=20, budget=0.3)
MATRIX_EDGES = {"cpu": 1536, "cuda": 8192}
"""Edges of the square matrices: large enough for full speed."""
COPIED_BYTES = {"cpu": 1 << 28, "cuda": 1 << 30}
"""Bytes of the copied tensor: more than the caches hold."""


class Stage(NamedTuple):
    """One stage and its minimal work."""

    description: str
    call: Callable[[], Any]
    flops: int
    """FLOPs of one call, by the rule of `cost`."""
    read_bytes: int
    """Bytes of weights and inputs."""


@dataclass(frozen=True)
class Roofline:
    """Lower bound of a stage's time (Williams et al. 2009): compute or compulsory traffic.

    Traffic between layers is not counted, so this is a bound and not a forecast.
    """

    flops: float
    """FLOP/s of a matrix product in float32 (TF32 if torch allows it)."""
    bandwidth: float
    """Bytes read plus bytes written per second, of a copy."""

    def lower_bound(self, flops: int, nbytes: int) -> float:
        """Lower bound in seconds for this much compute and traffic."""
        return max(flops / self.flops, nbytes / self.bandwidth)

    def share(self, name: str, timing: Timing, flops: int, nbytes: int) -> Metric:
        """Lower bound over the median time of a stage."""
        bound = self.lower_bound(flops, nbytes)
        limit = "compute" if flops / self.flops >= bound else "bandwidth"
        note = (
            f"lower bound {1e3 * bound:.3g} ms by {limit}: {flops / 1e9:.4g} GFLOP at "
            f"{self.flops / 1e9:.4g} GFLOP/s, {nbytes / MB:.4g} MB at "
            f"{self.bandwidth / 1e9:.4g} GB/s"
        )
        return Metric(f"speed.{name}_floor_share", bound / timing.median, "share", 1, note=note)

    def metrics(self) -> list[Metric]:
        """Both peak rates."""
        note = "best of repeated calls; lower bounds of stages are derived from it"
        product = f"square matrix product, float32; {note}"
        copy = f"copy, bytes read and written; {note}"
        return [
            Metric("speed.peak_gflop_s", self.flops / 1e9, "GFLOP/s", 1, note=product),
            Metric("speed.peak_gb_s", self.bandwidth / 1e9, "GB/s", 1, note=copy),
        ]


@functools.lru_cache(maxsize=8)
def measure_roofline(device: torch.device, threads: int) -> Roofline:  # noqa: ARG001  # cache key
    """Measure the device's peak rates, once per number of CPU threads."""
    kind = "cuda" if device.type == "cuda" else "cpu"
    edge = MATRIX_EDGES[kind]
    a = torch.randn(edge, edge, device=device)
    product = time_calls(lambda: a @ a, PEAK_PROTOCOL, device)
    x = torch.zeros(COPIED_BYTES[kind], dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    copy = time_calls(lambda: y.copy_(x), PEAK_PROTOCOL, device)
    return Roofline(2 * edge**3 / min(product.seconds), 2 * len(x) / min(copy.seconds))


PARTS = {
    "image": ("mapping", "scene", "view"),
    "view": ("rendering", "superresolution"),
    "rendering_gradient": ("rendering",),
    "image_replayed": ("view_replayed",),
}
"""Stages that are parts of others, which must not be faster."""
WITH_PATH = (VolumeRenderer, SplatRenderer)
"""Renderers whose option `path` chooses between kernels and plain torch."""


@dataclass(frozen=True)
class Profiler:
    """Times calls and measures their peak memory, under one protocol on one device."""

    protocol: Protocol
    device: torch.device
    timings_only: bool = False
    """Whether to leave out what does not vary between processes: memory, and which kernels run."""

    def time(self, call: Callable[[], Any]) -> Timing:
        """Time repeated calls."""
        return time_calls(call, self.protocol, self.device)

    def measure(
        self, names: tuple[str, str], call: Callable[[], Any], note: str, at: float | None = None
    ) -> list[Metric]:
        """Time and peak memory of a call, as metrics of two names."""
        time_name, memory_name = names
        timed = [self.time(call).metric(time_name, note, at)]
        if self.timings_only:
            return timed
        return [*timed, measure_memory(memory_name, call, self.device, note, at)]

    @torch.no_grad()
    def measure_stages(
        self, stages: Mapping[str, Stage], parts: Mapping[str, Sequence[str]] = PARTS
    ) -> list[Metric]:
        """Time, roofline share and peak memory of stages, timed in alternating rounds."""
        calls = {name: stage.call for name, stage in stages.items()}
        timings, problems = time_ordered(calls, parts, self.protocol, self.device)
        roofline = measure_roofline(self.device, torch.get_num_threads())
        metrics = []
        for name, stage in stages.items():
            if name in problems:
                metrics.append(missing(f"speed.{name}_ms", problems[name], "ms"))
                metrics.append(missing(f"speed.{name}_floor_share", problems[name], "share"))
            else:
                nbytes = stage.read_bytes + num_bytes(stage.call())
                metrics.append(timings[name].metric(f"speed.{name}_ms", stage.description))
                metrics.append(roofline.share(name, timings[name], stage.flops, nbytes))
            if not self.timings_only:
                key = f"memory.{name}_mb"
                metrics.append(measure_memory(key, stage.call, self.device, stage.description))
        return metrics


def measure_generation(generator: Generator, profiler: Profiler, batch: int) -> list[Metric]:
    """Measure each stage for one image, then the throughput of whole images in batches."""
    was_training = generator.training
    generator.eval()
    inputs = make_inputs(generator)
    # With the view in its label, a view is an image: neither contains the other.
    parts = PARTS if not generator.representation.view_in_label else {"image": ("mapping",)}
    called = stages(generator, inputs, count_cost(generator))
    metrics = profiler.measure_stages(called, parts)
    many = make_inputs(generator, batch)
    with torch.no_grad():
        timing = profiler.time(lambda: generator(*many))
    generator.train(was_training)
    (median, low, high), n = timing.quartiles, len(timing.seconds)
    note = (
        f"whole images of new latents in batches of {batch}; median of {n} batches, quartiles "
        f"{batch / high:.3g} to {batch / low:.3g} img/s"
    )
    throughput = Metric("speed.image_img_s", batch / median, "img/s", n, note=note)
    peaks = measure_roofline(profiler.device, torch.get_num_threads()).metrics()
    metrics += [throughput, *peaks]
    if profiler.timings_only:
        return metrics
    note = "parameters and buffers of the generator"
    weights = Metric("memory.weights_mb", num_bytes(generator) / MB, "MB", 1, note=note)
    return [*metrics, *_rendering_path(generator), weights]


def _rendering_path(generator: Generator) -> list[Metric]:
    """Whether a fused kernel rendered; empty for renderers without kernels."""
    backend = getattr(generator.renderer, "backend", None)
    if backend is None:
        return []
    return [Metric("speed.fused", float(backend.fused), "", 1, note=str(backend))]


@torch.no_grad()
def cached_scene(
    generator: Generator, z: Float[Tensor, "b z_dim"], label: Float[Tensor, "b 25"]
) -> tuple[Float[Tensor, "b num_ws w_dim"], Scene]:
    """Styles and scenes of latents, prepared to be rendered from several cameras."""
    ws = generator.mapping(z, label)
    return ws, generator.renderer.prepare(generator.scene(ws))


def stages(generator: Generator, inputs: Inputs, cost: Cost) -> dict[str, Stage]:
    """Stages of one image: mapping, scene (once per latent), view (once per camera), image.

    `rendering` and `superresolution` are parts of a view, if the generator has them. On CUDA,
    `view_replayed` and `image_replayed` are the same as CUDA graphs.
    """
    g, flops = generator, cost.flops
    z, label, cameras = inputs
    size = f"{g.rendering_resolution}², image {g.resolution}²"
    ws, scene = cached_scene(g, z, label)
    image = Stage(
        f"one image of a new latent; rendering {size}",
        lambda: g(z, label, cameras),
        cost.total_flops,
        num_bytes(g),
    )
    if g.representation.view_in_label:
        view = image._replace(
            description=f"one more view: nothing is cached, a new picture of {g.resolution}²",
            call=lambda: g.views(z, label, cameras),
        )
    else:
        view = Stage(
            f"one view of a cached scene, super-resolution included; rendering {size}",
            lambda: g.render(scene, ws, cameras),
            flops["renderer"] + flops["superresolution"],
            scene.nbytes + num_bytes(g.superresolution),
        )
    result = {
        "mapping": Stage(
            "latent and camera to styles",
            lambda: g.mapping(z, label),
            flops["mapping"],
            num_bytes(g.mapping),
        ),
        "scene": Stage(
            "styles to a scene, once per latent",
            lambda: g.renderer.prepare(g.scene(ws)),
            flops["representation"],
            num_bytes(g.representation),
        ),
        "view": view,
        "image": image,
    }
    if isinstance(scene, DensityScene):
        result |= _renderings(g, inputs, ws, scene, flops["renderer"])
    if z.device.type == "cuda":
        result |= _replays(g, result, inputs, ws, scene)
    if g.cfg.head is None and g.cfg.factor > 1:
        result["superresolution"] = _superresolution(g, ws, flops["superresolution"])
    return result


def _renderings(
    generator: Generator, inputs: Inputs, ws: Tensor, scene: DensityScene, flops: int
) -> dict[str, Stage]:
    """Rendering of a prepared scene; of an unprepared one with its gradient, as in training.

    The same by the plain path, if fused kernels render: what the kernels gain.
    """
    resolution, renderer = generator.rendering_resolution, generator.renderer
    with torch.no_grad():
        unprepared = generator.scene(ws)
    leaf = unprepared.to(dtype=torch.float32).map(
        lambda x: x.detach().requires_grad_(x.is_floating_point())
    )
    differentiated = [x for x in leaf.tensors() if x.requires_grad]

    def gradient(renderer: Renderer) -> None:
        with torch.enable_grad():
            feature = renderer(leaf, inputs.cameras, resolution).feature
            torch.autograd.grad(feature.sum(), differentiated, allow_unused=True)

    result = {
        "rendering": Stage(
            f"rendering at {resolution}² alone",
            lambda: renderer(scene, inputs.cameras, resolution),
            flops,
            scene.nbytes,
        )
    }
    if renderer.differentiable:
        result["rendering_gradient"] = Stage(
            f"rendering at {resolution}² and the gradient of the scene",
            lambda: gradient(renderer),
            3 * flops,  # one product forward, two backward
            2 * unprepared.nbytes,  # the scene and its gradient
        )
    if isinstance(renderer, WITH_PATH) and _renders_fused(renderer, inputs, scene):
        kind: Any = type(renderer)
        plain = kind(dataclasses.replace(renderer.cfg, path="plain"))
        calls = {
            "rendering": lambda: plain(scene, inputs.cameras, resolution),
            "rendering_gradient": lambda: gradient(plain),
        }
        for name, stage in list(result.items()):
            text = f"{stage.description}, by plain torch"
            result[f"{name}_plain"] = stage._replace(description=text, call=calls[name])
    return result


@torch.no_grad()
def _renders_fused(renderer: Renderer, inputs: Inputs, scene: DensityScene) -> bool:
    """Whether the renderer has kernels for this scene."""
    renderer(scene, inputs.cameras, 1)
    backend = getattr(renderer, "backend", None)
    return backend is not None and backend.fused


def _replays(
    generator: Generator, called: dict[str, Stage], inputs: Inputs, ws: Tensor, scene: Scene
) -> dict[str, Stage]:
    """The stages `view` and `image` as CUDA graphs."""
    image = Recorded(generator, *inputs)
    replays: dict[str, Callable[[], Any]] = {"image": lambda: image(*inputs)}
    if not generator.representation.view_in_label:
        view = Recorded(lambda cameras: generator.render(scene, ws, cameras), inputs.cameras)
        replays["view"] = lambda: view(inputs.cameras)
    return {
        f"{name}_replayed": called[name]._replace(
            description=f"{called[name].description}; a CUDA graph, replayed", call=call
        )
        for name, call in replays.items()
    }


def _superresolution(generator: Generator, ws: Tensor, flops: int) -> Stage:
    size = generator.rendering_resolution
    feature = torch.zeros(1, generator.cfg.scene.feature_dim, size, size, device=ws.device)
    return Stage(
        f"super-resolution alone, {size}² to {generator.resolution}²",
        lambda: generator.superresolution(Rendering(feature, None, None), ws),
        flops,
        num_bytes(generator.superresolution) + num_bytes(feature),
    )
