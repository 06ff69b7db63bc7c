"""Renderers by name: each turns one type of scene and cameras into a rendering."""

from renderers.picture import PictureRenderer, PictureRendererConfig
from renderers.volume import VolumeRenderer, VolumeRendererConfig

RENDERERS: dict[str, tuple[type, type]] = {
    "volume": (VolumeRendererConfig, VolumeRenderer),
    "picture": (PictureRendererConfig, PictureRenderer),
}
