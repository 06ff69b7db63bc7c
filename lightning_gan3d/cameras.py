"""Cameras: poses, rays, projection, and cameras on spheres, circles and arcs.

`cam2world` has OpenCV axes (x right, y down, z forward); the world's y is up. Intrinsics are
divided by the image size: the centre is 0.5. Angles are in radians. Azimuth 0 is the frontal camera
on +z and grows toward +x.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

LABEL_DIM = 25
"""Numbers in a label: 16 of `cam2world`, row by row, then 9 of the intrinsics."""
FULL_CIRCLE_GAP = math.pi / 3
"""Cameras surround their target if no gap between neighbouring azimuths is wider."""
FACE_FOCAL, CAR_FOCAL = 4.2647, 1.7074
"""EG3D's focal lengths in image widths: FFHQ and AFHQ; ShapeNet cars."""


class Rays(NamedTuple):
    """World rays; `dirs` have unit length, so `t` is a distance."""

    origins: Float[Tensor, "v r 3"]
    dirs: Float[Tensor, "v r 3"]


class Cameras(NamedTuple):
    """A batch of pinhole cameras. The frontal camera is on +z and looks along -z."""

    cam2world: Float[Tensor, "v 4 4"]
    intrinsics: Float[Tensor, "v 3 3"]

    @classmethod
    def from_label(cls, label: Float[Tensor, "v label_dim"]) -> "Cameras":
        """Read the first 25 numbers of labels, in the format of EG3D's `dataset.json`."""
        return cls(label[:, :16].reshape(-1, 4, 4), label[:, 16:25].reshape(-1, 3, 3))

    def to_label(self) -> Float[Tensor, "v 25"]:
        """Return labels in the format of EG3D's `dataset.json`."""
        return torch.cat([self.cam2world.flatten(1), self.intrinsics.flatten(1)], dim=1)

    @classmethod
    def look_at(
        cls,
        eye: Float[Tensor, "v 3"],
        target: Float[Tensor, "v 3"] | None = None,
        focal: float | Float[Tensor, " v"] = 1.0,
        up: tuple[float, float, float] = (0.0, 1.0, 0.0),
    ) -> "Cameras":
        """Cameras at `eye` that look at `target` (default: origin); `focal` in image widths.

        Raises ValueError if a camera looks along `up`.
        """
        target = torch.zeros_like(eye) if target is None else target
        forward = torch.nn.functional.normalize(target - eye, dim=-1)
        world_up = torch.tensor(up, dtype=eye.dtype, device=eye.device).expand_as(eye)
        right = torch.linalg.cross(forward, world_up)
        if bool((right.norm(dim=-1) < 1e-6).any()):
            raise ValueError(f"look_at: a camera looks along up={up}; give another `up`")
        right = torch.nn.functional.normalize(right, dim=-1)
        down = torch.linalg.cross(forward, right)
        cam2world = torch.eye(4, dtype=eye.dtype, device=eye.device).repeat(len(eye), 1, 1)
        cam2world[:, :3, :3] = torch.stack([right, down, forward], dim=-1)
        cam2world[:, :3, 3] = eye
        return cls(cam2world, pinhole(focal, len(eye)).to(eye))

    @classmethod
    def on_sphere(
        cls,
        azimuth: Float[Tensor, " v"],
        elevation: Float[Tensor, " v"],
        radius: float | Float[Tensor, " v"] = 2.7,
        focal: float | Float[Tensor, " v"] = 1.0,
        target: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> "Cameras":
        """Cameras on spheres around `target` that look at it."""
        eye, _ = sphere_axes(azimuth, elevation)
        centre = torch.tensor(target, dtype=eye.dtype, device=eye.device).expand_as(eye)
        distance = radius[:, None] if isinstance(radius, Tensor) else radius
        return cls.look_at(centre + distance * eye, centre, focal)

    @classmethod
    def orbit(
        cls,
        num: int,
        elevation: float = 0.0,
        radius: float = 2.7,
        focal: float = 1.0,
        target: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> "Cameras":
        """Cameras on a circle around `target` in `num` equal steps, the frontal camera first."""
        azimuth = torch.arange(num) * (2 * math.pi / num)
        return cls.on_sphere(azimuth, torch.full_like(azimuth, elevation), radius, focal, target)

    def crop(
        self,
        left: float | Float[Tensor, " v"],
        top: float | Float[Tensor, " v"],
        width: float | Float[Tensor, " v"],
        height: float | Float[Tensor, " v"],
    ) -> "Cameras":
        """Cameras of image patches; arguments are in units of the image size."""
        zero = torch.zeros_like(self.intrinsics[:, 0, 0])
        x, y, w, h = (zero + value for value in (left, top, width, height))
        one = zero + 1
        rows = [1 / w, zero, -x / w, zero, 1 / h, -y / h, zero, zero, one]
        scale = torch.stack(rows, dim=-1).view(-1, 3, 3)
        return self._replace(intrinsics=scale @ self.intrinsics)

    def mirror(self) -> "Cameras":
        """Cameras of the mirrored images: pose' = S pose S with S = diag(-1, 1, 1, 1).

        In the intrinsics, cx becomes 1 - cx and the skew changes sign.
        """
        s = self.cam2world.new_tensor([-1.0, 1.0, 1.0, 1.0])
        cam2world = self.cam2world * s[:, None] * s[None, :]
        intrinsics = self.intrinsics.clone()
        intrinsics[:, 0, 1] = -intrinsics[:, 0, 1]
        intrinsics[:, 0, 2] = 1 - intrinsics[:, 0, 2]
        return type(self)(cam2world, intrinsics)

    def rotate_y(self, angles: Float[Tensor, " k"]) -> "Cameras":
        """Rotate each of b cameras about the world's y axis by k angles: v = b * k.

        Radians, positive from +z toward +x.
        """
        c, s, zero, one = angles.cos(), angles.sin(), angles * 0, angles * 0 + 1
        turn = torch.stack([c, zero, s, zero, zero, one, zero, zero, -s, zero, c, zero], dim=-1)
        last = angles.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(angles), 4)
        turn = torch.cat([turn, last], dim=-1).view(1, -1, 4, 4)
        cam2world = (turn @ self.cam2world[:, None]).flatten(0, 1)
        return Cameras(cam2world, self.intrinsics.repeat_interleave(len(angles), dim=0))

    def roll(self, angles: Float[Tensor, " v"]) -> "Cameras":
        """Rotate each camera about its optical axis; radians, x toward y: the image turns left."""
        c, s, zero, one = angles.cos(), angles.sin(), angles * 0, angles * 0 + 1
        rows = [c, -s, zero, zero, s, c, zero, zero, zero, zero, one, zero, zero, zero, zero, one]
        return self._replace(cam2world=self.cam2world @ torch.stack(rows, dim=-1).view(-1, 4, 4))

    def moved(
        self, move: Float[Tensor, "v 3"], target: tuple[float, float, float] = (0.0, 0.0, 0.0)
    ) -> "Cameras":
        """Move cameras around a point: azimuth and elevation in radians, log of the distance.

        Zeros keep a camera exactly; roll and intrinsics are kept. Differentiable in `move`.
        """
        (c, s), (cos, sin) = ((x.cos(), x.sin()) for x in (move[:, 0], -move[:, 1]))
        zero, one = c * 0, c * 0 + 1
        turn = torch.stack([c, zero, s, zero, one, zero, -s, zero, c], dim=-1).view(-1, 3, 3)
        # Rodrigues' formula about the camera's x axis.
        x, y, z = self.cam2world[:, :3, 0].unbind(-1)
        cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).view(-1, 3, 3)
        cos, sin = cos[:, None, None], sin[:, None, None]
        turn = turn @ (torch.eye(3).to(move) + sin * cross + (1 - cos) * (cross @ cross))
        centre = move.new_tensor(target)
        away = turn @ (self.origins - centre)[:, :, None] * move[:, 2].exp()[:, None, None]
        pose = torch.cat([turn @ self.cam2world[:, :3, :3], away + centre[:, None]], dim=-1)
        return self._replace(cam2world=torch.cat([pose, self.cam2world[:, 3:]], dim=1))

    def select(self, items: Tensor | slice) -> "Cameras":
        """Select cameras by index."""
        return type(self)(self.cam2world[items], self.intrinsics[items])

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Cameras":
        """Move or cast both matrices."""
        return type(self)(self.cam2world.to(device, dtype), self.intrinsics.to(device, dtype))

    @property
    def origins(self) -> Float[Tensor, "v 3"]:
        """Camera centres in the world."""
        return self.cam2world[:, :3, 3]

    @property
    def forward(self) -> Float[Tensor, "v 3"]:
        """Viewing directions in the world."""
        return self.cam2world[:, :3, 2]

    def rays(self, resolution: int) -> Rays:
        """Rays through the pixel centres (i + 0.5) / resolution, row by row."""
        pixel = (
            torch.arange(resolution, device=self.intrinsics.device, dtype=self.intrinsics.dtype)
            + 0.5
        ) / resolution
        v, u = torch.meshgrid(pixel, pixel, indexing="ij")
        k = self.intrinsics[:, :, :, None]  # v 3 3 1
        y = (v.reshape(1, -1) - k[:, 1, 2]) / k[:, 1, 1]
        x = (u.reshape(1, -1) - k[:, 0, 2] - k[:, 0, 1] * y) / k[:, 0, 0]
        dirs = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ self.cam2world[:, :3, :3].mT
        dirs = torch.nn.functional.normalize(dirs, dim=-1)
        return Rays(self.origins[:, None].expand_as(dirs), dirs)

    def project(
        self, points: Float[Tensor, "v n 3"]
    ) -> tuple[Float[Tensor, "v n 2"], Float[Tensor, "v n"]]:
        """Image coordinates (x right, y down, [0, 1] inside the image) and camera z of points."""
        local = (points - self.origins[:, None]) @ self.cam2world[:, :3, :3]
        depth_z = local[..., 2]
        uv = (local / depth_z[..., None]) @ self.intrinsics.mT
        return uv[..., :2], depth_z

    def depth_z(self, depth: Float[Tensor, "v 1 h w"]) -> Float[Tensor, "v 1 h w"]:
        """Convert distance along the rays to camera z, for square images."""
        cosine = (self.rays(depth.shape[-1]).dirs * self.forward[:, None]).sum(-1)
        return depth * cosine.view_as(depth)

    def unproject(self, depth: Float[Tensor, "v 1 h w"]) -> Float[Tensor, "v n 3"]:
        """World points of a depth map of distances along the rays, row by row."""
        rays = self.rays(depth.shape[-1])
        return rays.origins + rays.dirs * depth.flatten(2).mT

    def frusta(self, depth_z: float) -> Float[Tensor, "v 5 3"]:
        """Camera centres, then the world points of the image corners at camera z `depth_z`."""
        corners = self.intrinsics.new_tensor([[0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]])
        dirs = torch.einsum("vij,kj->vki", torch.linalg.inv(self.intrinsics), corners) * depth_z
        world = dirs @ self.cam2world[:, :3, :3].mT + self.origins[:, None]
        return torch.cat([self.origins[:, None], world], dim=1)


def sphere_axes(
    azimuth: Float[Tensor, " n"], elevation: Float[Tensor, " n"]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Unit vectors from the centre of a sphere to its cameras, and to the right of each camera."""
    x, z = azimuth.sin() * elevation.cos(), azimuth.cos() * elevation.cos()
    right = torch.stack([azimuth.cos(), torch.zeros_like(azimuth), -azimuth.sin()], dim=-1)
    return torch.stack([x, elevation.sin(), z], dim=-1), right


class Spherical(NamedTuple):
    """Spherical coordinates of vectors, as in `Cameras.on_sphere`: radians and world units."""

    azimuth: Float[Tensor, " n"]
    elevation: Float[Tensor, " n"]
    radius: Float[Tensor, " n"]


def spherical(vectors: Float[Tensor, "n 3"]) -> Spherical:
    """Return the spherical coordinates of vectors; azimuth is in [-pi, pi]."""
    x, y, z = vectors.unbind(-1)
    radius = vectors.norm(dim=-1)
    elevation = (y / radius.clamp(min=1e-9)).clamp(-1, 1).asin()
    return Spherical(torch.atan2(x, z), elevation, radius)


def widest_gap(azimuth: Float[Tensor, " n"]) -> tuple[float, float]:
    """Return the widest gap between neighbouring azimuths, and the azimuth at its end."""
    ordered = azimuth.sort().values
    gaps = torch.diff(ordered, append=ordered[:1] + 2 * math.pi)
    end = ordered[(int(gaps.argmax()) + 1) % len(ordered)]
    return float(gaps.max()), float(end)


def pinhole(focal: float | Float[Tensor, " v"], num: int = 1) -> Float[Tensor, "v 3 3"]:
    """Intrinsics with a central principal point; `focal` in image widths."""
    k = torch.eye(3).repeat(num, 1, 1)
    k[:, 0, 0] = k[:, 1, 1] = torch.as_tensor(focal, dtype=k.dtype)
    k[:, 0, 2] = k[:, 1, 2] = 0.5
    return k


def focal_from_fov(fov: float, width: float = 1.0) -> float:
    """Focal length for a field of view in radians, in units of the image's `width`."""
    return 0.5 * width / math.tan(0.5 * fov)


def fov_from_focal(focal: float) -> float:
    """Field of view in radians for a focal length in image widths."""
    return 2 * math.atan(0.5 / focal)


class Orbit(NamedTuple):
    """A circle or an arc of cameras at one elevation around a target."""

    radius: float
    """Distance from the target, in world units."""
    elevation: float
    azimuths: tuple[float, float]
    """First and last azimuth."""
    full: bool
    """Whether it is a circle; the last azimuth, equal to the first, is then left out."""
    target: tuple[float, float, float]
    intrinsics: Float[Tensor, "3 3"]

    @classmethod
    def of_labels(cls, labels: Float[Tensor, "n 25"]) -> "Orbit":
        """Fit an orbit to cameras by medians; an arc spans the middle 90 % of the azimuths."""
        cameras = Cameras.from_label(labels.double())
        origins, forward = cameras.origins, cameras.forward
        # The point nearest to all optical axes: sum of (I - d d') (p - o) = 0. Nearly parallel axes
        # do not fix one direction; the tolerance then keeps the solution near the origin.
        across = torch.eye(3, dtype=forward.dtype) - forward[:, :, None] * forward[:, None, :]
        target = (
            torch.linalg.pinv(across.sum(0), rtol=1e-6)
            @ (across @ origins[:, :, None]).sum(0)[:, 0]
        )
        azimuth, elevation, radius = spherical(origins - target)
        gap, start = widest_gap(azimuth)
        full = gap < FULL_CIRCLE_GAP
        if full:
            low, high = 0.0, 2 * math.pi
        else:  # start at the end of the widest gap, so that an arc may cross the back
            opened = (azimuth - start) % (2 * math.pi)
            low, high = (start + float(opened.quantile(q)) for q in (0.05, 0.95))
            turns = round((low + high) / 2 / (2 * math.pi))
            low, high = low - 2 * math.pi * turns, high - 2 * math.pi * turns
        x, y, z = target.tolist()
        intrinsics = cameras.intrinsics.median(dim=0).values.float()
        medians = float(radius.median()), float(elevation.median())
        return cls(*medians, (low, high), full, (x, y, z), intrinsics)

    @classmethod
    def around_box(
        cls, box: float, radius: float | None = None, elevation: float = 0.35
    ) -> "Orbit":
        """Circle of cameras; the middle of the box fills each image."""
        radius = 2.7 * box if radius is None else radius
        k = pinhole(radius / box)[0]
        return cls(radius, elevation, (0.0, 2 * math.pi), True, (0.0, 0.0, 0.0), k)

    @classmethod
    def of_eg3d(cls, radius: float, target: Sequence[float]) -> "Orbit":
        """Camera path of EG3D's videos.

        At radius 2.7 (faces) an arc in front, 0.35 radians to either side; otherwise (ShapeNet
        cars) a full circle.
        """
        x, y, z = target
        if abs(radius - 2.7) < 1e-6:
            return cls(radius, 0.05, (-0.35, 0.35), False, (x, y, z), pinhole(FACE_FOCAL)[0])
        return cls(radius, 0.35, (0.0, 2 * math.pi), True, (x, y, z), pinhole(CAR_FOCAL)[0])

    def angles(self, num: int) -> Float[Tensor, " num"]:
        """Azimuths in equal steps; a single one is a circle's start or an arc's middle."""
        low, high = self.azimuths
        if self.full:
            return torch.linspace(low, high, num + 1)[:-1]
        return torch.tensor([(low + high) / 2]) if num == 1 else torch.linspace(low, high, num)

    def cameras(self, num: int) -> Cameras:
        """Cameras in equal steps of azimuth."""
        return self.at(self.angles(num))

    def at(
        self,
        azimuth: Float[Tensor, " n"],
        elevation: Float[Tensor, " n"] | None = None,
        radius: Float[Tensor, " n"] | None = None,
    ) -> Cameras:
        """Cameras that look at the target; elevation and radius are the orbit's by default."""
        elevation = torch.full_like(azimuth, self.elevation) if elevation is None else elevation
        distance = self.radius if radius is None else radius
        cameras = Cameras.on_sphere(azimuth, elevation, distance, target=self.target)
        return cameras._replace(intrinsics=self.intrinsics.expand(len(azimuth), 3, 3).clone())

    def facing(self, rotation: Float[Tensor, "n 3 3"]) -> Cameras:
        """Cameras with a rotation of cam2world that look at the target from the radius."""
        cam2world = torch.eye(4).repeat(len(rotation), 1, 1)
        cam2world[:, :3, :3] = rotation
        cam2world[:, :3, 3] = torch.tensor(self.target) - self.radius * rotation[:, :, 2]
        return Cameras(cam2world, self.intrinsics.expand(len(rotation), 3, 3).clone())
