"""The works of inference: EG3D's 512-pixel model, its networks and its whole, against ours."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lightning_gan3d.benchmark.eg3d.compare import Work
from lightning_gan3d.benchmark.eg3d.official import Checkout
from lightning_gan3d.benchmark.eg3d.renderer_work import renderers
from lightning_gan3d.benchmark.eg3d.sides import (
    RENDERING,
    Side,
    build,
    difference,
    middles,
    relative,
    styles,
)
from lightning_gan3d.generator import Generator


def works(
    code: Checkout,
    device: torch.device,
    precisions: tuple[str, ...],
    wanted: Callable[[str], bool],
) -> Iterator[Work]:
    """Yield the pieces of work that are wanted; networks are built when the first one is."""
    keys = ("backbone", "renderer", "superresolution", "view", "image")
    if not any(wanted(k) or any(wanted(f"{k}_{r}") for r in (64, 128)) for k in keys):
        return
    side = build(code, device, precisions)
    makers = [_backbone(side), *renderers(side), _superresolution(side), _view(side), _image(side)]
    yield from (work for work in makers if wanted(work.key))


def _backbone(side: Side) -> Work:
    ws = styles(side)

    @torch.no_grad()
    def theirs() -> Tensor:
        planes: Tensor = side.theirs.backbone.synthesis(ws, noise_mode="const")
        return planes

    def ours(g: Generator) -> Callable[[], Any]:
        return torch.no_grad()(lambda: g.scene(ws))

    def agreement(precision: str) -> str:
        planes: Any = ours(side.ours[precision])()
        return relative(planes.planes.flatten(1, 2), theirs())

    calls = {p: ours(g) for p, g in side.ours.items()}
    return Work("backbone", "styles to tri-planes of 256², 32 channels", theirs, calls, agreement)


def _superresolution(side: Side) -> Work:
    ws = styles(side)
    generator = torch.Generator().manual_seed(2)
    feature = (torch.rand(1, 32, RENDERING, RENDERING, generator=generator) * 2 - 1).to(ws.device)

    @torch.no_grad()
    def theirs() -> Tensor:
        rgb = feature[:, :3].clone()  # it changes its argument
        image: Tensor = side.theirs.superresolution(rgb, feature, ws, noise_mode="none")
        return image

    def ours(g: Generator) -> Callable[[], Any]:
        return torch.no_grad()(lambda: g.superresolution(feature[:, :3], feature, ws, "none").image)

    def agreement(precision: str) -> str:
        return difference(ours(side.ours[precision])(), theirs(), precision)

    calls = {p: ours(g) for p, g in side.ours.items()}
    return Work(
        "superresolution", "super-resolution, 128² to 512² (8XDC)", theirs, calls, agreement
    )


def _synthesis(side: Side, cached: bool) -> Callable[[], Tensor]:
    net, ws = side.theirs, styles(side)
    planes = net.backbone.synthesis(ws, noise_mode="const") if cached else None

    @torch.no_grad()
    def theirs() -> Tensor:
        styles = ws if cached else net.mapping(side.z, side.label)
        if cached:
            net._last_planes = planes
        image: Tensor = net.synthesis(
            styles,
            side.label,
            neural_rendering_resolution=RENDERING,
            noise_mode="const",
            use_cached_backbone=cached,
        )["image"]
        return image

    return theirs


def _view(side: Side) -> Work:
    with torch.no_grad():
        theirs = _synthesis(side, cached=True)

    def ours(g: Generator) -> Callable[[], Any]:
        with torch.no_grad():
            ws = g.mapping(side.z, side.label)
            scene = g.renderer.prepare(g.scene(ws))
        return torch.no_grad()(lambda: g.render(scene, ws, side.cameras).image)

    words = "another view of a cached scene, 512²"
    return _whole("view", words, side, theirs, {p: ours(g) for p, g in side.ours.items()})


def _image(side: Side) -> Work:
    theirs = _synthesis(side, cached=False)

    def ours(g: Generator) -> Callable[[], Any]:
        return torch.no_grad()(lambda: g(side.z, side.label, side.cameras).image)

    words = "image of 512² from a latent, batch 1"
    return _whole("image", words, side, theirs, {p: ours(g) for p, g in side.ours.items()})


def _whole(
    key: str,
    what: str,
    side: Side,
    theirs: Callable[[], Tensor],
    calls: dict[str, Callable[[], Any]],
) -> Work:
    def agreement(precision: str) -> str:
        with middles():
            wanted_ = theirs()
        return difference(calls[precision](), wanted_, precision)

    first = next(iter(side.ours.values()))
    return Work(key, what, theirs, calls, agreement, lambda: str(first.renderer.path_taken))  # type: ignore[attr-defined]  # a volume renderer
