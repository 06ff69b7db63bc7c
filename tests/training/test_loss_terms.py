"""`loss.terms`: closed forms, gradients, schedules, and what is rejected."""

import json
import math
import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from lightning_gan3d import registry
from lightning_gan3d.benchmark.training import step_kinds
from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError, build, to_tree
from lightning_gan3d.contract import Field, FieldSample, SceneConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.images import Images
from lightning_gan3d.training import losses, schedules
from lightning_gan3d.training import module as module_file
from lightning_gan3d.training.config import LossConfig, TermConfig
from lightning_gan3d.training.module import make_modules
from lightning_gan3d.training.terms import LOSS_TERMS, TermInput

BOX = 3.0
STATE = schedules.ScheduleState._make([0] * len(schedules.ScheduleState._fields))


@dataclass(frozen=True, eq=False)
class Distance(Field):
    """sigma_raw = slope * (|p * axes| - radius): a sphere, or with one axis two planes."""

    slope: Tensor
    axes: Tensor
    scene_cfg: SceneConfig
    radius: float = 0.7

    def __call__(self, points, dirs=None):  # noqa: ARG002  # base class
        norm = (points * self.axes[:, None]).norm(dim=-1, keepdim=True)
        sigma_raw = self.slope[:, None, None] * (norm - self.radius)
        return FieldSample(sigma_raw, torch.zeros(*points.shape))


def of_field(slope=1.0, axes=(1.0, 1.0, 1.0), radius=0.7):
    slope = torch.as_tensor([slope, slope])
    scene = Distance(slope, torch.tensor([axes, axes]), SceneConfig(box=BOX), radius)
    return TermInput(scene, STATE, Draws(0))


CAMERAS = Cameras.orbit(2, 0.4)


def of_images(depth=None, opacity=None, size=16):
    ones = torch.ones(2, 1, size, size)
    depth, opacity = (ones if x is None else x.expand(2, 1, size, size) for x in (depth, opacity))
    image = torch.zeros(2, 3, size, size)
    return TermInput(None, STATE, Draws(0), Images(image, image, depth, opacity), CAMERAS)


def value(kind, at, **options):
    cfg, term = LOSS_TERMS[kind]
    return term(cfg(weight=1.0, **options), at)


def close(found, expected, **tolerance):
    torch.testing.assert_close(
        found,
        torch.as_tensor(expected, dtype=found.dtype),
        **{"rtol": 1e-5, "atol": 1e-6, **tolerance},
    )


@pytest.mark.parametrize(("slope", "expected"), [(1.0, 0.0), (2.0, 1.0), (0.5, 0.25)])
def test_the_eikonal_term_of_a_scaled_sphere(slope, expected):
    close(value("eikonal", of_field(slope)), expected)


@pytest.mark.parametrize("sharpness", [100.0, 5.0])
def test_the_minimal_surface_term_of_a_plane(sharpness):
    """Of d = |x|, x uniform in [-h, h]: (1 - exp(-sharpness h)) / (sharpness h)."""
    plane = of_field(axes=(1.0, 0.0, 0.0), radius=0.0)
    h = BOX / 2
    expected = (1 - math.exp(-sharpness * h)) / (sharpness * h)
    found = value("minimal_surface", plane, sharpness=sharpness, num_points=100_000)
    close(found, expected, rtol=0.1)
    inside = of_field(axes=(1.0, 0.0, 0.0), radius=BOX)  # d <= -h
    assert value("minimal_surface", inside, sharpness=sharpness) <= math.exp(-sharpness * h) * 1.01


def test_density_smoothness_is_density_reg():
    field = of_field(3.0)
    cfg = LossConfig(density_reg_num_points=50, density_reg_distance=0.1)
    points = losses.density_points(cfg, BOX, 2, field.draws, torch.device("cpu"))
    found = value("density_smoothness", field, num_points=50, distance=0.1)
    assert found == losses.density_l1(field.scene, *points)
    assert found > 0


def test_bimodality_is_zero_at_0_and_1_and_largest_at_one_half():
    a = torch.linspace(0, 1, 11)
    found = torch.stack([value("bimodality", of_images(opacity=x)) for x in a])
    close(found[[0, 5, 10]], [0.0, math.log(0.36 / 0.11), 0.0])
    close(found, found.flip(0))
    assert found.argmax() == 5
    assert bool((found[1:10] > 0).all())
    ends = of_images(opacity=torch.cat([torch.zeros(2, 1, 16, 8), torch.ones(2, 1, 16, 8)], 3))
    close(value("bimodality", ends), 0.0)  # each pixel, not their mean


@pytest.mark.parametrize(("mean", "expected"), [(0.1, 0.2), (0.3, 0.0), (0.6, 0.0), (0.9, 0.15)])
def test_coverage_is_a_hinge(mean, expected):
    half = torch.cat(
        [torch.full((2, 1, 16, 8), 2 * mean - 0.05), torch.full((2, 1, 16, 8), 0.05)], 3
    )
    close(value("coverage", of_images(opacity=half), low=0.3, high=0.75), expected)


def test_coverage_is_that_of_each_view():
    empty_and_full = torch.tensor([0.0, 1.0])[:, None, None, None]
    close(value("coverage", of_images(opacity=empty_and_full), low=0.5, high=0.5), 0.5)


def ramp(x, y, size):
    u = (torch.arange(size) + 0.5) / size
    return (3 + x * u[None, :] + y * u[:, None])[None, None]


@pytest.mark.parametrize("size", [8, 32])
def test_the_total_variation_of_a_ramp_is_its_slope_at_any_resolution(size):
    at = of_images(ramp(2.0, -0.5, size), size=size)
    close(value("total_variation", at), 2.5, rtol=1e-4)
    close(value("total_variation", of_images(size=size)), 0.0)


def test_edges_to_an_empty_background_do_not_count():
    right = (torch.arange(16) >= 8).float().expand(1, 1, 16, 16)
    step = of_images(depth=2 + right)
    close(value("total_variation", step), 16 / 15)
    for turned in (right, right.flip(3), right.mT, right.flip(3).mT):
        background = of_images(depth=2 + turned, opacity=1 - turned)
        close(value("total_variation", background), 0.0)
    half = of_images(depth=2 + right, opacity=1 - right / 2)
    close(value("total_variation", half), 8 / 15)


def along_rays(depth_z):
    return depth_z / CAMERAS.depth_z(torch.ones(2, 1, 16, 16))


@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
def test_the_depth_variance_of_a_plane(slope):
    """Of z = 3 + slope u at n pixel centres: slope^2 (1 - 1 / n^2) / 12."""
    at = of_images(along_rays(ramp(slope, 0.0, 16)))
    variance = slope**2 * (1 - 1 / 16**2) / 12
    close(value("depth_variance", at, std=0.05), max(0.0, 1 - variance / 0.05**2), atol=2e-5)


def test_the_depth_variance_is_that_of_opaque_pixels():
    right = (torch.arange(16) >= 8).float().expand(2, 1, 16, 16)
    at = of_images(along_rays(3 + right), opacity=1 - right)
    close(value("depth_variance", at), 1.0)
    close(value("depth_variance", of_images(along_rays(3 + right)), std=1.0), 0.75, rtol=1e-4)
    empty = of_images(opacity=torch.zeros(1))
    close(value("depth_variance", empty), 1.0)


IMAGE_TERMS = {
    "coverage": {"low": 0.9},
    "bimodality": {},
    "depth_variance": {"std": 2.0},
    "total_variation": {},
}
READS = {"coverage": "opacity", "bimodality": "opacity"}


@pytest.mark.parametrize("kind", IMAGE_TERMS)
def test_gradients_by_depth_and_opacity_equal_finite_differences(kind):
    torch.manual_seed(0)
    x = 0.2 + 0.6 * torch.rand(2, 1, 4, 4, dtype=torch.float64)
    x.requires_grad_()

    def loss(x):
        at = of_images(size=4)
        images = at.images._replace(**{READS.get(kind, "depth"): x})
        at = at._replace(images=images, cameras=CAMERAS.to(dtype=torch.float64))
        return value(kind, at, **IMAGE_TERMS[kind])

    assert torch.autograd.gradcheck(loss, x)
    assert torch.autograd.grad(loss(x), x)[0].abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["depth_variance", "total_variation"])
def test_weights_by_opacity_get_no_gradient(kind):
    depth, opacity = (torch.rand(2, 1, 16, 16, requires_grad=True) for _ in range(2))
    value(kind, of_images(depth, opacity)).backward()
    assert depth.grad is not None
    assert opacity.grad is None


@pytest.mark.parametrize("kind", ["eikonal", "minimal_surface", "density_smoothness"])
def test_gradients_by_the_field_equal_finite_differences(kind):
    def loss(slope):
        at = of_field()
        scene = Distance(slope.expand(2), at.scene.axes.double(), at.scene.scene_cfg)
        if kind == "eikonal":
            return losses.eikonal(scene, at.points(40).double())
        options = {"sharpness": 3.0} if kind == "minimal_surface" else {"num_points": 40}
        return value(kind, at._replace(scene=scene), **options)

    assert torch.autograd.gradcheck(
        loss, torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    )


def test_weights_follow_images_and_the_interval():
    cfg = LOSS_TERMS["coverage"][0](
        0.0, final_weight=4.0, start_kimg=1.0, fade_kimg=2.0, interval=3
    )
    at = [schedules.term_weight(cfg, step, images) for step, images in
          [(0, 0), (3, 1000), (3, 2000), (4, 2000), (5, 2000), (6, 2000), (9, 9000)]]  # fmt: skip
    assert at == [0.0, 0.0, 6.0, 0.0, 0.0, 6.0, 12.0]
    assert schedules.term_weight(LOSS_TERMS["coverage"][0](0.5), 7, 0) == 0.5
    late = LOSS_TERMS["coverage"][0](0.0, final_weight=1.0, start_kimg=1.0)
    assert [schedules.term_weight(late, 1, images) for images in (999, 1000)] == [0.0, 1.0]


def listed(kind, weight=1.0, **options):
    return "loss.terms=" + json.dumps([{"kind": kind, "weight": weight, **options}])


@pytest.fixture
def gradient(tiny, monkeypatch):
    """A function from options to the gradient of a generator step, and the module."""
    collected = []

    def skip(optimizer, *_):
        collected.append([p.grad for p in optimizer.param_groups[0]["params"]])
        optimizer.zero_grad()

    monkeypatch.setattr(module_file, "gated_step", skip)

    def step(*options, step=0):
        module, data = make_modules(tiny(*options))
        batch = next(iter(data.train_dataloader(0, 1)))
        module.generator_step(module.split(batch._replace(step=step)))
        flat = torch.cat([g.flatten() for g in collected.pop() if g is not None])
        return flat, module.meter

    return step


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("density_smoothness", {}),
        ("coverage", {"low": 1.0}),
        ("bimodality", {}),
        ("depth_variance", {"std": 3.0}),
        ("total_variation", {}),
    ],
)
def test_a_term_adds_its_weighted_gradient_every_interval_steps(gradient, kind, options):
    plain, _ = gradient()
    once, meter = gradient(listed(kind, 1.0, **options))
    assert meter.read()[f"loss/{kind}"] > 0
    added = once - plain
    assert added.norm() > 1e-5
    lazy, _ = gradient(listed(kind, 2.0, interval=3, **options))
    torch.testing.assert_close(lazy - plain, 6 * added, rtol=1e-3, atol=float(1e-3 * added.norm()))
    other, meter = gradient(listed(kind, 2.0, interval=3, **options), step=1)
    assert torch.equal(other, gradient(step=1)[0])
    assert f"loss/{kind}" not in meter.read()


def test_terms_of_scenes_are_computed_once_and_those_of_images_per_view(gradient, monkeypatch):
    calls = []
    for kind in ("density_smoothness", "coverage"):
        cfg, term = LOSS_TERMS[kind]

        def counted(*args, kind=kind, term=term):
            calls.append(kind)
            return term(*args)

        monkeypatch.setitem(LOSS_TERMS, kind, (cfg, counted))
    both = [{"kind": kind, "weight": 1} for kind in ("density_smoothness", "coverage")]
    gradient("loss.terms=" + json.dumps(both), "training.views=3")
    assert sorted(calls) == 3 * ["coverage"] + ["density_smoothness"]


def test_repeated_kinds_are_logged_and_drawn_apart(gradient):
    pair = 2 * [{"kind": "density_smoothness", "weight": 1}]
    meter = gradient("loss.terms=" + json.dumps(pair))[1].read()
    ratio = meter["loss/density_smoothness.1"] / meter["loss/density_smoothness.0"]
    assert ratio != 1
    assert ratio == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("kind", "generator", "message"),
    [
        ("eikonal", "triplane", r"terms: eikonal: .*density\.activation=softplus: use sdf"),
        ("minimal_surface", "image2d", "minimal_surface: .*no density field; remove the term"),
        ("density_smoothness", "image2d", "density_smoothness: .*no density field; remove"),
        (
            "coverage",
            "image2d",
            r"coverage: generator.renderer.kind=picture has no opacity; remove",
        ),
        ("total_variation", "image2d", "renderer.kind=picture has no depth; remove the term"),
    ],
)
def test_terms_that_a_generator_cannot_have_are_rejected(tiny, kind, generator, message):
    with pytest.raises(ConfigError, match=message):
        tiny(listed(kind), kind=generator)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{kind: coverge, weight: 1}]", r"terms\.0\.kind=coverge .*no loss term.*`coverage`\?"),
        ("[{kind: coverage}]", r"loss\.terms\.0\.weight: required"),
        ("[{kind: coverage, weight: -1}]", r"terms\.0\.weight=-1.*: use a number, 0 or more"),
        ("[{kind: bimodality, weight: 1, interval: 0}]", r"terms\.0\.interval=0.*: use a whole"),
        ("[{kind: coverage, weight: 1, low: 0.9, high: 0.2}]", r"low=0.9 is above high=0.2; use"),
        ("[{kind: coverage, weight: 1, lo: 0.9}]", r"unknown key `loss\.terms\.0\.lo`.*`low`"),
        ("{kind: coverage, weight: 1}", r"loss\.terms=.*: use a list, not dict"),
        ("[coverage]", r"terms\.0='coverage'.*: write a mapping with `kind:`"),
    ],
)
def test_wrong_lists_are_rejected(tiny, text, message):
    with pytest.raises(ConfigError, match=message):
        tiny(f"loss.terms={text}")


def test_terms_are_stored_and_read(tiny):
    config = tiny(listed("coverage", 0.5, high=0.8))
    tree = to_tree(config)
    assert tree["loss"]["terms"][0]["kind"] == "coverage"
    assert tree["loss"]["terms"][0]["high"] == 0.8
    assert build(type(config), json.loads(json.dumps(tree))) == config


def test_only_terms_change_the_hash(tiny, monkeypatch):
    assert tiny("loss.terms=[]").hash == tiny().hash
    assert tiny(listed("coverage")).hash != tiny().hash
    assert tiny(listed("coverage")).hash != tiny(listed("coverage", 2.0)).hash
    monkeypatch.setattr("lightning_gan3d.config.digest", json.dumps)
    assert "terms" not in json.loads(tiny().hash)["loss"]


def test_the_benchmark_times_steps_with_and_without_a_lazy_term():
    lazy = LOSS_TERMS["coverage"][0](1.0, interval=2)
    assert step_kinds(LossConfig(r1_gamma=0.0, terms=(lazy,))) == [("coverage",), ()]


def test_the_documentation_lists_all_kinds_and_its_example_is_valid(tmp_path):
    text = (Path(__file__).parents[2] / "docs/configuration.md").read_text(encoding="utf-8")
    section = text.partition("## Loss terms")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(LOSS_TERMS)
    file = tmp_path / "terms.yaml"
    file.write_text(section.partition("```yaml")[2].partition("```")[0])
    assert len(load_experiment(file).loss.terms) == 3


@dataclass(frozen=True)
class GreyConfig(TermConfig):
    """A term of another package."""

    needs: ClassVar = "image"
    level: float = 0.0


def grey(cfg, at):
    return (at.images.image_raw - cfg.level).square().mean()


GREY = (GreyConfig, grey)
WRONG = (GreyConfig, 1)
FOREIGN = (SceneConfig, grey)


@pytest.fixture
def other_package(monkeypatch):
    def entry_points(group):
        assert group.startswith("lightning_gan3d.")
        names = ["GREY", "WRONG", "FOREIGN"] if group == "lightning_gan3d.loss_terms" else []
        return [EntryPoint(name.lower(), f"{__name__}:{name}", group) for name in names]

    monkeypatch.setattr(registry, "entry_points", entry_points)


@pytest.mark.usefixtures("other_package")
def test_a_term_of_another_package_is_computed(gradient, tiny):
    config = tiny(listed("grey", 3.0, level=0.5))
    assert config.loss.terms == (GreyConfig(3.0, level=0.5),)
    assert to_tree(config)["loss"]["terms"][0]["kind"] == "grey"
    plain, _ = gradient()
    found, meter = gradient(listed("grey", 3.0, level=0.5))
    assert meter.read()["loss/grey"] > 0
    assert (found - plain).norm() > 1e-5
    with pytest.raises(ConfigError, match=r"WRONG must be a tuple \(Config, function\)"):
        tiny(listed("wrong"))
    with pytest.raises(ConfigError, match="foreign: SceneConfig must derive from TermConfig"):
        tiny("loss.terms=[{kind: foreign}]")


SDF = "generator.scene.density.activation=sdf"


@pytest.mark.parametrize(("kind", "start"), [("eikonal", 0.0), ("minimal_surface", 0.0227)])
def test_terms_of_a_signed_distance_train_it(gradient, kind, start):
    """A box of edge 2 starts as a sphere of radius 0.85: 4 pi r^2 * 2 / 100 of 8."""
    found, meter = gradient(SDF, "generator.scene.density.prior_radius=0.85", listed(kind))
    assert meter.read()[f"loss/{kind}"] == pytest.approx(start, rel=0.1, abs=1e-6)
    plain, _ = gradient(SDF, "generator.scene.density.prior_radius=0.85")
    assert ((found - plain).norm() > 1e-3) == (start > 0)


def test_the_density_of_a_signed_distance_is_not_smoothed(tiny):
    with pytest.raises(ConfigError, match=r"density_smoothness: .*slopes of 1; use the kind eikon"):
        tiny(SDF, listed("density_smoothness"))
