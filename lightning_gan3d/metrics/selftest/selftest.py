"""The self-test of the view metrics: ceilings of known scenes, and responses to perturbations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.synthetic.ellipsoids import ObjectView
from lightning_gan3d.data.synthetic.synth import SynthConfig, SynthObjects, sample_cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.metric import Metric
from lightning_gan3d.metrics.config import (
    ConsistencyConfig,
    EvaluationConfig,
    FlickerConfig,
    GeometryConfig,
    PoseConfig,
    RefitConfig,
)
from lightning_gan3d.metrics.consistency.flicker import measure_flicker
from lightning_gan3d.metrics.consistency.refit import measure_refit
from lightning_gan3d.metrics.consistency.reprojection import measure_consistency
from lightning_gan3d.metrics.context import EvaluationContext
from lightning_gan3d.metrics.pose.accuracy import pose_errors
from lightning_gan3d.metrics.pose.estimators import PoseRegressor, train_regressor
from lightning_gan3d.metrics.selftest.cheats import (
    RenderedFigures,
    cheats_table,
    check_cheats,
    run_cheats,
)
from lightning_gan3d.metrics.selftest.known_scenes import Balls, Check, check_geometry
from lightning_gan3d.metrics.selftest.perturbations import (
    PERTURBATIONS,
    Perturbation,
    Perturbed,
    paint_over,
)
from lightning_gan3d.metrics.sources import ObjectSource, ViewSource


class Response(NamedTuple):
    """Thresholds of a metric's response to perturbations."""

    key: str
    margin: float
    """Least change for the worse that counts as noticing a perturbation."""
    slack: float
    """Largest change that counts as blind to a perturbation."""
    unit: str = ""
    lower_is_better: bool = False


METRICS = {
    "psnr": Response("consistency.psnr", 3.0, 0.1, "dB"),
    "gain": Response("consistency.gain", 3.0, 0.1, "dB"),
    "ssim": Response("consistency.ssim", 0.02, 1e-3),
    "depth_error": Response("consistency.depth_error", 0.003, 1e-4, lower_is_better=True),
    "flicker": Response("consistency.flicker", 0.004, 2e-4, lower_is_better=True),
    "pose": Response("pose.median_deg", 3.0, 0.1, "deg", lower_is_better=True),
    "refit": Response("refit.psnr", 1.5, 0.01, "dB"),
}
"""Metrics of every amount; `refit` is costly, so only of the last one unless it is strict."""
_COMMON = {"gain": 18.0, "ssim": 0.99, "depth_error": 0.002, "flicker": 0.004}
CEILINGS = {
    "balls": {"psnr": 45.0, **_COMMON, "refit": 20.0},
    "figures": {"psnr": 44.0, **_COMMON, "pose": 15.0, "refit": 26.0},
}
"""Bounds for ground truth, at the resolution of the self-test."""
PLAIN = "one colour, no texture"
"""A perturbation for which the gain must be undefined."""


@dataclass(frozen=True)
class SelfTestConfig:
    """Size of the self-test."""

    resolution: int = 48
    """Side of the images in pixels."""
    evaluation: EvaluationConfig = EvaluationConfig(
        batch=64,
        consistency=ConsistencyConfig(items=8, flicker=FlickerConfig(items=8, frames=5)),
        refit=RefitConfig(items=4, views=10, iterations=100, grid=20, samples=20),
        pose=PoseConfig(resolution=24, iterations=400, batch=16),
        geometry=GeometryConfig(items=8),
    )
    """Options of the metrics."""
    num_images: int = 600
    """Training images of the pose regressor; it is tested on a sixth as many items."""


Render = Callable[[Tensor, Cameras, int], ObjectView]
Reading = dict[str, float | None]
"""Value of each measured metric; None if missing."""


@dataclass
class SelfTest:
    """Values and checks."""

    perturbations: Sequence[Perturbation] = PERTURBATIONS
    ceilings: dict[str, Reading] = field(default_factory=dict)
    """By scene."""
    readings: dict[tuple[str, str, float], Reading] = field(default_factory=dict)
    """By scene, perturbation and amount."""
    cheats: dict[str, list[Metric]] = field(default_factory=dict)
    """Metrics of the honest source and of cheating ones, by name."""
    geometry: list[Check] = field(default_factory=list)
    """Checks of depth, normals and flatness; see `known_scenes`."""
    checks: list[Check] = field(default_factory=list)
    """All checks."""

    @property
    def failures(self) -> list[str]:
        """The checks that failed."""
        return [text for text, holds in self.checks if not holds]

    def noticed(self, scene: str, name: str, amount: float, metric: str) -> bool | None:
        """Whether a metric got worse by its margin; None if it is missing or was not measured."""
        before = self.ceilings[scene].get(metric)
        after = self.readings[scene, name, amount].get(metric)
        if before is None or after is None:
            return None
        return _worse(metric, before, after) >= METRICS[metric].margin


def _worse(metric: str, before: float, after: float) -> float:
    return after - before if METRICS[metric].lower_is_better else before - after


def _read(
    context: EvaluationContext, num_poses: int, regressor: PoseRegressor | None, refit: bool
) -> Reading:
    """Measure a scene; pose only with a regressor."""
    metrics = [*measure_consistency(context), *measure_flicker(context)]
    if refit:
        metrics += measure_refit(context)
    values = {m.key: m.value for m in metrics}
    reading = {name: values[r.key] for name, r in METRICS.items() if r.key in values}
    if regressor is not None:
        items = torch.arange(num_poses)
        cameras = context.source.base(items).rotate_y(torch.tensor([0.0, 0.5]))
        image = context.source.views(items, cameras).image
        reading["pose"] = float(pose_errors(regressor, image, cameras).rad2deg().median())
    return reading


def _cached(render: Render) -> Render:
    """Keep the views: every perturbation changes the same ones."""
    views: dict[tuple[bytes, bytes, int], ObjectView] = {}

    def look_up(ids: Tensor, cameras: Cameras, resolution: int) -> ObjectView:
        key = (ids.numpy().tobytes(), cameras.to_label().numpy().tobytes(), resolution)
        if key not in views:
            views[key] = render(ids, cameras, resolution)
        return views[key]

    return look_up


def run_self_test(
    cfg: SelfTestConfig | None = None,
    progress: Callable[[str], None] = lambda _: None,
    perturbations: Sequence[Perturbation] = PERTURBATIONS,
) -> SelfTest:
    """Measure known scenes, unperturbed and perturbed, and check the response of each metric."""
    with TemporaryDirectory() as cache:
        result = _measure(cfg or SelfTestConfig(), progress, perturbations, Path(cache))
        result.cheats = run_cheats(progress, cache=Path(cache))
    check(result)
    return result


def _measure(
    cfg: SelfTestConfig,
    progress: Callable[[str], None],
    perturbations: Sequence[Perturbation],
    cache: Path,
) -> SelfTest:
    synth = SynthConfig(num_images=200, num_objects=40)
    objects = SynthObjects(synth)
    labels = sample_cameras(synth, synth.num_images, Draws(1)).to_label()
    ids = torch.arange(max(synth.num_images, cfg.num_images)) % synth.num_objects
    of_regressor = sample_cameras(synth, cfg.num_images, Draws(2))
    assert cfg.evaluation.pose is not None, "the self-test measures pose"
    progress("training the pose regressor")
    regressor = train_regressor(
        RenderedFigures(objects, ids[: cfg.num_images], of_regressor, cfg.resolution),
        cfg.evaluation.pose,
    )
    balls = Balls(labels, cfg.resolution)
    figures = ObjectSource(_cached(objects.render), range(40), labels, cfg.resolution)
    cameras = Cameras.from_label(labels)
    data = RenderedFigures(objects, ids[: len(labels)], cameras, cfg.resolution)
    context = EvaluationContext(figures, data, None, cfg.evaluation, curves=False, cache=cache)
    result = SelfTest(perturbations)

    def read(source: ViewSource, pose: bool, refit: bool) -> Reading:
        with_source = replace(context, source=source)
        return _read(with_source, cfg.num_images // 6, regressor if pose else None, refit)

    scenes: dict[str, ViewSource] = {"balls": balls, "figures": figures}
    for scene, source in scenes.items():
        # The regressor is trained on figures.
        full = scene == "figures"
        progress(f"{scene}, unperturbed")
        result.ceilings[scene] = read(source, full, True)
        for p in result.perturbations:
            for amount in p.amounts:
                progress(f"{scene}: {p.name} {amount:g}")
                refit = full and (amount == p.amounts[-1] or "refit" in p.strict)
                perturbed = Perturbed(source, p.change, amount)
                result.readings[scene, p.name, amount] = read(perturbed, full, refit)
        progress(f"{scene}: {PLAIN}")
        plain = Perturbed(source, paint_over, 1.0)
        result.readings[scene, PLAIN, 1.0] = read(plain, False, False)
    progress("geometry")
    result.geometry = check_geometry(balls, context)
    return result


def check(result: SelfTest) -> None:
    """Compare the values with the expectations, and store the outcome in `result.checks`."""
    result.checks = [*result.geometry, *check_cheats(result.cheats)]
    for scene, ceiling in result.ceilings.items():
        for metric, bound in CEILINGS[scene].items():
            value = ceiling[metric]
            holds = value is not None and _worse(metric, bound, value) <= 0
            sign = "<=" if METRICS[metric].lower_is_better else ">="
            result.checks.append((f"{scene}: {metric} {value:.4g} {sign} {bound:g}", holds))
        for p in result.perturbations:
            result.checks += _check_perturbation(result, scene, p)
        undefined = result.readings[scene, PLAIN, 1.0]["gain"] is None
        result.checks.append((f"{scene}, {PLAIN}: the gain is undefined", undefined))


def _check_perturbation(result: SelfTest, scene: str, p: Perturbation) -> list[Check]:
    ceiling = result.ceilings[scene]
    series = [ceiling, *(result.readings[scene, p.name, a] for a in p.amounts)]
    checks = []
    for metric in p.strict:
        if not all(metric in reading for reading in series):
            continue  # not measured on this scene
        values = [reading[metric] for reading in series]
        numbers = [v for v in values if v is not None]
        falls = all(_worse(metric, a, b) > 0 for a, b in pairwise(numbers))
        shown = ", ".join("missing" if v is None else f"{v:.4g}" for v in values)
        text = f"{scene}, {p.name}: {metric} gets worse at each step: {shown}"
        checks.append((text, falls and len(numbers) == len(values)))
    for metric in (*p.notices, *p.blind):
        if metric not in series[-1]:
            continue
        before, after = ceiling.get(metric), series[-1][metric]
        name = f"{scene}, {p.name}: {metric}"
        if before is None or after is None:
            checks.append((f"{name} is missing", False))
            continue
        worse = _worse(metric, before, after)
        if metric in p.notices:
            text = f"{name} notices: worse by {worse:.3g}, at least {METRICS[metric].margin:g}"
            checks.append((text, worse >= METRICS[metric].margin))
        else:
            text = f"{name} does not move: {worse:.3g}, at most {METRICS[metric].slack:g}"
            checks.append((text, abs(worse) <= METRICS[metric].slack))
    return checks


def table(result: SelfTest) -> str:
    """Return Markdown tables of the values, and the failed checks.

    ● noticed, · not noticed; bold if it is checked.
    """
    lines = []
    for scene in result.ceilings:
        heads = [f"`{response.key}`" for response in METRICS.values()]
        lines += [
            f"| {scene} | {' | '.join(heads)} |",
            f"|---|{'---|' * len(METRICS)}",
            _row("unperturbed", [_value(m, result.ceilings[scene].get(m)) for m in METRICS]),
        ]
        for p in result.perturbations:
            for amount in p.amounts:
                label = p.name if len(p.amounts) == 1 else f"{p.name}: {amount:g}"
                reading = result.readings[scene, p.name, amount]
                cells = [_value(m, reading[m]) if m in reading else "" for m in METRICS]
                if amount == p.amounts[-1]:
                    marks = [_mark(result, scene, p, m) for m in METRICS]
                    cells = [f"{c} {k}".strip() for c, k in zip(cells, marks, strict=True)]
                lines.append(_row(label, cells))
        reading = result.readings[scene, PLAIN, 1.0]
        cells = [_value(m, reading[m]) if m in reading else "" for m in METRICS]
        lines += [_row(PLAIN, cells), ""]
    lines += [*cheats_table(result.cheats), ""]
    held = len(result.checks) - len(result.failures)
    lines.append(f"{held} of {len(result.checks)} checks hold.")
    return "\n".join([*lines, *(f"FAILED: {text}" for text in result.failures)])


def _row(label: str, cells: list[str]) -> str:
    return f"| {label} | {' | '.join(cells)} |"


def _value(metric: str, value: float | None) -> str:
    if value is None:
        return "undefined" if metric == "gain" else "missing"
    return f"{value:.1f}" if METRICS[metric].unit else f"{value:.4f}"


def _mark(result: SelfTest, scene: str, p: Perturbation, metric: str) -> str:
    noticed = result.noticed(scene, p.name, p.amounts[-1], metric)
    if noticed is None:
        return ""
    mark = "●" if noticed else "·"
    return f"**{mark}**" if metric in (*p.notices, *p.blind) else mark
