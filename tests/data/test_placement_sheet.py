"""Sheet of placements and proposed ranges, against closed forms and procedural scenes."""

import json
import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError, build, parse_yaml
from lightning_gan3d.data import placement_sheet
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.commands import app
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.data.placement_sheet import draw_edges, fit_spheres, mask_boxes, summarise
from lightning_gan3d.data.synthetic.synth import SynthConfig, make_synth, read_truth
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.presets import find_file
from representations.composition import PlacementConfig

PRESET = "family/small_giraffe"
FRONT = [
    "cameras.kind=prior",
    "cameras.azimuth={low: 0, high: 0}",
    "cameras.elevation={low: 0, high: 0}",
    "cameras.radius={low: 1.5, high: 1.5}",
    f"cameras.fov={{low: {2 * math.atan(1 / 3)}, high: {2 * math.atan(1 / 3)}}}",
]
"""Frontal cameras at distance 3 (edge 2 of the box) with focal length 1.5."""


def placements(path, *options, preset=PRESET):
    """Return the configuration that the command prints."""
    sheet = path.with_name("sheet.png")
    arguments = ["placements", preset, f"data.path={path}", *options, "--sheet", str(sheet)]
    result = CliRunner().invoke(app, arguments)
    if result.exception:
        raise result.exception
    tree = parse_yaml(result.output)
    return (tree or {}).get("generator", {}).get("representation", {}).get("placement"), result


def write(path, images, index=None):
    """Write images, and `dataset.json` with frontal cameras of distance 3 and focal length 1.5."""
    path.mkdir()
    label = Cameras.orbit(1, 0.0, 3.0, 1.5).to_label()[0].tolist()
    labels = [[f"{i}.png", label] for i in range(len(images))]
    for i, pixels in enumerate(images):
        Image.fromarray(pixels).save(path / f"{i}.png")
    (path / "dataset.json").write_text(json.dumps({"labels": labels, **(index or {})}))
    return path


@pytest.fixture
def no_sheet(monkeypatch):
    """Drawing takes most of the time."""
    monkeypatch.setattr(placement_sheet, "draw_placement_sheet", lambda *_: [])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    path = tmp_path_factory.mktemp("scenes") / "scenes"
    turns = {"scenes": {"rotation_min": 0.5, "rotation_max": 2.5}}
    options = {"kind": "scenes", "num_images": 150, "num_objects": 150, "holdout": 0.0}
    make_synth(build(SynthConfig, options | turns), path)
    return path


def disc(u, v, radius, size=64):
    """RGBA image whose alpha channel is a disc; its numbers are shares of the image size."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    pixels = np.full((size, size, 4), 90, dtype=np.uint8)
    pixels[..., 3] = 255 * (np.hypot(x - u, y - v) < radius)
    return pixels


def test_placements_of_the_data_recover_the_ranges_that_made_it(scenes, tmp_path):
    proposed, result = placements(scenes, "--propose", "data.mirror=true")
    assert "From 300 objects of 300 images (placements)" in result.output
    with Image.open(scenes.with_name("sheet.png")) as image:
        assert image.width >= 1400  # beside the configured ranges
    # Of 150 draws, less than 4 % of the range lies beyond the 1st percentile; and rounding.
    expected = {
        "scale": (0.45, 0.6),
        "rotation": (-2.5, 2.5),  # mirrored images turn the other direction
        "x": (-0.25, 0.25),
        "y": (-0.05, 0.1),
        "z": (-0.25, 0.25),
    }
    assert list(proposed) == list(expected)
    for name, (low, high) in expected.items():
        slack = 0.04 * (high - low) + 0.005
        assert low - 0.005 <= proposed[name][0] <= low + slack, name
        assert high - slack <= proposed[name][1] <= high + 0.005, name
    assert proposed["x"][0] == -proposed["x"][1]
    own = tmp_path / "own.yaml"
    own.write_text(f"base: {find_file(PRESET)}\nname: own\n{result.output}")
    pasted = load_experiment(str(own), []).generator.representation.placement
    assert list(pasted.z) == proposed["z"]


@pytest.mark.usefixtures("no_sheet")
def test_masks_recover_position_and_scale_within_the_stated_tolerance(scenes, tmp_path):
    data = ImageDataset(DataConfig(path=str(scenes)), "all")
    for i, name in enumerate(data.names):
        mask = (read_truth(data, i)[1][0] > 0.5).numpy()
        Image.fromarray(mask).save(tmp_path / name.removeprefix("images/"))
    proposed, result = placements(scenes, "--propose", "--masks", str(tmp_path))
    assert "masks in" in result.output
    assert "rotation stays as configured" in result.output
    assert set(proposed) == {"scale", "x", "y", "z"}
    low, high = proposed["scale"]
    assert 0.65 * 0.45 < low <= 0.45  # animals are narrow from the front
    assert abs(high - 0.6) < 0.06
    assert proposed["x"] == pytest.approx([-0.25, 0.25], abs=0.05)
    assert proposed["y"] == pytest.approx([-0.05, 0.1], abs=0.2)
    assert proposed["z"] == pytest.approx([0, 0], abs=0.1)  # frontal cameras do not determine depth


def test_spheres_are_recovered_from_their_boxes():
    torch.manual_seed(0)
    n = 20
    cameras = Cameras.on_sphere(torch.randn(n), torch.randn(n) * 0.4, 3 + torch.rand(n), 1.2)
    cameras = cameras.crop(0.1, 0.2, 0.7, 0.9).roll(torch.randn(n))
    centre, radius = 0.5 * torch.randn(n, 3), 0.2 + 0.4 * torch.rand(n)
    a, b = torch.meshgrid(
        torch.linspace(0, math.pi, 151), torch.linspace(0, 6.283, 151), indexing="ij"
    )
    sphere = torch.stack([a.sin() * b.cos(), a.sin() * b.sin(), a.cos()], -1).flatten(0, 1)
    uv, _ = cameras.project(centre[:, None] + radius[:, None, None] * sphere)
    depth_z = cameras.project(centre[:, None])[1]
    fitted = fit_spheres(torch.cat([uv.amin(1), uv.amax(1)], 1), cameras, depth_z)
    torch.testing.assert_close(fitted[:, 0], radius, atol=0, rtol=1e-3)
    torch.testing.assert_close(fitted[:, 1:], centre, atol=1e-3, rtol=0)


@pytest.mark.usefixtures("no_sheet")
@pytest.mark.parametrize("cameras", ["dataset", "prior"])
@pytest.mark.parametrize("kind", ["alpha", "boxes"])
def test_alpha_channels_and_boxes_of_a_detector_give_spheres(tmp_path, kind, cameras):
    at = [(0.6, 0.5), (0.5, 0.6)]
    at += [(0.4, 0.5)] if cameras == "dataset" else []  # else the mirror image of the first
    images = [disc(u, v, 0.125) for u, v in at]
    index = {}
    if kind == "boxes":
        boxes = [[u - 0.125, v - 0.125, u + 0.125, v + 0.125] for u, v in at]
        index = {"placements": {f"{i}.png": [{"box": box}] for i, box in enumerate(boxes)}}
        images = [x[..., :3] for x in images]
    # The middle of the configured ranges is the origin: distance 3.
    options = ["data.convert=white", "generator.representation.placement.y=[0, 0]"]
    options += [*FRONT, "data.labels=none", "data.mirror=true"] if cameras == "prior" else []
    path = write(tmp_path / "data", images, index)
    proposed, _ = placements(path, "--propose", *options)
    expected = 3 * math.sin(math.atan(0.125 / 1.5))
    near = 3 / 1.5 / 32 / 2 if kind == "alpha" else 0.0  # half a pixel
    assert proposed["scale"] == pytest.approx([expected] * 2, abs=near + 0.005)
    assert proposed["x"] == pytest.approx([-0.2, 0.2], abs=near + 0.015)
    assert proposed["y"] == pytest.approx([-0.2, 0.0], abs=near + 0.015)
    assert proposed["z"] == pytest.approx([0, 0], abs=0.01)


def test_masks_are_split_into_the_largest_components():
    mask = np.zeros((20, 40), dtype=bool)
    mask[2:10, 4:12] = mask[5:15, 20:36] = True
    mask[18, 38] = True  # a speck
    first, second = [0.5, 0.25, 0.9, 0.75], [0.1, 0.1, 0.3, 0.5]

    def check(most, *boxes):
        found = mask_boxes(mask, most)
        torch.testing.assert_close(found[:, :4], torch.tensor(boxes))
        assert bool(found[:, 4:].isnan().all())

    check(3, first, second)
    check(1, [0.1, 0.1, 0.9, 0.75])
    mask[10, 12] = mask[11, 13] = True  # a thin diagonal stays part of its object
    check(3, first, [0.1, 0.1, 0.35, 0.6])
    for most in (1, 2):
        assert mask_boxes(np.zeros((4, 4), dtype=bool), most).shape == (0, 9)


def test_a_box_is_drawn_at_its_pixels(tmp_path, monkeypatch):
    shown = []
    save = Figure.savefig

    def capture(figure, *args, **kwargs):
        save(figure, *args, **kwargs)
        shown.append(figure)

    monkeypatch.setattr(Figure, "savefig", capture)
    path = write(tmp_path / "data", [np.full((32, 32, 3), 255, dtype=np.uint8)] * 2)
    place = "{scale: [0.5, 0.5], rotation: [0, 0], x: [0.3, 0.3], y: [-0.2, -0.2], z: [0, 0]}"
    placements(path, f"generator.representation.placement={place}")
    # Faces at distance 2.5 and 3.5, focal length 1.5.
    corners = [
        (0.5 + 1.5 * (0.3 + a) / z, 0.5 + 1.5 * (0.2 + b) / z)
        for z in (2.5, 3.5)
        for a in (-0.5, 0.5)
        for b in (-0.5, 0.5)
    ]
    near = {"left": corners[0][0], "top": corners[0][1]}
    axes = next(a for a in shown[0].axes if a.collections)
    ends = np.concatenate(axes.collections[0].get_segments())
    assert len(ends) == 24
    for corner in corners:
        assert np.abs(ends - corner).sum(1).min() < 1e-4
    shown[0].set_dpi(90)
    with Image.open(tmp_path / "sheet.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    x, y = axes.transData.transform([(near["left"], 0.62), (0.45, near["top"])]).T
    for i in range(2):
        row, column = pixels.shape[0] - round(y[i]), round(x[i])
        patch = pixels[row - 1 : row + 2, column - 1 : column + 2].reshape(-1, 3)
        assert (patch[:, 0] - patch[:, 2]).max() > 80, patch  # red


def test_shares_of_boxes_inside_the_image():
    def edges(x, z):
        place = PlacementConfig((0.5, 0.5), (0.0, 0.0), (x, x), (0.0, 0.0), (z, z))
        return draw_edges(place, Cameras.orbit(1, 0.0, 3.0, 1.5))

    inside, partly, outside, behind = (
        edges(x, z) for x, z in ((0.0, 0.0), (1.0, 0.0), (3.0, 0.0), (0.0, 3.0))
    )
    text = summarise(torch.cat([inside, inside, partly, outside, behind]), 64)
    assert text.startswith("boxes 40% inside, 20% partly, 40% outside;")
    side = 64 * 1.5 / 2.5  # of the near face
    assert f"{side:.0f} to " in summarise(inside, 64)
    assert summarise(behind, 64).startswith("boxes 0% inside, 0% partly, 100% outside;")


def test_draws_are_equal_in_each_call_and_uniform_in_their_ranges():
    cameras = Cameras.orbit(1, 0.0, 30.0, 15.0).select(torch.zeros(2000, dtype=torch.long))
    place = PlacementConfig((0.1, 0.1), (0.0, 0.0), (-0.4, 0.8), (0.0, 0.0), (0.0, 0.0))
    edges = draw_edges(place, cameras)
    assert torch.equal(edges, draw_edges(place, cameras))
    x = (edges[..., 0].flatten(1).mean(1) - 0.5) * 2  # focal length 15 at distance 30
    assert float(x.mean()) == pytest.approx(0.2, abs=0.03)
    assert float(x.max() - x.min()) == pytest.approx(1.2, abs=0.02)


GRAY = [np.full((32, 32, 3), 90, dtype=np.uint8)] * 2


@pytest.mark.usefixtures("no_sheet")
@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            None,
            "--propose: 0 objects in 2 images .* use --masks FOLDER, images with an alpha channel",
        ),
        (
            {"0.png": [{"box": [0, 0.1, 0.5, 0.9]}]},
            r"1 objects in 2 images \(placements\), none of them within the border",
        ),
        ({"0.png": [{"box": [0, 8, 16, 24]}]}, "divide pixels by the image size"),
        (
            {"1.PNG": [{"box": [0, 0.1, 0.5, 0.9]}], "2.png": []},
            r"names 2.png, which does not exist",
        ),
    ],
)
def test_data_without_usable_objects_are_rejected(tmp_path, entry, message):
    path = write(tmp_path / "data", GRAY, {} if entry is None else {"placements": entry})
    with pytest.raises(DataError, match=message):
        placements(path, "--propose")


@pytest.mark.usefixtures("no_sheet")
def test_missing_masks_and_scenes_without_parts_are_rejected(tmp_path):
    path = write(tmp_path / "data", GRAY)
    assert placements(path)[0] is None  # the sheet alone needs no objects
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.fromarray(GRAY[0]).save(masks / "1.png")
    with pytest.raises(DataError, match=r"has 0 masks of 0.png: name each as its image"):
        placements(path, "--masks", str(masks))
    with pytest.raises(ConfigError, match=r"data.labels=none.*: set cameras.kind=prior"):
        placements(path, "data.labels=none", "discriminator.conditioning=none")
    with pytest.raises(ConfigError, match=r"demo/triplane: only .*kind=composed has placements"):
        placements(path, preset="demo/triplane")
