"""Scenes of parts: whether the background stays when the objects change."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.generator import Generator
from lightning_gan3d.images import Images, quantise, resize
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.context import EvaluationContext, mean_of
from lightning_gan3d.metrics.sources import GeneratorSource
from representations.parts import Composed

NAMES = ("parts.background_change", "parts.leak")
LEVEL = 1 / 127.5
"""One of 255 levels of an image in [-1, 1]."""
MASK = 0.5
"""Mask from which a pixel belongs to objects."""


def measure_parts(context: EvaluationContext) -> list[Metric]:
    """Measure edits of the objects of generated scenes; nothing for scenes without parts."""
    cfg, source = context.cfg.parts, context.source
    if cfg is None or not isinstance(source, GeneratorSource):
        return []
    generator = source.generator
    if not isinstance(generator, Generator) or not generator.representation.codes:
        return []
    changes, leaks = [], []
    for items in torch.split(torch.arange(cfg.items), context.cfg.batch):
        cameras = source.base(items).to(source.device)
        with torch.no_grad():
            ws, other = redrawn_objects(source, items, cfg.items)
            scene = generator.scene(ws)
            assert isinstance(scene, Composed), "representations with codes make scenes of parts"
            first = generator.render(scene, ws, cameras)
            if first.mask is None:
                why = "the renderer has no masks; use generator.renderer.kind=composed"
                return [missing(name, why, "share") for name in NAMES]
            second = generator.render(generator.scene(other), other, cameras)
            changes.append(background_change(first, second))
            leaks.append(leak(first, scene, cameras))
    change, outside = torch.cat(changes).cpu(), torch.cat(leaks).cpu()
    note = (
        f"{cfg.items} pairs: same background, camera and noise, other objects; share of pixels "
        "that change by a level of 8 bits among those where no mask of either image reaches "
        f"{MASK:g}"
    )
    empty = "the masks cover every pixel"
    return [
        mean_of(NAMES[0], change, "share", note, ~change.isnan(), empty),
        mean_of(
            NAMES[1],
            outside,
            "share",
            "share of the masks' sum outside the projected boxes",
            ~outside.isnan(),
            "all masks are empty",
        ),
    ]


def redrawn_objects(
    source: GeneratorSource, items: Int64[Tensor, " b"], num: int
) -> tuple[Float[Tensor, "b num_ws w_dim"], Float[Tensor, "b num_ws w_dim"]]:
    """Styles of items, and those with the codes of other items' objects."""
    generator = source.generator
    z, other = source.latents(items), source.latents(items + num)
    size = z.shape[1] // len(generator.representation.codes)
    mixed = [
        b if code.name.startswith("object") else a
        for code, a, b in zip(
            generator.representation.codes,
            torch.split(z, size, dim=1),
            torch.split(other, size, dim=1),
            strict=True,
        )
    ]
    label = source.condition(items)
    return generator.mapping(z, label), generator.mapping(torch.cat(mixed, dim=1), label)


def covered(images: Images) -> Bool[Tensor, "v h w"]:
    """Pixels that belong to objects."""
    assert images.mask is not None, "scenes of parts have masks"
    whole = images.mask.sum(dim=1, keepdim=True)
    return resize(whole, images.image.shape[-1])[:, 0] >= MASK


def background_change(first: Images, second: Images) -> Float[Tensor, " v"]:
    """Share of changed pixels where neither image has an object; NaN if there are none.

    GIRAFFE HD's mutual background similarity (Xue et al. 2022), with the generator's own masks
    instead of those of a segmentation network; lower is better.
    """
    mutual = ~covered(first) & ~covered(second)
    differs = (quantise(first.image) - quantise(second.image)).abs().amax(dim=1)
    changed = (differs > LEVEL / 2) & mutual
    return changed.flatten(1).sum(dim=1) / mutual.flatten(1).sum(dim=1)


def leak(images: Images, scene: Composed, cameras: Cameras) -> Float[Tensor, " v"]:
    """Share of the masks that lies outside the projected boxes; NaN for empty masks."""
    mask = images.mask
    assert mask is not None, "scenes of parts have masks"
    rays = cameras.rays(mask.shape[-1])
    hit = torch.stack([x.is_hit(rays) for x in scene.objects], dim=1).view_as(mask)
    return (mask * ~hit).flatten(1).sum(dim=1) / mask.flatten(1).sum(dim=1)
