"""Options of all metrics. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval

from lightning_gan3d.config import EVEN, Count, NonNegative, Positive, Share

PATCH = 7
"""Side in pixels of the patches of the sliced Wasserstein distance."""

SEED = 0
"""Key of latents, directions and the regressor: the same for all runs, of any seed."""

Mode = Literal["clean", "legacy_pytorch", "legacy_tensorflow"]
"""Resizing and network, by the names of clean-fid (Parmar et al. 2022)."""


@dataclass(frozen=True)
class SwdConfig:
    """Sliced Wasserstein distance."""

    patches: Count = 128
    """Patches of 7x7 pixels per image and pyramid level."""
    projections: Count = 512
    """Random directions onto which patches are projected."""
    coarsest: Annotated[int, Ge(PATCH)] = 16
    """Side of the coarsest pyramid level, in pixels."""
    normalisation: Literal["real", "each"] = "real"
    """Standardise channels by the real images' mean and deviation, or each set by its own (Karras
    et al. 2018), which is blind to brightness and contrast."""


@dataclass(frozen=True)
class PosesConfig:
    """Distribution of cameras on a sphere about the origin, looking at it."""

    kind: Literal["gaussian", "uniform"] = "gaussian"
    """Distribution of both angles."""
    azimuth: NonNegative = 0.3
    """Standard deviation around the frontal camera, or half of the range, in radians."""
    elevation: NonNegative = 0.15
    """The same around `mean_elevation`."""
    mean_elevation: Annotated[float, Interval(gt=-1.4, lt=1.4)] = 0.0
    """Elevation above the horizon, in radians."""

    @property
    def protocol(self) -> str:
        """Describe the distribution, for the notes of metrics."""
        spread = "deviations" if self.kind == "gaussian" else "half ranges"
        return (
            f"cameras drawn ({self.kind}; {spread} of {self.azimuth:g} rad in azimuth, "
            f"{self.elevation:g} rad in elevation around {self.mean_elevation:g} rad), distance "
            "and intrinsics of training cameras"
        )


@dataclass(frozen=True)
class DistributionConfig:
    """FID, KID, Inception score, precision, recall, memorisation."""

    num_images: Annotated[int, Ge(2)] | None = None
    """Generated images; null: `evaluation.num_images`. Papers use 50000."""
    mode: Mode = "clean"
    """Resizing and network; `legacy_tensorflow` is that of StyleGAN's and EG3D's FID."""
    clip: bool = False
    """Whether to use CLIP features too; needs CLIP's weights and OpenAI's package."""
    poses: PosesConfig | None = None
    """Cameras of the generated images; null: those of the training images."""
    repeats: Count = 1
    """Sets of generated images, each of other latents; two or more give intervals."""
    kid_subsets: Count = 100
    """Random subsets over which KID is averaged."""
    kid_subset_size: Annotated[int, Ge(2)] = 1000
    """Images per subset."""
    kid_whole: Annotated[int, Ge(2)] = 5000
    """Images of each set in KID over whole sets, which has an interval."""
    infinity_from: Annotated[int, Ge(2)] = 5000
    """Smallest set from which FID is extrapolated; needs twice as many images."""
    splits: Count = 10
    """Splits over which the Inception score is averaged."""
    k: Count = 3
    """k-th neighbour that sets the radii of precision and recall."""
    pixels: Count = 16
    """Side to which images are reduced to find memorisation."""

    @classmethod
    def upgrade(cls, tree: Mapping[str, Any]) -> Mapping[str, Any]:
        """Drop an option of earlier versions: ranks no longer wait for files."""
        return {k: v for k, v in tree.items() if k != "wait_minutes"}


@dataclass(frozen=True)
class FlickerConfig:
    """Flicker of slow orbits."""

    items: Count = 8
    """Latents."""
    frames: Annotated[int, Ge(3)] = 8
    """Frames per orbit; all but the first and last are compared with both neighbours."""
    step: Annotated[float, Interval(gt=0, le=0.2)] = 0.03
    """Angle between frames in radians, about the world's y axis."""


@dataclass(frozen=True)
class ConsistencyConfig:
    """Reprojection between views."""

    items: Count = 32
    """Latents."""
    angle: Annotated[float, Interval(gt=0, le=1.5)] = 0.25
    """Angle between neighbouring views in radians, about the world's y axis."""
    steps: Count = 2
    """Neighbours on either side of the label's camera: 2 * steps + 1 views per latent."""
    tolerance: Annotated[float, Interval(gt=0, le=1)] = 0.02
    """Share of camera z by which a point may lie behind the other view's surface and still be
    visible; and largest second difference of 1 / z, as a share, that is no depth edge."""
    foreground: Annotated[float, Interval(gt=0, le=1)] = 0.9
    """Opacity from which a pixel is foreground. Half-transparent pixels mix in the background."""
    texture: Annotated[float, Interval(gt=0, lt=1)] = 0.01
    """Standard deviation of the foreground's colours, as a share of their range and a mean over
    latents, below which gain and deficit are undefined."""
    pixels: Annotated[int, Ge(8)] = 64
    """Side of the images for gain and deficit; larger ones are reduced to it."""
    depth_pixels: Annotated[int, Ge(8)] = 32
    """Side of the depth for gain and deficit; larger ones are reduced to it."""
    lpips: str | None = None
    """AlexNet's ImageNet weights (torchvision's state dict), for LPIPS; null: those downloaded."""
    flicker: FlickerConfig | None = FlickerConfig()
    """Flicker of slow orbits; null: off."""

    @property
    def angles(self) -> list[float]:
        """Angles between any two views of the arc, in radians."""
        return [float(f"{d * self.angle:g}") for d in range(1, 2 * self.steps + 1)]


@dataclass(frozen=True)
class RefitConfig:
    """Fields fitted to views."""

    items: Count = 8
    """Latents, each with a field of its own."""
    views: Annotated[int, Ge(2)] = 12
    """Views to fit, and as many held-out views between them."""
    resolution: Annotated[int, Ge(8)] = 32
    """Side in pixels of the views; larger images are reduced to it."""
    iterations: Annotated[int, Ge(2)] = 200
    """Optimiser steps, the first half on a grid of half the size."""
    rays: Count = 512
    """Pixels per step."""
    samples: Annotated[int, Ge(2)] = 24
    """Samples per ray."""
    grid: Annotated[int, Ge(4), EVEN] = 24
    """Points along an edge of the fitted grid."""
    box: Positive | None = None
    """Edge of the fitted cube in world units; null: that around the largest sphere which every
    camera sees whole."""
    texture: Annotated[float, Interval(gt=0, lt=1)] = 0.01
    """Standard deviation of the held-out views' colours, as a share of their range, below which a
    latent has no texture and its gain is undefined."""


@dataclass(frozen=True)
class FeaturesConfig:
    """Keypoints followed from view to view."""

    items: Count = 24
    """Latents."""
    views: Annotated[int, Ge(3)] = 5
    """Views of each latent, on an arc."""
    angle: Annotated[float, Interval(gt=0, le=1)] = 0.25
    """Angle between neighbouring views in radians, about the world's y axis."""
    pixels: Annotated[int, Ge(8)] = 64
    """Side of the views; larger ones are reduced to it."""
    tolerance: Annotated[float, Interval(gt=0, lt=1)] = 0.008
    """Largest RMS distance of keypoints from the projections of one point, as a share of the
    image: half a pixel of 64."""


@dataclass(frozen=True)
class PoseConfig:
    """Pose accuracy."""

    resolution: Annotated[int, Ge(16)] = 32
    """Side in pixels of the regressor's input; larger images are reduced to it."""
    iterations: Count = 1000
    """Training steps of the regressor."""
    batch: Count = 32
    """Images per training step."""
    threshold_degrees: Annotated[float, Interval(gt=0, le=180)] = 20.0
    """Largest angle between the requested camera and the one read that counts as accurate."""
    estimator: str | None = None
    """TorchScript file of your own pose estimator, used beside the regressor; null: none."""


@dataclass(frozen=True)
class IdentityConfig:
    """Identity of two views."""

    embedding: str
    """TorchScript file that maps images in [-1, 1] to one vector each, e.g. a face recogniser."""
    items: Annotated[int, Ge(2)] = 256
    """Latents, each from two cameras."""
    angle: Annotated[float, Interval(gt=0, le=3.1)] = 0.5
    """Angle between these in radians, half to either side of the label's camera."""
    resolution: Count | None = None
    """Side in pixels of the embedding's input, e.g. 112; null: that of the images."""


@dataclass(frozen=True)
class ReaderConfig:
    """A network that reads images of a procedural data set."""

    resolution: Annotated[int, Ge(16)] = 48
    """Side in pixels of the network's input; larger images are reduced to it."""
    iterations: Count = 1500
    """Training steps of the network."""
    batch: Count = 32
    """Images per training step."""


@dataclass(frozen=True)
class AttributesConfig(ReaderConfig):
    """Attributes of procedural heads, read from several views."""

    heads: Annotated[int, Ge(16)] = 4000
    """Heads to train the network; an eighth of them tests it."""
    items: Annotated[int, Ge(2)] = 32
    """Latents."""
    views: Annotated[int, Ge(2)] = 5
    """Views of each latent, over the azimuths of the cameras."""


@dataclass(frozen=True)
class DepthConfig(ReaderConfig):
    """Rendered depth beside the depth that the image of a procedural head implies."""

    heads: Annotated[int, Ge(16)] = 4000
    """Heads to train the network; an eighth of them tests it."""
    items: Annotated[int, Ge(2)] = 64
    """Latents, with one view each."""


@dataclass(frozen=True)
class PartsConfig:
    """Edits of the objects of generated scenes of parts."""

    items: Annotated[int, Ge(2)] = 64
    """Scenes."""


@dataclass(frozen=True)
class MasksConfig(ReaderConfig):
    """Masks of generated objects beside those that the image of a procedural scene implies."""

    items: Annotated[int, Ge(2)] = 64
    """Latents, with one view each."""
    scenes: Annotated[int, Ge(16)] = 2000
    """Scenes to train the network; an eighth of them tests it."""
    iterations: Count = 1000
    """Training steps of the network."""


@dataclass(frozen=True)
class GeometryConfig:
    """Geometry of items."""

    items: Annotated[int, Ge(2)] = 16
    """Latents."""
    foreground: Annotated[float, Interval(gt=0, le=1)] = 0.9
    """Opacity from which a pixel is foreground."""
    flat: Annotated[float, Interval(gt=0, le=1)] = 0.1
    """Relief or thickness below which an item is a billboard; a ball has 0.47 and 0.82."""
    grid: Annotated[int, Ge(4)] = 32
    """Cells along an edge of the box, for floaters and meshes."""
    points: Annotated[int, Ge(16)] = 2048
    """Points sampled on each mesh."""


@dataclass(frozen=True)
class MotionConfig:
    """Equivariance to transforms of the input, and texture sticking on slow orbits."""

    equivariance: Count | None = 32
    """Latents for EQ-T and EQ-R, each with transforms of its own; null: off. Papers use 50000."""
    items: Count | None = 16
    """Latents for sticking; null: off."""
    step: Annotated[float, Interval(gt=0, le=1)] = 0.3
    """Motion in pixels from frame to frame, of a point in front of the world's y axis by a quarter
    of the image's side."""
    detail: Annotated[float, Interval(gt=0, lt=1)] = 0.01
    """Deviation of the detail around a pixel, as a share of the range of colours, from which the
    pixel is used."""


@dataclass(frozen=True)
class SamplesConfig:
    """Curves over the number of samples per ray."""

    counts: tuple[Count, ...] = (8, 12, 16, 24, 32, 48, 96)
    """Samples per ray, coarse and fine ones together."""
    placement: Literal["own", "stratified", "weights", "nucleus"] = "own"
    """Where they lie. `own`: as configured, with the configured ratio of coarse to fine ones;
    `stratified`: coarse ones alone; else as `generator.renderer.importance`."""
    coarse: Share = 2 / 3
    """Share of coarse samples with `placement=weights` and `nucleus`."""
    reference: Count = 384
    """Stratified samples of the images for PSNR."""
    images: Count = 64
    """Views for PSNR and time, one per latent; SWD uses `num_images_training`."""


@dataclass(frozen=True)
class EvaluationConfig:
    """All metrics; null turns a group off."""

    num_images: Count = 1000
    """Generated images for SWD, pose and distribution; SWD uses at most as many as are held out."""
    num_images_training: Count = 250
    """Generated images for the SWD during training."""
    batch: Count = 32
    """Images per batch."""
    swd: SwdConfig | None = SwdConfig()
    """Sliced Wasserstein distance."""
    distribution: DistributionConfig | None = DistributionConfig()
    """FID, KID and others of pretrained networks, and memorisation."""
    consistency: ConsistencyConfig | None = ConsistencyConfig()
    """Reprojection between views, and flicker."""
    refit: RefitConfig | None = RefitConfig()
    """Fields fitted to views."""
    features: FeaturesConfig | None = FeaturesConfig()
    """Keypoints followed from view to view."""
    motion: MotionConfig | None = MotionConfig()
    """Equivariance and texture sticking."""
    pose: PoseConfig | None = PoseConfig()
    """Pose accuracy by a regressor."""
    following: bool = True
    """Whether to repeat the view metrics with the conditioning label following the camera."""
    frontal: bool = True
    """Whether to repeat FID and SWD with the mapping conditioned on the frontal camera (`3d`)."""
    identity: IdentityConfig | None = None
    """Identity of two views, by your own embedding."""
    attributes: AttributesConfig | None = AttributesConfig()
    """Attributes from view to view; procedural heads only."""
    depth: DepthConfig | None = DepthConfig()
    """Depth of the images' contents; procedural heads only."""
    parts: PartsConfig | None = PartsConfig()
    """Edits of objects; scenes of parts only."""
    masks: MasksConfig | None = MasksConfig()
    """Masks of objects; scenes of parts and procedural scenes only."""
    geometry: GeometryConfig | None = GeometryConfig()
    """Flatness, floaters, normals and shapes."""
    samples: SamplesConfig | None = None
    """Curves over the number of samples per ray."""
