import sys

import pytest
import torch
from torch import nn

from lightning_gan3d.networks.layers import LayerOptions, SynthesisLayer
from lightning_gan3d.networks.precision import set_precision
from lightning_gan3d.networks.stylegan3 import StyleGAN3Config, StyleGAN3Synthesis
from lightning_gan3d.networks.synthesis import Synthesis2d, SynthesisConfig, describe_layers


def network(*channels):
    torch.manual_seed(0)
    return Synthesis2d(SynthesisConfig(channels=channels), 8, 2 * 2 ** len(channels), 3)


def test_numba_with_its_vectors_and_number_of_layers():
    simd = pytest.importorskip("lightning_gan3d.simd")
    assert describe_layers(network(32, 16)) == f"numba, {simd.describe()}"
    # b8's first layer has 3 output channels, and so does its second.
    assert describe_layers(network(32, 3)) == f"numba, {simd.describe()}, in 1 of 3 layers"


@pytest.mark.parametrize("change", ["double", "bfloat16", "fp16", "narrow", "volume"])
def test_unsupported_layers_are_plain(change):
    pytest.importorskip("numba")
    net = network(3, 3) if change == "narrow" else network(32, 16)
    if change == "fp16":
        set_precision(net, "fp16")
    elif change == "volume":
        net = nn.Sequential(SynthesisLayer(32, 32, 4, LayerOptions(8, dims=3)))
    elif change != "narrow":
        net = getattr(net, change)()
    assert describe_layers(net).startswith("plain torch (no layer of images with float32 weights")


def test_missing_numba(monkeypatch):
    for name in [n for n in sys.modules if n.startswith("lightning_gan3d.simd")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("lightning_gan3d.simd", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    text = describe_layers(network(32, 16))
    assert text == "plain torch (numba is missing: pip install 'lightning-gan3d[numba]')"


def test_other_devices_and_networks_without_synthesis_layers():
    text = describe_layers(network(32, 16).to("meta"))
    assert text == "plain torch (layers on meta; the kernels need a CPU)"
    assert describe_layers(nn.Linear(3, 3)) == "none"


def test_the_number_of_fused_layers_is_that_of_fused_calls(monkeypatch):
    """Only the counted layers call the fused form."""
    fused_layer = pytest.importorskip("lightning_gan3d.networks.fused.layer")
    calls = []
    real = fused_layer.modulated

    def counted(*args):
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(fused_layer, "modulated", counted)
    net = network(32, 3)
    net(torch.zeros(2, net.num_ws, 8))
    assert f"in {len(calls)} of 3 layers" in describe_layers(net)


def test_filtered_activations_follow_the_layers():
    simd = pytest.importorskip("lightning_gan3d.simd")
    cfg = StyleGAN3Config(num_layers=2, num_critical=1, channel_max=4)
    net = StyleGAN3Synthesis(cfg, "t", 8, 16, 3)
    assert describe_layers(net) == f"filtered activations: numba, {simd.describe()}"
    both = nn.ModuleList([net, network(32, 16)])
    fast = f"numba, {simd.describe()}"
    assert describe_layers(both) == f"{fast}; filtered activations: {fast}"
    net.L0_36_4.precision = "fp16"
    text = describe_layers(net)
    assert text.startswith("filtered activations: plain torch (torch.float16 on cpu; kernels need")
    assert text.endswith(f"), {fast}")
    set_precision(both, "fp16")
    text = describe_layers(both)
    assert text.startswith("plain torch (no layer")
    assert "filtered activations: plain torch (torch.float16" in text
