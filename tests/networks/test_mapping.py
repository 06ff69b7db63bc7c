import math

import pytest
import torch

from lightning_gan3d.networks.mapping import Mapping, MappingConfig


def make(num_ws=6, **options):
    torch.manual_seed(0)
    return Mapping(MappingConfig(**options), z_dim=16, w_dim=12, num_ws=num_ws)


def test_the_mapping_matches_eg3ds():
    mapping = make()
    shapes = {k: tuple(v.shape) for k, v in mapping.state_dict().items()}
    assert shapes == {
        "w_avg": (12,),
        "embed.weight": (12, 25),
        "embed.bias": (12,),
        "fc0.weight": (12, 28),
        "fc0.bias": (12,),
        "fc1.weight": (12, 12),
        "fc1.bias": (12,),
    }
    z, label = torch.randn(3, 16), torch.randn(3, 25)
    embedded = label @ mapping.embed.weight.T / 5
    x = torch.cat(
        [z / z.square().mean(1, True).sqrt(), embedded / embedded.square().mean(1, True).sqrt()], 1
    )
    for layer in (mapping.fc0, mapping.fc1):
        x = x @ layer.weight.T * 0.01 / math.sqrt(x.shape[1])
        x = torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)
    torch.testing.assert_close(mapping(z, label), x[:, None].expand(3, 6, 12), atol=1e-5, rtol=1e-4)


def test_the_mapping_is_invariant_to_the_scale_of_z():
    mapping, z, label = make(), torch.randn(3, 16), torch.randn(3, 25)
    torch.testing.assert_close(mapping(z, label), mapping(100 * z, label))


def test_truncation_pulls_toward_the_mean():
    mapping, z, label = make(), torch.randn(3, 16), torch.randn(3, 25)
    mapping.w_avg.normal_()
    ws = mapping(z, label)
    torch.testing.assert_close(mapping(z, label, 0.0), mapping.w_avg.expand(3, 6, 12))
    half = mapping(z, label, 0.5)
    torch.testing.assert_close(half, (ws + mapping.w_avg) / 2)
    cut = mapping(z, label, 0.5, truncation_cutoff=2)
    torch.testing.assert_close(cut, torch.cat([half[:, :2], ws[:, 2:]], dim=1))
    torch.testing.assert_close(mapping(z, label, 0.5, truncation_cutoff=0), ws)


@pytest.mark.parametrize("decay", [0.998, 0.9])
def test_the_mean_style_is_a_running_average(decay):
    mapping = make(w_avg_decay=decay)
    mapping.w_avg.fill_(1.0)
    w = torch.full([12], 3.0, requires_grad=True)
    mapping.update_w_avg(w)
    torch.testing.assert_close(mapping.w_avg, torch.full([12], decay + 3 * (1 - decay)))
    assert not mapping.w_avg.requires_grad


def test_options_have_effect():
    z, label, other = torch.randn(3, 16), torch.randn(3, 25), torch.randn(3, 25)
    base = make()
    assert not torch.allclose(base(z, label), base(z, other))
    blind = make(condition="none")
    assert torch.equal(blind(z, label), blind(z, other))
    assert not any("embed" in k for k in blind.state_dict())
    base.embed.bias.data.normal_()
    scaled = make(label_scale=3.0)
    scaled.load_state_dict(base.state_dict())
    torch.testing.assert_close(scaled(z, label), base(z, 3 * label))
    assert not torch.allclose(scaled(z, label), base(z, label))
    assert "fc4.weight" in make(num_layers=5).state_dict()
    assert make(lr_mul=1.0).fc0.weight.std() < 2 < make().fc0.weight.std()


def test_zero_label_is_finite():
    ws = make()(torch.randn(2, 16), torch.zeros(2, 25))
    assert ws.isfinite().all()
