"""Mixed precision by parts: convolutions in bfloat16, cameras, points and compositing never."""

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn


def run_in_bf16(module: nn.Module) -> None:
    """Make a module's forward multiply in bfloat16 and return float32.

    By parts, for autocast over the whole generator would also round the camera matrices, and so the
    rays, to eight bits.
    """
    inner = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        device = next(module.parameters(), torch.empty(0)).device
        with torch.autocast(device.type, torch.bfloat16):
            result = inner(*args, **kwargs)
        return pytree.tree_map_only(Tensor, Tensor.float, result)

    module.forward = forward  # type: ignore[method-assign]  # this instance alone
