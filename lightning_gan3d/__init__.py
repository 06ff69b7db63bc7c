"""Train, measure and compare 3D-aware image generators."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_gan3d.version import __version__

if TYPE_CHECKING:
    from lightning_gan3d.cameras import Cameras
    from lightning_gan3d.checkpoints.load import load_discriminator, load_generator
    from lightning_gan3d.data.datamodule import DataModule
    from lightning_gan3d.experiment import load_experiment
    from lightning_gan3d.generator import Generator
    from lightning_gan3d.images import Images
    from lightning_gan3d.training.module import AdversarialModule, make_modules

__all__ = [
    "AdversarialModule",
    "Cameras",
    "DataModule",
    "Generator",
    "Images",
    "__version__",
    "load_discriminator",
    "load_experiment",
    "load_generator",
    "make_modules",
]

_MODULES = {
    "AdversarialModule": "training.module",
    "Cameras": "cameras",
    "DataModule": "data.datamodule",
    "Generator": "generator",
    "Images": "images",
    "load_discriminator": "checkpoints.load",
    "load_experiment": "experiment",
    "load_generator": "checkpoints.load",
    "make_modules": "training.module",
}


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that `gan3d --help` does not import torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
