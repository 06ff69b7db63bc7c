"""Images of one or several generators: files per view, and sortable contact sheets."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.checkpoints.load import load_discriminator
from lightning_gan3d.config import ConfigError
from lightning_gan3d.files import write_json
from lightning_gan3d.images import Images
from lightning_gan3d.inference.camera_paths import cameras_of
from lightning_gan3d.inference.config import GenerateOptions, outputs_of
from lightning_gan3d.inference.inversion.targets import image_distance, read_target
from lightning_gan3d.inference.model import (
    Model,
    captions,
    history,
    name_of,
    open_model,
    output_folder,
    parse_seeds,
)
from lightning_gan3d.inference.pictures import (
    Pixels,
    Tile,
    depth_step,
    enlarged,
    pictures,
    reduced,
    save_png,
    with_alpha,
    write_contact_sheets,
)
from lightning_gan3d.inference.styles import subject_of
from lightning_gan3d.metrics.geometry.surfaces import thinness
from lightning_gan3d.progress import track

SHOWN = 64
"""Latents on the contact sheet; the files of all are written."""

Score = Callable[[Images, Cameras], float]
"""A number per latent from its views."""


def generate(
    references: Sequence[str],
    options: GenerateOptions,
    out: Path | None = None,
    all_checkpoints: bool = False,
) -> str:
    """Write images of generators, the same latents under the same options; returns a summary.

    Memory does not grow with the number of seeds: the contact sheet is made from the files.

    With several generators, each has its folder, and the contact sheet shows them side by side;
    `all_checkpoints`: those of each run over its training.
    """
    seeds = parse_seeds(options.seeds)
    out = output_folder(references, "generated", out)
    paths = [p for r in references for p in (history(r) if all_checkpoints else [r])]
    names = [name_of(path) for path in paths]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ConfigError(f"two generators are called {twice}: their files would be mixed up")
    files: dict[int, list[tuple[str, list[Path]]]] = {seed: [] for seed in seeds}
    scores: dict[int, float] = {}
    lines = []
    for path, name, caption in zip(paths, names, captions(paths), strict=True):
        model = replace(open_model(path, options, alone=len(references) == 1), name=caption)
        folder = out / name if len(paths) > 1 else out
        own = _write(model, path, folder, options, files)
        # Several generators are ordered by the first, a run's checkpoints by the newest.
        scores = own if all_checkpoints else scores or own
        lines.append(model.summary)
    best_first = 1 if options.sort == "distance" else -1
    order = sorted(seeds, key=lambda seed: best_first * scores.get(seed, 0.0))
    rows = [
        Tile(caption, [_picture(file, options.enlarge) for file in shown])
        for seed in order[:SHOWN]
        for caption, shown in files[seed]
    ]
    if not any(tile.pictures for tile in rows):
        raise ConfigError(f"outputs={options.outputs}: no generator renders them", "outputs")
    columns = len(paths) if len(paths) > 1 else options.columns
    lines += write_contact_sheets(out / "contact_sheet.png", rows, asdict(options), columns)
    if len(seeds) > SHOWN:
        lines.append(f"the contact sheet shows the first {SHOWN} of {len(seeds):,} latents")
    return "\n".join(lines)


def _write(
    model: Model,
    reference: str | Path,
    folder: Path,
    options: GenerateOptions,
    files: dict[int, list[tuple[str, list[Path]]]],
) -> dict[int, float]:
    """Write the files of each seed as soon as it is rendered; returns the scores.

    `files`: gets a caption and the pictures to show for each seed.
    """
    cameras = cameras_of(options.cameras, options.views, model.orbit)
    score = _score(reference, model, options)
    folder.mkdir(parents=True, exist_ok=True)
    scores: dict[int, float] = {}
    record: dict[str, Any] = {
        "generator": str(reference),
        **asdict(options),
        "depth": "world units along the ray",
        "depth_png_step": depth_step(model, cameras),
    }

    for seed in track(files, "latents", len(files)):
        subject = subject_of(model, seed, options)
        images = subject.render(cameras, options.rendering_resolution)
        if score:
            scores[seed] = score(images, cameras.to(model.device))
        shown = save_views(
            model, images, cameras, folder / f"seed{seed:04d}", record | {"seed": seed}, options
        )
        caption = f"{model.name} {seed}" + (f": {scores[seed]:.3g}" if score else "")
        files[seed].append((caption, shown))
    if score:
        record["scores"] = scores
    write_json(folder / "generate.json", record | {"labels": cameras.to_label().tolist()})
    return scores


def save_views(
    model: Model,
    images: Images,
    cameras: Cameras,
    path: Path,
    settings: dict[str, Any],
    options: GenerateOptions,
) -> list[Path]:
    """Write the outputs of all views and return the files to show on the contact sheet.

    Depth is written as `.npy` (world units along the ray) and 16-bit PNG besides its picture.
    """
    sheet: list[Path] = []
    labels = cameras.to_label().tolist()
    outputs = model.available(outputs_of(options.outputs))
    shown = {"image", "depth", "normals"} & {*outputs} or {*outputs}
    for output in outputs:
        if output == "image" and options.transparent:
            views: Sequence[Pixels] = with_alpha(model, images)
        else:
            views = pictures(model, images, cameras, output)
        ending = {"image": "", "depth": "_depth_colour"}.get(output, f"_{output}")
        for i, pixels in enumerate(views):
            own = settings | {"view": i, "label": labels[i]}
            file = path.with_name(f"{path.name}_view{i:02d}{ending}.png")
            save_png(file, enlarged(pixels, options.enlarge), own)
            if output in shown:
                sheet.append(file)
    if "depth" in outputs:
        assert images.depth is not None, "available() says so"
        depth = images.depth[:, 0].float().cpu().numpy()
        step = depth_step(model, cameras)
        for i, values in enumerate(depth):
            file = path.with_name(f"{path.name}_view{i:02d}_depth")
            np.save(file.with_suffix(".npy"), values)
            steps = np.clip(np.rint(values / step), 0, 65535).astype(np.uint16)
            own = settings | {"view": i, "label": labels[i]}
            save_png(file.with_suffix(".png"), steps, own)
    return sheet


def _picture(file: Path, enlarge: int) -> Pixels:
    """Read a picture for the contact sheet, at the size before it was enlarged."""
    with Image.open(file) as image:
        pixels = np.asarray(image)[::enlarge, ::enlarge]
    return reduced(pixels if pixels.ndim == 3 else pixels[..., None])


def _score(reference: str | Path, model: Model, options: GenerateOptions) -> Score | None:
    """Return the score by which the contact sheet is sorted; None: by seed."""
    if options.sort == "distance":
        target = read_target(Path(options.reference), model.generator.resolution).to(model.device)
        return lambda images, _: float(image_distance(images.image.float(), target).mean())
    if options.sort == "logit":
        d = load_discriminator(reference, model.device)
        return lambda images, cameras: float(d(images, model.label_of(cameras)).mean())
    if options.sort == "flatness":
        if not model.has_depth:
            raise ConfigError(f"sort=flatness: {model.name} renders no depth", field="sort")
        return _solidity
    return None


def _solidity(images: Images, cameras: Cameras) -> float:
    """Smallest over largest extent of the visible surface, mean over views: 0 is a plane."""
    assert images.depth is not None, "available() says so"
    assert images.opacity is not None, "as above"
    points = cameras.unproject(images.depth.float())
    solid = (images.opacity >= 0.5).flatten(1)
    values = [thinness(p[s].cpu()) for p, s in zip(points, solid, strict=True)]
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else 0.0
