import sys
from pathlib import Path

import pytest
import torch
from kinds import KINDS

from lightning_gan3d.checkpoints.stored_networks import save_generator
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.generator import Generator
from lightning_gan3d.inference.config import RenderOptions
from lightning_gan3d.inference.model import open_model

sys.path.insert(0, str(Path(__file__).parent.parent / "report"))

from fabricated_runs import write_labels  # after its folder is known


@pytest.fixture(scope="session")
def labels(tmp_path_factory):
    """The folder of a data set's labels, without images."""
    return write_labels(tmp_path_factory.mktemp("labels") / "data")


@pytest.fixture(scope="session")
def exports(tmp_path_factory, labels):
    """Exported tiny generators of 32 pixels with random weights, by kind."""
    folder = tmp_path_factory.mktemp("exports")
    paths = {}
    for kind in KINDS:
        overrides = [f"data.path={labels}", "data.resolution=32"]
        config = load_experiment(f"demo/{kind}", overrides)
        torch.manual_seed(0)
        generator = Generator(config.generator, 32)
        paths[kind] = save_generator(folder / kind, generator, config)
    return paths


@pytest.fixture(scope="session")
def models(exports):
    """The same, opened on the CPU."""
    options = RenderOptions(device="cpu")
    return {kind: open_model(path, options) for kind, path in exports.items()}
