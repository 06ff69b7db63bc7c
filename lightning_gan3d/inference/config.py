"""Options of the commands that use a generator. Imports no torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from lightning_gan3d.config import ConfigError, Count
from lightning_gan3d.ranges import NonNegative, Positive, Rule, Share

Output = Literal["image", "raw", "depth", "normals", "opacity"]
"""`image`; `raw`, before super-resolution; depth, normals and opacity of the rendering."""
OUTPUTS: tuple[Output, ...] = ("image", "raw", "depth", "normals", "opacity")


@dataclass(frozen=True)
class ModelOptions:
    """How a generator is used; all commands have these options."""

    psi: float = 1.0
    """Truncation psi: 1 is none, 0 the mean."""
    cutoff: Annotated[int, Ge(0)] | None = None
    """Number of style vectors that are truncated, from the coarsest; default: all."""
    class_index: Annotated[int, Ge(0)] | None = None
    """Class to generate, from 0, of a generator that is conditioned on classes."""
    edits: str = ""
    """Edits of all latents: FILE:NAME=STRENGTH,... with a file of `gan3d edit`; of scenes of parts
    NAME=VALUE,... such as object0.rotation=0.5, object0.shape=SEED:SHARE, add=SEED, remove=0."""
    device: str = "auto"
    """auto, cpu or cuda."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of convolutions; fp16 is for GPUs."""
    overrides: tuple[str, ...] = ()
    """Overrides of generator.renderer; given after the runs, not as an option."""


@dataclass(frozen=True)
class RenderOptions(ModelOptions):
    """How a generator renders."""

    rendering_resolution: Count | None = None
    """Resolution of the rendering, before super-resolution; default: the generator's own."""
    samples: Count = 1
    """Multiplies the samples per ray."""


@dataclass(frozen=True)
class LatentOptions(RenderOptions):
    """How the latents of seeds are changed: interpolated, then mixed."""

    toward: Annotated[int, Ge(0)] | None = None
    """Seed of a second latent; the first is interpolated toward it."""
    share: Annotated[float, Interval(ge=0, le=1)] = 0.5
    """Share of the second latent: 0 is the first, 1 the second."""
    space: Literal["z", "w"] = "w"
    """Interpolation: spherical in z, or linear in w."""
    mix: Annotated[int, Ge(0)] | None = None
    """Seed of a latent whose styles of `mix_range` are copied."""
    mix_range: str = "coarse"
    """Ranges of copied styles, as in `gan3d mix`; several with commas: coarse,fine."""
    condition: str = "frontal"
    """Camera that conditions the mapping, one camera as in `cameras`; the 2D baseline is
    conditioned on the camera of each view instead."""

    def __post_init__(self) -> None:
        """Check across fields."""
        if self.toward is None and (self.share, self.space) != (0.5, "w"):
            raise ConfigError("share and space need the second latent: toward=SEED", field="toward")
        if self.mix is None and self.mix_range != "coarse":
            raise ConfigError(f"mix_range={self.mix_range}: add mix=SEED", field="mix")


@dataclass(frozen=True)
class GenerateOptions(LatentOptions):
    """Which images are generated."""

    seeds: str = "0-7"
    """Seeds of the latents, e.g. 0-7 or 0-3,12."""
    cameras: str = "orbit"
    """frontal, orbit, figure8, a list of azimuth:elevation in radians such as 0:0.3,-0.4:0, each
    with :distance if it is not the orbit's, or a JSON file of cameras."""
    views: Count = 3
    """Cameras per latent, for orbit and figure8."""
    outputs: str = "image,raw,depth,opacity"
    """Files per image: any of image, raw, depth, normals, opacity."""
    transparent: bool = False
    """Write images with the opacity as alpha channel and without background."""
    enlarge: Count = 1
    """Enlarge written images by a whole factor."""
    sort: Literal["seed", "distance", "logit", "flatness"] = "seed"
    """Order of the contact sheet: by seed; by distance to the image `reference`, nearest first; by
    the discriminator's logit, highest first; by flatness, most solid first."""
    reference: str = ""
    """Image for sort=distance."""
    columns: Count | None = None
    """Latents per row of the contact sheet; default: chosen for a square sheet. Several generators
    have one column each."""

    def __post_init__(self) -> None:
        """Check across fields."""
        super().__post_init__()
        outputs_of(self.outputs)
        if self.transparent and "image" not in outputs_of(self.outputs):
            raise ConfigError(f"transparent=true: add image to outputs={self.outputs}")
        if self.sort == "distance" and not self.reference:
            raise ConfigError("sort=distance: name an image with reference", field="reference")
        if self.sort != "distance" and self.reference:
            raise ConfigError(f"reference={self.reference}: add sort=distance", field="sort")


@dataclass(frozen=True)
class FigureOptions(LatentOptions):
    """A figure for a paper."""

    seeds: str = "0-7"
    """Seeds of the latents: columns."""
    cameras: str = "frontal"
    """As in `gan3d generate`."""
    views: Count = 3
    """Cameras per latent, for orbit and figure8: neighbouring columns."""
    outputs: str = "image"
    """Rows of each generator: any of image, raw, depth, normals, opacity."""
    labels: str = ""
    """Names of the generators with commas; default: those of their folders."""
    width: Positive = 6.9
    """Width in inches; 6.9 is two columns."""
    dpi: Count = 300
    """Pixels per inch of a .png file."""

    def __post_init__(self) -> None:
        """Check across fields."""
        super().__post_init__()
        outputs_of(self.outputs)


@dataclass(frozen=True)
class MixOptions(RenderOptions):
    """A style-mixing grid."""

    rows: str = "0-3"
    """Seeds that keep their other styles: the first column (destination)."""
    cols: str = "10-15"
    """Seeds whose styles of the range are copied: the first row (source)."""
    range: str = "all"
    """Copied styles by the resolution of their layers (an MLP: by layer): coarse, middle or fine
    (three equal parts), all (one grid for each), or LOW-HIGH such as 4-8."""
    cameras: str = "frontal"
    """As in `gan3d generate`; one grid for each camera."""
    views: Count = 3
    """Number of cameras, for orbit and figure8."""
    pairs: Annotated[int, Rule(lambda n: n == 0 or n >= 3, "0, or 3 or more")] = 16
    """Pairs of latents, 3 or more, for measuring the change of geometry and colour; 0: none."""


@dataclass(frozen=True)
class EditOptions(RenderOptions):
    """Edits of scenes of parts; for others, method and data for finding edit directions."""

    method: Literal["pca", "sefa", "labels"] = "pca"
    """pca: principal components of the styles (GANSpace). sefa: closed-form factorisation of the
    weights. labels: linear fits of attributes, from `csv` or `regressor`."""
    components: Count = 8
    """Number of directions of pca and sefa."""
    range: str = "all"
    """Styles that a direction changes: coarse, middle, fine, all, or LOW-HIGH."""
    samples_w: Annotated[int, Ge(10)] = 1000
    """Number of latents from which pca, scales and a regressor's fits are computed."""
    csv: str = ""
    """For labels: a table with the column `seed` and one column per attribute."""
    regressor: str = ""
    """For labels: package.module:function, from an image (1, 3, h, w) in [-1, 1] to a dict of
    attributes."""
    change: str = "all"
    """Edits of scenes of parts, in place of directions: any of rotation, x, y, z, scale, shape,
    appearance, background, add and remove with commas, or all."""
    object: Annotated[int, Ge(0)] = 0
    """Number of the changed object."""
    others: str = "100-102"
    """Seeds of other latents. The first gives shape, appearance and background; each adds one
    object."""
    amount: Positive | None = None
    """Largest strength: of a direction, in standard deviations (default 3); of a change, in radians
    (a full turn), world units (half the range of the placements), as a factor above 1, or a share
    (1). add and remove have none."""
    seeds: str = "0"
    """Seeds of the latents: rows of the sheets, side by side in films."""
    film: Literal["none", "mp4", "gif"] = "none"
    """Also write a film of each edit."""
    towards: str = ""
    """Optimise the latent of each seed, or inverted photograph, towards an image, the images of a
    folder, or a direction, text or target in a JSON file (StyleCLIP)."""
    encoder: str = ""
    """For towards: TorchScript file from images in [-1, 1] to embeddings."""
    text_encoder: str = ""
    """For towards: TorchScript file from tokens to embeddings, for a file of tokens."""
    encoder_resolution: Count | None = None
    """For towards: resolution of the encoder's images; CLIP: 224. Default: the generator's."""
    steps: Count = 300
    """For towards: steps of Adam."""
    rate: Positive = 0.1
    """For towards: learning rate of the style vectors."""
    prior: NonNegative = 0.008
    """For towards: weight of the squared distance of the style vectors from the first ones."""

    def __post_init__(self) -> None:
        """Check across fields."""
        if self.towards and not self.encoder:
            raise ConfigError(
                f"towards={self.towards}: name the encoder of images, e.g. encoder=clip.pt",
                field="encoder",
            )
        sources = [name for name in ("csv", "regressor") if getattr(self, name)]
        if len(sources) != (self.method == "labels"):
            raise ConfigError(
                f"method={self.method} with {' and '.join(sources) or 'no labels'}: method=labels "
                "needs either csv or regressor; the other methods need none",
                field="method",
            )


@dataclass(frozen=True)
class MeshOptions(ModelOptions):
    """A mesh."""

    seeds: str = "0"
    """Seeds of the latents: one file each."""
    resolution: Annotated[int, Ge(8)] = 256
    """Voxels per axis."""
    level: Positive | None = None
    """Density of the surface, per world unit; default: one voxel, of at most 16 per axis, absorbs
    half of the light, or the signed distance is 0 (`sdf`), or the occupancy is 0.5 (solids)."""
    keep: Share = 0.01
    """Keep components with at least this share of the largest one's area; 1: the largest."""
    smooth: Annotated[int, Ge(0)] = 0
    """Iterations of Taubin smoothing, each a shrinking and a growing step."""
    faces: Annotated[int, Ge(0)] = 0
    """Decimate to this number of faces; 0: all."""
    texture: Annotated[int, Interval(ge=0, le=8192)] = 0
    """Side of a UV texture in pixels; 0: colours of the vertices."""
    format: Literal["glb", "obj", "ply", "npy"] = "glb"
    """glb (glTF 2.0), obj, ply, or npy: the density itself, with its description in a .json file.
    """

    def __post_init__(self) -> None:
        """Check across fields."""
        if self.texture and self.format == "ply":
            raise ConfigError(
                f"texture={self.texture}: a PLY file has none; use glb or obj", "texture"
            )
        surface = ("level", "keep", "smooth", "faces", "texture")
        changed = [n for n in surface if getattr(self, n) != getattr(MeshOptions, n)]
        if self.format == "npy" and changed:
            raise ConfigError(f"{changed[0]}: format=npy is the density, not a surface", changed[0])


@dataclass(frozen=True)
class SplatFileOptions(ModelOptions):
    """Gaussians as files."""

    seeds: str = "0"
    """Seeds of the latents: one file each."""
    format: Literal["ply", "spz"] = "ply"
    """ply (3D Gaussian splatting, y down), or spz (8 bits per value, y up)."""


@dataclass(frozen=True)
class VideoOptions(RenderOptions):
    """A video."""

    seeds: str = "0"
    """Seeds of the latents: one video each, or with `interpolate` one video through all."""
    cameras: str = "orbit"
    """orbit, figure8, frontal, or a path through a list of angles or a JSON file of cameras."""
    frames: Count = 120
    """Number of frames; with `interpolate`, from each latent to the next."""
    interpolate: Literal["none", "z", "w"] = "none"
    """Closed loop through the seeds: spherical in z, or linear in w."""
    fps: Annotated[int, Interval(ge=1, le=120)] = 30
    """Frames per second."""
    outputs: str = "image"
    """Side by side: any of image, raw, depth, normals, opacity."""
    enlarge: Count = 1
    """Enlarge frames by a whole factor."""
    format: Literal["mp4", "gif"] = "mp4"
    """H.264, or an animated GIF."""

    def __post_init__(self) -> None:
        """Check across fields."""
        outputs_of(self.outputs)
        if self.format == "gif" and self.fps > 50:
            raise ConfigError(f"fps={self.fps}: a GIF has at most 50; use mp4", field="fps")


@dataclass(frozen=True)
class ViewOptions(RenderOptions):
    """The viewer in the browser."""

    port: Annotated[int, Interval(ge=1, le=65535)] = 8080
    """Port on 127.0.0.1; the next free one if it is taken."""
    open: bool = True
    """Open the page in the browser."""


@dataclass(frozen=True)
class InvertOptions(RenderOptions):
    """How images are inverted. Lengths in W are in standard deviations of the drawn latents."""

    camera: str = "frontal"
    """Camera of each image: frontal; label, from the dataset.json beside it; azimuth:elevation in
    radians such as 0.4:0.2; search, over a grid of poses and then by gradient; or FILE.pt, a
    TorchScript estimator of the rotation of cam2world, as `pose.estimator` of the metrics."""
    refine_camera: bool = False
    """Optimise azimuth, elevation and distance with the latent; always on for camera=search."""
    crop: str = ""
    """LEFT:TOP:SIDE in pixels; default: the central square."""
    mask: str = ""
    """Mask of the object, bright pixels count; a folder: files with the images' names, or .png.
    Pixels outside are neither fitted nor scored. Default: the alpha channel, if there is one."""
    candidates: Count = 128
    """Drawn latents among which the start is chosen."""
    starts: Count = 4
    """Best candidates (with camera=search: poses) that are optimised in W before one is kept."""
    space: Literal["w", "w+"] = "w+"
    """One style vector for all layers, or one for each."""
    steps: Count = 120
    """Steps of the latent, after a third as many in W for each of the `starts`."""
    rate: Positive = 0.1
    """Learning rate of the latent."""
    prior: NonNegative = 0.003
    """Weight of the latent's mean squared distance from the mean style."""
    noise: bool = False
    """Optimise the noise maps too, with StyleGAN2's regulariser."""
    tuning_steps: Annotated[int, Ge(0)] = 80
    """Steps of pivotal tuning of the generator's weights; 0: none."""
    tuning_rate: Positive = 1e-3
    """Learning rate of pivotal tuning."""
    locality: NonNegative = 1.0
    """Weight of the change that pivotal tuning causes elsewhere: other latents, other cameras."""
    lpips: NonNegative = 0.3
    """Weight of LPIPS, which is used if AlexNet's weights are available."""
    patience: Count = 40
    """Steps without a gain of 1 % after which a stage goes on with its last quarter, in which the
    learning rate falls."""
    seed: Annotated[int, Ge(0)] = 0
    """Key of the random draws."""

    def __post_init__(self) -> None:
        """Check across fields."""
        if self.edits:
            raise ConfigError(f"edits={self.edits}: edit the result instead", field="edits")


def outputs_of(text: str) -> list[Output]:
    """Parse names of outputs, e.g. `image,depth`."""
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in OUTPUTS]
    if unknown:
        raise ConfigError(
            f"outputs={text}: {unknown[0] or 'an empty name'}; use any of {', '.join(OUTPUTS)}",
            field="outputs",
        )
    return [output for output in OUTPUTS if output in names]
