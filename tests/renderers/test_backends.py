import types

import pytest
import torch
from analytic_fields import clouds
from kernel_comparison import make_field, render, views

from lightning_gan3d.cameras import Rays
from lightning_gan3d.config import ConfigError
from lightning_gan3d.networks.lowering import LoweredGrid, NotLowered
from renderers import backends
from renderers.ray_marching import RaySums
from renderers.volume import VolumeRenderer, VolumeRendererConfig


def renderer(**options):
    return VolumeRenderer(VolumeRendererConfig(**options))


@pytest.fixture
def kernel(monkeypatch):
    """A kernel whose results only have the right shape; `reason`: why it supports no request."""
    module = types.ModuleType("renderers.fake_kernel")
    module.reason = None
    module.unsupported = lambda _: module.reason
    module.describe = lambda _: "fake kernel"

    def render_request(request):
        b, r, _ = request.rays.origins.shape
        features = len(request.grid.out_bias) - 1
        one = torch.ones(b, r, 1)
        return RaySums(torch.full((b, r, features), 0.25), one, one, one, one)

    module.render_request = render_request
    monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    monkeypatch.setattr(backends, "KERNELS", {"numba": (module.__name__, "cpu")})
    monkeypatch.setattr(backends, "find_fault", lambda *_: "")  # it would not pass
    return module


@pytest.mark.usefixtures("kernel")
def test_a_kernel_renders_supported_fields_and_is_reported():
    o = renderer()
    out = o(make_field(), views(1), 4)
    assert out.feature.unique().item() == -0.5
    assert str(o.backend) == "fake kernel"


def test_a_precision_that_is_not_used_is_reported(kernel):
    o = renderer(precision="tf32")
    o(make_field(), views(1), 4)
    note = "in fp32: renderer.precision=tf32 is for triton"
    assert str(o.backend) == f"fake kernel ({note})"
    kernel.reason = "too many samples"
    o(make_field(), views(1), 4)
    assert o.backend.reason == f"too many samples; {note}"
    kernel.reason = None
    exact = renderer()
    exact(make_field(), views(1), 4)
    assert "fp32" not in str(exact.backend)


@pytest.mark.parametrize("path", ["auto", "plain"])
def test_the_plain_path_gives_the_reason(kernel, path):
    kernel.reason = "too many samples"
    o = renderer(path=path)
    o(make_field(), views(1), 4)
    assert o.backend.name == "PyTorch"
    assert not o.backend.fused
    assert o.backend.reason == {"auto": "too many samples", "plain": "as configured"}[path]


def test_a_named_path_is_not_replaced(kernel):
    kernel.reason = "too many samples"
    with pytest.raises(ConfigError, match=r"renderer\.path=numba: too many samples; use auto"):
        renderer(path="numba")(make_field(), views(1), 4)


@pytest.mark.usefixtures("kernel")
def test_a_field_without_kernels_takes_the_plain_path():
    o = renderer()
    o(clouds(1), views(1), 4)
    assert o.backend.reason == "no fused kernel for FormulaField"


@pytest.mark.usefixtures("kernel")
def test_rays_that_require_a_gradient_take_the_plain_path():
    o = renderer()
    rays = views(1).rays(4)
    dirs = rays.dirs.clone().requires_grad_()
    o.render_rays(make_field(), Rays(rays.origins, dirs)).feature.sum().backward()
    assert o.backend.reason == "the rays require a gradient"
    assert dirs.grad is not None
    with torch.no_grad():
        o.render_rays(make_field(), Rays(rays.origins, dirs))
    assert str(o.backend) == "fake kernel"


@pytest.mark.parametrize("kind", ["triplane", "eg3d", "trigrid", "voxel"])
def test_a_lowered_grid_gives_the_samples_of_its_field(kind):
    # The semantics of `LoweredGrid` in plain torch, at points in and out of the box.
    field = make_field(kind, batch=2, features=4)
    points = torch.rand(2, 300, 3) * 2.4 - 1.2
    low = field.lower()
    assert isinstance(low, LoweredGrid)
    total = torch.zeros(2, low.grids.shape[-1], 300)
    for p, axes in enumerate(low.axes):
        grid = low.grids[:, p].movedim(-1, 1)  # b c d h w
        used = axes[: 2 if grid.shape[2] == 1 else 3]
        index = points[..., list(used)][:, None, None]
        flat = len(used) == 2
        read = torch.nn.functional.grid_sample(
            grid[:, :, 0] if flat else grid, index[:, 0] if flat else index, align_corners=False
        )
        total += read.reshape(2, -1, 300) / len(low.axes)
    hidden = torch.nn.functional.softplus(total.mT @ low.hidden_weight.T + low.hidden_bias)
    out = hidden @ low.out_weight.T + low.out_bias
    sample = field(points)
    torch.testing.assert_close(
        out[..., :1] + field.prior(points), sample.sigma_raw, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        out[..., 1:].sigmoid() * 1.002 - 0.001, sample.feature, rtol=1e-4, atol=1e-4
    )


def test_decoders_of_other_depths_are_not_lowered():
    from lightning_gan3d.networks.decoder import Decoder, DecoderConfig

    decoder = Decoder(DecoderConfig(8, num_layers=2), 8, 5)
    low = decoder.lower(torch.zeros(1, 1, 1, 4, 4, 8), ((0, 1, 2),))
    assert low == NotLowered("decoder.num_layers=2; the kernels need 1")


def test_a_missing_module_is_a_reason_not_a_crash(monkeypatch):
    monkeypatch.setattr(backends, "KERNELS", {"numba": ("renderers.not_there", "cpu")})
    outcome = render("auto", make_field(), views(1), 4, None)
    assert "ModuleNotFoundError: No module named" in outcome.path


def test_a_module_that_fails_to_import_is_a_reason_too(monkeypatch, tmp_path):
    (tmp_path / "broken_kernel.py").write_text("raise OSError('no C compiler')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(backends, "KERNELS", {"numba": ("broken_kernel", "cpu")})
    outcome = render("auto", make_field(), views(1), 4, None)
    assert "OSError: no C compiler" in outcome.path
