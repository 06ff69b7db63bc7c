"""Inference of EG3D's 512-pixel model, by part and as a whole: theirs and ours."""

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, cast
from unittest import mock

import torch
from torch import Tensor

from lightning_gan3d.benchmark.eg3d.official import Checkout, Work, generator_kwargs, our_generator
from lightning_gan3d.benchmark.stages import cached_scene
from lightning_gan3d.cameras import Cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.generator import Generator
from lightning_gan3d.images import Rendering
from lightning_gan3d.networks.precision import Precision, set_precision

RESOLUTION, RENDERING, SAMPLES = 512, 128, 48
ELEVATION, RADIUS, FOCAL = 0.2, 2.7, 4.2647
"""Cameras of FFHQ."""
RENDERER_RESOLUTIONS = 64, 128

Call = Callable[[], Any]


class Sides(NamedTuple):
    """Generators of equal weights, and their inputs."""

    theirs: Any
    ours: dict[str, Generator]
    """By precision."""
    z: Tensor
    label: Tensor
    cameras: Cameras
    ws: Tensor

    def work(
        self, key: str, description: str, theirs: Call, ours: Callable[[Generator], Call]
    ) -> Work:
        """Return a work whose results are images."""
        theirs = torch.no_grad()(theirs)
        calls = {p: torch.no_grad()(ours(g)) for p, g in self.ours.items()}

        def agreement(precision: str) -> str:
            with stratum_midpoints():
                reference = theirs()
            return difference(calls[precision](), reference, precision)

        return Work(key, description, theirs, calls, agreement)

    def path(self) -> str:
        """Path of our renderer in its last call."""
        renderer: Any = next(iter(self.ours.values())).renderer
        return str(renderer.backend)


def works(
    code: Checkout,
    device: torch.device,
    precisions: tuple[str, ...],
    selected: Callable[[str], bool],
) -> Iterator[Work]:
    """Yield the selected works."""
    renderers = {
        f"renderer_{resolution}_forward{'_backward' if backward else ''}": functools.partial(
            _renderer, resolution=resolution, backward=backward
        )
        for resolution in RENDERER_RESOLUTIONS
        for backward in (False, True)
    }
    makers: dict[str, Callable[[str, Sides], Work]] = {
        "backbone": _backbone,
        **renderers,
        "superresolution": _superresolution,
        "view": _view,
        "image": _image,
    }
    makers = {key: make for key, make in makers.items() if selected(key)}
    if makers:
        sides = build(code, device, precisions)
        yield from (make(key, sides) for key, make in makers.items())


def build(code: Checkout, device: torch.device, precisions: tuple[str, ...]) -> Sides:
    """Build all generators with the weights of the official one, its density partly solid."""
    kwargs = generator_kwargs(RESOLUTION)
    theirs: Any = code.generator(kwargs, device).eval().requires_grad_(False)
    with torch.no_grad():
        theirs.decoder.net[2].weight[0] *= 16.0  # the initial density is nearly uniform
        theirs.decoder.net[2].bias[0] -= 4.0
    parts = our_generator(theirs, kwargs)
    generator = Generator(parts.config, parts.resolution).to(device)
    generator.load_state_dict(parts.tensors)
    generator.eval().requires_grad_(False)
    generator.rendering_resolution = RENDERING
    ours = {}
    for precision in precisions:
        ours[precision] = copy.deepcopy(generator)
        set_precision(ours[precision], cast(Precision, precision))
    azimuth, elevation = torch.tensor([0.3]), torch.tensor([ELEVATION])
    cameras = Cameras.on_sphere(azimuth, elevation, RADIUS, focal=FOCAL).to(device)
    z = torch.randn(1, 512, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        ws = theirs.mapping(z, cameras.to_label())
    return Sides(theirs, ours, z, cameras.to_label(), cameras, ws)


def difference(ours: Tensor, theirs: Tensor, precision: str) -> str:
    """Relative error in float32; in 16 bits the PSNR of images in [-1, 1]."""
    if precision == "fp32":
        return relative_error(ours, theirs)
    return psnr(ours, theirs)


def psnr(ours: Tensor, theirs: Tensor) -> str:
    """PSNR of images of range 2."""
    mse = float((ours.float() - theirs.float()).square().mean())
    return f"{float(10 * torch.tensor(4 / max(mse, 1e-20)).log10()):.1f} dB"


def relative_error(ours: Tensor, theirs: Tensor) -> str:
    """Norm of the difference over the norm of theirs."""
    ours, theirs = ours.float(), theirs.float()
    return f"{float((ours - theirs).norm() / theirs.norm()):.1e}"


@contextmanager
def stratum_midpoints() -> Iterator[None]:
    """Replace the official renderer's draws by midpoints of strata, as in ours without draws."""

    def rand(*size: Any, device: Any = None, **_: Any) -> Tensor:
        shape: tuple[int, ...] = tuple(size[0]) if len(size) == 1 else size
        midpoints = (torch.arange(shape[-1], device=device) + 0.5) / shape[-1]
        return midpoints.expand(*shape)

    def rand_like(x: Tensor, **_: Any) -> Tensor:
        return torch.full_like(x, 0.5)

    with (
        mock.patch.object(torch, "rand", rand),
        mock.patch.object(torch, "rand_like", rand_like),
    ):
        yield


def _backbone(key: str, sides: Sides) -> Work:
    def theirs() -> Any:
        return sides.theirs.backbone.synthesis(sides.ws, noise_mode="const")

    def ours(g: Generator) -> Call:
        return lambda: g.scene(sides.ws)

    work = sides.work(key, "styles to tri-planes of 256², 32 channels", theirs, ours)

    def agreement(precision: str) -> str:
        return relative_error(work.ours[precision]().planes.flatten(1, 2), work.theirs())

    return replace(work, agreement=agreement)


def _superresolution(key: str, sides: Sides) -> Work:
    generator = torch.Generator().manual_seed(2)
    feature = torch.rand(1, 32, RENDERING, RENDERING, generator=generator) * 2 - 1
    feature, ws = feature.to(sides.ws.device), sides.ws

    def theirs() -> Any:
        rgb = feature[:, :3].clone()  # it changes its argument
        return sides.theirs.superresolution(rgb, feature, ws, noise_mode="none")

    def ours(g: Generator) -> Call:
        return lambda: g.superresolution(Rendering(feature, None, None), ws, "none").image

    return sides.work(key, "super-resolution, 128² to 512² (8XDC)", theirs, ours)


def _synthesis(sides: Sides, ws: Tensor, cached: bool) -> Tensor:
    image: Tensor = sides.theirs.synthesis(
        ws,
        sides.label,
        neural_rendering_resolution=RENDERING,
        noise_mode="const",
        use_cached_backbone=cached,
    )["image"]
    return image


def _view(key: str, sides: Sides) -> Work:
    with torch.no_grad():
        planes = sides.theirs.backbone.synthesis(sides.ws, noise_mode="const")

    def theirs() -> Tensor:
        sides.theirs._last_planes = planes
        return _synthesis(sides, sides.ws, cached=True)

    def ours(g: Generator) -> Call:
        ws, scene = cached_scene(g, sides.z, sides.label)
        return lambda: g.render(scene, ws, sides.cameras).image

    work = sides.work(key, "another view of a cached scene, 512²", theirs, ours)
    return replace(work, path=sides.path)


def _image(key: str, sides: Sides) -> Work:
    def theirs() -> Tensor:
        return _synthesis(sides, sides.theirs.mapping(sides.z, sides.label), cached=False)

    def ours(g: Generator) -> Call:
        return lambda: g(sides.z, sides.label, sides.cameras).image

    work = sides.work(key, "image of 512² from a latent, batch 1", theirs, ours)
    return replace(work, path=sides.path)


def _renderer(key: str, sides: Sides, resolution: int, backward: bool) -> Work:
    """The renderer alone on given planes, with jitter as in training; optionally its gradients.

    The backward pass is compared in float32 only.
    """
    net, label = sides.theirs, sides.label
    with torch.no_grad():
        planes = net.backbone.synthesis(sides.ws, noise_mode="const").view(1, 3, 32, 256, 256)
    decoder = copy.deepcopy(net.decoder).requires_grad_(backward)
    size, generator = (1, 32, resolution, resolution), torch.Generator().manual_seed(1)
    cotangent = torch.randn(size, generator=generator).to(planes.device)

    def outputs(feature: Tensor, leaf: Tensor, decoder: Any) -> tuple[Tensor, ...]:
        if not backward:
            return (feature,)
        leaves = [leaf, *decoder.parameters()]
        return feature.detach(), *torch.autograd.grad((feature * cotangent).sum(), leaves)

    def theirs() -> tuple[Tensor, ...]:
        leaf = planes.detach().requires_grad_(backward)
        with torch.set_grad_enabled(backward):
            pose, intrinsics = label[:, :16].view(-1, 4, 4), label[:, 16:].view(-1, 3, 3)
            rays = net.ray_sampler(pose, intrinsics, resolution)
            feature, _, _ = net.renderer(leaf, decoder, *rays, net.rendering_kwargs)
            return outputs(feature.mT.reshape(size), leaf, decoder)

    def ours(g: Any, draws: Draws | None) -> Callable[[], tuple[Tensor, ...]]:
        decoder = copy.deepcopy(g.representation.decoder).requires_grad_(backward)
        with torch.no_grad():
            scene: Any = g.scene(sides.ws)
            scene = scene if backward else g.renderer.prepare(scene)

        def run() -> tuple[Tensor, ...]:
            leaf = scene.planes.detach().requires_grad_(backward)
            with torch.set_grad_enabled(backward):
                field = type(scene)(leaf, decoder, scene.scene_cfg, scene.axes)
                feature = g.renderer(field, sides.cameras, resolution, draws).feature
                return outputs(feature, leaf, decoder)

        return run

    def agreement(precision: str) -> str:
        with stratum_midpoints():
            reference = theirs()
        result = ours(sides.ours[precision], None)()
        text = difference(result[0], reference[0], precision)
        if backward:
            error = relative_error(result[1].view_as(reference[1]), reference[1])
            text += f", gradient of the planes {error}"
        return text

    calls = {p: ours(g, Draws(0)) for p, g in sides.ours.items() if p == "fp32" or not backward}
    direction = "forward and backward" if backward else "forward"
    description = f"renderer, {resolution}² rays of {SAMPLES} + {SAMPLES} samples, {direction}"
    return Work(key, description, theirs, calls, agreement, sides.path)
