import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from kinds import KINDS
from PIL import Image

from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import DensityConfig, Field, SceneConfig
from lightning_gan3d.inference.config import MixOptions
from lightning_gan3d.inference.model import Subject
from lightning_gan3d.inference.pictures import CAPTION, GAP, pictures
from lightning_gan3d.inference.style_mixing import GRID, changes_of, mix
from lightning_gan3d.inference.styles import mixed, ranges_of, style_levels
from lightning_gan3d.metrics.geometry.surfaces import grid_of
from lightning_gan3d.metrics.sources import volume_of

STYLEGAN = [4] + [r for r in (8, 16, 32, 64, 128, 256, 512, 1024) for _ in range(2)] + [1024]


def test_levels_are_resolutions_or_layers(models):
    levels = {kind: style_levels(models[kind].generator.representation) for kind in KINDS}
    assert levels["triplane"] == [4, 8, 8, 16, 16, 32, 32, 32]
    assert levels["voxel"] == [4, 8, 8, 16, 16, 16]
    assert levels["nerf_mlp"] == [1, 2, 3, 4]
    for kind in KINDS:
        assert len(levels[kind]) == models[kind].generator.representation.num_ws


def test_a_level_changes_the_layers_of_its_resolution_only(models):
    """The output of block b8 must not depend on styles of 16 and above, but on those of 8."""
    synthesis = models["triplane"].generator.representation.synthesis
    levels = style_levels(models["triplane"].generator.representation)
    outputs = []
    synthesis.b8.conv1.register_forward_hook(lambda _m, _i, out: outputs.append(out.clone()))
    torch.manual_seed(0)
    ws = torch.randn(1, len(levels), 64)
    for changed in (None, 16, 8):
        other = ws.clone()
        other[:, [i for i, level in enumerate(levels) if level == changed]] += 1.0
        with torch.no_grad():
            synthesis(other)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])


def test_ranges():
    assert ranges_of("4-8", STYLEGAN) == {"4-8": [0, 1, 2]}
    assert ranges_of("16-32", STYLEGAN) == {"16-32": [3, 4, 5, 6]}
    parts = ranges_of("all", STYLEGAN)
    assert list(parts) == ["coarse (4-16)", "middle (32-128)", "fine (256-1024)"]
    assert sorted(i for part in parts.values() for i in part) == list(range(18))
    assert ranges_of("middle", [1, 2, 3, 4]) == {"middle (3-3)": [2]}
    with pytest.raises(ConfigError, match=r"range=fine: the levels \[4, 8\] are too few"):
        ranges_of("fine", [4, 8, 8, 8])
    for text in ("5-7", "8-4", "coarse-fine", ""):
        with pytest.raises(ConfigError, match="use coarse, middle, fine, all, or LOW-HIGH"):
            ranges_of(text, STYLEGAN)


@pytest.mark.parametrize("option", ["rows", "cols"])
def test_a_grid_is_bounded(option):
    with pytest.raises(ConfigError, match=f"{option}=0-32: 33 seeds; use 32 or fewer"):
        mix("pretrained:voxel", MixOptions(**{option: "0-32"}))


@pytest.mark.parametrize("kind", KINDS)
def test_mixing_copies_the_range_from_the_source(models, kind):
    model = models[kind]
    a, b = (model.styles(model.latent(seed)) for seed in (0, 1))
    ws = mixed(a, b, [1, 2])(model.label)
    assert torch.equal(ws[:, [1, 2]], b(model.label)[:, [1, 2]])
    assert torch.equal(ws[:, [0, 3]], a(model.label)[:, [0, 3]])


def test_the_grid_shows_rows_columns_and_mixtures(exports, models, tmp_path):
    options = MixOptions(
        rows="0-1", cols="5-7", range="coarse", cameras="orbit", views=2, pairs=0, device="cpu"
    )
    mix(str(exports["triplane"]), options, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        f"coarse_view{v:02d}{e}.png" for v in (0, 1) for e in ("", "_depth")
    }
    model = models["triplane"]
    indices = ranges_of("coarse", style_levels(model.generator.representation))
    styles = mixed(*(model.styles(model.latent(s)) for s in (1, 6)), *indices.values())
    cameras = model.orbit.cameras(2)
    images = Subject(model, styles).render(cameras)
    for output, ending in (("image", ""), ("depth", "_depth")):
        sheet = np.asarray(Image.open(tmp_path / f"coarse_view01{ending}.png"))
        # The third row and column of images of 3 x 32 pixels, each below its caption.
        top, left = 2 * (CAPTION + 96 + GAP) + CAPTION, 2 * (96 + 2 * GAP) + GAP
        cell = sheet[top : top + 96 : 3, left : left + 96 : 3]
        assert np.array_equal(cell, pictures(model, images, cameras, output)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_changes_are_measured(models, kind):
    model = models[kind]
    levels = style_levels(model.generator.representation)
    ranges = {"nothing": [], "everything": list(range(len(levels)))}
    changes = changes_of(model, ranges, MixOptions(pairs=3, device="cpu"))
    assert changes["nothing"]["colour"] == [0, 0]
    assert changes["everything"] == changes["all styles"]
    assert changes["everything"]["colour"][0] > 0
    if kind == "image2d":
        assert changes["everything"]["geometry"] is None
    else:
        assert changes["nothing"]["geometry"][0] == pytest.approx(0, abs=1e-6)
        assert changes["everything"]["geometry"][0] > 0


@dataclass(frozen=True, eq=False)
class Slab(Field):
    """Density 3 where x > 0, else none."""

    centre: torch.Tensor
    scene_cfg: SceneConfig

    def __call__(self, points, dirs=None):
        raise NotImplementedError

    def density(self, points):
        return torch.where(points[..., :1] > self.centre, 3.0, 0.0)


def test_occupancy_of_a_slab():
    cfg = SceneConfig(box=2.0, density=DensityConfig(activation="relu"))
    cells = grid_of(volume_of(Slab(torch.zeros(1, 1, 1), cfg)), GRID)
    assert (cells[:16] == 0).all()
    assert np.allclose(cells[16:], 1 - np.exp(-3 * 2 / 32))


def test_the_command_prints_shares(exports, tmp_path):
    options = MixOptions(rows="0", cols="1", pairs=3, device="cpu")
    text = mix(str(exports["voxel"]), options, tmp_path)
    assert "all styles" in text
    assert "100 %" in text
    stored = json.loads((tmp_path / "changes.json").read_text())
    assert set(stored) == {"coarse (4-4)", "middle (8-8)", "fine (16-16)", "all styles"}
