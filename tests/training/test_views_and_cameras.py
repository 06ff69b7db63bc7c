"""Several views of a scene per generator step; a discriminator that estimates cameras."""

import json
import math

import pytest
import torch

from lightning_gan3d.cameras import LABEL_DIM, Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.images import Images
from lightning_gan3d.networks.discriminator import Discriminator, DiscriminatorConfig
from lightning_gan3d.training import losses
from lightning_gan3d.training.module import make_modules

DENSITY = ["loss.density_reg=1", "loss.density_reg_interval=1"]
TERMS = ["loss.terms=[{kind: density_smoothness, weight: 9}, {kind: total_variation, weight: 1}]"]
PREDICT = ["discriminator.conditioning=predict", "discriminator.unconditional_term=false"]


def opened(config):
    module, data = make_modules(config)
    return module, module.split(next(iter(data.train_dataloader(0, 1))))


@pytest.mark.parametrize("loss", ["nonsaturating", "relativistic"])
@pytest.mark.parametrize("more", [[], PREDICT, DENSITY, TERMS])
def test_the_gradient_of_several_views_is_the_mean_of_the_views(tiny, gradients, loss, more):
    options = [f"loss.adversarial={loss}", "generator.mapping.condition=camera", *more]
    module, microbatches = opened(tiny("training.views=3", *options))
    module.generator_step(microbatches)
    (together,) = gradients
    gradients.clear()
    alone, _ = opened(tiny(*options))
    view_loss = alone.view_loss
    for view in range(3):
        alone.view_loss = lambda *args, k=view: view_loss(*args[:-1], k)
        alone.generator_step(microbatches)
    assert len(gradients) == 3
    for mean, *parts in zip(together, *gradients, strict=True):
        known = [p for p in parts if p is not None]
        assert (mean is None) == (not known)
        if known:
            torch.testing.assert_close(mean, sum(known) / 3, rtol=1e-4, atol=1e-6)
    differences = [
        float((a - b).abs().max())
        for a, b in zip(gradients[0], gradients[1], strict=True)
        if a is not None
    ]
    assert max(differences) > 1e-4  # the views differ


def test_each_view_has_another_camera_of_the_microbatch(tiny):
    module, (mb, *_) = opened(tiny("training.views=2"))
    seen, render = [], module.generator.render
    module.generator.render = lambda scene, ws, cameras, *rest: (
        seen.append(cameras.cam2world) or render(scene, ws, cameras, *rest)
    )
    module.generator_step([mb])
    assert torch.equal(seen[1], seen[0].roll(-1, dims=0))
    assert not torch.equal(seen[1], seen[0])


def test_more_views_than_cameras_are_rejected(tiny):
    with pytest.raises(ConfigError, match="views=9: a microbatch of 8 has fewer cameras"):
        tiny("training.views=9")


def test_a_picture_has_one_view(tiny, start):
    with pytest.raises(ConfigError, match=r"views=2: .* no 3D scene; set training.views=1"):
        start(tiny("training.views=2", kind="image2d"))


def test_the_camera_error_is_twice_one_minus_the_cosine():
    cameras = Cameras.orbit(4, 0.3)
    for angle in (0.0, 0.4, math.pi):
        turned = cameras.rotate_y(torch.tensor([angle])).forward
        cosine = (turned * cameras.forward).sum(1).mean()
        error = losses.camera_error(turned, cameras.to_label())
        torch.testing.assert_close(error, 2 - 2 * cosine, atol=1e-6, rtol=1e-5)


def test_a_discriminator_that_predicts_does_not_see_the_camera():
    torch.manual_seed(0)
    net = Discriminator(DiscriminatorConfig(channels=(8, 8, 8), conditioning="predict"), 16)
    images = Images(torch.randn(4, 3, 16, 16), torch.randn(4, 3, 8, 8))
    first, second = (net.judge(images, torch.randn(4, LABEL_DIM)) for _ in range(2))
    assert first.logits.shape == (4, 1)
    assert first.direction.shape == (4, 3)
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.direction, second.direction)
    assert torch.equal(net(images, torch.randn(4, LABEL_DIM)), first.logits)


def test_the_discriminator_learns_the_cameras_of_real_images(tiny):
    options = ["loss.camera_real=15", "loss.camera_fake=0", "optimizer.discriminator.lr=0.01"]
    module, microbatches = opened(tiny(*PREDICT, *options))
    errors = []
    for _ in range(60):
        module.discriminator_step(microbatches)
        errors.append(module.meter.read()["loss/camera_real"])
    # A constant estimate has an error of 1 - |mean direction|^2, about 0.8 here.
    assert max(errors[-5:]) < 0.4 < errors[0]


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_generated_images_train_both_networks_to_show_their_camera(tiny, gradients, weight):
    module, microbatches = opened(tiny(*PREDICT, f"loss.camera_fake={weight}", "loss.r1_gamma=0"))
    module.generator_step(microbatches)
    module.discriminator_step(microbatches)
    plain, _ = opened(tiny(*PREDICT, "loss.camera_fake=0", "loss.r1_gamma=0"))
    plain.generator_step(microbatches)
    plain.discriminator_step(microbatches)
    for given, without in ((gradients[0], gradients[2]), (gradients[1], gradients[3])):
        pairs = [(a, b) for a, b in zip(given, without, strict=True) if a is not None]
        assert all(torch.equal(a, b) for a, b in pairs) == (weight == 0)


def test_unknown_cameras_cannot_be_learnt(tiny, start):
    options = [*PREDICT, "data.labels=none", "cameras.kind=prior", "cameras.preset=faces"]
    with pytest.raises(ConfigError, match=r"camera_real=1.0 .* set loss.camera_real=0"):
        start(tiny(*options, "loss.camera_real=1"))


def test_defaults_keep_the_hash(tiny, monkeypatch):
    monkeypatch.setattr("lightning_gan3d.config.digest", json.dumps)
    tree = json.loads(tiny().hash)
    assert "views" not in tree["training"]
    assert "camera_fake" not in tree["loss"]
    tree = json.loads(tiny("training.views=2", *PREDICT).hash)
    assert tree["training"]["views"] == 2
    assert tree["loss"]["camera_fake"] == 15
