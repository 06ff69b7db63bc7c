"""Representations of other packages, found by their entry points."""

import importlib
import sys

import pytest
import torch

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.contract import SceneConfig
from lightning_gan3d.registry import find, kinds, module_of, name_of
from renderers.volume import VolumeRenderer, VolumeRendererConfig

MODULE = '''
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.contract import Field, FieldSample, Representation, SceneConfig


@dataclass(frozen=True)
class BlobConfig:
    """A ball of one colour."""

    radius: float = 0.5


@dataclass(frozen=True, eq=False)
class BlobField(Field):
    colour: Float[Tensor, "b 3"]
    radius: float
    scene_cfg: SceneConfig

    def __call__(self, points, dirs=None):
        inside = points.norm(dim=-1, keepdim=True) < self.radius
        return FieldSample(200.0 * inside - 100.0, self.colour[:, None].expand_as(points))


class Blob(Representation):
    scene_type = BlobField
    num_ws = 1

    def __init__(self, cfg, scene, w_dim, resolution):
        super().__init__()
        self.cfg, self.scene_cfg = cfg, scene
        self.to_colour = torch.nn.Linear(w_dim, 3)

    def forward(self, ws, noise_mode="const", draws=None):
        return BlobField(self.to_colour(ws[:, 0]).sigmoid(), self.cfg.radius, self.scene_cfg)


BLOB = (BlobConfig, Blob)
NOT_A_PAIR = Blob
'''

ENTRY_POINTS = """
[lightning_gan3d.representations]
blob = blob_plugin:BLOB
broken = blob_plugin.missing:BLOB
half = blob_plugin:NOT_A_PAIR
"""


@pytest.fixture
def other_package(tmp_path, monkeypatch):
    """A package as pip installs it: a module, and metadata with its entry points."""
    (tmp_path / "blob_plugin.py").write_text(MODULE)
    info = tmp_path / "blob_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: blob-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield
    sys.modules.pop("blob_plugin", None)


@pytest.mark.usefixtures("other_package")
def test_a_representation_of_another_package_is_found_and_rendered():
    config_type, blob = find("representations", "blob")
    cfg = build(kinds("representations")("blob"), {"radius": 0.7})
    assert type(cfg) is config_type
    assert module_of("representations", cfg) is blob
    assert name_of("representations")(config_type) == "blob"
    scene = SceneConfig(box=2.0, feature_dim=3)
    rep = blob(cfg, scene=scene, w_dim=4, resolution=8)
    out = VolumeRenderer(VolumeRendererConfig())(
        rep(torch.randn(2, 1, 4)), Cameras.orbit(4, focal=1.2), 9
    )
    assert bool((out.opacity[:, 0, 4, 4] > 0.999).all())
    torch.testing.assert_close(
        out.depth[:, 0, 4, 4], torch.full((4,), 2.7 - 0.7), atol=0.03, rtol=0
    )
    assert bool((out.opacity[:, 0, 0, 0] == 0).all())


@pytest.mark.usefixtures("other_package")
def test_a_broken_plug_in_is_named_and_hurts_no_other():
    with pytest.raises(ConfigError, match=r"`broken` of blob_plugin\.missing:BLOB cannot be impor"):
        find("representations", "broken")
    with pytest.raises(ConfigError, match=r"blob_plugin:NOT_A_PAIR must be a tuple"):
        find("representations", "half")
    assert find("representations", "triplane")[0].__name__ == "TriPlaneConfig"
    assert find("representations", "blob")[0].__name__ == "BlobConfig"


@pytest.mark.usefixtures("other_package")
def test_an_unknown_name_lists_those_of_other_packages():
    with pytest.raises(ConfigError, match=r"no representation `blog`; have blob, broken.*`blob`\?"):
        find("representations", "blog")
