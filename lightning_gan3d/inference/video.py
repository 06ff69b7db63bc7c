"""Videos: moving cameras around one latent, or a loop through several; several generators."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_gan3d.config import ConfigError
from lightning_gan3d.files import atomic_path
from lightning_gan3d.inference.camera_paths import arc_and_back, cameras_of, smooth_path
from lightning_gan3d.inference.config import VideoOptions, outputs_of
from lightning_gan3d.inference.model import (
    Model,
    Subject,
    open_model,
    output_folder,
    parse_seeds,
)
from lightning_gan3d.inference.pictures import Pixels, enlarged, pictures
from lightning_gan3d.inference.styles import along_loop
from lightning_gan3d.progress import track


def video(references: Sequence[str], options: VideoOptions, out: Path | None = None) -> str:
    """Write one video per seed, or one through all seeds; returns a summary.

    A video of one latent computes each generator's scene once.
    """
    seeds = parse_seeds(options.seeds)
    loop = options.interpolate != "none"
    if loop and len(seeds) < 2:
        raise ConfigError(f"seeds={options.seeds}: interpolate={options.interpolate} needs two")
    alone = len(references) == 1
    models = [open_model(reference, options, alone) for reference in references]
    shown = [model for model in models if model.available(outputs_of(options.outputs))]
    if not shown:
        raise ConfigError(f"outputs={options.outputs}: no generator renders them", "outputs")
    out = output_folder(references, "videos", out)
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for group in [seeds] if loop else [[seed] for seed in seeds]:
        name = (
            f"interpolation_{options.interpolate}_{options.seeds}"
            if loop
            else f"seed{group[0]:04d}"
        )
        file = out / f"{name}.{options.format}"
        num = options.frames * len(group)
        streams = [_frames(model, group, num, options) for model in shown]
        frames = (side_by_side([p for views in row for p in views])
                  for row in zip(*streams, strict=True))  # fmt: skip
        with video_writer(file, options.fps) as add:
            for frame in track(frames, file.name, num):
                add(frame)
        files.append(str(file))
    return "\n".join([*(model.summary for model in models), *files])


def _frames(
    model: Model, seeds: Sequence[int], num: int, options: VideoOptions
) -> Iterator[list[Pixels]]:
    """Yield the pictures of each frame, one per output."""
    if options.cameras == "orbit" and not model.orbit.full:
        cameras = arc_and_back(num, model.orbit)
    else:
        cameras = smooth_path(cameras_of(options.cameras, num, model.orbit), num)
    outputs = model.available(outputs_of(options.outputs))
    if options.interpolate == "none":
        subject = Subject(model, model.styles_of(seeds[0], options))
        batches = subject.batches(cameras, options.rendering_resolution)
    else:
        loop = (along_loop(model, seeds, i / num, options, options.interpolate) for i in range(num))
        batches = (
            batch
            for i, styles in enumerate(loop)
            for batch in Subject(model, styles).batches(
                cameras.select(slice(i, i + 1)), options.rendering_resolution
            )
        )
    for batch, images in batches:
        views = [pictures(model, images, batch, output) for output in outputs]
        for frame in zip(*views, strict=True):
            yield [enlarged(pixels, options.enlarge) for pixels in frame]


def side_by_side(pictures: Sequence[Pixels]) -> Pixels:
    """Join pictures to one row; smaller ones are enlarged to the largest."""
    side = max(pixels.shape[0] for pixels in pictures)
    row = []
    for pixels in pictures:
        rgb = pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels
        if rgb.shape[0] != side:
            rgb = np.asarray(Image.fromarray(rgb).resize((side, side), Image.Resampling.NEAREST))
        row.append(rgb)
    return np.concatenate(row, axis=1)


@contextmanager
def video_writer(path: Path, fps: int) -> Iterator[Callable[[Pixels], None]]:
    """Encode frames of equal size as they come: H.264 in MP4 or an animated GIF, by the suffix."""
    with atomic_path(path) as temporary:
        if path.suffix == ".gif":
            images: list[Image.Image] = []
            yield lambda frame: images.append(Image.fromarray(frame).quantize())
            # A GIF counts time in 1/100 s.
            times = np.diff([round(100 * i / fps) * 10 for i in range(len(images) + 1)]).tolist()
            options = {"duration": times, "loop": 0, "save_all": True, "append_images": images[1:]}
            images[0].save(temporary, format="GIF", **options)
        else:
            with _h264(temporary, fps) as add:
                yield add


@contextmanager
def _h264(path: Path, fps: int) -> Iterator[Callable[[Pixels], None]]:
    try:
        import av
    except ImportError:
        raise ConfigError(
            "videos need PyAV: pip install 'lightning-gan3d[video]', or format=gif"
        ) from None
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "16"})
        stream.pix_fmt = "yuv420p"

        def add(pixels: Pixels) -> None:
            height, width = (n - n % 2 for n in pixels.shape[:2])  # colours are halved in size
            if not stream.codec_context.is_open:
                stream.width, stream.height = width, height
            even = np.ascontiguousarray(pixels[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))

        yield add
        container.mux(stream.encode())
