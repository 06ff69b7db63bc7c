"""Pictures of views: colours of depth and normals, alpha channel, contact sheets, PNG files."""

import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.files import atomic_path
from lightning_gan3d.images import Images, resize, to_uint8
from lightning_gan3d.inference.config import Output
from lightning_gan3d.inference.model import Model
from lightning_gan3d.metrics.geometry.surfaces import normals_from_depth
from lightning_gan3d.version import __version__

FOREGROUND = 0.5
"""Pixels of depth and normals are coloured from this opacity on."""
EMPTY = (229, 229, 229)
"""Colour of empty pixels in pictures of depth and normals."""
LARGEST = 256
"""Largest side of an image that is kept for a contact sheet of many, in pixels."""
CELL = 96
"""Smallest side of an image on a contact sheet, in pixels; smaller images are enlarged."""
PAGE = 4096
"""Largest height and width of a contact sheet; more images continue on another page."""
GAP, CAPTION = 4, 14
"""Pixels between images, and of the caption above them."""

Pixels = UInt8[np.ndarray, "_ _ _"]
"""Height, width, and 1, 3 or 4 channels."""


def to_array(image: Float[Tensor, "3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Convert an image in [-1, 1] to pixels."""
    return np.ascontiguousarray(to_uint8(image).permute(1, 2, 0).cpu().numpy())


def pictures(model: Model, images: Images, cameras: Cameras, output: Output) -> list[Pixels]:
    """Return one picture per view.

    Raises ConfigError if the representation renders no depth or opacity.
    """
    if output == "image":
        return [to_array(x) for x in images.image]
    if output == "raw":
        return [to_array(x) for x in images.image_raw]
    if images.depth is None or images.opacity is None:
        raise ConfigError(f"outputs={output}: {model.name} renders no depth and no opacity")
    opacity = images.opacity.float().cpu()
    if output == "opacity":
        return [
            np.rint(x.clamp(0, 1).numpy() * 255).astype(np.uint8)[0][..., None] for x in opacity
        ]
    depth, solid = images.depth.float().cpu(), opacity >= FOREGROUND
    if output == "normals":
        return [*normal_colours(depth, solid, cameras.to("cpu"))]
    half = model.generator.cfg.scene.box / 2  # the scale depends on the camera, not on the latent
    distances = cameras.origins.norm(dim=-1).tolist()
    return [
        depth_colours(d.numpy(), o.numpy(), (max(distance - half, 0.0), distance + half))
        for d, o, distance in zip(depth[:, 0], opacity[:, 0], distances, strict=True)
    ]


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


def normal_colours(
    depth: Float[Tensor, "v 1 h w"], solid: Bool[Tensor, "v 1 h w"], cameras: Cameras
) -> UInt8[np.ndarray, "v h w 3"]:
    """Colour the normals of depth maps in the camera's frame: x right, y up, z to the viewer."""
    world = normals_from_depth(depth, solid, cameras)
    local = torch.einsum("vji,vjhw->vihw", cameras.cam2world[:, :3, :3], world.normals)
    signs = local.new_tensor([1.0, -1.0, -1.0])[:, None, None]  # from OpenCV axes
    colours = to_uint8(local * signs).permute(0, 2, 3, 1).contiguous().numpy()
    colours[~world.valid[:, 0].numpy()] = EMPTY
    return colours  # type: ignore[no-any-return]  # numpy


def with_alpha(model: Model, images: Images) -> list[UInt8[np.ndarray, "h w 4"]]:
    """Remove the background and add the opacity as alpha channel: image = a rgb + (1 - a) b.

    Exact without super-resolution; with it, opacity is resized and edges are approximate. Raises
    ConfigError if the representation renders no opacity.
    """
    if images.opacity is None:
        raise ConfigError(f"transparent=true: {model.name} renders no opacity")
    alpha = resize(images.opacity.float(), images.image.shape[-1]).clamp(0, 1)
    background = getattr(model.generator.cfg.renderer, "background", 1.0) * 2 - 1
    colour = (images.image.float() - (1 - alpha) * background) / alpha.clamp(min=1 / 255)
    rgba = torch.cat([colour.clamp(-1, 1), alpha * 2 - 1], dim=1)
    return [np.ascontiguousarray(x) for x in to_uint8(rgba).permute(0, 2, 3, 1).cpu().numpy()]


def reduced(pixels: Pixels) -> Pixels:
    """Reduce a picture to at most `LARGEST` pixels a side."""
    if len(pixels) <= LARGEST:
        return pixels
    picture = Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[..., 0])
    small = np.asarray(picture.resize((LARGEST, LARGEST), Image.Resampling.LANCZOS))
    return small if small.ndim == 3 else small[..., None]


def enlarged(pixels: Pixels, factor: int) -> Pixels:
    """Repeat each pixel `factor` times in both directions."""
    return pixels if factor == 1 else pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def save_png(path: Path, pixels: np.ndarray, settings: Mapping[str, Any]) -> None:
    """Write a PNG whose text chunks hold the command and the settings (JSON) that made it."""
    info = PngInfo()
    info.add_text("Software", f"lightning_gan3d {__version__}")
    info.add_itxt("Command", shlex.join(["gan3d", *sys.argv[1:]]))
    info.add_itxt("Settings", json.dumps(settings))
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=info)


def depth_step(model: Model, cameras: Cameras) -> float:
    """World units per step of a 16-bit depth map: the smallest power of ten that spans the box."""
    box = model.generator.cfg.scene.box
    farthest = float(cameras.origins.norm(dim=-1).max()) + box * math.sqrt(3) / 2
    return float(10.0 ** max(-4, math.ceil(math.log10(farthest / 65535))))


class Tile(NamedTuple):
    """One latent on a contact sheet: a caption and its pictures, side by side."""

    caption: str
    pictures: Sequence[Pixels]


def write_contact_sheets(
    path: Path, tiles: Sequence[Tile], settings: Mapping[str, Any], columns: int | None = None
) -> list[str]:
    """Write tiles row by row on pages of at most `PAGE` pixels; returns the names of the files.

    The first page is `path`, the second has the number 2.
    """
    if columns is None:
        side = _side(tiles, 1)
        width = GAP + max(len(tile.pictures) for tile in tiles) * (side + GAP)
        square = round(math.sqrt(len(tiles) * (CAPTION + side + GAP) / width))
        columns = max(1, min(square, PAGE // width))
    per_page = columns * max(1, PAGE // (CAPTION + _side(tiles, columns) + GAP))
    for old in path.parent.glob(f"{path.stem}_[0-9]*{path.suffix}"):
        old.unlink()  # pages of an earlier, larger sheet
    files = []
    for first in range(0, len(tiles), per_page):
        number = f"_{first // per_page + 1}" if first else ""
        file = path.with_name(f"{path.stem}{number}{path.suffix}")
        save_png(file, contact_sheet(tiles[first : first + per_page], columns), settings)
        files.append(str(file))
    return files


def _side(tiles: Sequence[Tile], columns: int, rows: int = 1) -> int:
    """Side of images in pixels: small ones are enlarged to `CELL`; rows and columns fit a page."""
    side = max(len(pixels) for tile in tiles for pixels in tile.pictures)
    side *= max(1, -(-CELL // side))
    most = max(len(tile.pictures) for tile in tiles)
    return max(8, min(side, (PAGE // columns - GAP) // most - GAP, PAGE // rows - CAPTION - GAP))


def contact_sheet(tiles: Sequence[Tile], columns: int) -> UInt8[np.ndarray, "h w 3"]:
    """Lay out tiles row by row on one page."""
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    side = _side(tiles, columns, rows)
    width, height = GAP + max(len(t.pictures) for t in tiles) * (side + GAP), CAPTION + side + GAP
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, tile in enumerate(tiles):
        left, top = i % columns * width + GAP, i // columns * height
        draw.text((left, top + 1), tile.caption, fill="black")
        for pixels in tile.pictures:
            picture = Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[..., 0])
            filters = Image.Resampling
            how = filters.LANCZOS if side % picture.width else filters.NEAREST
            picture = picture.resize((side, side), how)
            alpha = picture if picture.mode == "RGBA" else None
            sheet.paste(picture, (left, top + CAPTION), alpha)
            left += side + GAP
    return np.asarray(sheet)
