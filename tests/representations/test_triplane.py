import pytest
import torch

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.contract import DensityConfig, SceneConfig
from lightning_gan3d.networks.decoder import Decoder, DecoderConfig
from lightning_gan3d.networks.synthesis import SynthesisConfig
from renderers.volume import VolumeRenderer, VolumeRendererConfig
from representations.triplane import AXES, TriPlane, TriPlaneConfig, TriPlaneField
from representations.voxel import VoxelField

SCENE = SceneConfig(
    box=2.0, feature_dim=3, decoder=DecoderConfig(num_layers=0), density=DensityConfig(scale=4.0)
)


def texels(size):
    """Coordinates of texel centres."""
    return (torch.arange(size) + 0.5) / size * 2 - 1


def planes_field(planes, axes="standard", scene=SCENE):
    return TriPlaneField(planes, Decoder(scene.decoder, planes.shape[2], 3), scene, axes)


def test_standard_planes_span_three_axis_pairs_and_eg3ds_repeat_one():
    assert {frozenset(a[:2]) for a in AXES["standard"]} == {
        frozenset(pair) for pair in ((0, 1), (0, 2), (1, 2))
    }
    assert [a[:2] for a in AXES["eg3d"]] == [(0, 1), (0, 2), (2, 0)]
    assert all(sorted(a) == [0, 1, 2] for axes in AXES.values() for a in axes)


@pytest.mark.parametrize(
    ("axes", "pairs"), [("standard", ["xy", "xz", "zy"]), ("eg3d", ["xy", "xz", "zx"])]
)
def test_each_plane_is_read_along_its_axes(axes, pairs):
    # A plane that grows along its width, or along its height, reads a single world coordinate.
    ramp = texels(8)
    points = torch.rand(1, 20, 3) * 1.6 - 0.8
    for i, pair in enumerate(pairs):
        for along, name in zip((ramp[None, :], ramp[:, None]), pair, strict=True):
            planes = torch.zeros(1, 3, 1, 8, 8)
            planes[0, i, 0] = along
            read = planes_field(planes, axes).features(points)
            torch.testing.assert_close(read[..., 0] * 3, points[..., "xyz".index(name)])


def test_eg3ds_planes_cannot_tell_y_and_z_together():
    # Of the corners (+-y, +-z), xor needs a plane that sees both; the standard planes have one.
    planes = torch.zeros(1, 3, 1, 8, 8)
    planes[0, 2, 0] = texels(8)[None, :] * texels(8)[:, None]
    corners = torch.tensor([[[0, 0.5, 0.5], [0, -0.5, 0.5], [0, 0.5, -0.5], [0, -0.5, -0.5]]])
    standard = planes_field(planes).features(corners)
    torch.testing.assert_close(
        standard.flatten() * 3, torch.tensor([0.25, -0.25, -0.25, 0.25]), atol=0.02, rtol=0
    )
    assert planes_field(planes, "eg3d").features(corners).abs().max() < 1e-6


def test_the_box_scales_the_planes():
    planes = torch.randn(1, 3, 4, 8, 8)
    small = SceneConfig(box=0.5, feature_dim=3)
    points = torch.rand(1, 30, 3) * 2 - 1
    one = planes_field(planes).features(points)
    two = planes_field(planes, scene=small).features(points / 4)
    torch.testing.assert_close(one, two)


def test_a_trigrid_reads_the_axis_across_each_plane():
    ramp, points = texels(4), torch.rand(1, 20, 3) * 1.4 - 0.7
    for i, across in enumerate((2, 1, 0)):
        planes = torch.zeros(1, 3, 4, 1, 8, 8)
        planes[0, i, :, 0] = ramp[:, None, None]
        field = planes_field(planes.flatten(1, 2))
        torch.testing.assert_close(field.features(points)[..., 0] * 3, points[..., across])


def linear_fields():
    """One function, linear in x, y and z, held by a tri-plane, a tri-grid and a voxel grid."""
    g = torch.Generator().manual_seed(3)
    slope, offset = torch.randn(4, 3, generator=g), torch.randn(4, generator=g)
    x = texels(16)
    axis = [x[None, None, :], x[None, :, None], x[:, None, None]]
    ramp = sum(slope[:, a, None, None, None] * axis[a] for a in range(3))
    voxels = (ramp + offset[:, None, None, None])[None]
    planes = torch.zeros(3, 4, 16, 16)
    planes[0] = slope[:, 0, None, None] * x[None, :] + slope[:, 1, None, None] * x[:, None]
    planes[1] = slope[:, 2, None, None] * x[:, None]
    planes[2] = offset[:, None, None]
    grid = (3 * planes)[None, :, None].expand(-1, -1, 4, -1, -1, -1).flatten(1, 2)
    torch.manual_seed(0)
    decoder = Decoder(SCENE.decoder, 4, 3)
    return {
        "triplane": TriPlaneField(3 * planes[None], decoder, SCENE),
        "trigrid": TriPlaneField(grid, decoder, SCENE),
        "voxel": VoxelField(voxels, decoder, SCENE),
    }


def test_one_function_in_three_representations_renders_one_picture():
    fields = linear_fields()
    # Within the centres of the outermost texels, where nothing fades yet.
    o = VolumeRenderer(
        VolumeRendererConfig(
            samples_coarse=16, samples_fine=16, bounds="near_far", near=2.6, far=3.4
        )
    )
    view = Cameras.orbit(3, 0.3, 3.0, 4.5)
    pictures = {
        name: o(field.index(torch.zeros(3, dtype=torch.long)), view, 12)
        for name, field in fields.items()
    }
    assert pictures["voxel"].opacity.mean() > 0.3
    assert pictures["voxel"].feature.std() > 0.05
    assert (pictures["voxel"].feature[0] - pictures["voxel"].feature[1]).abs().mean() > 0.01
    for name in ("triplane", "trigrid"):
        for a, b in zip(pictures[name], pictures["voxel"], strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)


def test_planes_are_the_channels_of_one_image():
    cfg = TriPlaneConfig(
        resolution=8, channels=5, depth=2, synthesis=SynthesisConfig(channels=(8, 8))
    )
    rep = TriPlane(cfg, scene=SCENE, w_dim=16, resolution=64)
    ws = torch.randn(2, rep.num_ws, 16)
    scene = rep(ws)
    assert isinstance(scene, rep.scene_type)
    assert scene.planes.shape == (2, 6, 5, 8, 8)
    torch.testing.assert_close(scene.planes.flatten(1, 2), rep.synthesis(ws))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 100}, "resolution=100: use .* a power of two"),
        ({"resolution": 2}, "resolution=2: use a whole number from 4"),
        ({"channels": 0}, "channels=0: use a whole number from 1"),
        ({"depth": 0}, "depth=0: use a whole number from 1"),
        (
            {"resolution": 16, "synthesis": {"channels": [8, 8]}},
            r"representation\.synthesis\.channels=\[8, 8\]",
        ),
    ],
)
def test_impossible_sizes_are_rejected(options, message):
    with pytest.raises(ConfigError, match=message):
        build(TriPlaneConfig, options)


def test_planes_with_their_channels_innermost_are_read_alike_inside_and_outside_a_graph():
    rows = torch.randn(2, 3, 4, 8, 8)
    inner = rows.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2).requires_grad_()
    points, field = torch.rand(2, 20, 3) * 1.6 - 0.8, planes_field(inner)
    with torch.no_grad():
        outside = field.features(points)
    inside = field.features(points)
    torch.testing.assert_close(outside, planes_field(rows).features(points))
    torch.testing.assert_close(inside, outside)
    for _ in range(2):  # two losses of one scene
        field.features(points).sum().backward()
    # Three texels' weights sum to 1 a point, a third of it a plane: inside the planes.
    weight = inner.grad.sum() / (2 * 4)
    assert 0 < weight < 2 * 20 + 1e-3  # rounding


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_planes_changed_in_place_are_read_anew(mode):
    planes = torch.randn(1, 3, 16, 16, 8).permute(0, 1, 4, 2, 3)  # channels innermost: copied
    decoder = Decoder(DecoderConfig(16), 8, 5)
    field = TriPlaneField(planes, decoder, SceneConfig(box=2.0, feature_dim=5))
    points = torch.rand(1, 50, 3) * 2 - 1
    with torch.no_grad():
        field(points)
    with mode():
        field(points)
        with torch.no_grad():
            planes.mul_(-2)
        wanted = TriPlaneField(planes.contiguous(), decoder, field.scene_cfg)(points).feature
        assert torch.equal(field(points).feature, wanted)
    assert len(field._copies) == 1  # those of older planes hold no memory


def test_planes_of_inference_mode_are_copied_once():
    with torch.inference_mode():
        planes = torch.randn(1, 3, 16, 16, 8).permute(0, 1, 4, 2, 3)
        field = TriPlaneField(planes, Decoder(DecoderConfig(16), 8, 5), SceneConfig(feature_dim=5))
        assert field._images() is field._images()
