import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from kinds import KINDS
from PIL import Image

from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.inference.config import EditOptions, GenerateOptions, RenderOptions
from lightning_gan3d.inference.directions import read, save
from lightning_gan3d.inference.edit import (
    FILE,
    closed_form,
    edit,
    find_directions,
    first_styles,
    linear_fit,
    principal_components,
)
from lightning_gan3d.inference.generate import generate
from lightning_gan3d.inference.model import Subject, open_model
from lightning_gan3d.inference.styles import style_levels

CPU = {"device": "cpu", "samples_w": 200}


def test_principal_components_of_known_data():
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q
    scales = torch.linspace(4, 0.1, 16)
    w = 3 + (torch.randn(4000, 16, generator=generator) * scales) @ axes.mT
    found = principal_components(w, 3)
    cosine = (found @ axes[:, :3]).abs()
    assert torch.allclose(cosine, torch.eye(3), atol=0.2)
    assert bool((cosine.diagonal() > 0.97).all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["pca", "sefa"])
def test_strengths_are_standard_deviations(models, kind, method):
    model = models[kind]
    directions, _ = find_directions(model, EditOptions(method=method, components=3, **CPU))
    assert list(directions) == [f"{'pc' if method == 'pca' else 'sefa'}{i}" for i in (1, 2, 3)]
    w = first_styles(model, range(200))
    for direction in directions.values():
        assert direction.shape == (model.generator.representation.num_ws, 64)
        unit = direction[0] / direction[0].norm()
        assert float((w @ unit).std()) == pytest.approx(float(direction[0].norm()), rel=1e-4)


def test_closed_form_directions_change_the_styles_of_layers_most(models):
    """No random direction changes the normalised affine outputs more than the first."""
    model = models["triplane"]
    first = closed_form(model, 1)[0]
    weights = [
        m.affine.weight for m in model.generator.representation.modules() if hasattr(m, "affine")
    ]
    weights = [w / w.norm(dim=1, keepdim=True) for w in weights]

    def change(direction):
        return sum(float((w @ (direction / direction.norm())).square().sum()) for w in weights)

    torch.manual_seed(1)
    assert change(first) > max(change(d) for d in torch.randn(200, 64))


def test_a_range_leaves_other_styles(models):
    model = models["triplane"]
    directions, _ = find_directions(model, EditOptions(components=1, range="8-16", **CPU))
    changed = (directions["pc1"] != 0).any(dim=1)
    levels = style_levels(model.generator.representation)
    assert changed.tolist() == [level in (8, 16) for level in levels]


def test_an_attribute_that_is_linear_is_recovered_and_noise_is_not():
    torch.manual_seed(0)
    w, gradient = torch.randn(300, 8) * torch.linspace(0.5, 2, 8), torch.randn(8)
    found, r2 = linear_fit(w, w @ gradient + 2)
    assert float(torch.cosine_similarity(found, gradient, dim=0)) > 0.98
    assert r2 > 0.97
    assert abs(linear_fit(w, torch.randn(300))[1]) < 0.15
    with pytest.raises(ConfigError, match="the same value in all images"):
        linear_fit(w, torch.ones(300))


def hue(image):
    return {"red": float(image[:, 0].mean() - image[:, 1:].mean())}


def test_a_regressor_finds_a_direction_that_moves_its_attribute(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "own", SimpleNamespace(hue=hue))
    model = models["triplane"]
    options = EditOptions(method="labels", regressor="own:hue", **CPU)
    directions, (note,) = find_directions(model, options)
    assert float(note.partition("R² ")[2].split()[0]) > 0.1
    camera = model.orbit.cameras(1)
    values = []
    for strength in (-2.0, 0.0, 2.0):
        own = replace(model, edits=strength * directions["red"])
        styles = [own.styles(own.latent(seed)) for seed in (300, 301)]
        views = [Subject(own, s).render(camera) for s in styles]
        values.append(sum(hue(v.image)["red"] for v in views))
    assert values[0] < values[1] < values[2]


def test_labels_from_a_csv(models, tmp_path):
    model = models["voxel"]
    w = first_styles(model, range(40))
    rows = [f"{seed},{float(row[3]):.6f}" for seed, row in enumerate(w)]
    (tmp_path / "a.csv").write_text("seed,third\n" + "\n".join(rows), encoding="utf-8-sig")
    options = EditOptions(method="labels", csv=str(tmp_path / "a.csv"), **CPU)
    directions, _ = find_directions(model, options)
    assert list(directions) == ["third"]
    for text in (
        "",
        "seed\n1",
        "x,y\n1,2",
        "seed,a\n1,b",
        "seed,a\n1,2",
        "seed,a\n" + "1,nan\n" * 20,
    ):
        (tmp_path / "b.csv").write_text(text)
        with pytest.raises(ConfigError, match=r"csv=.*b\.csv: "):
            find_directions(model, EditOptions(method="labels", csv=str(tmp_path / "b.csv"), **CPU))
    with pytest.raises(ConfigError, match=r"regressor=no:f: use package\.module:function"):
        find_directions(model, EditOptions(method="labels", regressor="no:f", **CPU))


def test_the_command_writes_directions_that_other_commands_apply(exports, tmp_path):
    run = str(exports["triplane"])
    text = edit(run, EditOptions(components=2, **CPU), tmp_path)
    file = tmp_path / FILE
    assert f"apply with --edits {file}:pc1=2" in text
    assert (tmp_path / "directions.png").is_file()
    directions = read(file)
    assert list(directions) == ["pc1", "pc2"]
    model = open_model(run, RenderOptions(device="cpu", edits=f"{file}:pc1=2,pc2=-1"))
    plain = open_model(run, RenderOptions(device="cpu"))
    expected = (
        plain.styles(plain.latent(0))(plain.label) + 2 * directions["pc1"] - directions["pc2"]
    )
    assert torch.allclose(model.styles(model.latent(0))(model.label), expected)
    options = GenerateOptions(seeds="0", views=1, device="cpu", edits=f"{file}:pc1=3")
    generate([run], options, tmp_path / "edited")
    generate([run], GenerateOptions(seeds="0", views=1, device="cpu"), tmp_path / "plain")
    images = [
        np.asarray(Image.open(tmp_path / name / "seed0000_view00.png")).astype(int)
        for name in ("edited", "plain")
    ]
    assert np.abs(images[0] - images[1]).max() > 4


def test_unknown_edits_are_rejected(exports, tmp_path):
    file, run = tmp_path / FILE, exports["triplane"]
    save(file, {"pc1": torch.zeros(8, 64)})
    for text, message in (
        (f"{file}:pc9=1", "pc9; use any of pc1"),
        (f"{file}:pc1=x", "use FILE:NAME=STRENGTH"),
        (f"{file.name}", "use FILE:NAME=STRENGTH"),
        (f"{tmp_path / 'none'}:pc1=1", "not a file of directions"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_model(run, RenderOptions(device="cpu", edits=text))
    with pytest.raises(ConfigError, match=r"made for another generator: \(8, 64\), not \(4, 64\)"):
        open_model(exports["nerf_mlp"], RenderOptions(device="cpu", edits=f"{file}:pc1=1"))
    for tree in (
        {"method": "labels"},
        {"csv": "a"},
        {"method": "labels", "csv": "a", "regressor": "b"},
    ):
        with pytest.raises(ConfigError, match="needs either csv or regressor"):
            build(EditOptions, tree)
