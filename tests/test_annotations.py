"""The test suite checks annotated types and shapes (conftest.py)."""

import jaxtyping
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras, Orbit
from lightning_gan3d.contract import SceneConfig


@pytest.mark.parametrize(
    "call",
    [
        lambda: Cameras.look_at(torch.zeros(2, 4)),  # a size
        lambda: Cameras.from_label(torch.zeros(2, 25, dtype=torch.int64)),  # a dtype
        lambda: Cameras.on_sphere(torch.zeros(3), torch.zeros(2), 1.0),  # two sizes that differ
        lambda: Orbit.around_box("1"),  # a type
        lambda: SceneConfig(box="1"),  # a field of a dataclass
    ],
)
def test_wrong_arguments_are_rejected(call):
    with pytest.raises(BeartypeCallHintViolation):
        call()


def test_a_wrong_result_is_rejected():
    def halves(x: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
        return torch.cat([x, x])

    with pytest.raises(BeartypeCallHintViolation):
        jaxtyping.jaxtyped(typechecker=None)(halves)(torch.zeros(3, 2))


def test_sizes_are_bound_for_one_call():
    for n in (2, 3):
        assert Cameras.on_sphere(torch.zeros(n), torch.zeros(n), 1.0).cam2world.shape[0] == n
