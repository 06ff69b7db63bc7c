import pytest
import torch
import torch.nn.functional as F

from lightning_gan3d.draws import Draws
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.generator import Generator
from lightning_gan3d.networks import fused
from lightning_gan3d.networks.convolution import SLOPE
from lightning_gan3d.networks.layers import LayerOptions, SynthesisLayer
from lightning_gan3d.networks.precision import set_precision
from lightning_gan3d.networks.resample import downsample, fir, upsample, upsample_plus

pytest.importorskip("numba")

LOW = torch.bfloat16


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_layer(up, clamp=None, use_noise=True):
    torch.manual_seed(1)
    options = LayerOptions(8, use_noise=use_noise, conv_clamp=clamp)
    layer = SynthesisLayer(32, 48, 6 * up, options, up)
    layer.bias.data.normal_()
    if use_noise:
        layer.noise_strength.data.fill_(0.7)
    return layer


@pytest.fixture
def plain(monkeypatch):
    """A function that calls another one without fused kernels."""

    def call(function, *args):
        with monkeypatch.context() as patch:
            patch.setattr(fused, "_width", lambda: 0)
            return function(*args)

    return call


def with_gradients(layer, x, w, noise_mode):
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    layer.zero_grad()
    y = layer(x, w, noise_mode, Draws(0))
    y.backward(numbers(*y.shape, seed=9).to(y.dtype))
    named = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "x": x.grad, "w": w.grad, **named}


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("clamp", [None, 0.9])
@pytest.mark.parametrize("noise_mode", ["const", "random", "none"])
def test_a_layer_and_its_gradients_equal_the_plain_ones(plain, up, clamp, noise_mode):
    layer, x, w = make_layer(up, clamp), numbers(3, 32, 6, 6), numbers(3, 8, seed=1)
    assert fused.serves(x, 32, 48)
    actual = with_gradients(layer, x, w, noise_mode)
    expected = plain(with_gradients, layer, x, w, noise_mode)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(actual[name], value, atol=3e-5 * scale, rtol=0, msg=name)


@pytest.mark.parametrize("up", [1, 2])
def test_one_sample_without_gradient_equals_the_batch(up):
    layer, x, w = make_layer(up, 0.9), numbers(2, 32, 6, 6), numbers(2, 8, seed=1)
    both = layer(x, w).detach()
    with torch.no_grad():
        for k in range(2):
            one = layer(x[k : k + 1], w[k : k + 1])
            torch.testing.assert_close(one, both[k : k + 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("up", [1, 2])
def test_errors_of_bfloat16(up):
    layer, x, w = make_layer(up), numbers(3, 32, 6, 6), numbers(3, 8, seed=1)
    exact = with_gradients(layer, x, w, "const")
    low = with_gradients(layer, x.to(LOW), w, "const")
    assert low["y"].dtype == LOW
    assert {v.dtype for k, v in low.items() if k not in "xy"} == {torch.float32}
    for name, value in exact.items():
        error = (low[name].float() - value).norm() / value.norm()
        # A sign that rounding turns changes a gradient by all of it; the images have few.
        assert error < (0.01 if name == "y" else 0.1), name


@pytest.mark.parametrize("batch", [1, 2])
def test_noise_with_gradient_is_differentiated(plain, batch):
    """Projection into the latent space optimises it."""
    layer, x, w = make_layer(2, 0.9), numbers(batch, 32, 6, 6), numbers(batch, 8)
    layer.noise_const.requires_grad_()

    def gradient():
        return torch.autograd.grad(layer(x, w).square().sum(), layer.noise_const)[0]

    expected = plain(gradient)
    assert expected.abs().max() > 0
    torch.testing.assert_close(gradient(), expected, atol=1e-5, rtol=1e-4)


def test_a_layer_saves_only_its_input_and_output_for_the_gradient():
    layer, w = make_layer(1), numbers(3, 8)
    x = numbers(3, 32, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.update({t.data_ptr(): t}) or t, lambda t: t
    ):
        y = layer(x, w)
    images = [t for t in kept.values() if t.ndim == 4 and t.shape[-1] == 6]
    assert {t.data_ptr() for t in images} <= {x.data_ptr(), y.data_ptr()}


@pytest.mark.parametrize("up", [1, 2])
def test_second_derivatives_equal_the_plain_ones(plain, up):
    layer, w = make_layer(up, 0.9), numbers(2, 8)

    def twice(x):
        x = x.clone().requires_grad_()
        layer.zero_grad()
        (grad,) = torch.autograd.grad(layer(x, w).square().sum(), x, create_graph=True)
        grad.square().sum().backward()
        return {"x": x.grad, **{n: p.grad for n, p in layer.named_parameters()}}

    actual, expected = twice(numbers(2, 32, 6, 6)), plain(twice, numbers(2, 32, 6, 6))
    for name, value in expected.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(actual[name], value, atol=3e-5 * scale, rtol=0, msg=name)


@pytest.mark.parametrize("up", [1, 2])
def test_gradients_with_create_graph_count_every_path_once(plain, up):
    """The demodulation factors depend on weight and style, and these are differentiated by too."""
    layer, x, w = make_layer(up, 0.9), numbers(2, 32, 6, 6), numbers(2, 8, seed=1)
    named = dict(layer.named_parameters())

    def twice():
        leaves = {"x": x.clone().requires_grad_(), "w": w.clone().requires_grad_(), **named}
        inputs = list(leaves.values())
        y = layer(leaves["x"], leaves["w"])
        first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        return {
            **{f"first by {name}": g for name, g in zip(leaves, first, strict=True)},
            **{f"second by {name}": g for name, g in zip(leaves, second, strict=True)},
        }

    actual, expected = twice(), plain(twice)
    for name, value in expected.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(actual[name], value, atol=3e-5 * scale, rtol=0, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, LOW])
@pytest.mark.parametrize("size", [(6, 10), (20, 4)])
@pytest.mark.parametrize(
    "operation",
    [
        lambda x: fir(x, 2, 1, 1.5),
        lambda x: fir(x, 1, 1),
        lambda x: fir(x, 0),
        lambda x: fir(x, 1, 2, 0.7),
        upsample,
        downsample,
    ],
)
def test_filters_and_their_derivatives_equal_the_plain_ones(plain, operation, size, dtype):
    """Up to the second derivative: the gradient penalty needs it."""
    x = numbers(2, 16, *size).to(dtype)

    def derivatives(leaf):
        leaf = leaf.clone().requires_grad_()
        y = operation(leaf)
        (g,) = torch.autograd.grad(y.square().sum(), leaf, create_graph=True)
        (g2,) = torch.autograd.grad(g.square().sum(), leaf)
        return y, g, g2

    actual, expected = derivatives(x), plain(derivatives, x.float())
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        scale = b.abs().max().item()
        torch.testing.assert_close(a.float(), b, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, LOW])
def test_upsample_plus_equals_the_plain_one(plain, dtype):
    x, added = numbers(2, 32, 5, 6), numbers(2, 32, 10, 12, seed=1).to(dtype)

    def both():
        leaves = x.clone().requires_grad_(), added.clone().requires_grad_()
        y = upsample_plus(*leaves)
        y.square().sum().backward()
        return y, *(leaf.grad for leaf in leaves)

    for actual, expected in zip(both(), plain(both), strict=True):
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_results_can_be_modified_in_place():
    x = numbers(2, 16, 6, 6).requires_grad_()
    upsample(x).add_(1.0).sum().backward()
    assert x.grad is not None


def test_any_layout_is_read_and_left_unchanged():
    layer, w = make_layer(1), numbers(2, 8)
    x = numbers(2, 32, 6, 6)
    wide = numbers(4, 32, 12, 6)[::2, :, ::2]
    wide.copy_(x)
    with torch.no_grad():
        torch.testing.assert_close(layer(wide, w), layer(x, w), rtol=0, atol=0)
    assert torch.equal(wide, x)


@pytest.mark.parametrize("threads", [1, 2])
def test_sums_do_not_depend_on_threads(threads):
    layer, x, w = make_layer(2), numbers(2, 32, 6, 6), numbers(2, 8)
    alone = with_gradients(layer, x, w, "const")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        actual = with_gradients(layer, x, w, "const")
    finally:
        torch.set_num_threads(before)
    assert torch.equal(actual["bias"], alone["bias"])
    assert torch.equal(actual["noise_strength"], alone["noise_strength"])


def test_unsupported_inputs_are_computed_by_plain_torch():
    assert not fused.serves(numbers(1, 2, 4, 4), 2)
    assert not fused.serves(numbers(1, 32, 4, 4).double(), 32)
    assert not fused.serves(numbers(1, 32, 4, 4, 4), 32)
    assert not fused.serves(torch.empty(1, 32, 4, 4, device="meta"), 32)
    x, w = numbers(2, 32, 6, 6, seed=3), numbers(2, 8)
    layer = make_layer(2)
    torch.testing.assert_close(
        layer.double()(x.double(), w.double()).float(), layer.float()(x, w), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dtype", [LOW, torch.float64])
def test_a_generator_converted_as_a_whole_equals_the_plain_one(plain, dtype, precision):
    """Kernels read weights, styles and noise as float32 only."""
    torch.manual_seed(0)
    generator = Generator(load_experiment("demo/triplane").generator, 32)
    for name, p in generator.named_parameters():
        if name.endswith("noise_strength"):
            p.data.fill_(0.5)
    set_precision(generator, precision)
    generator.to(dtype)
    ws = numbers(2, generator.representation.num_ws, 64).to(dtype)
    with torch.no_grad():
        actual = generator.scene(ws).planes.double()
        expected = plain(generator.scene, ws).planes.double()
    # Filters serve images alone, and round where the plain ones do not.
    assert (actual - expected).norm() < 0.02 * expected.norm()


def test_default_dtype_and_device_do_not_matter():
    x, w, noisy, bare = (
        numbers(2, 32, 6, 6),
        numbers(2, 8),
        make_layer(2, 0.9),
        make_layer(1, 0.9, False),
    )

    def results():
        actual = [downsample(upsample(x))]
        for layer in (noisy, bare):
            leaves = [x.clone().requires_grad_(), *layer.parameters()]
            y = layer(leaves[0], w)
            actual += [y, *torch.autograd.grad(y.square().sum(), leaves)]
        return actual

    expected = results()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            actual = results()
    finally:
        torch.set_default_dtype(before)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_nan_propagates():
    layer, w = make_layer(1), numbers(1, 8)
    x = numbers(1, 32, 6, 6)
    x[0, 3, 2, 2] = float("nan")
    actual = with_gradients(layer, x, w, "none")
    assert actual["y"].isnan().any()
    assert actual["weight"].isnan().any()
    assert F.leaky_relu(actual["y"], SLOPE).isnan().any()
