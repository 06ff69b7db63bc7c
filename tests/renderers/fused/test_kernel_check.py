"""A faulty kernel is replaced by the plain path; a sound one is checked once."""

import dataclasses
import types
from collections import Counter

import pytest
import torch
from kernel_comparison import make_field
from kernel_comparison import views as orbit

from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import DensityConfig
from lightning_gan3d.draws import Draws
from renderers import backends
from renderers.fused import kernel_check
from renderers.ray_marching import render_request
from renderers.volume import VolumeRenderer, VolumeRendererConfig

RAYS, ALL_RAYS = kernel_check.NUM_RAYS, 24**2


def renderer(**options):
    options = {"samples_coarse": 8, "samples_fine": 8, **options}
    return VolumeRenderer(VolumeRendererConfig(**options))


@pytest.fixture
def kernel(monkeypatch):
    """The plain path under the name of a kernel; a test injects faults into sums or requests."""
    module = types.ModuleType("renderers.faulty_kernel")
    module.spoil = lambda sums: sums
    module.spoil_request = lambda request: request
    module.calls = []
    module.unsupported = lambda _: None
    module.describe = lambda _: "a kernel"
    module.field = make_field()

    def fused(request):
        module.calls.append(request.rays.origins.shape[1])
        return module.spoil(render_request(module.spoil_request(request)))

    module.render_request = fused
    monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    monkeypatch.setattr(backends, "KERNELS", {"numba": (module.__name__, "cpu")})
    monkeypatch.setattr(kernel_check, "_faults", {})
    monkeypatch.setattr(kernel_check, "_checks", Counter())
    return module


def render(kernel, o, gradient=False, views=1, draws=None):
    with torch.set_grad_enabled(gradient):
        field = kernel.field
        if gradient:
            field = dataclasses.replace(field, planes=field.planes.clone().requires_grad_())
        return o(field, orbit(views), 24, draws).feature


def roll(sums):
    """A fault: features in other channels."""
    return sums._replace(feature=sums.feature.roll(1, -1))


def test_a_sound_kernel_is_checked_once_and_used(kernel):
    o = renderer()
    for _ in range(2):
        render(kernel, o)
        assert str(o.backend) == "a kernel"
    assert kernel.calls == [RAYS, ALL_RAYS, ALL_RAYS]
    render(kernel, o, gradient=True)  # another kind: its gradient was not checked
    assert kernel.calls == [RAYS, ALL_RAYS, ALL_RAYS, RAYS, ALL_RAYS]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (roll, "self-check: feature is off by"),
        (lambda s: s._replace(feature=s.feature * torch.nan), "feature is off by inf"),
        (lambda s: s._replace(depth=s.depth * 1.1), "depth is off by"),
        (lambda s: s._replace(opacity=s.opacity.roll(1, 1)), "opacity is off by"),
    ],
)
def test_a_faulty_kernel_is_replaced_with_the_reason(kernel, spoil, reason):
    kernel.spoil = spoil
    o = renderer()
    expected = render(kernel, renderer(path="plain"))
    assert torch.equal(render(kernel, o), expected)
    assert o.backend.name == "PyTorch"
    assert reason in o.backend.reason
    with pytest.raises(ConfigError, match=r"renderer\.path=numba: self-check: .* is off by"):
        render(kernel, renderer(path="numba"))


@pytest.mark.parametrize("gradient", [False, True])
def test_a_kernel_that_raises_is_replaced_and_not_called_again(kernel, gradient):
    def spoil(_):
        raise IndexError("no such\n  register")

    kernel.spoil = spoil
    o = renderer()
    expected = render(kernel, renderer(path="plain"), gradient)
    for _ in range(2):
        assert torch.equal(render(kernel, o, gradient), expected)
        assert o.backend.reason == "self-check raised IndexError: no such register"
    assert len(kernel.calls) == 1
    with pytest.raises(ConfigError, match="self-check raised IndexError: no such register"):
        render(kernel, renderer(path="numba"), gradient)


def test_an_exception_of_the_plain_path_is_not_the_kernels_fault(kernel, monkeypatch):
    def plain(*_):
        raise RuntimeError("the field is wrong")

    monkeypatch.setattr(kernel_check, "render_request", plain)
    with pytest.raises(RuntimeError, match="the field is wrong"):
        render(kernel, renderer())
    assert kernel_check._faults == {}


OTHER_OPTIONS = [
    dict(samples_fine=0),
    dict(rules="eg3d"),
    dict(importance="nucleus"),
    dict(bounds="near_far", near=2.0, far=5.0),
    dict(rules="eg3d", bounds="near_far", near=2.0, far=5.0, outside="field"),
]


@pytest.mark.parametrize("options", OTHER_OPTIONS, ids=str)
def test_a_fault_under_other_options_is_found_after_a_sound_rendering(kernel, options):
    render(kernel, renderer())
    kernel.spoil = roll
    render(kernel, renderer())
    o = renderer(**options)
    render(kernel, o)
    assert "feature is off by" in o.backend.reason


OTHER_FIELDS = [
    dict(density=DensityConfig("relu", scale=4.0, prior_strength=2.0)),
    dict(density=DensityConfig(scale=4.0)),
    dict(activation="lrelu"),
    dict(kind="trigrid"),
    dict(channels=12),
    dict(hidden=24),
    dict(features=9),
    dict(batch=2),
]


@pytest.mark.parametrize("options", OTHER_FIELDS, ids=str)
def test_a_fault_with_other_fields_is_found_after_a_sound_rendering(kernel, options):
    density = DensityConfig(scale=4.0, prior_strength=2.0)
    kernel.field = make_field(density=density)
    render(kernel, renderer())
    kernel.spoil = roll
    kernel.field = make_field(**{"density": density, **options})
    o = renderer()
    render(kernel, o, views=2)
    assert "feature is off by" in o.backend.reason


def test_a_fault_with_draws_or_noise_is_found_after_a_sound_rendering(kernel):
    o = renderer(density_noise=0.3)
    render(kernel, o)
    kernel.spoil = roll
    for other in (o, renderer()):
        render(kernel, other, draws=Draws(0))
        assert "feature is off by" in other.backend.reason


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: torch.cat([x[:1], x[1:].roll(1, -1)]),  # except in the first scene
        lambda x: torch.cat([x[:, :64], x[:, 64:].roll(1, -1)], dim=1),  # except in the first tile
    ],
)
def test_a_fault_beyond_the_first_scene_and_tile_is_found(kernel, spoil):
    kernel.field = make_field(batch=3)
    kernel.spoil = lambda s: s._replace(feature=spoil(s.feature))
    o = renderer()
    render(kernel, o, views=3)
    assert "feature is off by" in o.backend.reason


def test_a_wrong_gradient_is_found_when_one_is_needed(kernel):
    kernel.spoil = lambda s: s._replace(feature=2 * s.feature - s.feature.detach())
    o = renderer()
    render(kernel, o)
    assert str(o.backend) == "a kernel"
    render(kernel, o, gradient=True)
    assert "gradient is off by" in o.backend.reason


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "2.weight", "2.bias"])
def test_a_wrong_gradient_of_the_decoder_is_found(kernel, name):
    def spoil_request(request):
        parameter = request.field.decoder.net.get_parameter(name)
        if parameter.requires_grad:
            parameter.register_hook(lambda g: g.roll(1, 0))
        return request

    kernel.spoil_request = spoil_request
    o = renderer()
    render(kernel, o)
    assert str(o.backend) == "a kernel"
    render(kernel, o, gradient=True)
    assert "gradient is off by" in o.backend.reason


def test_both_gradients_are_checked_whichever_is_needed_first(kernel):
    kernel.spoil = lambda s: s._replace(feature=2 * s.feature - s.feature.detach())
    kernel.field.decoder.requires_grad_(False)
    o = renderer()
    render(kernel, o, gradient=True)
    assert "gradient is off by" in o.backend.reason


def test_the_check_leaves_no_gradient_behind(kernel):
    o = renderer()
    o(kernel.field, orbit(1), 24)
    assert len(kernel.calls) == 2
    assert all(p.grad is None for p in kernel.field.decoder.parameters())
    assert not kernel.field.planes.requires_grad


def test_empty_rays_prove_nothing_so_the_check_is_repeated(kernel):
    o = renderer()
    away = orbit(1)
    away = away._replace(cam2world=away.cam2world * torch.tensor([1.0, 1, -1, 1]))
    with torch.no_grad():
        o(kernel.field, away, 24)
    assert str(o.backend) == "a kernel"
    assert kernel_check._faults == {}
    render(kernel, o)
    assert list(kernel_check._faults.values()) == [""]


def test_a_check_that_proves_nothing_is_repeated_three_times(kernel):
    o = renderer()
    away = orbit(1)
    away = away._replace(cam2world=away.cam2world * torch.tensor([1.0, 1, -1, 1]))
    for _ in range(kernel_check.MAX_CHECKS + 2):
        with torch.no_grad():
            o(kernel.field, away, 24)
        assert str(o.backend) == "a kernel"
    assert kernel.calls == [RAYS, ALL_RAYS] * kernel_check.MAX_CHECKS + [ALL_RAYS, ALL_RAYS]


@pytest.mark.parametrize("gradient", [False, True])
def test_a_field_that_is_not_finite_proves_nothing(kernel, gradient):
    o = renderer()
    sound = kernel.field
    kernel.field = dataclasses.replace(sound, planes=sound.planes * torch.nan)
    render(kernel, o, gradient)
    assert str(o.backend) == "a kernel"
    assert kernel_check._faults == {}
    kernel.field = sound
    kernel.spoil = roll
    render(kernel, o, gradient)
    assert "feature is off by" in o.backend.reason


def test_nothing_is_compared_while_a_graph_is_recorded(kernel, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    o = renderer()
    render(kernel, o)
    assert kernel.calls == [ALL_RAYS]
    assert kernel_check._faults == {}


def test_draws_stay_with_their_rays(kernel):
    o = renderer()
    render(kernel, o, draws=Draws(0))
    assert str(o.backend) == "a kernel"
