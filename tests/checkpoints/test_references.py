import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lightning_gan3d.cameras import Cameras, Orbit
from lightning_gan3d.checkpoints import store
from lightning_gan3d.checkpoints.load import (
    export_generator,
    load_generator,
    orbit_of,
    read_networks,
)
from lightning_gan3d.checkpoints.references import name_of, resolve
from lightning_gan3d.checkpoints.store import CheckpointError
from lightning_gan3d.checkpoints.stored_networks import save_generator
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.generator import Generator


@pytest.fixture
def generator(tmp_path):
    """A tiny generator in a folder, without the data set that its configuration names."""
    config = load_experiment("demo/voxel", ["data.path=/none", "data.resolution=32"])
    torch.manual_seed(0)
    network = Generator(config.generator, 32).eval()
    return network, save_generator(tmp_path / "run", network, config)


def test_paths_stay_as_they_are():
    assert resolve("runs/a").as_posix() == "runs/a"


def test_latest_is_the_run_that_was_started_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("b-s1", "a-s0", "c-s2")):
        config = Path("runs/voxel", name, "config.yaml")
        config.parent.mkdir(parents=True)
        config.touch()
        os.utime(config, (100 * (i % 2), 100 * (i % 2)))
    assert resolve("voxel/latest") == Path("runs/voxel/a-s0")
    assert resolve("runs/voxel/latest") == Path("runs/voxel/a-s0")
    assert name_of("voxel/latest") == "voxel"
    with pytest.raises(CheckpointError, match="no run in triplane or runs/triplane"):
        resolve("triplane/latest")
    assert name_of("runs/a b") == "a-b"


def test_an_unknown_pretrained_generator_is_rejected():
    with pytest.raises(CheckpointError, match=r"pretrained:cat: use one of"):
        load_generator("pretrained:cat")


def test_an_export_renders_the_same_and_keeps_its_cameras(generator, tmp_path, monkeypatch):
    network, folder = generator
    cameras = Cameras.orbit(90, 0.25, 3.1, 1.6)
    with pytest.raises(CheckpointError, match=r"circle around the box .* export where data\.path"):
        export_generator(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(
        "lightning_gan3d.checkpoints.load.read_orbit",
        lambda _: Orbit.of_labels(cameras.to_label()),
    )
    out = export_generator(folder, tmp_path / "out")
    monkeypatch.undo()
    store.verify(out)
    text = (out / "config.yaml").read_text()
    assert "/none" not in text  # no path of the machine it was trained on
    exported = load_generator(out)
    z, label = torch.randn(2, 64), cameras.to_label()[:2]
    with torch.no_grad():
        assert torch.equal(exported(z, label).image, network(z, label).image)
    orbit, source = orbit_of(read_networks(out, ["generator"]))
    assert source == "cameras of none"
    assert orbit.full
    assert (orbit.radius, orbit.elevation) == pytest.approx((3.1, 0.25), abs=1e-4)
    assert float(orbit.intrinsics[0, 0]) == pytest.approx(1.6)
    with pytest.raises(CheckpointError, match="exists: give another folder"):
        export_generator(folder, out)


@pytest.fixture
def hub(monkeypatch, generator, tmp_path):
    """A stand-in of huggingface_hub: returns local folders, and logs what was asked for."""
    _, folder = generator
    asked = []

    def snapshot_download(repository, revision, allow_patterns):
        asked.append((repository, revision, allow_patterns))
        if repository == "org/missing":
            raise OSError("404 Client Error\nRequest ID: 1")
        return str(folder.parent if "/" in allow_patterns[0] else folder)

    def hf_hub_download(repository, file, revision):
        asked.append((repository, revision, file))
        return str(tmp_path / file)

    module = SimpleNamespace(snapshot_download=snapshot_download, hf_hub_download=hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return asked


def test_generators_on_the_hub(hub, generator, tmp_path):
    network, _ = generator
    for reference in ("hf://org/name", "hf:/org/name@v1.0", "hf://org/name/run@main"):
        assert torch.equal(load_generator(reference).mapping.w_avg, network.mapping.w_avg)
    assert [entry[:2] for entry in hub] == [
        ("org/name", None), ("org/name", "v1.0"), ("org/name", "main"),
    ]  # fmt: skip
    assert hub[0][2] == ["*.safetensors", "*.yaml", "*.json"]  # nothing that holds code
    assert hub[2][2] == ["run/*.safetensors", "run/*.yaml", "run/*.json"]
    assert resolve("hf://org/name/ffhq.pkl") == tmp_path / "ffhq.pkl"


@pytest.mark.usefixtures("hub")
def test_errors_of_the_hub_are_one_line(monkeypatch):
    with pytest.raises(
        CheckpointError, match=r"hf://org/missing: cannot be downloaded: 404 Client Error$"
    ):
        load_generator("hf://org/missing")
    for reference in ("hf://org", "hf://", "hf://org/name@", "hf://a b/c"):
        with pytest.raises(CheckpointError, match="use hf://org/name"):
            load_generator(reference)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="huggingface_hub is missing; pip install"):
        load_generator("hf://org/name")
