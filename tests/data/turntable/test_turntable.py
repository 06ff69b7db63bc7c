"""Figures on a turntable in the form of COIL-100: cropped and scaled, then recovered."""

import io
import itertools
import math
import zipfile

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image

from lightning_gan3d.cameras import Cameras, spherical
from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.data.labels import read_index
from lightning_gan3d.data.synthetic.ellipsoids import Ellipsoids, render_ellipsoids
from lightning_gan3d.data.synthetic.figures import draw_figures
from lightning_gan3d.data.turntable.collection import (
    EXTENT,
    TurntableConfig,
    prepare_turntable,
)
from lightning_gan3d.data.turntable.zoom import (
    background_of,
    brightness,
    outline,
    silhouette,
    solve_views,
)
from lightning_gan3d.images import to_uint8

CFG = TurntableConfig()
ANGLES, ELEVATION, DISTANCE = CFG.angles, math.radians(CFG.elevation), CFG.distance
RADIUS, FOCAL = CFG.radius, CFG.focal
SIDE = 176


@pytest.fixture(scope="module")
def turntable():
    """Views in the form of the library, and the zoom and shift of each."""
    cameras = Cameras.on_sphere(
        torch.as_tensor(ANGLES).float(), torch.full((72,), ELEVATION), RADIUS, FOCAL
    )
    upright = draw_figures(1, seed=1).select(torch.zeros(72, dtype=torch.long))
    lying = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    figures = Ellipsoids(upright.centre @ lying.T, upright.axes @ lying.T, upright.colour)
    view = render_ellipsoids(figures, cameras, SIDE, background=0.0)
    pixels = rearrange(to_uint8(view.image), "v c h w -> v h w c").numpy()
    shots, truth = [], []
    for k in range(72):
        ys, xs = (view.mask[k, 0].numpy() > 0.5).nonzero()
        left, top, right, bottom = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        size = max(right - left, bottom - top)
        x0, y0 = (left + right - size) / 2, (top + bottom - size) / 2
        pad = size
        full = Image.fromarray(np.pad(pixels[k], ((pad, pad), (pad, pad), (0, 0))))
        box = (x0 + pad, y0 + pad, x0 + pad + size, y0 + pad + size)
        crop = np.array(full.resize((128, 128), Image.Resampling.BICUBIC, box=box))
        shots.append((28 + crop.astype(float) * (227 / 255)).round().astype(np.uint8))
        truth.append((size / 128, x0 + size / 2 - SIDE / 2, SIDE / 2 - (y0 + size / 2)))
    return shots, np.array(truth)


def outlines(shots):
    return [outline(silhouette(brightness(s, background_of(s)), 22.0)) for s in shots]


def test_zoom_and_shift_are_recovered(turntable):
    shots, truth = turntable
    views = solve_views(outlines(shots), ANGLES, ELEVATION, DISTANCE)
    assert truth[:, 0].max() / truth[:, 0].min() > 1.15  # the zoom varies
    np.testing.assert_allclose(views.scale, truth[:, 0] / truth[:, 0].mean(), rtol=0.02)
    assert views.residual < 0.6
    # up to the object's centre: the rest is the projection of one displacement
    right = np.stack([np.cos(ANGLES), 0 * ANGLES, -np.sin(ANGLES)], 1)
    up = np.stack(
        [
            -np.sin(ANGLES) * math.sin(ELEVATION),
            0 * ANGLES + math.cos(ELEVATION),
            -np.cos(ANGLES) * math.sin(ELEVATION),
        ],
        1,
    )
    left = (views.shift - truth[:, 1:] / truth[:, 0].mean()).T.ravel()
    design = np.concatenate([right, up])
    moved = np.linalg.lstsq(design, left, rcond=None)[0]
    assert np.abs(left - design @ moved).max() < 1.5
    assert np.abs(left - design @ moved).max() < 0.2 * np.abs(left).max() + 1


def test_the_other_direction_of_rotation_has_larger_residuals(turntable):
    hulls = outlines(turntable[0])
    right, wrong = (solve_views(hulls, d * ANGLES, ELEVATION, DISTANCE).residual for d in (1, -1))
    assert wrong > 2 * right


def test_the_residual_identifies_elevation_and_distance(turntable):
    hulls = outlines(turntable[0])
    residual = {
        (e, d): solve_views(hulls, ANGLES, math.radians(e), d).residual
        for e, d in ((21, DISTANCE), (31, DISTANCE), (21, 5.0))
    }
    assert min(residual, key=lambda k: residual[k]) == (21, DISTANCE)


def test_scale_and_centre_are_normalised(turntable):
    """The mean scale is 1, and the object is at the centre."""
    hulls = outlines(turntable[0])
    views = solve_views(hulls, ANGLES, ELEVATION, DISTANCE)
    assert views.scale.mean() == pytest.approx(1, abs=1e-4)
    middles = [
        s * (o.max(0) + o.min(0)) / 2 + t
        for o, s, t in zip(hulls, views.scale, views.shift, strict=True)
    ]
    assert np.abs(np.mean(middles, 0)).max() < 1e-2


@pytest.fixture(scope="module")
def archive(turntable, tmp_path_factory):
    path = tmp_path_factory.mktemp("coil") / "coil-100.zip"
    with zipfile.ZipFile(path, "w") as z:
        for number in (3, 14):
            for k in range(72):
                buffer = io.BytesIO()
                Image.fromarray(turntable[0][k]).save(buffer, "PNG")
                z.writestr(f"coil-100/obj{number}__{5 * k}.png", buffer.getvalue())
    return path


def prepared(archive, path, **options):
    cfg = build(
        TurntableConfig, {"resolution": 64, "objects": "3,14", "holdout_objects": 1, **options}
    )
    residuals = prepare_turntable(archive, path, cfg, overwrite=True)
    return ImageDataset(DataConfig(path=str(path)), "all"), residuals


def hull_overlap(dataset: ImageDataset, order: torch.Tensor) -> float:
    """Carve the object from its masks with the labels' cameras; IoU of its views with the masks."""
    masks = (dataset.images(range(72)).amax(1) > 20).float()
    cameras = Cameras.from_label(dataset.labels[:72][order])
    grid = (torch.arange(40) + 0.5) / 20 - 1
    points = torch.stack(torch.meshgrid(grid, grid, grid, indexing="ij"), -1).reshape(1, -1, 3)
    uv, _ = cameras.project(points.expand(72, -1, -1))
    grid_uv = uv[:, None] * 2 - 1
    inside = torch.nn.functional.grid_sample(masks[:, None], grid_uv, align_corners=False)
    inside = inside[:, 0, 0] > 0.5
    hull = inside.sum(0) >= 70
    overlaps = []
    for k in range(0, 72, 8):
        cell = (uv[k, hull] * 32).long().clamp(0, 31)
        filled = torch.zeros(32, 32)
        filled[cell[:, 1], cell[:, 0]] = 1
        mask = torch.nn.functional.max_pool2d(masks[k][None], 2)[0]
        overlaps.append(float((filled * mask).sum() / ((filled + mask) > 0).sum()))
    return sum(overlaps) / len(overlaps)


@pytest.mark.parametrize("correction", ["images", "intrinsics"])
def test_corrected_cameras_carve_the_object(archive, tmp_path, correction):
    as_is = torch.arange(72)
    corrected, residuals = prepared(archive, tmp_path / "a.zip", correction=correction)
    assert hull_overlap(corrected, as_is) > 0.9
    assert hull_overlap(corrected, -as_is % 72) < 0.85  # rotating in the other direction
    raw, _ = prepared(archive, tmp_path / "b.zip", correction="none")
    assert hull_overlap(raw, as_is) < 0.85
    assert set(residuals) == {3, 14}


def test_common_camera_and_black_background(archive, tmp_path):
    dataset, _ = prepared(archive, tmp_path / "a.zip")
    cameras = Cameras.from_label(dataset.labels)
    torch.testing.assert_close(cameras.origins.norm(dim=1), torch.full((144,), RADIUS))
    assert torch.all(cameras.intrinsics == cameras.intrinsics[0])
    assert float(cameras.intrinsics[0, 0, 0]) == pytest.approx(FOCAL)
    images = dataset.images(range(144))
    assert int(images[:, :, 0].max()) == 0
    widest = (images[:72].amax(1) > 20).any(0)
    rows, columns = (torch.nonzero(widest.any(d))[:, 0] for d in (1, 0))
    reach = (
        max(31.5 - float(min(rows[0], columns[0])), float(max(rows[-1], columns[-1])) - 31.5) / 32
    )
    assert reach == pytest.approx(0.94, abs=0.04)
    assert EXTENT < 1


def test_splits_hold_out_angles_and_objects(archive, tmp_path):
    dataset, _ = prepared(archive, tmp_path / "a.zip", holdout_angles=6, correction="none")
    index = read_index(dataset.source)
    splits = {k: set(v) for k, v in index["splits"].items()}
    assert {k: len(v) for k, v in splits.items()} == {
        "train": 66,
        "test_angles": 6,
        "test_objects": 72,
    }
    shown = {k: {index["objects"][n] for n in v} for k, v in splits.items()}
    assert shown["train"] == shown["test_angles"] != shown["test_objects"]
    angles = sorted(int(n[-7:-4]) for n in splits["test_angles"])
    assert {b - a for a, b in itertools.pairwise(angles)} == {60}
    none = {"holdout_angles": 0, "holdout_objects": 0, "correction": "none"}
    other, _ = prepared(archive, tmp_path / "b.zip", **none)
    assert list(other.annotations.splits) == ["train"]
    picks = {
        tuple(
            prepared(archive, tmp_path / "c.zip", seed=s, correction="none")[0]
            .annotations.splits["test_angles"]
            .tolist()
        )
        for s in range(3)
    }
    assert len(picks) > 1


def test_azimuth_grows_with_the_angle(archive, tmp_path):
    dataset, _ = prepared(archive, tmp_path / "a.zip", correction="none")
    origins = Cameras.from_label(dataset.labels).origins
    index = {n: i for i, n in enumerate(dataset.names)}
    side, front = origins[index["obj003/090.png"]], origins[index["obj003/000.png"]]
    assert float(front[2]) == pytest.approx(RADIUS * math.cos(ELEVATION), rel=1e-4)
    assert float(side[0]) == pytest.approx(RADIUS * math.cos(ELEVATION), rel=1e-4)
    assert float(side[1]) == pytest.approx(RADIUS * math.sin(ELEVATION), rel=1e-4)


def test_incomplete_archives_are_rejected(archive, tmp_path):
    with pytest.raises(DataError, match="object 5 lacks 72 of 72 views, the first is number 0"):
        prepare_turntable(
            archive, tmp_path / "a.zip", TurntableConfig(objects="3,5", holdout_objects=0)
        )
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as z:
        z.writestr("a.txt", "x")
    with pytest.raises(DataError, match=r"has no file that matches pattern=obj\("):
        prepare_turntable(other, tmp_path / "a.zip", TurntableConfig())
    with pytest.raises(DataError, match="its number is no multiple of step=10 degrees"):
        prepare_turntable(
            archive, tmp_path / "a.zip", TurntableConfig(step=10.0, holdout_objects=0)
        )
    with pytest.raises(ConfigError, match="holdout_objects=10: use less than 2, the number of obj"):
        prepare_turntable(archive, tmp_path / "a.zip", TurntableConfig())
    assert not (tmp_path / "a.zip").exists()


def test_other_names_sizes_and_grey_images_are_prepared(turntable, tmp_path):
    """As COIL-20: views are numbered from 0 to 71, images are grey."""
    path = tmp_path / "coil-20.zip"
    with zipfile.ZipFile(path, "w") as z:
        for k in range(0, 72, 2):
            buffer = io.BytesIO()
            Image.fromarray(turntable[0][k]).convert("L").resize((96, 96)).save(buffer, "PNG")
            z.writestr(f"cup-7/{k // 2}.png", buffer.getvalue())
    options = {"pattern": r"-(\d+)/(\d+)\.png", "step": 10.0, "holdout_objects": 0}
    dataset, residuals = prepared(path, tmp_path / "a.zip", objects="", **options)
    assert list(residuals) == [7]
    assert residuals[7] < 1
    assert dataset.names[1] == "obj007/010.png"
    images = dataset.images(range(36))
    assert torch.equal(images[:, 0], images[:, 2])
    azimuth = spherical(Cameras.from_label(dataset.labels).origins).azimuth
    assert float(azimuth[9]) == pytest.approx(math.pi / 2, abs=1e-5)


@pytest.mark.parametrize(
    "tree",
    [
        {"resolution": 4},
        {"objects": "5-"},
        {"pattern": "obj(\\d+)"},
        {"step": 7},
        {"holdout_angles": 7},
        {"correction": "half"},
    ],
)
def test_invalid_values_are_rejected(tree):
    with pytest.raises(ConfigError, match=next(iter(tree))):
        build(TurntableConfig, tree)


def test_shadows_and_specks_are_not_in_the_silhouette():
    pixels = np.full((40, 40, 3), 28, dtype=np.uint8)
    pixels[10:30, 12:22] = 200
    pixels[30:36, 12:22] = 5  # a shadow, darker than the background
    pixels[2, 2] = 255
    mask = silhouette(brightness(pixels, background_of(pixels)), 14.0)
    corners = outline(mask)
    assert corners is not None
    assert corners.min(0).tolist() == [-8, -10]
    assert corners.max(0).tolist() == [2, 10]
    assert outline(np.zeros((40, 40), dtype=bool)) is None
    with pytest.raises(DataError, match="no dark background"):
        background_of(np.full((40, 40, 3), 200, dtype=np.uint8))
    assert background_of(pixels).tolist() == [28, 28, 28]
