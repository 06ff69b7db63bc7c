"""Latents optimised towards a target of an encoder, by `gan3d edit --towards`."""

import pytest
import torch
from kinds import KINDS
from PIL import Image
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from lightning_gan3d.checkpoints.stored_networks import save_generator
from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.experiment import load_experiment, make_networks
from lightning_gan3d.inference.config import EditOptions, RenderOptions
from lightning_gan3d.inference.directions import read
from lightning_gan3d.inference.edit import edit
from lightning_gan3d.inference.model import Subject, open_model
from lightning_gan3d.inference.towards import offset_towards, open_target


class Colour(nn.Module):
    """Mean colour of an image, and a constant."""

    def forward(self, image):
        colour = adaptive_avg_pool2d(image, 1).flatten(1)
        return torch.cat([colour, torch.full_like(colour[:, :1], 0.5)], dim=1)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """A function to options with an encoder of colours; targets are beside it."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.jit.trace(Colour(), torch.zeros(2, 3, 32, 32)).save(folder / "colour.pt")
    Image.new("RGB", (32, 32), (255, 60, 60)).save(folder / "red.png")
    (folder / "redder.json").write_text('{"direction": [1, -1, -1, 0]}')

    def make(target="red.png", **given):
        fields = {"device": "cpu", "steps": 6, "encoder": str(folder / "colour.pt")}
        return build(EditOptions, {**fields, "towards": str(folder / target), **given})

    return make


@pytest.mark.parametrize(
    ("kind", "target"), [*((kind, "red.png") for kind in KINDS), ("voxel", "redder.json")]
)
def test_a_latent_moves_towards_the_target(models, kind, target, options):
    model, chosen = models[kind], options(target, prior=0.0)
    offset, text = offset_towards(model, 3, chosen, open_target(model, chosen))
    assert offset.shape == (model.generator.representation.num_ws, 64)
    before, after = (float(part.split()[0]) for part in text.split("cosine ")[1].split(", "))
    assert after > before + 0.01


def test_a_large_prior_keeps_the_latent(models, options):
    model = models["triplane"]
    free, tied = (
        offset_towards(model, 3, chosen, open_target(model, chosen))[0].norm()
        for chosen in (options(prior=0.0), options(prior=1000.0))
    )
    assert float(tied) < 0.5 * float(free)


def test_the_result_applies_to_its_seed(exports, options, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_gan3d.inference.edit.FRAMES", 2)
    summary = edit(str(exports["triplane"]), options(seeds="3,5", film="gif"), tmp_path)
    file = tmp_path / "towards.safetensors"
    assert list(read(file)) == ["seed3", "seed5"]
    assert f"--edits {file}:seed3=1" in summary
    assert {p.name for p in tmp_path.iterdir()} >= {"towards.png", "seed3.gif", "seed5.gif"}
    images = []
    for edits in ("", f"{file}:seed3=1"):
        model = open_model(exports["triplane"], RenderOptions(device="cpu", edits=edits))
        subject = Subject(model, model.styles_of(3, RenderOptions()))
        images.append(subject.render(model.orbit.cameras(3)).image)
    change = (images[1] - images[0]).mean(dim=(2, 3))
    assert bool((change[:, 0] > change[:, 1:].amax(dim=1)).all())  # from all sides


def test_latents_of_scenes_of_parts_move_too(labels, options, tmp_path):
    config = load_experiment(
        "family/small_giraffe_hd", [f"data.path={labels}", "data.resolution=32"]
    )
    save_generator(tmp_path / "parts", make_networks(config, 32)[0], config)
    summary = edit(str(tmp_path / "parts"), options(steps=2), tmp_path / "out")
    assert "apply with" not in summary
    assert (tmp_path / "out/towards.png").is_file()
    with pytest.raises(ConfigError, match="not with towards"):
        edit(str(tmp_path / "parts"), options(edits="object0.rotation=1"), tmp_path / "out")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"towards": ""}, "no effect without towards"),
        ({"encoder": ""}, "name the encoder of images, e.g. encoder=clip.pt"),
        ({"components": 3}, "components=3: no effect with towards"),
        ({"towards": "nowhere"}, "towards=nowhere: no such file; use an image"),
    ],
)
def test_wrong_options_are_rejected(exports, options, tmp_path, given, message):
    with pytest.raises(ConfigError) as caught:
        edit(str(exports["triplane"]), options(**given), tmp_path)
    assert message in str(caught.value)
