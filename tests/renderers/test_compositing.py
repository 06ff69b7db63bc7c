import numpy as np
import pytest
import torch

from renderers.compositing import (
    clamped_depth,
    expected_depth,
    pair_weights,
    share_pairs,
    standard_weights,
)


def random_ray(num, batch=2, rays=3):
    g = torch.Generator().manual_seed(num)
    edges = torch.rand(batch, rays, num + 1, generator=g, dtype=torch.float64).cumsum(-1)
    sigma = 3 * torch.rand(batch, rays, num, generator=g, dtype=torch.float64)
    return sigma, edges


def test_weights_and_final_transmittance_sum_to_one():
    sigma, edges = random_ray(17)
    weights, opacity = standard_weights(sigma, edges)
    last = torch.exp(-(sigma * edges.diff(dim=-1)).sum(-1, keepdim=True))
    torch.testing.assert_close(weights.sum(-1, keepdim=True) + last, torch.ones_like(last))
    torch.testing.assert_close(opacity + last, torch.ones_like(last))
    assert bool((weights >= 0).all())


def test_weights_against_the_product_of_nerf():
    sigma, edges = random_ray(6, 1, 1)
    weights, _ = standard_weights(sigma, edges)
    s, d = sigma[0, 0].numpy(), edges[0, 0].diff().numpy()
    trans = 1.0
    for i in range(6):
        alpha = 1 - np.exp(-s[i] * d[i])
        assert weights[0, 0, i].item() == pytest.approx(trans * alpha)
        trans *= 1 - alpha


@pytest.mark.parametrize("num", [1, 2, 7, 64])
def test_constant_density_for_any_number_of_samples(num):
    edges = torch.linspace(2, 3.5, num + 1).expand(1, 1, -1)
    _, opacity = standard_weights(torch.full((1, 1, num), 0.8), edges)
    assert opacity.item() == pytest.approx(1 - np.exp(-0.8 * 1.5), rel=1e-5)


def test_thin_and_opaque_matter_lose_no_precision():
    edges = torch.linspace(0, 1, 5).expand(1, 1, 5)
    thin, opacity = standard_weights(torch.full((1, 1, 4), 1e-9), edges)
    torch.testing.assert_close(thin, torch.full_like(thin, 0.25e-9), rtol=1e-5, atol=0)
    assert opacity.item() == pytest.approx(1e-9, rel=1e-5)
    opaque, opacity = standard_weights(torch.full((1, 1, 4), 1e6), edges)
    assert opaque.flatten().tolist() == [1, 0, 0, 0]
    assert opacity.item() == 1


def test_gradients_of_the_standard_rule():
    sigma, edges = random_ray(5, 1, 2)
    sigma.requires_grad_()
    edges.requires_grad_()
    assert torch.autograd.gradcheck(standard_weights, (sigma, edges))
    assert torch.autograd.gradgradcheck(standard_weights, (sigma, edges))


def test_gradients_of_eg3ds_rule():
    sigma, t = random_ray(5, 1, 2)
    sigma.requires_grad_()
    t.requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: share_pairs(pair_weights(s, t)), (sigma, t))


def test_eg3ds_rule_against_the_same_by_hand():
    rng = np.random.default_rng(0)
    t, raw, colour = np.sort(rng.random(7)) + 2, rng.standard_normal(7) * 3, rng.random((7, 2))
    total, depth, light, trans = 0.0, 0.0, np.zeros(2), 1.0
    for i in range(6):
        sigma = np.log1p(np.exp((raw[i] + raw[i + 1]) / 2 - 1))
        alpha = 1 - np.exp(-sigma * (t[i + 1] - t[i]))
        total += trans * alpha
        depth += trans * alpha * (t[i] + t[i + 1]) / 2
        light += trans * alpha * (colour[i] + colour[i + 1]) / 2
        trans *= 1 - alpha + 1e-10
    raw = torch.tensor(raw)[None, None]
    sigma = torch.nn.functional.softplus((raw[..., 1:] + raw[..., :-1]) / 2 - 1)
    pairs = pair_weights(sigma, torch.tensor(t)[None, None])
    weights = share_pairs(pairs)[0, 0].numpy()
    assert pairs.sum().item() == pytest.approx(total)
    np.testing.assert_allclose(weights @ colour, light)
    assert weights @ t == pytest.approx(depth)


def test_depth_is_normalised_and_far_where_nothing_is_met():
    depth_sum, opacity = torch.tensor([[[1.5], [0.0009]]]), torch.tensor([[[0.5], [0.0003]]])
    depth = expected_depth(depth_sum, opacity, torch.full_like(opacity, 9.0))
    assert depth.flatten().tolist() == pytest.approx([3.0, 9.0])


def test_eg3ds_depth_is_clamped_to_the_batch():
    depth_sum = torch.tensor([[[1.5], [0.0], [0.0009], [3.0]]])
    opacity = torch.tensor([[[0.5], [0.0], [0.0003], [0.5]]], requires_grad=True)
    depth = clamped_depth(depth_sum, opacity, torch.tensor(2.0), torch.tensor(4.0))
    assert depth.flatten().tolist() == pytest.approx([3.0, 4.0, 3.0, 4.0])
    depth.sum().backward()
    assert bool(opacity.grad.isfinite().all())
