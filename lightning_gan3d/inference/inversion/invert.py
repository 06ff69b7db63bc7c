"""`gan3d invert`: images to latents, cameras and tuned generators, with a table of their quality.

Each image gets a folder that the other commands open like any export; seed 0 is its latent.
"""

import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.checkpoints.load import read_networks, write_export
from lightning_gan3d.checkpoints.stored_networks import LATENT, Stored
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.archive import FolderListing, is_image
from lightning_gan3d.data.camera_checks import check_cameras
from lightning_gan3d.data.labels import label_rows, name_map, parse_json
from lightning_gan3d.files import write_json
from lightning_gan3d.images import Images
from lightning_gan3d.inference.camera_paths import cameras_of
from lightning_gan3d.inference.config import InvertOptions
from lightning_gan3d.inference.inversion.projection import (
    Inversion,
    invert,
    perceptual_network,
    pose_grid,
)
from lightning_gan3d.inference.inversion.targets import Target, read_target
from lightning_gan3d.inference.model import (
    Model,
    Subject,
    open_model,
    output_folder,
    save_latent,
)
from lightning_gan3d.inference.pictures import Tile, contact_sheet, pictures, save_png, to_array
from lightning_gan3d.inference.styles import reject_codes
from lightning_gan3d.metrics.config import ConsistencyConfig
from lightning_gan3d.metrics.consistency.image_similarity import (
    LEAST_SIDE,
    WINDOW,
    LpipsMap,
    psnr,
    ssim_map,
)
from lightning_gan3d.metrics.consistency.pairs import pair_sums
from lightning_gan3d.metrics.consistency.warp import surfaces
from lightning_gan3d.metrics.pose.estimators import load_network, read_rotations
from lightning_gan3d.stats import mean_interval

RESULT = "inversion.json"
"""The file of a finished result."""
COLUMNS = {
    "psnr": "PSNR ↑",
    "ssim": "SSIM ↑",
    "lpips": "LPIPS ↓",
    "held_out_psnr": "held-out PSNR ↑",
    "held_out_ssim": "held-out SSIM ↑",
    "consistency_psnr": "consistency PSNR ↑",
}
"""Columns of the table. PSNR in dB."""
SHEET_VIEWS = 8
"""Novel views in a result's sheet."""


class Photo(NamedTuple):
    """An image file and its camera; the other views of its object are held out."""

    name: str
    path: Path
    digest: str
    read: Callable[[], Target]
    cameras: Cameras
    held_out: Sequence[tuple[Callable[[], Target], Cameras]]


def invert_files(
    reference: str, images: Path, options: InvertOptions, out: Path | None = None
) -> str:
    """Invert an image, or the images of a folder; finished ones are skipped. Returns a table.

    Raises ConfigError if an image, camera, crop or mask is invalid, before anything is optimised.
    """
    root, names = find_images(images)
    model = open_model(reference, options)
    model.generator.cfg.check_gradient("inversion")
    reject_codes(model.generator.representation, "inversion")
    out = output_folder([reference], "invert", out)
    names = [n for n in names if not (root / n).resolve().is_relative_to(out.resolve())]
    names = [n for n in names if not (root / n).with_name(RESULT).exists()]  # other results
    photos = read_photos(root, names, model, options)
    stored = read_networks(reference, ["generator"])
    common = {"generator": str(reference), "kimg": stored.about.get("kimg"), **asdict(options)}
    del common["overrides"]  # the command takes none
    del common["device"]
    settings = {photo.name: common | {"image": photo.digest} for photo in photos}
    rows: dict[str, dict[str, float | None]] = {}
    finished = [photo for photo in photos if (out / photo.name).exists()]
    for photo in finished:
        rows[photo.name] = read_result(out / photo.name, settings[photo.name])
    for photo in photos:
        if photo.name not in rows:
            inversion = invert(model, photo.read(), photo.cameras, options)
            folder = out / photo.name
            rows[photo.name] = write_result(folder, photo, inversion, settings[photo.name], stored)
    lpips = perceptual_network()
    note = lpips.protocol if isinstance(lpips, LpipsMap) else f"without LPIPS: {lpips}"
    before = [f"{len(finished)} of {len(photos)} were finished before"] if finished else []
    return "\n".join([model.summary, *before, table(rows), note, str(out)])


def find_images(path: Path) -> tuple[Path, list[str]]:
    """Return a folder and the names of images in it: those of `path`, or the single one."""
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    folder = path if path.is_dir() else path.parent
    # The images of a data set may lie below the folder of its dataset.json.
    root = next((p for p in (folder, folder.parent) if (p / "dataset.json").is_file()), folder)
    if not path.is_dir():
        return root, [path.relative_to(root).as_posix()]
    names = [(path / n).relative_to(root).as_posix() for n in sorted(FolderListing.of(path).files)]
    names = [name for name in names if is_image(name)]
    if not names:
        raise ConfigError(f"{path}: no images")
    return root, names


def read_photos(
    root: Path, names: Sequence[str], model: Model, options: InvertOptions
) -> list[Photo]:
    """Read images, masks and cameras."""
    folders = ["-".join(PurePosixPath(name).with_suffix("").parts) for name in names]
    twice = next((f for f in folders if folders.count(f) > 1), None)
    if twice:
        raise ConfigError(f"{root}: two images are called {twice}; rename one")
    file = root / "dataset.json"
    labels: dict[str, list[float]] = {}
    objects: dict[str, int] = {}
    if options.camera == "label" and file.is_file():
        index = parse_json(file.read_bytes(), str(file))
        labels, objects = label_rows(index, str(file)), name_map(index, "objects", int, str(file))

    def target(name: str) -> Target:
        mask = find_mask(Path(options.mask), name) if options.mask else None
        return read_target(root / name, model.generator.resolution, options.crop, mask)

    def camera(name: str) -> Cameras:
        if name not in labels:
            lacks = f"{file} has no label of {name}" if file.is_file() else f"there is no {file}"
            raise ConfigError(f"camera=label: {lacks}; use search", field="camera")
        label = torch.tensor([labels[name]], dtype=torch.float64)
        return Cameras.from_label(check_cameras(label, [name]).float()).crop(*boxes[name])

    # Each image is read here, which checks it, and again when it is used: folders can be large.
    boxes, digests = {}, {}
    for name in names:
        own = target(name)
        boxes[name], digests[name] = own.box, own.digest
    estimator = load_network("camera", options.camera) if options.camera.endswith(".pt") else None
    photos = []
    for folder, name in zip(folders, names, strict=True):
        held_out = []
        if options.camera == "search":
            cameras = pose_grid(model.orbit)
        elif estimator is not None:
            with torch.no_grad():
                cameras = model.orbit.facing(read_rotations(estimator, target(name).image).cpu())
        elif options.camera == "label":
            cameras = camera(name)
            same = [n for n in names if n != name and n in objects and name in objects]
            others = [n for n in same if objects[n] == objects[name]]
            held_out = [(partial(target, n), camera(n)) for n in others]
        else:
            cameras = cameras_of(options.camera, 1, model.orbit, "camera")
            if len(cameras.cam2world) != 1:
                raise ConfigError(f"camera={options.camera}: use one camera", field="camera")
        read = partial(target, name)
        photos.append(Photo(folder, root / name, digests[name], read, cameras, held_out))
    return photos


def find_mask(path: Path, name: str) -> Path:
    """Return the mask of an image: the file itself, or the one of its name in a folder.

    In a folder, subfolders may be left out, and the suffix may be `.png`.
    """
    if not path.is_dir():
        return path
    given = [path / name, path / Path(name).name]
    for mask in (*given, *(p.with_suffix(".png") for p in given)):
        if mask.is_file():
            return mask
    raise ConfigError(f"mask={path}: no mask of {name}", field="mask")


def write_result(
    folder: Path, photo: Photo, inversion: Inversion, settings: dict[str, Any], stored: Stored
) -> dict[str, float | None]:
    """Write a result under a temporary name, then rename it; returns its metrics."""
    temporary = folder.with_name(f".unfinished-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_latent(temporary / LATENT, inversion.offset)
    write_export(temporary, stored, inversion.model.generator)
    subject = Subject(inversion.model, inversion.model.inverted[0])
    write_sheets(temporary, photo, inversion, subject)
    values = metrics(subject, photo, inversion)
    record = {
        "image": str(photo.path),
        "settings": settings,
        "label": inversion.cameras.to_label()[0].tolist(),
        "metrics": values,
        "losses": {stage.name: stage.losses for stage in inversion.stages},
    }
    write_json(temporary / RESULT, record)
    temporary.rename(folder)
    return values


def read_result(folder: Path, settings: dict[str, Any]) -> dict[str, float | None]:
    """Read the metrics of a finished result.

    Raises ConfigError if the folder is something else, or made with other settings.
    """
    if not (folder / RESULT).is_file():
        raise ConfigError(f"{folder} exists without {RESULT}: use another --out, or remove it")
    result = parse_json((folder / RESULT).read_bytes(), str(folder / RESULT))
    different = [k for k, v in settings.items() if result["settings"].get(k) != v]
    if different:
        raise ConfigError(
            f"{folder} was made with another {different[0]}: use another --out, or remove it"
        )
    metrics: dict[str, float | None] = result["metrics"]
    return metrics


def write_sheets(folder: Path, photo: Photo, inversion: Inversion, subject: Subject) -> None:
    """Write `progress.png`, the picture after each stage, and `views.png`, novel views."""
    stages = [Tile("image", [to_array(photo.read().image[0])])]
    stages += [Tile(stage.name, [to_array(stage.image[0])]) for stage in inversion.stages]
    model, tiles = inversion.model, []
    around = model.orbit.cameras(SHEET_VIEWS)
    for name, cameras in (("image", inversion.cameras.to("cpu")), ("orbit", around)):
        images = subject.render(cameras)
        outputs = model.available(["image", "depth"])
        views = [pictures(model, images, cameras, output) for output in outputs]
        tiles += [Tile(name, each) for each in zip(*views, strict=True)]
    settings = {"image": str(photo.path)}
    save_png(folder / "progress.png", contact_sheet(stages, len(stages)), settings)
    save_png(folder / "views.png", contact_sheet(tiles, 3), settings)


def metrics(subject: Subject, photo: Photo, inversion: Inversion) -> dict[str, float | None]:
    """Compare the result with the image and the held-out views; None where there is nothing."""
    images = subject.render(inversion.cameras)
    own = similarity(images, photo.read().to(images.image.device))
    held_out = [
        similarity(subject.render(cameras), read().to(images.image.device))
        for read, cameras in photo.held_out
    ]
    values: dict[str, float | None] = {**own, "consistency_psnr": consistency(subject, inversion)}
    for key in ("psnr", "ssim"):
        each = [view[key] for view in held_out]
        values[f"held_out_{key}"] = statistics.fmean(each) if each and None not in each else None  # type: ignore[arg-type]  # no None
    return values


def similarity(images: Images, target: Target) -> dict[str, float | None]:
    """PSNR, SSIM and LPIPS inside the mask, of one view clipped to [-1, 1]."""
    image, truth = (x.clamp(-1, 1).float() / 2 + 0.5 for x in (images.image, target.image))
    error = ((image - truth).square() * target.mask).sum() / (3 * target.mask.sum())
    windows, counts = ssim_map(image, truth, target.mask > 0.5)
    lpips = perceptual_network()
    perceptual: float | None = None
    if isinstance(lpips, LpipsMap) and image.shape[-1] >= LEAST_SIDE:
        shown = torch.where(target.mask > 0, image, truth) * 2 - 1
        weighted = lpips(shown, truth * 2 - 1) * target.mask
        perceptual = float(weighted.sum() / target.mask.sum())
    has_ssim = image.shape[-1] >= WINDOW and bool(counts.any())
    return {
        "psnr": float(psnr(error)),
        "ssim": float(windows[counts].mean()) if has_ssim else None,
        "lpips": perceptual,
    }


def consistency(subject: Subject, inversion: Inversion) -> float | None:
    """PSNR after warping views at the evaluation's angle beside the camera into each other."""
    cfg = ConsistencyConfig()
    angles = torch.tensor([-1.0, 0.0, 1.0], device=inversion.cameras.cam2world.device) * cfg.angle
    cameras = inversion.cameras.rotate_y(angles)
    images = subject.render(cameras)
    if images.depth is None:
        return None
    views = surfaces(images.image.clamp(-1, 1).float(), images, cameras, cfg)
    sums = pair_sums(views, len(angles), cfg.tolerance)
    compared: Float[Tensor, ""] = sums.compared.sum()
    return float(psnr(sums.warped.sum() / compared)) if compared > 0 else None


def table(rows: dict[str, dict[str, float | None]]) -> str:
    """Format the metrics of all images, and their means with 95 % intervals."""
    used = [k for k in COLUMNS if any(row[k] is not None for row in rows.values())]
    width = max(len(name) for name in [*rows, "mean"])
    lines = [f"{'':{width}s}  " + "  ".join(f"{COLUMNS[k]:>18s}" for k in used)]
    for name, row in rows.items():
        cells = ["-" if row[k] is None else f"{row[k]:.3f}" for k in used]
        lines.append(f"{name:{width}s}  " + "  ".join(f"{cell:>18s}" for cell in cells))
    means = []
    for key in used:
        values = [x for row in rows.values() if (x := row[key]) is not None]
        interval = mean_interval(values)
        half = f" ±{interval.half:.3f}" if interval else ""
        means.append(f"{statistics.fmean(values):.3f}{half}")
    if len(rows) > 1:
        lines.append(f"{'mean':{width}s}  " + "  ".join(f"{cell:>18s}" for cell in means))
    return "\n".join(lines)
