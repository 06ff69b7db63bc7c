"""Consistent views of known objects, against which generated views are measured."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.synthetic.ellipsoids import ObjectView
from lightning_gan3d.data.synthetic.synth import SynthConfig, SynthObjects
from lightning_gan3d.files import sha256_of_tensors
from lightning_gan3d.images import Images, to_float
from lightning_gan3d.metrics.consistency.camera_choice import visible_box
from lightning_gan3d.metrics.context import EvaluationContext
from lightning_gan3d.metrics.protocol import cached
from lightning_gan3d.metrics.sources import ObjectSource, ViewSource
from lightning_gan3d.metrics.stored_images import SAME_CAMERA, StoredImages

SUPERSAMPLING = 3
"""Rays along the side of a pixel: aliased views of an object do not agree."""
NUM_FIGURES = 256
"""Procedural figures, if the data set has no objects to render."""
ELSEWHERE = "the cameras do not look at the world's origin; set evaluation.refit.box"


def known_objects(context: EvaluationContext) -> ViewSource | str:
    """Return the data set's own objects, or procedural figures that its cameras see whole."""
    if context.truth is not None:
        return context.truth
    refit = context.cfg.refit
    box = (refit and refit.box) or visible_box(Cameras.from_label(context.labels))
    return ELSEWHERE if box <= 0 else figures(context.labels, box, context.train.resolution)


def figures(labels: Float[Tensor, "n 25"], box: float, resolution: int) -> ObjectSource:
    """Return procedural figures that fill a cube of edge `box` about the origin."""
    objects = SynthObjects(SynthConfig(num_images=NUM_FIGURES, num_objects=NUM_FIGURES))
    scale = box / 2

    def render(ids: Tensor, cameras: Cameras, size: int) -> ObjectView:
        cam2world = cameras.cam2world.clone()
        cam2world[:, :3, 3] /= scale
        view = objects.render(ids, Cameras(cam2world, cameras.intrinsics), size)
        return view._replace(depth=view.depth * scale)

    return ObjectSource(render, range(NUM_FIGURES), labels, resolution, box=box)


def known_views(
    context: EvaluationContext,
    items: Int64[Tensor, " b"],
    cameras: Cameras,
    size: int,
) -> Images | str:
    """Return stored views of the data's objects if there are any from these cameras, else rendered.

    Stored views come without depth.
    """
    if isinstance(context.multiview, StoredImages) and context.truth is None:
        stored = stored_views(context.multiview, items, cameras)
        if not isinstance(stored, str):
            image = reduced(stored, size)
            return Images(image, image)
    return rendered_views(context, items, cameras, size)


def stored_views(
    source: StoredImages, items: Int64[Tensor, " b"], cameras: Cameras
) -> Float[Tensor, "bk 3 h w"] | str:
    """Read each object's views from its k cameras, in [-1, 1]; a reason if they are missing."""
    k = len(cameras.cam2world) // len(items)
    orbits = source.orbits(k)
    if isinstance(orbits, str):
        return orbits
    # Not by a matrix product, torch's choice for more than 25 rows: it rounds to 1e-3.
    exact = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(cameras.to_label().cpu(), orbits.cameras.to_label(), compute_mode=exact)
    if float(distance.amin(dim=1).max()) > SAME_CAMERA:
        return "the objects are not seen from these cameras"
    objects = (items % len(orbits.images)).repeat_interleave(k)
    return to_float(source.images(orbits.images[objects, distance.argmin(dim=1)]))


def rendered_views(
    context: EvaluationContext,
    items: Int64[Tensor, " b"],
    cameras: Cameras,
    size: int,
    smooth: bool = False,
) -> Images | str:
    """Render known objects with depth, each from its k = v / b cameras; cached.

    Images have at most `size` pixels a side. A pixel is the mean over its area; with `smooth` over
    a triangle twice as wide, which aliases less and is less sharp. Returns a reason if there are no
    objects.
    """
    source = known_objects(context)
    if isinstance(source, str):
        return source
    cameras = cameras.to("cpu")

    def render() -> dict[str, Tensor]:
        parts = []
        k = len(cameras.cam2world) // len(items)
        for i, item in enumerate(items):
            of_item = cameras.select(slice(i * k, (i + 1) * k))
            views = fine = source.views(item[None], of_item)
            if isinstance(source, ObjectSource):
                views = replace(source, resolution=size).views(item[None], of_item)
                larger = replace(source, resolution=SUPERSAMPLING * size)
                fine = larger.views(item[None], of_item)
            image = fine.image.float()
            image = (
                reduced(image, size)
                if smooth
                else adaptive_avg_pool2d(image, min(size, image.shape[-1]))
            )
            parts.append([image, *(x for x in (views.depth, views.opacity) if x is not None)])
        names = ("image", "depth", "opacity")
        return dict(zip(names, (torch.cat(x) for x in zip(*parts, strict=True)), strict=False))

    objects = [source.box, *source.objects] if isinstance(source, ObjectSource) else []
    digest = sha256_of_tensors(cameras._asdict())
    key = [context.train.fingerprint, context.truth is not None, objects, items.tolist(), digest]
    stored = cached(context.cache, "known-views", [*key, size, smooth, SUPERSAMPLING], render)
    image = stored["image"]
    return Images(image, image, stored.get("depth"), stored.get("opacity"))


def reduced(image: Float[Tensor, "v 3 h w"], size: int) -> Float[Tensor, "v 3 _ _"]:
    """Resize images to `size` pixels if they are larger, without aliasing."""
    if image.shape[-1] <= size:
        return image
    return interpolate(image, (size, size), mode="bilinear", antialias=True)
