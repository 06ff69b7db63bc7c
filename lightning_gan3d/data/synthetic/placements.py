"""The key `placements` of `dataset.json`: where the objects of each image are, and their boxes."""

import math
from typing import Any

from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.synthetic.scenes import Scenes, SceneView

Placement = dict[str, Any]
"""Keys: `scale`, `rotation`, `translation`, see `Scenes`; `box`, see `Scenes.boxes`; `visible`, see
`SceneView.boxes`, null for an object that no pixel shows."""


def describe(scenes: Scenes, cameras: Cameras, view: SceneView) -> list[list[Placement]]:
    """Return the placements of the objects of each scene, rounded to 1e-6."""
    values = {
        "scale": _rounded(scenes.scale),
        "rotation": _rounded(scenes.rotation),
        "translation": _rounded(scenes.translation),
        "box": _rounded(scenes.boxes(cameras)),
        "visible": _rounded(view.boxes),
    }
    objects = [
        [{key: v[i][j] for key, v in values.items()} for j, present in enumerate(row) if present]
        for i, row in enumerate(scenes.present.tolist())
    ]
    for placed in (p for row in objects for p in row):
        placed["visible"] = None if math.isnan(placed["visible"][0]) else placed["visible"]
    return objects


def mirrored(placed: Placement) -> Placement:
    """Return the placement of an object in the mirrored image, see `Cameras.mirror`."""
    x, y, z = placed["translation"]
    boxes = {key: placed[key] for key in ("box", "visible")}
    boxes = {key: b and [1 - b[2], b[1], 1 - b[0], b[3]] for key, b in boxes.items()}
    return {**placed, "rotation": -placed["rotation"], "translation": [-x, y, z], **boxes}


def _rounded(numbers: Tensor) -> list[Any]:
    rounded: list[Any] = numbers.double().mul(1e6).round().div(1e6).tolist()
    return rounded
