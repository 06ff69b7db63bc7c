"""Cameras that turn around what a data set looks at, within the views that it has."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import LABEL_DIM, Cameras
from lightning_gan3d.data.archive import DataError, open_source
from lightning_gan3d.data.labels import read_index

FULL_CIRCLE_GAP = math.pi / 3
"""Azimuths with no hole wider than this go all around."""

FACE_FOCAL, CAR_FOCAL = 4.2647, 1.7074
"""Focal lengths, in image widths, of EG3D's FFHQ and AFHQ, and of its ShapeNet cars."""


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


def read_orbit(data: str | Path) -> Orbit:
    """Read the orbit off the labels of a data set; its images are not touched."""
    if not str(data):
        raise DataError("no data set is named (data.path is empty)")
    rows = read_index(open_source(data))["labels"]
    try:
        labels = torch.tensor([label for _, label in rows], dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{data}: labels that are no cameras: {error}") from error
    if labels.ndim != 2 or labels.shape[1] != LABEL_DIM or not bool(labels.isfinite().all()):
        raise DataError(f"{data}: labels must be rows of {LABEL_DIM} finite numbers")
    return Orbit.of_labels(labels)
