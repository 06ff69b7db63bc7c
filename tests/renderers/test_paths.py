import types

import pytest
import torch
from analytic_fields import clouds
from twins import make_field, render, views

from lightning_gan3d.cameras import Rays
from lightning_gan3d.config import ConfigError
from lightning_gan3d.networks.lowering import LoweredGrid, NotLowered
from renderers import paths
from renderers.march import Sums
from renderers.volume import VolumeRenderer, VolumeRendererConfig


def renderer(**options):
    return VolumeRenderer(VolumeRendererConfig(**options))


@pytest.fixture
def kernel(monkeypatch):
    """A kernel that answers nothing but the shape; `refusal` makes it refuse."""
    module = types.ModuleType("renderers.fake_kernel")
    module.refusal = None
    module.refuses = lambda _: module.refusal
    module.describe = lambda _: "fake kernel"

    def march(request):
        b, r, _ = request.rays.origins.shape
        features = len(request.grid.out_bias) - 1
        one = torch.ones(b, r, 1)
        return Sums(torch.full((b, r, features), 0.25), one, one, one, one)

    module.march = march
    monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    monkeypatch.setattr(paths, "KERNELS", {"numba": (module.__name__, "cpu")})
    monkeypatch.setattr(paths, "fault", lambda *_: "")  # it would not pass
    return module


@pytest.mark.usefixtures("kernel")
def test_a_kernel_serves_fields_that_it_knows_and_says_so():
    o = renderer()
    seen = o(make_field(), views(1), 4)
    assert seen.feature.unique().item() == -0.5
    assert str(o.path_taken) == "fake kernel"


def test_a_precision_that_is_not_used_is_told(kernel):
    o = renderer(precision="tf32")
    o(make_field(), views(1), 4)
    told = "in fp32: renderer.precision=tf32 is for triton"
    assert str(o.path_taken) == f"fake kernel ({told})"
    kernel.refusal = "too many samples"
    o(make_field(), views(1), 4)
    assert o.path_taken.why == f"numba: too many samples; {told}"
    kernel.refusal = None
    exact = renderer()
    exact(make_field(), views(1), 4)
    assert "fp32" not in str(exact.path_taken)


@pytest.mark.parametrize("path", ["auto", "plain"])
def test_the_plain_path_says_why(kernel, path):
    kernel.refusal = "too many samples"
    o = renderer(path=path)
    o(make_field(), views(1), 4)
    assert o.path_taken.name == "plain"
    assert o.path_taken.why == {"auto": "numba: too many samples", "plain": "as configured"}[path]


def test_a_path_asked_for_by_name_is_not_replaced(kernel):
    kernel.refusal = "too many samples"
    with pytest.raises(ConfigError, match=r"renderer\.path=numba: numba: too many samples. Use"):
        renderer(path="numba")(make_field(), views(1), 4)


@pytest.mark.usefixtures("kernel")
def test_a_field_without_kernel_takes_the_plain_path():
    o = renderer()
    o(clouds(1), views(1), 4)
    assert o.path_taken.why == "numba: FormulaField has no kernel"


@pytest.mark.usefixtures("kernel")
def test_rays_that_require_a_gradient_take_the_plain_path():
    o = renderer()
    rays = views(1).rays(4)
    dirs = rays.dirs.clone().requires_grad_()
    o.render_rays(make_field(), Rays(rays.origins, dirs)).feature.sum().backward()
    assert o.path_taken.why == "numba: the rays require a gradient"
    assert dirs.grad is not None
    with torch.no_grad():
        o.render_rays(make_field(), Rays(rays.origins, dirs))
    assert str(o.path_taken) == "fake kernel"


@pytest.mark.parametrize("kind", ["triplane", "eg3d", "trigrid", "voxel"])
def test_what_is_lowered_answers_as_the_field(kind):
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


def test_an_unknown_module_is_a_reason_not_a_crash(monkeypatch):
    monkeypatch.setattr(paths, "KERNELS", {"numba": ("renderers.not_there", "cpu")})
    outcome = render("auto", make_field(), views(1), 4, None)
    assert "ModuleNotFoundError: No module named" in outcome.path


def test_a_module_that_breaks_while_it_is_imported_is_a_reason_too(monkeypatch, tmp_path):
    (tmp_path / "broken_kernel.py").write_text("raise OSError('no C compiler')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(paths, "KERNELS", {"numba": ("broken_kernel", "cpu")})
    outcome = render("auto", make_field(), views(1), 4, None)
    assert "OSError: no C compiler" in outcome.path
