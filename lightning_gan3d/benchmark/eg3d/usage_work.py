"""Evaluation and use of EG3D's 512-pixel model: shapes, videos, inversion, FID.

EG3D's repository has no projector, so that one step of an inversion is compared, of equal work.
"""

import functools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from einops import rearrange
from torch import Tensor

from lightning_gan3d.benchmark.eg3d.inference_work import (
    ELEVATION,
    FOCAL,
    RADIUS,
    RENDERING,
    Call,
    Sides,
    build,
    psnr,
    relative_error,
    stratum_midpoints,
)
from lightning_gan3d.benchmark.eg3d.official import Checkout, Work
from lightning_gan3d.cameras import Cameras, Orbit
from lightning_gan3d.generator import Generator
from lightning_gan3d.images import to_uint8
from lightning_gan3d.inference.mesh import density_volume
from lightning_gan3d.inference.model import Model, Subject
from lightning_gan3d.inference.pictures import pictures
from lightning_gan3d.inference.video import video_writer
from lightning_gan3d.metrics.distribution.feature_store import SHARD
from lightning_gan3d.metrics.distribution.frechet import Frechet, moments

CHUNK = 1_000_000
"""Points per query of `gen_samples.py`; one query is measured."""
FRAMES = 4
"""Frames of a video; the official code, which computes each from its styles, renders one."""
FEATURES = 10_000, 2048
"""Images of an evaluation, and numbers per image of Inception."""


def works(
    code: Checkout,
    device: torch.device,
    precisions: tuple[str, ...],
    selected: Callable[[str], bool],
) -> Iterator[Work]:
    """Yield the selected works."""
    makers: dict[str, Callable[[str, Sides], Work]] = {
        "shape_256": functools.partial(_shape, size=256),
        "shape_512": functools.partial(_shape, size=512),
        "video": _video,
        "inversion_step": _inversion_step,
    }
    makers = {key: make for key, make in makers.items() if selected(key)}
    if makers:
        sides = build(code, device, precisions)
        yield from (make(key, sides) for key, make in makers.items())
    if selected("fid"):
        yield _fid(code)


def _shape(key: str, sides: Sides, size: int) -> Work:
    """Densities of a grid; the official code generates the planes again in each query."""
    net, device = sides.theirs, sides.z.device
    first = (size**3 - CHUNK) // 2
    cells = torch.arange(first, first + CHUNK)
    index = torch.stack([cells // size**2, cells // size % size, cells % size], dim=-1)
    points = (((index + 0.5) / size - 0.5) * net.rendering_kwargs["box_warp"])[None].to(device)
    dirs = torch.zeros(1, CHUNK, 3, device=device)

    def theirs() -> Tensor:
        sample = net.sample(points, dirs, sides.z, sides.label, noise_mode="const")
        return sample["sigma"]  # type: ignore[no-any-return]  # the checkout is untyped

    def ours(g: Generator) -> Call:
        def run() -> Any:
            field: Any = g.scene(g.mapping(sides.z, sides.label))
            return density_volume(field, size)

        return run

    description = f"density at {size}³ points; official: one of its {size**3 / CHUNK:.1f} queries"
    work = sides.work(key, description, theirs, ours)

    @torch.no_grad()
    def agreement(precision: str) -> str:
        field: Any = sides.ours[precision].scene(sides.ws)
        volume = torch.from_numpy(work.ours[precision]()).reshape(-1)
        return relative_error(volume[cells], field.sigma(work.theirs()).reshape(-1).cpu())

    return replace(work, agreement=agreement, share=CHUNK / size**3)


def _video(key: str, sides: Sides) -> Work:
    """Frames of one latent, to 8 bits; ours also encodes H.264."""
    azimuth = torch.linspace(-0.35, 0.35, FRAMES)
    elevation = torch.full((FRAMES,), ELEVATION)
    cameras = Cameras.on_sphere(azimuth, elevation, RADIUS, focal=FOCAL).to(sides.z.device)

    def theirs() -> Tensor:
        return to_uint8(official_image(sides.theirs, sides.ws, cameras.to_label()[:1])).cpu()

    def ours(g: Generator) -> Call:
        model = Model(key, g, Orbit.of_labels(cameras.to_label().cpu()))

        def run() -> Tensor:
            subject, frames = Subject(model, lambda _: sides.ws), []
            with (
                tempfile.TemporaryDirectory() as folder,
                video_writer(Path(folder) / "video.mp4", 30) as add,
            ):
                for batch, images in subject.batches(cameras):
                    for frame in pictures(model, images, batch, "image"):
                        add(frame)
                        frames.append(torch.from_numpy(frame))
            return rearrange(torch.stack(frames), "v h w c -> v c h w")

        return run

    description = f"video of {FRAMES} frames of 512² of one latent; official: one of the frames"
    work = sides.work(key, description, theirs, ours)

    def agreement(precision: str) -> str:
        with stratum_midpoints():
            reference = work.theirs()
        first = work.ours[precision]()[:1]
        return psnr(first.float() / 127.5, reference.float() / 127.5)

    return replace(work, agreement=agreement, path=sides.path, share=1 / FRAMES)


def official_image(net: Any, ws: Tensor, label: Tensor) -> Tensor:
    """Image of the official generator in [-1, 1], from styles."""
    options = {"neural_rendering_resolution": RENDERING, "noise_mode": "const"}
    return net.synthesis(ws, label, **options)["image"]  # type: ignore[no-any-return]  # untyped


def _inversion_step(key: str, sides: Sides) -> Work:
    """Image, mean squared error, gradient of the style vectors and Adam."""
    generator = torch.Generator().manual_seed(3)
    target = (torch.rand(1, 3, 512, 512, generator=generator) * 2 - 1).to(sides.z.device)

    def step(image_of: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        leaf = sides.ws.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([leaf], lr=0.0)  # each round starts from the same latent

        def run() -> Tensor:
            optimizer.zero_grad()
            error = (image_of(leaf).float() - target).square().mean()
            error.backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
            assert leaf.grad is not None
            return leaf.grad.clone()

        return run

    def ours(g: Generator) -> Callable[[Tensor], Tensor]:
        return lambda ws: g.synthesis(ws, sides.cameras)[1].image

    calls = {p: step(ours(g)) for p, g in sides.ours.items()}
    theirs = step(lambda ws: official_image(sides.theirs, ws, sides.label))

    def agreement(precision: str) -> str:
        with stratum_midpoints():
            reference = theirs()
        return f"gradient {relative_error(calls[precision](), reference)}"

    description = "step of an inversion: image of 512², squared error, gradient, Adam"
    return Work(key, description, theirs, calls, agreement, sides.path)


def _fid(code: Checkout) -> Work:
    """FID from features of generated and real images."""
    generator = torch.Generator().manual_seed(4)
    real, fake = (torch.randn(FEATURES, generator=generator) for _ in range(2))
    fid = code.module("metrics.frechet_inception_distance")
    stats = code.module("metrics.metric_utils")

    def statistics(features: Tensor) -> Callable[..., Any]:
        def compute(**_: Any) -> Any:
            result = stats.FeatureStats(capture_mean_cov=True, max_items=len(features))
            for batch in torch.split(features, 64):
                result.append_torch(batch)
            return result

        return compute

    def theirs() -> float:
        name = "compute_feature_stats_for_"
        with (
            mock.patch.object(stats, f"{name}dataset", statistics(real)),
            mock.patch.object(stats, f"{name}generator", statistics(fake)),
        ):
            return float(fid.compute_fid(SimpleNamespace(rank=0), None, len(fake)))

    def ours() -> float:
        return Frechet(moments(torch.split(real, SHARD))).distance(
            moments(torch.split(fake, SHARD))
        )

    def agreement(_: str) -> str:
        reference = theirs()
        return f"{abs(ours() / reference - 1):.1e}"

    description = f"FID from {FEATURES[0]:,} + {FEATURES[0]:,} features of {FEATURES[1]:,} numbers"
    return Work("fid", description, theirs, {"fp32": ours}, agreement)
