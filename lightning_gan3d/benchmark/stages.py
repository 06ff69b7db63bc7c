"""The stages of generating an image, each timed and weighed by itself, beside its floor."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from lightning_gan3d.benchmark.cuda_graphs import record_forward, record_view
from lightning_gan3d.benchmark.floor import measure_peaks, share_of_floor
from lightning_gan3d.benchmark.inputs import Inputs, make_inputs
from lightning_gan3d.benchmark.memory import MB, measure_peak
from lightning_gan3d.benchmark.speed import Protocol, time_calls
from lightning_gan3d.contract import Field, Scene
from lightning_gan3d.cost import Cost, count_cost
from lightning_gan3d.generator import Generator
from lightning_gan3d.metric import Metric


class Stage(NamedTuple):
    """One stage, and what it cannot do without."""

    what: str
    """In words."""
    call: Callable[[], Any]
    """Does it once."""
    flops: int
    """Of one call, by the rule of `cost`."""
    reads: int
    """Bytes of the weights and inputs."""


def stages(generator: Generator, inputs: Inputs, cost: Cost) -> dict[str, Stage]:
    """Return the stages of one image: mapping, scene (made once), view (each camera), image.

    `rendering` and `superresolution` are the parts of a view, where the generator has them. On
    CUDA, `view_replayed` and `image_replayed` are the same as CUDA graphs.
    """
    g = generator
    z, label, cameras = inputs
    size = f"{g.rendering_resolution}², image {g.resolution}²"
    with torch.no_grad():
        ws = g.mapping(z, label)
        made = g.scene(ws)
        scene = g.renderer.prepare(made)
    flops = cost.flops
    held = scene.nbytes
    found = {
        "mapping": Stage(
            "latent and camera to styles",
            lambda: g.mapping(z, label),
            flops["mapping"],
            size_of(g.mapping),
        ),
        "scene": Stage(
            "styles to a scene, once a latent",
            lambda: g.renderer.prepare(g.scene(ws)),
            flops["representation"],
            size_of(g.representation),
        ),
        "view": Stage(
            f"one view of a cached scene, super-resolution included; rendering {size}",
            lambda: g.render(scene, ws, cameras),
            flops["renderer"] + flops["superresolution"],
            held + size_of(g.superresolution),
        ),
        "image": Stage(
            f"one image of a new latent; rendering {size}",
            lambda: g(z, label, cameras),
            cost.total_flops,
            size_of(g),
        ),
    }
    if g.representation.view_in_label:
        found["view"] = found["image"]._replace(
            what=f"one more view: nothing is cached, a picture of {g.resolution}² is drawn anew",
            call=lambda: g.views(z, label, cameras),
        )
    if isinstance(made, Field) and isinstance(scene, Field):
        found |= _renderings(g, made, scene, inputs, flops["renderer"])
    if z.device.type == "cuda":
        found |= _replays(g, found, inputs, ws, scene)
    if g.cfg.superresolution.factor > 1:
        found["superresolution"] = _superresolution(g, ws, flops["superresolution"])
    return found


def _renderings(
    generator: Generator, made: Field, scene: Field, inputs: Inputs, flops: int
) -> dict[str, Stage]:
    """The rendering of a scene that lies there; and with its gradient, as in training.

    The former takes the scene prepared for views, the latter as it was made: training prepares
    nothing.
    """
    resolution = generator.rendering_resolution
    leaf = (
        made.detach().to(dtype=torch.float32).map(lambda x: x.requires_grad_(x.is_floating_point()))
    )
    differentiated = [x for x in leaf.tensors() if x.requires_grad]

    def backward() -> None:
        with torch.enable_grad():
            feature = generator.renderer(leaf, inputs.cameras, resolution).feature
            torch.autograd.grad(feature.sum(), differentiated)

    def forward() -> Any:
        return generator.renderer(scene, inputs.cameras, resolution)

    return {
        "rendering": Stage(f"rendering at {resolution}² alone", forward, flops, scene.nbytes),
        "rendering_gradient": Stage(
            f"rendering at {resolution}² and the gradient of the scene",
            backward,
            3 * flops,  # forward, and two products for each in the backward pass
            2 * made.nbytes,
        ),
    }


def _replays(
    generator: Generator, called: dict[str, Stage], inputs: Inputs, ws: Tensor, scene: Scene
) -> dict[str, Stage]:
    """A view and an image once more, each recorded as a CUDA graph and replayed."""
    z, label, cameras = inputs
    image = record_forward(generator, z, label, cameras)
    found = {"image_replayed": called["image"]._replace(call=lambda: image(z, label, cameras))}
    if not generator.representation.view_in_label:
        view = record_view(generator, scene, ws, cameras)
        found["view_replayed"] = called["view"]._replace(call=lambda: view(cameras))
    return {
        name: stage._replace(what=f"{stage.what}; a CUDA graph, replayed")
        for name, stage in found.items()
    }


def _superresolution(generator: Generator, ws: Tensor, flops: int) -> Stage:
    size = generator.rendering_resolution
    feature = torch.zeros(1, generator.cfg.scene.feature_dim, size, size, device=ws.device)
    return Stage(
        f"super-resolution alone, {size}² to {generator.resolution}²",
        lambda: generator.superresolution(feature[:, :3], feature, ws),
        flops,
        size_of(generator.superresolution) + bytes_of(feature),
    )


def size_of(module: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(map(bytes_of, (*module.parameters(), *module.buffers())))


def bytes_of(value: Any) -> int:
    """Bytes of all tensors of a result."""
    if isinstance(value, Scene):
        return value.nbytes
    leaves = pytree.tree_leaves(value)
    return sum(x.numel() * x.element_size() for x in leaves if isinstance(x, Tensor))


def measure_stages(generator: Generator, protocol: Protocol, batch: int) -> list[Metric]:
    """Time each stage for one image and weigh it; then whole images by batches of `batch`."""
    was_training = generator.training
    generator.eval()
    inputs = make_inputs(generator)
    device = inputs.z.device
    peaks = measure_peaks(device, torch.get_num_threads())
    times, shares, memory = [], [], []
    with torch.no_grad():
        for name, stage in stages(generator, inputs, count_cost(generator)).items():
            written = bytes_of(stage.call())
            timing = time_calls(stage.call, protocol, device)
            times.append(timing.measure(f"speed.{name}_ms", stage.what))
            shares.append(share_of_floor(name, timing, stage.flops, stage.reads + written, peaks))
            memory.append(measure_peak(f"memory.{name}_mb", stage.call, device, stage.what))
        many = make_inputs(generator, batch)
        timing = time_calls(lambda: generator(*many), protocol, device)
    generator.train(was_training)
    low, high = timing.quartiles
    throughput = Metric.of_key(
        "speed.image_img_s",
        batch / timing.median,
        "img/s",
        len(timing.seconds),
        note=f"whole images of new latents by batches of {batch}; median of {len(timing.seconds)} "
        f"batches, quartiles {batch / high:.3g} to {batch / low:.3g} img/s",
    )
    held = Metric.of_key(
        "memory.weights_mb",
        size_of(generator) / MB,
        "MB",
        1,
        note="parameters and buffers of the generator",
    )
    return [*times, throughput, *_path(generator), *peaks.measures(), *shares, held, *memory]


def _path(generator: Generator) -> list[Metric]:
    """Which code marched the rays, where a renderer says so."""
    path = getattr(generator.renderer, "path_taken", None)
    if path is None:
        return []
    fused = path.name != "plain"
    return [Metric.of_key("speed.fused", float(fused), "", 1, note=str(path))]
