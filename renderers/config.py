"""The options of the volume renderer."""

from dataclasses import dataclass, fields, replace
from typing import Literal

from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import RenderSettings


@dataclass(frozen=True)
class VolumeRendererConfig:
    """How rays are sampled and composited. The rules of EG3D's release are the values `eg3d`."""

    samples_coarse: int = 48
    """Stratified samples of a ray."""
    samples_fine: int = 48
    """Samples of a ray placed where the coarse ones found density; 0 leaves that pass out."""
    oversample: int = 1
    """Multiplies both counts where draws is None: few samples at fixed places draw rings, which
    the jitter of training hides (the `sample_mult` of EG3D's videos)."""
    bounds: Literal["near_far", "box", "sphere"] = "box"
    """What of a ray is rendered: [near, far], or its part within the field's box, or its part
    within the ball inscribed in the box; the latter two cut to near and far where these are set."""
    near: float | None = None
    """Distance from the camera at which rays begin, in world units. None: where the bounds do."""
    far: float | None = None
    """Distance at which rays end, and the depth of the background. None: behind the bounds."""
    outside: Literal["empty", "field"] = "empty"
    """Density of samples outside the box: none, or whatever the field says there."""
    background: float = 0.0
    """Every channel of what lies behind the field, in [0, 1]: 0 is black, 1 white."""
    strata: Literal["within", "eg3d"] = "within"
    """`within`: they fill [near, far]. `eg3d`: spaced so that the last one begins at far."""
    compositing: Literal["standard", "eg3d"] = "standard"
    """`standard`: an interval around each sample, from near to far. `eg3d`: between samples."""
    importance: Literal["standard", "eg3d"] = "standard"
    """`standard`: by the weights. `eg3d`: pooled, and half an interval toward the camera."""
    depth: Literal["far", "eg3d"] = "far"
    """Depth of an empty ray: that of the background. `eg3d`: of the whole batch's farthest sample,
    and all depths clamped to the batch's samples."""
    density_noise: float = 0.0
    """Standard deviation of noise on the raw density, against fog. Absent where draws is None."""
    chunk: int | None = None
    """Most points in a call of the field, on the plain path: bounds memory without changing
    results. None: 2^17; on a CPU without gradient 2^14, whose activations stay in its cache."""
    skip_cells: int = 0
    """Cells along each axis of a grid that tells where a prepared scene has anything: rays that
    meet nothing are not marched. 0: none. It pays for several views of scenes with much empty
    space; training and single images never use it."""
    skip_opacity: float = 0.01
    """A cell has something where density could stop this share of a ray across the box, or more."""
    cache_precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """How the grids of a prepared scene, which is kept for several views, are stored: 16 bits take
    half the memory. What is no grid (the styles of an MLP) stays as it is; sums are float32."""
    path: Literal["auto", "plain", "numba", "triton"] = "auto"
    """Which code marches the rays: fused kernels (`numba` on a CPU, `triton` on CUDA), or `plain`
    torch, which serves any field. `auto`: kernels where they can; what ran is reported."""
    precision: Literal["fp32", "tf32", "fp16"] = "fp32"
    """What the `triton` kernels multiply; sums are float32. `fp32`: as all other code does. `tf32`,
    or `fp16` (grids too; gradients tf32): for tensor cores, at some 88 dB PSNR to fp32."""
    recompute: bool = False
    """Keep no samples for the backward pass, compute each chunk again: less memory, more time."""

    def __post_init__(self) -> None:
        """Check ranges and what the rules need of each other."""
        pairs = self.compositing == "eg3d" or self.strata == "eg3d"
        least = 4 if self.samples_fine and self.importance == "eg3d" else 2 if pairs else 1
        self._check(self.samples_coarse >= least, "samples_coarse", f"these rules need {least} up")
        self._check(self.samples_fine >= 0, "samples_fine", "use 0 (none) or more")
        if self.bounds == "near_far":
            for name in ("near", "far"):
                given = getattr(self, name) is not None
                self._check(given, name, "bounds=near_far needs it; or use bounds=box")
        self._check(self.oversample >= 1, "oversample", "use 1 (as in training) or more")
        near = self.near or 0.0
        self._check(near >= 0, "near", "use 0 or more, in world units")
        self._check(self.far is None or self.far > near, "far", f"use more than near={near}")
        self._check(0 <= self.background <= 1, "background", "use 0 (black) to 1 (white)")
        read = self.precision == "fp32" or self.path in ("auto", "triton")
        self._check(read, "precision", f"path={self.path} computes in fp32; use path=triton")
        stored = self.cache_precision != "fp16" or self.path != "numba"
        self._check(stored, "cache_precision", "path=numba reads fp32 and bf16; use bf16")
        self._check(self.density_noise >= 0, "density_noise", "use 0 (none) or more")
        self._check(self.skip_cells >= 0, "skip_cells", "use 0 (none) or more, e.g. 64")
        # The cells know nothing of density beyond the box, where these rules place samples.
        beyond = self.outside == "field" and (self.bounds == "near_far" or self.strata == "eg3d")
        remedy = "it would lose density outside the box: use outside=empty, or 0 (none)"
        self._check(not (self.skip_cells and beyond), "skip_cells", remedy)
        self._check(0 < self.skip_opacity < 1, "skip_opacity", "use a share in (0, 1), e.g. 0.01")
        most = max(self.samples_coarse, self.samples_fine) * self.oversample
        enough = self.chunk is None or self.chunk >= most
        self._check(enough, "chunk", f"use at least the samples of a ray, {most}, or null")

    def _check(self, passed: bool, name: str, remedy: str) -> None:
        if not passed:
            raise ConfigError(f"renderer.{name}={getattr(self, name)}: {remedy}", name)

    def under(self, settings: RenderSettings | None, random: bool = True) -> "VolumeRendererConfig":
        """Lay the settings of a call over these; the combination is checked like any other.

        Where nothing is `random`, the counts of samples come back multiplied by `oversample`.
        """
        given = (
            {}
            if settings is None
            else {f.name: getattr(settings, f.name) for f in fields(settings)}
        )
        over = replace(self, **{k: v for k, v in given.items() if v is not None})
        if random or self.oversample == 1:
            return over
        coarse, fine = (n * self.oversample for n in (over.samples_coarse, over.samples_fine))
        return replace(over, samples_coarse=coarse, samples_fine=fine, oversample=1)
