"""Cheating generators: each wins a metric without being good, and must be marked by a gate."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn.functional import grid_sample
from torchvision.transforms.functional import gaussian_blur

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.synthetic.synth import SynthConfig, SynthObjects, sample_cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.files import sha256_of_tensors
from lightning_gan3d.gates import faults
from lightning_gan3d.images import Images, to_float, to_uint8
from lightning_gan3d.metric import Metric
from lightning_gan3d.metrics.config import (
    ConsistencyConfig,
    DistributionConfig,
    EvaluationConfig,
    FeaturesConfig,
    GeometryConfig,
    RefitConfig,
    SwdConfig,
)
from lightning_gan3d.metrics.context import EvaluationContext
from lightning_gan3d.metrics.evaluate import evaluate
from lightning_gan3d.metrics.selftest.known_scenes import Check
from lightning_gan3d.metrics.selftest.perturbations import (
    Perturbed,
    azimuth_of,
    facing_plane,
    ignore_camera,
    paint_over,
    turn_views,
    with_image,
)
from lightning_gan3d.metrics.sources import ImageSet, ObjectSource, ViewSource, Volume

EVALUATION = EvaluationConfig(
    num_images=300,
    batch=64,
    swd=SwdConfig(patches=32, projections=128),
    distribution=DistributionConfig(),
    consistency=ConsistencyConfig(items=24, steps=1, flicker=None),
    refit=RefitConfig(items=4, views=8, iterations=80, rays=256, samples=16, grid=16),
    features=FeaturesConfig(items=12, views=3),
    pose=None,
    following=False,
    geometry=GeometryConfig(items=6, points=512),
)
"""Options of the metrics: fewer images and items than in an evaluation."""
PIXELS = 32
"""Side of the images."""


def blur(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Blur images by a Gaussian; its standard deviation is `amount` pixels."""
    views = source.views(items, cameras)
    return with_image(views, gaussian_blur(views.image, 13, amount))


def turn_billboard(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Show the picture of the item's own camera on a card that faces every camera."""
    views = ignore_camera(source, items, cameras, amount)
    assert views.depth is not None
    return views._replace(depth=facing_plane(views.depth, cameras))


def fog(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Show the right images through a fog of opacity `amount`."""
    views = source.views(items, cameras)
    assert views.opacity is not None
    return views._replace(opacity=torch.full_like(views.opacity, amount))


def hide_detail(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Turn views at random, and make their textured pixels half-transparent."""
    views = turn_views(source, items, cameras, amount)
    assert views.opacity is not None
    smooth = gaussian_blur(views.image, 7, 2.0)
    detail = (views.image - smooth).abs().mean(dim=1, keepdim=True) > 0.1
    return views._replace(opacity=torch.where(detail, 0.5 * views.opacity, views.opacity))


def change_identity(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Show another item for each view, by its azimuth."""
    k = len(cameras.cam2world) // len(items)
    steps = (azimuth_of(cameras) / amount).round().long()
    each = items.repeat_interleave(k) + 97 * steps.abs()
    return source.views(each, cameras)


def swap_depth(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Show the right images over the depth of the item `amount` further."""
    views, other = source.views(items, cameras), source.views(items + int(amount), cameras)
    return views._replace(depth=other.depth, opacity=other.opacity)


def repeat_items(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Show only the first `amount` items."""
    return source.views(items % int(amount), cameras)


@dataclass(frozen=True, eq=False)
class Plane(ViewSource):
    """Each item is a plane through the origin that faces its own camera, with its picture."""

    source: ViewSource

    def base(self, items: Int64[Tensor, " b"]) -> Cameras:
        """Return the items' own cameras."""
        return self.source.base(items)

    def views(self, items: Int64[Tensor, " b"], cameras: Cameras) -> Images:
        """Intersect rays with the planes, and look the points up in the pictures."""
        k = len(cameras.cam2world) // len(items)
        base = Cameras(*(x.repeat_interleave(k, 0) for x in self.base(items)))
        picture = self.source.views(items, self.base(items))
        assert picture.opacity is not None
        size = picture.image.shape[-1]
        rays, normal = cameras.rays(size), base.cam2world[:, :3, 2]
        t = -(rays.origins * normal[:, None]).sum(-1) / (rays.dirs * normal[:, None]).sum(-1)
        hit = (t > 0) & (t < 10)
        points = rays.origins + rays.dirs * t.clamp(0, 10)[..., None]
        uv, _ = base.project(points)
        grid = (2 * uv - 1).view(-1, size, size, 2)
        both = torch.cat([picture.image, picture.opacity], dim=1).repeat_interleave(k, 0)
        seen = grid_sample(both, grid, padding_mode="zeros", align_corners=False)
        opacity = seen[:, 3:] * hit.view(-1, 1, size, size)
        image = torch.where(opacity > 0, seen[:, :3], 1.0)
        depth = torch.where(hit, t, 10.0).view(-1, 1, size, size)
        return Images(image, image, depth, opacity)


@dataclass(frozen=True, eq=False)
class Memoriser(ViewSource):
    """Shows the training image whose camera is nearest, at the depth of another source."""

    source: ViewSource
    train: ImageSet
    seed: int = 0
    origins: Float[Tensor, "n 3"] = field(init=False)

    def __post_init__(self) -> None:
        """Read the cameras of the training images."""
        labels = torch.as_tensor(self.train.labels)
        object.__setattr__(self, "origins", Cameras.from_label(labels).origins)

    def base(self, items: Int64[Tensor, " b"]) -> Cameras:
        """Return the camera of the training image of each item."""
        draws = Draws(self.seed).scope("memoriser")
        rows = [draws.at(int(i)).integers("image", len(self.train), (1,)) for i in items]
        return Cameras.from_label(torch.as_tensor(self.train.labels)[torch.cat(rows)])

    def views(self, items: Int64[Tensor, " b"], cameras: Cameras) -> Images:
        """Look the images up."""
        nearest = torch.cdist(cameras.origins, self.origins).argmin(dim=1)
        image = to_float(self.train.images(nearest))
        return self.source.views(items, cameras)._replace(image=image, image_raw=image)

    def volume(self, items: Int64[Tensor, " b"]) -> Volume | None:
        """Return the interiors of the other source."""
        return self.source.volume(items)


def _changed(change: Callable[..., Images], amount: float) -> Callable[..., ViewSource]:
    return lambda honest, _: Perturbed(honest, change, amount)


UNEXPLAINED = "has depth that does not predict its views"
CHEATS: dict[str, tuple[Callable[[ViewSource, ImageSet], ViewSource], str]] = {
    "one colour": (_changed(paint_over, 1.0), "is pale"),
    "blurred": (_changed(blur, 1.5), "is blurred"),
    "low contrast": (_changed(paint_over, 0.75), "is pale"),
    "flat plane": (lambda honest, _: Plane(honest), "is flat"),
    "billboard that turns with the camera": (_changed(turn_billboard, 1.0), "is flat"),
    "fog": (_changed(fog, 0.3), "is transparent"),
    "half-transparent detail": (_changed(hide_detail, 0.2), "hides pixels from the reprojection"),
    "identity follows the camera": (_changed(change_identity, 0.1), UNEXPLAINED),
    "wrong depth under right images": (_changed(swap_depth, 1.0), UNEXPLAINED),
    "memoriser": (Memoriser, "memorises training images"),
    "four objects": (_changed(repeat_items, 4.0), "repeats few objects"),
}
"""Makes the cheat from an honest source and the training images; and the fault that marks it."""


SHOWN = ("quality.swd", "refit.psnr", "refit.gain", "refit.deficit", "consistency.psnr",
         "consistency.gain", "consistency.deficit", "features.score")  # fmt: skip
"""Metrics of the table."""
HONEST = "honest"
"""Name of the source without a cheat: held-out figures of the data."""


def run_cheats(
    progress: Callable[[str], None] = lambda _: None, cache: Path | None = None
) -> dict[str, list[Metric]]:
    """Evaluate held-out figures and cheats made of them, against other figures."""
    synth = SynthConfig(num_images=600, num_objects=600)
    objects, draws = SynthObjects(synth), Draws(3)
    cameras = sample_cameras(synth, synth.num_images, draws)
    train, test = (
        RenderedFigures(objects, ids, cameras.select(ids), PIXELS)
        for ids in (torch.arange(300), torch.arange(300, 600))
    )
    source = ObjectSource(
        objects.render, range(300, 600), train.labels, PIXELS, level=objects.level
    )
    context = EvaluationContext(
        source, train, test, EVALUATION, truth=source, curves=False, cache=cache
    )
    results = {}
    for name in (HONEST, *CHEATS):
        progress(f"cheats: {name}")
        cheat = source if name == HONEST else CHEATS[name][0](source, train)
        results[name] = evaluate(replace(context, source=cheat))
    return results


def check_cheats(results: Mapping[str, list[Metric]]) -> list[Check]:
    """Each cheat has its fault; the honest source has none."""
    checks = []
    for name, metrics in results.items():
        marks = faults(metrics)
        text = ", ".join(marks.values()) or "no fault"
        if name == HONEST:
            checks.append((f"held-out figures: {text}", not marks))
        else:
            checks.append((f"{name}: {text}", CHEATS[name][1] in marks))
    return checks


def cheats_table(results: Mapping[str, list[Metric]]) -> list[str]:
    """Return the lines of a Markdown table: values, and the gates that mark each cheat.

    ○: at least as good as the honest source, so that the metric does not see the cheat.
    """
    lines = [f"| cheat | {' | '.join(f'`{x}`' for x in SHOWN)} | marked |"]
    lines.append("|---|" + "---|" * (len(SHOWN) + 1))
    honest = {m.key: m.value for m in results[HONEST]}
    for name, metrics in results.items():
        values = {m.key: m for m in metrics}
        cells = []
        for key in SHOWN:
            m, best = values.get(key), honest[key]
            if m is None or m.value is None or best is None:
                cells.append("")
                continue
            up = key.endswith(("psnr", "gain", "score"))
            seen = m.value < best if up else m.value > best
            text = f"{m.value:.1f}" if m.unit == "dB" else f"{m.value:.3f}"
            cells.append(text if seen or name == HONEST else f"{text} ○")
        lines.append(f"| {name} | {' | '.join(cells)} | {', '.join(faults(metrics))} |")
    return lines


class RenderedFigures:
    """Images of procedural figures as a data set."""

    def __init__(
        self, objects: SynthObjects, ids: Int64[Tensor, " n"], cameras: Cameras, resolution: int
    ) -> None:
        self.labels, self.resolution = cameras.to_label(), resolution
        self._images = to_uint8(objects.render(ids, cameras, resolution).image)
        self.fingerprint = sha256_of_tensors({"images": self._images, "labels": self.labels})[:16]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels)

    def images(self, indices: Tensor) -> UInt8[Tensor, "n 3 h w"]:
        """Return images by their indices."""
        return self._images[indices]
