"""Where mixed precision must not reach: cameras, points, and the phases of sines."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Compute in the tensors' own precision, whatever surrounds the call.

    `meta`, on which sizes and operations are counted and nothing is computed, knows no autocast.
    """
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
