import json

import torch
from torch import nn

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.experiment import load_experiment, make_networks
from lightning_gan3d.metrics.conditions import precision_of, weights_hash, write_conditions


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_the_hash_is_that_of_weights_and_buffers():
    assert weights_hash(network()) == weights_hash(network())
    assert len(weights_hash(network())) == 64
    assert weights_hash(network(1)) != weights_hash(network())
    buffered = network()
    buffered[1].running_mean[0] = 5.0
    assert weights_hash(buffered) != weights_hash(network())


def test_the_hash_sees_types_and_names():
    assert weights_hash(network().bfloat16()) != weights_hash(network())
    assert weights_hash(nn.Sequential(*network(), nn.ReLU())) == weights_hash(network())
    assert weights_hash(nn.ModuleDict({"a": network()})) != weights_hash(network())


def test_the_precision_tells_of_stored_scenes_and_of_the_code_that_marched_the_rays():
    """Scenes of several views in 16 bits mean other numbers for consistency than for FID."""
    words = []
    for bits in ("fp32", "bf16"):
        config = load_experiment("demo/triplane", [f"generator.renderer.cache_precision={bits}"])
        generator, _ = make_networks(config, 32)
        words.append(precision_of(generator))
        assert ", rays by" not in words[-1]
        label = Cameras.orbit(2).to_label()
        with torch.no_grad():
            generator(torch.zeros(2, generator.cfg.z_dim), label)
        assert f", rays by {generator.renderer.path_taken}" in precision_of(generator)
    assert words == [
        "weights float32, rendering fp32",
        "weights float32, rendering fp32, scenes of several views bf16",
    ]


def test_conditions_are_written_whole(tmp_path):
    write_conditions(tmp_path, {"seed": 0})
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text()) == {"seed": 0}
