import sys

import pytest
import torch
from torch import nn

from lightning_gan3d.networks.fused.report import describe
from lightning_gan3d.networks.layers import SynthesisLayer
from lightning_gan3d.networks.precision import set_precision
from lightning_gan3d.networks.synthesis import Synthesis2d, SynthesisConfig


def network(*channels):
    torch.manual_seed(0)
    return Synthesis2d(SynthesisConfig(channels=channels), 8, 2 * 2 ** len(channels), 3)


def test_numba_is_told_with_its_vectors_and_its_share_of_the_layers():
    simd = pytest.importorskip("lightning_gan3d.simd")
    assert describe(network(32, 16)) == f"numba, {simd.describe()}"
    # b8's first layer has 3 output channels, and so does its second.
    assert describe(network(32, 3)) == f"numba, {simd.describe()}, in 1 of 3 layers"


@pytest.mark.parametrize("change", ["double", "bfloat16", "fp16", "narrow", "volume"])
def test_layers_that_kernels_do_not_serve_are_plain(change):
    pytest.importorskip("numba")
    made = network(3, 3) if change == "narrow" else network(32, 16)
    if change == "fp16":
        set_precision(made, "fp16")
    elif change == "volume":
        made = nn.Sequential(SynthesisLayer(32, 32, 8, 4, dims=3))
    elif change != "narrow":
        made = getattr(made, change)()
    assert describe(made).startswith("plain torch (no layer of images with float32 weights")


def test_the_absence_of_numba_is_told_with_its_remedy(monkeypatch):
    for name in [n for n in sys.modules if n.startswith("lightning_gan3d.simd")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("lightning_gan3d.simd", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    told = describe(network(32, 16))
    assert told == "plain torch (numba is missing: pip install 'lightning-gan3d[numba]')"


def test_other_devices_and_networks_without_such_layers_are_told():
    told = describe(network(32, 16).to("meta"))
    assert told == "plain torch (layers on meta; the kernels serve a CPU)"
    assert describe(nn.Linear(3, 3)) == "none"


def test_what_is_told_is_what_layers_do(monkeypatch):
    """Every layer that is counted calls a fused form, and no other does."""
    fused_layer = pytest.importorskip("lightning_gan3d.networks.fused.layer")
    calls = []
    real = fused_layer.modulated

    def counted(*args):
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(fused_layer, "modulated", counted)
    made = network(32, 3)
    made(torch.zeros(2, made.num_ws, 8))
    assert f"in {len(calls)} of 3 layers" in describe(made)
