import pytest
import torch
import torch.nn.functional as F

from lightning_gan3d.draws import Draws
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.generator import Generator
from lightning_gan3d.networks import fused, layers
from lightning_gan3d.networks.layers import SynthesisLayer
from lightning_gan3d.networks.precision import set_precision
from lightning_gan3d.networks.resample import downsample, fir, upsample, upsample_plus

pytest.importorskip("numba")

LOW = torch.bfloat16


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(up, clamp=None, use_noise=True):
    torch.manual_seed(1)
    made = SynthesisLayer(32, 48, 8, 6 * up, up, use_noise=use_noise, conv_clamp=clamp)
    made.bias.data.normal_()
    if use_noise:
        made.noise_strength.data.fill_(0.7)
    return made


@pytest.fixture
def plainly(monkeypatch):
    """A function: the result of a call without fused kernels."""

    def call(function, *args):
        with monkeypatch.context() as patch:
            patch.setattr(fused, "_width", lambda: 0)
            return function(*args)

    return call


def with_gradients(made, x, w, noise_mode):
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    made.zero_grad()
    y = made(x, w, noise_mode, Draws(0))
    y.backward(numbers(*y.shape, seed=9).to(y.dtype))
    named = {name: p.grad for name, p in made.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "x": x.grad, "w": w.grad, **named}


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("clamp", [None, 0.9])
@pytest.mark.parametrize("noise_mode", ["const", "random", "none"])
def test_a_layer_and_its_gradients_equal_the_plain_ones(plainly, up, clamp, noise_mode):
    made, x, w = layer(up, clamp), numbers(3, 32, 6, 6), numbers(3, 8, seed=1)
    assert fused.serves(x, 32, 48)
    found = with_gradients(made, x, w, noise_mode)
    wanted = plainly(with_gradients, made, x, w, noise_mode)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(found[name], value, atol=3e-5 * scale, rtol=0, msg=name)


@pytest.mark.parametrize("up", [1, 2])
def test_one_sample_without_gradient_equals_the_batch(up):
    made, x, w = layer(up, 0.9), numbers(2, 32, 6, 6), numbers(2, 8, seed=1)
    both = made(x, w).detach()
    with torch.no_grad():
        for k in range(2):
            one = made(x[k : k + 1], w[k : k + 1])
            torch.testing.assert_close(one, both[k : k + 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("up", [1, 2])
def test_bfloat16_rounds_as_its_digits_do(up):
    made, x, w = layer(up), numbers(3, 32, 6, 6), numbers(3, 8, seed=1)
    exact = with_gradients(made, x, w, "const")
    made_low = with_gradients(made, x.to(LOW), w, "const")
    assert made_low["y"].dtype == LOW
    assert {v.dtype for k, v in made_low.items() if k not in "xy"} == {torch.float32}
    for name, value in exact.items():
        error = (made_low[name].float() - value).norm() / value.norm()
        # A sign that rounding turns changes a gradient by all of it; the images have few.
        assert error < (0.01 if name == "y" else 0.1), name


@pytest.mark.parametrize("batch", [1, 2])
def test_noise_that_is_optimised_has_a_gradient(plainly, batch):
    """As projections of photographs into a generator's latents optimise it."""
    made, x, w = layer(2, 0.9), numbers(batch, 32, 6, 6), numbers(batch, 8)
    made.noise_const.requires_grad_()

    def gradient():
        return torch.autograd.grad(made(x, w).square().sum(), made.noise_const)[0]

    wanted = plainly(gradient)
    assert wanted.abs().max() > 0
    torch.testing.assert_close(gradient(), wanted, atol=1e-5, rtol=1e-4)


def test_what_a_layer_keeps_for_its_gradient_is_what_it_returns():
    made, w = layer(1), numbers(3, 8)
    x = numbers(3, 32, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.update({t.data_ptr(): t}) or t, lambda t: t
    ):
        y = made(x, w)
    images = [t for t in kept.values() if t.ndim == 4 and t.shape[-1] == 6]
    assert {t.data_ptr() for t in images} <= {x.data_ptr(), y.data_ptr()}


@pytest.mark.parametrize("up", [1, 2])
def test_second_derivatives_equal_the_plain_ones(plainly, up):
    made, w = layer(up, 0.9), numbers(2, 8)

    def twice(x):
        x = x.clone().requires_grad_()
        made.zero_grad()
        (grad,) = torch.autograd.grad(made(x, w).square().sum(), x, create_graph=True)
        grad.square().sum().backward()
        return {"x": x.grad, **{n: p.grad for n, p in made.named_parameters()}}

    found, wanted = twice(numbers(2, 32, 6, 6)), plainly(twice, numbers(2, 32, 6, 6))
    for name, value in wanted.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(found[name], value, atol=3e-5 * scale, rtol=0, msg=name)


@pytest.mark.parametrize("up", [1, 2])
def test_gradients_to_be_differentiated_again_count_every_way_once(plainly, up):
    """The demodulation factors depend on weight and style, and these are differentiated by too."""
    made, x, w = layer(up, 0.9), numbers(2, 32, 6, 6), numbers(2, 8, seed=1)
    named = dict(made.named_parameters())

    def twice():
        leaves = {"x": x.clone().requires_grad_(), "w": w.clone().requires_grad_(), **named}
        inputs = list(leaves.values())
        y = made(leaves["x"], leaves["w"])
        first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        return {
            **{f"first by {name}": g for name, g in zip(leaves, first, strict=True)},
            **{f"second by {name}": g for name, g in zip(leaves, second, strict=True)},
        }

    found, wanted = twice(), plainly(twice)
    for name, value in wanted.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(found[name], value, atol=3e-5 * scale, rtol=0, msg=name)


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
def test_filters_and_their_derivatives_equal_the_plain_ones(plainly, operation, size, dtype):
    """To the second derivative: they stand under a gradient penalty."""
    x = numbers(2, 16, *size).to(dtype)

    def derivatives(leaf):
        leaf = leaf.clone().requires_grad_()
        y = operation(leaf)
        (g,) = torch.autograd.grad(y.square().sum(), leaf, create_graph=True)
        (g2,) = torch.autograd.grad(g.square().sum(), leaf)
        return y, g, g2

    found, wanted = derivatives(x), plainly(derivatives, x.float())
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == dtype
        scale = b.abs().max().item()
        torch.testing.assert_close(a.float(), b, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, LOW])
def test_a_running_sum_is_doubled_and_added_to_in_one_pass(plainly, dtype):
    x, added = numbers(2, 32, 5, 6), numbers(2, 32, 10, 12, seed=1).to(dtype)

    def both():
        leaves = x.clone().requires_grad_(), added.clone().requires_grad_()
        y = upsample_plus(*leaves)
        y.square().sum().backward()
        return y, *(leaf.grad for leaf in leaves)

    for found, wanted in zip(both(), plainly(both), strict=True):
        assert found.dtype == wanted.dtype
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_results_may_be_changed_in_place():
    x = numbers(2, 16, 6, 6).requires_grad_()
    upsample(x).add_(1.0).sum().backward()
    assert x.grad is not None


def test_any_layout_is_read_and_a_neighbour_is_not_overwritten():
    made, w = layer(1), numbers(2, 8)
    x = numbers(2, 32, 6, 6)
    wide = numbers(4, 32, 12, 6)[::2, :, ::2]
    wide.copy_(x)
    with torch.no_grad():
        torch.testing.assert_close(made(wide, w), made(x, w), rtol=0, atol=0)
    assert torch.equal(wide, x)


@pytest.mark.parametrize("threads", [1, 2])
def test_sums_do_not_depend_on_threads(threads):
    made, x, w = layer(2), numbers(2, 32, 6, 6), numbers(2, 8)
    alone = with_gradients(made, x, w, "const")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = with_gradients(made, x, w, "const")
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found["bias"], alone["bias"])
    assert torch.equal(found["noise_strength"], alone["noise_strength"])


def test_what_kernels_do_not_serve_is_computed_plainly():
    assert not fused.serves(numbers(1, 8, 4, 4), 8)
    assert not fused.serves(numbers(1, 32, 4, 4).double(), 32)
    assert not fused.serves(numbers(1, 32, 4, 4, 4), 32)
    assert not fused.serves(torch.empty(1, 32, 4, 4, device="meta"), 32)
    x, w = numbers(2, 32, 6, 6, seed=3), numbers(2, 8)
    made = layer(2)
    torch.testing.assert_close(
        made.double()(x.double(), w.double()).float(), made.float()(x, w), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dtype", [LOW, torch.float64])
def test_a_generator_converted_as_a_whole_equals_the_plain_one(plainly, dtype, precision):
    """Kernels read weights, styles and noise as float32: they must not meet others."""
    torch.manual_seed(0)
    generator = Generator(load_experiment("demo/triplane").generator, 32)
    for name, p in generator.named_parameters():
        if name.endswith("noise_strength"):
            p.data.fill_(0.5)
    set_precision(generator, precision)
    generator.to(dtype)
    ws = numbers(2, generator.representation.num_ws, 64).to(dtype)
    with torch.no_grad():
        found = generator.scene(ws).planes.double()
        wanted = plainly(generator.scene, ws).planes.double()
    # Filters serve images alone, and round where the plain ones do not.
    assert (found - wanted).norm() < 0.02 * wanted.norm()


def test_default_dtype_and_device_do_not_matter():
    x, w, noisy, bare = numbers(2, 32, 6, 6), numbers(2, 8), layer(2, 0.9), layer(1, 0.9, False)

    def results():
        found = [downsample(upsample(x))]
        for made in (noisy, bare):
            leaves = [x.clone().requires_grad_(), *made.parameters()]
            y = made(leaves[0], w)
            found += [y, *torch.autograd.grad(y.square().sum(), leaves)]
        return found

    wanted = results()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = results()
    finally:
        torch.set_default_dtype(before)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_a_number_that_is_none_is_not_hidden():
    made, w = layer(1), numbers(1, 8)
    x = numbers(1, 32, 6, 6)
    x[0, 3, 2, 2] = float("nan")
    found = with_gradients(made, x, w, "none")
    assert found["y"].isnan().any()
    assert found["weight"].isnan().any()
    assert F.leaky_relu(found["y"], layers.SLOPE).isnan().any()
