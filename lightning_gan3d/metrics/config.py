"""What is measured, and how: the options of all metrics. Imports no torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from lightning_gan3d.config import EVEN, Count, NonNegative, Positive

PATCH = 7
"""Side in pixels of the patches of the sliced Wasserstein distance."""

SEED = 0
"""Keys latents, directions and the regressor, whatever the seed of a run: all runs meet the same
measure."""


Mode = Literal["clean", "legacy_pytorch", "legacy_tensorflow"]
"""Resizing and network, as clean-fid (Parmar et al. 2022) names them."""


@dataclass(frozen=True)
class SwdConfig:
    """The protocol of the sliced Wasserstein distance."""

    patches: Count = 128
    """Patches of 7x7 pixels drawn from each image and pyramid level."""
    projections: Count = 512
    """Random directions onto which the patches are projected."""
    coarsest: Annotated[int, Ge(PATCH)] = 16
    """Side of the coarsest pyramid level, in pixels."""
    normalisation: Literal["real", "each"] = "real"
    """Channels are standardised by the real images' mean and deviation, or each set by its own
    (Karras et al. 2018), which cannot see a wrong brightness or contrast."""


@dataclass(frozen=True)
class PosesConfig:
    """Where cameras stand on a sphere around the origin, at which they look."""

    kind: Literal["gaussian", "uniform"] = "gaussian"
    """Distribution of both angles."""
    azimuth: NonNegative = 0.3
    """Radians: standard deviation around the frontal camera, or half of the range."""
    elevation: NonNegative = 0.15
    """Radians: the same around `mean_elevation`."""
    mean_elevation: Annotated[float, Interval(gt=-1.4, lt=1.4)] = 0.0
    """Radians above the horizon."""

    @property
    def words(self) -> str:
        """The distribution in words."""
        spread = "deviations" if self.kind == "gaussian" else "half ranges"
        return (
            f"cameras drawn anew ({self.kind}; {spread} of {self.azimuth:g} rad in azimuth, "
            f"{self.elevation:g} rad in elevation around {self.mean_elevation:g} rad), distance "
            "and intrinsics of training cameras"
        )


@dataclass(frozen=True)
class DistributionConfig:
    """What is compared, on how many images, and how."""

    num_images: Annotated[int, Ge(2)] | None = None
    """Generated images; null: as many as `evaluation.num_images`. Papers use 50000."""
    mode: Mode = "clean"
    """Resizing and network of clean-fid; StyleGAN's and EG3D's FID is `legacy_tensorflow`."""
    clip: bool = False
    """Whether to measure in CLIP's features too; needs its weights and OpenAI's package."""
    poses: PosesConfig | None = None
    """Cameras of the generated images; null: those of the training images."""
    repeats: Count = 1
    """Sets of generated images, each of other latents; from 2 on there are intervals."""
    kid_subsets: Count = 100
    """Random subsets over which KID is averaged."""
    kid_subset_size: Annotated[int, Ge(2)] = 1000
    """Images of such a subset."""
    kid_whole: Annotated[int, Ge(2)] = 5000
    """Images of each set for KID without subsets, which has a bootstrap interval."""
    infinity_from: Annotated[int, Ge(2)] = 5000
    """Fewest images from which FID is extrapolated; it takes twice as many altogether."""
    splits: Count = 10
    """Parts over which the Inception score is averaged."""
    k: Count = 3
    """Neighbour that sets the radii of precision and recall."""
    pixels: Count = 16
    """Side to which images are reduced to look for memorisation."""
    wait_minutes: Positive = 60.0
    """Minutes without a new shard of features after which process 0 gives the others up."""


@dataclass(frozen=True)
class FlickerConfig:
    """The protocol of the flicker measure."""

    items: Count = 8
    """Latents that are filmed."""
    frames: Annotated[int, Ge(3)] = 8
    """Frames of each film; all but the first and the last are compared with both neighbours."""
    step: Annotated[float, Interval(gt=0, le=0.2)] = 0.03
    """Radians between frames; the camera is carried around the world's y axis."""


@dataclass(frozen=True)
class ConsistencyConfig:
    """The protocol of the reprojection measure."""

    items: Count = 32
    """Latents whose views are compared."""
    angle: Annotated[float, Interval(gt=0, le=1.5)] = 0.25
    """Radians between neighbouring views; the camera is carried around the world's y axis."""
    steps: Count = 2
    """Neighbours on either side of the label's own camera: 2 * steps + 1 views a latent."""
    tolerance: Annotated[float, Interval(gt=0, le=1)] = 0.02
    """Share of camera z. A point is hidden where it lies behind what the other view sees by more;
    a pixel where 1 / z bends by more is the edge between two surfaces, and left out."""
    foreground: Annotated[float, Interval(gt=0, le=1)] = 0.9
    """Opacity from which a pixel is foreground. Half-transparent ones mix in what lies behind."""
    texture: Annotated[float, Interval(gt=0, lt=1)] = 0.01
    """Standard deviation of the compared pixels' colours, as a share of their range, below which a
    latent has no texture that a gain could be measured by."""
    lpips: str | None = None
    """File of AlexNet's ImageNet weights (torchvision's state dict), for LPIPS; null: the one that
    was fetched."""
    flicker: FlickerConfig | None = FlickerConfig()
    """Flicker of slow orbits; null leaves it out."""

    @property
    def angles(self) -> list[float]:
        """Radians between the views of a pair: each distance that two views of the arc have."""
        return [d * self.angle for d in range(1, 2 * self.steps + 1)]


@dataclass(frozen=True)
class RefitConfig:
    """The protocol of the refitting measure."""

    items: Count = 8
    """Latents to which a field of their own is fitted."""
    views: Annotated[int, Ge(2)] = 12
    """Views to fit, and as many held-out ones between them."""
    resolution: Annotated[int, Ge(8)] = 32
    """Side in pixels at which views are fitted and compared; larger images are reduced to it."""
    iterations: Annotated[int, Ge(2)] = 200
    """Steps of the optimiser, the first half on a grid of half the size."""
    rays: Count = 512
    """Pixels of one step."""
    samples: Annotated[int, Ge(2)] = 24
    """Points along a ray."""
    grid: Annotated[int, Ge(4), EVEN] = 24
    """Points along an edge of the fitted grid."""
    box: Positive | None = None
    """Edge of the fitted cube in world units; null: around the sphere that every camera sees
    whole."""
    texture: Annotated[float, Interval(gt=0, lt=1)] = 0.01
    """Standard deviation of the held-out views' colours, as a share of their range, below which a
    latent has no texture that a gain could be measured by."""


@dataclass(frozen=True)
class PoseConfig:
    """The protocol of the pose measure."""

    resolution: Annotated[int, Ge(16)] = 32
    """Side in pixels of what the regressor sees; larger images are reduced to it."""
    iterations: Count = 1000
    """Training steps of the regressor."""
    batch: Count = 32
    """Images of one training step."""
    threshold_degrees: Annotated[float, Interval(gt=0, le=180)] = 20.0
    """An image counts as posed right where its camera lies within this angle of the one asked
    for."""
    estimator: str | None = None
    """TorchScript file of a pose estimator of yours, read beside the regressor; null: none."""


@dataclass(frozen=True)
class IdentityConfig:
    """The protocol of the identity measure."""

    embedding: str
    """TorchScript file from images in [-1, 1] to one vector each, e.g. a face recogniser."""
    items: Annotated[int, Ge(2)] = 256
    """Latents, each seen from two cameras."""
    angle: Annotated[float, Interval(gt=0, le=3.1)] = 0.5
    """Radians between these, half to either side of the label's camera around the y axis."""
    resolution: Count | None = None
    """Side in pixels that the embedding wants, e.g. 112; null: as the images are."""


@dataclass(frozen=True)
class GeometryConfig:
    """The protocol of the measures of geometry."""

    items: Annotated[int, Ge(2)] = 16
    """Latents whose geometry is measured."""
    foreground: Annotated[float, Interval(gt=0, le=1)] = 0.9
    """Opacity from which a pixel is foreground."""
    flat: Annotated[float, Interval(gt=0, le=1)] = 0.1
    """Relief or thickness under which an item counts as a billboard; a ball has 0.47 and 0.82."""
    grid: Annotated[int, Ge(4)] = 32
    """Cells along each edge of the box, for floaters and meshes."""
    points: Annotated[int, Ge(16)] = 2048
    """Points of each mesh that stand for its shape."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured, and on how many images."""

    num_images: Count = 1000
    """Generated images that serve the distribution and pose measures; at most as many as are held
    out."""
    num_images_training: Count = 250
    """The same for the image distance that is measured while training."""
    batch: Count = 32
    """Images generated at a time."""
    swd: SwdConfig | None = SwdConfig()
    """Sliced Wasserstein distance; null leaves it out."""
    distribution: DistributionConfig | None = DistributionConfig()
    """FID, KID and others of pretrained networks, and memorisation; null leaves them out."""
    consistency: ConsistencyConfig | None = ConsistencyConfig()
    """Reprojection between views; null leaves it out."""
    refit: RefitConfig | None = RefitConfig()
    """Refitting a field to views; null leaves it out."""
    pose: PoseConfig | None = PoseConfig()
    """Pose read by a regressor; null leaves it out."""
    following: bool = True
    """Take the view measures also with the conditioning label following the camera."""
    identity: IdentityConfig | None = None
    """Likeness of two views to an embedding of yours; null leaves it out."""
    geometry: GeometryConfig | None = GeometryConfig()
    """Flatness, floaters, normals and shapes; null leaves them out."""
