"""The mesh of the scene, drawn by the browser over the picture."""

from collections.abc import Iterator

import numpy as np

from lightning_gan3d.inference.config import MeshOptions
from lightning_gan3d.inference.mesh import mesh_of_field
from lightning_gan3d.inference.viewer.session import Session
from lightning_gan3d.inference.viewer.view_state import ViewState

RESOLUTION = 64
"""Voxels per axis; `gan3d mesh` writes finer ones."""
COLOUR = (20, 90, 220)
"""Colour of the wireframe."""


class MeshOverlay:
    """A surface or wireframe that follows the latent; only of a single generator of fields."""

    def __init__(self, session: Session) -> None:
        """Add the control to the panel."""
        self._session, gui = session, session.server.gui
        models = session.stage.models
        self._possible = len(models) == 1 and models[0].generator.cfg.is_field
        self._made: tuple[object, ...] | None = None
        with gui.add_folder("Mesh", expand_by_default=False):
            self.mode = gui.add_dropdown(
                "Show", ["none", "surface", "wireframe"], visible=self._possible
            )
            self.mode.on_update(lambda _: session.redraw())
            if not self._possible:
                gui.add_markdown("*Only a single generator of fields has one.*")

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
        options, scene = MeshOptions(resolution=RESOLUTION), self._session.server.scene
        surface = mesh_of_field(self._session.stage.field(state), options)
        if self._made == key and key[0] == "surface":
            scene.add_mesh_trimesh("/mesh", surface)
        elif self._made == key:
            vertices, faces = (np.asarray(x) for x in (surface.vertices, surface.faces))
            scene.add_mesh_simple("/mesh", vertices, faces, color=COLOUR, wireframe=True)
        yield
