import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

TINY = """
name: tiny
data: {resolution: 16}
generator:
  z_dim: 8
  w_dim: 8
  scene: {feature_dim: 3, decoder: {hidden_dim: 8}}
  representation: REPRESENTATION
  renderer: {kind: volume, samples_coarse: 4, samples_fine: 0}
discriminator: {channels: [8, 8, 8], mapping_layers: 1}
training: {batch: 4, threads: 1, kimg: 1}
loss: {r1_interval: 4, density_reg: 0.25, density_reg_interval: 2, density_reg_num_points: 8}
"""
PLANES = "{kind: triplane, resolution: 8, channels: 4, synthesis: {channels: [8, 6]}}"
PICTURE = "{kind: image2d, synthesis: {channels: [8, 8, 6]}}"


@pytest.fixture(autouse=True)
def _fast_collections() -> Iterator[None]:
    """Exclude imported modules from the garbage collection before each measurement."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("REPRESENTATION", PLANES))
    return path


@pytest.fixture
def tiny_picture(tmp_path: Path) -> Path:
    text = TINY.replace("REPRESENTATION", PICTURE).replace("density_reg: 0.25", "density_reg: 0")
    path = tmp_path / "picture.yaml"
    path.write_text(text.replace("volume, samples_coarse: 4, samples_fine: 0", "picture"))
    return path
