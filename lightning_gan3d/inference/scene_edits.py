"""Edits of scenes of parts: objects are moved, turned, resized, added, removed; codes exchanged.

The option `edits` names them: `object0.x=0.2,object0.shape=7:0.5,add=3,object1.scale=0.8,remove=0`.
Added objects get the next numbers, in their order; removed objects keep theirs. No other order
matters: codes are exchanged and objects removed, the others change, then objects are added one by
one where they are free; their own changes count from there.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import Representation
from lightning_gan3d.generator import Generator
from lightning_gan3d.inference.directions import sum_edits
from representations.composition import PLACEMENT
from representations.parts import Composed, Placed

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
    share: float = 1.0
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
    terms = [term.strip() for term in text.split(",") if term]
    num = num_objects(representation) + sum(term.startswith("add=") for term in terms)
    codes = codes_of(representation)
    placements = [f"object{i}.{x}" for i in range(num) for x in PLACEMENT]
    for term in terms:
        name, _, values = term.partition("=")
        number, _, share = values.partition(":")
        try:
            edit = Edit(name, float(number), float(share or 1))
        except ValueError:
            edit = Edit(name, math.nan)
        whole = edit.value.is_integer() and edit.value >= 0
        first = all(edit.name != other.name for other in edits)
        valid = {
            "add": whole,
            "remove": whole and edit.value < num and edit not in edits,
            **dict.fromkeys(codes, whole and 0 <= edit.share <= 1 and first),
            **dict.fromkeys(placements, math.isfinite(edit.value)),
        }
        empty = name.endswith(".scale") and edit.value <= 0
        if not valid.get(name) or empty or (share and name not in codes):
            raise ConfigError(
                f"edits={text}: `{term}`: use objectN with .rotation=RADIANS, .x, .y or .z=WORLD "
                f"UNITS, or .scale=FACTOR above 0, N from 0 to {num - 1}; {', '.join(codes)} with "
                "=SEED or =SEED:SHARE, each once; add=SEED; remove=N",
                field="edits",
            )
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


def total_changes(edits: SceneEdits, index: int) -> dict[str, float]:
    """Change of each number of an object's placement: the product of factors, the sum of others."""
    values = {x: [e.value for e in edits if e.name == f"object{index}.{x}"] for x in PLACEMENT}
    return {x: math.prod(v, start=1.0) if x == "scale" else math.fsum(v) for x, v in values.items()}


def edited_scene(
    generator: Generator, ws: Float[Tensor, "1 more_ws w_dim"], edits: SceneEdits
) -> Composed:
    """Compute the scene of styles from `edited_styles`, and edit its objects."""
    removed = {edit.value for edit in edits if edit.name == "remove"}
    latents = reversed(torch.split(ws, generator.representation.num_ws, dim=1))
    first, *others = (cast(Composed, generator.scene(latent)) for latent in latents)
    num, scene = len(first.objects), replace(first, objects=())
    added = [replace(x.objects[0], code=(i + 1) * num) for i, x in enumerate(others)]
    for i, part in enumerate((*first.objects, *added)):
        if i not in removed:
            placed = part if i < num else freely_placed(part, scene.objects, scene.box)
            turn, resize, x, y, z = (
                total_changes(edits, i)[k] for k in ("rotation", "scale", *"xyz")
            )
            scene = scene.add(placed).change(-1, (x, y, z), turn, resize)
    return scene


def freely_placed(new: Placed, present: Sequence[Placed], reach: float) -> Placed:
    """Leave an object where it is if no other is near, seen from above; else move it.

    Circles in the boxes may not overlap, as in the synthetic scenes. It moves to the nearest free
    place beside it or behind it, with x and z in [-reach, reach]; the frontal camera is on +z.
    Raises ConfigError if there is none. All are of one scene.
    """
    axis = torch.linspace(-reach, reach, CELLS + 1).to(new.translation)
    grid = torch.cartesian_prod(axis, new.translation[0, 1:2], axis)
    grid = grid[grid[:, 2] <= new.translation[0, 2]]
    order = (grid - new.translation).norm(dim=1).argsort()
    places = torch.cat([new.translation, grid[order]])
    free = torch.ones_like(places[:, 0], dtype=torch.bool)
    for old in present:
        distance = (places - old.translation)[:, ::2].norm(dim=1)
        free &= distance > new.scale + old.scale
    if not bool(free.any()):
        raise ConfigError(
            f"edits: add: no free place on the ground within {reach:g} world units; add fewer "
            "objects, remove some, or make others smaller: object0.scale=0.5",
            field="edits",
        )
    return replace(new, translation=places[free][:1])
