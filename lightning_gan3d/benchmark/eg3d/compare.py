"""`gan3d bench --against`: ours beside the official EG3D, on equal weights, in one process.

Each piece of work is timed in turns; memory is what each adds at its peak. How far ours is from
theirs is printed beside it, but for phases of training, which tests hand equal draws (tests/eg3d).
The work is EG3D's own: its 512-pixel model for images, its 128-pixel one for training.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from lightning_gan3d.benchmark import setup
from lightning_gan3d.benchmark.eg3d.official import Checkout
from lightning_gan3d.benchmark.memory import MB, MemoryUnknownError, peak_bytes
from lightning_gan3d.benchmark.paired import time_in_turns
from lightning_gan3d.benchmark.resident import resident_peak
from lightning_gan3d.benchmark.speed import Protocol
from lightning_gan3d.config import ConfigError
from lightning_gan3d.devices import choose_device
from lightning_gan3d.networks.precision import Precision

THEIRS = "official"
FULL = Protocol(warmup=1, min_repeats=7, max_repeats=30, budget=20.0)
QUICK = Protocol(warmup=1, min_repeats=3, max_repeats=5, budget=1.0)


@dataclass(frozen=True)
class Work:
    """One piece of work, done by the official code and by ours in some precisions."""

    key: str
    """Name in tables and files, such as `renderer_128_forward`."""
    what: str
    """The same in words."""
    theirs: Callable[[], Any]
    ours: dict[str, Callable[[], Any]]
    """By precision."""
    agreement: Callable[[str], str]
    """Of a precision: how far ours is from theirs, in words with a number."""
    path: Callable[[], str] = lambda: ""
    """Which path rendered, asked for after the measurement."""
    every: float = 1.0
    """Steps between two runs, for phases of training."""


@dataclass(frozen=True)
class Result:
    """One row of the comparison."""

    key: str
    what: str
    precision: str
    official_ms: float
    ours_ms: float
    ratio: float
    """Official over ours: above 1 ours is faster. Median of the rounds."""
    ratio_low: float
    ratio_high: float
    """Quartiles over rounds."""
    rounds: int
    official_mb: float | None
    ours_mb: float | None
    """Peak above what was held before; None where the device keeps no record."""
    agreement: str
    path: str
    every: float


def compare(
    checkout: Path,
    device: str = "auto",
    precisions: Sequence[str] = ("fp32", "bf16"),
    quick: bool = False,
    only: Sequence[str] = (),
    threads: int | None = None,
    command: Sequence[str] = (),
    out: Path | None = None,
    progress: Callable[[str], None] = print,
) -> str:
    """Measure every piece of work, write JSON to `out`, and return the table.

    `only` names keys, or beginnings of keys, to restrict the work to. Raises `ConfigError` where
    nothing is left, and for a checkout that cannot be run.
    """
    from lightning_gan3d.benchmark.eg3d import synthesis_work, training_work

    known = get_args(Precision)
    unknown = [p for p in precisions if p not in known]
    if unknown:
        raise ConfigError(f"--precision {unknown[0]}: use one of {', '.join(known)}")
    code, where = Checkout(checkout), choose_device(device)
    if out is not None:
        make_folder(out)
    rows: list[Result] = []
    with setup.cpu_threads(threads):
        told = setup.current(where, command)
        for source in (synthesis_work.works, training_work.works):
            for work in source(code, where, tuple(precisions), wanted(only)):
                for row in measure(work, where, QUICK if quick else FULL):
                    progress(line(row))
                    rows.append(row)
        rows += steps(rows)
    if not rows:
        raise ConfigError(f"--only {' '.join(only)}: no such work")
    if out is not None:
        about = {**dataclasses.asdict(told), "official": code.plugins(), "quick": quick}
        write(out, about, rows)
    return table(rows)


def wanted(only: Sequence[str]) -> Callable[[str], bool]:
    """Whether a key was asked for; without a wish, all are."""
    return lambda key: not only or any(key.startswith(o) for o in only)


def measure(work: Work, device: torch.device, protocol: Protocol) -> Iterator[Result]:
    """Check agreement, time in turns, weigh."""
    agreement = {p: work.agreement(p) for p in work.ours}
    rounds = time_in_turns({THEIRS: work.theirs, **work.ours}, protocol, device)
    theirs_mb = weigh(work.theirs, device)
    for precision, call in work.ours.items():
        ratio = rounds.ratio(THEIRS, precision)
        yield Result(
            work.key,
            work.what,
            precision,
            1e3 * rounds.median(THEIRS),
            1e3 * rounds.median(precision),
            *ratio,
            len(rounds.seconds[precision]),
            theirs_mb,
            weigh(call, device),
            agreement[precision],
            work.path(),
            work.every,
        )


def weigh(call: Callable[[], Any], device: torch.device) -> float | None:
    """Peak of a call in MB: resident memory on a CPU, the allocator's on CUDA."""
    try:
        peak = resident_peak(call) if device.type == "cpu" else peak_bytes(call, device)
    except MemoryUnknownError:
        return None
    return peak / MB


def steps(rows: Sequence[Result]) -> Iterator[Result]:
    """Sum phases to the mean step of training: lazy ones count by how often they come."""
    for precision in dict.fromkeys(r.precision for r in rows):
        phases = [r for r in rows if r.precision == precision and r.key.startswith("train_")]
        if len(phases) < 4:
            continue
        theirs, ours = (
            sum(getattr(r, side) / r.every for r in phases) for side in ("official_ms", "ours_ms")
        )
        low, high = (
            theirs / sum(r.official_ms / getattr(r, end) / r.every for r in phases)
            for end in ("ratio_low", "ratio_high")
        )
        yield Result(
            "step",
            "mean step of training: G, D, density / 4, R1 / 16",
            precision,
            theirs,
            ours,
            theirs / ours,
            low,
            high,
            min(r.rounds for r in phases),
            _most(r.official_mb for r in phases),
            _most(r.ours_mb for r in phases),
            "as its phases",
            phases[0].path,
            1.0,
        )


def _most(values: Iterator[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return max(known) if known else None


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
    """Make the folder of a result before minutes of work are spent on it, or refuse."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: {error}; name a file in a folder of yours") from error
    if out.is_dir():
        raise ConfigError(f"--out {out}: is a folder; name a file, such as {out / 'against.json'}")


def write(path: Path, about: dict[str, Any], rows: Sequence[Result]) -> None:
    """Write a comparison as JSON, whole or not at all."""
    content = {"about": about, "rows": [dataclasses.asdict(r) for r in rows]}
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    temporary.replace(path)
