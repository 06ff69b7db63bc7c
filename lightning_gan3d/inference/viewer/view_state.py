"""Settings, cameras, pictures and command line of the viewer, apart from its page."""

import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from lightning_gan3d.cameras import Cameras, Orbit, spherical
from lightning_gan3d.contract import DensityScene
from lightning_gan3d.files import sha256_of_text, write_json
from lightning_gan3d.images import resize
from lightning_gan3d.inference.camera_paths import cameras_of
from lightning_gan3d.inference.config import (
    OUTPUTS,
    GenerateOptions,
    LatentOptions,
    Output,
    RenderOptions,
)
from lightning_gan3d.inference.directions import parse_edits, read
from lightning_gan3d.inference.edit import FILE
from lightning_gan3d.inference.model import Model, Subject, open_model, output_folder
from lightning_gan3d.inference.pictures import EMPTY, Pixels, pictures, to_array
from lightning_gan3d.inference.scene_edits import edits_of
from lightning_gan3d.inference.styles import subject_of
from lightning_gan3d.inference.video import side_by_side
from representations.composition import ComposedRepresentation

MARGIN = 245
"""Grey around the picture."""
DECIMALS = 4
"""Decimals of angles, distances and strengths in commands."""
SNAP = 2e-3
"""A camera this near to one that angles describe is taken as that one; world units."""
THUMBNAIL = 128
"""Largest side of an image in the gallery."""
SMALLEST = 16
"""Lowest resolution of a rendering while something moves."""


@dataclass(frozen=True)
class ViewState(LatentOptions):
    """All settings of the page but the camera."""

    seed: int = 0
    output: Output = "image"

    @property
    def scene_key(self) -> tuple[Any, ...]:
        """The settings on which a scene depends; the others change its pictures only."""
        rendering = {"rendering_resolution", "samples", "output"}
        return tuple(value for name, value in asdict(self).items() if name not in rendering)


class Stage:
    """Generators under one camera and one latent; the last scene of each is kept."""

    def __init__(self, references: Sequence[str], options: RenderOptions) -> None:
        """Open the generators and render each once, which also loads the kernels."""
        self.references = list(references)
        self.models = [open_model(r, replace(options, samples=1)) for r in references]
        self._subjects: list[tuple[tuple[Any, ...], Subject] | None] = [None] * len(references)
        self._seconds_per_ray = 0.0
        of_parts = isinstance(self.models[0].edits, tuple)
        self.edits_file, self.directions = directions_of(
            references, "" if of_parts else options.edits
        )
        for i, model in enumerate(self.models):
            self._subject(i, ViewState()).render(model.orbit.cameras(1))

    @property
    def orbit(self) -> Orbit:
        """Orbit of the first generator, on which the camera starts."""
        return self.models[0].orbit

    @property
    def parts(self) -> ComposedRepresentation | None:
        """The representation, if all generators have the same codes; else None."""
        first, *rest = (model.generator.representation for model in self.models)
        same = all(other.codes == first.codes for other in rest)
        return first if same and isinstance(first, ComposedRepresentation) else None

    @property
    def one_orbit(self) -> bool:
        """Whether angles mean the same camera for all generators."""
        frontal = [model.orbit.cameras(1).to_label() for model in self.models]
        same = all(model.orbit.target == self.orbit.target for model in self.models)
        return same and all(torch.equal(label, frontal[0]) for label in frontal)

    @property
    def outputs(self) -> list[Output]:
        """Outputs that at least one generator has."""
        return list(OUTPUTS) if any(m.has_depth for m in self.models) else ["image", "raw"]

    @property
    def has_samples(self) -> bool:
        """Whether a generator samples along rays."""
        return any(hasattr(m.generator.cfg.renderer, "oversample") for m in self.models)

    @property
    def conditioned(self) -> bool:
        """Whether a conditioning camera apart from the view's own changes a picture."""
        configs = [model.generator.cfg for model in self.models]
        return any(c.mapping.condition == "camera" and not c.view_in_label for c in configs)

    @property
    def rendering_resolution(self) -> int:
        """Largest rendering resolution of the generators."""
        return max(model.generator.rendering_resolution for model in self.models)

    @property
    def scene_bytes(self) -> list[int]:
        """Memory of each scene."""
        subjects = [entry[1] for entry in self._subjects if entry is not None]
        return [0 if s.scene is None else s.scene.nbytes for s in subjects]

    def render(self, state: ViewState, camera: Cameras) -> Pixels:
        """Render the picture of all generators, side by side; grey where one has no such output."""
        subjects = [self._subject(i, state) for i in range(len(self.models))]
        started, row = time.perf_counter(), []
        for subject in subjects:
            if subject.model.has_depth or state.output in ("image", "raw"):
                images = subject.render(camera, state.rendering_resolution)
                row += pictures(subject.model, images, camera, state.output)
            else:
                row.append(np.full((SMALLEST, SMALLEST, 3), EMPTY, np.uint8))
        rays = (state.rendering_resolution or self.rendering_resolution) ** 2 * state.samples
        if rays >= self.rendering_resolution**2:  # else the time is not that of rays
            self._seconds_per_ray = (time.perf_counter() - started) / rays
        return side_by_side(row)

    def draft(self, state: ViewState, seconds: float) -> ViewState:
        """Return settings of a smaller rendering that takes about `seconds`.

        The settings themselves if they are fast enough, or if no generator samples along rays.
        """
        full = state.rendering_resolution or self.rendering_resolution
        rays = seconds / max(self._seconds_per_ray, 1e-12)
        if not self.has_samples or rays >= full**2 * state.samples:
            return state
        low = max(SMALLEST, math.isqrt(int(rays)))
        return replace(state, rendering_resolution=min(low, full), samples=1)

    def _subject(self, index: int, state: ViewState) -> Subject:
        """Return the scene of one generator; compute it only if its latent changed."""
        model, entry = self.models[index], self._subjects[index]
        base = getattr(model.generator.cfg.renderer, "oversample", None)
        if base is not None:
            renderer: Any = model.generator.renderer
            renderer.cfg = replace(renderer.cfg, oversample=base * state.samples)
        if entry is None or entry[0] != state.scene_key:
            entry = state.scene_key, _subject_of(model, state)
            self._subjects[index] = entry
        return entry[1]

    def scene(self, state: ViewState) -> DensityScene:
        """Compute the first generator's scene, as its representation returns it."""
        scene: DensityScene = _subject_of(self.models[0], state, prepare=False).scene
        return scene

    def thumbnail(self, state: ViewState) -> Pixels:
        """Render the first generator's image from its frontal camera; keeps the last scenes."""
        model = self.models[0]
        image = _subject_of(model, state).render(model.orbit.cameras(1)).image
        return to_array(resize(image.float(), min(image.shape[-1], THUMBNAIL))[0])


def _subject_of(model: Model, state: ViewState, prepare: bool = True) -> Subject:
    edits = edits_of(state.edits, model.generator)
    return subject_of(replace(model, edits=edits), state.seed, state, prepare)


def directions_of(references: Sequence[str], edits: str) -> tuple[Path, dict[str, float]]:
    """Return a file of directions and the first strength of each.

    The file of the option `edits`, or what `gan3d edit` has written for a single generator.
    """
    if edits:
        file, given = parse_edits(edits)
        return file, dict.fromkeys(read(file), 0.0) | given
    file = output_folder(references, "edits", None) / FILE
    return file, dict.fromkeys(read(file), 0.0) if file.is_file() and len(references) == 1 else {}


def camera_from_page(
    wxyz: Float[np.ndarray, "4"], position: Float[np.ndarray, "3"], stage: Stage
) -> tuple[Cameras, str | None]:
    """Convert a camera of viser (OpenCV axes, unit quaternion) with the orbit's intrinsics.

    A camera that looks at the orbit's target and stands upright is rounded to the one that its
    text describes (`cameras_of`), so that a command gives the very picture. Else the text is None.
    """
    orbit = stage.orbit
    cam2world = torch.eye(4)
    rotation = Rotation.from_quat(wxyz, scalar_first=True).as_matrix()
    cam2world[:3, :3] = torch.from_numpy(rotation).float()
    cam2world[:3, 3] = torch.from_numpy(np.asarray(position)).float()
    camera = Cameras(cam2world[None], orbit.intrinsics[None].clone())
    text = angles_of(camera, orbit)
    if not stage.one_orbit or text is None:
        return camera, None
    rounded = cameras_of(text, 1, orbit)
    near = torch.allclose(rounded.cam2world, camera.cam2world, rtol=0, atol=SNAP)
    return (rounded, text) if near else (camera, None)


def angles_of(camera: Cameras, orbit: Orbit) -> str | None:
    """Describe where a camera is: azimuth:elevation, and the distance if it is not the orbit's."""
    azimuth, elevation, radius = spherical(camera.origins - torch.tensor(orbit.target))
    if abs(float(elevation)) > math.pi / 2 - SNAP or float(radius) < SNAP:
        return None
    parts = [float(azimuth), float(elevation)]
    if abs(float(radius) - orbit.radius) > SNAP:
        parts.append(float(radius))
    return ":".join(f"{round(part, DECIMALS) + 0.0:g}" for part in parts)  # no -0


def camera_file(camera: Cameras, folder: Path) -> Path:
    """Return the path of a camera's file, named by its content."""
    return folder / f"camera-{sha256_of_text(str(camera.to_label().tolist()), 8)}.json"


def save_camera(camera: Cameras, folder: Path) -> str:
    """Write a camera as JSON; returns the path for options of cameras."""
    path = camera_file(camera, folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, camera.to_label().tolist())
    return str(path)


def generate_options(state: ViewState, cameras: str) -> GenerateOptions:
    """Return the options with which `gan3d generate` writes the picture."""
    shared = {f.name: getattr(state, f.name) for f in fields(LatentOptions)}
    return GenerateOptions(**shared, seeds=str(state.seed), cameras=cameras, outputs=state.output)


def command_of(references: Sequence[str], state: ViewState, cameras: str) -> str:
    """Return the command line that writes the picture, for a POSIX shell."""
    options = generate_options(state, cameras)
    words = ["gan3d", "generate", *references]
    for field in fields(options):
        value = getattr(options, field.name)
        if field.default is not MISSING and value != field.default:
            words.append(f"--{field.name.replace('_', '-')}={value}")
    return shlex.join(words)


def letterbox(picture: Pixels, aspect: float) -> Pixels:
    """Center a picture on a grey canvas of width / height `aspect`."""
    height, width = picture.shape[:2]
    tall = max(height, round(width / aspect))
    wide = max(width, round(tall * aspect))
    canvas = np.full((tall, wide, 3), MARGIN, np.uint8)
    top, left = (tall - height) // 2, (wide - width) // 2
    canvas[top : top + height, left : left + width] = picture
    return canvas
