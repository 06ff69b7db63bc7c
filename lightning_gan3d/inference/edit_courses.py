"""Edits of increasing strength: along a direction, or changes of scenes of parts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.config import ConfigError
from lightning_gan3d.inference.config import EditOptions
from lightning_gan3d.inference.model import Model, Subject, parse_seeds
from lightning_gan3d.inference.scene_edits import Edit, SceneEdits, codes_of, num_objects
from representations.composition import PLACEMENT, ComposedRepresentation

STEPS = 5
"""Columns of a sheet; those of add and remove are the numbers of objects."""


class Course(NamedTuple):
    """An edit of increasing strength."""

    name: str
    strengths: list[float]
    """Columns of its sheet."""
    edits: Callable[[float], Float[Tensor, "num_ws w_dim"] | SceneEdits]
    """`Model.edits` at a strength."""
    closed: bool = False
    """Whether both ends are equal. Films of other edits play forward, then backward."""
    only: int | None = None
    """The seed that it edits; None: those of the options."""

    def seeds(self, given: Sequence[int]) -> Sequence[int]:
        """The seeds that it edits, of the given ones."""
        return given if self.only is None else [self.only]

    def subject(self, model: Model, options: EditOptions, seed: int, strength: float) -> Subject:
        """Compute the scene of a seed at a strength."""
        own = replace(model, edits=self.edits(strength))
        return Subject(own, own.styles_of(seed, options))


def along(name: str, direction: Float[Tensor, "num_ws w_dim"], model: Model, most: float) -> Course:
    """Return the course along a direction, to both sides."""
    base = cast(Any, model.edits if isinstance(model.edits, Tensor) else 0)
    strengths = np.linspace(-most, most, STEPS).tolist()
    return Course(name, strengths, lambda strength: base + strength * direction)


def reject_unused(options: EditOptions, names: Sequence[str], reason: str) -> None:
    """Raise ConfigError if an option without effect is not at its default."""
    for name in names:
        if (value := getattr(options, name)) != getattr(EditOptions, name):
            raise ConfigError(f"{name}={value}: {reason}", field=name)


def changes_of_parts(
    model: Model, parts: ComposedRepresentation, options: EditOptions
) -> list[Course]:
    """Return the chosen changes of scenes that `model.edits` has edited.

    `all` leaves out placements that have one value, and what a removed object had.
    """
    given = cast(SceneEdits, model.edits)
    total = num_objects(parts) + sum(edit.name == "add" for edit in given)
    if options.object >= total:
        raise ConfigError(f"object={options.object}: use 0 to {total - 1}", field="object")
    removed = {edit.value for edit in given if edit.name == "remove"}
    present = [i for i in range(total) if i not in removed]
    others = parse_seeds(options.others, "others")
    counted = {"add": others} | ({"remove": present} if present else {})
    own = f"object{options.object}"
    changed = {"background", own} if options.object in present else {"background"}
    codes = {x.rpartition(".")[2]: x for x in codes_of(parts) if x.partition(".")[0] in changed}
    ranges = dict(zip(PLACEMENT, parts.ranges.tolist(), strict=True)) if own in changed else {}
    default = {x: (high - low) / 2 for x, (low, high) in ranges.items()} | dict.fromkeys(codes, 1.0)
    if ranges:
        low, high = ranges["scale"]
        default |= {"rotation": 2 * math.pi, "scale": 2 * high / (low + high)}
    possible = [*ranges, *codes, *counted]
    chosen = [x.strip() for x in options.change.split(",")]
    if chosen == ["all"]:
        chosen = [x for x in possible if x not in ranges or ranges[x][0] < ranges[x][1]]
    if wrong := [x for x in chosen if x not in possible]:
        after = f" after edits={options.edits}" if given else ""
        raise ConfigError(
            f"change={options.change}: `{wrong[0]}`; for object={options.object}{after} use all, "
            f"or any of {', '.join(possible)}",
            field="change",
        )
    users = {"object": {*ranges, *codes} - {"background"}, "others": {*codes, "add"}}
    unused = [x for x in users if users[x].isdisjoint(chosen)]
    reject_unused(options, unused, f"no effect with change={options.change}; leave it out")
    amount = options.amount
    for name in chosen:
        least = float(name == "scale")
        if amount and (name in counted or amount <= least or (name in codes and amount > 1)):
            raise ConfigError(
                f"amount={amount:g}: not for `{name}`: a factor above 1 for scale, a share up to 1 "
                "for codes, none for add and remove; name changes of one unit: change=x,y",
                field="amount",
            )
        if name in ranges and (amount or default[name]) <= least:
            raise ConfigError(
                f"change={name}: generator.representation.placement.{name} has one value; add "
                f"amount={least + 0.2:g}",
                field="amount",
            )

    def course(name: str) -> Course:
        if name in counted:
            every = [Edit(name, float(i)) for i in counted[name]]
            numbers = [float(i) for i in range(len(every) + 1)]
            return Course(name, numbers, lambda n: (*given, *every[: round(n)]))
        most = amount or default[name]
        first = 0.0 if name in codes or name == "rotation" else -most
        strengths: list[float] = np.linspace(
            1 / most if name == "scale" else first, most, STEPS
        ).tolist()
        if name in codes:
            return Course(
                name, strengths, lambda x: (*given, Edit(codes[name], float(others[0]), x))
            )
        closed = name == "rotation" and amount is None
        return Course(name, strengths, lambda x: (*given, Edit(f"{own}.{name}", x)), closed)

    return [course(name) for name in chosen]
