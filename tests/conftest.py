"""Every test checks every annotated shape: jaxtyping's import hook with beartype.

The hook is installed before our packages are imported, hence the imports below code.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook  # threads first

install_import_hook(["lightning_gan3d", "representations", "renderers"], "beartype.beartype")

import torch  # noqa: E402  # the hook first

torch.set_num_threads(1)
