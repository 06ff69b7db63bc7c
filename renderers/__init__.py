"""Renderers by name: configuration and class. Each renders one type of scene from cameras."""

from renderers.picture import PictureRenderer, PictureRendererConfig
from renderers.volume import VolumeRenderer, VolumeRendererConfig

RENDERERS: dict[str, tuple[type, type]] = {
    "volume": (VolumeRendererConfig, VolumeRenderer),
    "picture": (PictureRendererConfig, PictureRenderer),
}
