"""Our networks with the weights of `reference.numbers`, and their outputs for the same inputs."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from reference import (
    FADES,
    IMAGES_SEEN,
    TRAINED,
    Script,
    flat_gradient,
    labels,
    latents,
    numbers,
    stylegan2_kwargs,
    training_batch,
)
from torch import Tensor, nn

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.checkpoints import nvidia
from lightning_gan3d.checkpoints.nvidia_arguments import Network
from lightning_gan3d.checkpoints.pickled_objects import Record
from lightning_gan3d.draws import Draws
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.generator import Generator
from lightning_gan3d.images import Images
from lightning_gan3d.networks.discriminator import Discriminator
from lightning_gan3d.training.module import AdversarialModule, Microbatch

RELEASED_PLANES = torch.tensor(
    [
        [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[1, 0, 0], [0, 0, 1], [0, 1, 0]],
        [[0, 0, 1], [1, 0, 0], [0, 1, 0]],
    ]
)
"""Plane axes of the released checkpoints: two planes of x and z."""


def source(kind: str, kwargs: dict[str, Any], raw: int = 64) -> Network:
    """Return a network as in a pickle, without tensors."""
    attributes = {
        "_init_kwargs": kwargs,
        "rendering_kwargs": kwargs.get("rendering_kwargs"),
        "neural_rendering_resolution": raw,
        "_modules": {"renderer": Record("", "", {"plane_axes": RELEASED_PLANES})},
    }
    return Network(kind, attributes, {})


def generator(kwargs: dict[str, Any]) -> Generator:
    """Our generator for the official arguments."""
    parts = nvidia.read_generator(source("TriPlaneGenerator", kwargs))
    network = Generator(parts.config, parts.resolution).eval().requires_grad_(False)
    network.rendering_resolution = parts.rendering_resolution
    fill(network)
    return network


def discriminator(kwargs: dict[str, Any]) -> Discriminator:
    """Our discriminator for the official arguments."""
    parts = nvidia.read_discriminator(source("DualDiscriminator", kwargs))
    network = Discriminator(parts.config, parts.resolution).eval().requires_grad_(False)
    fill(network)
    return network


def fill(network: nn.Module, name_of: Callable[[str], str] | None = None) -> None:
    """Set the weights that `reference.fill` gives to the official network."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            theirs = name_of(name) if name_of else official_name(network, name)
            tensor.copy_(numbers(theirs, tuple(tensor.shape)))


def official_name(network: nn.Module, name: str) -> str:
    """Return EG3D's name of a tensor of a network of ours; the inverse of `nvidia.our_name`."""
    if isinstance(network, Generator):
        if name.startswith("representation.decoder."):
            return name.removeprefix("representation.")
        if name.startswith(("mapping.", "representation.")):
            return f"backbone.{name.removeprefix('representation.')}"
    return name


def run(
    g: Generator,
    d: Discriminator,
    z: Tensor,
    label: Tensor,
    psi: float = 1.0,
    noise_mode: str = "const",
    resolution: int = 64,
) -> dict[str, Tensor]:
    """Return the outputs of both networks, as `reference.run_official`."""
    with torch.no_grad():
        ws = g.mapping(z, label, psi)
        scene = g.scene(ws, noise_mode)
        cameras = Cameras.from_label(label)
        images = g.render(scene, ws, cameras, resolution, noise_mode=noise_mode)
        logits = d(images, label)
    assert images.depth is not None
    assert images.opacity is not None
    return {
        "ws": ws,
        "planes": scene.planes.flatten(1, 2),
        "image_raw": images.image_raw,
        "depth": images.depth,
        "opacity": images.opacity,
        "image": images.image,
        "logits": logits,
    }


def relative_errors(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """|ours - theirs| / |theirs| of each tensor.

    Depth if opacity exceeds 0.01, else opacity times depth: the depth of an empty ray is 0 / 0.
    """
    actual, expected = dict(actual), dict(expected)
    hit = expected["opacity"] > 0.01
    for part in (actual, expected):
        part["depth"] = torch.where(hit, part["depth"], part["opacity"] * part["depth"])
    return {k: float((actual[k] - v).norm() / v.norm()) for k, v in expected.items()}


def run_phase(phase: str) -> tuple[Tensor, Tensor]:
    """Return the mean loss of a phase, and its gradient, as `reference.run_official_phase`."""
    size, batch = TRAINED["resolution"], TRAINED["batch"]
    stored, real_label, z, fake_label = training_batch()
    fade = FADES["blur_fade_kimg"]
    config = load_experiment(
        "eg3d/shapenet128",
        [
            *("generator.mapping.label_scale=1", "discriminator.channel_max=32"),
            *("discriminator.channel_base=2048", f"loss.r1_gamma={FADES['r1_gamma']}"),
            "generator.representation.synthesis={channel_base: 2048, channel_max: 32}",
            f"training={{batch: {batch}, microbatch: null, devices: 1, blur_fade_kimg: {fade}}}",
            f"training.rendering_resolution.initial={TRAINED['rendering']}",
            f"training.swap_fade_kimg={FADES['gpc_reg_fade_kimg']}",
            f"training.swap_final={FADES['gpc_reg_prob']}",
        ],
    )
    module = AdversarialModule(config, size, fake_label)
    fill(module.generator)
    fill(module.discriminator)
    network = module.generator if phase[0] == "G" else module.discriminator
    other = module.discriminator if phase[0] == "G" else module.generator
    other.requires_grad_(False)
    script, purposes = Script(), []

    def draw(kind: str) -> Any:
        def answer(_draws: Draws, purpose: str, shape: Any, *_: Any, **__: Any) -> Tensor:
            purposes.append(purpose)
            return z if purpose == "z" else script(kind, tuple(shape))

        return answer

    step = {
        "Gmain": module.generator_step,
        "Greg": module.density_step,
        "Dmain": module.discriminator_step,
        "Dreg": module.penalty_step,
    }[phase]
    terms: list[Tensor] = []

    def backward(loss: Tensor, *_: object) -> None:
        terms.append(loss.detach())
        loss.backward()

    mb = Microbatch(stored, real_label, Draws(0), module.schedule(IMAGES_SEEN // batch))
    with (
        mock.patch.object(Draws, "uniform", draw("rand")),
        mock.patch.object(Draws, "normal", draw("randn")),
        mock.patch.object(module, "fake_labels", return_value=fake_label),
        mock.patch.object(module, "_backward", backward),
        mock.patch.object(module, "_optimizer_step"),
    ):
        step([mb])
    (term,) = terms
    assert "z" in purposes or phase == "Dreg"
    scale = {
        "Greg": config.loss.density_reg * config.loss.density_reg_interval,
        "Dreg": config.loss.r1_gamma / 2 * config.loss.r1_interval,
    }
    loss = term / scale.get(phase, 1.0)
    return loss, flat_gradient(network, lambda name: official_name(network, name))


def run_stylegan2(c_dim: int) -> dict[str, Tensor]:
    """Return styles, image and logits of our 2D baseline, as `reference.run_official_stylegan2`."""
    g_kwargs, d_kwargs = stylegan2_kwargs(c_dim)
    g_parts = nvidia.read_generator(source("Generator", g_kwargs))
    d_parts = nvidia.read_discriminator(source("Discriminator", d_kwargs))
    g = Generator(g_parts.config, g_parts.resolution).eval()
    d = Discriminator(d_parts.config, d_parts.resolution).eval()
    fill(g, lambda name: name.removeprefix("representation."))
    fill(d)
    z, label = latents(4), labels(256, 4)
    with torch.no_grad():
        ws = g.mapping(z, label, 0.7, 4)
        image = g.render(g.scene(ws), ws, Cameras.from_label(label)).image
        return {"ws": ws, "image": image, "logits": d(Images(image, image), label)}
