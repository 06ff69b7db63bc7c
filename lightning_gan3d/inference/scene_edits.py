"""Edits of scenes of parts: objects are moved, turned, resized, added, removed; codes exchanged.

The option `edits` names them: `object0.x=0.2,object0.shape=7:0.5,add=3,object1.scale=0.8,remove=0`.
They apply in this order. Added objects get the next numbers; removed objects keep theirs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import Representation
from lightning_gan3d.generator import Generator
from lightning_gan3d.inference.directions import sum_edits
from representations.composition import PLACEMENT
from representations.parts import Composed, Placed, along_y

CELLS = 32
"""Cells per axis of the grid on the ground on which free places are sought."""


class Edit(NamedTuple):
    """One edit of a scene of parts."""

    name: str
    """`object0.rotation`, `x`, `y`, `z` or `scale`; a code such as `object0.shape` or `background`;
    `add` or `remove`."""
    value: float
    """Radians, world units, or a factor, relative to the latent's own placement; the seed of
    another latent, whose code is taken or whose first object is added; the object's number."""
    share: float
    """Share of the other latent's code, 0 to 1: linear in W."""


SceneEdits = tuple[Edit, ...]


def edits_of(text: str, generator: Generator) -> Float[Tensor, "num_ws w_dim"] | SceneEdits | None:
    """Parse the option `edits`: directions, or edits of scenes of parts; None: no directions."""
    if generator.representation.codes:
        return parse(text, generator.representation)
    return sum_edits(text, generator) if text else None


def codes_of(representation: Representation) -> dict[str, slice]:
    """Style vectors of each code that another latent can give: shapes, appearances, background."""
    first, rows = 0, {}
    for code in representation.codes:
        if code.network is not None:
            rows[code.name] = slice(first, first + code.num_ws)
        first += code.num_ws
    return rows


def num_objects(representation: Representation) -> int:
    """Objects of a scene of parts before edits."""
    return sum(code.name.endswith(".placement") for code in representation.codes)


def parse(text: str, representation: Representation) -> SceneEdits:
    """Parse `NAME=VALUE,...`; raises ConfigError with what a scene of these parts has."""
    edits: list[Edit] = []
    num, codes = num_objects(representation), codes_of(representation)
    for term in filter(None, text.split(",")):
        name, _, values = term.strip().partition("=")
        number, _, share = values.partition(":")
        placements = [f"object{i}.{x}" for i in range(num) for x in PLACEMENT]
        try:
            edit = Edit(name, float(number), float(share or 1))
        except ValueError:
            edit = Edit(name, math.nan, 1.0)
        whole = edit.value.is_integer() and edit.value >= 0
        valid = {
            "add": whole,
            "remove": whole and edit.value < num and edit not in edits,
            **dict.fromkeys(codes, whole and 0 <= edit.share <= 1),
            **dict.fromkeys(placements, math.isfinite(edit.value)),
        }
        empty = name.endswith(".scale") and edit.value <= 0
        if not valid.get(name) or empty or (share and name not in codes):
            raise ConfigError(
                f"edits={text}: `{term}`: use objectN with .rotation=RADIANS, .x, .y or .z=WORLD "
                f"UNITS, or .scale=FACTOR above 0, N from 0 to {num - 1}; {', '.join(codes)} with "
                "=SEED or =SEED:SHARE; add=SEED; remove=N",
                field="edits",
            )
        num += name == "add"
        edits.append(edit)
    return tuple(edits)


def edited_styles(
    ws: Float[Tensor, "k num_ws w_dim"],
    edits: SceneEdits,
    other: Callable[[int], Float[Tensor, "k num_ws w_dim"]],
    codes: dict[str, slice],
) -> Float[Tensor, "k more_ws w_dim"]:
    """Exchange codes; put the styles of latents whose object is added before the latent's own.

    `other`: the styles of a seed.
    """
    for edit in edits:
        if edit.name in codes:
            rows = codes[edit.name]
            part = ws[:, rows].lerp(other(int(edit.value))[:, rows], edit.share)
            ws = torch.cat([ws[:, : rows.start], part, ws[:, rows.stop :]], dim=1)
    added = [other(int(edit.value)) for edit in edits if edit.name == "add"]
    return torch.cat([*reversed(added), ws], dim=1)


def edited_scene(
    generator: Generator, ws: Float[Tensor, "1 more_ws w_dim"], edits: SceneEdits
) -> Composed:
    """Compute the scene of styles from `edited_styles`, and edit its objects."""
    latents = list(torch.split(ws, generator.representation.num_ws, dim=1))
    scene = cast(Composed, generator.scene(latents.pop()))
    num, added, removed = len(scene.objects), 0, set[int]()
    for edit in edits:
        part, _, what = edit.name.partition(".")
        if what in PLACEMENT:
            x, y, z = (edit.value if what == axis else 0.0 for axis in "xyz")
            turn = edit.value if what == "rotation" else 0.0
            resize = edit.value if what == "scale" else 1.0
            scene = scene.change(int(part.removeprefix("object")), (x, y, z), turn, resize)
        elif part == "remove":
            removed.add(int(edit.value))
        elif part == "add":
            added += 1
            other = cast(Composed, generator.scene(latents.pop()))
            new = replace(other.objects[0], code=added * num)
            present = [x for i, x in enumerate(scene.objects) if i not in removed]
            scene = scene.add(freely_placed(new, present, scene.box))
    for index in sorted(removed, reverse=True):
        scene = scene.remove(index)
    return scene


def freely_placed(new: Placed, present: Sequence[Placed], reach: float) -> Placed:
    """Leave an object where it is if its box meets no other, seen from above; else move it.

    It moves to the nearest free place beside it or behind it, with x and z in [-reach, reach]; the
    frontal camera is on +z. Raises ConfigError if there is none. All are of one scene.
    """
    axis = torch.linspace(-reach, reach, CELLS + 1).to(new.translation)
    grid = torch.cartesian_prod(axis, new.translation[0, 1:2], axis)
    grid = grid[grid[:, 2] <= new.translation[0, 2]]
    order = (grid - new.translation).norm(dim=1).argsort()
    places = torch.cat([new.translation, grid[order]])
    free = torch.ones_like(places[:, 0], dtype=torch.bool)
    for old in present:
        free &= _apart(new, old, places - old.translation)
    if not bool(free.any()):
        raise ConfigError(
            f"edits: add: no free place on the ground within {reach:g} world units; add fewer "
            "objects, remove some, or make them smaller before: object0.scale=0.5",
            field="edits",
        )
    return replace(new, translation=places[free][:1])


def _apart(one: Placed, other: Placed, offset: Float[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
    """Whether two squares on the ground are disjoint: an axis of one separates them."""
    turn = one.rotation - other.rotation
    spread = turn.cos().abs() + turn.sin().abs()
    gaps = [along_y(offset[None], -x.rotation)[0, :, ::2].abs().amax(1) for x in (one, other)]
    return (gaps[0] > one.scale + other.scale * spread) | (
        gaps[1] > other.scale + one.scale * spread
    )
