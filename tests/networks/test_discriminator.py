import math

import pytest
import torch
import torch.nn.functional as F

from lightning_gan3d.config import ConfigError
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images
from lightning_gan3d.networks.augment import Augment, AugmentConfig
from lightning_gan3d.networks.convolution import convolve
from lightning_gan3d.networks.discriminator import (
    Discriminator,
    DiscriminatorConfig,
    minibatch_deviation,
)
from lightning_gan3d.networks.precision import computing_in


def make(resolution=16, **options):
    torch.manual_seed(0)
    options = {"channels": (8, 6, 4)[: resolution.bit_length() - 2]} | options
    return Discriminator(DiscriminatorConfig(**options), resolution)


def batch(n=4, size=16, raw=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(n, 3, size, size, generator=generator, dtype=dtype)
    image_raw = torch.randn(n, 3, raw, raw, generator=generator, dtype=dtype)
    return Images(image, image_raw), torch.randn(n, 25, generator=generator, dtype=dtype)


@pytest.mark.parametrize("resolution", [4, 8, 16])
@pytest.mark.parametrize("raw", [4, 8, 24])
def test_shape(resolution, raw):
    images, label = batch(size=resolution, raw=raw)
    assert make(resolution)(images, label).shape == (4, 1)


def test_names_and_shapes_of_eg3d():
    net = Discriminator(DiscriminatorConfig(channel_base=1024, channel_max=32), 512)
    shapes = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    names = {
        "b512.fromrgb.weight",
        "b512.fromrgb.bias",
        "mapping.embed.weight",
        "mapping.embed.bias",
    }
    for r in (512, 256, 128, 64, 32, 16, 8):
        names |= {f"b{r}.conv{i}.{p}" for i in (0, 1) for p in ("weight", "bias")}
        names |= {f"b{r}.skip.weight"}
    names |= {f"b4.{layer}.{p}" for layer in ("conv", "fc", "out") for p in ("weight", "bias")}
    names |= {f"mapping.fc{i}.{p}" for i in range(8) for p in ("weight", "bias")}
    assert set(shapes) == names
    assert shapes["b512.fromrgb.weight"] == (2, 6, 1, 1)
    assert shapes["b4.conv.weight"] == (32, 33, 3, 3)
    assert shapes["b4.fc.weight"] == (32, 512)
    assert shapes["b4.out.weight"] == (32, 32)


def test_residual_block_matches_definition():
    block = make().b16
    x = torch.randn(2, 6, 16, 16)
    y = block.fromrgb(x)
    shortcut = convolve(y, block.skip.weight / math.sqrt(4), down=2)
    h = F.conv2d(y, block.conv0.weight / math.sqrt(4 * 9), padding=1)
    h = convolve(F.leaky_relu(h, 0.2) * math.sqrt(2), block.conv1.weight / math.sqrt(4 * 9), down=2)
    residual = F.leaky_relu(h, 0.2) * math.sqrt(2)
    torch.testing.assert_close(block(x), (shortcut + residual) / math.sqrt(2))


def test_projection_depends_on_the_label():
    images, label = batch()
    net = make()
    assert (net(images, label) - net(images, label.flip(0))).abs().min() > 1e-4
    blind = make(conditioning="none")
    assert torch.equal(blind(images, label), blind(images, label.flip(0)))


def test_dual_discrimination_depends_on_the_raw_rendering():
    images, label = batch()
    other = images._replace(image_raw=images.image_raw.flip(0))
    net = make()
    assert not torch.allclose(net(images, label), net(other, label))
    net = make(dual=False)
    assert torch.equal(net(images, label), net(other, label))


def test_minibatch_deviation_matches_definition():
    x = torch.randn(6, 5, 4, 4)
    y = minibatch_deviation(x, 3)
    torch.testing.assert_close(y[:, :5], x)
    for k in (0, 1):
        std = (x[k::2].var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
        torch.testing.assert_close(y[k::2, 5], std.expand(3, 4, 4))


@pytest.mark.parametrize("conditioning", ["projection", "predict"])
def test_batches_of_one_pass_do_not_share_groups(conditioning):
    images, label = batch(16)
    net = make(mbstd_group=4, conditioning=conditioning)
    parts = net.judge(images, label, batches=2).chunk(2)
    for i, part in enumerate(parts):
        half = slice(8 * i, 8 * i + 8)
        alone = net.judge(Images(*(x[half] for x in images[:2])), label[half])
        torch.testing.assert_close(part.logits, alone.logits)
        torch.testing.assert_close(part.direction, alone.direction)


def test_groups_interleave_within_the_microbatch():
    images, label = batch(8)
    net = make(mbstd_group=4)
    logits = net(images, label)
    changed = images._replace(image=images.image.clone())
    changed.image[0] *= 30
    moved = (net(changed, label) - logits).abs().squeeze(1) > 1e-6
    assert moved.tolist() == [True, False] * 4
    for k in (0, 1):
        group = Images(images.image[k::2], images.image_raw[k::2])
        torch.testing.assert_close(net(group, label[k::2]), logits[k::2], atol=1e-5, rtol=1e-4)
    alone = make(mbstd_group=0)
    moved = (alone(changed, label) - alone(images, label)).abs().squeeze(1) > 1e-6
    assert moved.tolist() == [True] + [False] * 7


def test_group_sizes_that_do_not_divide_the_batch():
    images, label = batch(2)
    assert make(mbstd_group=4)(images, label).shape == (2, 1)
    images, label = batch(6)
    with pytest.raises(ValueError, match="6 is not divisible into groups of 4"):
        make(mbstd_group=4)(images, label)


def test_unconditional_term_is_added():
    images, label = batch()
    net = make(unconditional_term=True)
    logits = net(images, label)
    net.b4.plain.bias.data += 2.0
    torch.testing.assert_close(net(images, label), logits + 2)


def test_options_have_effect():
    images, label = batch()
    assert not torch.allclose(make(conv_clamp=0.1)(images, label), make()(images, label))
    assert not any("fc2" in k for k in make(mapping_layers=2).mapping.state_dict())
    assert make(channels=None, channel_base=64, channel_max=10).b16.conv0.bias.shape == (4,)


def test_logits_of_16_bit_blocks_are_float32():
    images, label = batch()
    net = make()
    exact = net(images, label)
    dtypes = []
    net.b16.conv1.register_forward_hook(lambda *args: dtypes.append(args[-1].dtype))
    with computing_in(net, "bf16"):
        low = net(images, label)
    assert low.dtype == torch.float32
    assert not torch.equal(low, exact)
    torch.testing.assert_close(low, exact, atol=0.05, rtol=0.1)
    assert torch.equal(net(images, label), exact)
    assert dtypes == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("augment", ["none", "fixed"])
@pytest.mark.parametrize("raw", [4, 8])
def test_gradient_of_the_gradient_penalty(augment, raw):
    """R1 by finite differences in float64, to images and weights, through augmentation."""
    net = make(8, mapping_layers=1, unconditional_term=True).double()
    pipeline = Augment(AugmentConfig(mode=augment, probability=0.7)).double()
    images, label = batch(4, 8, raw, torch.float64)
    names = ["b8.conv0.weight", "b8.conv1.weight", "b4.conv.weight", "b4.fc.weight"]
    weights = [net.get_parameter(n).detach().clone().requires_grad_() for n in names]

    def penalty(image, image_raw, *weights):
        augmented = pipeline(Images(image, image_raw), Draws(seed=5))
        parameters = dict(zip(names, weights, strict=True))
        logits = torch.func.functional_call(net, parameters, (augmented, label))
        grads = torch.autograd.grad(logits.sum(), [image, image_raw], create_graph=True)
        return sum(g.square().sum() for g in grads)

    inputs = [images.image.requires_grad_(), images.image_raw.requires_grad_(), *weights]
    assert torch.autograd.gradcheck(penalty, inputs, fast_mode=True)
    assert penalty(*inputs) > 0


def test_gradient_penalty_of_small_images_by_finite_differences():
    net = make(4, channels=(3,), mbstd_group=2, mapping_layers=0).double()
    images, label = batch(2, 4, 4, torch.float64)

    def logits(image, image_raw):
        return net(Images(image, image_raw), label)

    inputs = (images.image.requires_grad_(), images.image_raw.requires_grad_())
    assert torch.autograd.gradcheck(logits, inputs)
    assert torch.autograd.gradgradcheck(logits, inputs, fast_mode=True)


def test_a_wrong_number_of_channels_is_rejected():
    with pytest.raises(ConfigError, match=r"discriminator\.channels.*16 needs 3"):
        make(16, channels=(8, 8))
