"""Cameras: cam2world in OpenCV axes (x right, y down, z forward) and normalised intrinsics.

The world's y is up; intrinsics are divided by the image size, so that the centre is 0.5.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

LABEL_DIM = 25
"""Numbers of a label: 16 of cam2world, row-major, then 9 of the intrinsics."""


FULL_CIRCLE_GAP = math.pi / 3
"""Azimuths with no hole wider than this go all around."""

FACE_FOCAL, CAR_FOCAL = 4.2647, 1.7074
"""Focal lengths, in image widths, of EG3D's FFHQ and AFHQ, and of its ShapeNet cars."""


class Rays(NamedTuple):
    """World rays: `dirs` have unit length, so that `t` is distance."""

    origins: Float[Tensor, "v r 3"]
    dirs: Float[Tensor, "v r 3"]


class Cameras(NamedTuple):
    """A batch of pinhole cameras. The frontal camera stands on +z and looks along -z."""

    cam2world: Float[Tensor, "v 4 4"]
    intrinsics: Float[Tensor, "v 3 3"]

    @classmethod
    def from_label(cls, label: Float[Tensor, "v 25"]) -> "Cameras":
        """Read the rows of a `dataset.json` (EG3D's format)."""
        return cls(label[:, :16].reshape(-1, 4, 4), label[:, 16:25].reshape(-1, 3, 3))

    def to_label(self) -> Float[Tensor, "v 25"]:
        """Write rows as `dataset.json` holds them."""
        return torch.cat([self.cam2world.flatten(1), self.intrinsics.flatten(1)], dim=1)

    @classmethod
    def look_at(
        cls,
        eye: Float[Tensor, "v 3"],
        target: Float[Tensor, "v 3"] | None = None,
        focal: float | Float[Tensor, " v"] = 1.0,
        up: tuple[float, float, float] = (0.0, 1.0, 0.0),
    ) -> "Cameras":
        """Stand at `eye` and look at `target`, by default the origin; `focal` in image widths."""
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
        radius: float = 2.7,
        focal: float | Float[Tensor, " v"] = 1.0,
        target: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> "Cameras":
        """Look at `target` from a sphere around it.

        Radians; azimuth 0 is the frontal camera on +z, and grows toward +x.
        """
        eye = torch.stack(
            [
                azimuth.sin() * elevation.cos(),
                elevation.sin(),
                azimuth.cos() * elevation.cos(),
            ],
            dim=-1,
        )
        centre = torch.tensor(target, dtype=eye.dtype, device=eye.device).expand_as(eye)
        return cls.look_at(centre + radius * eye, centre, focal)

    @classmethod
    def orbit(
        cls,
        num: int,
        elevation: float = 0.0,
        radius: float = 2.7,
        focal: float = 1.0,
        target: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> "Cameras":
        """Go once around the target in `num` equal steps, starting at the frontal camera."""
        azimuth = torch.arange(num) * (2 * math.pi / num)
        return cls.on_sphere(azimuth, torch.full_like(azimuth, elevation), radius, focal, target)

    def crop(self, left: float, top: float, width: float, height: float) -> "Cameras":
        """See a patch of the image; arguments are shares of the image size."""
        scale = self.intrinsics.new_tensor(
            [[1 / width, 0, -left / width], [0, 1 / height, -top / height], [0, 0, 1]]
        )
        return self._replace(intrinsics=scale @ self.intrinsics)

    def mirror(self) -> "Cameras":
        """Cameras of the mirrored images: pose' = S pose S with S = diag(-1, 1, 1, 1).

        In the intrinsics, cx becomes 1 - cx and the skew changes its sign.
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

    def select(self, items: Tensor | slice) -> "Cameras":
        """Select cameras."""
        return type(self)(self.cam2world[items], self.intrinsics[items])

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Cameras":
        """Move both matrices."""
        return type(self)(self.cam2world.to(device, dtype), self.intrinsics.to(device, dtype))

    @property
    def origins(self) -> Float[Tensor, "v 3"]:
        """Camera centres in the world."""
        return self.cam2world[:, :3, 3]

    def rays(self, resolution: int) -> Rays:
        """Rays through the pixel centres (i + 0.5) / resolution, row by row; skew is honoured."""
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
        """Project world points to image coordinates in [0, 1] (x right, y down) and camera z."""
        local = (points - self.origins[:, None]) @ self.cam2world[:, :3, :3]
        depth_z = local[..., 2]
        uv = (local / depth_z[..., None]) @ self.intrinsics.mT
        return uv[..., :2], depth_z

    def depth_z(self, depth: Float[Tensor, "v 1 h w"]) -> Float[Tensor, "v 1 h w"]:
        """Convert distance along the rays to camera z, for square images."""
        forward = self.cam2world[:, None, :3, 2]
        cosine = (self.rays(depth.shape[-1]).dirs * forward).sum(-1)
        return depth * cosine.view_as(depth)

    def unproject(self, depth: Float[Tensor, "v 1 h w"]) -> Float[Tensor, "v n 3"]:
        """World points of a depth map that holds distances along the rays, row by row."""
        rays = self.rays(depth.shape[-1])
        return rays.origins + rays.dirs * depth.flatten(2).mT


def pinhole(focal: float | Float[Tensor, " v"], num: int = 1) -> Float[Tensor, "v 3 3"]:
    """Intrinsics with the principal point at the centre; `focal` in image widths."""
    k = torch.eye(3).repeat(num, 1, 1)
    k[:, 0, 0] = k[:, 1, 1] = torch.as_tensor(focal, dtype=k.dtype)
    k[:, 0, 2] = k[:, 1, 2] = 0.5
    return k


def focal_from_fov(fov: float) -> float:
    """Focal length in image widths of a (horizontal) field of view in radians."""
    return 0.5 / math.tan(fov / 2)


class Orbit(NamedTuple):
    """A circle, or an arc of one, at the elevation and distance that are usual in a data set."""

    radius: float
    """Distance from the target, in world units."""
    elevation: float
    """Radians above the equator of the target."""
    azimuths: tuple[float, float]
    """First and last azimuth in radians; 0 is the frontal camera on +z."""
    full: bool
    """Whether it closes: the last azimuth is then the first again, and is left out."""
    target: tuple[float, float, float]
    """What the cameras look at."""
    intrinsics: Float[Tensor, "3 3"]
    """Divided by image size."""

    @classmethod
    def of_labels(cls, labels: Float[Tensor, "n 25"]) -> "Orbit":
        """Read the orbit off labels: medians, and 90 % of azimuths that do not go around."""
        cameras = Cameras.from_label(labels.double())
        origins, forward = cameras.origins, cameras.cam2world[:, :3, 2]
        # The point nearest to all optical axes: sum of (I - d d') (p - o) = 0. Axes that are all
        # but parallel leave one direction open; the tolerance then keeps close to the origin.
        across = torch.eye(3, dtype=forward.dtype) - forward[:, :, None] * forward[:, None, :]
        target = (
            torch.linalg.pinv(across.sum(0), rtol=1e-6)
            @ (across @ origins[:, :, None]).sum(0)[:, 0]
        )
        eye = origins - target
        radius = eye.norm(dim=1)
        elevation = (eye[:, 1] / radius).clamp(-1, 1).asin()
        azimuth = torch.atan2(eye[:, 0], eye[:, 2]).sort().values
        gaps = torch.diff(azimuth, append=azimuth[:1] + 2 * math.pi)
        full = bool(gaps.max() < FULL_CIRCLE_GAP)
        if full:
            low, high = 0.0, 2 * math.pi
        else:  # cut the circle open in its widest hole, so that an arc may cross the back
            start = azimuth[(int(gaps.argmax()) + 1) % len(azimuth)]
            opened = (azimuth - start) % (2 * math.pi)
            low, high = (float(start + opened.quantile(q)) for q in (0.05, 0.95))
            turns = round((low + high) / 2 / (2 * math.pi))
            low, high = low - 2 * math.pi * turns, high - 2 * math.pi * turns
        x, y, z = target.tolist()
        intrinsics = cameras.intrinsics.median(dim=0).values.float()
        return cls(
            float(radius.median()),
            float(elevation.median()),
            (low, high),
            full,
            (x, y, z),
            intrinsics,
        )

    @classmethod
    def around_box(
        cls, box: float, radius: float | None = None, elevation: float = 0.35
    ) -> "Orbit":
        """Go around a box so that its middle fills the frame, where no data set is at hand."""
        radius = 2.7 * box if radius is None else radius
        focal = radius / box
        k = torch.tensor([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])
        return cls(radius, elevation, (0.0, 2 * math.pi), True, (0.0, 0.0, 0.0), k)

    @classmethod
    def of_eg3d(cls, radius: float, target: Sequence[float]) -> "Orbit":
        """Go where EG3D's own videos go, which its checkpoints name by radius and target.

        At 2.7 (faces) before the front, by 0.35 radians to either side and a diagonal field of view
        of 18.8 degrees; else (ShapeNet's cars) around, at the focal length of that data set.
        """
        faces = abs(radius - 2.7) < 1e-6
        focal = FACE_FOCAL if faces else CAR_FOCAL
        k = torch.tensor([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])
        azimuths = (-0.35, 0.35) if faces else (0.0, 2 * math.pi)
        x, y, z = target
        return cls(radius, 0.05 if faces else 0.35, azimuths, not faces, (x, y, z), k)

    def angles(self, num: int) -> Float[Tensor, " num"]:
        """Return azimuths in equal steps; a single one is the front of a circle, or mid-arc."""
        low, high = self.azimuths
        if num == 1 and not self.full:
            return torch.tensor([(low + high) / 2])
        return (
            torch.linspace(low, high, num + 1)[:-1] if self.full else torch.linspace(low, high, num)
        )

    def cameras(self, num: int) -> Cameras:
        """Return `num` cameras in equal steps."""
        azimuth = self.angles(num)
        cameras = Cameras.on_sphere(
            azimuth, torch.full_like(azimuth, self.elevation), self.radius, target=self.target
        )
        return cameras._replace(intrinsics=self.intrinsics.expand(num, 3, 3).clone())
