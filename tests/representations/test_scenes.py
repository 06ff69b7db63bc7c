"""What every scene of ours can do, whatever it holds."""

import dataclasses

import pytest
import torch
import torch.utils._pytree as pytree

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.conformance import SCENE, check_field, check_scene
from lightning_gan3d.networks.synthesis import Synthesis3dConfig, SynthesisConfig
from lightning_gan3d.registry import module_of
from renderers import RENDERERS
from renderers.composed import ComposedRenderer
from renderers.picture import PictureRenderer, PictureRendererConfig
from renderers.proxied import ProxiedRenderer
from renderers.raster import RasterRenderer
from renderers.soft import SoftRenderer
from renderers.splat import SplatRenderer, SplatRendererConfig
from renderers.volume import VolumeRenderer, VolumeRendererConfig
from representations import REPRESENTATIONS
from representations.composition import ComposedConfig
from representations.image2d import Image2dConfig
from representations.nerf_mlp import NerfMlpConfig
from representations.solid import SolidConfig
from representations.splats import SplatMap, SplatsConfig
from representations.triplane import TriPlaneConfig
from representations.voxel import Voxel, VoxelConfig, VoxelField

WIDTHS = SynthesisConfig(channels=(8, 8))
CONFIGS = {
    "triplane": TriPlaneConfig(resolution=8, channels=4, synthesis=WIDTHS),
    "trigrid": TriPlaneConfig(resolution=8, channels=4, depth=2, synthesis=WIDTHS),
    "voxel": VoxelConfig(resolution=8, channels=4, synthesis=Synthesis3dConfig(channels=(8, 8))),
    "solid": SolidConfig(resolution=8, synthesis=Synthesis3dConfig(channels=(8, 8))),
    "film_siren": NerfMlpConfig(hidden_dim=8, num_layers=2, omega=6.0),
    "posenc_relu": NerfMlpConfig(variant="posenc_relu", hidden_dim=8, num_layers=2, octaves=2),
    "view_dirs": NerfMlpConfig(hidden_dim=8, num_layers=2, omega=6.0, view_dirs=True),
    "splats": SplatsConfig(resolution=8, synthesis=WIDTHS),
    "image2d": Image2dConfig(synthesis=WIDTHS),
}
CONFIGS["composed"] = ComposedConfig(CONFIGS["film_siren"], CONFIGS["triplane"], num_objects=2)
FIELDS = [name for name in CONFIGS if name not in ("image2d", "composed", "splats")]


COLOUR_ONLY = dataclasses.replace(SCENE, feature_dim=3)


def build(name, num=3):
    torch.manual_seed(0)
    cfg, scene_cfg = CONFIGS[name], COLOUR_ONLY if name == "solid" else SCENE
    rep = module_of("representations", cfg)(cfg, scene=scene_cfg, w_dim=16, resolution=8)
    return rep, rep(torch.randn(num, rep.num_ws, 16))


def test_every_plug_in_is_tested_here():
    assert {type(c) for c in CONFIGS.values()} == {cfg for cfg, _ in REPRESENTATIONS.values()}


@pytest.mark.parametrize("name", CONFIGS)
def test_its_renderers_accept_it(name):
    rep, scene = build(name)
    assert isinstance(scene, rep.scene_type)
    accepting = [cls for _, cls in RENDERERS.values() if issubclass(rep.scene_type, cls.accepts)]
    own = {"image2d": PictureRenderer, "splats": SplatRenderer}
    expected = [own.get(name, VolumeRenderer)]
    expected += [ComposedRenderer] * (name == "composed")
    expected += [RasterRenderer, SoftRenderer, ProxiedRenderer] if name == "solid" else []
    assert accepting == expected
    assert rep.view_in_label is (name == "image2d")


@pytest.mark.parametrize("name", CONFIGS)
def test_maps_select_and_count(name):
    _, scene = build(name)
    leaves, spec = pytree.tree_flatten(scene)
    assert all(isinstance(x, torch.Tensor) for x in leaves)
    assert pytree.tree_unflatten(leaves, spec).tensors()[0] is leaves[0]
    assert scene.batch == 3
    assert scene.nbytes == sum(x.numel() * 4 for x in leaves)
    assert scene.to(dtype=torch.float16).nbytes == scene.nbytes / 2
    assert leaves[0].requires_grad
    assert not scene.detach().tensors()[0].requires_grad
    for items in (slice(1, 3), torch.tensor([2, 0])):
        for whole, part in zip(leaves, scene.index(items).tensors(), strict=True):
            assert torch.equal(part, whole[items])
    twice = scene.map(lambda x: 2 * x)
    assert type(twice) is type(scene)
    assert torch.equal(twice.tensors()[0], 2 * leaves[0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        scene.scene_cfg = None


@pytest.mark.parametrize("name", FIELDS)
def test_it_conforms_to_the_contract(name):
    check_field(CONFIGS[name], COLOUR_ONLY if name == "solid" else SCENE)


FAULTS = {
    "scenes of a batch mix": lambda x: x + x.mean(dim=0, keepdim=True),
    "different scenes": lambda x: x + torch.rand(()),
    "no gradient reaches": torch.Tensor.detach,
    "is not finite": lambda x: x + 0 * x.abs().mul(0).sqrt(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_check_detects_a_fault(fault, monkeypatch):
    genuine = Voxel.forward

    monkeypatch.setattr(Voxel, "forward", lambda *args: genuine(*args).map(FAULTS[fault]))
    with pytest.raises(AssertionError, match=fault):
        check_field(CONFIGS["voxel"])


@pytest.mark.parametrize("fault", FAULTS)
def test_the_check_of_scenes_detects_a_fault(fault, monkeypatch):
    genuine = SplatMap.forward
    monkeypatch.setattr(SplatMap, "forward", lambda *args: genuine(*args).map(FAULTS[fault]))
    with pytest.raises(AssertionError, match=fault):
        check_scene(CONFIGS["splats"], SplatRenderer(SplatRendererConfig(path="plain")))


@pytest.mark.parametrize("times", [0, 2])
def test_the_check_detects_a_missing_or_second_prior(times, monkeypatch):
    genuine = VoxelField.prior
    monkeypatch.setattr(VoxelField, "prior", lambda self, points: times * genuine(self, points))
    with pytest.raises(AssertionError, match="once"):
        check_field(CONFIGS["voxel"])


@pytest.mark.parametrize("name", FIELDS)
def test_a_sixteen_bit_scene_renders_much_the_same(name):
    _, scene = build(name)
    o = VolumeRenderer(VolumeRendererConfig(samples_coarse=8, samples_fine=8))
    view = Cameras.orbit(3, 0.3, 3.2, 1.4)
    with torch.no_grad():
        full, half = o(scene, view, 6), o(scene.to(dtype=torch.float16), view, 6)
    torch.testing.assert_close(half.feature, full.feature, atol=0.02, rtol=0)


@pytest.mark.parametrize("name", ["triplane", "voxel", "film_siren"])
def test_training_in_mixed_precision_stores_full_scenes(name):
    torch.manual_seed(0)
    cfg = CONFIGS[name]
    rep = module_of("representations", cfg)(cfg, scene=SCENE, w_dim=16, resolution=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scene = rep(torch.randn(1, rep.num_ws, 16))
    assert {x.dtype for x in scene.tensors()} == {torch.float32}


def test_the_2d_baseline_is_bounded_only_by_option():
    for output, bounded in (("linear", False), ("sigmoid", True)):
        torch.manual_seed(0)
        cfg = Image2dConfig(output=output, synthesis=WIDTHS)
        rep = module_of("representations", cfg)(cfg, scene=SCENE, w_dim=16, resolution=8)
        picture = rep(20 * torch.randn(3, rep.num_ws, 16))
        assert bool(picture.image.abs().max() <= 1) is bounded
        assert picture.image.min() < -0.5
        out = PictureRenderer(PictureRendererConfig())(picture, Cameras.orbit(6), 4)
        assert torch.equal(out.feature[5], picture.image[2])
