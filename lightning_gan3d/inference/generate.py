"""Images of a generator: a grid of seeds and views, with depth and opacity."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_gan3d.cameras import Cameras, Orbit
from lightning_gan3d.config import ConfigError, Count
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.dataset import parse_ranges
from lightning_gan3d.data.labels import read_orbit
from lightning_gan3d.devices import choose_device
from lightning_gan3d.draws import Draws
from lightning_gan3d.files import write_json
from lightning_gan3d.images import Images, to_uint8
from lightning_gan3d.networks.precision import Precision, set_precision

FOREGROUND = 0.5
"""Pixels of a depth preview are coloured from this opacity on."""
EMPTY = (229, 229, 229)
"""Colour of empty pixels in a depth preview."""
CELL = 96
"""Smallest side of an image on a contact sheet, in pixels; smaller images are enlarged."""


@dataclass(frozen=True)
class GenerateOptions:
    """Which images are generated, and how."""

    seeds: str = "0-7"
    """One latent per seed, e.g. `0-7` or `0-3,12`."""
    psi: float = 1.0
    """Truncation psi: 1 is none, 0 the mean image."""
    views: Count = 3
    """Views per latent."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    precision: Precision = "fp32"
    """Precision of convolutions; fp16 is for GPUs."""


@runtime_checkable
class ViewGenerator(Protocol):
    """A generator, or another object that renders latents from cameras."""

    @property
    def cfg(self) -> Any:
        """Configuration with `z_dim`."""

    def views(
        self, z: Tensor, label: Tensor, cameras: Cameras, truncation_psi: float = 1.0
    ) -> Images:
        """Render each latent from its k = v / b cameras."""
        ...


def parse_seeds(text: str) -> list[int]:
    """Parse `0-7,12` into seeds; order is kept, duplicates are dropped."""
    try:
        seeds = parse_ranges(text)
    except ValueError as error:
        raise ConfigError(f"seeds={text}: {error}; use e.g. 0-7 or 0-3,12") from None
    if not seeds:
        raise ConfigError("seeds is empty; use e.g. 0-7 or 0-3,12")
    return seeds


def latents(seeds: Iterable[int], z_dim: int) -> Float[Tensor, "b z_dim"]:
    """Draw one latent per seed; it depends on its own seed only."""
    return torch.cat([Draws(seed).normal("latent", (1, z_dim)) for seed in seeds])


@torch.no_grad()
def render_views(
    generator: ViewGenerator,
    z: Float[Tensor, "b z_dim"],
    label: Float[Tensor, "1 25"],
    cameras: Cameras,
    psi: float = 1.0,
) -> Images:
    """Render every latent from all k cameras, latent by latent; `label` conditions the mapping."""
    b = len(z)
    repeated = Cameras(cameras.cam2world.repeat(b, 1, 1), cameras.intrinsics.repeat(b, 1, 1))
    return generator.views(z, label.expand(b, -1), repeated, truncation_psi=psi)


def generate(generator: ViewGenerator, out: Path, orbit: Orbit, options: GenerateOptions) -> Path:
    """Write the images of all seeds and views, and return the contact sheet.

    Files per image: the final image, `_raw` (before super-resolution), `_opacity`, and `_depth` as
    `.npy` (world units along the ray), 16-bit PNG (its step is in `generate.json`) and preview.
    """
    seeds, device = parse_seeds(options.seeds), choose_device(options.device)
    cameras = orbit.cameras(options.views).to(device)
    label = orbit.cameras(1).to_label().to(device)
    z = latents(seeds, generator.cfg.z_dim).to(device)
    views = [render_views(generator, row[None], label, cameras, options.psi) for row in z]
    out.mkdir(parents=True, exist_ok=True)
    has_depth = views[0].depth is not None
    span, step = (depth_span(views), depth_step(views)) if has_depth else (None, None)
    rows: list[tuple[str, list[UInt8[np.ndarray, "h w 3"]]]] = []
    for seed, images in zip(seeds, views, strict=True):
        paths = [out / f"seed{seed:04d}_view{view:02d}" for view in range(options.views)]
        rows.append((f"seed {seed}", [to_array(x) for x in images.image]))
        for path, pixels, raw in zip(paths, rows[-1][1], images.image_raw, strict=True):
            _save(path, "", pixels)
            _save(path, "_raw", to_array(raw))
        if span is not None and step is not None:
            rows.append(("depth", _save_depth(paths, images, span, step)))
    unit = "world units along the ray" if has_depth else "this representation renders no depth"
    metadata = {
        "seeds": seeds,
        "psi": options.psi,
        "labels": cameras.to_label().cpu().tolist(),
        "depth": unit,
        "depth_png_step": step,
        "depth_colours_from_to": span,
    }
    write_json(out / "generate.json", metadata)
    contact_sheet(rows).save(out / "contact_sheet.png")
    return out / "contact_sheet.png"


def _save(path: Path, suffix: str, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path.with_name(f"{path.name}{suffix}.png"))


def _save_depth(
    paths: Sequence[Path], images: Images, span: tuple[float, float], step: float
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Write depth and opacity of each view, and return the previews."""
    assert images.depth is not None
    depths, opacity = images.depth[:, 0].float().cpu().numpy(), images.opacity
    opacities = [None] * len(paths) if opacity is None else opacity[:, 0].float().cpu().numpy()
    previews = []
    for path, depth, alpha in zip(paths, depths, opacities, strict=True):
        np.save(path.with_name(f"{path.name}_depth.npy"), depth)
        _save(path, "_depth", np.clip(np.rint(depth / step), 0, 65535).astype(np.uint16))
        previews.append(depth_colours(depth, alpha, span))
        _save(path, "_depth_colour", previews[-1])
        if alpha is not None:
            _save(path, "_opacity", np.rint(np.clip(alpha, 0, 1) * 255).astype(np.uint8))
    return previews


def to_array(image: Float[Tensor, "3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Convert an image in [-1, 1] to pixels."""
    return np.ascontiguousarray(to_uint8(image).permute(1, 2, 0).cpu().numpy())


def depth_span(views: Sequence[Images]) -> tuple[float, float]:
    """Range of depth previews: quantiles 1 % and 99 % of the foreground."""
    parts = []
    for images in views:
        if images.depth is None:
            continue
        depth = images.depth
        solid = depth > -1 if images.opacity is None else images.opacity >= FOREGROUND
        parts.append((depth[solid] if bool(solid.any()) else depth.flatten()).float().cpu().numpy())
    low, high = np.quantile(np.concatenate(parts), [0.01, 0.99])
    return float(low), float(max(high, low + 1e-6))


def depth_step(views: Sequence[Images]) -> float:
    """World units per step of a 16-bit depth map: the smallest power of ten without clipping."""
    top = max(float(images.depth.max()) for images in views if images.depth is not None)
    return float(10.0 ** max(-4, math.ceil(math.log10(max(top, 1e-9) / 65535))))


def depth_colours(
    depth: Float[np.ndarray, "h w"],
    opacity: Float[np.ndarray, "h w"] | None,
    span: tuple[float, float],
) -> UInt8[np.ndarray, "h w 3"]:
    """Colour a depth map, near bright and far dark; empty pixels are grey."""
    from matplotlib import colormaps

    near, far = span
    share = np.clip((far - depth) / (far - near), 0, 1)
    rgb = np.asarray(colormaps["viridis"](share))[..., :3]
    colours: np.ndarray = np.rint(rgb * 255).astype(np.uint8)
    if opacity is not None:
        colours[opacity < FOREGROUND] = EMPTY
    return colours


def contact_sheet(rows: Sequence[tuple[str, Sequence[UInt8[np.ndarray, "h w 3"]]]]) -> Image.Image:
    """Lay out rows of images, each row with its name on the left."""
    side = max(pixels.shape[0] for _, row in rows for pixels in row)
    side *= max(1, -(-CELL // side))
    gap, margin = 4, 72
    columns = max(len(row) for _, row in rows)
    size = (margin + columns * (side + gap) + gap, len(rows) * (side + gap) + gap)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for j, (name, row) in enumerate(rows):
        top = gap + j * (side + gap)
        draw.text((gap, top + side // 2 - 6), name, fill="black")
        for i, pixels in enumerate(row):
            tile = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(tile, (margin + gap + i * (side + gap), top))
    return sheet


def generate_to(run: Path, options: GenerateOptions, out: Path | None = None) -> str:
    """Generate from a run or a checkpoint; returns a summary.

    The cameras follow those of the run's data set. Without the data set they follow the video path
    of an imported checkpoint, or else a circle around the box; the summary names the choice.
    """
    from lightning_gan3d.checkpoints.load import read_networks

    device = choose_device(options.device)
    num_seeds = len(parse_seeds(options.seeds))
    stored = read_networks(run, ["generator"])
    generator, config = stored.generator("generator").to(device), stored.config
    set_precision(generator, options.precision)
    try:
        orbit = read_orbit(config.data.path)
        cameras = f"cameras of {config.data.path}"
    except (DataError, OSError) as error:
        if "orbit" in stored.about:
            orbit = Orbit.of_eg3d(**stored.about["orbit"])
            cameras = "EG3D's video path"
        else:
            orbit = Orbit.around_box(config.generator.scene.box)
            cameras = f"circle around the box (cannot read the data set: {error})"
    out = out or (run if run.is_dir() else run.parent) / "generated"
    sheet = generate(generator, out, orbit, options)
    return f"{num_seeds} seeds, {options.views} views each; {cameras}\n{sheet}"
