"""The stages of generating an image, each timed and weighed by itself."""

from collections.abc import Callable
from typing import Any

import torch

from lightning_gan3d.benchmark.inputs import Inputs, make_inputs
from lightning_gan3d.benchmark.memory import MB, measure_peak
from lightning_gan3d.benchmark.speed import Protocol, time_calls
from lightning_gan3d.generator import Generator
from lightning_gan3d.measure import Measure

Calls = dict[str, tuple[str, Callable[[], Any]]]
"""By name of the stage: what it is in words, and a call that does it once."""


def stages(generator: Generator, inputs: Inputs) -> Calls:
    """Return the stages of one image: mapping, scene (made once), view (each camera), image."""
    z, label, cameras = inputs
    size = f"{generator.rendering_resolution}², image {generator.resolution}²"
    with torch.no_grad():
        ws = generator.mapping(z, label)
        scene = generator.renderer.prepare(generator.scene(ws))
    calls: Calls = {
        "mapping": ("latent and camera to styles", lambda: generator.mapping(z, label)),
        "scene": (
            "styles to a scene, once a latent",
            lambda: generator.renderer.prepare(generator.scene(ws)),
        ),
        "view": (
            f"one view of a cached scene, super-resolution included; rendering {size}",
            lambda: generator.render(scene, ws, cameras),
        ),
        "image": (
            f"one image of a new latent; rendering {size}",
            lambda: generator(z, label, cameras),
        ),
    }
    if generator.representation.view_in_label:
        calls["view"] = (
            f"one more view: nothing is cached, a picture of {generator.resolution}² is drawn anew",
            lambda: generator.views(z, label, cameras),
        )
    return calls


def measure_stages(generator: Generator, protocol: Protocol, batch: int) -> list[Measure]:
    """Time each stage for one image and weigh it; then whole images by batches of `batch`."""
    was_training = generator.training
    generator.eval()
    inputs = make_inputs(generator)
    device = inputs.z.device
    times: list[Measure] = []
    peaks: list[Measure] = []
    with torch.no_grad():
        for name, (note, call) in stages(generator, inputs).items():
            times.append(time_calls(call, protocol, device).measure(f"speed.{name}_ms", note))
            peaks.append(measure_peak(f"memory.{name}_mb", call, device, note))
        many = make_inputs(generator, batch)
        timing = time_calls(lambda: generator(*many), protocol, device)
    generator.train(was_training)
    low, high = timing.quartiles
    throughput = Measure(
        "speed.image_img_s",
        batch / timing.median,
        "img/s",
        len(timing.seconds),
        note=f"whole images of new latents by batches of {batch}; median of {len(timing.seconds)} "
        f"batches, quartiles {batch / high:.3g} to {batch / low:.3g} img/s",
    )
    weights = sum(
        t.numel() * t.element_size() for t in (*generator.parameters(), *generator.buffers())
    )
    held = Measure(
        "memory.weights_mb", weights / MB, "MB", 1, note="parameters and buffers of the generator"
    )
    return [*times, throughput, held, *peaks]
