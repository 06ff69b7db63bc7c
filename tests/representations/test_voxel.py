import pytest
import torch

from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.contract import SceneConfig
from lightning_gan3d.networks.decoder import Decoder, DecoderConfig
from lightning_gan3d.networks.synthesis import Synthesis3dConfig
from representations.voxel import Voxel, VoxelConfig, VoxelField

SCENE = SceneConfig(box=0.5, feature_dim=3, decoder=DecoderConfig(num_layers=0))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_x_y_and_z_are_the_last_middle_and_first_axis(axis):
    ramp = (torch.arange(8) + 0.5) / 8 * 2 - 1
    shape = [1, 1, 1]
    shape[2 - axis] = 8
    voxels = ramp.reshape(shape).expand(8, 8, 8)[None, None].contiguous()
    field = VoxelField(voxels, Decoder(SCENE.decoder, 1, 3), SCENE)
    points = (torch.rand(1, 20, 3) * 1.6 - 0.8) / 4  # the box spans [-1/4, 1/4]
    torch.testing.assert_close(field.features(points)[..., 0], points[..., axis] * 4)


def test_voxels_come_from_the_network():
    cfg = VoxelConfig(resolution=8, channels=5, synthesis=Synthesis3dConfig(channels=(8, 8)))
    rep = Voxel(cfg, scene=SCENE, w_dim=16, resolution=64)
    ws = torch.randn(2, rep.num_ws, 16)
    scene = rep(ws)
    assert isinstance(scene, rep.scene_type)
    assert scene.voxels.shape == (2, 5, 8, 8, 8)
    torch.testing.assert_close(scene.voxels, rep.synthesis(ws))


def test_impossible_sizes_are_rejected():
    with pytest.raises(ConfigError, match=r"resolution=48: use .* a power of two"):
        build(VoxelConfig, {"resolution": 48})
    with pytest.raises(ConfigError, match="channels=0"):
        build(VoxelConfig, {"channels": 0})
    with pytest.raises(ConfigError, match=r"representation\.synthesis\.channels"):
        VoxelConfig(resolution=8, synthesis=Synthesis3dConfig(channels=(8,)))
