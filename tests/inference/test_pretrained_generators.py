"""The trained generators of the package show an object from all sides."""

import pytest
import torch

from lightning_gan3d import load_generator
from lightning_gan3d.checkpoints.references import PRETRAINED, pretrained_names
from lightning_gan3d.inference.config import RenderOptions
from lightning_gan3d.inference.model import Subject, open_model

NAMES = pretrained_names()


@pytest.mark.parametrize("name", NAMES)
def test_a_pretrained_generator_shows_an_object_on_white(name):
    model = open_model(f"pretrained:{name}", RenderOptions(device="cpu"))
    assert model.cameras_from == "cameras of synth64.zip"
    cameras = model.orbit.cameras(4)
    views = [
        Subject(model, model.styles_of(seed, RenderOptions(psi=0.8))).render(cameras)
        for seed in (0, 4)
    ]
    for images in views:
        assert images.image.shape == (4, 3, 64, 64)
        border = torch.cat([images.image[..., :4], images.image[..., -4:]], dim=-1)
        assert float(border.mean()) > 0.9  # white
        dark = (images.image.mean(dim=1) < 0.7).float().mean(dim=(1, 2))
        assert bool(((dark > 0.04) & (dark < 0.6)).all())  # an object in each view
        if images.opacity is not None:
            solid = (images.opacity > 0.5).float().mean(dim=(1, 2, 3))
            assert bool(((solid > 0.04) & (solid < 0.6)).all())
    assert float((views[0].image - views[1].image).abs().mean()) > 0.02  # seeds differ


def test_they_are_small_and_hold_no_path():
    assert NAMES == ["image2d", "nerf_mlp", "triplane", "voxel"]
    for name in NAMES:
        folder = PRETRAINED / name
        assert sum(p.stat().st_size for p in folder.iterdir()) < 1.3e6
        assert "path: ''" in (folder / "config.yaml").read_text()
    assert load_generator("pretrained:triplane").resolution == 64
