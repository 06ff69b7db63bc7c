"""Training of Gaussian splats: loss terms, views, cameras and backgrounds."""

import json
import math

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.checkpoints.load import load_generator
from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import SceneConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.training import checkpoint, schedules
from lightning_gan3d.training.module import make_modules
from lightning_gan3d.training.terms import LOSS_TERMS, TermInput
from representations.splats import Splats

STATE = schedules.ScheduleState._make([0] * len(schedules.ScheduleState._fields))
WHOLE = "training.rendering_resolution={initial: null, final: null}"
TERMS = {"splat_position": 0.1, "splat_scale": 0.05, "splat_opacity": 1.0}


def listed(kinds):
    return f"loss.terms=[{', '.join(f'{{kind: {k}, weight: {TERMS[k]}}}' for k in kinds)}]"


def value(kind, opacities, raw_squares=None):
    b, n = opacities.shape
    zeros = torch.zeros(b, n, 3)
    turns = torch.ones(b, n, 4)
    scene = Splats(
        zeros, zeros + 1, turns, opacities, zeros, SceneConfig(), raw_squares=raw_squares
    )
    cfg, term = LOSS_TERMS[kind]
    return float(term(cfg(weight=1.0), TermInput(scene, STATE, Draws(0))))


def test_the_values_of_the_terms():
    half = torch.full((2, 4), 0.5)
    squares = torch.tensor([[1.0, 4.0], [3.0, 0.0]])
    assert value("splat_position", half, squares) == 2
    assert value("splat_scale", half, squares) == 2
    assert value("splat_opacity", half) == pytest.approx(math.log(0.36 / 0.11))
    assert value("splat_opacity", torch.tensor([[0.0, 1.0]])) == pytest.approx(0, abs=1e-6)


def test_the_raw_squares_are_those_of_the_network(tiny):
    module, _ = make_modules(tiny(kind="splats"))
    splats = module.generator.representation
    raw = torch.zeros(13)
    raw[:6] = torch.tensor([3.0, 0, 0, 2, 2, 2])
    splats.synthesis.forward = lambda ws, *_: raw[None, :, None, None].expand(len(ws), -1, 16, 16)
    scene = splats(torch.zeros(2, splats.num_ws, 8))
    torch.testing.assert_close(scene.raw_squares, torch.tensor([[3.0, 4.0]] * 2))


@pytest.mark.parametrize("kind", TERMS)
def test_a_term_changes_the_gradient(tiny, gradients, kind):
    found = []
    for options in ([], [listed([kind])]):
        module, data = make_modules(tiny(*options, kind="splats"))
        module.generator_step(module.split(next(iter(data.train_dataloader(0, 1)))))
        found.append(torch.cat([g.flatten() for g in gradients.pop() if g is not None]))
    assert module.meter.read()[f"loss/{kind}"] > 0
    assert (found[1] - found[0]).norm() > 1e-4


@pytest.mark.parametrize("kind", TERMS)
def test_terms_of_splats_are_rejected_for_fields(tiny, kind):
    with pytest.raises(ConfigError, match=f"{kind}: .* use representation.kind=splats"):
        tiny(listed([kind]))


@pytest.mark.parametrize(
    "options",
    [
        ["training.views=4"],
        ["generator.mapping.condition=camera"],
        ["discriminator.dual=true", "training.rendering_resolution={initial: 8, final: 8}"],
        [
            "data.labels=none",
            "cameras={kind: prior, preset: faces}",
            "discriminator.conditioning=none",
            "discriminator.unconditional_term=false",
        ],
        ["loss.terms=[{kind: coverage, weight: 1}, {kind: total_variation, weight: 1}]"],
        ["generator.representation.harmonics=1", "training.precision=bf16"],
        ["training.patch.resolution=8", "discriminator.channels=[8, 8]", WHOLE],
        [
            "training.growing.stages=[{resolution: 8, kimg: 0}, {resolution: 16, fade_kimg: 1}]",
            WHOLE,
        ],
    ],
)
def test_two_steps_train_splats(tiny, numbers, options):
    check_steps(tiny(*options, kind="splats"), numbers)


def check_steps(config, numbers):
    module, data = make_modules(config)
    before, batches = numbers(module), iter(data.train_dataloader(0, 1))
    for _ in range(2):
        module.training_step(next(batches), 0)
    after = numbers(module)
    assert bool(after.isfinite().all())
    assert (after - before).norm() > 1e-3


def test_two_steps_with_random_backgrounds(tiny, numbers, tmp_path):
    folder = tmp_path / "matted"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 4)).astype(np.uint8)
    rows = []
    for i, label in enumerate(Cameras.orbit(8, 0.2, 3.2, 1.5).to_label().tolist()):
        Image.fromarray(pixels[i]).save(folder / f"{i}.png")
        rows.append([f"{i}.png", label])
    (folder / "dataset.json").write_text(json.dumps({"labels": rows}))
    options = [f"data.path={folder}", "data.random_background=true", "data.convert=white"]
    check_steps(tiny(*options, "data.holdout=0", kind="splats"), numbers)


def test_more_gaussians_start_from_the_weights_of_fewer(tiny, tmp_path):
    config = tiny(kind="splats")
    source, _ = make_modules(config)
    checkpoint.save(source, config, tmp_path / "run" / "checkpoints", 1.0)
    options = [f"init_from.path={tmp_path / 'run'}", "generator.representation.side=32", "seed=5"]
    finer = tiny(*options, kind="splats")
    module, _ = make_modules(finer)
    checkpoint.initialise(module, finer, None)
    for name, x in source.generator.state_dict().items():
        assert torch.equal(module.generator.state_dict()[name], x)
    z, cameras = torch.randn(2, 8), Cameras.orbit(2, 0.3, 3.2, 1.5)
    scene, _ = module.generator.synthesis(module.generator.mapping(z, cameras.to_label()), cameras)
    assert scene.means.shape == (2, 32 * 32, 3)


def test_a_checkpoint_needs_the_mesh_of_its_template(tiny, tmp_path):
    mesh = tmp_path / "ball.obj"
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.5)
    uv = ball.vertices[:, :2] + 0.5  # front and back share texels
    trimesh.Trimesh(ball.vertices, ball.faces, visual=TextureVisuals(uv=uv)).export(mesh)
    config = tiny(f"generator.representation.template={mesh}", kind="splats")
    module, _ = make_modules(config)
    checkpoint.save(module, config, tmp_path / "run", 1.0)
    stored = next((tmp_path / "run").glob("step*"))
    positions = load_generator(stored).representation.positions
    assert torch.equal(positions, module.generator.representation.positions)
    mesh.unlink()
    with pytest.raises(ConfigError, match=r"ball\.obj: no such file; .* the file of its training"):
        load_generator(stored)
