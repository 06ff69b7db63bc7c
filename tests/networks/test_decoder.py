import math

import pytest
import torch
import torch.nn.functional as F

from lightning_gan3d.networks.decoder import Decoder, DecoderConfig


def test_the_decoder_matches_eg3ds():
    torch.manual_seed(0)
    decoder = Decoder(DecoderConfig(lr_mul=0.5), in_dim=8, feature_dim=4)
    names = {"net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"}
    assert set(decoder.state_dict()) == names
    decoder.net[0].bias.data.normal_()
    decoder.net[2].bias.data.normal_()
    x = torch.randn(2, 7, 8)
    first, last = decoder.net[0], decoder.net[2]
    y = F.linear(x, first.weight * 0.5 / math.sqrt(8), first.bias * 0.5)
    y = F.linear(F.softplus(y), last.weight * 0.5 / math.sqrt(64), last.bias * 0.5)
    sigma_raw, feature = decoder(x)
    torch.testing.assert_close(sigma_raw, y[..., :1])
    torch.testing.assert_close(feature, torch.sigmoid(y[..., 1:]) * 1.002 - 0.001)


def test_options_have_effect():
    x = torch.randn(2, 5, 8)
    configs = [
        DecoderConfig(),
        DecoderConfig(activation="lrelu"),
        DecoderConfig(hidden_dim=16),
        DecoderConfig(num_layers=0),
        DecoderConfig(num_layers=2),
    ]
    outputs = []
    for cfg in configs:
        torch.manual_seed(0)
        outputs.append(Decoder(cfg, 8, 3)(x)[0])
    for i in range(1, len(configs)):
        assert not torch.allclose(outputs[0], outputs[i])


@pytest.mark.parametrize("activation", ["softplus", "lrelu"])
def test_decoder_differentiates_twice(activation):
    decoder = Decoder(DecoderConfig(hidden_dim=6, activation=activation), 3, 2).double()
    x = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(decoder, x)
    assert torch.autograd.gradgradcheck(decoder, x)
