"""Images with classes instead of cameras: read, trained on, generated and rejected."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gan3d.cameras import LABEL_DIM, Cameras
from lightning_gan3d.checkpoints.load import export_generator, load_discriminator, load_generator
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.check import check_dataset
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.images import Images
from lightning_gan3d.inference.config import GenerateOptions
from lightning_gan3d.inference.generate import generate
from lightning_gan3d.networks.mapping import with_class

NUM = 32
CONDITIONAL = [
    *("data.labels=class", "data.num_classes=2", "generator.mapping.condition=class"),
    *("data.mirror=true", "data.holdout=0.25", "generator.representation.output=sigmoid"),
]


def write(folder, labels):
    """Write dark images of class 0 and bright ones of class 1, in turn."""
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 60, (NUM, 16, 16, 3))
    for i, image in enumerate(noise):
        bright = (image + 180 * (i % 2)).astype(np.uint8)
        Image.fromarray(bright).save(folder / f"{i:02d}.png")
    rows = [[f"{i:02d}.png", label] for i, label in enumerate(labels)]
    (folder / "dataset.json").write_text(json.dumps({"labels": rows}))
    return str(folder)


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "classes", [i % 2 for i in range(NUM)])


def test_classes_are_zeros_and_a_one_after_an_unknown_camera(path):
    cfg = DataConfig(path=path, labels="class", num_classes=3, mirror=True)
    labels = ImageDataset(cfg).labels
    assert labels.shape == (2 * NUM, LABEL_DIM + 3)
    assert bool(labels[:, :LABEL_DIM].isnan().all())
    expected = torch.eye(3)[[i % 2 for i in range(NUM)]]
    assert torch.equal(labels[:, LABEL_DIM:], torch.cat([expected, expected]))
    assert not check_dataset(cfg).warnings


@pytest.mark.parametrize("wrong", [2, -1, 1.0, True, "1", [0] * 25, None])
def test_a_wrong_class_is_named(tmp_path, wrong):
    path = write(tmp_path / "wrong", [*range(2)] * (NUM // 2 - 1) + [0, wrong])
    with pytest.raises(DataError, match=r"31.png .* expected a class of 0 to 1 "):
        ImageDataset(DataConfig(path=path, labels="class", num_classes=2))


def test_options_that_do_not_fit_name_their_remedy(path, tiny, start):
    with pytest.raises(DataError, match=r"for classes set data.labels=class"):
        ImageDataset(DataConfig(path=path))
    for options in ({"labels": "class"}, {"num_classes": 2}):
        with pytest.raises(ConfigError, match="number of classes"):
            DataConfig(path=path, **options)
    for kind, wrong, remedy in (
        ("triplane", "loss.density_reg=0", "representation.kind=image2d"),
        ("image2d", "generator.mapping.condition=camera", "mapping.condition=class"),
    ):
        options = [o for o in CONDITIONAL if kind == "image2d" or "output" not in o]
        with pytest.raises(ConfigError, match=f"data.labels=class: .* set .*generator.{remedy}"):
            start(tiny(f"data.path={path}", *options, wrong, kind=kind))
    with pytest.raises(ConfigError, match=r"set data.labels=class"):
        start(tiny("generator.mapping.condition=class"))


def test_a_2d_generator_learns_classes(tiny, start, path, tmp_path):
    config = tiny(f"data.path={path}", *CONDITIONAL, "training.kimg=0.8", kind="image2d")
    code, run, _ = start(config)
    assert code == 0
    generator, z = load_generator(run), torch.randn(8, 8)
    cameras = Cameras.orbit(8, 0.0, 2.7, 1.0)
    dark, bright = (with_class(cameras.to_label(), 2, i) for i in range(2))
    dark[:, :LABEL_DIM] = bright[:, :LABEL_DIM] = torch.nan
    mean = [float(generator(z, label).image.mean()) for label in (dark, bright)]
    assert mean[1] - mean[0] > 0.5
    discriminator = load_discriminator(run)
    images = Images(*(torch.zeros(8, 3, 16, 16) for _ in range(2)))
    assert not torch.allclose(discriminator(images, dark), discriminator(images, bright))
    export_generator(run, tmp_path / "export")
    options = {"seeds": "0", "views": 1, "device": "cpu"}
    for i in range(2):
        out = tmp_path / str(i)
        generate([str(tmp_path / "export")], GenerateOptions(**options, class_index=i), out)
        pixels = np.asarray(Image.open(out / "seed0000_view00.png"))
        assert (pixels.mean() > 127) == bool(i)
    with pytest.raises(ConfigError, match="class_index=None: use 0 to 1"):
        generate([str(run)], GenerateOptions(**options), tmp_path / "none")
