"""Images of a generator: every seed a latent, seen by the same cameras; depth and opacity too."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_gan3d.cameras import Cameras, Orbit
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.labels import read_orbit
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images, to_uint8

MAX_SEEDS = 100_000
FOREGROUND = 0.5
"""Opacity from which a pixel of a depth preview is coloured."""
EMPTY = (229, 229, 229)
"""Colour of a depth preview where nothing is."""
CELL = 96
"""Least side of an image on a contact sheet, in pixels; smaller ones are enlarged."""


@runtime_checkable
class Views(Protocol):
    """What images are made with: a generator, or anything that shows latents to cameras."""

    def views(
        self, z: Tensor, label: Tensor, cameras: Cameras, truncation_psi: float = 1.0
    ) -> Images:
        """See each latent from its k = v / b cameras."""
        ...


def parse_seeds(text: str) -> list[int]:
    """Read `0-7,12` as the numbers 0 to 7 and 12, in the order written, each once."""
    seeds: dict[int, None] = {}
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        ends = [low, high] if dash else [low, low]
        if not all(e.strip().isascii() and e.strip().isdigit() for e in ends):
            raise ConfigError(f"seeds `{text}`: `{part}` is no seed; write e.g. 0-7 or 0-3,12")
        first, last = (int(e) for e in ends)
        if last < first:
            raise ConfigError(f"seeds `{text}`: `{part}` runs backwards; write {last}-{first}")
        if last - first + len(seeds) >= MAX_SEEDS:
            raise ConfigError(f"seeds `{text}`: more than {MAX_SEEDS:,} seeds; make them in parts")
        seeds.update(dict.fromkeys(range(first, last + 1)))
    return list(seeds)


def latents(seeds: Sequence[int], z_dim: int) -> Float[Tensor, "b z_dim"]:
    """Draw one latent a seed; it does not depend on which other seeds are asked for."""
    return torch.cat([Draws(seed).normal("latent", (1, z_dim)) for seed in seeds])


@torch.no_grad()
def see(
    generator: Views,
    z: Float[Tensor, "b z_dim"],
    label: Float[Tensor, "1 25"],
    cameras: Cameras,
    psi: float = 1.0,
) -> Images:
    """See every latent from all k cameras, latent by latent; `label` conditions the mapping."""
    b = len(z)
    repeated = Cameras(cameras.cam2world.repeat(b, 1, 1), cameras.intrinsics.repeat(b, 1, 1))
    return generator.views(z, label.expand(b, -1), repeated, truncation_psi=psi)


def generate(
    generator: Views,
    out: Path,
    seeds: Sequence[int],
    orbit: Orbit,
    z_dim: int,
    num_views: int = 3,
    psi: float = 1.0,
    device: torch.device | str = "cpu",
) -> Path:
    """Write the images of some seeds, and return the contact sheet.

    For each seed and view: the image, `raw` (before super-resolution), and where the scene has them
    `depth` (`.npy` in world units along the ray, 16-bit PNG in the steps that `generate.json`
    states, colour preview) and `opacity`.
    """
    if not seeds:
        raise ConfigError("no seeds: write e.g. 0-7")
    if not math.isfinite(psi):
        raise ConfigError(f"psi={psi}: use a number, 1 for none and 0 for the mean image")
    if num_views < 1:
        raise ConfigError(f"views={num_views}: use a whole number from 1")
    out.mkdir(parents=True, exist_ok=True)
    cameras, label = orbit.cameras(num_views).to(device), orbit.cameras(1).to_label().to(device)
    per_seed = [see(generator, latents([s], z_dim).to(device), label, cameras, psi) for s in seeds]
    names = [[f"seed{seed:04d}_view{view:02d}" for view in range(num_views)] for seed in seeds]
    solid = [images for images in per_seed if images.depth is not None]
    span = depth_span(solid) if solid else None
    step = depth_step(solid) if solid else None
    rows: list[tuple[str, list[UInt8[np.ndarray, "h w 3"]]]] = []
    for seed, images, row in zip(seeds, per_seed, names, strict=True):
        pictures = [to_array(x) for x in images.image]
        rows.append((f"seed {seed}", pictures))
        for name, picture, raw in zip(row, pictures, images.image_raw, strict=True):
            Image.fromarray(picture).save(out / f"{name}.png")
            Image.fromarray(to_array(raw)).save(out / f"{name}_raw.png")
        if images.depth is None or span is None or step is None:
            continue
        previews = []
        for i, name in enumerate(row):
            depth = images.depth[i, 0].float().cpu().numpy()
            opacity = None if images.opacity is None else images.opacity[i, 0].float().cpu().numpy()
            np.save(out / f"{name}_depth.npy", depth)
            steps = np.clip(np.rint(depth / step), 0, 65535).astype(np.uint16)
            Image.fromarray(steps).save(out / f"{name}_depth.png")
            previews.append(depth_colours(depth, opacity, span))
            Image.fromarray(previews[-1]).save(out / f"{name}_depth_colour.png")
            if opacity is not None:
                grey = np.rint(np.clip(opacity, 0, 1) * 255).astype(np.uint8)
                Image.fromarray(grey).save(out / f"{name}_opacity.png")
        rows.append(("depth", previews))
    facts: dict[str, Any] = {
        "seeds": list(seeds),
        "psi": psi,
        "labels": cameras.to_label().cpu().tolist(),
        "depth": "world units along the ray" if solid else "this representation renders no depth",
        "depth_png_step": step,
        "depth_colours_from_to": span,
    }
    (out / "generate.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    sheet = out / "contact_sheet.png"
    contact_sheet(rows).save(sheet)
    return sheet


def to_array(image: Float[Tensor, "3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return an image in [-1, 1] as pixels."""
    return np.ascontiguousarray(to_uint8(image).permute(1, 2, 0).cpu().numpy())


def depth_span(views: Sequence[Images]) -> tuple[float, float]:
    """Return the depths that previews span: quantiles 1 % and 99 % of the foreground."""
    parts = []
    for images in views:
        if images.depth is None:
            continue
        solid = images.depth > -1 if images.opacity is None else images.opacity >= FOREGROUND
        parts.append(
            (images.depth[solid] if bool(solid.any()) else images.depth)
            .float()
            .flatten()
            .cpu()
            .numpy()
        )
    low, high = np.quantile(np.concatenate(parts), [0.01, 0.99])
    return float(low), float(max(high, low + 1e-6))


def depth_step(views: Sequence[Images]) -> float:
    """Return the world units of one step of a 16-bit depth: a power of ten without overflow."""
    top = max(float(images.depth.max()) for images in views if images.depth is not None)
    return float(10.0 ** max(-4, math.ceil(math.log10(max(top, 1e-9) / 65535))))


def depth_colours(
    depth: Float[np.ndarray, "h w"],
    opacity: Float[np.ndarray, "h w"] | None,
    span: tuple[float, float],
) -> UInt8[np.ndarray, "h w 3"]:
    """Colour a depth map, near bright and far dark; what is empty is grey."""
    from matplotlib import colormaps

    near, far = span
    share = np.clip((far - depth) / (far - near), 0, 1)
    rgb = np.asarray(colormaps["viridis"](share))[..., :3]
    colours: np.ndarray = np.rint(rgb * 255).astype(np.uint8)
    if opacity is not None:
        colours[opacity < FOREGROUND] = EMPTY
    return colours


def contact_sheet(rows: Sequence[tuple[str, Sequence[UInt8[np.ndarray, "h w 3"]]]]) -> Image.Image:
    """Lay rows of images under one another, each with its name at the left."""
    side = max(picture.shape[0] for _, row in rows for picture in row)
    side *= max(1, -(-CELL // side))
    gap, margin = 4, 72
    columns = max(len(row) for _, row in rows)
    size = (margin + columns * (side + gap) + gap, len(rows) * (side + gap) + gap)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for j, (name, row) in enumerate(rows):
        top = gap + j * (side + gap)
        draw.text((gap, top + side // 2 - 6), name, fill="black")
        for i, picture in enumerate(row):
            tile = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(tile, (margin + gap + i * (side + gap), top))
    return sheet


def generate_to(
    run: Path,
    seeds: str = "0-7",
    psi: float = 1.0,
    views: int = 3,
    out: Path | None = None,
    device: str = "auto",
    precision: str = "fp32",
) -> str:
    """Generate from a run, a checkpoint, an export or a pickle, and say what was written where.

    `precision`: that of the convolutions, fp32, bf16 or fp16.

    The cameras turn around what the run's data set looks at; where that is not at hand, as an
    imported checkpoint says, or around the box, and the answer says so.
    """
    from lightning_gan3d.checkpoints.load import read_networks
    from lightning_gan3d.devices import choose_device
    from lightning_gan3d.networks.precision import check_precision, set_precision

    chosen = check_precision(precision)
    numbers = parse_seeds(seeds)
    where = choose_device(device)
    stored = read_networks(run, ["generator"])
    generator, config = stored.generator("generator").to(where), stored.config
    set_precision(generator, chosen)
    try:
        orbit = read_orbit(config.data.path)
        around = f"as the cameras of {config.data.path}"
    except (DataError, OSError) as error:
        if "orbit" in stored.about:
            orbit = Orbit.of_eg3d(**stored.about["orbit"])
            around = "as the checkpoint says"
        else:
            orbit = Orbit.around_box(config.generator.scene.box)
            around = f"around the box, for the data set cannot be read ({error})"
    folder = out or (run if run.is_dir() else run.parent) / "generated"
    sheet = generate(generator, folder, numbers, orbit, config.generator.z_dim, views, psi, where)
    return f"{len(numbers)} seeds from {views} views, {around}\n{sheet}"
