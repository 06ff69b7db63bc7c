"""The self-test of the view measures: ceilings of known scenes, and what disturbances do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import UInt8
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.synthetic.synth import SynthConfig, SynthObjects, sample_cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import to_uint8
from lightning_gan3d.metrics.config import (
    ConsistencyConfig,
    FlickerConfig,
    GeometryConfig,
    PoseConfig,
    RefitConfig,
)
from lightning_gan3d.metrics.consistency.refit import measure_refit
from lightning_gan3d.metrics.consistency.reprojection import measure_consistency
from lightning_gan3d.metrics.consistency.warp import carry
from lightning_gan3d.metrics.pose.regressor import PoseRegressor, pose_errors, train_regressor
from lightning_gan3d.metrics.selftest import perturbations
from lightning_gan3d.metrics.selftest.known_geometry import check_geometry
from lightning_gan3d.metrics.selftest.perturbations import Balls, Change, Disturbed
from lightning_gan3d.metrics.sources import ObjectSource, ViewSource

CHEAP = ("psnr", "gain", "ssim", "depth_error", "flicker", "pose")
"""Measures that are read at every amount; `refit` only where its fall is to be strict."""
MEASURES = (*CHEAP, "refit")
LOWER_IS_BETTER = frozenset({"depth_error", "flicker", "pose"})
MARGIN = {
    "psnr": 3.0,
    "gain": 3.0,
    "ssim": 0.02,
    "depth_error": 0.003,
    "flicker": 0.004,
    "pose": 3.0,
    "refit": 1.5,
}
"""By how much a measure must get worse to have noticed: dB, shares, degrees."""
SLACK = {
    "psnr": 0.1,
    "gain": 0.1,
    "ssim": 1e-3,
    "depth_error": 1e-4,
    "flicker": 2e-4,
    "pose": 0.1,
    "refit": 0.01,
}
"""By how much a measure may move where there is nothing that it should notice."""
CEILINGS = {
    "balls": {
        "psnr": 45.0,
        "gain": 20.0,
        "ssim": 0.99,
        "depth_error": 0.002,
        "flicker": 0.004,
        "refit": 20.0,
    },
    "figures": {
        "psnr": 44.0,
        "gain": 20.0,
        "ssim": 0.99,
        "depth_error": 0.002,
        "flicker": 0.004,
        "pose": 15.0,
        "refit": 26.0,
    },
}
"""What the truth must reach, at the resolution of the self-test."""


@dataclass(frozen=True)
class Disturbance:
    """What is done to the views, and what must come of it."""

    name: str
    change: Change
    amounts: tuple[float, ...]
    """Growing; the last one must be noticed by a margin."""
    strict: tuple[str, ...] = ()
    """Measures whose mean over the scenes must get worse with every step."""
    notices: tuple[str, ...] = ()
    """Measures that must get worse by their margin at the last amount."""
    blind: tuple[str, ...] = ()
    """Measures that must not move: there is nothing for them to notice."""


DISTURBANCES = (
    Disturbance(
        "depth too large",
        perturbations.scale_depth,
        (0.01, 0.02, 0.04, 0.08),
        strict=("psnr", "gain", "ssim", "depth_error"),
        notices=("psnr", "gain", "ssim", "depth_error"),
        blind=("pose", "refit"),
    ),
    Disturbance(
        "views turned at random (rad)",
        perturbations.turn_views,
        (0.05, 0.1, 0.2, 0.4),
        strict=("psnr", "gain", "ssim", "depth_error", "refit", "pose"),
        notices=("psnr", "gain", "ssim", "depth_error", "refit", "pose"),
    ),
    Disturbance(
        "texture slides with the screen",
        perturbations.slide_texture,
        (0.02, 0.04, 0.08, 0.16),
        strict=("psnr", "gain", "ssim", "refit"),
        notices=("psnr", "gain", "ssim", "refit"),
        blind=("depth_error",),
    ),
    Disturbance(
        "noise in every view",
        perturbations.add_noise,
        (0.01, 0.02, 0.04, 0.08),
        strict=("flicker", "psnr", "gain", "ssim"),
        notices=("flicker", "psnr", "gain", "ssim"),
        blind=("depth_error",),
    ),
    Disturbance(
        "each view in another tint",
        perturbations.tint_views,
        (0.08,),
        notices=("psnr", "gain", "flicker", "refit"),
        blind=("depth_error",),
    ),
    Disturbance(
        "every second view of another item",
        perturbations.swap_items,
        (1.0,),
        notices=("psnr", "gain", "ssim", "depth_error", "refit"),
    ),
    Disturbance(
        "every second view mirrored",
        perturbations.mirror_views,
        (1.0,),
        notices=("psnr", "gain", "ssim", "depth_error", "refit", "pose"),
    ),
    Disturbance(
        "flat depth (billboard)",
        perturbations.flatten_depth,
        (1.0,),
        notices=("psnr", "gain", "ssim"),
        blind=("pose", "refit"),
    ),
    Disturbance(
        "one picture for all cameras",
        perturbations.stay_picture,
        (1.0,),
        notices=("psnr", "gain", "ssim", "depth_error", "refit", "pose"),
    ),
)
"""The expectations of the self-test. What a row does not name is shown, and not judged."""


@dataclass(frozen=True)
class SelfTestConfig:
    """Size of the self-test."""

    resolution: int = 48
    """Side of the images in pixels."""
    consistency: ConsistencyConfig = ConsistencyConfig(
        items=8, flicker=FlickerConfig(items=8, frames=5)
    )
    """Reprojection and flicker."""
    refit: RefitConfig = RefitConfig(items=4, views=10, iterations=100, grid=20, samples=20)
    """Refitting."""
    pose: PoseConfig = PoseConfig(resolution=24, iterations=400, batch=16)
    """The regressor."""
    geometry: GeometryConfig = GeometryConfig(items=8)
    """Relief and billboards."""
    num_images: int = 600
    """Images that the regressor is trained on; it reads a sixth as many items."""


Reading = dict[str, float | None]
"""Value of each measure that was read; None where it is missing."""


@dataclass
class SelfTest:
    """What was read, and what came of the checks."""

    disturbances: Sequence[Disturbance] = DISTURBANCES
    """What was done to the views."""
    ceilings: dict[str, Reading] = field(default_factory=dict)
    """By scene."""
    readings: dict[tuple[str, str, float], Reading] = field(default_factory=dict)
    """By scene, disturbance and amount."""
    geometry: list[tuple[str, bool]] = field(default_factory=list)
    """Checks of depth, normals and flatness; see `known_geometry`."""
    checks: list[tuple[str, bool]] = field(default_factory=list)
    """Each check in words, and whether it held."""

    @property
    def failures(self) -> list[str]:
        """The checks that did not hold."""
        return [words for words, held in self.checks if not held]

    def noticed(self, scene: str, name: str, amount: float, measure: str) -> bool | None:
        """Whether a measure got worse by its margin; None where it was not read, or is missing."""
        before = self.ceilings[scene].get(measure)
        after = self.readings[scene, name, amount].get(measure)
        if before is None or after is None:
            return None
        return _worse(measure, before, after) >= MARGIN[measure]


def _worse(measure: str, before: float, after: float) -> float:
    return after - before if measure in LOWER_IS_BETTER else before - after


class RenderedFigures:
    """Images of the figures with their labels, as a data set gives them."""

    def __init__(self, objects: SynthObjects, num: int, resolution: int) -> None:
        """Render one figure from one camera each."""
        self.labels = sample_cameras(objects.cfg, num, Draws(2)).to_label()
        self.resolution = resolution
        self.fingerprint = f"figures-{num}-{resolution}"
        view = objects.render(
            torch.arange(num) % objects.cfg.num_objects,
            Cameras.from_label(self.labels),
            resolution,
        )
        self._images = to_uint8(view.image)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels)

    def images(self, indices: Tensor) -> UInt8[Tensor, "n 3 h w"]:
        """Read some images."""
        return self._images[torch.as_tensor(indices)]


class _Reader:
    """Takes the measures of a source of views."""

    def __init__(self, cfg: SelfTestConfig, labels: Tensor, regressor: PoseRegressor) -> None:
        self.cfg, self.labels, self.regressor = cfg, labels, regressor

    def read(self, source: ViewSource, refit: bool, pose: bool) -> Reading:
        found = measure_consistency(source, self.cfg.consistency, 64, curves=False)
        values = {m.metric: m.value for m in found}
        reading: Reading = {name: values[f"consistency.{name}"] for name in CHEAP if name != "pose"}
        if pose:
            items = torch.arange(self.cfg.num_images // 6)
            cameras = carry(source.base(items), torch.tensor([0.0, 0.5]))
            image = source.views(items, cameras).image
            reading["pose"] = float(pose_errors(self.regressor, image, cameras).rad2deg().median())
        if refit:
            rows = measure_refit(source, self.labels, self.cfg.refit, batch=64)
            reading["refit"] = next(m.value for m in rows if m.metric == "refit.psnr")
        return reading


def run_self_test(
    cfg: SelfTestConfig | None = None,
    tell: Callable[[str], None] = lambda _: None,
    disturbances: Sequence[Disturbance] = DISTURBANCES,
) -> SelfTest:
    """Measure known scenes and their disturbances, and check what each measure makes of them.

    `tell` hears what is being measured.
    """
    cfg = cfg or SelfTestConfig()
    synth = SynthConfig(num_images=200, num_objects=40)
    objects = SynthObjects(synth)
    labels = sample_cameras(synth, synth.num_images, Draws(1)).to_label()
    tell("training the pose regressor")
    data = RenderedFigures(objects, cfg.num_images, cfg.resolution)
    reader = _Reader(cfg, labels, train_regressor(data, cfg.pose))
    scenes: dict[str, ViewSource] = {
        "balls": Balls(labels, cfg.resolution),
        "figures": ObjectSource(objects.render, range(40), labels, cfg.resolution),
    }
    result = SelfTest(disturbances)
    for scene, source in scenes.items():
        # The regressor knows the figures alone, and fields are refitted to them alone.
        full = scene == "figures"
        tell(f"{scene} as they are")
        result.ceilings[scene] = reader.read(source, True, full)
        for d in result.disturbances:
            for amount in d.amounts:
                tell(f"{scene}: {d.name} {amount:g}")
                refit = full and (amount == d.amounts[-1] or "refit" in d.strict)
                disturbed = Disturbed(source, d.change, amount)
                result.readings[scene, d.name, amount] = reader.read(disturbed, refit, full)
        tell(f"{scene}: one colour")
        plain = Disturbed(source, perturbations.paint_over, 1.0)
        result.readings[scene, PLAIN, 1.0] = reader.read(plain, False, False)
    tell("geometry")
    figures = scenes["figures"]
    result.geometry = check_geometry(Balls(labels, cfg.resolution), figures, cfg.geometry)
    check(result)
    return result


PLAIN = "one colour, no texture"
"""The scene on which a gain must be undefined."""


def check(result: SelfTest) -> None:
    """Compare what was read with what is expected; the outcome is in `result.checks`."""
    result.checks = list(result.geometry)
    for scene, ceiling in result.ceilings.items():
        for measure, bound in CEILINGS[scene].items():
            value = ceiling[measure]
            held = value is not None and _worse(measure, bound, value) <= 0
            sign = "<=" if measure in LOWER_IS_BETTER else ">="
            result.checks.append((f"{scene}: {measure} {value:.4g} {sign} {bound:g}", held))
        for d in result.disturbances:
            _check_disturbance(result, scene, d)
        plain = result.readings[scene, PLAIN, 1.0]
        undefined = plain["gain"] is None
        result.checks.append((f"{scene}, {PLAIN}: the gain is undefined", undefined))


def _check_disturbance(result: SelfTest, scene: str, d: Disturbance) -> None:
    ceiling = result.ceilings[scene]
    series = [ceiling, *(result.readings[scene, d.name, a] for a in d.amounts)]
    for measure in d.strict:
        values = [r.get(measure) for r in series if measure in r]
        if len(values) < len(series):
            continue  # not read on this scene
        numbers = [v for v in values if v is not None]
        falls = len(numbers) == len(series) and all(
            _worse(measure, a, b) > 0 for a, b in pairwise(numbers)
        )
        shown = ", ".join("missing" if v is None else f"{v:.4g}" for v in values)
        result.checks.append(
            (f"{scene}, {d.name}: {measure} gets worse at each step: {shown}", falls)
        )
    for measure in (*d.notices, *d.blind):
        before, after = ceiling.get(measure), series[-1].get(measure)
        if measure not in series[-1]:
            continue  # as above
        what = f"{scene}, {d.name}: {measure}"
        if before is None or after is None:
            result.checks.append((f"{what} is missing", False))
            continue
        worse = _worse(measure, before, after)
        if measure in d.notices:
            words = f"notices: worse by {worse:.3g}, at least {MARGIN[measure]:g}"
            result.checks.append((f"{what} {words}", worse >= MARGIN[measure]))
        else:
            words = f"does not move: {worse:.3g}, at most {SLACK[measure]:g}"
            result.checks.append((f"{what} {words}", abs(worse) <= SLACK[measure]))
