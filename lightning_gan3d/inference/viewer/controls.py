"""The controls of the scene: latent, interpolation, mixing, edits, rendering, camera, mesh."""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import viser

from lightning_gan3d.cameras import spherical
from lightning_gan3d.inference.config import MeshOptions
from lightning_gan3d.inference.mesh import mesh_of_scene
from lightning_gan3d.inference.scene_edits import parse
from lightning_gan3d.inference.styles import RANGES
from lightning_gan3d.inference.viewer.object_controls import ObjectControls
from lightning_gan3d.inference.viewer.session import Session
from lightning_gan3d.inference.viewer.view_state import DECIMALS, ViewState, save_camera

OWN = "own"
"""Each generator's own rendering resolution."""
STRENGTH = 3.0
"""Largest strength of an edit, in standard deviations of the styles."""
MESH_RESOLUTION = 64
"""Voxels per axis; `gan3d mesh` writes finer ones."""
WIREFRAME = (20, 90, 220)
"""Colour of the wireframe."""


class Controls:
    """Controls whose values are one `ViewState`; a change asks for new pictures."""

    def __init__(self, session: Session, start: ViewState) -> None:
        """Add the controls to the panel; `start` has their first values."""
        self._session, self._start, self._condition = session, start, start.condition
        self._gui, self._stage = session.server.gui, session.stage
        self._build_latent()
        self._build_changes()
        self._build_rendering()
        self._build_condition()

    @property
    def state(self) -> ViewState:
        """The settings at this moment."""
        share = round(float(self.share.value), DECIMALS)
        ranges = [name for name, box in self.ranges.items() if box.value]
        strengths = {name: round(float(s.value), DECIMALS) for name, s in self.edits.items()}
        edits = ",".join(f"{name}={value}" for name, value in strengths.items() if value)
        edits = f"{self._stage.edits_file}:{edits}" if edits else ""
        resolution, cutoff = self.resolution.value, int(self.cutoff.value)
        return replace(
            self._start,
            seed=int(self.seed.value),
            psi=round(float(self.psi.value), DECIMALS),
            cutoff=None if cutoff == self._num_ws else cutoff,
            toward=int(self.toward.value) if share else None,
            share=share or 0.5,
            space=self.space.value if share else "w",
            mix=int(self.mix.value) if ranges else None,
            mix_range=",".join(ranges) or self._start.mix_range,
            edits=self.parts.edits if self.parts else edits,
            condition=self._condition,
            output=self.output.value,
            samples=int(self.samples.value),
            rendering_resolution=None if resolution == OWN else int(resolution),
        )

    def _watch(self, handle: Any) -> Any:
        handle.on_update(lambda _: self._session.redraw())
        return handle

    def _build_latent(self) -> None:
        gui, start = self._gui, self._start
        self._num_ws = max(m.generator.representation.num_ws for m in self._stage.models)
        with gui.add_folder("Latent"):
            self.seed = self._watch(gui.add_number("Seed", start.seed, min=0, step=1))
            step = gui.add_button_group("", ["Previous", "Next", "Random"])
            step.on_click(lambda _: self._step(step.value))
            low, high = min(0.0, start.psi), max(1.5, start.psi)
            self.psi = self._watch(gui.add_slider("Truncation psi", low, high, 0.05, start.psi))
            most = self._num_ws
            cutoff = most if start.cutoff is None else min(start.cutoff, most)
            hint = "Number of style vectors that are truncated, from the coarsest"
            self.cutoff = self._watch(gui.add_slider("Cutoff", 0, most, 1, cutoff, hint=hint))

    def _step(self, name: str) -> None:
        seed = int(self.seed.value)
        steps = {"Previous": max(seed - 1, 0), "Next": seed + 1}
        self.seed.value = steps.get(name, random.randrange(10**6))

    def _build_changes(self) -> None:
        gui = self._gui
        with gui.add_folder("Interpolate", expand_by_default=False):
            self.toward = self._watch(gui.add_number("To seed", 1, min=0, step=1))
            self.share = self._watch(gui.add_slider("Share", 0.0, 1.0, 0.01, 0.0))
            self.space = self._watch(gui.add_dropdown("Space", ["w", "z"]))
        with gui.add_folder("Mix styles", expand_by_default=False):
            self.mix = self._watch(gui.add_number("From seed", 1, min=0, step=1))
            self.ranges = {
                name: self._watch(gui.add_checkbox(name.capitalize(), False)) for name in RANGES
            }
        self.edits: dict[str, Any] = {}
        if self._stage.directions:
            with gui.add_folder("Edit", expand_by_default=False):
                for name, first in self._stage.directions.items():
                    most = max(STRENGTH, abs(first))
                    slider = gui.add_slider(name, -most, most, 0.05, first)
                    self.edits[name] = self._watch(slider)
        self.parts: ObjectControls | None = None
        if parts := self._stage.parts:
            self.parts = ObjectControls(gui, parts, parse(self._start.edits, parts), self._watch)

    def _build_rendering(self) -> None:
        gui, stage, start = self._gui, self._stage, self._start
        with gui.add_folder("Rendering"):
            self.output = self._watch(gui.add_dropdown("Output", stage.outputs))
            flat = [model.name for model in stage.models if not model.has_depth]
            if flat:
                gui.add_markdown(f"*{', '.join(flat)}: no depth, normals or opacity.*")
            own = start.rendering_resolution
            self.resolution = self._watch(
                gui.add_dropdown(
                    "Resolution",
                    [OWN, *(str(n) for n in sorted({16, 32, 64, 128, 256, own or 64}))],
                    initial_value=str(own or OWN),
                    hint="Of the rendering, before super-resolution",
                )
            )
            self.samples = self._watch(
                gui.add_dropdown(
                    "Samples",
                    [str(n) for n in sorted({1, 2, 4, 8, start.samples})],
                    initial_value=str(start.samples),
                    visible=stage.has_samples,
                    hint="Multiplies the samples per ray",
                )
            )
            gui.add_button("Frontal view").on_click(lambda event: self._face(event.client))

    def _face(self, client: viser.ClientHandle | None) -> None:
        if client is not None:
            with client.atomic():
                client.camera.up_direction = (0.0, 1.0, 0.0)
                client.camera.position = self._stage.orbit.cameras(1).origins[0].numpy()
                client.camera.look_at = self._stage.orbit.target

    def _build_condition(self) -> None:
        gui, orbit = self._gui, self._stage.orbit
        with gui.add_folder("Conditioning camera", expand_by_default=False):
            if not self._stage.conditioned:
                gui.add_markdown("*None: each view is conditioned on its own camera, or on none.*")
                return
            buttons = gui.add_button_group("", ["Frontal", "This camera"])
            buttons.on_click(lambda event: self._condition_on(buttons.value, event.client))
            low, high = float(orbit.angles(1)), orbit.elevation
            self.azimuth = gui.add_slider("Azimuth", -3.15, 3.15, 0.01, round(low, 2))
            self.elevation = gui.add_slider("Elevation", -1.5, 1.5, 0.01, round(high, 2))
            for slider in (self.azimuth, self.elevation):
                slider.on_update(lambda event: self._turn_condition(event.client))
            self.condition = gui.add_markdown(self._condition)

    def _condition_on(self, name: str, client: viser.ClientHandle | None) -> None:
        camera, text = self._stage.orbit.cameras(1), "frontal"
        if name == "This camera" and client is not None:
            camera, angles = self._session.camera(client)
            text = angles or save_camera(camera, self._session.out)
        azimuth, elevation, _ = spherical(camera.origins - torch.tensor(self._stage.orbit.target))
        self.azimuth.value = round(float(azimuth), 2)  # type: ignore[misc]  # viser's types
        self.elevation.value = round(float(elevation), 2)  # type: ignore[misc]  # viser's types
        self._set_condition(text)

    def _turn_condition(self, client: viser.ClientHandle | None) -> None:
        if client is not None:  # else a button has set the slider
            self._set_condition(f"{self.azimuth.value:.2f}:{self.elevation.value:.2f}")

    def _set_condition(self, text: str) -> None:
        self._condition = self.condition.content = text
        self._session.redraw()


class MeshOverlay:
    """A surface or wireframe that follows the latent; only of a single generator with a density."""

    def __init__(self, session: Session) -> None:
        """Add the control to the panel."""
        self._session, gui = session, session.server.gui
        models = session.stage.models
        self._possible = len(models) == 1 and models[0].generator.cfg.has_density
        self._made: tuple[object, ...] | None = None
        with gui.add_folder("Mesh", expand_by_default=False):
            self.mode = gui.add_dropdown(
                "Show", ["none", "surface", "wireframe"], visible=self._possible
            )
            self.mode.on_update(lambda _: session.redraw())
            if not self._possible:
                gui.add_markdown("*Only a single generator with a density has one.*")

    def update(self, state: ViewState) -> None:
        """Remove a mesh that is not the scene's; make the one that is shown, in the background."""
        if not self._possible:
            return
        key = (self.mode.value, *state.scene_key)
        if self._made not in (None, key):
            self._session.server.scene.remove_by_name("/mesh")
            self._made = None
        if self._made is None and self.mode.value != "none":
            self._made = key
            self._session.loop.work(self._make(state, key))

    def _make(self, state: ViewState, key: tuple[object, ...]) -> Iterator[None]:
        if self._made != key:
            return
        options, scene = MeshOptions(resolution=MESH_RESOLUTION), self._session.server.scene
        surface = mesh_of_scene(self._session.stage.scene(state), options)
        if self._made == key and key[0] == "surface":
            scene.add_mesh_trimesh("/mesh", surface)
        elif self._made == key:
            vertices, faces = (np.asarray(x) for x in (surface.vertices, surface.faces))
            scene.add_mesh_simple("/mesh", vertices, faces, color=WIREFRAME, wireframe=True)
        yield
