import io
import json

import numpy as np
import pytest
import torch
from fabricated_runs import Ball, make_run, write_labels
from PIL import Image

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.images import Images, to_uint8
from lightning_gan3d.metrics.sources import GeneratorSource
from lightning_gan3d.report.groups import compare
from lightning_gan3d.report.plots import image_sheets as module
from lightning_gan3d.report.plots.image_sheets import NUM_VIEWS, Row, image_sheets, sheet
from lightning_gan3d.report.plots.style import DARK, LIGHT, Plot, inks
from lightning_gan3d.report.records import find_runs

NEIGHBOURS = {
    "protocol": "images reduced to 16x16 pixels",
    "data": "f00d",
    "items": [5, 2],
    "training_images": [[1, 3], [0, 2]],
    "distances": [[0.01, 0.2], [0.125, 0.25]],
}


class Data:
    labels = Cameras.orbit(4, 0.2, 3.2, 1.5).to_label()
    resolution = 24
    fingerprint = "f00d"

    def __len__(self):
        return 4

    def images(self, indices):
        return torch.stack([torch.full((3, 24, 24), 60 * i, dtype=torch.uint8) for i in indices])


@pytest.fixture
def sheets(monkeypatch):
    """The rows of each sheet that is drawn."""
    monkeypatch.setattr(module, "NUM_LATENTS", 1)
    drawn = []
    monkeypatch.setattr(module, "sheet", lambda plot, rows: drawn.append(rows) or sheet(plot, rows))
    return drawn


def turntables(tmp_path, kinds, load):
    data = tmp_path / "data"
    data = str(data if data.exists() else write_labels(data))
    for kind in kinds:
        make_run(tmp_path, kind, data=data)
    plots = image_sheets(compare(find_runs([tmp_path])), load)[0]
    return [plot for plot in plots if plot.suffix != "webp"]


def test_all_generators_render_the_same_latents_from_the_same_cameras(tmp_path, sheets):
    balls = {"triplane": Ball(), "image2d": Ball(solid=False)}
    (plot,) = turntables(tmp_path, balls, lambda run: balls[run.representation])
    assert plot.file == "turntable_0.png"
    a, b = (ball.asked[0] for ball in balls.values())
    assert torch.equal(a["z"], b["z"])
    assert torch.equal(a["cameras"].cam2world, b["cameras"].cam2world)
    assert len(a["cameras"].cam2world) == 2 * NUM_VIEWS
    assert a["psi"] == 1.0
    eyes = a["cameras"].origins
    assert eyes.norm(dim=1) == pytest.approx(torch.full((2 * NUM_VIEWS,), 3.2), abs=1e-4)
    assert "image2d: no depth" in plot.caption
    assert "depth from 2." in plot.caption
    azimuths, solid, depth, flat = sheets[0]
    assert azimuths.captions[:3] == ["0°", "45°", "90°"]
    assert (solid.label, depth.label, flat.label) == ("triplane", "", "image2d")
    assert [len(row.tiles) for row in sheets[0]] == [0, NUM_VIEWS, NUM_VIEWS, NUM_VIEWS]


def test_animations_show_all_latents_from_all_cameras():
    torch.manual_seed(0)
    latents = [Images(*[torch.rand(16, 3, 40, 40) * 2 - 1] * 2) for _ in range(2)]
    plot = module.animation("turning_0", "voxel", latents, full=True)
    assert (plot.title, plot.file) == ("voxel", "turning_0.webp")
    with Image.open(io.BytesIO(plot.light)) as film:
        assert (film.n_frames, film.size) == (16, (320, 160))
        film.seek(5)
        shown = np.asarray(film.convert("RGB")).astype(float)
    expected = module.to_array(latents[1].image[5]).repeat(4, 0).repeat(4, 1)
    assert np.abs(shown[:, 160:] - expected).mean() < 30  # lossy
    other = module.to_array(latents[0].image[5]).repeat(4, 0).repeat(4, 1)
    assert np.abs(shown[:, 160:] - other).mean() > 50


@pytest.mark.usefixtures("sheets")
def test_a_generator_that_cannot_be_loaded_states_the_reason(tmp_path):
    def load(run):
        if run.representation == "voxel":
            raise RuntimeError("checksum\ndiffers")
        return Ball()

    (plot,) = turntables(tmp_path, ["triplane", "voxel"], load)
    assert plot.light
    assert "voxel: no images: RuntimeError: checksum differs" in plot.caption
    (plot,), _ = image_sheets(compare(find_runs([tmp_path / "voxel"])), load)
    assert plot.light == b""
    assert "checksum differs" in plot.why


def test_missing_data_leaves_no_cameras_and_a_reason(tmp_path):
    make_run(tmp_path, "voxel", data=str(tmp_path / "gone.zip"))
    (plot,), _ = image_sheets(compare(find_runs([tmp_path])), lambda _: Ball())
    assert plot.light == b""
    assert "no cameras: cannot read the data of voxel/0000022e-s0" in plot.why
    assert "gone.zip" in plot.why


@pytest.mark.usefixtures("sheets")
def test_the_first_finished_seed_represents_its_group_and_is_loaded_once(tmp_path):
    data = str(write_labels(tmp_path / "data"))
    make_run(tmp_path, "voxel", 0, finished=False, data=data)
    path = make_run(tmp_path, "voxel", 1, data=data)
    (path / "neighbours.json").write_text(json.dumps(NEIGHBOURS))
    loaded = []

    def load(run):
        loaded.append(run.seed)
        return Ball()

    turntable, neighbours = image_sheets(
        compare(find_runs([tmp_path])), load, lambda _: (Data(), Data.labels)
    )
    assert turntable[0].light
    assert neighbours[0].light
    assert loaded == [1]


def test_damaged_configurations_leave_a_reason(tmp_path):
    path = make_run(tmp_path, "voxel")
    (path / "config.yaml").write_text("name: voxel\nseed: 0\ndata: 3\n")
    (plot,), _ = image_sheets(compare(find_runs([tmp_path])), lambda _: Ball())
    assert "no cameras" in plot.why


@pytest.fixture
def with_neighbours(tmp_path):
    path = make_run(tmp_path, "triplane")
    (path / "neighbours.json").write_text(json.dumps(NEIGHBOURS))
    make_run(tmp_path, "voxel")  # memorisation was not measured
    return compare(find_runs([tmp_path]))


def test_samples_are_beside_the_training_images_that_the_file_names(with_neighbours, sheets):
    _, (plot,) = image_sheets(with_neighbours, lambda _: Ball(), lambda _: (Data(), Data.labels))
    assert plot.light
    assert plot.title.endswith(": triplane")
    assert "16x16" in plot.caption
    first, second = sheets[-1]
    assert first.captions == ["sample 5", "0.01", "0.2"]
    assert [int(p.mean()) for p in first.tiles[1:]] == [60, 180]
    assert [int(p.mean()) for p in second.tiles[1:]] == [0, 120]
    source, items = GeneratorSource(Ball(), 4, Data.labels), torch.tensor([5])
    expected = to_uint8(source.views(items, source.base(items)).image)[0].permute(1, 2, 0)
    assert (first.tiles[0] == expected.numpy()).all()


def test_neighbours_of_other_data_or_without_data_state_the_reason(with_neighbours):
    other = Data()
    other.fingerprint = "beef"
    _, (plot,) = image_sheets(with_neighbours, lambda _: Ball(), lambda _: (other, other.labels))
    assert plot.light == b""
    assert "the data is beef, but was f00d when measured" in plot.why
    _, (plot,) = image_sheets(with_neighbours, lambda _: Ball())
    assert "no images" in plot.why


@pytest.mark.parametrize(("source", "side"), [(32, 160), (64, 128), (96, 192), (512, 160)])
def test_a_sheet_keeps_its_pixels_and_follows_the_page(source, side):
    ink = inks(["voxel"])["voxel"]
    tiles = [np.full((source, source, 3), 40 * i, np.uint8) for i in (1, 2)]
    plot = sheet(Plot("x", "title"), [Row("voxel", ink, tiles), Row(captions=["a"])])
    for theme, content in ((LIGHT, plot.light), (DARK, plot.dark)):
        picture = np.asarray(Image.open(io.BytesIO(content)))
        step = side + side // 12
        assert picture.shape == (32 + step + 32, 2 * step, 3)
        assert (picture[32 : 32 + side, :side] == 40).all()
        assert (picture[32 : 32 + side, step : step + side] == 80).all()
        page = tuple(int(theme.page[i : i + 2], 16) for i in (1, 3, 5))
        assert tuple(picture[-1, -1]) == page
        colour = [int(ink.on(theme)[i : i + 2], 16) for i in (1, 3, 5)]
        assert (picture[:32] == colour).all(axis=-1).any()
