import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from metric_views import Perturbed, context, figure_labels, figures
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.images import to_uint8
from lightning_gan3d.metrics.config import FeaturesConfig
from lightning_gan3d.metrics.consistency import keypoint_tracks
from lightning_gan3d.metrics.consistency.camera_choice import arcs_of
from lightning_gan3d.metrics.consistency.keypoint_tracks import (
    detect,
    is_rigid,
    measure_features,
)
from lightning_gan3d.metrics.consistency.reference import known_views, stored_views
from lightning_gan3d.metrics.selftest.perturbations import ignore_camera, paint_over
from lightning_gan3d.metrics.stored_images import StoredImages

CFG = FeaturesConfig(items=8, views=3)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")  # known objects are rendered once

    def measure(change=None, cfg=CFG):
        source = figures() if change is None else Perturbed(figures(), change)
        of_source = context(source, features=cfg, cache=cache)
        return {m.name.partition(".")[2]: m for m in measure_features(of_source)}

    return measure


@pytest.mark.parametrize("centre", [(30.0, 24.3), (27.25, 33.6)])
def test_a_blob_is_detected_at_its_centre(centre):
    # SIFT's upsampling of scikit-image 0.26 would be off by a quarter pixel.
    at = torch.arange(64.0)
    x, y = (at - centre[0]).square(), (at - centre[1]).square()
    blob = torch.exp(-(x[None, :] + y[:, None]) / (2 * 4.0**2)).expand(3, 64, 64)
    uv = detect(blob).uv
    expected = (torch.tensor(centre) + 0.5) / 64
    assert float((64 * (uv - expected)).norm(dim=-1).min()) < 0.1


def test_a_plain_image_has_no_keypoints():
    assert len(detect(torch.full((3, 32, 32), 0.4)).uv) == 0


def projections(points: Tensor, cameras: Cameras) -> Tensor:
    uv, _ = cameras.project(points[None].expand(len(cameras.cam2world), -1, -1))
    return uv.transpose(0, 1).contiguous()


def arc(num=4):
    base = Cameras.from_label(figure_labels()[:1])
    return base.rotate_y(0.3 * torch.arange(num))


def test_the_projections_of_a_point_are_rigid():
    cameras = arc()
    points = torch.tensor([[0.4, 0.1, 0.2], [-0.3, -0.2, 0.5], [0.1, 0.3, -0.4]])
    uv, view = projections(points, cameras), torch.arange(4).expand(3, 4)
    assert is_rigid(uv, cameras, view, 1e-4).all()
    moved = uv.clone()
    moved[1, 2] += torch.tensor([0.05, 0.0])  # along the epipolar line of two views, not of three
    moved[2, 0] += torch.tensor([0.0, 0.05])
    assert is_rigid(moved, cameras, view, 0.008).tolist() == [True, False, False]
    assert is_rigid(moved, cameras, view, 0.1)[1]


def test_the_order_of_views_counts():
    cameras = arc()
    uv = projections(torch.tensor([[0.4, 0.1, 0.2]]), cameras)
    assert not is_rigid(uv, cameras, torch.tensor([[3, 2, 1, 0]]), 0.008).any()


def test_a_point_fixed_on_the_screen_is_not_rigid():
    cameras = arc()
    uv = torch.tensor([[0.5, 0.5], [0.52, 0.4]])[:, None].expand(2, 4, 2)
    assert not is_rigid(uv, cameras, torch.arange(4).expand(2, 4), 0.5).any()


def test_a_point_behind_the_cameras_is_not_rigid():
    cameras = arc()
    behind = 3 * cameras.origins.mean(dim=0, keepdim=True)
    uv = projections(behind, cameras)
    assert not is_rigid(uv, cameras, torch.arange(4)[None], 0.5).any()


def test_chains_link_mutual_matches():
    a, b, c = 100 * np.eye(3, 8)
    views = [np.stack(x) for x in ([a, b], [b, c, a], [c, a])]
    assert sorted(keypoint_tracks._chains(views)) == [[-1, 1, 0], [0, 2, 1], [1, 0, -1]]


def test_known_objects_score_high_and_cheats_low(measured):
    honest = measured()
    assert honest["score"].value > 0.4
    assert honest["shuffled"].value < 0.3 * honest["known"].value
    assert 3 <= honest["track"].value <= CFG.views

    billboard = measured(lambda *x: ignore_camera(*x, 1.0))
    assert billboard["inliers"].value == 0
    assert billboard["score"].value <= 0
    assert billboard["track"].value is None

    def change_identity(source, _, cameras):
        return source.views(torch.arange(len(cameras.cam2world)), cameras)

    assert measured(change_identity)["score"].value < 0.2


def test_images_without_detail_have_no_score(measured):
    plain = measured(lambda *x: paint_over(*x, 1.0))
    assert all(m.value is None for m in plain.values())
    assert "no keypoints" in plain["score"].note


def test_strong_blur_has_no_score(measured):
    # It leaves a few large blobs, which are easy to follow.
    def blur(source, items, cameras):
        views = source.views(items, cameras)
        return views._replace(image=gaussian_blur(views.image, 19, 3.0))

    blurred = measured(blur)
    assert blurred["score"].value is None
    assert "less than 4" in blurred["score"].note
    assert blurred["inliers"].value is not None


def test_few_objects_are_shuffled_too():
    few = replace(figures(), objects=range(CFG.items))
    metrics = {
        m.name.partition(".")[2]: m for m in measure_features(context(few, features=CFG, truth=few))
    }
    assert metrics["shuffled"].value < 0.5 * metrics["known"].value


def test_images_that_are_not_finite_have_no_score(measured):
    def break_images(source, items, cameras):
        views = source.views(items, cameras)
        return views._replace(image=views.image / 0 * 0)

    assert "not finite" in measured(break_images)["score"].note


def test_arcs_of_stored_views_are_as_wide_as_rendered_ones():
    ring = arc(1).rotate_y(torch.arange(72) * (2 * torch.pi / 72))
    chosen = arcs_of(ring, CFG)
    origins = chosen.origins.view(CFG.items, CFG.views, 3)
    cosine = torch.nn.functional.cosine_similarity(origins[:, 0, [0, 2]], origins[:, 1, [0, 2]])
    assert torch.allclose(cosine.acos().rad2deg(), torch.tensor(15.0), atol=0.1)
    sparse = ring.select(torch.arange(0, 72, 9))
    assert "0.25 rad apart" in arcs_of(sparse, CFG)


def test_the_cameras_are_arcs_of_the_items():
    of_source = context(figures(), features=CFG)
    cameras = keypoint_tracks._choose_cameras(of_source, CFG)
    base = figures().base(torch.arange(CFG.items))
    assert torch.allclose(cameras.select(torch.arange(1, 24, 3)).to_label(), base.to_label())


def test_photographs_from_the_same_cameras_are_the_known_objects(tmp_path):
    """A folder with objects; more than 25 cameras, where torch's distances are inexact."""
    base = arc(1).rotate_y(torch.arange(48) * (2 * torch.pi / 48))
    labels = base.to_label()
    index = {"labels": [], "objects": {}}
    for i in range(2):
        views = figures().views(torch.tensor([i]), base).image
        for j, image in enumerate(to_uint8(views)):
            name = f"{i}_{j:02d}.png"
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / name)
            index["labels"].append([name, labels[j].tolist()])
            index["objects"][name] = i
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    stored = StoredImages(tmp_path)
    cfg = replace(CFG, items=4, angle=2 * torch.pi / 24)
    of_folder = context(stored, features=cfg, multiview=stored)
    cameras = keypoint_tracks._choose_cameras(of_folder, cfg)
    views = stored_views(stored, torch.arange(4), cameras)
    expected = figures().views(torch.tensor([1]), cameras.select(slice(3, 6))).image
    assert torch.allclose(views[3:6], expected, atol=0.01)
    known = known_views(of_folder, torch.arange(4), cameras, 32)
    assert torch.equal(known.image, views)
    score = {m.name: m for m in measure_features(of_folder)}
    assert score["features.inliers"].value > 0
