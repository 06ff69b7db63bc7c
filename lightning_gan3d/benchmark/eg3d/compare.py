"""`gan3d bench --against`: comparison with the official EG3D or StyleGAN3, in one process.

Both sides of a work have equal weights and are timed in alternating rounds. Agreement is checked
before timing, except for phases of training, which tests/eg3d compares with equal draws. Sizes are
those of the official models: EG3D's 512-pixel model for inference and its 128-pixel model for
training, StyleGAN3 at 256 and 512 pixels. Of a long task of equal parts, the official code does a
part, and its time is scaled.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from lightning_gan3d.benchmark.eg3d import (
    inference_work,
    stylegan3_work,
    training_work,
    usage_work,
)
from lightning_gan3d.benchmark.eg3d.official import Checkout, Work
from lightning_gan3d.benchmark.eg3d.stylegan3_work import StyleGAN3Checkout
from lightning_gan3d.benchmark.memory import MB, MemoryUnknownError, peak_bytes, resident_peak
from lightning_gan3d.benchmark.speed import (
    Environment,
    Protocol,
    Timing,
    cpu_threads,
    speed_ratio,
    time_rounds,
)
from lightning_gan3d.config import ConfigError
from lightning_gan3d.devices import choose_device
from lightning_gan3d.files import write_json
from lightning_gan3d.networks.precision import Precision

THEIRS = "official"
FULL = Protocol(warmup=1, min_repeats=7, max_repeats=30, budget=20.0)
QUICK = Protocol(warmup=1, min_repeats=3, max_repeats=5, budget=1.0)


@dataclass(frozen=True)
class CompareOptions:
    """Options of `gan3d bench --against`."""

    device: str = "auto"
    precisions: tuple[str, ...] = ("fp32", "bf16")
    quick: bool = False
    """Fewer repeats."""
    only: tuple[str, ...] = ()
    """Prefixes of keys of works; empty: all."""
    threads: int | None = None
    """CPU threads; None: torch's own number."""
    command: tuple[str, ...] = ()
    """The command line, for the record."""
    out: Path | None = None
    """JSON file to write."""

    def __post_init__(self) -> None:
        """Check precisions."""
        for precision in self.precisions:
            if precision not in get_args(Precision):
                known = ", ".join(get_args(Precision))
                raise ConfigError(f"--precision {precision}: use one of {known}")

    def selects(self, key: str) -> bool:
        """Whether `only` selects a work."""
        return not self.only or key.startswith(self.only)


@dataclass(frozen=True)
class Result:
    """One row of the comparison."""

    key: str
    description: str
    precision: str
    official_ms: float
    ours_ms: float
    ratio: float
    """Official over ours, above 1 if ours is faster: median over rounds."""
    ratio_low: float
    ratio_high: float
    """Quartiles over rounds."""
    rounds: int
    official_mb: float | None
    ours_mb: float | None
    """Peak memory above that before the call; None if unknown."""
    agreement: str
    path: str
    every: float


def compare(
    checkout: Path, options: CompareOptions, progress: Callable[[str], None] = print
) -> str:
    """Measure all selected works, write `options.out` and return the table.

    Raises `ConfigError` if no work is selected or the checkout cannot be imported.
    """
    is_stylegan3 = StyleGAN3Checkout.recognises(checkout)
    code = (StyleGAN3Checkout if is_stylegan3 else Checkout)(checkout)
    of_eg3d = (inference_work.works, training_work.works, usage_work.works)
    device = choose_device(options.device)
    if options.out is not None:
        make_folder(options.out)
    rows: list[Result] = []
    about: dict[str, Any] = {}

    def write(rows: list[Result]) -> None:
        if options.out is not None:
            content = {"about": about, "rows": [dataclasses.asdict(r) for r in rows]}
            write_json(options.out, content)

    with cpu_threads(options.threads):
        about |= dataclasses.asdict(Environment.current(device, options.command))
        about |= {"official": code.plugins(), "quick": options.quick}
        for works in (stylegan3_work.works,) if is_stylegan3 else of_eg3d:
            for work in works(code, device, options.precisions, options.selects):
                for row in measure(work, device, QUICK if options.quick else FULL):
                    progress(line(row))
                    rows.append(row)
                write(rows)  # an interrupted comparison keeps them
    rows += mean_steps(rows)
    if not rows:
        raise ConfigError(f"--only {' '.join(options.only)}: no such work")
    write(rows)
    return table(rows)


def measure(work: Work, device: torch.device, protocol: Protocol) -> Iterator[Result]:
    """Agreement, time and memory of a work, one row per precision."""
    agreement = {p: work.agreement(p) for p in work.ours}
    timings = time_rounds({THEIRS: work.theirs, **work.ours}, protocol, device)
    official = Timing(tuple(s / work.share for s in timings[THEIRS].seconds))
    official_mb = peak_mb(work.theirs, device)
    for precision, call in work.ours.items():
        ours = timings[precision]
        yield Result(
            work.key,
            work.description,
            precision,
            1e3 * official.median,
            1e3 * ours.median,
            *speed_ratio(official, ours),
            len(ours.seconds),
            official_mb,
            peak_mb(call, device),
            agreement[precision],
            work.path(),
            work.every,
        )


def peak_mb(call: Callable[[], Any], device: torch.device) -> float | None:
    """Peak memory of a call in MB: resident memory on a CPU, the allocator's on CUDA."""
    try:
        return (resident_peak(call) if device.type == "cpu" else peak_bytes(call, device)) / MB
    except MemoryUnknownError:
        return None


def mean_steps(rows: Sequence[Result]) -> Iterator[Result]:
    """Mean training step of each precision: the sum of all phases, each over its interval."""
    for precision in dict.fromkeys(r.precision for r in rows):
        phases = [r for r in rows if r.precision == precision and r.key.startswith("train_")]
        if len(phases) < len(training_work.PHASES):
            continue
        official, ours = (
            sum(getattr(r, side) / r.every for r in phases) for side in ("official_ms", "ours_ms")
        )
        low, high = (
            official / sum(r.official_ms / getattr(r, end) / r.every for r in phases)
            for end in ("ratio_low", "ratio_high")
        )
        yield dataclasses.replace(
            phases[0],
            key="step",
            description="mean step of training: G, D, density / 4, R1 / 16",
            official_ms=official,
            ours_ms=ours,
            ratio=official / ours,
            ratio_low=low,
            ratio_high=high,
            rounds=min(r.rounds for r in phases),
            official_mb=_max(r.official_mb for r in phases),
            ours_mb=_max(r.ours_mb for r in phases),
            agreement="as its phases",
            every=1.0,
        )


def _max(values: Iterable[float | None]) -> float | None:
    return max((v for v in values if v is not None), default=None)


def line(r: Result) -> str:
    """One row as text."""
    memory = "" if not r.ours_mb or not r.official_mb else f"{r.official_mb / r.ours_mb:.1f}x"
    return (
        f"{r.key:<24} {r.precision:<5} {r.official_ms:>9.1f} {r.ours_ms:>9.1f} ms "
        f"{r.ratio:>6.2f}x ({r.ratio_low:.2f} to {r.ratio_high:.2f})  "
        f"{_mb(r.official_mb):>6} {_mb(r.ours_mb):>6} MB {memory:>6}  {r.agreement}; {r.path}"
    )


def _mb(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def table(rows: Sequence[Result]) -> str:
    """All rows as text."""
    head = f"{'work':<24} {'':<5} {'official':>9} {'ours':>9}    faster (quartiles)"
    return "\n".join([head, *map(line, rows)])


def make_folder(out: Path) -> None:
    """Create the folder of a result before minutes of work, or raise `ConfigError`."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: {error}; name a file in a writable folder") from error
    if out.is_dir():
        raise ConfigError(f"--out {out}: is a folder; name a file, e.g. {out / 'against.json'}")
