import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from lightning_gan3d.contract import Field, FieldSample, SceneConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images, blur_pair
from lightning_gan3d.training import losses
from lightning_gan3d.training.config import LossConfig
from lightning_gan3d.training.losses import density_l1, density_points


def column(*values):
    return torch.tensor(values)[:, None]


def test_nonsaturating_losses_by_hand():
    fake, real = column(-1.0, 2.0), column(3.0, -0.5)
    d = (softplus(torch.tensor([-1.0, 2.0])) + softplus(torch.tensor([-3.0, 0.5]))).mean()
    g = softplus(torch.tensor([1.0, -2.0])).mean()
    torch.testing.assert_close(losses.discriminator_loss("nonsaturating", fake, real), d)
    torch.testing.assert_close(losses.generator_loss("nonsaturating", fake), g)


def test_relativistic_losses_compare_pairs_and_oppose_each_other():
    fake, real = column(-1.0, 2.0), column(3.0, -0.5)
    d = softplus(torch.tensor([-4.0, 2.5])).mean()
    torch.testing.assert_close(losses.discriminator_loss("relativistic", fake, real), d)
    swapped = losses.discriminator_loss("relativistic", real, fake)
    torch.testing.assert_close(losses.generator_loss("relativistic", fake, real), swapped)


@pytest.mark.parametrize("kind", ["nonsaturating", "relativistic"])
def test_gradients_of_the_two_networks_oppose(kind):
    fake, real = column(0.3).requires_grad_(), column(0.7).requires_grad_()
    losses.discriminator_loss(kind, fake, real).backward()
    assert fake.grad > 0  # descending lowers the logit of fakes
    assert real.grad < 0
    fake.grad = None
    losses.generator_loss(kind, fake, real.detach()).backward()
    assert fake.grad < 0


def test_accuracy_counts_correct_signs_or_pairs():
    fake, real = column(-1.0, -2.0, 1.0), column(1.0, -3.0, 2.0)
    assert losses.accuracy("nonsaturating", fake, real) == pytest.approx(2 / 3)
    assert losses.accuracy("relativistic", fake, real) == pytest.approx(2 / 3)
    assert losses.accuracy("nonsaturating", fake - 5, real) == pytest.approx(5 / 6)


def leaves(v=2):
    torch.manual_seed(0)
    return losses.with_gradient(Images(torch.randn(v, 3, 8, 8), torch.randn(v, 3, 4, 4)))


def test_penalty_of_a_linear_critic_is_the_square_of_its_weights():
    images = leaves()
    a, b = torch.randn(3, 8, 8), torch.randn(3, 4, 4)
    logits = (images.image * a).sum((1, 2, 3)) + (images.image_raw * b).sum((1, 2, 3))
    penalty = losses.gradient_penalty(logits[:, None], images)
    torch.testing.assert_close(penalty, a.square().sum() + b.square().sum())


def test_penalty_can_be_differentiated_and_minimised():
    images, a = leaves(), torch.tensor(1.5, requires_grad=True)
    logits = a * images.image.square().sum((1, 2, 3))
    penalty = losses.gradient_penalty(logits[:, None], images)
    expected = 4 * 1.5**2 * images.image.square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(penalty, expected)
    penalty.backward()
    torch.testing.assert_close(a.grad, expected * 2 / 1.5)


def test_the_penalty_differentiates_the_blur():
    images = leaves()
    sharp = losses.gradient_penalty(images.image.sum((1, 2, 3))[:, None], images)
    high = torch.tensor([1.0, -1.0]).repeat(4)
    through = blur_pair(images, 2.0, real=True, eg3d=False)
    logits = (through.image * high).sum((1, 2, 3)) + 0 * through.image_raw.sum((1, 2, 3))
    assert losses.gradient_penalty(logits[:, None], images) < 0.2 * sharp


def test_one_tensor_as_both_images_counts_twice():
    x = torch.randn(2, 3, 4, 4)
    images = losses.with_gradient(Images(x, x))
    logits = (images.image + images.image_raw).sum((1, 2, 3))
    penalty = losses.gradient_penalty(logits[:, None], images)
    torch.testing.assert_close(penalty, torch.tensor(2.0 * 48))


@dataclass(frozen=True, eq=False)
class Slope(Field):
    """sigma_raw = slope . p"""

    slope: Tensor
    scene_cfg: SceneConfig

    def __call__(self, points, dirs=None):  # noqa: ARG002  # base class
        sigma_raw = (points * self.slope[:, None]).sum(-1, keepdim=True)
        return FieldSample(sigma_raw, torch.zeros(*points.shape))


CPU = torch.device("cpu")


@pytest.mark.parametrize(("points", "half", "scale"), [("box", 1.5, 3.0), ("eg3d", 1.0, 1.0)])
def test_points_fill_the_box_or_eg3ds_cube(points, half, scale):
    cfg = LossConfig(density_reg_points=points, density_reg_num_points=4000)
    p, q = density_points(cfg, 3.0, 2, Draws(0), CPU)
    assert p.abs().max() <= half
    assert p.abs().max() > 0.98 * half
    torch.testing.assert_close((q - p).std(), torch.tensor(0.004 * scale), rtol=0.03, atol=0)


def test_penalty_of_a_slope_is_its_mean_step():
    """E |slope . N(0, d^2 I)| = d |slope| sqrt(2 / pi)."""
    cfg = LossConfig(density_reg_num_points=20_000, density_reg_distance=0.05)
    field = Slope(torch.tensor([[3.0, 0.0, 4.0]]), SceneConfig(box=2.0))
    penalty = density_l1(field, *density_points(cfg, 2.0, 1, Draws(0), CPU))
    expected = 0.05 * 2.0 * 5.0 * math.sqrt(2 / math.pi)
    torch.testing.assert_close(penalty, torch.tensor(expected), rtol=0.02, atol=0)


def test_constant_density_has_no_penalty():
    field = Slope(torch.zeros(2, 3), SceneConfig())
    assert density_l1(field, *density_points(LossConfig(), 1.0, 2, Draws(0), CPU)) == 0


def test_the_critic_penalty_of_a_linear_critic():
    w = torch.randn(3, 8, 8)
    real, fake = (Images(x, x) for x in torch.randn(2, 4, 3, 8, 8))
    share = torch.tensor([0.0, 1.0, 0.25, 0.5]).view(4, 1, 1, 1)
    between = losses.interpolate(real, fake, share)
    torch.testing.assert_close(between.image[:2], torch.stack([real.image[0], fake.image[1]]))
    torch.testing.assert_close(between.image[3], (real.image[3] + fake.image[3]) / 2)
    leaves = losses.with_gradient(between)
    penalty = losses.critic_penalty((leaves.image * w).sum((1, 2, 3))[:, None], leaves)
    torch.testing.assert_close(penalty, (w.norm() - 1) ** 2)
    logits = torch.tensor([[1.0], [3.0]])
    assert losses.generator_loss("wgan", logits) == -2
    assert losses.discriminator_loss("wgan", logits, logits + 5) == -5
