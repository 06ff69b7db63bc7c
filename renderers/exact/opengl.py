"""Rasterisation of the exposed faces of voxels by OpenGL (moderngl, EGL), without a window.

One context per process, created at the first rendering: a forked child of a process with a context
hangs in the driver (seen with Mesa's llvmpipe), so there the backend is not available.
"""

import os
import threading
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from renderers.exact.views import NORMALS, Hits, Views

VERTEX = """
#version 330
uniform mat4 to_clip; uniform vec3 eye; uniform float cell, half_box; uniform float shade[6];
in vec3 voxel; in float face; in vec3 colour;
out vec3 from_eye; flat out vec3 shaded;
void main() {
    int index = int(face), axis = index / 2;
    vec3 corner = voxel;
    corner[axis] += index % 2;
    corner[(axis + 1) % 3] += gl_VertexID % 2;
    corner[(axis + 2) % 3] += gl_VertexID / 2;
    vec3 at = corner * cell - half_box;
    from_eye = at - eye;
    shaded = colour * shade[index];
    // A quad that is seen from behind becomes a point, which is not drawn.
    bool front = (index % 2 == 1) == (from_eye[axis] < 0) && from_eye[axis] != 0;
    gl_Position = front ? to_clip * vec4(at, 1) : vec4(2, 2, 2, 1);
}
"""
FRAGMENT = """
#version 330
in vec3 from_eye; flat in vec3 shaded;
out vec4 result;
void main() { result = vec4(shaded, length(from_eye)); }
"""
NEAREST = 1e-4
"""Distance of the near plane in box edges, if the camera is in the box."""


class _Context(NamedTuple):
    pid: int
    gl: Any
    program: Any
    targets: dict[int, Any]
    """The framebuffer of the last size."""


_lock = threading.RLock()
_context: _Context | None = None
_fault = ""


def unavailable() -> str:
    """Return why OpenGL cannot be used in this process; empty if it can."""
    global _context, _fault
    with _lock:
        if _context is None and not _fault:
            try:
                _context = _create()
            except ImportError as error:
                _fault = f"{error}; pip install 'lightning-gan3d[raster]'"
            except Exception as error:  # of the driver: any type
                problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                _fault = f"no OpenGL 3.3 by EGL ({problem}); install libEGL and a driver or Mesa"
        if _context is not None and _context.pid != os.getpid():
            return "this process was forked after OpenGL had started; use the method spawn"
        return _fault


def _create() -> _Context:
    import moderngl

    create: Any = moderngl.create_context  # its stub takes keywords of the backend for a dict
    gl = create(standalone=True, backend="egl", require=330)
    gl.gc_mode = "auto"
    return _Context(os.getpid(), gl, gl.program(VERTEX, FRAGMENT), {})


def describe() -> str:
    """Describe the backend, with the name of its device."""
    assert _context is not None
    return f"moderngl, {_context.gl.info['GL_RENDERER']}"


def exposed_faces(
    filled: Bool[np.ndarray, "n n n"], colour: Float[np.ndarray, "3 n n n"]
) -> Float[np.ndarray, "f 7"]:
    """Faces between a filled and an empty voxel: x, y, z of the voxel, index of the normal, rgb."""
    empty = ~np.pad(filled, 1)
    n = len(filled)
    parts = []
    for face, (x, y, z) in enumerate(NORMALS):
        beside = empty[1 + z : n + 1 + z, 1 + y : n + 1 + y, 1 + x : n + 1 + x]
        at = np.flatnonzero(filled & beside)
        part = np.empty((len(at), 7), np.float32)
        part[:, 0], part[:, 1], part[:, 2] = at % n, at // n % n, at // (n * n)
        part[:, 3] = face
        part[:, 4:] = colour.reshape(3, -1)[:, at].T
        parts.append(part)
    return np.concatenate(parts)


def clip_matrix(views: Views, view: int) -> Float[np.ndarray, "4 4"] | None:
    """Matrix from world to clip coordinates; None if the box is behind the camera.

    The first row of pixels is the lowest of the framebuffer, which is read first.
    """
    to_camera = np.linalg.inv(views.cam2world[view])
    corners = (np.indices((2, 2, 2)).reshape(3, 8) - 0.5) * views.box
    depth_z = to_camera[2, :3] @ corners + to_camera[2, 3]
    near, far = max(0.99 * depth_z.min(), NEAREST * views.box), 1.01 * depth_z.max()
    if far <= near:
        return None
    project = np.zeros((4, 4))
    project[:2, :3] = 2 * views.intrinsics[view, :2]  # image coordinates in [0, 1] to [-1, 1]
    project[:2, 2] -= 1
    project[2, 2:] = (far + near) / (far - near), -2 * far * near / (far - near)
    project[3, 2] = 1
    return np.asarray(project @ to_camera)


def render(views: Views) -> Hits:
    """Draw the exposed faces in front of each camera."""
    assert _context is not None, "check `unavailable`"
    k, size = len(views.cam2world), views.size
    colour = np.zeros((k, size, size, 3), np.float32)
    t = np.full((k, size, size), np.inf, np.float32)
    faces = exposed_faces(views.filled, views.colour)
    if not len(faces):
        return Hits(colour, t)
    _, gl, program, targets = _context
    with _lock, gl:
        if size not in targets:
            targets.clear()
            targets[size] = gl.framebuffer(
                [gl.texture((size, size), 4, dtype="f4")], gl.depth_renderbuffer((size, size))
            )
        target = targets[size]
        layout = "3f 1f 3f /i", "voxel", "face", "colour"
        quads = gl.vertex_array(program, [(gl.buffer(faces.tobytes()), *layout)])
        target.use()
        gl.enable_only(gl.DEPTH_TEST)
        program["cell"].value = views.box / len(views.filled)
        program["half_box"].value = views.box / 2
        for view in range(k):
            to_clip = clip_matrix(views, view)
            if to_clip is None:
                continue
            target.clear(0.0, 0.0, 0.0, np.inf)
            program["to_clip"].write(to_clip.T.astype(np.float32).tobytes())
            program["eye"].value = tuple(views.cam2world[view, :3, 3])
            program["shade"].write(views.shade[view].tobytes())
            quads.render(gl.TRIANGLE_STRIP, vertices=4, instances=len(faces))
            pixels = np.frombuffer(target.read(components=4, dtype="f4"), np.float32)
            pixels = pixels.reshape(size, size, 4)
            colour[view], t[view] = pixels[..., :3], pixels[..., 3]
    return Hits(colour, t)
