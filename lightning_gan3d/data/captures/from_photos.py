"""Estimate the cameras of photographs or a video of one object by COLMAP (extra `pycolmap`)."""

import io
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import laplace

from lightning_gan3d.config import ConfigError, Count, Share
from lightning_gan3d.data.archive import DataError, image_names, open_source
from lightning_gan3d.data.captures.from_poses import PreparedCaptures, prepare_from_poses
from lightning_gan3d.data.captures.posed_images import FromPosesConfig
from lightning_gan3d.data.dataset_writer import reject_existing
from lightning_gan3d.data.image_files import MAX_PHOTO_SIDE, open_header, upright
from lightning_gan3d.progress import spinner, track


@dataclass(frozen=True)
class FromPhotosConfig(FromPosesConfig):
    """How cameras are estimated; then the options of from-poses apply."""

    min_registered: Share = 0.5
    """Smallest share of the images that COLMAP must register."""
    model: str = ""
    """Folder in which to keep images and COLMAP's model, for `from-poses` with other options."""
    frames: Count = 100
    """Number of equal parts of a video; the sharpest frame of each is used."""


def prepare_from_photos(
    source: Path, out: Path, cfg: FromPhotosConfig, overwrite: bool = False
) -> PreparedCaptures:
    """Write the data set from a folder or zip of photographs, or from a video."""
    is_video = source.is_file() and not zipfile.is_zipfile(source)
    for module, extra in {"pycolmap": "pycolmap", **({"av": "video"} if is_video else {})}.items():
        if find_spec(module) is None:
            raise ConfigError(f"{module} is missing: pip install 'lightning-gan3d[{extra}]'")
    reject_existing(out, overwrite)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(cfg.model or f"{temporary}/{source.stem or 'photos'}")
        reject_existing(folder)
        (folder / "images").mkdir(parents=True)
        if is_video:
            extract_frames(source, folder / "images", cfg.frames)
        else:
            _copy_upright(source, folder / "images")
        _register(folder, cfg)
        return prepare_from_poses(folder, out, cfg, overwrite)


def _copy_upright(source: Path, folder: Path) -> None:
    """Copy photographs; those with an EXIF orientation, which COLMAP ignores, are rotated."""
    photos = open_source(source)
    for name in track(image_names(photos), "photographs"):
        data, path = photos.read(name), folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = open_header(io.BytesIO(data), name, MAX_PHOTO_SIDE)
        rotated = upright(image, name)
        if image.getexif().get(0x0112, 1) == 1:
            path.write_bytes(data)
        else:
            rotated.save(path, exif=rotated.getexif(), quality=95)


def extract_frames(path: Path, folder: Path, num: int) -> None:
    """Write the sharpest frame (variance of the Laplacian) of each of `num` parts of a video."""
    import av

    best: dict[int, float] = {}
    try:
        with av.open(str(path)) as video:
            for frame in track(video.decode(video=0), "frames", video.streams.video[0].frames):
                seconds = (frame.time or 0.0) - (video.start_time or 0) / av.time_base
                part = min(num - 1, int(num * seconds * av.time_base / (video.duration or 0)))
                gray = frame.to_ndarray(format="gray").astype(np.float32)
                if (sharpness := float(laplace(gray).var())) > best.get(part, -1.0):
                    best[part] = sharpness
                    pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                    Image.fromarray(pixels).save(folder / f"frame{part:05d}.png", compress_level=1)
    except (av.FFmpegError, IndexError, ZeroDivisionError) as error:  # no stream, no duration
        raise DataError(f"{path} cannot be read as a video: {error}") from None


def _register(folder: Path, cfg: FromPhotosConfig) -> None:
    """Write the largest model to `sparse/0` of a folder with `images`."""
    import pycolmap

    images, database, models = folder / "images", folder / "database.db", folder / "models"
    sizes = [Image.open(path).size for path in images.rglob("*.*")]
    mode = pycolmap.CameraMode.SINGLE if len(set(sizes)) == 1 else pycolmap.CameraMode.AUTO
    pycolmap.logging.minloglevel = int(pycolmap.logging.Level.ERROR)
    pycolmap.set_random_seed(0)
    models.mkdir()
    with spinner(f"COLMAP: cameras of {len(sizes):,} images"):
        pycolmap.extract_features(database, images, camera_mode=mode)
        pycolmap.match_exhaustive(database)
        mapped = pycolmap.incremental_mapping(database, images, models).values()
    best = max(mapped, key=lambda model: model.num_reg_images(), default=None)
    num = best.num_reg_images() if best else 0
    if best is None or num < cfg.min_registered * len(sizes):
        raise DataError(
            f"cameras were found for {num:,} of {len(sizes):,} images: use sharp ones, at most 15 "
            "degrees apart, of an object or ground with texture; or set min_registered=SHARE"
        )
    (folder / "sparse/0").mkdir(parents=True)
    best.write(folder / "sparse/0")
