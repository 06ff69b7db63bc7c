"""Controls of scenes of parts: objects and background. Their values are one text of edits."""

import math
from collections.abc import Callable
from typing import Any

import viser

from lightning_gan3d.inference.scene_edits import (
    SceneEdits,
    codes_of,
    num_objects,
    total_changes,
)
from lightning_gan3d.inference.viewer.view_state import DECIMALS
from representations.composition import PLACEMENT, ComposedRepresentation

ADDABLE = 3
"""Objects that can be added."""


class ObjectControls:
    """A folder for each object, and one for the background."""

    def __init__(
        self,
        gui: viser.GuiApi,
        parts: ComposedRepresentation,
        start: SceneEdits,
        watch: Callable[[Any], Any],
    ) -> None:
        """Add the controls to the panel; `start` has their first values."""
        self._gui, self._watch, self._num = gui, watch, num_objects(parts)
        self._start, self._codes = start, list(codes_of(parts))
        added = [int(edit.value) for edit in start if edit.name == "add"]
        spans = (parts.ranges[:, 1] - parts.ranges[:, 0]).clamp_min(parts.scene_cfg.box / 2)
        limits = dict(zip(PLACEMENT, spans.tolist(), strict=True)) | {"rotation": math.pi}
        self.objects: list[dict[str, Any]] = []
        """Controls of each object by name."""
        self.codes: dict[str, tuple[Any, Any]] = {}
        """Seed and share of each code."""
        with gui.add_folder("Objects"):
            for i in range(self._num + max(ADDABLE, len(added))):
                name = f"Object {i}" if i < self._num else f"Added {i - self._num + 1}"
                with gui.add_folder(name, expand_by_default=i == 0):
                    self._build_object(i, limits, added)
        if "background" in self._codes:
            with gui.add_folder("Background", expand_by_default=False):
                self._build_code("background")

    def _build_object(self, i: int, limits: dict[str, float], added: list[int]) -> None:
        gui, watch, other = self._gui, self._watch, i - self._num
        present = ("remove", i) not in {x[:2] for x in self._start} and other < len(added)
        controls = {"present": watch(gui.add_checkbox("In the scene", present))}
        if other >= 0:
            seed = added[other] if other < len(added) else i
            controls["seed"] = watch(gui.add_number("Seed", seed, min=0, step=1))
        for x, value in total_changes(self._start, i).items():
            low, high = (0.25, 2.0) if x == "scale" else (-limits[x], limits[x])
            low, high = min(low, value), max(high, value)
            controls[x] = watch(gui.add_slider(x.capitalize(), low, high, 0.01, value))
        self.objects.append(controls)
        for name in self._codes:
            if name.startswith(f"object{i}."):
                self._build_code(name)

    def _build_code(self, name: str) -> None:
        what = name.rpartition(".")[2].capitalize()
        seed, share = next((x[1:] for x in self._start if x.name == name), (1, 0.0))
        self.codes[name] = (
            self._watch(self._gui.add_number(f"{what} of seed", int(seed), min=0, step=1)),
            self._watch(self._gui.add_slider(f"{what} share", 0.0, 1.0, 0.01, share)),
        )

    @property
    def edits(self) -> str:
        """Text of the option `edits` at this moment."""
        terms, number = [], self._num
        for i, controls in enumerate(self.objects):
            own = i < self._num
            if not controls["present"].value:
                terms += [f"remove={i}"] if own else []
                continue
            if not own:
                terms.append(f"add={int(controls['seed'].value)}")
            for x in PLACEMENT:
                value = round(float(controls[x].value), DECIMALS)
                if value != float(x == "scale"):
                    terms.append(f"object{i if own else number}.{x}={value:g}")
            number += not own
        for name, (seed, share) in self.codes.items():
            if share.value:
                terms.append(f"{name}={int(seed.value)}:{round(float(share.value), DECIMALS):g}")
        return ",".join(terms)
