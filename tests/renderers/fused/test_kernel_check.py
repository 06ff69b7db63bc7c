"""A kernel that errs is left aside; one that does not is checked once."""

import types

import pytest
import torch
from twins import make_field
from twins import views as orbit

from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import DensityConfig
from lightning_gan3d.draws import Draws
from renderers import paths
from renderers.fused import kernel_check
from renderers.march import march
from renderers.volume import VolumeRenderer, VolumeRendererConfig


def renderer(**options):
    options = {"samples_coarse": 8, "samples_fine": 8, **options}
    return VolumeRenderer(VolumeRendererConfig(**options))


@pytest.fixture
def kernel(monkeypatch):
    """The plain path under the name of a kernel, with a fault that a test sets."""
    module = types.ModuleType("renderers.faulty_kernel")
    module.spoil, module.asked = lambda sums: sums, []
    module.refuses = lambda _: None
    module.describe = lambda _: "a kernel"
    module.field = make_field()

    def fused(request):
        module.asked.append(request.rays.origins.shape[1])
        field = type(module.field)(
            request.grid.grids[:, :, 0].movedim(-1, 2), module.field.decoder,
            module.field.scene_cfg,
        )  # fmt: skip
        sums = march(request.options, field, request.rays, request.part, request.random)
        return module.spoil(sums)

    module.march = fused
    monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    monkeypatch.setattr(paths, "KERNELS", {"numba": (module.__name__, "cpu")})
    monkeypatch.setattr(kernel_check, "_found", {})
    monkeypatch.setattr(kernel_check, "_tries", {})
    return module


def render(kernel, o, gradient=False, views=1):
    with torch.set_grad_enabled(gradient):
        field = kernel.field
        if gradient:
            leaf = field.planes.clone().requires_grad_()
            field = type(field)(leaf, field.decoder, field.scene_cfg)
        return o(field, orbit(views), 24).feature


def test_a_sound_kernel_is_checked_once_and_used(kernel):
    o = renderer()
    for _ in range(2):
        render(kernel, o)
        assert str(o.path_taken) == "a kernel"
    assert kernel.asked == [kernel_check.NUM_RAYS, 24**2, 24**2]
    render(kernel, o, gradient=True)  # another kind: its gradient was not looked at
    assert kernel.asked == [kernel_check.NUM_RAYS, 24**2, 24**2, kernel_check.NUM_RAYS, 24**2]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: s._replace(feature=s.feature.roll(1, -1)), "feature is off by"),
        (lambda s: s._replace(feature=s.feature * torch.nan), "feature is off by inf"),
        (lambda s: s._replace(depth=s.depth * 1.1), "depth is off by"),
        (lambda s: s._replace(opacity=s.opacity.roll(1, 1)), "opacity is off by"),
    ],
)
def test_a_kernel_that_errs_is_left_aside_with_words(kernel, spoil, words):
    kernel.spoil = spoil
    o = renderer()
    wanted = render(kernel, renderer(path="plain"))
    assert torch.equal(render(kernel, o), wanted)
    assert o.path_taken.name == "plain"
    assert words in o.path_taken.why
    with pytest.raises(ConfigError, match="checked against the plain path on this device"):
        render(kernel, renderer(path="numba"))


@pytest.mark.parametrize("gradient", [False, True])
def test_a_kernel_that_raises_is_left_aside_with_words_and_not_tried_again(kernel, gradient):
    def spoil(_):
        raise IndexError("no such\n  register")

    kernel.spoil = spoil
    o = renderer()
    wanted = render(kernel, renderer(path="plain"), gradient)
    for _ in range(2):
        assert torch.equal(render(kernel, o, gradient), wanted)
        assert o.path_taken.name == "plain"
        assert o.path_taken.why.endswith("it raised IndexError: no such register")
    assert len(kernel.asked) == 1
    with pytest.raises(ConfigError, match="it raised IndexError: no such register"):
        render(kernel, renderer(path="numba"), gradient)


def test_what_the_plain_path_raises_is_not_the_kernels_fault(kernel, monkeypatch):
    def plain(*_):
        raise RuntimeError("the field is wrong")

    monkeypatch.setattr(kernel_check, "march", plain)
    with pytest.raises(RuntimeError, match="the field is wrong"):
        render(kernel, renderer())
    assert kernel_check._found == {}


OTHER_KINDS = [
    dict(samples_fine=0),
    dict(rules="eg3d"),
    dict(bounds="near_far", near=2.0, far=5.0),
    dict(bounds="near_far", near=2.0, far=5.0, outside="field"),
]


@pytest.mark.parametrize("options", OTHER_KINDS, ids=str)
def test_a_fault_under_other_options_is_noticed_after_a_sound_rendering(kernel, options):
    render(kernel, renderer())
    kernel.spoil = lambda s: s._replace(feature=s.feature.roll(1, -1))
    render(kernel, renderer())
    o = renderer(**options)
    render(kernel, o)
    assert "feature is off by" in o.path_taken.why


OTHER_FIELDS = [
    dict(density=DensityConfig("relu", scale=4.0)),
    dict(density=DensityConfig(scale=4.0)),
    dict(channels=12),
    dict(hidden=24),
    dict(features=9),
    dict(batch=2),
]


@pytest.mark.parametrize("options", OTHER_FIELDS, ids=str)
def test_a_fault_with_other_fields_is_noticed_after_a_sound_rendering(kernel, options):
    kernel.field = make_field(density=DensityConfig(scale=4.0, prior_strength=2.0))
    render(kernel, renderer())
    kernel.spoil = lambda s: s._replace(feature=s.feature.roll(1, -1))
    kernel.field = make_field(
        **{"density": DensityConfig(scale=4.0, prior_strength=2.0), **options}
    )
    o = renderer()
    render(kernel, o, views=2)
    assert "feature is off by" in o.path_taken.why


def test_a_fault_with_draws_or_noise_is_noticed_after_a_sound_rendering(kernel):
    o = renderer(density_noise=0.3)
    render(kernel, o)
    kernel.spoil = lambda s: s._replace(feature=s.feature.roll(1, -1))
    for some in (o, renderer()):
        with torch.no_grad():
            some(kernel.field, orbit(1), 24, Draws(0))
        assert "feature is off by" in some.path_taken.why


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: torch.cat([x[:1], x[1:].roll(1, -1)]),  # but for the first scene
        lambda x: torch.cat([x[:, :64], x[:, 64:].roll(1, -1)], dim=1),  # but for the first tile
    ],
)
def test_a_fault_beyond_the_first_scene_and_tile_is_noticed(kernel, spoil):
    kernel.field = make_field(batch=3)
    kernel.spoil = lambda s: s._replace(feature=spoil(s.feature))
    o = renderer()
    render(kernel, o, views=3)
    assert "feature is off by" in o.path_taken.why


def test_a_wrong_gradient_is_noticed_where_one_is_needed(kernel):
    kernel.spoil = lambda s: s._replace(feature=2 * s.feature - s.feature.detach())
    o = renderer()
    render(kernel, o)
    assert str(o.path_taken) == "a kernel"
    render(kernel, o, gradient=True)
    assert "gradient of the scene is off by" in o.path_taken.why


def spoil_gradient(monkeypatch, kernel, name, spoil):
    """Make the kernel's gradient of one parameter of the decoder wrong, and nothing else."""
    march_well = kernel.march
    module, _, leaf = f"net.{name}".rpartition(".")

    def march_ill(request):
        layer = kernel.field.decoder.get_submodule(module)
        sound = getattr(layer, leaf)
        passed = sound * 1
        if passed.requires_grad:
            passed.register_hook(spoil)
        del layer._parameters[leaf]
        setattr(layer, leaf, passed)
        try:
            return march_well(request)
        finally:
            delattr(layer, leaf)
            layer.register_parameter(leaf, sound)

    monkeypatch.setattr(kernel, "march", march_ill)


@pytest.mark.parametrize("by_scene", [False, True])
@pytest.mark.parametrize("name", ["0.weight", "0.bias", "2.weight", "2.bias"])
def test_a_wrong_gradient_of_the_decoder_is_noticed(monkeypatch, kernel, name, by_scene):
    o = renderer()
    spoil_gradient(monkeypatch, kernel, name, lambda g: g.roll(1, 0))
    with torch.no_grad():
        render(kernel, o)
    assert str(o.path_taken) == "a kernel"
    with torch.enable_grad():
        field = kernel.field
        if by_scene:
            leaf = field.planes.clone().requires_grad_()
            field = type(field)(leaf, field.decoder, field.scene_cfg)
        o(field, orbit(1), 24)
    assert f"gradient of decoder.net.{name} is off by" in o.path_taken.why
    kernel.field.decoder.requires_grad_(False)  # then nobody asks for that gradient
    o(field, orbit(1), 24)
    assert str(o.path_taken) == "a kernel"


def test_the_check_leaves_no_gradient_behind(kernel):
    o = renderer()
    o(kernel.field, orbit(1), 24)
    assert len(kernel.asked) == 2
    assert all(p.grad is None for p in kernel.field.decoder.parameters())


def test_empty_rays_tell_nothing_so_the_check_is_repeated(kernel):
    o = renderer()
    away = orbit(1)
    away = away._replace(cam2world=away.cam2world * torch.tensor([1.0, 1, -1, 1]))
    with torch.no_grad():
        o(kernel.field, away, 24)
    assert kernel_check._found == {}
    render(kernel, o)
    assert list(kernel_check._found.values()) == [""]


def test_what_tells_nothing_is_tried_a_few_times_and_then_trusted(kernel):
    o = renderer()
    away = orbit(1)
    away = away._replace(cam2world=away.cam2world * torch.tensor([1.0, 1, -1, 1]))
    for _ in range(kernel_check.MOST_TRIES + 2):
        with torch.no_grad():
            o(kernel.field, away, 24)
        assert str(o.path_taken) == "a kernel"
    tried = [kernel_check.NUM_RAYS, 24**2] * kernel_check.MOST_TRIES
    assert kernel.asked == [*tried, 24**2, 24**2]


@pytest.mark.parametrize("gradient", [False, True])
def test_a_field_that_is_not_finite_says_nothing_about_a_kernel(kernel, gradient):
    o = renderer()
    sound = kernel.field
    kernel.field = type(sound)(sound.planes * torch.nan, sound.decoder, sound.scene_cfg)
    render(kernel, o, gradient)
    assert str(o.path_taken) == "a kernel"
    assert kernel_check._found == {}
    kernel.field = sound
    kernel.spoil = lambda s: s._replace(feature=s.feature.roll(1, -1))
    render(kernel, o, gradient)
    assert "feature is off by" in o.path_taken.why


def test_nothing_is_compared_while_a_graph_is_recorded(kernel, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    o = renderer()
    render(kernel, o)
    assert kernel.asked == [24**2]
    assert kernel_check._found == {}


def test_draws_go_with_their_rays(kernel):
    o = renderer()
    with torch.no_grad():
        o(kernel.field, orbit(1), 24, Draws(0))
    assert str(o.path_taken) == "a kernel"
