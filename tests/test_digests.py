"""The digest of a network's weights names its evaluation."""

import torch
from torch import nn

from lightning_gan3d.files import sha256_of_tensors


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def digest(module):
    return sha256_of_tensors(module.state_dict())


def test_the_digest_is_that_of_weights_and_buffers():
    assert digest(network()) == digest(network())
    assert len(digest(network())) == 64
    assert digest(network(1)) != digest(network())
    buffered = network()
    buffered[1].running_mean[0] = 5.0
    assert digest(buffered) != digest(network())


def test_the_digest_depends_on_types_and_names():
    assert digest(network().bfloat16()) != digest(network())
    assert digest(nn.Sequential(*network(), nn.ReLU())) == digest(network())
    assert digest(nn.ModuleDict({"a": network()})) != digest(network())
