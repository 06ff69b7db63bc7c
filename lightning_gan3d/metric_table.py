"""The table of metrics: label, unit, direction and use of each. `metrics/` computes them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Flag
from functools import cache
from typing import Literal

from lightning_gan3d.metric import MetricId

Better = Literal["higher", "lower", ""]


class Use(Flag):
    """Parts of a report that select their metrics."""

    NONE = 0
    SUMMARY = 1
    """The opening table."""
    PAPER = 2
    """The LaTeX table, which fits the width of a page."""
    PAIRED = 4
    """The table of paired differences."""


NONE, SUMMARY, PAIRED = Use.NONE, Use.SUMMARY, Use.PAIRED
PAPER = Use.SUMMARY | Use.PAPER
ALL = PAPER | PAIRED

_UNITS: dict[str, tuple[float, str, int | None]] = {
    "share": (100.0, "%", 1),
    "dB": (1.0, "dB", 2),
    "deg": (1.0, "°", 1),
    "bytes": (1e-3, "kB", None),
    "count": (1.0, "", 0),
}
"""Units that are printed differently: factor, printed unit, decimals (None: significant digits)."""


@dataclass(frozen=True)
class MetricInfo:
    """How one metric is shown."""

    name: str
    label: str
    short: str
    """Head of a narrow column."""
    unit: str = ""
    """Unit of stored values."""
    better: Better = ""
    """Which direction is better; empty if neither is."""
    uses: Use = NONE
    best: str = ""
    """What the best generator is called, e.g. "Lowest FID"; empty if none is named."""

    @property
    def scale(self) -> float:
        """Factor from the stored to the printed value."""
        return _UNITS.get(self.unit, (1.0,))[0]

    @property
    def printed_unit(self) -> str:
        """Unit of printed values."""
        return _UNITS[self.unit][1] if self.unit in _UNITS else self.unit

    def format(self, value: float) -> str:
        """Print a value without its unit."""
        return self.format_like(value, value)

    def format_like(self, value: float, model: float) -> str:
        """Print a value with the decimals of another one, e.g. a deviation beside its mean."""
        return rounded(value * self.scale, self._decimals(model))

    def format_range(self, low: float, high: float, model: float) -> str:
        """Print both ends with the decimals of a value, or with more if they would look equal."""
        decimals, ends = self._decimals(model), (low * self.scale, high * self.scale)
        if (width := ends[1] - ends[0]) > 0:
            shown = rounded(ends[0], decimals), rounded(ends[1], decimals)
            decimals = decimals_of(width, 1) if shown[0] == shown[1] else decimals
        return " to ".join(rounded(x, decimals) for x in ends)

    def _decimals(self, model: float) -> int:
        decimals = _UNITS[self.unit][2] if self.unit in _UNITS else None
        return decimals_of(model * self.scale) if decimals is None else decimals

    def with_unit(self, value: float) -> str:
        """Print a value with its unit."""
        return f"{self.format(value)} {self.printed_unit}".rstrip()

    @property
    def arrow(self) -> str:
        """The direction as papers print it."""
        return {"higher": "↑", "lower": "↓", "": ""}[self.better]

    @property
    def heading(self) -> str:
        """Label with unit and direction: `Render time per view (ms) ↓`."""
        unit = self.printed_unit
        if unit:
            unit = f", {unit}" if self.label.endswith(")") else f" ({unit})"
        return f"{self.label}{unit} {self.arrow}".rstrip()


def significant(value: float, digits: int = 3) -> str:
    """Print with significant digits, never in exponents: 0.0312, 3.12, 312, 31,200."""
    return rounded(value, decimals_of(value, digits))


def decimals_of(value: float, digits: int = 3) -> int:
    """Return the decimals that show so many significant digits; negative before the point."""
    return digits - 1 - math.floor(math.log10(abs(value))) if value else 0


def rounded(value: float, decimals: int) -> str:
    """Round to decimals; negative ones are before the point."""
    return f"{round(value, decimals):,.{max(decimals, 0)}f}"


BLOCKS = {
    "quality": "Image quality",
    "memorisation": "Memorisation",
    "refit": "Multi-view consistency by refit",
    "consistency": "Multi-view consistency by reprojection",
    "features": "Multi-view consistency by features",
    "motion": "Equivariance and texture sticking",
    "pose": "Pose",
    "identity": "Identity",
    "attributes": "Attributes of heads",
    "depth": "Depth of heads",
    "parts": "Edits of objects",
    "geometry": "Geometry",
    "samples": "Number of samples per ray",
    "speed": "Speed",
    "memory": "Memory",
    "cost": "Model size and FLOPs",
    "growth": "Growth with resolution",
    "training": "Training",
}
"""Titles of the blocks of metrics, in the order of the report."""

BENCHED = frozenset({"speed", "memory", "cost", "growth"})
"""Blocks that `gan3d bench` measures; the others come from the evaluation."""

UP: Better = "higher"
DOWN: Better = "lower"
REFIT, REPROJECTION = "refit.deficit", "consistency.deficit"
_M = MetricInfo

_STAGES = (
    ("view", "Render time per view", "view", ALL, "Shortest render time per view"),
    ("scene", "Scene generation time", "scene", SUMMARY, ""),
    ("image", "Generation time per image", "image", SUMMARY, "Shortest generation time per image"),
    ("mapping", "Mapping time", "mapping", NONE, ""),
    ("rendering", "Renderer time", "renderer", NONE, ""),
    ("rendering_gradient", "Renderer time with backward pass", "renderer backward", NONE, ""),
    ("rendering_plain", "Renderer time, plain torch", "plain renderer", NONE, ""),
    ("rendering_gradient_plain", "Plain torch with backward pass", "plain backward", NONE, ""),
    ("superresolution", "Super-resolution time", "SR", NONE, ""),
    ("discriminator", "Discriminator time per image", "D", NONE, ""),
    ("view_replayed", "Render time per view (CUDA graph)", "view graph", NONE, ""),
    ("image_replayed", "Generation time per image (CUDA graph)", "image graph", NONE, ""),
    ("train_g", "Generator step time", "G step", NONE, ""),
    ("train_g_density", "Density regularisation time", "density step", NONE, ""),
    ("train_d", "Discriminator step time", "D step", NONE, ""),
    ("train_d_penalty", "R1 step time", "R1 step", NONE, ""),
    ("train_proxy", "Proxy step time", "proxy step", NONE, ""),
)
"""Stages of the benchmark: name, label of the time, short name, use, what the fastest is called."""

_GROWTH = (
    ("rendering.view_ms", "Render time per view", "ms"),
    ("rendering.view_mb", "Peak memory per view", "MB"),
    ("grid.scene_bytes", "Scene memory", "bytes"),
    ("grid.scene_ms", "Scene generation time", "ms"),
    ("grid.scene_mb", "Peak memory of scene generation", "MB"),
)

_ROWS = (
    _M("quality.fid", "FID", "FID", "", DOWN, ALL, "Lowest FID"),
    _M("quality.kid", "KID", "KID", "", DOWN, ALL, "Lowest KID"),
    _M("quality.swd", "SWD (sliced Wasserstein distance)", "SWD", "", DOWN, ALL, "Lowest SWD"),
    _M("quality.swd_progress", "SWD progress (0 % untrained, 100 % real-real floor)",
       "SWD progress", "share", UP, SUMMARY),
    _M("quality.swd_floor", "SWD between real images (floor)", "SWD floor"),
    _M("quality.swd_init", "SWD before training", "SWD init"),
    _M("quality.swd_pixels", "SWD of downsampled whole images", "SWD pixels", "", DOWN),
    *(_M(f"quality.swd_{2**i}", f"SWD, {2**i}² level", f"SWD {2**i}", "", DOWN)
      for i in range(10, 2, -1)),
    _M("quality.fid_infinity", "FID extrapolated to infinite samples", "FID inf.", "", DOWN),
    _M("quality.kid_whole", "KID of whole sets", "KID whole", "", DOWN),
    _M("quality.inception_score", "Inception score", "IS", "", UP),
    _M("quality.frechet", "Fréchet distance", "FD", "", DOWN),
    _M("quality.frechet_infinity", "Fréchet distance extrapolated to infinite samples", "FD inf.",
       "", DOWN),
    _M("quality.kernel", "Kernel distance", "KD", "", DOWN),
    _M("quality.kernel_whole", "Kernel distance of whole sets", "KD whole", "", DOWN),
    _M("quality.class_score", "Class score", "Class score", "", UP),
    _M("quality.precision", "Precision (VGG16 features)", "Precision", "share", UP),
    _M("quality.recall", "Recall (VGG16 features)", "Recall", "share", UP),
    _M("quality.precision_inception", "Precision (Inception features)", "Prec. Inc.", "share", UP),
    _M("quality.recall_inception", "Recall (Inception features)", "Recall Inc.", "share", UP),
    _M("quality.frechet_clip", "Fréchet distance (CLIP features)", "FD CLIP", "", DOWN),
    _M("quality.kernel_clip", "Kernel distance (CLIP features)", "KD CLIP", "", DOWN),
    _M("quality.recall_pixels", "Recall (reduced images)", "Recall px", "share", UP, SUMMARY),
    _M("quality.coverage_pixels", "Coverage (reduced images)", "Coverage px", "share", UP),
    _M("quality.duplicates", "Latents that repeat another one's object", "Duplicates", "share",
       uses=SUMMARY),
    _M("quality.recall_pixels_real", "Recall (reduced images), training images", "Recall px real",
       "share"),
    _M("quality.coverage_pixels_real", "Coverage (reduced images), training images",
       "Coverage px real", "share"),
    _M("quality.sharpness", "Amplitude of detail, relative to real images", "Sharpness", "share",
       uses=SUMMARY),
    _M("quality.contrast", "Contrast, relative to real images", "Contrast", "share"),
    _M("memorisation.excess", "Samples nearest to training images, above chance", "Memo.", "share"),
    _M("memorisation.nearer", "Samples nearer to training images than held-out images are",
       "Nearer", "share"),
    _M("memorisation.distance", "Distance to nearest training image", "NN dist."),
    _M("memorisation.distance_real", "Distance of held-out images to nearest training image",
       "NN dist. real"),
    _M(REFIT, "PSNR below the ceiling at equal sharpness (refit)", "Refit deficit", "dB", DOWN, ALL,
       "Highest multi-view consistency by refit (least below the ceiling)"),
    _M("refit.ceiling", "PSNR of known objects at equal sharpness (refit)", "Refit ceiling", "dB"),
    _M("refit.psnr", "PSNR of held-out views (refit; blur raises it)", "Refit PSNR", "dB",
       uses=SUMMARY),
    _M("refit.gain", "PSNR gain over nearest view (refit; blur raises it)", "Refit gain", "dB"),
    _M("refit.ssim", "SSIM of held-out views (refit; blur raises it)", "Refit SSIM"),
    _M("refit.psnr_fit", "PSNR of fitted views (refit)", "Refit fitted", "dB"),
    _M(REPROJECTION, "Reprojection gain below the ceiling at equal sharpness", "Reproj. deficit",
       "dB", DOWN, ALL, "Highest multi-view consistency by reprojection (least below the ceiling)"),
    _M("consistency.ceiling", "Reprojection gain of known objects at equal sharpness",
       "Reproj. ceiling", "dB"),
    _M("consistency.gain", "Reprojection PSNR gain over identity warp", "Reproj. gain", "dB",
       uses=SUMMARY),
    _M("consistency.hidden", "Foreground hidden from the reprojection", "Hidden", "share",
       uses=SUMMARY),
    _M("consistency.psnr", "Reprojection PSNR (compared pixels)", "Reproj. PSNR", "dB"),
    _M("consistency.ssim", "Reprojection SSIM (compared pixels)", "Reproj. SSIM"),
    _M("consistency.lpips", "Reprojection LPIPS (compared pixels)", "Reproj. LPIPS"),
    _M("consistency.coverage", "Compared share of the foreground", "Compared", "share"),
    _M("consistency.depth_error", "Depth disagreement, mean", "Depth mean", "share", DOWN),
    _M("consistency.depth_median", "Depth disagreement, median", "Depth median", "share", DOWN),
    _M("consistency.flicker", "Flicker on a slow orbit", "Flicker", "share"),
    _M("consistency.flicker_share", "Flicker relative to change between frames", "Flicker rel.",
       "share"),
    _M("features.score", "Keypoints that follow a rigid point, from chance (0 %) to known objects "
       "(100 %)", "Feature score", "share", uses=SUMMARY),
    _M("features.inliers", "Keypoints that follow a rigid point", "Inliers", "share"),
    _M("features.known", "Keypoints that follow a rigid point, known objects at equal sharpness",
       "Inliers known", "share"),
    _M("features.shuffled", "Keypoints that follow a rigid point, shuffled objects",
       "Inliers shuffled", "share"),
    _M("features.track", "Views through which a keypoint is followed", "Track"),
    _M("features.track_known", "Views through which a keypoint is followed, known objects",
       "Track known"),
    _M("features.keypoints", "Keypoints of a view", "Keypoints"),
    _M("motion.eq_t_int", "EQ-T, whole pixels", "EQ-T int.", "dB", UP),
    _M("motion.eq_t_frac", "EQ-T, fractions of pixels", "EQ-T frac.", "dB", UP),
    _M("motion.eq_r", "EQ-R", "EQ-R", "dB", UP),
    _M("motion.sticking", "Texture sticking (0 %: moves with the surface, 100 %: fixed to the "
       "screen)", "Sticking", "share", uses=SUMMARY),
    _M("motion.sticking_depth", "Texture sticking, by depth", "Sticking depth", "share"),
    _M("pose.within_20deg", "Pose accuracy @20°", "Pose @20°", "share", UP, ALL,
       "Highest pose accuracy"),
    _M("pose.within_20deg_real", "Pose accuracy @20°, real images", "Pose @20° real", "share"),
    _M("pose.median_deg", "Median pose error", "Pose error", "deg", DOWN),
    _M("pose.median_deg_real", "Median pose error, real images", "Pose error real", "deg"),
    _M("pose.aligned_median_deg", "Median pose error, aligned", "Pose error al.", "deg", DOWN),
    _M("pose.alignment_deg", "Rotation of the generated world", "World rotation", "deg"),
    _M("pose.estimator_within_20deg", "Pose accuracy @20° (given estimator)", "Pose @20° est.",
       "share", UP),
    _M("pose.estimator_within_20deg_real", "Pose accuracy @20°, real images (given estimator)",
       "Pose @20° est. real", "share"),
    _M("pose.estimator_median_deg", "Median pose error (given estimator)", "Pose error est.",
       "deg", DOWN),
    _M("pose.estimator_median_deg_real", "Median pose error, real images (given estimator)",
       "Pose error est. real", "deg"),
    _M("pose.estimator_aligned_median_deg", "Median pose error, aligned (given estimator)",
       "Pose error al. est.", "deg", DOWN),
    _M("pose.estimator_alignment_deg", "Rotation of the generated world (given estimator)",
       "World rotation est.", "deg"),
    _M("identity.cosine", "Identity similarity between views", "Identity", "", UP),
    _M("identity.cosine_others", "Identity similarity between latents (floor)", "Id. floor"),
    _M("attributes.drift_share", "Change of attributes between views, over that between latents",
       "Drift share", "share", DOWN),
    _M("attributes.drift", "Change of attributes between views (1: as between heads)", "Drift"),
    _M("attributes.drift_others", "Change of attributes between latents", "Drift others"),
    _M("depth.correlation", "Correlation of rendered depth with that estimated from the image",
       "Depth corr.", "", UP, uses=PAIRED),
    _M("depth.error", "Error of rendered depth against that estimated from the image",
       "Depth error", "", DOWN, uses=PAIRED),
    _M("parts.background_change", "Background pixels that change with the objects", "Bg. change",
       "share", DOWN),
    _M("parts.leak", "Masks outside the projected boxes", "Leak", "share", DOWN),
    _M("parts.mask_iou", "IoU of the objects' masks with those read from the image", "Mask IoU",
       "share", UP, uses=PAIRED),
    _M("parts.mask_iou_reader", "IoU of the reader's masks with the truth (ceiling)",
       "Mask IoU reader", "share"),
    _M("geometry.relief", "Depth relief of the front (0: flat)", "Relief", uses=PAIRED),
    _M("geometry.thickness", "Thinnest over longest axis", "Thickness"),
    _M("geometry.billboards", "Billboards (flat geometry)", "Billboards", "share", DOWN),
    _M("geometry.side_share", "Foreground area, side over front", "Side area"),
    _M("geometry.depth_sd", "Standard deviation of front depth", "Depth SD"),
    _M("geometry.opaque", "Opaque pixels", "Opaque", "share"),
    _M("geometry.opacity", "Mean opacity", "Opacity", "share"),
    _M("geometry.half_transparent", "Semi-transparent share of visible pixels", "Semi-transp.",
       "share", DOWN),
    _M("geometry.normals_deg", "Angle between normals of depth and density", "Normals", "deg",
       DOWN),
    _M("geometry.floaters", "Floaters (volume outside the largest component)", "Floaters", "share",
       DOWN),
    _M("geometry.filled", "Occupied share of the box", "Occupied", "share"),
    _M("geometry.shape_to_data", "Chamfer distance to nearest real object", "Chamfer", "", DOWN,
       PAIRED),
    _M("geometry.shape_from_data", "Minimum matching distance from real objects", "MMD", "", DOWN,
       PAIRED),
    _M("geometry.shape_coverage", "Covered share of real shapes", "Shape COV", "share", UP),
    _M("geometry.shape_accuracy", "Accuracy of 1-NN, generated or real shape (50 %: alike)",
       "Shape 1-NNA", "share"),
    _M("geometry.shape_iou", "Volumetric IoU with nearest real object", "Shape IoU", "", UP),
    _M("samples.psnr", "PSNR to many samples per ray", "Samples PSNR", "dB", UP),
    _M("samples.swd", "SWD by samples per ray", "Samples SWD", "", DOWN),
    _M("samples.consistency", "Reprojection PSNR by samples per ray", "Samples reproj.", "dB"),
    _M("samples.view_ms", "Render time per view by samples per ray", "Samples time", "ms", DOWN),
    *(_M(f"speed.{stage}_ms", label, f"{short} time", "ms", DOWN, uses, best)
      for stage, label, short, uses, best in _STAGES),
    _M("speed.image_img_s", "Generation throughput", "Throughput", "img/s", UP),
    _M("speed.train_img_s", "Training throughput", "Training", "img/s", UP, ALL,
       "Highest training throughput"),
    *(_M(f"speed.{stage}_floor_share", f"Roofline efficiency, {short}", f"{short} roofline",
         "share", UP) for stage, _, short, *_ in _STAGES),
    _M("speed.fused", "Fused renderer kernel (1: yes, 0: PyTorch)", "Fused"),
    _M("speed.peak_gflop_s", "Peak matrix product of the device", "Peak", "GFLOP/s"),
    _M("speed.peak_gb_s", "Peak copy bandwidth of the device", "Bandwidth", "GB/s"),
    _M("speed.threads", "CPU threads", "Threads", "count"),
    _M("memory.train_mb", "Peak training memory", "Train mem.", "MB", DOWN, ALL,
       "Lowest peak training memory"),
    _M("memory.train_process_mb", "Peak training memory, by the process (check)",
       "Train mem. proc.", "MB"),
    _M("memory.weights_mb", "Generator weights", "Weights", "MB"),
    *(_M(f"memory.{stage}_mb", f"Peak memory, {short}", f"{short} mem.", "MB", DOWN,
         SUMMARY if stage == "image" else NONE) for stage, _, short, *_ in _STAGES),
    _M("cost.representation_parameters", "Parameters of the representation", "Repr. param.",
       "count", uses=PAPER),
    _M("cost.scene_bytes", "Scene memory", "Scene mem.", "bytes", DOWN, PAPER,
       "Smallest scene memory"),
    _M("cost.flops", "FLOPs per image", "FLOPs", "GFLOP", DOWN, SUMMARY),
    _M("cost.parameters", "Parameters of the generator", "Param.", "count"),
    _M("cost.mapping_parameters", "Parameters of the mapping", "Map. param.", "count"),
    _M("cost.superresolution_parameters", "Parameters of super-resolution", "SR param.", "count"),
    _M("cost.mapping_flops", "FLOPs of the mapping", "Map. FLOPs", "GFLOP", DOWN),
    _M("cost.representation_flops", "FLOPs of scene generation", "Scene FLOPs", "GFLOP", DOWN),
    _M("cost.renderer_flops", "FLOPs per view", "View FLOPs", "GFLOP", DOWN),
    _M("cost.superresolution_flops", "FLOPs of super-resolution", "SR FLOPs", "GFLOP", DOWN),
    *(_M(f"growth.{name}", label, label, unit, DOWN) for name, label, unit in _GROWTH),
    *(_M(f"growth.{name}_exponent", f"{label}: growth exponent", f"{label} exp.")
      for name, label, _ in (*_GROWTH, ("image.scene_bytes", "Scene memory by image size", ""))),
    _M("training.kimg", "Training images", "kimg", "kimg", uses=SUMMARY),
    _M("training.seconds", "Training time", "Train time", "s", uses=SUMMARY),
)  # fmt: skip
_TABLE = {row.name: row for row in _ROWS}
_RANK = {row.name: i for i, row in enumerate(_ROWS)}

_MODES = {
    "legacy_tensorflow": (", resized as by StyleGAN and EG3D", " TF"),
    "legacy_pytorch": (", resized as by pytorch-fid", " PT"),
    "inception": (", Inception features", " Inc."),
    "raw": (", rendering", " raw"),
    "enlarged": (", upsampled rendering", " ups."),
    "truth": (", ground truth (ceiling)", " truth"),
    "following": (", label follows camera", " follow."),
    "posed": (", drawn cameras", " posed"),
    "3d": (", mapping conditioned on the frontal camera", " 3D"),
}
"""What networks, stages and variants add to label and head of a column."""


@cache
def describe(metric: MetricId, unit: str = "") -> MetricInfo:
    """Return how a metric is shown. An unknown one is shown by its key, in its stored unit."""
    info = _TABLE.get(metric.name)
    if info is None:
        return MetricInfo(metric.key, metric.key, metric.key, unit)
    label, short = info.label, info.short
    for mode in (metric.network, metric.stage, metric.variant):
        if mode:
            more, head = _MODES.get(mode, (f", network {mode}", f" {mode}"))
            label, short = label + more, short + head
    if metric.at is not None:
        positions = {"growth": f"{metric.at:g}²", "samples": f"{metric.at:g} samples"}
        at = positions.get(block(metric), f"{math.degrees(metric.at):.0f}°")
        label, short = f"{label}, {at}", f"{short} {at}"
    better = "" if metric.variant == "truth" else info.better
    return replace(info, label=label, short=short, better=better, unit=unit or info.unit)


def block(metric: MetricId) -> str:
    """Return the block of a metric, the part of its name before the first dot."""
    return metric.name.partition(".")[0]


def names_of(of: str) -> list[str]:
    """Return the names of a block's metrics."""
    return [row.name for row in _ROWS if row.name.partition(".")[0] == of]


def selected(metrics: Iterable[MetricId], use: Use) -> list[MetricId]:
    """Return the metrics for a part of the report: final image, own labels, any network."""
    return [
        m
        for m in metrics
        if describe(m).uses & use and not m.stage and m.variant in ("", "posed") and m.at is None
    ]


def order(metric: MetricId) -> tuple[int, int, MetricId]:
    """Sort key: blocks and metrics in the order of the table, unknown ones last, by name."""
    blocks = list(BLOCKS)
    rank = blocks.index(block(metric)) if block(metric) in blocks else len(blocks)
    at = -1.0 if metric.at is None else metric.at
    return rank, _RANK.get(metric.name, len(_RANK)), metric._replace(at=at)
