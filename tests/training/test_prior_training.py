"""Training 3D generators on images without cameras, with a camera prior."""

import json
import zipfile

import pytest
from test_fit import tensors

from lightning_gan3d.cameras import LABEL_DIM, Cameras, spherical
from lightning_gan3d.checkpoints import store
from lightning_gan3d.checkpoints.load import (
    export_generator,
    load_generator,
    orbit_of,
    read_networks,
)
from lightning_gan3d.config import ConfigError
from lightning_gan3d.inference.config import GenerateOptions
from lightning_gan3d.inference.generate import generate
from lightning_gan3d.metrics.evaluate_target import evaluate_run
from lightning_gan3d.training.module import make_modules

UNPOSED = [
    *("data.labels=none", "cameras.kind=prior", "cameras.preset=full_turn"),
    *("discriminator.conditioning=none", "discriminator.unconditional_term=false"),
]


@pytest.fixture
def plain(data_path, tmp_path):
    """A folder of images alone."""
    folder = tmp_path / "plain"
    with zipfile.ZipFile(data_path) as file:
        for name in [n for n in file.namelist() if n.endswith(".png")]:
            file.extract(name, folder)
    return folder


def test_a_3d_generator_trains_and_is_measured_without_cameras(tiny, start, plain, tmp_path):
    small = ["consistency.flicker=null", "swd.patches=4", "swd.projections=4", "num_images=8"]
    small = ["training.kimg=0.016", *(f"evaluation.{x}" for x in small)]
    config = tiny(f"data.path={plain}", *UNPOSED, *small, "generator.mapping.condition=camera")
    code, path, _ = start(config)
    assert code == 0
    weights = tensors(store.newest(path / "checkpoints", print))
    assert all(bool(x.isfinite().all()) for x in weights.values())
    metrics = {m.name: m for m in evaluate_run(path, "cpu").metrics}
    assert "cameras of the prior" in metrics["quality.swd"].note
    assert metrics["refit.psnr"].value is not None
    assert metrics["pose.median_deg"].note.startswith(
        "the data are used without cameras (data.labels=none); if"
    )
    orbit, source = orbit_of(read_networks(path, ["generator"]))
    assert source == "cameras of the prior"
    assert orbit.full
    export_generator(path, tmp_path / "export")
    assert load_generator(tmp_path / "export").cfg.mapping.condition == "camera"
    generate([str(path)], GenerateOptions(seeds="0", views=1, device="cpu"), tmp_path / "images")
    assert (tmp_path / "images" / "seed0000_view00.png").is_file()


def test_fakes_are_seen_from_the_prior_alone(tiny):
    narrow = ["cameras.kind=prior", "cameras.preset=faces", "cameras.azimuth.kind=uniform"]
    narrow += ["cameras.azimuth.low=0.2", "cameras.azimuth.high=0.3"]
    for loss in ("nonsaturating", "relativistic"):
        config = tiny(*narrow, *UNPOSED[3:], f"loss.adversarial={loss}")
        module, data = make_modules(config)
        batch = next(iter(data.train_dataloader()))
        label = module.fake_labels(module.split(batch)[0])
        azimuth = spherical(Cameras.from_label(label[:, :LABEL_DIM]).origins).azimuth
        assert len(label) == len(batch.labels)
        assert bool(((azimuth >= 0.2) & (azimuth <= 0.3)).all())
        assert len(azimuth.unique()) > 1


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        (
            "cameras.kind=dataset cameras.preset=none",
            "set cameras.kind=prior, or generator.representation",
        ),
        ("discriminator.conditioning=projection", "set discriminator.conditioning=none"),
        ("generator.mapping.condition=class", "set generator.mapping.condition=none"),
    ],
)
def test_options_that_need_cameras_of_images_are_rejected(tiny, start, plain, wrong, remedy):
    with pytest.raises(ConfigError, match=remedy):
        start(tiny(f"data.path={plain}", *UNPOSED, *wrong.split()))


def test_pairs_of_two_cameras_need_an_unconditional_discriminator(tiny, start):
    options = ["cameras.kind=prior", "cameras.preset=faces", "loss.adversarial=relativistic"]
    with pytest.raises(ConfigError, match="a pair has two cameras"):
        start(tiny(*options))


def test_the_cameras_of_the_data_do_not_change_the_hash(tiny, monkeypatch):
    monkeypatch.setattr("lightning_gan3d.config.digest", json.dumps)
    assert "cameras" not in json.loads(tiny().hash)
    assert json.loads(tiny(*UNPOSED).hash)["cameras"]["preset"] == "full_turn"
