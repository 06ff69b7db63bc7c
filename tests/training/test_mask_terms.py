"""Terms of the masks of objects, and training of scenes of parts."""

import json
import math

import pytest
import torch

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import SceneConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images
from lightning_gan3d.training import schedules
from lightning_gan3d.training.module import make_modules
from lightning_gan3d.training.terms import LOSS_TERMS, TermInput
from representations.nerf_mlp import NerfMlp, NerfMlpConfig
from representations.parts import Composed, Placed

STATE = schedules.ScheduleState._make([0] * len(schedules.ScheduleState._fields))
CAMERAS = Cameras.on_sphere(torch.tensor([0.4, -0.9]), torch.tensor([0.2, 0.5]), 3.2, 1.4)
SCENE = SceneConfig(box=2.0, feature_dim=3)
SIZE = 24


def scene():
    mlp = NerfMlp(NerfMlpConfig(hidden_dim=4, num_layers=1, omega=6.0), SCENE, 4, 8)
    field = mlp(torch.zeros(2, mlp.num_ws, 4)).detach()
    one = Placed(field, torch.tensor([0.3, 0.4]), torch.tensor([0.5, -0.2]), torch.zeros(2, 3))
    two = Placed(field, torch.tensor([0.2, 0.2]), torch.zeros(2), torch.full((2, 3), 0.4))
    return Composed((one, two), None, torch.full((2,), 8.0), SCENE)


def value(kind, mask, **options):
    cfg, term = LOSS_TERMS[kind]
    image = torch.zeros(2, 3, SIZE, SIZE)
    images = Images(image, image, mask=mask)
    return float(term(cfg(1.0, **options), TermInput(scene(), STATE, Draws(0), images, CAMERAS)))


def seen(padding):
    """Whether any of many points along the ray of a pixel is in a box."""
    rays = CAMERAS.rays(SIZE)
    t = torch.linspace(1.5, 5.5, 4000)
    result = []
    for part in scene().objects:
        hit = torch.zeros(2, SIZE * SIZE, dtype=torch.bool)
        for distances in t.split(500):
            points = rays.origins[:, :, None] + distances[:, None] * rays.dirs[:, :, None]
            local = part.to_local(points.flatten(1, 2)).unflatten(1, (-1, len(distances)))
            hit |= (local.abs().amax(-1) <= 1 + padding).any(dim=-1)
        result.append(hit.view(2, SIZE, SIZE))
    return torch.stack(result, dim=1)


@pytest.mark.parametrize("padding", [0.0, 0.3])
def test_containment_is_the_mask_outside_the_projected_box(padding):
    inside = seen(padding)
    assert 0.02 < float(inside.float().mean()) < 0.4
    expected = float((~inside).float().mean())
    # A ray that grazes an edge may pass between the points.
    assert value("containment", torch.ones(2, 2, SIZE, SIZE), padding=padding) == pytest.approx(
        expected, abs=2e-3
    )
    assert value("containment", 0.7 * inside.float(), padding=padding) == 0


def test_share_and_binarisation_have_their_closed_forms():
    mask = torch.zeros(2, 2, SIZE, SIZE)
    mask[:, 0, : SIZE // 2] = 0.4  # means 0.2 and 0
    assert value("object_share", mask, low=0.3) == pytest.approx((0.1 + 0.3) / 2)
    assert value("object_share", mask + 0.5, low=0.3) == 0
    assert value("binarisation", mask) == pytest.approx(0.4 / 4)
    assert value("binarisation", (mask > 0).float()) == 0
    assert value("binarisation", 1 - mask) == pytest.approx(0.4 / 4)


PARTS = [
    "generator.representation={kind: composed, num_objects: 2, object: {kind: nerf_mlp, "
    "hidden_dim: 8, num_layers: 2}, background: {kind: nerf_mlp, hidden_dim: 8, num_layers: 1}, "
    "shape_share: 0.5}",
    "generator.w_dim=8",
    "generator.z_dim=56",
    "generator.renderer={kind: composed, samples_coarse: 4}",
    "generator.superresolution.factor=1",
    "generator.head={kind: giraffe_hd, factor: 4, channels: [8, 8]}",
    "discriminator.dual=false",
    "training.rendering_resolution.initial=null",
    "training.rendering_resolution.final=null",
]
TERMS = [{"kind": k, "weight": 1} for k in ("containment", "object_share", "binarisation")]


def test_scenes_of_parts_train_with_terms_of_their_masks(tiny):
    module, data = make_modules(tiny(*PARTS, f"loss.terms={json.dumps(TERMS)}"))
    batch = next(iter(data.train_dataloader(0, 1)))
    before = {k: v.clone() for k, v in module.generator.state_dict().items()}
    module.training_step(batch, 0)
    logged = module.meter.read()
    for kind in ("containment", "object_share", "binarisation"):
        assert math.isfinite(logged[f"loss/{kind}"])
    after = module.generator.state_dict()
    for part in ("representation.object", "representation.background", "superresolution.objects"):
        names = [k for k in after if k.startswith(part) and k.endswith("weight")]
        assert any(not torch.equal(before[k], after[k]) for k in names), part
    assert float(module.generator.mapping.w_avg[1].abs().sum()) > 0


def test_scenes_without_objects_have_no_masks(tiny):
    with pytest.raises(ConfigError, match="containment: the scenes have no objects; use kind=comp"):
        tiny('loss.terms=[{"kind": "containment", "weight": 1}]')
