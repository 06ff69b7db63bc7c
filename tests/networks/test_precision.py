import pytest
import torch

from lightning_gan3d.networks.precision import computing_in, set_precision
from lightning_gan3d.networks.superresolution import SuperResolution, SuperResolutionConfig


def make(**options):
    torch.manual_seed(0)
    cfg = SuperResolutionConfig(factor=2, channels=(32, 16), **options)
    return SuperResolution(cfg, 16, 10, 64)


def see(net):
    generator = torch.Generator().manual_seed(1)
    feature = torch.randn(2, 16, 32, 32, generator=generator)
    ws = torch.randn(2, 5, 10, generator=generator)
    return net.upscale(feature[:, :3], feature, ws).image


def psnr(actual, expected):
    """In decibels, of images that span `expected`'s range."""
    span = expected.max() - expected.min()
    return float(10 * torch.log10(span**2 / (actual - expected).square().mean()))


@pytest.mark.parametrize(("precision", "least", "most"), [("bf16", 45, 70), ("fp16", 63, 90)])
def test_errors_are_those_of_the_precision(precision, least, most):
    net = make()
    with torch.no_grad():
        exact = see(net)
        set_precision(net, precision)
        actual = see(net)
    assert actual.dtype == torch.float32
    assert least < psnr(actual, exact) < most


def test_computing_in_restores_the_precision():
    net = make()
    set_precision(net, "bf16")

    def interrupted():
        with computing_in(net, "fp32"):
            assert {net.block0.precision, net.block1.precision} == {"fp32"}
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert {net.block0.precision, net.block1.precision} == {"bf16"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_are_float32(precision):
    net = make()
    set_precision(net, precision)
    see(net).square().mean().backward()
    for name, p in net.named_parameters():
        assert p.grad.dtype == torch.float32, name
        if p.ndim == 4:  # in the layout of the weight, or optimizers copy it
            assert p.grad.stride() == p.stride(), name
