"""Options of the volume renderer."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Interval

from lightning_gan3d.config import ConfigError, Count, NonNegative, Share

Bounds = Literal["near_far", "box", "sphere"]
Rules = Literal["standard", "eg3d"]

REPLACED_BY_RULES = {
    "strata": "within",
    "compositing": "standard",
    "importance": "standard",
    "depth": "far",
}
"""Options of earlier versions that `rules` replaces: name and standard value. The other value of
each was `eg3d`."""


@dataclass(frozen=True)
class VolumeRendererConfig:
    """Sampling and compositing along rays."""

    samples_coarse: Count = 48
    """Stratified samples per ray."""
    samples_fine: Annotated[int, Ge(0)] = 48
    """Importance samples per ray; 0: no second pass."""
    importance: Literal["weights", "nucleus"] = "weights"
    """Where importance samples lie: `weights`, in proportion to the coarse weights; `nucleus`,
    uniformly over the fewest quarters of coarse intervals that hold `nucleus_mass` of a ray's
    weight, by a density interpolated between the coarse samples."""
    nucleus_mass: Annotated[float, Interval(gt=0, le=1)] = 0.98
    """Share of a ray's weight that `importance=nucleus` keeps."""
    oversample: Count = 1
    """Multiplies both sample counts in deterministic rendering: without the jitter of training, few
    samples show as rings (the `sample_mult` of EG3D's videos)."""
    bounds: Bounds = "box"
    """Rendered part of a ray: [near, far], or inside the field's box, or inside the ball inscribed
    in the box; the latter two are cut to near and far if these are set."""
    near: NonNegative | None = None
    """Distance from the camera at which rays start, in world units. None: at the bounds."""
    far: float | None = None
    """Distance at which rays end, and depth of the background. None: behind the bounds."""
    outside: Literal["empty", "field"] = "empty"
    """Density of samples outside the box: zero, or the field's."""
    background: Share = 0.0
    """Value of all background channels in [0, 1]: 0 black, 1 white."""
    rules: Rules = "standard"
    """`standard`: strata fill [near, far]; each sample has an interval, and intervals fill [near,
    far]; importance sampling by the weights; depth of an empty ray is the background's.
    `eg3d`, as its release: the last stratum starts at far; intervals lie between samples;
    importance sampling from smoothed weights, half an interval nearer to the camera; depths are
    clamped to the range of the batch's samples."""
    density_noise: NonNegative = 0.0
    """Standard deviation of noise on the raw density in training, against fog. The raw density of
    `sdf` is a distance in world units."""
    chunk: Count | None = None
    """Maximum number of points per query of the field, on the plain path: bounds memory, does not
    change results. None: 2^17; on a CPU without gradient 2^14, which fits its cache."""
    skip_cells: Annotated[int, Ge(0)] = 0
    """Cells per axis of an occupancy grid of prepared scenes; rays through empty cells are skipped.
    0: none. Faster for several views of mostly empty scenes; not used in training."""
    skip_opacity: Annotated[float, Interval(gt=0, lt=1)] = 0.01
    """A cell is occupied if its density across the whole box would reach this opacity."""
    cache_precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision in which the grids of prepared scenes are stored; sums are float32. The FiLM
    parameters of an MLP stay as they are."""
    path: Literal["auto", "plain", "numba", "triton"] = "auto"
    """Implementation: fused kernels (`numba` on a CPU, `triton` on CUDA) or PyTorch (`plain`),
    which renders any field. `auto`: kernels if they support the request; the choice is logged."""
    precision: Literal["fp32", "tf32", "fp16"] = "fp32"
    """Operands of products in `triton` kernels; sums are float32. `tf32`, or `fp16` (grids and
    units of MLPs too; gradients in tf32), use tensor cores, at about 88 dB PSNR to fp32."""
    recompute: bool = False
    """Activation checkpointing of chunks on the plain path: less memory, more time."""

    def __post_init__(self) -> None:
        """Check across fields."""
        minimum = 1 if self.rules == "standard" else 4 if self.samples_fine else 2
        self._check(
            self.samples_coarse >= minimum,
            "samples_coarse",
            f"rules={self.rules} needs {minimum} or more",
        )
        if self.importance == "nucleus":
            remedy = "places importance samples of rules=standard; "
            self._check(self.rules == "standard", "importance", remedy + "use weights")
            remedy = "places importance samples, but samples_fine=0; set these, or use weights"
            self._check(self.samples_fine > 0, "importance", remedy)
        if self.bounds == "near_far":
            for name in ("near", "far"):
                given = getattr(self, name) is not None
                self._check(given, name, "required by bounds=near_far; or use bounds=box")
        near = self.near or 0.0
        self._check(self.far is None or self.far > near, "far", f"use more than near={near}")
        supported = self.precision == "fp32" or self.path in ("auto", "triton")
        self._check(supported, "precision", f"path={self.path} computes in fp32; use path=triton")
        supported = self.cache_precision != "fp16" or self.path != "numba"
        self._check(supported, "cache_precision", "path=numba reads fp32 and bf16; use bf16")
        # The occupancy grid covers the box only.
        lossy = self.skip_cells and self.leaves_box and self.outside == "field"
        remedy = "would lose density outside the box; use outside=empty, or 0"
        self._check(not lossy, "skip_cells", remedy)
        most = max(self.samples_coarse, self.samples_fine) * self.oversample
        enough = self.chunk is None or self.chunk >= most
        self._check(enough, "chunk", f"use at least the samples of one ray, {most}, or null")

    def _check(self, passed: bool, name: str, remedy: str) -> None:
        if not passed:
            raise ConfigError(f"generator.renderer.{name}={getattr(self, name)}: {remedy}", name)

    @classmethod
    def upgrade(cls, tree: Mapping[str, Any]) -> Mapping[str, Any]:
        """Convert a configuration of an earlier version, which had four options for `rules`."""
        old = {name: tree[name] for name in REPLACED_BY_RULES if name in tree}
        if old.get("importance") not in get_args(Rules):  # a value of today's option
            old.pop("importance", None)
        if not old:
            return tree
        rest = {name: value for name, value in tree.items() if name not in old}
        if all(tree.get(name) == "eg3d" for name in REPLACED_BY_RULES):
            converted = {"rules": "eg3d", **rest}
        elif all(old[name] == REPLACED_BY_RULES[name] for name in old):
            converted = {"rules": "standard", **rest}
        else:
            converted = {}
        if not converted or "rules" in tree:
            given = ", ".join(f"{name}={value}" for name, value in old.items())
            raise ConfigError(
                f"renderer: {given}: replaced by one option; use rules=standard, or rules=eg3d "
                f"for {', '.join(f'{name}=eg3d' for name in REPLACED_BY_RULES)}"
            )
        return converted

    @property
    def leaves_box(self) -> bool:
        """Whether samples can lie outside the box."""
        return self.bounds == "near_far" or self.rules == "eg3d"

    @property
    def masked(self) -> bool:
        """Whether samples outside the box have to be masked."""
        return self.leaves_box and self.outside == "empty"

    def oversampled(self) -> "VolumeRendererConfig":
        """Return the options of deterministic rendering: sample counts times `oversample`."""
        if self.oversample == 1:
            return self
        coarse, fine = (n * self.oversample for n in (self.samples_coarse, self.samples_fine))
        return replace(self, samples_coarse=coarse, samples_fine=fine, oversample=1)
