import math

import pytest
import torch

from lightning_gan3d.config import ConfigError, from_options
from lightning_gan3d.contract import DensityConfig, SceneConfig
from representations.nerf_mlp import NerfMlp, NerfMlpConfig

SCENE = SceneConfig(box=0.5, feature_dim=4, density=DensityConfig(prior_strength=4.0))


def build(seed=0, **options):
    torch.manual_seed(seed)
    options = {"hidden_dim": 16, "num_layers": 2, **options}
    rep = NerfMlp(NerfMlpConfig(**options), scene=SCENE, w_dim=8, resolution=32)
    for bias in rep.net.biases:
        torch.nn.init.normal_(bias)
    return rep, torch.randn(2, rep.num_ws, 8)


def by_hand(rep, ws, points, dirs, activation, scale_of):
    """The formula of each layer, written point by point: a(scale * (W x + b) + shift)."""
    net, hidden = rep.net, rep.cfg.hidden_dim
    x = points * 4  # the box spans [-1/4, 1/4]
    if not net.siren:
        angle = [
            x[..., i : i + 1] * math.pi * 2.0**k for i in range(3) for k in range(rep.cfg.octaves)
        ]
        x = torch.cat([x, *(a.sin() for a in angle), *(a.cos() for a in angle)], -1)
    for i in range(rep.num_ws):
        if i == rep.cfg.num_layers:
            sigma_raw = net.to_sigma(x) + 4 * (0.6 - points.norm(dim=-1, keepdim=True) * 4)
            x = x if dirs is None else torch.cat([x, dirs], -1)
        film = 0.25 * rep.affines[i](ws[:, i])
        f, shift = film[:, None, :hidden], film[:, None, hidden:]
        linear = torch.nn.functional.linear(
            x, net.weights[i] * net.gains[i], net.biases[i] * net.gains[i]
        )
        x = activation(scale_of(f) * linear + shift)
    return sigma_raw, torch.sigmoid(net.to_feature(x))


@pytest.mark.parametrize("view_dirs", [False, True])
def test_film_siren_is_pi_gans_formula(view_dirs):
    rep, ws = build(view_dirs=view_dirs)  # omega = 30
    points, dirs = torch.rand(2, 7, 3) * 0.5 - 0.25, torch.randn(2, 7, 3)
    got = rep(ws)(points, dirs if view_dirs else None)
    raw, feature = by_hand(
        rep, ws, points, dirs if view_dirs else None, torch.sin, lambda f: 15 * f + 30
    )
    torch.testing.assert_close(got.sigma_raw, raw, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got.feature, feature, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("view_dirs", [False, True])
def test_posenc_relu_is_grafs_encoding_under_the_same_conditioning(view_dirs):
    rep, ws = build(variant="posenc_relu", octaves=3, view_dirs=view_dirs)
    points, dirs = torch.rand(2, 7, 3) * 0.5 - 0.25, torch.randn(2, 7, 3)
    got = rep(ws)(points, dirs if view_dirs else None)
    raw, feature = by_hand(
        rep, ws, points, dirs if view_dirs else None, torch.relu, lambda f: 1 + f
    )
    torch.testing.assert_close(got.sigma_raw, raw, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(got.feature, feature, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", ["film_siren", "posenc_relu"])
@pytest.mark.parametrize("view_dirs", [False, True])
def test_density_alone_is_that_of_a_query(variant, view_dirs):
    rep, ws = build(variant=variant, view_dirs=view_dirs)
    points = torch.rand(2, 7, 3) * 0.5 - 0.25
    field = rep(ws)
    assert field.needs_dirs is view_dirs
    assert type(field) is rep.scene_type
    dirs = torch.randn(2, 7, 3) if view_dirs else None
    torch.testing.assert_close(field.density(points), field(points, dirs).sigma_raw)


def test_features_see_the_direction_only_by_option():
    points, dirs = torch.rand(2, 7, 3) * 0.5 - 0.25, torch.randn(2, 7, 3)
    rep, ws = build(view_dirs=True)
    assert not torch.allclose(rep(ws)(points, dirs).feature, rep(ws)(points, -dirs).feature)


def test_every_option_has_an_effect():
    points = torch.rand(2, 7, 3) * 0.5 - 0.25

    def query(**options):
        rep, ws = build(**options)
        return rep(ws[:, :1].expand(-1, rep.num_ws, -1))(points).feature

    base = query()
    changed = ({"variant": "posenc_relu"}, {"hidden_dim": 8}, {"num_layers": 3}, {"omega": 6.0})
    for options in changed:
        assert not torch.allclose(base, query(**options))
    relu = {"variant": "posenc_relu"}
    assert not torch.allclose(query(octaves=2, **relu), query(octaves=3, **relu))


def test_initial_weights_are_pi_gans():
    torch.manual_seed(0)
    net = NerfMlp(NerfMlpConfig(), scene=SCENE, w_dim=8, resolution=32).net
    for i, (weight, gain) in enumerate(zip(net.weights, net.gains, strict=True)):
        bound = 1 / 3 if i == 0 else math.sqrt(6 / 256) / 25
        assert (weight * gain).abs().max().item() == pytest.approx(bound, rel=1e-2)
        assert (weight * gain).std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_the_scene_is_the_film_parameters():
    rep, ws = build()
    assert rep(ws).nbytes == 2 * 2 * rep.num_ws * 16 * 4


def test_density_is_twice_differentiable():
    rep, ws = build()
    field = rep.double()(ws.double()).detach()
    points = (torch.rand(2, 3, 3, dtype=torch.float64) * 0.1).requires_grad_()
    assert torch.autograd.gradgradcheck(field.density, (points,))


def test_mixed_precision_does_not_blur_the_phase():
    rep, ws = build()
    field, points = rep(ws), torch.rand(2, 7, 3) * 0.5 - 0.25
    expected = field(points)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(field(points), expected, rtol=0, atol=0)
        assert rep(ws).scale.dtype is torch.float32


@pytest.mark.parametrize(
    ("name", "value"), [("hidden_dim", 0), ("num_layers", 0), ("octaves", 0), ("omega", 0.0)]
)
def test_impossible_options_are_rejected(name, value):
    with pytest.raises(ConfigError, match=f"^{name}={value} .*: use a"):
        from_options(NerfMlpConfig, [f"{name}={value}"])
