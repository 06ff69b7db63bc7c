"""Known points in a rotated, shifted and scaled coordinate system project to their pixels."""

import json
import math
import shutil
import zipfile

import numpy as np
import pytest
import torch
import yaml
from capture_parts import (
    CENTRE,
    SCALE,
    capture,
    ramp,
    transforms,
    write_colmap_bin,
    write_colmap_txt,
    write_images,
    write_transforms,
)
from PIL import Image

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.cli import main
from lightning_gan3d.config import ConfigError, build, from_options
from lightning_gan3d.data.archive import DataError, UnsafeDataError
from lightning_gan3d.data.captures.from_poses import prepare_from_poses, square
from lightning_gan3d.data.captures.posed_images import FromPosesConfig, ImageFolder
from lightning_gan3d.data.captures.transforms import read_transforms
from lightning_gan3d.data.check import check_dataset
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.data.image_files import centre_square
from lightning_gan3d.experiment import load_experiment

RESOLUTION = 32


def make(folder, out, overwrite=False, **options):
    cfg = FromPosesConfig(**{"resolution": RESOLUTION, **options})
    return prepare_from_poses(folder, out, cfg, overwrite)


def opened(path, **options):
    return ImageDataset(DataConfig(path=str(path), **options), "all")


def matrix_of(dataset, name="all"):
    return np.array(dataset.metadata["from_poses"]["worlds"][name]["matrix"])


@pytest.fixture(scope="module")
def shot():
    return capture()


@pytest.fixture(scope="module", params=["txt", "bin", "transforms"])
def result(request, shot, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_images(folder / "images", shot)
    if request.param == "txt":
        write_colmap_txt(folder / "sparse" / "0", shot)
    elif request.param == "bin":
        write_colmap_bin(folder / "sparse" / "0", shot)
    else:
        write_transforms(folder, shot)
    out = folder / "out.zip"
    return make(folder, out), opened(out)


def test_known_points_project_to_their_pixels(result, shot):
    _, dataset = result
    assert dataset.names == [f"images/{n}" for n in shot.names]
    check_projections(dataset, shot)


def test_portraits_are_cropped_above_and_below(tmp_path):
    shot = capture(size=(64, 90))
    write_images(tmp_path / "a" / "images", shot)
    write_transforms(tmp_path / "a", shot)
    make(tmp_path / "a", tmp_path / "out.zip")
    check_projections(opened(tmp_path / "out.zip"), shot)


def check_projections(dataset, shot):
    """The squares are central crops: u of the square is u of the image less the margin."""
    matrix = matrix_of(dataset)
    points = torch.from_numpy(shot.points @ matrix[:3, :3].T + matrix[:3, 3]).float()
    uv, depth = Cameras.from_label(dataset.labels).project(points.expand(len(dataset), -1, -1))
    assert float(depth.min()) > 0
    left, top, side = centre_square(shot.width, shot.height)
    for i in range(len(dataset)):
        expected = (shot.pixels_of(i, shot.points) - (left, top)) / side
        np.testing.assert_allclose(uv[i].numpy(), expected, atol=1e-5)


def test_pixels_and_labels_are_cropped_alike(result, shot):
    """Each pixel of the original encodes its position, which must agree with the projection."""
    _, dataset = result
    left, top, side = centre_square(shot.width, shot.height)
    image = dataset.images([0])[0].double().numpy()
    centres = (np.arange(RESOLUTION) + 0.5) / RESOLUTION * side
    inner = slice(2, -2)
    red, green = (centres + left) / shot.width * 255, (centres + top) / shot.height * 255
    np.testing.assert_allclose(image[0].mean(axis=0)[inner], red[inner], atol=1.0)
    np.testing.assert_allclose(image[1].mean(axis=1)[inner], green[inner], atol=1.0)


def test_the_result_is_upright_centred_and_at_the_radius(result, shot):
    _, dataset = result
    matrix = matrix_of(dataset)
    rotation = matrix[:3, :3] * SCALE * 3.0 / 2.7
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(rotation @ shot.rotation @ [0, 1, 0], [0, 1, 0], atol=1e-5)
    np.testing.assert_allclose(matrix @ [*CENTRE, 1], [0, 0, 0, 1], atol=1e-5)
    distance = Cameras.from_label(dataset.labels).origins.norm(dim=-1)
    torch.testing.assert_close(distance, torch.full_like(distance, 2.7))
    assert dataset.metadata["from_poses"]["worlds"]["all"]["scale"] == pytest.approx(
        2.7 / 3.0 / SCALE
    )


def test_all_formats_give_one_data_set(shot, tmp_path):
    """Only COLMAP has points, here too few to change the framing."""
    for kind in ("txt", "bin", "json"):
        write_images(tmp_path / kind / "images", shot)
    write_colmap_txt(tmp_path / "txt" / "sparse", shot)
    write_colmap_bin(tmp_path / "bin", shot)
    write_transforms(tmp_path / "json", shot)
    result = {k: make(tmp_path / k, tmp_path / f"{k}.zip") for k in ("txt", "bin", "json")}
    first = opened(tmp_path / "txt.zip")
    for kind in ("bin", "json"):
        other = opened(tmp_path / f"{kind}.zip")
        torch.testing.assert_close(other.labels, first.labels, rtol=1e-6, atol=1e-6)
        assert torch.equal(other.images(range(len(other))), first.images(range(len(first))))
        assert result[kind].framing.box == result["txt"].framing.box


def test_the_result_passes_the_check_and_its_cameras_look_at_the_origin(result):
    prepared, dataset = result
    summary = check_dataset(str(dataset.source.path))
    assert summary.warnings == ()
    assert summary.num_images == prepared.num_images == 12
    assert prepared.warnings == ()


def test_the_proposal_can_be_pasted_into_an_experiment(result, tmp_path):
    prepared, dataset = result
    text = str(prepared).partition("paste into an experiment:\n")[2]
    (tmp_path / "own.yaml").write_text(f"base: {tmp_path / 'base.yaml'}\n{text}")
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({"base": str(preset()), "name": "own"}))
    config = load_experiment(tmp_path / "own.yaml")
    assert config.generator.scene.box == prepared.framing.box
    assert config.generator.renderer.near == prepared.framing.near
    assert config.generator.renderer.far == prepared.framing.far
    assert config.data.path == str(dataset.source.path)


def preset():
    from lightning_gan3d.presets import find_file

    return find_file("triplane")


def test_cameras_on_one_side_define_a_front_and_give_a_warning(tmp_path):
    """Cameras within 60 degrees: their mean direction becomes +z, and back views are missing."""
    shot = capture(azimuths=torch.linspace(0.5, 1.5, 9))
    write_images(tmp_path / "a" / "images", shot)
    write_transforms(tmp_path / "a", shot)
    prepared = make(tmp_path / "a", tmp_path / "out.zip")
    dataset = opened(tmp_path / "out.zip")
    x, _, z = Cameras.from_label(dataset.labels).origins.mean(dim=0)
    assert abs(math.atan2(x, z)) < 0.01
    assert "no camera covers 303 degrees" in " ".join(prepared.warnings)
    make(tmp_path / "a", tmp_path / "none.zip", front="none")
    x, _, z = Cameras.from_label(opened(tmp_path / "none.zip").labels).origins.mean(dim=0)
    assert abs(math.atan2(x, z)) > 0.3


def blender(folder, num=8, distance=4.0, alpha=True, **keys):
    """As NeRF's synthetic scenes: z up, origin at the object, angle of view, no extension."""
    shot = capture(num, size=(32, 32))
    azimuth = torch.arange(num) * (2 * math.pi / num)
    poses = Cameras.on_sphere(azimuth.double(), torch.full((num,), 0.5).double(), distance)
    to_z_up = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    pose = poses.cam2world.numpy().copy()
    pose[:, :3] = to_z_up @ pose[:, :3]
    shot = shot._replace(cam2world=pose)
    folder.mkdir(parents=True)
    for split, indices in (("train", range(0, num - 2)), ("test", range(num - 2, num))):
        (folder / split).mkdir()
        frames = []
        for i in indices:
            pixels = np.zeros((32, 32, 4 if alpha else 3), np.uint8)
            pixels[8:24, 8:24] = 200
            Image.fromarray(pixels).save(folder / split / f"r_{i}.png")
            matrix = (pose[i] @ np.diag([1.0, -1, -1, 1])).tolist()
            frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": matrix})
        tree = {"camera_angle_x": 0.6911112070083618, "frames": frames, **keys}
        (folder / f"transforms_{split}.json").write_text(json.dumps(tree))
    return shot


def test_nerf_synthetic_has_splits_transparency_and_angles(tmp_path):
    blender(tmp_path / "a")
    with pytest.raises(DataError, match=r"RGBA.*background=white"):
        make(tmp_path / "a", tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()
    prepared = make(tmp_path / "a", tmp_path / "out.zip", background="white")
    dataset = opened(tmp_path / "out.zip")
    assert len(ImageDataset(DataConfig(path=str(tmp_path / "out.zip")), "train")) == 6
    assert len(ImageDataset(DataConfig(path=str(tmp_path / "out.zip")), "test")) == 2
    intrinsics = Cameras.from_label(dataset.labels).intrinsics
    focal = 0.5 / math.tan(0.5 * 0.6911112070083618)
    torch.testing.assert_close(intrinsics[:, 0, 0], torch.full((8,), focal))
    torch.testing.assert_close(intrinsics[:, 1, 2], torch.full((8,), 0.5))
    assert dataset.images([0])[0, :, 0, 0].tolist() == [255, 255, 255]
    assert prepared.tree["generator"]["renderer"]["background"] == 1.0
    # Blender's front, -y, becomes ours
    matrix = matrix_of(dataset)
    np.testing.assert_allclose(matrix[:3, :3] @ [0, -1, 0], [0, 0, 2.7 / 4], atol=1e-6)


def test_framing_of_known_cameras(tmp_path):
    """Cameras at 2.7 see a ball of radius 2.7 sin(fov / 2); near and far bound its cube."""
    blender(tmp_path / "a", alpha=False)
    framing = make(tmp_path / "a", tmp_path / "out.zip").framing
    visible = 2.7 * math.sin(0.5 * 0.6911112070083618)
    assert framing.visible == pytest.approx(visible, rel=1e-5)
    assert framing.fov == pytest.approx(math.degrees(0.6911112070083618), rel=1e-5)
    assert 0 <= framing.box - 2 * visible <= 0.01
    assert 0 < framing.near <= 2.7 - framing.box / 2
    assert 2.7 + framing.box / 2 <= framing.far <= 2.7 + framing.box * math.sqrt(3) / 2 + 0.01


def test_objects_in_folders_are_normalised_alone_or_together(tmp_path):
    blender(tmp_path / "set" / "big", distance=8.0, alpha=False)
    blender(tmp_path / "set" / "small", distance=2.0, alpha=False)
    with pytest.raises(DataError, match=r"2 of its folders have, such as big: objects=folder"):
        make(tmp_path / "set", tmp_path / "out")
    make(tmp_path / "set", tmp_path / "alone", objects="folder")
    dataset = opened(tmp_path / "alone")
    assert dataset.names[0] == "big/test/r_6.png"
    assert dataset.objects.tolist() == [0] * 8 + [1] * 8
    distance = Cameras.from_label(dataset.labels).origins.norm(dim=-1)
    torch.testing.assert_close(distance, torch.full_like(distance, 2.7))
    prepared = make(
        tmp_path / "set", tmp_path / "both", objects="folder", per_object=False, radius=None
    )
    distance = Cameras.from_label(opened(tmp_path / "both").labels).origins.norm(dim=-1)
    torch.testing.assert_close(distance, torch.tensor([8.0] * 8 + [2.0] * 8))
    assert any("distances vary from 2.00 to 8.00" in w for w in prepared.warnings)


def test_objects_within_one_set_of_cameras(tmp_path):
    one, two = capture(), capture()
    names = [f"cup/{n}" for n in one.names] + [f"jug/{n}" for n in one.names]
    poses = np.concatenate([one.cam2world, two.cam2world + 0])
    poses[12:, :3, 3] += 100
    both = one._replace(cam2world=poses, names=names)
    write_images(tmp_path / "a" / "images", both)
    write_colmap_bin(tmp_path / "a" / "sparse", both)
    make(tmp_path / "a", tmp_path / "out", objects="folder")
    dataset = opened(tmp_path / "out")
    assert dataset.objects.tolist() == [0] * 12 + [1] * 12
    torch.testing.assert_close(dataset.labels[:12], dataset.labels[12:], rtol=1e-5, atol=1e-5)
    assert dataset.metadata["from_poses"]["objects"] == {"cup": 0, "jug": 1}


def test_intrinsics_follow_scaled_images(shot, tmp_path):
    """`images_2` of other tools: half the size in the camera file."""
    write_images(tmp_path / "a" / "images", shot)
    write_colmap_bin(tmp_path / "a" / "sparse", shot)
    make(tmp_path / "a", tmp_path / "one.zip")
    half = shot._replace(width=45, height=32)
    write_images(tmp_path / "half", half)
    shutil.rmtree(tmp_path / "a" / "images")
    with pytest.raises(DataError, match=r"12 of 12 images.*images=FOLDER"):
        make(tmp_path / "a", tmp_path / "two.zip")
    make(tmp_path / "a", tmp_path / "two.zip", images=str(tmp_path / "half"))
    torch.testing.assert_close(
        opened(tmp_path / "one.zip").labels, opened(tmp_path / "two.zip").labels
    )
    Image.fromarray(ramp(64, 90)).save(tmp_path / "half" / shot.names[3])
    with pytest.raises(DataError, match=r"shot 03.png is 64x90, but its camera is for 90x64"):
        make(tmp_path / "a", tmp_path / "three.zip", images=str(tmp_path / "half"))


def test_parallel_axes_have_no_nearest_point(tmp_path):
    shot = capture(azimuths=torch.zeros(6))
    shot.cam2world[:, :3, :3] = shot.cam2world[0, :3, :3]
    write_images(tmp_path / "a" / "images", shot)
    write_colmap_txt(tmp_path / "a", shot)
    with pytest.raises(DataError, match=r"look in parallel.*centre=origin"):
        make(tmp_path / "a", tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()
    make(tmp_path / "a", tmp_path / "out.zip", centre="points", up="auto")
    matrix = matrix_of(opened(tmp_path / "out.zip"))
    middle = np.median(shot.points, axis=0)
    np.testing.assert_allclose(matrix @ [*middle, 1], [0, 0, 0, 1], atol=1e-6)


def test_cameras_that_look_outward_are_rejected(tmp_path):
    shot = capture()
    shot.cam2world[:, :3, [0, 2]] *= -1
    write_images(tmp_path / "a" / "images", shot)
    write_transforms(tmp_path / "a", shot)
    with pytest.raises(DataError, match=r"12 of 12 cameras do not see the origin"):
        make(tmp_path / "a", tmp_path / "out.zip")


def test_cameras_that_disagree_about_up_are_rejected(tmp_path):
    shot = capture()
    shot.cam2world[::2, :3, :2] *= -1
    write_images(tmp_path / "a" / "images", shot)
    write_transforms(tmp_path / "a", shot)
    with pytest.raises(DataError, match=r"disagree about up.*up=y"):
        make(tmp_path / "a", tmp_path / "out.zip")
    prepared = make(tmp_path / "a", tmp_path / "out.zip", up="z")
    assert any("rolled" in w for w in prepared.warnings)


def test_points_shrink_the_box(tmp_path):
    shot = capture()
    cloud = CENTRE + SCALE * np.random.default_rng(0).uniform(-0.2, 0.2, (500, 3))
    shot = shot._replace(points=np.concatenate([cloud, CENTRE + 90 + cloud[:100]]))
    write_images(tmp_path / "a" / "images", shot)
    write_colmap_bin(tmp_path / "a", shot)
    framing = make(tmp_path / "a", tmp_path / "out.zip").framing
    # corners of the cloud, turned: at most 0.2 sqrt(3), scaled by 2.7 / 3, and a tenth of room
    assert 0.9 * 0.4 < framing.box < 0.9 * 0.4 * math.sqrt(3) * 1.1
    assert framing.points_inside == pytest.approx(5 / 6, abs=0.01)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"fl_x": math.nan}, "fl_x=nan must be a number"),
        ({"fl_x": None}, "set fl_x"),
        ({"fl_x": None, "camera_angle_x": 40}, "in radians"),
        ({"fl_x": "88"}, "fl_x=88 must be a number"),
        ({"w": 0}, "for images of 0x64"),
        ({"fl_y": 10**400}, "fl_y=1000"),
        ({"fl_y": -3}, "focal lengths 88 and -3 must be at least 1"),
        ({"fl_x": 1e6}, "looks like pixels"),
    ],
)
def test_invalid_transforms_are_rejected(shot, tmp_path, keys, message):
    write_images(tmp_path / "a" / "images", shot)
    write_transforms(tmp_path / "a", shot, **keys)
    with pytest.raises(DataError, match=message):
        make(tmp_path / "a", tmp_path / "out.zip")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda f: f.update(file_path="images/gone.png"), DataError, r"1 of 12.*gone\.png"),
        (lambda f: f.update(file_path="../../x.png"), UnsafeDataError, "is outside"),
        (lambda f: f.update(file_path="/etc/x.png"), UnsafeDataError, "is outside"),
        (lambda f: f.update(file_path="images/shot 01.png"), DataError, "two cameras"),
        (lambda f: f.update(transform_matrix=[[1, 2]]), DataError, "4 rows of 4"),
        (lambda f: f.pop("file_path"), DataError, r"frames\[0\] must have file_path"),
        (lambda f: f["transform_matrix"][0].__setitem__(0, math.nan), DataError, "not finite"),
        (lambda f: f["transform_matrix"][0].__setitem__(0, 10**400), DataError, "4 rows of 4"),
        (
            lambda f: f.update(transform_matrix=np.diag([2.0, 2, 2, 1]).tolist()),
            DataError,
            "not a rotation: it scales by 2",
        ),
        (
            lambda f: f.update(transform_matrix=np.diag([-1.0, 1, 1, 1]).tolist()),
            DataError,
            "it mirrors",
        ),
        (
            lambda f: f.update(transform_matrix=np.array(f["transform_matrix"]).T.tolist()),
            DataError,
            "transposed",
        ),
    ],
)
def test_invalid_frames_are_rejected(shot, tmp_path, change, error, message):
    write_images(tmp_path / "a" / "images", shot)
    tree = transforms(shot)
    change(tree["frames"][0])
    (tmp_path / "a" / "transforms.json").write_text(json.dumps(tree))
    with pytest.raises(error, match=message):
        make(tmp_path / "a", tmp_path / "out.zip")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_distortion_is_ignored_with_a_warning(shot, tmp_path):
    write_images(tmp_path / "a" / "images", shot)
    write_transforms(tmp_path / "a", shot, k1=0.1)
    prepared = make(tmp_path / "a", tmp_path / "out.zip", ignore_distortion=True)
    assert "distortion is ignored" in prepared.warnings


FOV = 0.8
"""Horizontal field of view in radians; the focal length of 90 pixels for it is 106.4."""
ANGLED = 0.5 / math.tan(0.5 * FOV) * 90


@pytest.mark.parametrize(
    ("file", "frame", "expected"),
    [
        ({"fl_x": 88, "fl_y": 84}, {}, (88, 84)),
        ({"fl_x": 88, "fl_y": 84}, {"camera_angle_x": FOV}, (ANGLED, ANGLED)),
        ({"camera_angle_x": FOV}, {"fl_x": 88}, (88, 88)),
        ({"fl_x": 88, "fl_y": 84}, {"fl_x": 70}, (70, 70)),
        ({"fl_x": 88, "fl_y": 84}, {"fl_x": 70, "fl_y": 71}, (70, 71)),
        ({"fl_x": 88, "fl_y": 84}, {"fl_y": 71}, (88, 71)),
        ({"fl_x": 88, "fl_y": 84}, {"fl_x": None}, (88, 84)),
        ({"fl_y": 84}, {"fl_x": 70}, (70, 84)),
        ({"camera_angle_x": FOV}, {}, (ANGLED, ANGLED)),
    ],
)
def test_keys_of_a_frame_take_precedence(shot, tmp_path, file, frame, expected):
    write_images(tmp_path / "images", shot)
    tree = {**transforms(shot), "fl_x": None, "fl_y": None, **file}
    tree["frames"][0].update(frame)
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps({**tree, "frames": tree["frames"][:1]}))
    posed = read_transforms([path], ImageFolder(tmp_path), "", FromPosesConfig())
    k = posed.frames[0].intrinsics
    assert (k[0, 0], k[1, 1]) == pytest.approx(expected)


def test_folders_of_the_user_are_not_stored(shot, tmp_path):
    private = tmp_path / "home of somebody"
    write_images(private / "photos", shot)
    write_transforms(private / "capture", shot)
    tree = json.loads((private / "capture" / "transforms.json").read_text())
    for frame in tree["frames"]:
        frame["file_path"] = frame["file_path"].replace("./images/", "")
    tree["frames"].append({**tree["frames"][0], "file_path": "gone.png"})
    (private / "capture" / "transforms.json").write_text(json.dumps(tree))
    (private / "photos" / "lost.png").write_bytes((private / "photos" / shot.names[0]).read_bytes())
    options = {"images": str(private / "photos"), "skip_missing": True}
    prepared = make(private / "capture", private / "out.zip", **options)
    assert len(prepared.warnings) == 2
    assert all(str(private / "photos") in w for w in prepared.warnings)  # in the terminal
    index = opened(private / "out.zip").metadata
    assert "somebody" not in json.dumps(index)
    note = index["from_poses"]
    assert (note["source"], note["options"]["images"]) == ("capture", "photos")
    assert note["experiment"]["data"]["path"] == "out.zip"
    assert "are not below photos: gone.png" in note["warnings"][0]
    make(private / "capture" / "transforms.json", private / "b.zip", **options)
    assert "somebody" not in json.dumps(opened(private / "b.zip").metadata)


@pytest.mark.parametrize("write", [write_transforms, write_colmap_txt])
def test_skip_missing_leaves_out_cameras_without_an_image(shot, tmp_path, write):
    write_images(tmp_path / "a" / "images", shot)
    write(tmp_path / "a", shot)
    (tmp_path / "a" / "images" / shot.names[4]).unlink()
    with pytest.raises(DataError, match=r"1 of 12.*shot 04\.png; .*skip_missing=true"):
        make(tmp_path / "a", tmp_path / "out.zip")
    prepared = make(tmp_path / "a", tmp_path / "out.zip", skip_missing=True)
    assert prepared.num_images == 11
    assert "1 of 12 images with a camera are not below" in prepared.warnings[0]
    shutil.rmtree(tmp_path / "a" / "images")
    with pytest.raises(DataError, match="12 of 12"):
        make(tmp_path / "a", tmp_path / "b.zip", skip_missing=True)


def test_images_without_a_camera_are_counted(shot, tmp_path):
    write_images(tmp_path / "a" / "images", shot)
    Image.fromarray(ramp(90, 64)).save(tmp_path / "a" / "images" / "lost.png")
    write_colmap_txt(tmp_path / "a" / "sparse" / "0", shot)
    write_colmap_txt(tmp_path / "a" / "sparse" / "1", shot)
    prepared = make(tmp_path / "a", tmp_path / "out.zip", resolution=128)
    text = " ".join(prepared.warnings)
    assert "1 of 13 images have no camera" in text
    assert "1 more models beside sparse/0" in text
    assert "12 images are smaller than 128" in text


def test_two_formats_need_a_choice(shot, tmp_path):
    write_images(tmp_path / "a" / "images", shot)
    write_colmap_txt(tmp_path / "a", shot)
    write_transforms(tmp_path / "a", shot)
    with pytest.raises(DataError, match="format=colmap or format=transforms"):
        make(tmp_path / "a", tmp_path / "out.zip")
    make(tmp_path / "a", tmp_path / "out.zip", format="colmap")
    make(tmp_path / "a" / "transforms.json", tmp_path / "b.zip")


def test_rectangles_are_rejected_without_crop(shot, tmp_path):
    write_images(tmp_path / "a" / "images", shot)
    write_transforms(tmp_path / "a", shot)
    with pytest.raises(DataError, match=r"is 90x64, expected a square of 64x64; crop=centre"):
        make(tmp_path / "a", tmp_path / "out.zip", crop="none")


def test_equal_output_names_are_rejected(shot, tmp_path):
    twice = shot._replace(names=[*shot.names[:-1], "shot 00.jpg"])
    write_images(tmp_path / "a" / "images", twice)
    write_transforms(tmp_path / "a", twice)
    with pytest.raises(DataError, match=r"would both be written as images/shot 00\.png"):
        make(tmp_path / "a", tmp_path / "out.zip")


def test_a_damaged_image_leaves_nothing_behind(shot, tmp_path):
    write_images(tmp_path / "a" / "images", shot)
    write_transforms(tmp_path / "a", shot)
    last = tmp_path / "a" / "images" / shot.names[-1]
    last.write_bytes(last.read_bytes()[:120])
    with pytest.raises(DataError, match=r"shot 11\.png cannot be decoded"):
        make(tmp_path / "a", tmp_path / "out.zip")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


@pytest.mark.parametrize("up", ["y", "-y", "x", "-x", "z", "-z"])
def test_given_axes_are_used(up, tmp_path):
    """From the command line: YAML must not parse `y` as true."""
    shot = capture()
    write_images(tmp_path / "a" / "images", shot)
    write_transforms(tmp_path / "a", shot)
    cfg = from_options(FromPosesConfig, [f"up={up}", "resolution=8", "radius=null"])
    prepare_from_poses(tmp_path / "a", tmp_path / "out.zip", cfg)
    matrix = matrix_of(opened(tmp_path / "out.zip"))
    axis = np.zeros(3)
    axis["xyz".index(up[-1])] = -1 if up[0] == "-" else 1
    np.testing.assert_allclose(matrix[:3, :3] @ axis, [0, 1, 0], atol=1e-9)
    assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1)
    with pytest.raises(DataError, match="front and up"):
        make(tmp_path / "a", tmp_path / "b.zip", up=up, front=up)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 4}, "resolution=4"),
        ({"radius": 0.0}, "radius=0.0"),
        ({"images": "x", "objects": "folder"}, "images=x"),
    ],
)
def test_invalid_options_are_rejected(options, message):
    with pytest.raises(ConfigError, match=message):
        build(FromPosesConfig, options)


def test_missing_cameras_and_folders_are_rejected(tmp_path):
    with pytest.raises(DataError, match="has no cameras"):
        make(tmp_path, tmp_path / "out.zip")
    with pytest.raises(DataError, match="does not exist"):
        make(tmp_path / "gone", tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "x.zip", "w"):
        pass
    with pytest.raises(DataError, match="unpack"):
        make(tmp_path / "x.zip", tmp_path / "out.zip")


def test_fine_stripes_do_not_alias():
    """Stripes of one pixel, reduced eightfold, are gray."""
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(square(stripes, 8).astype(int) - 127).max() < 12


def test_the_command(shot, tmp_path, capsys):
    write_images(tmp_path / "a" / "images", shot)
    write_colmap_bin(tmp_path / "a" / "sparse" / "0", shot)
    out = tmp_path / "out.zip"
    with pytest.raises(SystemExit) as ended:
        main(["data", "from-poses", str(tmp_path / "a"), str(out), "resolution=32"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "12 images of 32x32 pixels" in text
    assert "scene: {box:" in text
    picture = np.asarray(Image.open(tmp_path / "out.cameras.png").convert("RGB"))
    assert picture.shape[1] > 1000
    assert (picture.std(axis=(0, 1)) > 10).all()
    with pytest.raises(SystemExit) as ended:
        main(["data", "from-poses", str(tmp_path / "a"), str(out), "up=w"])
    assert ended.value.code == 2
    assert "up=w" in capsys.readouterr().err
