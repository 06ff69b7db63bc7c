"""Representations by name: configuration and class."""

from representations.composition import ComposedConfig, ComposedRepresentation
from representations.image2d import Image2d, Image2dConfig
from representations.nerf_mlp import NerfMlp, NerfMlpConfig
from representations.solid import SolidConfig, SolidGrid
from representations.splats import SplatMap, SplatsConfig
from representations.triplane import TriPlane, TriPlaneConfig
from representations.voxel import Voxel, VoxelConfig

REPRESENTATIONS: dict[str, tuple[type, type]] = {
    "triplane": (TriPlaneConfig, TriPlane),
    "voxel": (VoxelConfig, Voxel),
    "solid": (SolidConfig, SolidGrid),
    "splats": (SplatsConfig, SplatMap),
    "nerf_mlp": (NerfMlpConfig, NerfMlp),
    "composed": (ComposedConfig, ComposedRepresentation),
    "image2d": (Image2dConfig, Image2d),
}
