"""Films: moving cameras around one latent, or a loop through several; generators side by side."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.files import atomic_path
from lightning_gan3d.inference.camera_paths import cameras_of, through
from lightning_gan3d.inference.config import VideoOptions, outputs_of
from lightning_gan3d.inference.model import (
    Model,
    Subject,
    interpolated,
    open_model,
    output_folder,
    parse_seeds,
)
from lightning_gan3d.inference.pictures import Pixels, enlarged, pictures
from lightning_gan3d.inference.progress import track

PIXELS_AT_ONCE = 2**16
"""Rays of views that are rendered together: several small views, one large view."""


def video(references: Sequence[str], options: VideoOptions, out: Path | None = None) -> str:
    """Write one film per seed, or one through all seeds; returns a summary.

    A film around one latent computes each generator's scene once.
    """
    seeds = parse_seeds(options.seeds)
    loop = options.interpolate != "none"
    if loop and len(seeds) < 2:
        raise ConfigError(f"seeds={options.seeds}: interpolate={options.interpolate} needs two")
    models = [open_model(reference, options) for reference in references]
    out = output_folder(references, "videos", out)
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for films in [seeds] if loop else [[seed] for seed in seeds]:
        name = f"interpolation_{options.interpolate}" if loop else f"seed{films[0]:04d}"
        file = out / f"{name}.{options.format}"
        num = options.frames * len(films)
        streams = [_frames(model, films, num, options) for model in models]
        frames = (beside([p for views in row for p in views]) for row in zip(*streams, strict=True))
        write_film(file, track(frames, file.name, num), options.fps)
        files.append(str(file))
    return "\n".join([*(f"{m.name}: {m.cameras_from}" for m in models), *files])


def film_cameras(options: VideoOptions, num: int, model: Model) -> Cameras:
    """Cameras of all frames; those of a file are joined by a smooth path."""
    cameras = cameras_of(options.cameras, num, model.orbit)
    return through(cameras, num)


def _frames(
    model: Model, seeds: Sequence[int], num: int, options: VideoOptions
) -> Iterator[list[Pixels]]:
    """Yield the pictures of each frame, one per output."""
    cameras, outputs = film_cameras(options, num, model), outputs_of(options.outputs)
    resolution = options.rendering_resolution or model.generator.rendering_resolution
    if options.interpolate == "none":
        subject = Subject(model, model.styles_of(seeds[0], options))
        step = max(1, PIXELS_AT_ONCE // resolution**2)
    else:
        step = 1
    for first in range(0, num, step):
        some = cameras.select(slice(first, first + step))
        if options.interpolate != "none":
            styles = interpolated(model, seeds, first / num, options, options.interpolate)
            subject = Subject(model, styles)
        images = subject.render(some, resolution)
        views = [pictures(model, images, some, output) for output in outputs]
        for frame in zip(*views, strict=True):
            yield [enlarged(pixels, options.enlarge) for pixels in frame]


def beside(pictures: Sequence[Pixels]) -> Pixels:
    """Join pictures to one row; smaller ones are enlarged to the largest."""
    side = max(pixels.shape[0] for pixels in pictures)
    row = []
    for pixels in pictures:
        rgb = pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels
        if rgb.shape[0] != side:
            rgb = np.asarray(Image.fromarray(rgb).resize((side, side), Image.Resampling.NEAREST))
        row.append(rgb)
    return np.concatenate(row, axis=1)


def write_film(path: Path, frames: Iterator[Pixels], fps: int) -> None:
    """Encode frames of equal size as H.264 in MP4 or as an animated GIF, by the file's suffix."""
    with atomic_path(path) as temporary:
        if path.suffix == ".gif":
            images = (Image.fromarray(frame) for frame in frames)
            first = next(images)
            options = {"duration": round(1000 / fps), "loop": 0, "save_all": True}
            first.save(temporary, format="GIF", append_images=images, **options)
        else:
            _write_h264(temporary, frames, fps)


def _write_h264(path: Path, frames: Iterator[Pixels], fps: int) -> None:
    try:
        import av
    except ImportError:
        raise ConfigError(
            "videos need PyAV: pip install 'lightning-gan3d[video]', or format=gif"
        ) from None
    first = next(frames)
    height, width = (n - n % 2 for n in first.shape[:2])  # H.264 subsamples colour by two
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for pixels in chain([first], frames):
            even = np.ascontiguousarray(pixels[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())
