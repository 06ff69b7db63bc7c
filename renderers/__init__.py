"""Renderers by name: configuration and class. Each renders one type of scene from cameras."""

from renderers.composed import ComposedRenderer, ComposedRendererConfig
from renderers.picture import PictureRenderer, PictureRendererConfig
from renderers.proxied import ProxiedConfig, ProxiedRenderer
from renderers.raster import RasterConfig, RasterRenderer
from renderers.soft import SoftConfig, SoftRenderer
from renderers.splat import SplatRenderer, SplatRendererConfig
from renderers.volume import VolumeRenderer, VolumeRendererConfig

RENDERERS: dict[str, tuple[type, type]] = {
    "volume": (VolumeRendererConfig, VolumeRenderer),
    "composed": (ComposedRendererConfig, ComposedRenderer),
    "raster": (RasterConfig, RasterRenderer),
    "soft": (SoftConfig, SoftRenderer),
    "proxied": (ProxiedConfig, ProxiedRenderer),
    "splat": (SplatRendererConfig, SplatRenderer),
    "picture": (PictureRendererConfig, PictureRenderer),
}
