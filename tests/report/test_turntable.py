import pytest
import torch
from fabricated_runs import Ball, make_run, write_labels

from lightning_gan3d.report.groups import compare
from lightning_gan3d.report.plots import view_sheet
from lightning_gan3d.report.records import find_runs


@pytest.fixture
def one_latent(monkeypatch):
    monkeypatch.setattr(view_sheet, "NUM_LATENTS", 1)


def make(tmp_path, kinds, load):
    data = tmp_path / "data"
    data = str(data if data.exists() else write_labels(data))
    for kind in kinds:
        make_run(tmp_path, kind, data=data)
    return view_sheet.turntables(compare(find_runs([tmp_path])), load)


@pytest.mark.usefixtures("one_latent")
def test_all_see_the_same_numbers_from_the_same_cameras(tmp_path):
    balls = {"triplane": Ball(), "image2d": Ball(solid=False)}
    (plot,) = make(tmp_path, balls, lambda run: balls[run.representation])
    assert set(plot.files) == {"png", "svg", "dark"}
    a, b = (ball.asked[0] for ball in balls.values())
    assert torch.equal(a["z"], b["z"])
    assert torch.equal(a["cameras"].cam2world, b["cameras"].cam2world)
    assert len(a["cameras"].cam2world) == view_sheet.NUM_VIEWS
    assert a["psi"] == 1.0
    eyes = a["cameras"].origins
    assert eyes.norm(dim=1) == pytest.approx(torch.full((view_sheet.NUM_VIEWS,), 3.2), abs=1e-4)
    assert "image2d: no depth" in plot.caption
    assert "Depth below each row, bright at 2." in plot.caption


@pytest.mark.usefixtures("one_latent")
def test_a_generator_that_cannot_be_loaded_leaves_a_reason(tmp_path):
    def load(run):
        if run.representation == "voxel":
            raise RuntimeError("checksum\ndiffers")
        return Ball()

    (plot,) = make(tmp_path, ["triplane", "voxel"], load)
    assert plot.files
    assert "voxel: no images: RuntimeError: checksum differs" in plot.caption
    (plot,) = view_sheet.turntables(compare(find_runs([tmp_path / "voxel"])), lambda run: load(run))
    assert plot.files == {}
    assert "checksum differs" in plot.why


def test_without_the_data_there_are_no_cameras_and_it_says_so(tmp_path):
    make_run(tmp_path, "voxel", data=str(tmp_path / "gone.zip"))
    (plot,) = view_sheet.turntables(compare(find_runs([tmp_path])), lambda _: Ball())
    assert plot.files == {}
    assert "no cameras: the data of voxel/0000022e-s0 cannot be read" in plot.why
    assert "gone.zip" in plot.why


@pytest.mark.usefixtures("one_latent")
def test_the_first_finished_seed_stands_for_its_group(tmp_path):
    data = str(write_labels(tmp_path / "data"))
    make_run(tmp_path, "voxel", 0, finished=False, data=data)
    make_run(tmp_path, "voxel", 1, data=data)
    loaded = []

    def load(run):
        loaded.append(run.seed)
        return Ball()

    view_sheet.turntables(compare(find_runs([tmp_path])), load)
    assert loaded == [1]


def test_damaged_configurations_do_not_break_it(tmp_path):
    path = make_run(tmp_path, "voxel")
    (path / "config.yaml").write_text("name: voxel\nseed: 0\ndata: 3\n")
    (plot,) = view_sheet.turntables(compare(find_runs([tmp_path])), lambda _: Ball())
    assert "no cameras" in plot.why
