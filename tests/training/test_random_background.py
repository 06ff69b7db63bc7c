"""Random solid backgrounds of generated and of matted real images."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.draws import Draws
from lightning_gan3d.generator import Generator
from lightning_gan3d.images import at_level, real_pair, recolour, resize, to_float
from lightning_gan3d.training.module import make_modules

RANDOM = ["data.random_background=true", "data.convert=white"]


@pytest.fixture(scope="module")
def matted(tmp_path_factory):
    """A data set of images with soft alpha channels, and their pixels."""
    folder = tmp_path_factory.mktemp("matted") / "data"
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 4)).astype(np.uint8)
    pixels[:, :2, :2, 3] = 0  # corners are background
    labels = Cameras.orbit(8, 0.2, 3.2, 1.5).to_label().tolist()
    folder.mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i}.png")
    rows = [[f"{i}.png", label] for i, label in enumerate(labels)]
    (folder / "dataset.json").write_text(json.dumps({"labels": rows}))
    return folder, pixels


def test_a_recoloured_rendering_equals_one_over_that_background(tiny):
    torch.manual_seed(0)
    config = tiny().generator
    z, cameras = torch.randn(2, 8), Cameras.orbit(2, 0.3, 3.2, 1.5)
    results = []
    for background in (1.0, 0.25):
        renderer = dataclasses.replace(config.renderer, background=background)
        torch.manual_seed(1)
        generator = Generator(dataclasses.replace(config, renderer=renderer), 16)
        images = generator(z, cameras.to_label(), resolution=8, draws=Draws(0))
        if background == 1.0:
            images = recolour(images, torch.full((2, 3, 1, 1), -0.5), 1.0)
        weights = torch.linspace(-1, 1, images.image.numel()).view_as(images.image)
        (weights * images.image).sum().backward()
        gradients = [p.grad for p in generator.parameters() if p.grad is not None]
        results.append([images.image, images.image_raw, *gradients])
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("reduced", [False, True])
def test_a_recoloured_real_image_is_its_alpha_composite(matted, reduced):
    folder, pixels = matted
    data = ImageDataset(DataConfig(path=str(folder), convert="white", mirror=True))
    indices = torch.tensor([3, 11])  # the second is the mirror image of the first
    images, mattes = data.images(indices), data.mattes(indices)
    assert torch.equal(mattes[1], mattes[0].flip(-1))
    colour = torch.tensor([[0.2, -0.8, 0.6]] * 2)[:, :, None, None]
    pair = real_pair(images, 8, reduced)
    opacity = resize(mattes / 255, 8) if reduced else mattes / 255
    result = recolour(pair._replace(opacity=opacity), colour, 1.0)
    alpha = torch.tensor(pixels[3, :, :, 3:] / 255.0).permute(2, 0, 1)
    rgb = to_float(torch.tensor(pixels[3, :, :, :3])).permute(2, 0, 1)
    expected = (alpha * rgb + (1 - alpha) * colour[0])[None].float()
    expected = torch.cat([expected, expected.flip(-1)])
    raw = resize(expected, 8)
    torch.testing.assert_close(result.image_raw, raw, rtol=0, atol=1 / 127)
    whole = resize(raw, 16) if reduced else expected
    torch.testing.assert_close(result.image, whole, rtol=0, atol=1 / 127)


def test_both_kinds_of_images_get_new_colours_each_time(tiny, matted):
    module, data = make_modules(tiny(f"data.path={matted[0]}", *RANDOM, "data.holdout=0"))
    corners = []
    judge = module.judge_together

    def seen(given, *args, **options):
        corners.extend(images.image[:, :, 0, 0].detach() for images, _, _ in given)
        return judge(given, *args, **options)

    module.judge_together = seen
    batches = iter(data.train_dataloader(0, 1))
    for _ in range(2):
        module.training_step(next(batches), 0)
    colours = torch.cat(corners)
    assert len(corners) >= 6  # generator and discriminator, penalties
    assert len(colours.unique(dim=0)) == len(colours)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["data.random_background=true"], "set data.convert to the background"),
        ([*RANDOM, "data.convert=black"], "the renderer's background is 1.0"),
        ([*RANDOM, "kind"], "the renderer's background is None"),
    ],
)
def test_combinations_that_cannot_work_are_rejected(tiny, start, options, message):
    kind = "image2d" if "kind" in options else "triplane"
    with pytest.raises(ConfigError, match=message):
        start(tiny(*(o for o in options if o != "kind"), kind=kind))


def test_growing_reduces_and_fades_the_image_over_its_background(tiny, matted):
    whole = "training.rendering_resolution={initial: null, final: null}"
    stages = "[{resolution: 8, kimg: 0}, {resolution: 16, fade_kimg: 0.016}]"
    options = [*RANDOM, f"data.path={matted[0]}", whole]
    grows, plain = (
        make_modules(tiny(*options, *more)) for more in ([f"training.growing.stages={stages}"], [])
    )
    batch = next(iter(plain[1].train_dataloader(0, 1)))._replace(step=1)
    (mb,), (full,) = grows[0].split(batch), plain[0].split(batch)
    assert mb.schedule.level.alpha == 0.5
    reals = grows[0].input.reals(mb).image
    expected = at_level(plain[0].input.reals(full).image, 16, 0.5)
    torch.testing.assert_close(reals, expected)
