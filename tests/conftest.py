"""Every test checks every annotated shape: jaxtyping's import hook with beartype, before our packages are imported."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

install_import_hook(["lightning_gan3d", "representations", "renderers"], "beartype.beartype")

import torch

torch.set_num_threads(1)
