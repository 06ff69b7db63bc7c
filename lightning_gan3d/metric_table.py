"""What is known of each metric: a label in plain words, the better direction, how it is printed."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", ""]


@dataclass(frozen=True)
class MetricInfo:
    """How one metric is shown."""

    name: str
    """Dotted name, as in `Metric.metric`."""
    label: str
    """What it says, in plain words."""
    short: str
    """The head of a narrow column."""
    better: Better = ""
    """Which direction is better; empty where neither is, or where it is not known."""
    scale: float = 1.0
    """Factor from the stored to the printed number."""
    unit: str = ""
    """Unit of the printed number."""
    decimals: int | None = None
    """Fixed decimals; None prints three significant digits."""

    def format(self, value: float) -> str:
        """Print a value without its unit."""
        return self.format_like(value, value)

    def format_like(self, value: float, model: float) -> str:
        """Print a value with the decimals of another one, as a deviation beside its mean."""
        if self.decimals is not None:
            return f"{value * self.scale:,.{self.decimals}f}"
        return rounded(value * self.scale, decimals_of(model * self.scale))

    def with_unit(self, value: float) -> str:
        """Print a value with its unit."""
        return f"{self.format(value)} {self.unit}".rstrip()

    @property
    def heading(self) -> str:
        """Label with unit and direction."""
        direction = {"higher": "higher is better", "lower": "lower is better", "": ""}[self.better]
        return f"{self.label} ({', '.join(x for x in (self.unit, direction) if x)})".replace(
            " ()", ""
        )


def significant(value: float, digits: int = 3) -> str:
    """Print with some significant digits, never in exponents: 0.0312, 3.12, 312, 31,200."""
    return rounded(value, decimals_of(value, digits))


def decimals_of(value: float, digits: int = 3) -> int:
    """Return how many decimals some significant digits take; negative before the point."""
    return digits - 1 - math.floor(math.log10(abs(value))) if value else 0


def rounded(value: float, decimals: int) -> str:
    """Round to some decimals, negative ones before the point."""
    return f"{round(value, decimals):,.{max(decimals, 0)}f}"


_UNITS: dict[str, tuple[float, str, int | None]] = {
    "share": (100.0, "%", 1),
    "dB": (1.0, "dB", 2),
    "deg": (1.0, "°", 1),
    "bytes": (1e-3, "kB", None),
    "count": (1.0, "", 0),
}
"""Units whose printed form differs from the stored one: factor, printed unit, decimals."""

_STAGES = {
    "mapping": "mapping",
    "scene": "scene",
    "rendering": "rendering",
    "rendering_gradient": "rendering and gradient",
    "superresolution": "super-resolution",
    "view": "view",
    "image": "image",
    "discriminator": "discriminator",
    "view_replayed": "replayed view",
    "image_replayed": "replayed image",
}
"""Stages of the benchmark whose floor is known."""

_KNOWN: dict[str, tuple[str, str, Better]] = {
    "quality.swd": ("Distance of images from held-out ones (SWD)", "SWD", "lower"),
    "quality.swd_way": ("Share of the way from untrained to ideal SWD", "SWD way", "higher"),
    "quality.swd_floor": ("SWD of real against real images (floor)", "SWD floor", ""),
    "quality.swd_init": ("SWD before training", "SWD start", ""),
    "quality.swd_pixels": ("SWD of whole images, reduced", "SWD pixels", "lower"),
    "quality.fid": ("Fréchet distance of Inception features (FID)", "FID", "lower"),
    "quality.fid_infinity": ("FID at infinitely many generated images", "FID inf.", "lower"),
    "quality.kid": ("Kernel distance of Inception features (KID)", "KID", "lower"),
    "quality.kid_whole": ("KID over whole sets", "KID whole", "lower"),
    "quality.inception_score": ("Inception score", "IS", "higher"),
    "quality.frechet": ("Fréchet distance of features", "FD", "lower"),
    "quality.frechet_infinity": ("FD at infinitely many generated images", "FD inf.", "lower"),
    "quality.kernel": ("Kernel distance of features", "KD", "lower"),
    "quality.kernel_whole": ("Kernel distance over whole sets", "KD whole", "lower"),
    "quality.class_score": ("Score of predicted classes", "Class score", "higher"),
    "quality.precision": ("Precision (VGG16)", "Precision", "higher"),
    "quality.recall": ("Recall (VGG16)", "Recall", "higher"),
    "quality.precision_inception": ("Precision in Inception features", "Prec. I", "higher"),
    "quality.recall_inception": ("Recall in Inception features", "Recall I", "higher"),
    "quality.frechet_clip": ("Fréchet distance of CLIP features", "FD CLIP", "lower"),
    "quality.kernel_clip": ("Kernel distance of CLIP features", "KD CLIP", "lower"),
    "memorisation.excess": ("Samples nearest to a training image, beyond chance", "Memo.", ""),
    "memorisation.nearer": ("Samples nearer to training than held-out images are", "Nearer", ""),
    "memorisation.distance": ("Distance to the nearest training image", "Nearest", ""),
    "memorisation.distance_real": ("The same of held-out images", "Nearest real", ""),
    "consistency.psnr": ("View consistency by depth", "Reproj.", "higher"),
    "consistency.gain": ("Gain of warping over not warping", "Gain", "higher"),
    "consistency.coverage": ("Foreground that both views see", "Coverage", ""),
    "consistency.ssim": ("SSIM of warped views", "SSIM", "higher"),
    "consistency.lpips": ("LPIPS of warped views", "LPIPS", "lower"),
    "consistency.depth_error": ("Disagreement of depths, mean", "Depth err.", "lower"),
    "consistency.depth_median": ("Disagreement of depths, median", "Depth med.", "lower"),
    "consistency.flicker": ("Flicker of a slow orbit", "Flicker", "lower"),
    "consistency.flicker_share": ("Flicker over the change it is in", "Flicker share", "lower"),
    "refit.ssim": ("SSIM of refitted views", "Refit SSIM", "higher"),
    "refit.psnr": ("View consistency without depth (refit)", "Refit", "higher"),
    "refit.gain": ("Refit over showing the nearest fitted view", "Refit gain", "higher"),
    "refit.psnr_fit": ("Refit on the views that were fitted", "Refit fitted", ""),
    "pose.within_20deg": ("Images within 20° of the pose asked for", "Pose", "higher"),
    "pose.within_20deg_real": ("The same of real images (ceiling)", "Pose real", ""),
    "pose.median_deg": ("Median error of the pose", "Pose error", "lower"),
    "pose.median_deg_real": ("The same of real images (floor)", "Pose error real", ""),
    "pose.estimator_within_20deg": (
        "Images within 20° of the pose, by the given estimator",
        "Pose est.",
        "higher",
    ),
    "pose.estimator_median_deg": (
        "Median error of the pose, by the given estimator",
        "Pose est. error",
        "lower",
    ),
    "identity.cosine": ("Likeness of two views of a latent", "Identity", "higher"),
    "identity.cosine_others": ("Likeness of different latents (floor)", "Id. floor", ""),
    "geometry.relief": ("Depth of the front over its width (0: flat)", "Relief", ""),
    "geometry.thickness": ("Thinnest over longest axis, from all sides", "Thickness", ""),
    "geometry.billboards": ("Items as flat as a billboard", "Billboards", "lower"),
    "geometry.side_share": ("Size of the side over size of the front", "Side", ""),
    "geometry.depth_sd": ("Spread of depth over the front", "Depth spread", ""),
    "geometry.opaque": ("Opaque pixels", "Opaque", ""),
    "geometry.opacity": ("Mean opacity of all pixels", "Opacity", ""),
    "geometry.half_transparent": ("Half-transparent among visible pixels", "Mist", "lower"),
    "geometry.normals_deg": ("Normals of depth against those of density", "Normals", "lower"),
    "geometry.floaters": ("Matter outside the largest piece", "Floaters", "lower"),
    "geometry.filled": ("Part of the box that is solid", "Filled", ""),
    "geometry.shape_to_data": ("Shape distance to the nearest real object", "Shape", "lower"),
    "geometry.shape_from_data": ("Shape distance from each real object", "Variety", "lower"),
    "geometry.shape_to_data_truth": (
        "Shape distance to the nearest other object (ceiling)",
        "Shape truth",
        "",
    ),
    "geometry.shape_from_data_truth": (
        "Shape distance from each other object (ceiling)",
        "Variety truth",
        "",
    ),
    "speed.mapping_ms": ("Time of the mapping", "Mapping", "lower"),
    "speed.scene_ms": ("Time to make a scene, once a latent", "Scene", "lower"),
    "speed.view_ms": ("Time of each view of a scene", "View", "lower"),
    "speed.image_ms": ("Time of one image of a new latent", "Image", "lower"),
    "speed.view_replayed_ms": ("Time of a view, as a CUDA graph", "View graph", "lower"),
    "speed.image_replayed_ms": ("Time of one image, as a CUDA graph", "Image graph", "lower"),
    "speed.image_img_s": ("Images of new latents, in batches", "Images", "higher"),
    "speed.train_img_s": ("Training speed", "Training", "higher"),
    "speed.rendering_ms": ("Time of rendering alone", "Rendering", "lower"),
    "speed.rendering_gradient_ms": ("Time of rendering and its gradient", "Rend. grad.", "lower"),
    "speed.superresolution_ms": ("Time of super-resolution alone", "SR", "lower"),
    "speed.discriminator_ms": ("Time of a discriminator's logit", "D", "lower"),
    "speed.train_g_ms": ("Time of the generator's phase", "G phase", "lower"),
    "speed.train_g_density_ms": ("Time of the density penalty", "Density phase", "lower"),
    "speed.train_d_ms": ("Time of the discriminator's phase", "D phase", "lower"),
    "speed.train_d_penalty_ms": ("Time of the gradient penalty", "R1 phase", "lower"),
    "speed.fused": ("Rays marched by a fused kernel (1) or plain torch (0)", "Fused", ""),
    "speed.peak_gflop_s": ("Fastest matrix product of this device", "Peak", ""),
    "speed.peak_gb_s": ("Fastest copy of this device", "Copy", ""),
    **{
        f"speed.{stage}_floor_share": (f"Floor over time: {words}", f"{words} floor", "higher")
        for stage, words in _STAGES.items()
    },
    "speed.threads": ("CPU threads of the benchmark", "Threads", ""),
    "memory.weights_mb": ("Weights of the generator", "Weights", ""),
    "memory.mapping_mb": ("Peak memory of the mapping", "Mapping mem.", "lower"),
    "memory.scene_mb": ("Peak memory of making a scene", "Scene mem.", "lower"),
    "memory.view_mb": ("Peak memory of one view", "View mem.", "lower"),
    "memory.image_mb": ("Peak memory of one image", "Image mem.", "lower"),
    "memory.view_replayed_mb": ("Peak memory of a replayed view", "View graph mem.", "lower"),
    "memory.image_replayed_mb": ("Peak memory of a replayed image", "Image graph mem.", "lower"),
    "memory.rendering_mb": ("Peak memory of rendering", "Rend. mem.", "lower"),
    "memory.rendering_gradient_mb": (
        "Peak memory of rendering and gradient",
        "Grad. mem.",
        "lower",
    ),
    "memory.superresolution_mb": ("Peak memory of super-resolution", "SR mem.", "lower"),
    "memory.discriminator_mb": ("Peak memory of a logit", "D mem.", "lower"),
    "memory.train_g_mb": ("Peak memory of the generator's phase", "G mem.", "lower"),
    "memory.train_g_density_mb": ("Peak memory of the density penalty", "Density mem.", "lower"),
    "memory.train_d_mb": ("Peak memory of the discriminator's phase", "D phase mem.", "lower"),
    "memory.train_d_penalty_mb": ("Peak memory of the gradient penalty", "R1 mem.", "lower"),
    "memory.train_mb": ("Peak memory of training", "Train mem.", "lower"),
    "cost.parameters": ("Parameters of the generator", "Param.", ""),
    "cost.mapping_parameters": ("Parameters of the mapping", "Map. param.", ""),
    "cost.representation_parameters": ("Parameters of the representation", "Repr. param.", ""),
    "cost.superresolution_parameters": ("Parameters of super-resolution", "SR param.", ""),
    "cost.scene_bytes": ("Size of a scene", "Scene size", "lower"),
    "cost.flops": ("Arithmetic of one image", "Arithm.", "lower"),
    "cost.mapping_flops": ("Arithmetic of the mapping", "Map. arithm.", "lower"),
    "cost.representation_flops": ("Arithmetic of making a scene", "Scene arithm.", "lower"),
    "cost.renderer_flops": ("Arithmetic of rendering a view", "View arithm.", "lower"),
    "cost.superresolution_flops": ("Arithmetic of super-resolution", "SR arithm.", "lower"),
    "training.kimg": ("Images seen in training, in thousands", "Images", ""),
    "training.seconds": ("Time of training", "Time", ""),
}
"""Label, head of a narrow column, and better direction of what this project measures."""

_SUFFIXES = (
    ("_following", ", label following the camera", " follow."),
    ("_truth", ", ground truth (ceiling)", " truth"),
    ("_posed", ", drawn cameras", " posed"),
    ("_legacy_tensorflow", ", resized as by StyleGAN and EG3D", " TF"),
    ("_legacy_pytorch", ", resized as by PyTorch's FID", " PT"),
    ("_inception", ", in Inception features", " I"),
    ("_raw", ", rendering", " raw"),
    ("_enlarged", ", rendering enlarged to the image", " enl."),
)
"""What names of metrics end in, and what it adds to label and head of a narrow column."""
_DIGITS = re.compile(r"_([0-9a-f]{8})$")
"""Of the digest of a network that is not the published one."""
_STAGED = ("psnr", "gain", "coverage", "ssim", "lpips", "flicker", "flicker_share")
"""Measures of `consistency` that are taken of the final image too, where nothing else is said."""
_BLURRED = ("psnr", "ssim", "lpips", "flicker", "flicker_share")
"""Measures of views that blur or one colour raises; the gain over not warping it does not."""

SETS = ("quality.fid", "quality.kid")
"""Metrics that lead in every mode in which they were measured."""

HEADLINE = (
    "quality.fid",
    "quality.kid",
    "quality.swd",
    "quality.swd_way",
    "refit.gain",
    "refit.psnr",
    "consistency.gain",
    "consistency.psnr",
    "pose.within_20deg",
    "speed.scene_ms",
    "speed.view_ms",
    "speed.image_ms",
    "speed.train_img_s",
    "memory.image_mb",
    "memory.train_mb",
    "cost.representation_parameters",
    "cost.scene_bytes",
    "cost.flops",
    "training.kimg",
    "training.seconds",
)
"""The metrics of the opening table, in this order."""

PAPER = (
    "quality.fid",
    "quality.kid",
    "quality.swd",
    "refit.gain",
    "refit.psnr",
    "consistency.gain",
    "consistency.psnr",
    "pose.within_20deg",
    "speed.view_ms",
    "speed.train_img_s",
    "memory.train_mb",
    "cost.representation_parameters",
    "cost.scene_bytes",
)
"""Those of them that fit the width of a page."""

FAMILIES = {
    "quality": "Image quality",
    "memorisation": "Memorisation",
    "consistency": "View consistency by reprojection",
    "refit": "View consistency without depth",
    "pose": "Pose",
    "identity": "Identity",
    "geometry": "Geometry",
    "speed": "Speed",
    "memory": "Memory",
    "cost": "Size and arithmetic",
    "growth": "Growth with resolution",
    "training": "Training",
}
"""Titles of the families of metrics, in the order of the report."""

BENCHED = frozenset({"speed", "memory", "cost", "growth"})
"""Families that `gan3d bench` measures; the others come from the evaluation."""


def metric(name: str, unit: str = "") -> MetricInfo:
    """Return how a metric is shown. One that is not known keeps its name and stored unit."""
    scale, shown, decimals = _UNITS.get(unit, (1.0, unit, None))
    label, short, better = _described(name)
    parts = growth(name)
    if parts is not None:
        axis, quantity, resolution = parts
        label = f"{growth_label(axis, quantity)}, {GROWTH_AXES.get(axis, axis)} {resolution}"
        better = "lower"
    elif (curve := angle_curve(name)) is not None:
        base, angle = curve
        known = metric(base, unit)
        label, short, better = f"{known.label}, {angle:g} rad apart", name, known.better
    elif name.startswith("growth.") and name.endswith("_exponent"):
        axis, quantity = name.removeprefix("growth.").removesuffix("_exponent").split(".", 1)
        label = f"{growth_label(axis, quantity)}: exponent of its growth ({axis})"
    return MetricInfo(name, label, short, better, scale, shown, decimals)


def stem(name: str) -> tuple[str, list[str]]:
    """Split a name into what is known of it and its suffixes, in their order; a known one has none.

    `quality.kid_legacy_tensorflow_posed` gives `quality.kid` and those two, with their underscores.
    What is not known stays whole.
    """
    rest = name
    found: list[str] = []
    while rest not in _KNOWN:
        digits = _DIGITS.search(rest)
        end = next((s for s, _, _ in _SUFFIXES if rest.endswith(s)), digits and digits[0])
        if not end:
            return name, []
        rest, found = rest.removesuffix(end), [end, *found]
    return rest, found


def _described(name: str) -> tuple[str, str, Better]:
    """Return label, head and direction, of which the suffixes tell; a ceiling has no direction."""
    root, suffixes = stem(name)
    label, short, better = _KNOWN.get(root, (name, name, ""))
    staged = root.removeprefix("consistency.") in _STAGED and root.startswith("consistency.")
    if staged and not {"_raw", "_enlarged"} & set(suffixes):
        label += ", final image"
    words = {s: (long, head) for s, long, head in _SUFFIXES}
    for suffix in suffixes:
        long, head = words.get(suffix, (f", by network {suffix[1:]}", f" {suffix[1:]}"))
        label, short = label + long, short + head
    return label, short, "" if "_truth" in suffixes else better


def gain_of(name: str) -> str:
    """Return the gain without which a value of views says nothing; empty for other metrics.

    A gain is its own, for it counts above zero alone.
    """
    root, suffixes = stem((angle_curve(name) or (name,))[0])
    group, _, kind = root.partition(".")
    if group not in ("consistency", "refit") or kind not in ("gain", *_BLURRED):
        return ""
    return f"{group}.gain{''.join(suffixes)}"


def leading(entries: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """Return the entries that are among the metrics; FID and KID in each of their modes."""
    return [
        name
        for entry in entries
        for name in metrics
        if name == entry or (entry in SETS and stem(name)[0] == entry)
    ]


def family(name: str) -> str:
    """Return the family of a metric: what stands before the first dot."""
    return name.partition(".")[0]


def order(name: str) -> tuple[int, int, str]:
    """Sort key: known families first, known metrics first, then by name."""
    families, known = list(FAMILIES), list(_KNOWN)
    group, (root, _) = family(name), stem((angle_curve(name) or (name,))[0])
    return (
        families.index(group) if group in families else len(families),
        known.index(root) if root in known else len(known),
        natural(name),
    )


def natural(name: str) -> str:
    """Pad numbers, so that 64 sorts before 128, and 0.25 before 0.5."""
    return re.sub(r"\d+(\.\d+)?", lambda found: f"{float(found.group()):016.6f}", name)


GROWTH_AXES = {"rendering": "rendering at", "grid": "grid of"}
"""How the resolution that grows is named in a sentence."""

_GROWTH_QUANTITIES = {
    "view_ms": "Time of a view",
    "view_mb": "Memory of a view",
    "scene_ms": "Time to make a scene",
    "scene_mb": "Memory of making a scene",
    "scene_bytes": "Size of a scene",
}
_GROWTH = re.compile(r"growth\.(?P<axis>\w+)\.(?P<quantity>\w+)@(?P<resolution>\d+)")


def growth(name: str) -> tuple[str, str, int] | None:
    """Split `growth.rendering.view_ms@64` into axis, quantity and resolution; None for others."""
    found = _GROWTH.fullmatch(name)
    return (found["axis"], found["quantity"], int(found["resolution"])) if found else None


_ANGLE = re.compile(r"(?P<base>consistency\.\w+)@(?P<angle>[\d.]+)")


def angle_curve(name: str) -> tuple[str, float] | None:
    """Split `consistency.psnr@0.25` into metric and angle in radians; None for others."""
    found = _ANGLE.fullmatch(name)
    return (found["base"], float(found["angle"])) if found else None


def growth_label(axis: str, quantity: str) -> str:
    """Say what grows, in words where they are known."""
    return _GROWTH_QUANTITIES.get(quantity, f"{quantity} ({axis})")
