import json

import torch
from torch import nn

from lightning_gan3d.metrics.conditions import weights_hash, write_conditions


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


def test_conditions_are_written_whole(tmp_path):
    write_conditions(tmp_path, {"seed": 0})
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text()) == {"seed": 0}
