"""Keys of transforms.json that change the meaning are used or named; masks; conventions."""

import json

import numpy as np
import pytest
from capture_parts import capture, transforms, write_colmap_bin, write_images
from PIL import Image

from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.captures.from_poses import prepare_from_poses
from lightning_gan3d.data.captures.posed_images import FromPosesConfig
from lightning_gan3d.data.dataset import DataConfig, ImageDataset


def make(folder, name="o.zip", **options):
    cfg = FromPosesConfig(**{"resolution": 32, **options})
    result = prepare_from_poses(folder, folder.parent / name, cfg, overwrite=True)
    return result, ImageDataset(DataConfig(path=str(folder.parent / name)), "all")


def write(folder, shot, change=None, **keys):
    if not folder.exists():
        write_images(folder / "images", shot)
    tree = transforms(shot, **keys)
    for frame in tree["frames"]:
        if change:
            change(frame)
    (folder / "transforms.json").write_text(json.dumps(tree))


def write_masks(folder, names, shot, value=1):
    """The left half is kept; masks of 0 and 1 are as good as those of 0 and 255."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = np.zeros((shot.height, shot.width), np.uint8)
        mask[:, : shot.width // 2] = value
        Image.fromarray(mask).save(path)


def check_halves(images, colour):
    assert (images[:, :, :, 17:] == colour).all()
    assert (images[:, 2, :, 2:14] == 77).all()


@pytest.mark.parametrize(("background", "colour"), [("black", 0), ("white", 255)])
@pytest.mark.parametrize("kind", ["transforms", "colmap"])
def test_masked_pixels_become_the_background(tmp_path, kind, background, colour):
    shot, folder = capture(4, size=(64, 64)), tmp_path / "a"
    write_images(folder / "images", shot)
    if kind == "colmap":
        write_colmap_bin(folder / "sparse", shot)
        write_masks(folder / "masks", [f"{n}.png" for n in shot.names], shot)
    else:
        write(folder, shot, lambda f: f.update(mask_path=f["file_path"].replace("images", "masks")))
        write_masks(folder / "masks", shot.names, shot)
    with pytest.raises(DataError, match=r"has a mask \(masks=ignore .*: set background=black"):
        make(folder)
    check_halves(make(folder, background=background)[1].images(range(4)), colour)
    images = make(folder, masks="ignore")[1].images(range(4))
    assert (images[:, 2] == 77).all()


def test_masks_are_undistorted_with_their_images(tmp_path):
    shot, folder = capture(4, size=(64, 64)), tmp_path / "a"
    keys = {"k1": 0.2, "cx": 32, "cy": 32}
    write(folder, shot, lambda f: f.update(mask_path="masks/m.png"), **keys)
    write_masks(folder / "masks", ["m.png"], shot, 255)
    images = make(folder, background="white")[1].images(range(4))
    check_halves(images, 255)  # the edge of the mask passes through the principal point


def test_masks_stay_beside_the_camera_file(tmp_path):
    """`images=FOLDER` moves the images; the end of a mask's path may equal that of its image."""
    shot, folder = capture(4, size=(64, 64)), tmp_path / "a"
    write(folder, shot, lambda f: f.update(mask_path=f["file_path"].replace("images", "masks")))
    write_masks(folder / "masks", shot.names, shot)
    (folder / "images").rename(tmp_path / "photos")
    _, data = make(folder, images=str(tmp_path / "photos"), background="white")
    check_halves(data.images(range(4)), 255)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.update(mask_path="masks/gone.png"), "its mask masks/gone.png is not in"),
        (lambda f: f.update(mask_path=[1]), r"its mask \[1\] is not in"),
        (lambda f: f.update(mask_path="../m.png"), "is outside"),
        (lambda f: f.pop("mask_path"), "one has a mask"),
        (lambda f: f.update(mask_path="masks/small.png"), "is 64x64, but its mask"),
    ],
)
def test_masks_that_are_missing_or_do_not_fit_are_rejected(tmp_path, change, message):
    shot, folder = capture(4, size=(64, 64)), tmp_path / "a"
    write(folder, shot, lambda f: f.update(mask_path="masks/m.png"))
    tree = json.loads((folder / "transforms.json").read_text())
    change(tree["frames"][1])
    (folder / "transforms.json").write_text(json.dumps(tree))
    write_masks(folder / "masks", ["m.png"], shot)
    write_masks(folder / "masks", ["small.png"], shot._replace(width=32))
    with pytest.raises(DataError, match=message):
        make(folder, background="white")
    make(folder, masks="ignore")


def test_a_missing_mask_of_colmap_is_named(tmp_path):
    shot, folder = capture(4, size=(64, 64)), tmp_path / "a"
    write_images(folder / "images", shot)
    write_colmap_bin(folder / "sparse", shot)
    write_masks(folder / "masks", [f"{n}.png" for n in shot.names[1:]], shot)
    with pytest.raises(DataError, match=r"its mask shot 00\.png\.png is not in .*masks"):
        make(folder, background="white")


def test_applied_transform_and_scale_lead_back_to_the_users_world(tmp_path):
    applied = {"applied_transform": [[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]]}
    applied["applied_scale"] = 0.25
    write(tmp_path / "a", capture(4), **applied)
    result, data = make(tmp_path / "a")
    world = data.metadata["from_poses"]["worlds"]["all"]
    assert {k: world[k] for k in applied} == applied
    assert not any("not used" in w for w in result.warnings)


def test_unused_keys_are_named_once_in_one_line(tmp_path):
    keys = {"orientation_override": "none", "aabb_scale": 16, "offset": [0, 0, 0], "a\nb": 1}
    write(tmp_path / "a", capture(4), lambda f: f.update(sharpness=3.5), **keys)
    notes = [w for w in make(tmp_path / "a")[0].warnings if "not used" in w]
    names = r"a\nb, aabb_scale, offset, orientation_override, sharpness"
    assert notes == [f"keys of transforms.json that are not used: {names}"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"applied_scale": "2"}, "applied_scale=2 must be a number"),
        ({"applied_transform": [[1]]}, "applied_transform must be 3 rows"),
        ({"camera_angle_x": 1.2}, r"fl_x=88 contradicts camera_angle_x=1\.2.*remove the wrong one"),
        ({"train_filenames": {"a": 1}}, "train_filenames must be a list of paths"),
        ({"val_filenames": [1]}, "val_filenames must be a list of paths"),
    ],
)
def test_keys_that_contradict_or_have_another_type_are_rejected(tmp_path, keys, message):
    write(tmp_path / "a", capture(4), **keys)
    with pytest.raises(DataError, match=message):
        make(tmp_path / "a")


def test_an_angle_beside_its_focal_length_is_accepted(tmp_path):
    """As instant-ngp writes it."""
    write(tmp_path / "a", capture(4), camera_angle_x=2 * np.arctan(90 / 2 / 88))
    assert len(make(tmp_path / "a")[1]) == 4


def test_lists_of_splits_may_be_written_another_way(tmp_path):
    shot = capture(4)
    write(tmp_path / "a", shot, train_filenames=[f"images/{n}" for n in shot.names])
    assert list(make(tmp_path / "a")[1].annotations.splits) == ["train"]


@pytest.mark.parametrize("convention", ["opengl", "opencv"])
@pytest.mark.parametrize("poses", ["cam2world", "world2cam"])
def test_conventions_of_poses(tmp_path, convention, poses):
    """All four are the same capture; a wrong one is rejected with the names of the options."""
    shot = capture(8)
    write(tmp_path / "plain", shot)
    expected = make(tmp_path / "plain", "plain.zip")[1].labels

    def change(frame):
        pose = np.array(frame["transform_matrix"])
        pose = pose if convention == "opengl" else pose @ np.diag([1, -1, -1, 1])
        frame["transform_matrix"] = (pose if poses == "cam2world" else np.linalg.inv(pose)).tolist()

    write(tmp_path / "a", shot, change)
    _, data = make(tmp_path / "a", convention=convention, poses=poses)
    np.testing.assert_allclose(data.labels.numpy(), expected.numpy(), atol=1e-5)
    if (convention, poses) != ("opengl", "cam2world"):
        with pytest.raises(DataError, match=r"convention=opencv or poses=world2cam"):
            make(tmp_path / "a", up="y")


def test_colmap_defines_its_own_convention(tmp_path):
    shot = capture(4)
    write_images(tmp_path / "a" / "images", shot)
    write_colmap_bin(tmp_path / "a", shot)
    for options in ({"convention": "opencv"}, {"poses": "world2cam"}):
        with pytest.raises(DataError, match=r"options of transforms\.json, not COLMAP"):
            make(tmp_path / "a", **options)


def test_a_byte_order_mark_is_read(tmp_path):
    write(tmp_path / "a", capture(4))
    path = tmp_path / "a" / "transforms.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert make(tmp_path / "a")[0].num_images == 4


@pytest.mark.parametrize("kind", ["transforms", "colmap"])
def test_a_rotated_photograph_needs_cameras_of_the_stored_pixels(tmp_path, kind):
    shot, folder = capture(4, size=(64, 64)), tmp_path / "a"
    write_images(folder / "images", shot)
    exif = Image.Exif()
    exif[0x0112] = 3
    file = folder / "images" / shot.names[0]
    with Image.open(file) as image:
        image.copy().save(file, exif=exif)
    if kind == "colmap":  # its cameras are of the stored pixels
        write_colmap_bin(folder / "sparse", shot)
        assert len(make(folder)[1]) == 4
        return
    write(folder, shot)
    with pytest.raises(DataError, match="has EXIF orientation 3"):
        make(folder)
