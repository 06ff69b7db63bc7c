"""The calls of gsplat, with a stand-in in PyTorch: gsplat itself needs CUDA."""

import sys
import types

import pytest
import torch
from splat_scenes import around, error, random_splats, render

from lightning_gan3d.config import ConfigError
from renderers import splat
from renderers.footprints import Footprints
from renderers.fused import kernel_check
from renderers.fused.gpu import gsplat_rendering
from renderers.splat import composite


@pytest.fixture
def gsplat(monkeypatch):
    """gsplat's functions; `spoil`: a fault in its sums."""
    module = types.ModuleType("gsplat")
    module.__version__, module.spoil = "1.5.3", lambda sums: sums

    def isect_tiles(means2d, radii, depths, *tiles):
        assert radii.dtype == torch.int32
        assert means2d.shape == radii.shape == (*depths.shape, 2)
        assert tiles == (16, 2, 2)
        return None, (radii, depths), "order"

    def isect_offset_encode(isect_ids, *sizes):
        assert sizes == (len(isect_ids[0]), 2, 2)
        return isect_ids

    def rasterize_to_pixels(means2d, conics, colors, opacities, *rest):
        width, height, tile, (radii, depths), order = rest
        assert (tile, order) == (16, "order")
        shown = torch.where((radii > 0).all(-1), opacities, 0.0)
        tensors = means2d.mT, conics.mT, shown, colors.mT, torch.zeros_like(shown)
        sums = module.spoil(composite(Footprints(*tensors, depths, radii.mT.float()), width))
        return tuple(x.mT.unflatten(1, (height, width)) for x in (sums.feature, sums.opacity))

    module.isect_tiles, module.isect_offset_encode = isect_tiles, isect_offset_encode
    module.rasterize_to_pixels = rasterize_to_pixels
    monkeypatch.setitem(sys.modules, "gsplat", module)
    monkeypatch.setitem(splat.KERNELS, "gsplat", (gsplat_rendering.__name__, "cpu"))
    monkeypatch.delitem(splat.KERNELS, "numba")
    monkeypatch.setattr(kernel_check, "_faults", {})
    return module


@pytest.mark.usefixtures("gsplat")
def test_agrees_with_pytorch():
    """Opacities of means above 0.99 are cut, here none is."""
    scene = random_splats(60, 2)
    scene = scene.map(lambda x: x.clamp(max=0.98) if x.ndim == 2 else x)
    (ours, gradients, path), (expected, d_expected, _) = (
        render(path, scene, around(4), 24) for path in ("auto", "plain")
    )
    assert path == "gsplat 1.5.3"
    for a, b in zip([*ours, *gradients], [*expected, *d_expected], strict=True):
        assert error(a, b) < 1e-5


def test_a_fault_is_found(gsplat):
    gsplat.spoil = lambda sums: sums._replace(feature=sums.feature.roll(1, dims=1))
    backend = render("auto", random_splats(60), around(1), 24)[2]
    assert backend.startswith("PyTorch (self-check: feature is off by")


@pytest.mark.usefixtures("gsplat")
def test_a_missing_package_is_an_error_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "gsplat", None)
    with pytest.raises(
        ConfigError, match=r"path=gsplat: .*pip install 'lightning-gan3d\[gsplat\]'"
    ):
        render("gsplat", random_splats(60), around(1), 24)
