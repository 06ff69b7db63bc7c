"""Numbers that show a failure in 3D which a picture hides, and the words that go with them."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.images import Images

FLAT, EMPTY, FULL = 0.01, 0.02, 0.98
_FOREGROUND, _FEWEST = 0.5, 16


def relief(
    depth: Float[Tensor, "v 1 h w"], opacity: Float[Tensor, "v 1 h w"], cameras: Cameras
) -> Float[Tensor, ""]:
    """Root mean square distance of the visible surface from its best plane, in world units.

    0 for a billboard, however it is turned. Mean over views; NaN where none shows a surface.
    """
    points = cameras.unproject(depth)
    seen = (opacity > _FOREGROUND).flatten(1)[..., None].float()
    count = seen.sum(1).clamp(min=1)
    centred = (points - (points * seen).sum(1, keepdim=True) / count[:, None]) * seen
    covariance = centred.mT @ centred / count[:, None]
    spread = torch.linalg.eigvalsh(covariance)[:, 0].clamp(min=0).sqrt()
    shown: Tensor = spread[count[:, 0] >= _FEWEST]
    return shown.mean()


def scene_statistics(images: Images, cameras: Cameras, box: float) -> dict[str, float]:
    """Mean opacity, and relief as a share of the box; nothing for scenes without depth."""
    if images.depth is None or images.opacity is None:
        return {}
    depth, opacity = images.depth.float().cpu(), images.opacity.float().cpu()
    found = {"scene/opacity": float(opacity.mean())}
    flatness = float(relief(depth, opacity, cameras.to("cpu"))) / box
    return found if flatness != flatness else {**found, "scene/relief": flatness}


def alarms(statistics: dict[str, float]) -> list[str]:
    """What the statistics of a scene should make one look at, in words."""
    found = []
    opacity = statistics.get("scene/opacity", 0.5)
    if opacity < EMPTY:
        found.append("the scene is empty: rays pass through everywhere")
    if opacity > FULL:
        found.append("every ray is blocked: a wall, unless the data have no background")
    if statistics.get("scene/relief", 1.0) < FLAT:
        found.append("the surface is flat: pictures on a board")
    return found
