import dataclasses
import hashlib
import math

import numpy as np
import pytest
import torch

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.data.synthetic.ellipsoids import Ellipsoids, render_ellipsoids
from lightning_gan3d.data.synthetic.figures import draw_figures
from lightning_gan3d.data.synthetic.synth import (
    SynthConfig,
    SynthObjects,
    TextureConfig,
    make_synth,
    read_truth,
    sample_cameras,
)
from lightning_gan3d.draws import Draws

SMALL = SynthConfig(num_images=12, num_objects=6, holdout=0.34, resolution=16)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("synth") / "small.zip"
    make_synth(SMALL, path)
    return path


def one_ball(radius: float = 0.5, centre: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Ellipsoids:
    axes = torch.eye(3)[None, None] / radius
    return Ellipsoids(torch.tensor(centre)[None, None], axes, torch.ones(1, 1, 3))


def test_depth_of_a_ball_is_exact():
    cameras = Cameras.look_at(torch.tensor([[0.0, 0.0, 3.0]]), focal=1.5)
    view = render_ellipsoids(one_ball(), cameras, 64, far=9.0)
    dirs = cameras.rays(64).dirs[0]
    b = -(dirs @ torch.tensor([0.0, 0.0, 3.0]))
    root = b * b - (9 - 0.25)
    inside = (root > 0.05).view(64, 64)
    expected = (b - root.clamp(min=0).sqrt()).view(64, 64)
    torch.testing.assert_close(view.depth[0, 0][inside], expected[inside], atol=3e-3, rtol=0)
    outside = (root < -0.05).view(64, 64)
    assert torch.all(view.depth[0, 0][outside] == 9.0)
    assert torch.all(view.mask[0, 0][outside] == 0)
    assert torch.all(view.mask[0, 0][inside] == 1)


def test_mask_covers_the_area_of_the_outline():
    cameras = Cameras.look_at(torch.tensor([[0.0, 0.0, 3.0]]), focal=1.5)
    mask = render_ellipsoids(one_ball(), cameras, 64).mask
    radius = 1.5 * math.tan(math.asin(0.5 / 3))
    assert float(mask.mean()) == pytest.approx(math.pi * radius**2, rel=0.01)


def test_nearer_parts_hide_farther_ones():
    near, far = one_ball(0.3, (0.0, 0.0, 0.5)), one_ball(0.3, (0.0, 0.0, -0.5))
    colours = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    both = Ellipsoids(
        torch.cat([far.centre, near.centre], 1), torch.cat([far.axes, near.axes], 1), colours
    )
    view = render_ellipsoids(both, Cameras.look_at(torch.tensor([[0.0, 0.0, 3.0]]), focal=1.5), 8)
    centre = (view.image[0, :, 4, 4] + 1) / 2
    assert centre[1] > 0.5
    assert centre[0] == 0


def test_figures_behind_the_camera_are_not_rendered():
    cameras = Cameras.look_at(torch.tensor([[0.0, 0.0, 3.0]]), torch.tensor([[0.0, 0.0, 9.0]]))
    assert float(render_ellipsoids(one_ball(), cameras, 8).mask.max()) == 0


def test_figures_fit_the_unit_sphere_and_differ():
    figures = draw_figures(200, seed=3)
    directions = torch.nn.functional.normalize(torch.randn(500, 3), dim=-1)
    surface = torch.einsum("mpij,nj->mpni", torch.linalg.inv(figures.axes), directions)
    reach = (surface + figures.centre[:, :, None]).norm(dim=-1).amax()
    assert 0.9 < float(reach) <= 1.0
    assert len(torch.unique(figures.colour[:, 0], dim=0)) == 200


def test_figures_match_the_documentation():
    """Nose in front (+z), pack behind, arm on the left (+x), which is right in the frontal view."""
    figures = draw_figures(100, seed=0)
    body, head, nose, arm, pack = figures.centre.unbind(1)
    assert torch.all(nose[:, 2] > head[:, 2] + 0.2)
    assert torch.all(pack[:, 2] < body[:, 2] - 0.2)
    assert torch.all(arm[:, 0] > body[:, 0] + 0.2)
    assert torch.all(head[:, 1] > body[:, 1] + 0.3)
    red, skin = figures.colour[:, 2], figures.colour[:, 1]
    assert torch.all(red[:, 0] > 3 * red[:, 1])
    assert torch.all(skin[:, 0] > skin[:, 2])


def test_a_figure_does_not_depend_on_their_number():
    few, many = draw_figures(3, seed=5), draw_figures(9, seed=5)
    for a, b in zip(few[:3], many[:3], strict=True):
        torch.testing.assert_close(a, b[:3])
    few, many = (SynthObjects(textured(num_objects=num)).shapes for num in (3, 9))
    torch.testing.assert_close(few.waves, many.waves[:3])


def textured(**changes) -> SynthConfig:
    return dataclasses.replace(SMALL, texture=TextureConfig(contrast=0.1), **changes)


def test_texture_belongs_to_the_surface():
    """It changes colours alone, by its contrast, as a function of the point."""
    plain, rough = SynthObjects(SMALL), SynthObjects(textured())
    ids, cameras = torch.zeros(6, dtype=torch.long), Cameras.orbit(6, 0.4, 3.2, 1.5)
    before, after = (x.render(ids, cameras, 64) for x in (plain, rough))
    torch.testing.assert_close(after.depth, before.depth, rtol=0, atol=0)
    inside = before.mask.flatten(1) == 1
    red = [(view.image[:, 0].flatten(1)[inside] + 1) / 2 for view in (before, after)]
    factor = red[1] / red[0]
    assert abs(float(factor.std()) - 0.1) < 0.02
    # The factor is a function of the point in the world, whatever the camera.
    points = cameras.unproject(after.depth)
    expected = rough.shapes.select(ids).textured(points)[..., 0][inside]
    assert float((factor - expected).abs().median()) < 0.005


def test_views_agree_through_their_depth():
    """A point of one view agrees with the depth of another view, unless it is hidden."""
    objects = SynthObjects(SMALL)
    cameras = Cameras.orbit(8, 0.4, 3.2, 1.5)
    views = objects.render(torch.zeros(8, dtype=torch.long), cameras, 96)
    solid = torch.nn.functional.avg_pool2d(views.mask, 5, 1, 2) == 1
    points = cameras.unproject(views.depth)
    first, second = cameras.select(slice(0, 1)), cameras.select(slice(1, 2))
    uv, _ = second.project(points[:1])
    sampled = torch.nn.functional.grid_sample(
        views.depth[1:2], uv[:, None] * 2 - 1, align_corners=False
    )
    distance = (points[:1] - second.origins[:, None]).norm(dim=-1)
    near = solid[0].flatten() & ((sampled.flatten() - distance.flatten()).abs() < 0.03)
    assert float(near.sum() / solid[0].sum()) > 0.5
    assert not torch.equal(first.cam2world, second.cam2world)


def test_equal_seeds_give_equal_bytes(tmp_path, small):
    def digest(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()

    make_synth(SMALL, tmp_path / "again.zip")
    assert digest(tmp_path / "again.zip") == digest(small)
    other = build(
        SynthConfig,
        {"num_images": 12, "num_objects": 6, "holdout": 0.34, "resolution": 16, "seed": 1},
    )
    make_synth(other, tmp_path / "other.zip")
    assert digest(tmp_path / "other.zip") != digest(small)


def test_rendering_the_labels_reproduces_the_images(small):
    dataset = ImageDataset(DataConfig(path=str(small)), "all")
    objects = SynthObjects.open(small)
    assert dataset.objects is not None
    view = objects.render(dataset.objects, Cameras.from_label(dataset.labels), 16)
    from lightning_gan3d.images import to_uint8

    difference = to_uint8(view.image).int() - dataset.images(range(len(dataset))).int()
    assert int(difference.abs().max()) <= 1
    for i in (0, 7):
        depth, mask = read_truth(dataset, i)
        torch.testing.assert_close(depth, view.depth[i], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(mask, view.mask[i])


def test_held_out_figures_are_not_in_the_training_split(small):
    cfg = DataConfig(path=str(small))
    train, test = ImageDataset(cfg, "train"), ImageDataset(cfg, "test")
    assert train.objects is not None
    assert test.objects is not None
    assert not set(train.objects.tolist()) & set(test.objects.tolist())
    assert (len(train), len(test)) == (8, 4)


def test_truth_of_a_mirrored_image_is_mirrored(small):
    dataset = ImageDataset(DataConfig(path=str(small), mirror=True))
    plain, mirrored = read_truth(dataset, 1), read_truth(dataset, 1 + len(dataset) // 2)
    assert torch.equal(mirrored[0], plain[0].flip(-1))


def test_folder_and_zip_are_equivalent(tmp_path, small):
    make_synth(SMALL, tmp_path / "folder")
    a, b = (ImageDataset(DataConfig(path=str(p)), "all") for p in (small, tmp_path / "folder"))
    assert torch.equal(a.images(range(12)), b.images(range(12)))
    assert torch.equal(a.labels, b.labels)
    assert b.annotations.sha256.shape == (12, 32)


def test_truth_is_not_stored_as_images(small):
    """Other readers would mistake image files of depth and mask for unlabelled images."""
    dataset = ImageDataset(DataConfig(path=str(small)), "all")
    assert len(dataset) == 12
    assert sum(n.endswith(".png") for n in dataset.source.names) == 12


def test_cameras_are_uniform_between_the_elevations():
    cfg = SynthConfig(elevation_min=-0.2, elevation_max=1.0)
    cameras = sample_cameras(cfg, 4000, Draws(0))
    y = cameras.origins[:, 1] / cfg.radius
    torch.testing.assert_close(cameras.origins.norm(dim=1), torch.full((4000,), cfg.radius))
    assert math.sin(-0.2) <= float(y.min()) < -0.19
    assert math.sin(1.0) >= float(y.max()) > 0.83
    assert float(y.mean()) == pytest.approx((math.sin(-0.2) + math.sin(1.0)) / 2, abs=0.02)
    assert abs(float(cameras.origins[:, 0].mean())) < 0.1


@pytest.mark.parametrize(("name", "value"), [("white", 1), ("gray", 0), ("black", -1)])
def test_background(name, value):
    objects = SynthObjects(build(SynthConfig, {"num_objects": 2, "holdout": 0, "background": name}))
    view = objects.render(torch.tensor([0]), Cameras.orbit(1, 0.0, 3.2, 1.5), 8)
    assert view.image[0, :, 0, 0].tolist() == [value] * 3


def test_radius_and_focal_determine_the_size():
    def share(**options):
        cfg = build(SynthConfig, {"num_objects": 1, "holdout": 0, **options})
        cameras = Cameras.orbit(1, 0.0, cfg.radius, cfg.focal)
        return float(SynthObjects(cfg).render(torch.tensor([0]), cameras, 32).mask.mean())

    assert share(radius=6.4) < 0.4 * share()
    assert share(focal=0.75) == pytest.approx(share() / 4, rel=0.1)


def test_writing_rejects_an_existing_path_and_an_error_leaves_nothing(tmp_path, monkeypatch):
    out = tmp_path / "a.zip"
    make_synth(SMALL, out)
    with pytest.raises(DataError, match="exists: use another path"):
        make_synth(SMALL, out)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"b\.zip exists and is not a zip"):
        make_synth(SMALL, (tmp_path / "folder").rename(tmp_path / "b.zip"), overwrite=True)
    (tmp_path / "b.zip").rmdir()
    before = out.read_bytes()
    monkeypatch.setattr("lightning_gan3d.data.synthetic.synth.to_uint8", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_synth(SMALL, out, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]
    assert out.read_bytes() == before


def test_only_procedural_data_can_be_rendered_again(tmp_path):
    (tmp_path / "dataset.json").write_text('{"labels": []}')
    with pytest.raises(DataError, match="not a procedural dataset"):
        SynthObjects.open(tmp_path)


@pytest.mark.parametrize(
    "tree",
    [
        {"num_images": 0},
        {"num_objects": 9000},
        {"holdout": 0.0001},
        {"resolution": 2},
        {"radius": 0.9},
        {"focal": 0},
        {"elevation_min": 0.8},
        {"background": "pink"},
        {"texture": {"contrast": 2}},
        {"texture": {}, "kind": "solids"},
    ],
)
def test_invalid_values_are_rejected(tree):
    with pytest.raises(ConfigError, match=next(iter(tree))):
        build(SynthConfig, tree)


def test_arrays_need_no_pickle(small):
    dataset = ImageDataset(DataConfig(path=str(small)), "all")
    name = next(n for n in dataset.source.names if n.endswith(".npy"))
    assert dataset.source.read(name).startswith(np.lib.format.MAGIC_PREFIX)


def test_figures_and_their_cameras_are_those_of_earlier_versions(small):
    """Rounded, so that the last bits of another CPU do not matter."""
    dataset = ImageDataset(DataConfig(path=str(small)), "all")
    digest = hashlib.sha256((dataset.images(range(12)) // 8).numpy().tobytes())
    digest.update((dataset.labels * 500).round().int().numpy().tobytes())
    assert digest.hexdigest()[:16] == "20264e45ba2b4efe"
