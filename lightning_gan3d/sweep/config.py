"""A sweep: configurations times seeds from YAML, in a fixed order, checked at the start."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_gan3d import config as cfg
from lightning_gan3d.config import ConfigError
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.presets import find_file, preset_names
from lightning_gan3d.registry import name_of
from lightning_gan3d.runs import run_path
from lightning_gan3d.sweep.record import SweepEntry


@dataclass(frozen=True)
class SweepRun:
    """One configuration of a sweep. In YAML its preset alone may stand for it."""

    preset: str
    """A preset, or a YAML file relative to the sweep's."""
    overrides: tuple[str, ...] = ()
    """`key.path=value` for this configuration; they win over those of the sweep."""


@dataclass(frozen=True)
class SweepConfig:
    """Configurations times seeds, and how many run at a time."""

    runs: tuple[SweepRun, ...]
    """The configurations."""
    name: str = ""
    """Names the folder of the sweep's record and logs; by default that of its file."""
    seeds: tuple[int, ...] = (0,)
    """Each configuration runs once with each; all of the first seed come first."""
    overrides: tuple[str, ...] = ()
    """`key.path=value` for every run."""
    jobs: int = 1
    """Processes side by side."""
    threads: int | None = None
    """CPU threads of each process. None: as each configuration says."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.runs:
            raise ConfigError("runs=[]: name at least one preset", field="runs")
        if set(self.name) & set('/\\\n:*?"<>|') or self.name.startswith("."):
            raise ConfigError(
                f"name={self.name!r}: use a plain folder name, e.g. demo", field="name"
            )
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(
                f"seeds={list(self.seeds)}: use different whole numbers from 0, e.g. [0, 1]",
                field="seeds",
            )
        for field in ("jobs", "threads"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ConfigError(f"{field}={value}: use a whole number from 1", field=field)
        for field, items in [
            ("overrides", self.overrides),
            *(("runs", run.overrides) for run in self.runs),
        ]:
            owned = {"seed": "seeds", "training.threads": "threads"}
            for item in items:
                key = item.partition("=")[0]
                if key in owned and (key == "seed" or self.threads is not None):
                    raise ConfigError(
                        f"override `{item}`: the sweep sets it; use `{owned[key]}`", field=field
                    )


def find_sweep(file: str | Path) -> Path:
    """Return a sweep's file by path, or by the name of one that is installed, e.g. `demo`."""
    if Path(file).suffix not in (".yaml", ".yml") and f"sweeps/{file}" in preset_names():
        return find_file(f"sweeps/{file}")
    return find_file(file)


def load_sweep(file: str | Path) -> tuple[SweepConfig, Path]:
    """Read a sweep; returns it with the path of its file."""
    path = find_sweep(file)
    origins = cfg.Origins()
    tree = cfg.resolve(cfg.load_tree(path, origins))
    runs: Any = tree.get("runs")
    if isinstance(runs, list):
        tree["runs"] = [{"preset": run} if isinstance(run, str) else run for run in runs]
    sweep = cfg.build(SweepConfig, tree, origins)
    return (sweep if sweep.name else dataclasses.replace(sweep, name=path.stem)), path


def expand(sweep: SweepConfig, file: Path, root: Path) -> list[SweepEntry]:
    """Return all runs: seed by seed, in the order of `runs`; each configuration is checked."""
    entries: list[SweepEntry] = []
    for seed in sweep.seeds:
        for number, run in enumerate(sweep.runs):
            entry = _entry(sweep, run, seed, f"{file}: runs.{number} ({run.preset})", file, root)
            for other in entries:
                if other.path == entry.path:
                    raise ConfigError(
                        f"{file}: runs.{number} ({run.preset}) with seed {seed} is the same "
                        f"experiment as {other.preset}; give one of them another override"
                    )
            entries.append(entry)
    return entries


def _entry(
    sweep: SweepConfig, run: SweepRun, seed: int, where: str, file: Path, root: Path
) -> SweepEntry:
    preset = run.preset
    if Path(preset).suffix in (".yaml", ".yml"):
        preset = str(file.parent / preset)
    overrides: Sequence[str] = (*sweep.overrides, *run.overrides, f"seed={seed}")
    if sweep.threads is not None:
        overrides = (*overrides, f"training.threads={sweep.threads}")
    try:
        config = load_experiment(preset, overrides)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return SweepEntry(
        preset=preset,
        overrides=tuple(overrides),
        seed=seed,
        experiment=config.name,
        representation=name_of("representations")(type(config.generator.representation)),
        path=run_path(config, root),
    )
