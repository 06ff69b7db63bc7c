import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lightning_gan3d import config as cfg
from lightning_gan3d.cameras import Cameras
from lightning_gan3d.checkpoints import store, stored_networks
from lightning_gan3d.checkpoints.load import load_discriminator, load_generator
from lightning_gan3d.checkpoints.store import CheckpointError
from lightning_gan3d.checkpoints.stored_networks import save_generator
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.generator import Generator
from lightning_gan3d.networks.discriminator import Discriminator

TINY = """
name: tiny
data: {path: none.zip}
generator:
  z_dim: 8
  w_dim: 8
  mapping: {condition: none}
  scene: {box: 2.0, feature_dim: 3, decoder: {hidden_dim: 8}}
  representation: {kind: triplane, resolution: 16, channels: 4, synthesis: {channels: [8, 8, 8]}}
  renderer: {kind: volume, samples_coarse: 4, samples_fine: 0}
discriminator: {channels: [8, 8, 8], mapping_layers: 1}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "tiny.yaml"
    file.write_text(TINY)
    return load_experiment(file)


@pytest.fixture(scope="module")
def generator(config):
    torch.manual_seed(0)
    generator = Generator(config.generator, 16).eval()
    generator.mapping.w_avg.normal_()
    generator.rendering_resolution = 12  # as a schedule may leave it
    return generator


@pytest.fixture
def exported(tmp_path, generator, config):
    return save_generator(tmp_path / "my export", generator, config)


@pytest.fixture
def run(tmp_path, generator, config):
    """A run directory with two checkpoints; the newer one holds other raw weights."""
    torch.manual_seed(1)
    raw, discriminator = Generator(config.generator, 16), Discriminator(config.discriminator, 16)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(cfg.to_yaml(config))

    def write(directory):
        save_generator(directory, generator, config)
        stored_networks.save_network(directory, "generator_raw", raw.state_dict(), 16, 16)
        stored_networks.save_network(directory, "discriminator", discriminator.state_dict(), 16, 16)

    for step in (1, 2):
        store.save(folder / "checkpoints", step, write, {}, 2)
    return folder, raw, discriminator


def picture(generator):
    cameras = Cameras.orbit(2, 0.3, 3.0, 1.5)
    with torch.no_grad():
        return generator(torch.ones(2, 8), cameras.to_label(), truncation_psi=0.5)


def test_an_exported_generator_renders_the_same(exported, generator):
    loaded = load_generator(exported)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    for a, b in zip(picture(loaded)[:4], picture(generator)[:4], strict=True):
        assert torch.equal(a, b)
    assert picture(loaded).image_raw.shape[-1] == 12
    assert sorted(p.name for p in exported.iterdir()) == ["config.yaml", "generator.safetensors"]


def test_run_checkpoint_export_and_file_load_alike(run, exported, generator):
    folder, raw, discriminator = run
    newest = folder / "checkpoints" / store.name_of(2)
    for path in (folder, str(newest), exported, exported / "generator.safetensors"):
        assert torch.equal(picture(load_generator(path)).image, picture(generator).image)
    assert torch.equal(picture(load_generator(folder, which="G")).image, picture(raw.eval()).image)
    loaded = load_discriminator(folder).state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in discriminator.state_dict().items())


def test_a_run_skips_a_damaged_checkpoint_and_a_named_one_is_rejected(run, generator):
    folder = run[0]
    newest = folder / "checkpoints" / store.name_of(2)
    (newest / "generator.safetensors").write_bytes(b"damaged")
    assert torch.equal(picture(load_generator(folder)).image, picture(generator).image)
    with pytest.raises(CheckpointError, match="checksum differs"):
        load_generator(newest)
    shutil.rmtree(folder / "checkpoints" / store.name_of(1))
    with pytest.raises(CheckpointError, match=r"all 1 checkpoint.* damaged .*checksum differs"):
        load_generator(folder)


def test_tensors_that_do_not_fit_are_named(exported, config):
    file = exported / "generator.safetensors"
    tensors, about = stored_networks.read_tensors(file)
    name = "mapping.fc0.weight"
    for change, message in (
        ({name: tensors[name][:2]}, rf"{name} is \(2, 8\), not \(8, 8\)"),
        ({"extra": torch.zeros(1)}, "extra is not part of the network"),
    ):
        save_file({**tensors, **change}, file, metadata=about)
        with pytest.raises(CheckpointError, match=message):
            load_generator(exported)
    save_file({k: v for k, v in tensors.items() if k != name}, file, metadata=about)
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_generator(exported)
    changed = config.generator.w_dim + 1
    (exported / "config.yaml").write_text(
        cfg.to_yaml(config).replace("w_dim: 8", f"w_dim: {changed}")
    )
    save_file(tensors, file, metadata=about)
    with pytest.raises(CheckpointError, match=r"does not fit its configuration: .* and \d+ more"):
        load_generator(exported)


class Bomb:
    def __reduce__(self):
        return print, ("boom",)


def test_foreign_and_hostile_files_are_rejected_without_running(exported, capsys):
    file = exported / "generator.safetensors"
    tensors = load_file(file)
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match="not written by lightning_gan3d"):
        load_generator(exported)
    save_file(tensors, file, metadata={"format": "lightning_gan3d", "schema": "3"})
    with pytest.raises(CheckpointError, match="written by schema 3"):
        load_generator(exported)
    file.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_generator(exported)
    assert "boom" not in capsys.readouterr().out


def test_paths_without_networks_are_named(tmp_path, exported):
    with pytest.raises(CheckpointError, match="no such folder"):
        load_generator(tmp_path / "nowhere")
    with pytest.raises(
        CheckpointError, match=r"holds no discriminator\.safetensors \(D\); it holds generator"
    ):
        load_discriminator(exported)
    (exported / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"config\.yaml is missing"):
        load_generator(exported)


def test_equal_tensors_are_equal_files(tmp_path):
    tensors = {"ü": torch.ones(2), "a": torch.zeros(3)}
    contents = set()
    for _ in range(6):  # the metadata has 24 orders
        stored_networks.save_network(tmp_path, "generator", tensors, 32, 16)
        contents.add((tmp_path / "generator.safetensors").read_bytes())
    assert len(contents) == 1
    read, about = stored_networks.read_tensors(tmp_path / "generator.safetensors")
    assert torch.equal(read["ü"], torch.ones(2))
    assert about["rendering_resolution"] == "16"
