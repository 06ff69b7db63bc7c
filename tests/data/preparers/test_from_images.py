"""`gan3d data from-images`: photographs of any size become squares; what is left out is named."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from preparer_parts import cameras, encoded, index_of, labels_json, opened, poses_json, ramp, save

from lightning_gan3d.cli import main
from lightning_gan3d.config import from_options
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.data.preparers.from_images import FromImagesConfig, prepare_images


def noise(seed, height=40, width=40, blocks=10):
    """Random blocks: an image with its own perceptual hash."""
    colours = np.random.default_rng(seed).integers(0, 256, (blocks, blocks, 3), dtype=np.uint8)
    return np.array(Image.fromarray(colours).resize((width, height), Image.Resampling.NEAREST))


def run(tmp_path, files, *options, out="out.zip"):
    cfg = from_options(FromImagesConfig, ["resolution=16", *options])
    return prepare_images(save(files, tmp_path / "in"), tmp_path / out, cfg)


def pixels(path, name=None, **options):
    data = opened(path, labels="none", **options)
    return data.images([data.names.index(name) if name else 0])[0].permute(1, 2, 0).numpy()


def stored(image, suffix, **options):
    buffer = io.BytesIO()
    image.save(buffer, suffix, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("width", "height"), [(48, 48), (64, 48), (48, 81)])
def test_a_linear_ramp_keeps_its_values(tmp_path, width, height):
    side = min(width, height)
    run(tmp_path, {"a.png": encoded(ramp(width, height))}, out="out")
    image = pixels(tmp_path / "out").astype(float)
    centre = (np.arange(16) + 0.5) / 16 - 0.5  # in sides of the square
    inside = slice(3, 13)  # Lanczos reaches 3 output pixels
    x, y = (255 * (0.5 + centre * side / n) for n in (width, height))
    assert np.abs(image[inside, inside, 0] - x[inside]).max() < 1
    assert np.abs(image[inside, inside, 1] - y[inside, None]).max() < 1


def test_fine_stripes_become_their_mean(tmp_path):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    run(tmp_path, {"a.png": encoded(stripes)})
    assert np.abs(pixels(tmp_path / "out.zip")[:, 3:13].astype(int) - 100).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    shown = Image.fromarray(noise(1, 48, 64, 2))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose
    image = shown.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else shown
    exif = Image.Exif()
    exif[0x0112] = orientation
    quality = {} if suffix == "PNG" else {"quality": 100}
    run(tmp_path, {"a.x": b"", f"a.{suffix.lower()}": stored(image, suffix, exif=exif, **quality)})
    run(tmp_path / "plain", {"a.png": encoded(np.array(shown))})
    image, plain = pixels(tmp_path / "out.zip"), pixels(tmp_path / "plain/out.zip")
    assert np.abs(image.astype(int) - plain).mean() < 6


@pytest.mark.parametrize(("name", "value"), [("white", 255), ("black", 0), ("gray", 128)])
def test_transparent_pixels_are_composed_over_the_colour(tmp_path, name, value):
    alpha, colour = 77, np.array([200, 90, 30])
    rgba = np.full((32, 32, 4), [*colour, alpha], np.uint8)
    run(tmp_path, {"a.png": encoded(rgba)}, f"background={name}")
    share = alpha / 255
    assert np.abs(pixels(tmp_path / "out.zip") - (share * colour + (1 - share) * value)).max() <= 1


def test_the_alpha_channel_is_kept_and_composed_in_training(tmp_path):
    rgba = np.full((32, 32, 4), [200, 90, 30, 77], np.uint8)
    rgba[:, 16:] = [10, 20, 250, 0]  # the colour of transparent pixels must not bleed
    run(tmp_path, {"a.png": encoded(rgba)}, "background=keep")
    cfg = DataConfig(path=str(tmp_path / "out.zip"), labels="none", convert="white")
    data = ImageDataset(cfg)
    share = 77 / 255
    expected = share * np.array([200, 90, 30]) + (1 - share) * 255
    image, matte = data.images([0])[0].numpy(), data.mattes(torch.tensor([0]))[0, 0].numpy()
    side = image.shape[-1]
    assert np.abs(image[:, :, : side // 2 - 3] - expected[:, None, None]).max() <= 2
    assert (image[:, :, side // 2 + 3 :] == 255).all()
    assert matte[0, 0] == 77
    assert matte[0, -1] == 0
    edge = image[2, 0].astype(int)  # blue never falls below the left side's
    assert (edge >= expected[2] - 3).all()


def test_a_random_background_is_solid_and_depends_on_the_name_only(tmp_path):
    empty = encoded(np.zeros((32, 32, 4), np.uint8))
    files = {"a.png": empty, "sub/b.png": empty}
    result = run(tmp_path, files, "background=random")
    a, b = (pixels(tmp_path / "out.zip", n) for n in ("a.png", "sub/b.png"))
    assert (a == a[0, 0]).all()
    assert (b == b[0, 0]).all()
    assert (a[0, 0] != b[0, 0]).any()
    assert result.copies == {"sub/b.png": "a.png"}  # the colour does not hide the duplicate
    run(tmp_path / "alone", {"sub/b.png": empty}, "background=random")
    assert (pixels(tmp_path / "alone/out.zip") == b).all()


def duplicated():
    first, photo = noise(1), Image.fromarray(noise(1))
    return {
        "a.png": encoded(first),
        "b/copy.bmp": encoded(first, "BMP"),
        "c.jpg": stored(photo, "JPEG", quality=60),
        "d.png": encoded(np.array(photo.resize((30, 30), Image.Resampling.LANCZOS))),
        "e.png": encoded(noise(2)),
        "f.png": encoded(first // 2),  # equal hash, other colours
    }


def test_duplicates_are_reported_and_stay_in_one_split(tmp_path):
    result = run(tmp_path, duplicated(), "holdout=0.4")
    repeats = {"b/copy.bmp": "a.png", "c.jpg": "a.png", "d.png": "a.png"}
    assert (result.copies, result.num_exact, result.num_images) == (repeats, 1, 6)
    assert "3 duplicates, 1 of them exact, e.g. b/copy.bmp repeats a.png" in str(result)
    index = index_of(tmp_path / "out.zip")
    assert index["copies"] == {"b/copy.png": "a.png", "c.png": "a.png", "d.png": "a.png"}
    splits = index["splits"]
    assert sorted(splits["train"] + splits["test"]) == sorted(
        ["a.png", "b/copy.png", "c.png", "d.png", "e.png", "f.png"]
    )
    assert all(names == sorted(names) for names in splits.values())  # not the order of a set
    (home,) = [k for k, names in splits.items() if "a.png" in names]
    assert {"a.png", *index["copies"]} <= set(splits[home])
    assert len(splits["test"]) == result.num_test > 0
    assert opened(tmp_path / "out.zip", labels="none").warnings() == []


def test_duplicates_can_be_dropped(tmp_path):
    result = run(tmp_path, duplicated(), "duplicates=drop")
    assert opened(tmp_path / "out.zip", labels="none").names == ["a.png", "e.png", "f.png"]
    assert len(result.copies) == 3
    assert "copies" not in index_of(tmp_path / "out.zip")


def faulty():
    return {
        "good.png": encoded(noise(1)),
        "small.png": encoded(noise(2, 40, 12)),
        "text.jpg": b"no image",
        "cut.jpg": stored(Image.fromarray(noise(3)), "JPEG")[:-300],
        "phone.heic": b"ftypheic",
        "notes.txt": b"ignored",
        "huge.png": encoded(noise(4)).replace(b"\0\0\0\x28", b"\0\1\0\0", 1),
    }


def test_broken_and_small_files_are_named_at_the_end(tmp_path, capsys):
    source = save(faulty(), tmp_path / "in.zip")
    command = ["data", "from-images", str(source), str(tmp_path / "out.zip"), "resolution=16"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert not ended.value.code
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0] == f"{tmp_path / 'out.zip'}: 1 images, 0 of them held out"
    assert lines[1] == "left out: 1 too small, e.g. small.png"
    assert [line.split()[2] for line in lines[2:]] == [
        "phone.heic", "cut.jpg", "huge.png", "text.jpg",
    ]  # fmt: skip
    assert lines[-1].startswith("left out: text.jpg is not a readable PNG")
    assert "BytesIO object at" not in str(lines)
    left_out = index_of(tmp_path / "out.zip")["from_images"]["left_out"]
    assert sorted(left_out) == ["cut.jpg", "huge.png", "phone.heic", "small.png", "text.jpg"]


@pytest.mark.parametrize(
    ("files", "options"),
    [(faulty(), ["unusable=reject"]), ({"small.png": encoded(noise(1, 12, 12))}, [])],
)
def test_unusable_files_can_be_rejected_and_none_left_is_an_error(tmp_path, files, options):
    with pytest.raises(DataError, match=r"left out: 1 too small, e\.g\. small\.png"):
        run(tmp_path, files, *options)
    assert not (tmp_path / "out.zip").exists()


def test_without_crop_rectangles_are_rejected(tmp_path):
    with pytest.raises(DataError, match=r"a\.png is 30x20, expected a square; crop=centre"):
        run(tmp_path, {"a.png": encoded(noise(1, 20, 30))}, "crop=none")


def test_images_without_cameras_train_by_labels_none_and_name_the_remedy(tmp_path):
    run(tmp_path, {"x/y/a.webp": encoded(noise(1), "WEBP"), "b.png": encoded(noise(2))})
    assert index_of(tmp_path / "out.zip")["labels"] is None
    data = opened(tmp_path / "out.zip", labels="none")
    assert (data.names, data.resolution) == (["b.png", "x/y/a.png"], 16)
    with pytest.raises(DataError, match=r"not None; use `gan3d data from-images` or"):
        opened(tmp_path / "out.zip")


@pytest.mark.parametrize("kind", ["labels", "poses"])
def test_a_file_of_cameras_becomes_labels(tmp_path, kind):
    names = [f"{i}.png" for i in range(4)]
    files, cams = {n: encoded(noise(i, 40, 50)) for i, n in enumerate(names)}, cameras(4)
    file = tmp_path / "cameras.json"
    extra = {"objects": {n: i // 2 for i, n in enumerate(names)}}
    data = labels_json(names, cams, **extra) if kind == "labels" else poses_json(names, cams, 1)
    file.write_bytes(data)
    run(tmp_path, files, f"cameras={file}", "holdout=0.5")
    dataset = opened(tmp_path / "out.zip")
    assert torch.allclose(dataset.labels, cams.to_label().float(), atol=1e-6)
    assert index_of(tmp_path / "out.zip")["from_images"]["cameras"] == "cameras.json"
    if kind == "labels":  # views of an object stay together
        assert index_of(tmp_path / "out.zip")["splits"]["test"] in (names[:2], names[2:])


def test_faults_of_a_file_of_cameras(tmp_path):
    file, cams = tmp_path / "cameras.json", cameras(2)
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated = stored(Image.fromarray(noise(2)), "JPEG", exif=exif)
    files = {"a.png": encoded(noise(1)), "b.jpg": rotated, "c.png": encoded(noise(3))}
    file.write_bytes(labels_json(["a.png", "b.jpg"], cams))
    with pytest.raises(DataError, match=r"1 of 3 images have no camera .* c\.png"):
        run(tmp_path, files, f"cameras={file}")
    result = run(tmp_path, files, f"cameras={file}", "missing=skip")
    assert (result.num_images, [*result.broken]) == (1, ["b.jpg"])  # stored or rotated pixels?
    file.write_bytes(poses_json(["a.png", "b.jpg"], cams))
    with pytest.raises(DataError, match="pixels"):
        run(tmp_path, files, f"cameras={file}", "missing=skip", out="other.zip")


def test_equal_photographs_give_equal_bytes(tmp_path):
    for out in ("one.zip", "two.zip"):
        run(tmp_path, duplicated(), "holdout=0.3", out=out)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
