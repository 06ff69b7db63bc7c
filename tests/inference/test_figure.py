import numpy as np
import pytest
from PIL import Image

from lightning_gan3d.config import ConfigError
from lightning_gan3d.inference.config import FigureOptions
from lightning_gan3d.inference.figure import figure
from lightning_gan3d.inference.model import Subject, open_model
from lightning_gan3d.inference.pictures import to_array

RUNS = ["pretrained:voxel", "pretrained:image2d"]


def test_a_figure_has_a_row_per_generator_and_output_and_a_column_per_seed(tmp_path):
    options = FigureOptions(
        seeds="3,1", outputs="image,depth", labels="Grid,2D", width=2.0, dpi=100
    )
    file = figure(RUNS, options, tmp_path / "new" / "samples.png")
    with Image.open(file) as opened:
        page = np.asarray(opened.convert("RGB"))
    assert page.shape[1] == 200
    side = (200 - 25.5) / 2.02
    assert page.shape[0] == pytest.approx(3 * side * 1.02, abs=3)  # the 2D baseline has no depth

    model = open_model(RUNS[0], FigureOptions())
    shown = to_array(
        Subject(model, model.styles_of(1, options)).render(model.orbit.cameras(1)).image[0]
    )
    left, right = round(25.5 + side * 1.02), 200
    cell = Image.fromarray(page[: round(side), left:right])
    expected = np.asarray(Image.fromarray(shown).resize(cell.size, Image.Resampling.NEAREST))
    assert np.abs(np.asarray(cell).astype(float) - expected).mean() < 8


def test_vector_files_and_bad_input(tmp_path):
    assert figure(RUNS[:1], FigureOptions(seeds="0"), tmp_path / "a.pdf") == str(tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(ConfigError, match=r"name a \.pdf, \.png or \.svg file"):
        figure(RUNS[:1], FigureOptions(seeds="0"), tmp_path / "a")
    with pytest.raises(ConfigError, match="2 generators need as many names"):
        figure(RUNS, FigureOptions(labels="a"))
    with pytest.raises(ConfigError, match="seeds=0-64: 65 seeds; use 64 or fewer"):
        figure(RUNS[:1], FigureOptions(seeds="0-64"), tmp_path / "b.pdf")
    assert [p.name for p in tmp_path.iterdir()] == ["a.pdf"]
