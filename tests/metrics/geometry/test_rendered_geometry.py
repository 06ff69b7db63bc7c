"""Depth, normals and volumes of known fields, through the volume renderer."""

import math
from dataclasses import dataclass

import pytest
import torch
from metric_views import context
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.contract import DensityConfig, Field, FieldSample, SceneConfig
from lightning_gan3d.images import Images
from lightning_gan3d.metrics.config import GeometryConfig
from lightning_gan3d.metrics.geometry.shape_statistics import measure_geometry
from lightning_gan3d.metrics.geometry.surfaces import (
    depth_error,
    normal_error,
    normals_from_depth,
)
from lightning_gan3d.metrics.sources import GeneratorSource
from renderers.config import VolumeRendererConfig
from renderers.volume import VolumeRenderer

SCENE = SceneConfig(box=2.0, feature_dim=3, density=DensityConfig(activation="relu"))
RADIUS = 0.7


@dataclass(frozen=True, eq=False)
class Solid(Field):
    """A ball (flat 1) or a disc whose z is squeezed; density rises steeply at the surface."""

    key: Tensor
    flat: float = 1.0
    scene_cfg: SceneConfig = SCENE

    def __call__(self, points: Tensor, dirs: Tensor | None = None) -> FieldSample:
        assert dirs is None
        squeezed = points / points.new_tensor([1.0, 1.0, self.flat])
        raw = 2000 * (RADIUS - squeezed.norm(dim=-1, keepdim=True)) * self.flat
        return FieldSample(raw, 0.5 + 0.5 * (9 * points).sin())


class Made:
    """The part of a generator that the metrics need; every latent is the same solid."""

    def __init__(self, flat: float = 1.0) -> None:
        self.flat = flat
        self.renderer = VolumeRenderer(VolumeRendererConfig(samples_coarse=96, samples_fine=48))

    def mapping(self, z: Tensor, _label: Tensor) -> Tensor:
        return z

    def scene(self, ws: Tensor) -> Solid:
        return Solid(ws, self.flat)

    def views(self, z: Tensor, label: Tensor, cameras: Cameras) -> Images:
        scene = self.scene(self.mapping(z, label))
        feature, depth, opacity = self.renderer(scene, cameras, 32)[:3]
        return Images(feature, feature, depth, opacity)


def source(flat=1.0):
    label = Cameras.on_sphere(torch.zeros(1), torch.zeros(1), 3.2, 1.5).to_label()
    return GeneratorSource(Made(flat), 4, label)


def test_rendered_depth_and_normals_are_those_of_the_ball():
    items = torch.tensor([0])
    cameras = source().base(items)
    views = source().views(items, cameras)
    rays = cameras.rays(32)
    along = -(rays.origins * rays.dirs).sum(-1)
    miss = (rays.origins + along[..., None] * rays.dirs).square().sum(-1)
    half = (RADIUS**2 - miss).clamp(min=1e-6).sqrt()
    # A density that grows by 2000 a unit is entered by sqrt(pi / 2 / 2000 / cosine) on average.
    entered = (math.pi / 4000 * RADIUS / half).sqrt()
    surface, truth = ((along - half + x).view(1, 1, 32, 32) for x in (0, entered))
    valid = (miss.sqrt() < 0.85 * RADIUS).view(1, 1, 32, 32) & (views.opacity > 0.9)
    assert int(valid.sum()) > 100
    assert float(depth_error(views.depth, truth, valid)) < 0.003
    pair = normals_from_depth(views.depth, views.opacity > 0.9, cameras)
    normal = torch.nn.functional.normalize(cameras.unproject(surface), dim=-1).mT.unflatten(
        2, (32, 32)
    )
    angle = float(normal_error(pair.normals, normal, pair.valid & valid))
    assert math.degrees(angle) < 4
    wrong = float(depth_error(1.1 * views.depth, truth, valid) / truth[valid].mean())
    assert wrong == pytest.approx(0.1, abs=0.02)


def test_a_rendered_ball_passes_and_a_rendered_card_is_flagged():
    cfg = GeometryConfig(items=2, grid=24, points=64)
    metrics, thin = (
        {m.key: m.value for m in measure_geometry(context(source(flat), geometry=cfg))}
        for flat in (1.0, 0.05)
    )
    assert metrics["geometry.billboards"] == 0
    assert thin["geometry.billboards"] == 1
    assert metrics["geometry.relief"] == pytest.approx(math.sqrt(2) / 3, rel=0.15)
    assert metrics["geometry.normals_deg"] < 6
    assert metrics["geometry.floaters"] == 0
    assert metrics["geometry.filled"] == pytest.approx(4 / 3 * math.pi * RADIUS**3 / 8, rel=0.1)
    assert thin["geometry.side_share"] < 0.3 < 0.9 < metrics["geometry.side_share"]
