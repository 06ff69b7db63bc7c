"""`gan3d dashboard`: one page about a sweep that runs: states, curves, samples, newest metrics."""

import base64
import io
import math
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator
from PIL import Image, UnidentifiedImageError

from lightning_gan3d.files import write_text
from lightning_gan3d.metric_table import significant
from lightning_gan3d.report.logged_curves import LoggedCurves, MeanCurve, mean_curve, read_curves
from lightning_gan3d.report.make import render
from lightning_gan3d.report.plots.style import Ink, label_inks
from lightning_gan3d.runs import METRICS
from lightning_gan3d.sweep.plan import SWEEP_FILE, SweepEntry, load_sweep, read_record
from lightning_gan3d.sweep.states import RunState, SweepFolder, read_states, summary
from lightning_gan3d.version import __version__

CHARTS = {
    "eval/swd": "SWD ↓",
    "loss/G": "Generator loss",
    "loss/D": "Discriminator loss",
    "loss/direction": "Direction loss ↓",
    "loss/proxy_image": "Proxy loss ↓",
    "D/accuracy": "Discriminator accuracy",
    "loss/R1": "R1 penalty",
    "scene/relief": "Relief (share of the box)",
    "scene/opacity": "Opacity",
    "speed/img_s": "Training speed (images/s) ↑",
    "memory/peak_mb": "Peak memory (MB) ↓",
}
"""Keys of `metrics.jsonl` that are drawn, and their names."""
SWD = "eval/swd"
COLUMNS = (SWD, "loss/G", "loss/D", "D/accuracy")
"""Keys in the tables."""
COLOURED = 9
"""Arms with a colour: those with the lowest SWD. Others are grey."""
GRIDS, GRID_SIDE = 9, 320
"""Arms whose newest sample grid is shown, and its longer side in pixels."""
WIDTH, HEIGHT = 420, 220
"""Of a chart, in the units of its view box."""


@dataclass(frozen=True)
class ArmOfSweep:
    """The runs of a sweep that differ in the seed only."""

    label: str
    representation: str
    states: tuple[RunState, ...]
    curves: tuple[LoggedCurves, ...]
    """Of each run."""

    @property
    def progress(self) -> float:
        """Share of the images of all runs."""
        return _progress(self.states)

    @property
    def summary(self) -> str:
        """Its runs by state."""
        return summary(self.states)

    def mean(self, key: str) -> float | None:
        """Mean of the newest values of its runs."""
        values = [c.newest[key] for c in self.curves if key in c.newest]
        return float(np.mean(values)) if values else None

    @property
    def newest(self) -> list[str]:
        """Means of the newest values, for `COLUMNS`."""
        means = map(self.mean, COLUMNS)
        return ["" if mean is None else significant(mean) for mean in means]


def find_folder(sweep: str, root: Path) -> Path:
    """Return the folder of a sweep, given the folder, its YAML file or a preset."""
    path = Path(sweep)
    return path if (path / SWEEP_FILE).is_file() else root / "sweeps" / load_sweep(sweep)[0].name


class Dashboard:
    """Builds the page, again and again; reads only the rows of runs that have new ones."""

    def __init__(self, folder: Path, out: Path | None = None) -> None:
        """`folder`: of the sweep; `out`: the page. ConfigError if the sweep was never started."""
        self.folder, self.out = folder, out or folder / "dashboard.html"
        self._record = folder / SWEEP_FILE
        read_record(self._record)
        self._curves: dict[Path, tuple[int, LoggedCurves]] = {}

    def states(self) -> list[RunState]:
        """Read the states of the runs."""
        return read_states(read_record(self._record), SweepFolder(self.folder))

    def write(self, reload: float | None = None) -> list[RunState]:
        """Write the page; return the states. `reload`: seconds until a browser reloads it."""
        states = self.states()
        self.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.out, self._page(states, None if self._ended(states) else reload))
        return states

    def watch(self, seconds: float) -> None:
        """Write the page until all runs have ended."""
        while not self._ended(self.write(seconds)):
            time.sleep(seconds)

    def _ended(self, states: Sequence[RunState]) -> bool:
        return SweepFolder(self.folder).has_ended(states)

    def _page(self, states: Sequence[RunState], reload: float | None) -> str:
        arms = self.arms(states)
        ink = label_inks({arm.label: arm.representation for arm in arms[:COLOURED]})
        charts = [
            chart
            for key, title in CHARTS.items()
            if (chart := _chart(title, {a.label: mean_curve(a.curves, key) for a in arms}, ink))
        ]
        report = self.folder / "report/index.html"
        return render(
            "dashboard.html",
            title=self.folder.name,
            reload=reload,
            written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
            summary=summary(states),
            progress=_progress(states),
            report="report/index.html" if report.is_file() and self._is_beside() else "",
            arms=arms,
            colour={label: number for number, label in enumerate(ink)},
            inks=ink.values(),
            heads=[CHARTS[key] for key in COLUMNS],
            charts=charts,
            size=(WIDTH, HEIGHT),
            grids=[grid for arm in arms[:GRIDS] if (grid := _newest_grid(arm))],
            failures=[(s.entry.label, _without_folders(s.reason)) for s in states if s.reason
                      and s.state == "failed"],
            rows=[(arm.label, *row) for arm in arms for row in _rows(arm)],
            version=__version__,
        )  # fmt: skip

    def _is_beside(self) -> bool:
        return self.out.parent.resolve() == self.folder.resolve()

    def arms(self, states: Sequence[RunState]) -> list[ArmOfSweep]:
        """Group runs that differ in the seed only; read their rows. Many: lowest SWD first."""
        by_arm: dict[tuple[str, str], list[RunState]] = {}
        for state in states:
            variant = state.entry.path.name.rpartition("-s")[0]
            by_arm.setdefault((state.entry.path.parent.name, variant), []).append(state)
        labels = _arm_labels({key: of_arm[0].entry for key, of_arm in by_arm.items()})
        arms = [
            ArmOfSweep(
                labels[key],
                of_arm[0].entry.representation,
                tuple(of_arm),
                tuple(self._read(s.entry.path / METRICS) for s in of_arm),
            )
            for key, of_arm in by_arm.items()
        ]
        if len(arms) > COLOURED:
            arms.sort(key=lambda arm: arm.mean(SWD) or math.inf)
        return arms

    def _read(self, file: Path) -> LoggedCurves:
        size = file.stat().st_size if file.is_file() else 0
        if self._curves.get(file, (-1,))[0] != size:
            self._curves[file] = size, read_curves(file, list(CHARTS))
        return self._curves[file][1]


def _progress(states: Sequence[RunState]) -> float:
    total = sum(s.entry.kimg for s in states)
    return sum(s.progress * s.entry.kimg for s in states) / total if total else 0.0


def _arm_labels(entries: Mapping[tuple[str, str], SweepEntry]) -> dict[tuple[str, str], str]:
    """Name arms by their label, else by the experiment; equal names get the hash."""
    names = {key: entry.arm or entry.experiment for key, entry in entries.items()}
    twice = {name for name, count in Counter(names.values()).items() if count > 1}
    return {key: f"{name} ({key[1]})" if name in twice else name for key, name in names.items()}


def _rows(arm: ArmOfSweep) -> list[tuple[RunState, str, list[str]]]:
    """State, time left and newest metrics of each run."""
    rows = []
    for state, curves in zip(arm.states, arm.curves, strict=True):
        newest = [significant(curves.newest[k]) if k in curves.newest else "" for k in COLUMNS]
        rows.append((state, state.time_left, newest))
    return rows


def _without_folders(text: str) -> str:
    """Leave out everything that has a slash: paths, with the names of users in them."""
    return re.sub(r"[^\s:'\"]*/[^\s:'\"]*", "…", text)


def _newest_grid(arm: ArmOfSweep) -> tuple[str, str, str] | None:
    """Return label, seed with kimg, and the address of the newest samples of the first seed."""
    for state in arm.states:
        files = sorted((state.entry.path / "samples").glob("*kimg.png"))
        if not files:
            continue
        try:
            with Image.open(files[-1]) as grid:
                grid.thumbnail((GRID_SIDE, GRID_SIDE))
                buffer = io.BytesIO()
                grid.convert("RGB").save(buffer, "WEBP", quality=80)
        except (OSError, UnidentifiedImageError):
            continue  # another process may be replacing it
        kimg = float(files[-1].name.removesuffix("kimg.png"))
        uri = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        return arm.label, f"seed {state.entry.seed}, {kimg:g} kimg", uri
    return None


@dataclass(frozen=True)
class Chart:
    """A line chart as parts of an SVG image."""

    title: str
    lines: tuple[tuple[str, str, str, str], ...]
    """Label, last value, points of the mean, and points of the range over runs ("": one run)."""
    ticks: tuple[tuple[float, str], ...]
    """Height in the view box, and value."""
    kimg: tuple[str, str]
    """At the left and right end."""


def _chart(
    title: str, curves: Mapping[str, MeanCurve | None], ink: Mapping[str, Ink]
) -> Chart | None:
    """Draw the curves of arms; None if there is none. Coloured ones are on top."""
    known = {label: c for label, c in curves.items() if c is not None}
    if not known:
        return None
    kimgs = [c.kimg for c in known.values()]
    left, right = min(k[0] for k in kimgs), max(k[-1] for k in kimgs)
    low, high = min(c.low.min() for c in known.values()), max(c.high.max() for c in known.values())
    if len(known) > COLOURED:  # a single run that diverges should not flatten all others
        means = np.concatenate([c.mean for c in known.values()])
        low, high = np.percentile(means, (1, 99))
    pad = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - pad, high + pad

    def points(x: np.ndarray, y: np.ndarray) -> list[str]:
        across = (x - left) / max(right - left, 1e-9) * WIDTH
        down = (1 - (y.clip(low, high) - low) / (high - low)) * HEIGHT
        return [f"{a:.0f},{d:.1f}" for a, d in zip(across, down, strict=True)]

    lines = []
    for label in sorted(known, key=lambda x: x in ink):
        curve, band = known[label], ""
        if label in ink and (curve.high > curve.low).any():
            upper, lower = points(curve.kimg, curve.high), points(curve.kimg, curve.low)
            band = " ".join([*upper, *reversed(lower)])
        line = " ".join(points(curve.kimg, curve.mean))
        lines.append((label, significant(float(curve.mean[-1])), line, band))
    values = [t for t in MaxNLocator(4).tick_values(low, high) if low <= t <= high]
    ticks = [(HEIGHT * (high - t) / (high - low), f"{t:g}") for t in values]
    return Chart(title, tuple(lines), tuple(ticks), (f"{left:g}", f"{right:g}"))
