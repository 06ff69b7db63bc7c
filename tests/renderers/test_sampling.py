import numpy as np
import pytest
import torch
from analytic_fields import ray

from lightning_gan3d.cameras import Cameras, Rays
from renderers.config import VolumeRendererConfig
from renderers.sampling import (
    RaySpan,
    ball,
    eg3d_importance,
    interval_edges,
    invert_cdf,
    nucleus,
    ray_span,
    slab,
    split_intervals,
    spread,
    stratified,
)


@pytest.mark.parametrize(
    ("origin", "direction", "near", "far"),
    [
        ((0, 0, 3.0), (0, 0, -1.0), 2.0, 4.0),
        ((0.5, -0.3, -3.0), (0, 0, 1.0), 2.0, 4.0),
        ((0, 0, 0.0), (1.0, 0, 0), -1.0, 1.0),
        ((3.0, 3, 3), (-1.0, -1, -1), 2 * 3**0.5, 4 * 3**0.5),
    ],
)
def test_the_slab_of_known_rays(origin, direction, near, far):
    span = slab(ray(origin, direction), 2.0)
    assert span.near.item() == pytest.approx(near, abs=1e-5)
    assert span.far.item() == pytest.approx(far, abs=1e-5)


def test_rays_enter_and_leave_the_cube_on_its_surface():
    rays = Cameras.orbit(3, 0.4, 3.2, 1.4).rays(16)
    span = slab(rays, 2.0)
    hit = (span.far > span.near)[..., 0]
    assert 0.2 < hit.float().mean() < 1
    for t in span:
        surface = (rays.origins + t * rays.dirs).abs().amax(-1)
        torch.testing.assert_close(surface[hit], torch.ones_like(surface[hit]))
    middle = rays.origins + (span.near + span.far) / 2 * rays.dirs
    assert bool((middle.abs().amax(-1)[hit] < 1).all())


@pytest.mark.parametrize("x", [0.0, 0.4, 1.5])
def test_rays_parallel_to_faces(x):
    span = slab(ray((x, 0.0, 3.0), (0, 0, -1.0)), 2.0)
    assert bool(span.far > span.near) == (x < 1)


def test_the_ball_of_known_rays():
    span = ball(ray((0.6, 0.0, 3.0), (0, 0, -1.0)), 1.0)
    assert span.near.item() == pytest.approx(2.2)
    assert span.far.item() == pytest.approx(3.8)
    missed = ball(ray((1.2, 0.0, 3.0), (0, 0, -1.0)), 1.0)
    assert bool(missed.far < missed.near)


def test_a_tangent_has_a_finite_gradient():
    origins = torch.tensor([[[1.0, 0.0, 3.0]]], requires_grad=True)
    span = ball(Rays(origins, torch.tensor([[[0.0, 0.0, -1.0]]])), 1.0)
    (span.near + span.far).sum().backward()
    assert bool(origins.grad.isfinite().all())


def bound(rays, **options):
    return ray_span(rays, 2.0, VolumeRendererConfig(**options))


@pytest.mark.parametrize("bounds", ["box", "sphere"])
def test_a_ray_that_misses_has_no_length_and_lies_behind_everything(bounds):
    span, background = bound(ray((0, 0, 3.0), (0, 1.0, -0.1)), bounds=bounds)
    reach = 1.0 if bounds == "sphere" else 3**0.5
    assert span.near.item() == span.far.item() == background.item() == pytest.approx(3 + reach)
    span, background = bound(ray((0, 0, 3.0), (0, 1.0, -0.1)), bounds=bounds, near=1.0, far=9.0)
    assert span.near.item() == span.far.item() == background.item() == 9


def test_near_and_far_cut_the_box():
    rays = ray((0, 0, 3.0), (0, 0, -1.0))
    span, background = bound(rays, near=2.5, far=3.5)
    assert (span.near.item(), span.far.item(), background.item()) == (2.5, 3.5, 3.5)
    span, _ = bound(ray((0, 0, 0.0), (0, 0, -1.0)))
    assert (span.near.item(), span.far.item()) == (0, 1)  # from within: nothing behind the camera


def test_strata_fill_the_span_and_jitter_stays_within_them():
    span = RaySpan(torch.full((1, 1, 1), 2.0), torch.full((1, 1, 1), 4.0))
    t, end = stratified(span, 4, None, "standard")
    assert t.flatten().tolist() == [2.25, 2.75, 3.25, 3.75]
    assert end.far.item() == 4
    assert interval_edges(t, end).flatten().tolist() == [2, 2.5, 3, 3.5, 4]
    t, _ = stratified(span, 4, torch.tensor([0.0, 0.5, 0.2, 0.9]).expand(1, 1, 4), "standard")
    torch.testing.assert_close(t.flatten(), torch.tensor([2.0, 2.75, 3.1, 3.95]))


def test_strata_of_eg3d_reach_beyond_far():
    # FFHQ's: linspace(2.25, 3.3, 48) + u * delta ends at 3.322.
    span = RaySpan(torch.full((1, 1, 1), 2.25), torch.full((1, 1, 1), 3.3))
    u = np.random.default_rng(0).random(48, dtype=np.float32)
    u[-1] = 1 - 1e-6
    t, end = stratified(span, 48, torch.tensor(u)[None, None], "eg3d")
    expected = np.linspace(2.25, 3.3, 48) + u * (3.3 - 2.25) / 47
    np.testing.assert_allclose(t.flatten().numpy(), expected, rtol=1e-6)
    assert t[..., -1].item() == pytest.approx(3.3223, abs=1e-4)
    assert end.far.item() == pytest.approx(3.3223, abs=1e-4)


def test_inverse_of_a_known_distribution():
    edges = torch.tensor([0.0, 1, 3, 4]).expand(1, 1, 4)
    mass = torch.tensor([1.0, 2, 1]).expand(1, 1, 3)
    u = torch.tensor([0.0, 0.125, 0.25, 0.5, 0.75, 0.875, 0.99999]).expand(1, 1, 7)
    t = invert_cdf(edges, mass, u)
    expected = torch.tensor([0.0, 0.5, 1, 2, 3, 3.5, 4]).expand(1, 1, 7)
    torch.testing.assert_close(t, expected, atol=1e-4, rtol=0)


def test_an_empty_ray_is_sampled_evenly_over_its_intervals():
    edges = torch.linspace(2, 4, 9).expand(1, 1, 9)
    u = ((torch.arange(16) + 0.5) / 16).expand(1, 1, 16)
    t = invert_cdf(edges, spread(torch.zeros(1, 1, 8)), u)
    torch.testing.assert_close(t, 2 + 2 * u, atol=1e-5, rtol=0)


def kept_of(weights, share, edges=None):
    """Indices of the intervals that the nucleus keeps, by default of length 1."""
    weights = torch.tensor(weights)[None, None]
    edges = torch.arange(weights.shape[-1] + 1.0) if edges is None else torch.tensor(edges)
    mass = nucleus(edges[None, None], weights, share)[0, 0]
    lengths = edges.diff().clamp_min(1e-6)
    assert torch.equal(mass[mass > 0], lengths[mass > 0])
    return mass.nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("weights", "share", "expected"),
    [
        ([0.1, 0.5, 0.0, 0.3, 0.1], 0.7, [1, 3]),
        ([0.1, 0.5, 0.0, 0.3, 0.1], 0.85, [0, 1, 3]),  # of equal ones the nearer
        ([0.02, 0.1, 0.0, 0.06, 0.02], 0.7, [1, 3]),  # relative to the ray's opacity
        ([0.25, 0.25, 0.25, 0.25], 0.5, [0, 1]),  # reached exactly
        ([0.0, 0.5, 0.25, 0.0], 1.0, [1, 2]),
        ([0.0, 0.0, 0.0], 0.98, [0, 1, 2]),
        ([0.7], 0.5, [0]),
        ([0.0, 1e-20, 0.0], 0.98, [1]),
    ],
)
def test_the_nucleus_is_the_smallest_set_that_holds_the_share(weights, share, expected):
    assert kept_of(weights, share) == expected


def test_no_smaller_set_holds_the_share():
    rng = np.random.default_rng(0)
    for share in (0.3, 0.9, 0.98, 0.999):
        weights = rng.random(30, dtype=np.float32) ** 6
        kept = kept_of(weights, share)
        descending = np.sort(weights)[::-1].astype(np.float64)
        fewest = 1 + int((descending.cumsum() < share * descending.sum()).sum())
        assert len(kept) == fewest
        assert weights[kept].sum() >= share * weights.sum() * (1 - 1e-6)


def test_samples_are_uniform_over_the_kept_length_and_in_order():
    edges = torch.tensor([0.0, 1.0, 1.5, 3.0, 4.0])
    mass = nucleus(edges[None, None], torch.tensor([0.0, 0.3, 0.0, 0.7])[None, None], 0.99)
    u = ((torch.arange(6) + 0.5) / 6)[None, None]
    expected = torch.tensor([1.125, 1.375, 3.125, 3.375, 3.625, 3.875])
    torch.testing.assert_close(invert_cdf(edges[None, None], mass, u)[0, 0], expected)


def test_parts_of_intervals_interpolate_the_raw_density():
    t, raw = torch.tensor([0.5, 1.5, 3.0]), torch.tensor([2.0, 4.0, 1.0])
    edges = torch.tensor([0.0, 1.0, 2.25, 4.0])
    parts, densities = split_intervals(*(x[None, None] for x in (t, edges, raw)), None)
    expected = [*np.linspace(0, 1, 5)[:-1], *np.linspace(1, 2.25, 5)[:-1], *np.linspace(2.25, 4, 5)]
    np.testing.assert_allclose(parts.flatten(), expected)
    middles = (parts[..., 1:] + parts[..., :-1]) / 2
    np.testing.assert_allclose(densities.flatten(), np.interp(middles.flatten(), t, raw), rtol=1e-6)
    # A neighbour outside the box says nothing about the density inside.
    inside = torch.tensor([True, True, False])[None, None]
    _, densities = split_intervals(*(x[None, None] for x in (t, edges, raw)), inside)
    assert densities.flatten()[6:8].tolist() == [4, 4]


def test_parts_of_a_ray_that_misses_the_bounds_are_finite():
    t, edges = torch.full((1, 1, 3), 2.5), torch.full((1, 1, 4), 2.5)
    parts, densities = split_intervals(t, edges, torch.tensor([[[1.0, 2, 3]]]), None)
    assert (parts == 2.5).all()
    assert densities.isfinite().all()


def test_a_ray_that_misses_the_bounds_stays_finite():
    edges = torch.full((1, 1, 5), 2.5)
    mass = nucleus(edges, torch.zeros(1, 1, 4), 0.98)
    u = torch.tensor([0.0, 0.4, 0.99]).expand(1, 1, 3)
    assert (invert_cdf(edges, mass, u) == 2.5).all()


def importance_by_hand(t, w, u):
    """EG3D's importance sampling, one number at a time."""
    n = len(t)
    pooled = []
    for i in range(n):  # max-pool of 2 with a pad of 1 on the n - 1 weights
        pooled.append(max(w[j] for j in (i - 1, i) if 0 <= j < n - 1))
    smooth = [(pooled[i] + pooled[i + 1]) / 2 + 0.01 for i in range(n - 1)]
    mass = [s + 1e-5 for s in smooth[1:-1]]
    middle = [(t[i] + t[i + 1]) / 2 for i in range(n - 1)]
    cdf = [0.0]
    for m in mass:
        cdf.append(cdf[-1] + m / sum(mass))
    out = []
    for x in u:
        i = max(j for j in range(len(mass)) if cdf[j] <= x)
        out.append(middle[i] + (x - cdf[i]) / (cdf[i + 1] - cdf[i]) * (middle[i + 1] - middle[i]))
    return out


def test_eg3d_importance_against_the_same_by_hand():
    rng = np.random.default_rng(1)
    t, w, u = np.sort(rng.random(9)) + 2, rng.random(8) ** 4, rng.random(12)
    got = eg3d_importance(*(torch.tensor(x)[None, None] for x in (t, w, u)))
    np.testing.assert_allclose(got.flatten().numpy(), importance_by_hand(t, w, u), rtol=1e-6)


def test_eg3d_importance_moves_half_an_interval_toward_the_camera():
    t = torch.arange(48, dtype=torch.float64)[None, None]
    w = torch.zeros(1, 1, 47, dtype=torch.float64)
    w[..., 20] = 1e6  # the segment from 20 to 21, centred at 20.5
    u = ((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)[None, None]
    assert eg3d_importance(t, w, u).mean().item() == pytest.approx(20.0, abs=1e-3)
    edges = torch.cat([t[..., :1], (t[..., 1:] + t[..., :-1]) / 2, t[..., -1:]], -1)
    w = torch.zeros(1, 1, 48, dtype=torch.float64)
    w[..., 20] = 1e6  # the standard rule samples where the weight is
    assert invert_cdf(edges, w, u).mean().item() == pytest.approx(20.0, abs=1e-3)


def test_eg3d_importance_never_reaches_the_last_midpoint():
    t = torch.arange(10.0)[None, None]
    w = torch.zeros(1, 1, 9)
    w[..., -1] = 1e6
    u = torch.linspace(0, 1 - 1e-6, 50)[None, None]
    got = eg3d_importance(t, w, u)
    assert got.max() <= 7.5  # the midpoints are 0.5 ... 8.5
    assert got.min() >= 0.5
