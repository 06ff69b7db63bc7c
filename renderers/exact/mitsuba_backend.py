"""Path tracing of the exposed faces of voxels by Mitsuba 3, on the CPU.

Shadows, and light reflected between voxels, are what the other backends leave out. Hits are those
of rays through pixel centres; the colour of a pixel is the mean over its area that is covered.
A camera inside a filled voxel sees its faces from behind, in black.
"""

import threading
from typing import Any

import numpy as np
from jaxtyping import Float

from lightning_gan3d.config import ConfigError
from renderers.exact.opengl import exposed_faces
from renderers.exact.views import Hits, Views

VARIANT = "scalar_rgb"
"""It needs no compiler, unlike `llvm_ad_rgb`, which aborts the process with some versions of LLVM.
"""
NEAR, FAR = 1e-6, 1e4
"""Distances of the clipping planes in box edges. Mitsuba's distances begin at the near one."""
PATH = {
    "type": "path",
    "max_depth": 6,  # at most five reflections
    "hide_emitters": True,
    "block_size": 16,  # of the film; by default it depends on the number of threads, as the noise
}
WHITE = 0.5
"""Reflectance of a voxel of colour 1. The lights are stronger by its inverse. With 1, hollows would
be brighter than other faces: white walls lose no light."""
DEPTH = {"type": "aov", "aovs": "t:depth"}
SEED = 0
"""The same for all images, so that an image does not depend on those beside it."""

_lock = threading.Lock()  # the variant is one of the process


def unavailable() -> str:
    """Return why Mitsuba cannot be used; empty if it can."""
    try:
        import mitsuba

        if mitsuba.variant() is None:
            mitsuba.set_variant(VARIANT)
    except Exception as error:  # a broken installation raises more than ImportError
        return f"{error}; pip install 'lightning-gan3d[mitsuba]'"
    return ""


def describe() -> str:
    """Describe the backend."""
    import mitsuba

    return f"Mitsuba {mitsuba.__version__}, {VARIANT}"


def render(views: Views) -> Hits:
    """Trace paths from each camera. Raises `ConfigError` for skewed or non-square pixels."""
    import mitsuba

    k, size = len(views.cam2world), views.size
    colour = np.zeros((k, size, size, 3), np.float32)
    t = np.full((k, size, size), np.inf, np.float32)
    sensors = [_sensor(views, view) for view in range(k)]
    faces = exposed_faces(views.filled, views.colour)
    if not len(faces):
        return Hits(colour, t)
    with _lock, mitsuba.scoped_set_variant(VARIANT):
        mesh = _mesh(faces, views.box, len(views.filled))
        path, depth = mitsuba.load_dict(PATH), mitsuba.load_dict(DEPTH)
        for view, sensor in enumerate(sensors):
            scene = mitsuba.load_dict({"type": "scene", "mesh": mesh, **_lights(views.shade[view])})

            def image(integrator: Any, spp: int, scene: Any = scene, sensor: Any = sensor) -> Any:
                # The only ray of a pixel without jitter is that through its centre.
                sampler = {"type": "multijitter", "sample_count": spp, "jitter": spp > 1}
                camera = mitsuba.load_dict({**sensor, "sampler": sampler})
                return np.asarray(integrator.render(scene, camera, seed=SEED, spp=spp))

            rgba, centre = image(path, views.spp), image(depth, 1)[..., 0]
            covered = rgba[..., 3:]
            np.divide(rgba[..., :3], covered, out=colour[view], where=covered > 0)
            np.copyto(t[view], centre, where=(centre > 0) & (covered[..., 0] > 0))
    return Hits(colour.clip(0, 1), t)


def _corners() -> Float[np.ndarray, "6 4 3"]:
    """Corners of the faces of the voxel [0, 1]^3, counterclockwise as seen from outside."""
    corners = np.zeros((6, 4, 3), np.float32)
    square = np.array([[0, 1, 1, 0], [0, 0, 1, 1]])
    for face in range(6):
        axis, upper = divmod(face, 2)
        corners[face, :, axis] = upper
        across = [(axis + 1) % 3, (axis + 2) % 3]
        corners[face][:, across] = (square if upper else square[::-1]).T
    return corners


def _mesh(faces: Float[np.ndarray, "f 7"], box: float, n: int) -> Any:
    """Two triangles per face, with its colour as their reflectance."""
    import mitsuba

    reflectance = {"type": "mesh_attribute", "name": "face_color"}
    properties = mitsuba.Properties()
    properties["bsdf"] = mitsuba.load_dict({"type": "diffuse", "reflectance": reflectance})
    mesh = mitsuba.Mesh("solid", 4 * len(faces), 2 * len(faces), props=properties)
    points = (faces[:, None, :3] + _corners()[faces[:, 3].astype(int)]) * (box / n) - box / 2
    triangles = np.array([[0, 1, 2], [0, 2, 3]]) + 4 * np.arange(len(faces))[:, None, None]
    arrays = mitsuba.traverse(mesh)
    arrays["vertex_positions"] = points.ravel().astype(np.float32)
    arrays["faces"] = triangles.ravel().astype(np.uint32)
    mesh.add_attribute("face_color", 3, np.repeat(WHITE * faces[:, 4:], 2, axis=0).ravel())
    arrays.update()
    return mesh


def _lights(shade: Float[np.ndarray, " 6"]) -> dict[str, Any]:
    """The emitters that give a face without others in front of it its brightness in `shade`.

    A diffuse face of reflectance r has the radiance r E / pi under the irradiance E; the sky's is
    pi times its radiance.
    """

    def grey(value: float) -> dict[str, Any]:
        return {"type": "rgb", "value": [value / WHITE] * 3}

    emitters: dict[str, Any] = {"sky": {"type": "constant", "radiance": grey(float(shade.min()))}}
    sun = shade[1::2] - shade[::2]  # (1 - ambient) * the direction toward the light
    strength = float(np.linalg.norm(sun))
    if strength > 1e-6:
        direction, irradiance = [float(-x) for x in sun], grey(np.pi * strength)
        emitters["sun"] = {"type": "directional", "direction": direction, "irradiance": irradiance}
    return emitters


def _sensor(views: Views, view: int) -> dict[str, Any]:
    """The camera, without a sampler."""
    import mitsuba

    k = views.intrinsics[view]
    if abs(k[0, 0] - k[1, 1]) + abs(k[0, 1]) > 1e-4 * k[0, 0]:
        raise ConfigError(
            f"generator.renderer.backend=mitsuba: a camera has focal lengths {k[0, 0]:g} and "
            f"{k[1, 1]:g} and skew {k[0, 1]:g}, but Mitsuba's pixels are square; use grid_walk",
            "backend",
        )
    film = {"type": "hdrfilm", "width": views.size, "height": views.size, "pixel_format": "rgba"}
    return {
        "type": "perspective",
        "fov": float(np.degrees(2 * np.arctan(0.5 / k[0, 0]))),
        "principal_point_offset_x": float(0.5 - k[0, 2]),
        "principal_point_offset_y": float(0.5 - k[1, 2]),
        "near_clip": NEAR * views.box,
        "far_clip": FAR * views.box,
        # Mitsuba's x is to the left and its y up.
        "to_world": mitsuba.ScalarTransform4f(views.cam2world[view] * [-1, -1, 1, 1]),
        "film": {**film, "rfilter": {"type": "box"}},
    }
