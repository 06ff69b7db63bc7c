import pytest
import torch
from torch.nn.functional import softplus

from lightning_gan3d.images import Images
from lightning_gan3d.training import losses
from lightning_gan3d.training.discriminator_input import blur_pair


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
def test_each_network_pulls_its_own_way(kind):
    fake, real = column(0.3).requires_grad_(), column(0.7).requires_grad_()
    losses.discriminator_loss(kind, fake, real).backward()
    assert fake.grad > 0  # descending lowers the logit of fakes
    assert real.grad < 0
    fake.grad = None
    losses.generator_loss(kind, fake, real.detach()).backward()
    assert fake.grad < 0


def test_accuracy_counts_right_signs_or_right_pairs():
    fake, real = column(-1.0, -2.0), column(1.0, -3.0)
    assert losses.accuracy("nonsaturating", fake, real) == 0.75
    assert losses.accuracy("relativistic", fake, real) == 0.5


def leaves(v=2):
    torch.manual_seed(0)
    return losses.with_gradient(Images(torch.randn(v, 3, 8, 8), torch.randn(v, 3, 4, 4)))


def test_penalty_of_a_linear_critic_is_the_square_of_its_weights():
    images = leaves()
    a, b = torch.randn(3, 8, 8), torch.randn(3, 4, 4)
    logits = (images.image * a).sum((1, 2, 3)) + (images.image_raw * b).sum((1, 2, 3))
    found = losses.gradient_penalty(logits[:, None], images)
    torch.testing.assert_close(found, a.square().sum() + b.square().sum())


def test_penalty_can_be_differentiated_and_minimised():
    images, a = leaves(), torch.tensor(1.5, requires_grad=True)
    logits = a * images.image.square().sum((1, 2, 3))
    penalty = losses.gradient_penalty(logits[:, None], images)
    expected = 4 * 1.5**2 * images.image.square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(penalty, expected)
    penalty.backward()
    torch.testing.assert_close(a.grad, expected * 2 / 1.5)


def test_penalty_goes_through_the_blur():
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
    found = losses.gradient_penalty(logits[:, None], images)
    torch.testing.assert_close(found, torch.tensor(2.0 * 48))
