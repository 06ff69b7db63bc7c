"""The runs of a sweep: read from its YAML file, and recorded in `sweep.json`."""

import itertools
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lightning_gan3d import config as cfg
from lightning_gan3d.arms import Arm, arm_labels, short_names, value_text
from lightning_gan3d.config import ConfigError
from lightning_gan3d.experiment import ExperimentConfig, load_experiment
from lightning_gan3d.files import parse_json, write_json
from lightning_gan3d.presets import find_file, preset_names
from lightning_gan3d.ranges import Count, is_folder_name
from lightning_gan3d.registry import name_of
from lightning_gan3d.runs import run_path
from lightning_gan3d.sweep.search import SearchConfig, read_trials

SWEEP_FILE = "sweep.json"
MAX_RUNS = 10_000
_STATE = ("state", "exit_code", "seconds", "last_line")
"""What the records of earlier versions also had."""


@dataclass(frozen=True, kw_only=True)
class SweepEntry:
    """One run of a sweep."""

    preset: str
    """Preset or YAML file."""
    overrides: tuple[str, ...]
    """`key.path=value` overrides, including the seed."""
    seed: int
    """Seed of the run."""
    experiment: str
    """`name` of the resolved configuration."""
    representation: str
    """`kind` of its representation."""
    path: Path
    """Run directory; relative to the file's folder in `sweep.json`."""
    kimg: float = 0.0
    """Training images in thousands."""
    hours: float | None = None
    """Training time after which it is done, if that comes first."""
    trial: int | None = None
    """Number of its trial in a search, from 0."""
    arm: str = ""
    """`label` of the configuration."""
    factors: dict[str, str] = field(default_factory=dict)
    """Values of `grid`, `zip` and `search` by their short names."""

    @property
    def label(self) -> str:
        """Name in log lines."""
        return f"{self.experiment}{self.arm and f', {self.arm},'} seed {self.seed}"

    @property
    def id(self) -> str:
        """Name of its files, e.g. `ablation-d34c17bc-s0`: the hash is that of its configuration."""
        return f"{self.path.parent.name}-{self.path.name}"


@dataclass(frozen=True, kw_only=True)
class PlannedRun(SweepEntry):
    """A run with its configuration."""

    config: ExperimentConfig
    """Resolved and checked, with the seed."""


@dataclass(frozen=True)
class _Record:
    runs: tuple[SweepEntry, ...]


def write_record(path: Path, entries: Sequence[SweepEntry]) -> None:
    """Write `sweep.json`, with run directories relative to its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent.resolve()
    rows = [{f.name: getattr(e, f.name) for f in fields(SweepEntry)} for e in entries]
    for row in rows:
        row["path"] = Path(os.path.relpath(row["path"].resolve(), folder)).as_posix()
    write_json(path, {"runs": rows})


def read_record(path: Path) -> list[SweepEntry]:
    """Read `sweep.json`."""
    try:
        tree = parse_json(path.read_bytes(), dict)
        for row in tree.get("runs", ()):
            for key in _STATE:
                row.pop(key, None)
        record = cfg.build(_Record, tree)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: not a sweep record ({error}); give run directories instead, or run the sweep "
            "again"
        ) from None
    paths = [Path(os.path.normpath(path.parent / e.path)) for e in record.runs]
    return [replace(e, path=p) for e, p in zip(record.runs, paths, strict=True)]


@dataclass(frozen=True)
class SweepRun:
    """One configuration of a sweep. In YAML, a string stands for its preset."""

    preset: str
    """A preset, or a YAML file relative to the sweep file."""
    overrides: tuple[str, ...] = ()
    """`key.path=value` overrides, applied after those of the sweep."""
    label: str = ""
    """Name in logs and reports; default: by what differs from the others."""


@dataclass(frozen=True)
class SweepConfig:
    """Configurations x seeds, and the number of parallel runs."""

    runs: tuple[SweepRun, ...]
    """The configurations."""
    name: str = ""
    """Folder of the record and the logs. Default: the file name."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of each configuration; all runs of the first seed start first."""
    overrides: tuple[str, ...] = ()
    """`key.path=value` overrides of every run."""
    last_overrides: tuple[str, ...] = ()
    """Overrides of every run that win over all others: those of the command line are added."""
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Values of settings; each configuration is run with every combination."""
    zip: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Values of settings that change together: the first of each, the second of each, ..."""
    exclude: tuple[dict[str, Any], ...] = ()
    """Combinations of values of `grid` and `zip` that are not run."""
    search: SearchConfig | None = None
    """Settings that are drawn; each is combined with every combination."""
    jobs: Count | None = None
    """Runs at a time on this machine. None: as many as its GPUs carry; without a GPU one."""
    threads: Count | None = None
    """CPU threads per process. None: as in each configuration."""

    def __post_init__(self) -> None:
        """Check runs, name, seeds and conflicting overrides."""
        if not self.runs:
            raise ConfigError("runs=[]: name at least one preset", field="runs")
        if self.name and not is_folder_name(self.name):
            raise ConfigError(
                f"name={self.name!r}: use a plain folder name, e.g. demo", field="name"
            )
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(
                f"seeds={list(self.seeds)}: use different whole numbers from 0, e.g. [0, 1]",
                field="seeds",
            )
        self._check_factors()
        self._check_search()
        reserved = {"seed": "seeds"} | ({"training.threads": "threads"} if self.threads else {})
        of_runs = (o for run in self.runs for o in run.overrides)
        factors = (*self.grid, *self.zip, *(self.search.space if self.search else ()))
        for item in self.last_overrides:
            if (key := item.partition("=")[0]) in factors:
                raise ConfigError(
                    f"override `{item}`: the sweep varies {key}; change it in the file",
                    field="last_overrides",
                )
        for item in (*self.overrides, *self.last_overrides, *of_runs, *factors):
            field = reserved.get(item.partition("=")[0])
            if field:
                raise ConfigError(f"override `{item}`: use `{field}` of the sweep", field=field)

    def _check_factors(self) -> None:
        for key, values in (*self.grid.items(), *self.zip.items()):
            if not values:
                raise ConfigError(f"{key}=[]: name at least one value", field="grid")
        if both := self.grid.keys() & self.zip.keys():
            raise ConfigError(f"{min(both)} is in grid and in zip; keep one", field="zip")
        lengths = {key: len(values) for key, values in self.zip.items()}
        if len(set(lengths.values())) > 1:
            each = ", ".join(f"{key} {n}" for key, n in lengths.items())
            raise ConfigError(f"zip: give each key the same number of values ({each})", field="zip")
        num = math.prod(map(len, self.grid.values())) * max(lengths.values(), default=1)
        num *= self.search.trials if self.search else 1
        if num * len(self.runs) * len(self.seeds) > MAX_RUNS:
            raise ConfigError(f"more than {MAX_RUNS:,} runs; split the sweep", field="runs")
        if {} in self.exclude or not self.combinations():
            raise ConfigError("exclude: leaves no combination", field="exclude")
        for combination in self.exclude:
            for key, value in combination.items():
                if value not in (self.grid | self.zip).get(key, ()):
                    raise ConfigError(
                        f"exclude: {key}={value} is not a value of grid or zip", field="exclude"
                    )

    def _check_search(self) -> None:
        if self.search is None:
            return
        if both := self.search.space.keys() & (self.grid.keys() | self.zip.keys()):
            raise ConfigError(f"{min(both)} is in search and in grid or zip", field="search")
        if self.search.sampler == "tpe" and len(self.runs) * len(self.combinations()) > 1:
            raise ConfigError(
                "search.sampler=tpe: optimises one configuration; leave one in `runs`, and put "
                "`grid` and `zip` into search.space, or use sampler=random",
                field="search",
            )

    def combinations(self) -> list[dict[str, Any]]:
        """Every combination of the values of `grid` and `zip`, without the excluded ones."""
        steps = list(zip(*self.zip.values(), strict=True)) or [()]
        every = [
            dict(zip((*self.grid, *self.zip), (*of_grid, *of_zip), strict=True))
            for of_grid in itertools.product(*self.grid.values())
            for of_zip in steps
        ]
        return [c for c in every if not any(x.items() <= c.items() for x in self.exclude)]


def sweep_folder(sweep: SweepConfig, root: Path) -> Path:
    """Return the folder of a sweep's files."""
    return root / "sweeps" / sweep.name


def find_sweep(file: str | Path) -> Path:
    """Return the path of a sweep file, or of a preset such as `demo`."""
    if Path(file).suffix not in (".yaml", ".yml") and f"sweeps/{file}" in preset_names():
        return find_file(f"sweeps/{file}")
    return find_file(file)


def load_sweep(
    file: str | Path, seeds: Sequence[int] = (), overrides: Sequence[str] = ()
) -> tuple[SweepConfig, Path]:
    """Read a sweep file; return it with its path.

    `seeds` replace those of the file; `overrides` win over all in the file.
    """
    path = find_sweep(file)
    origins = cfg.Origins()
    tree = cfg.resolve(cfg.load_tree(path, origins))
    runs: Any = tree.get("runs")
    if isinstance(runs, list):
        tree["runs"] = [{"preset": run} if isinstance(run, str) else run for run in runs]
    sweep = cfg.build(SweepConfig, tree, origins)
    return replace(
        sweep,
        name=sweep.name or path.stem,
        seeds=tuple(seeds) or sweep.seeds,
        last_overrides=(*sweep.last_overrides, *overrides),
    ), path


def expand(sweep: SweepConfig, file: Path, root: Path) -> list[PlannedRun]:
    """List all runs, seed by seed; validates each configuration.

    The arms of a seed are in the order of `runs`, each with all combinations of `grid` and `zip`.
    """
    arms: list[PlannedRun] = []
    known: dict[Path, PlannedRun] = {}
    search = sweep.search
    names = short_names([*sweep.grid, *sweep.zip, *(search.space if search else ())])
    trials = read_trials(search, sweep_folder(sweep, root)) if search else [{}]
    for number, run in enumerate(sweep.runs):
        preset = str(find_file(run.preset, file.parent)) if _is_file(run) else run.preset
        for combination, (trial, drawn) in itertools.product(
            sweep.combinations(), enumerate(trials)
        ):
            combination = {**combination, **drawn}
            own = [f"{key}={_written(value)}" for key, value in combination.items()]
            factors = {names[key]: value_text(value) for key, value in combination.items()}
            overrides = [*sweep.overrides, *run.overrides, *own, *_options(sweep, run, factors)]
            overrides += sweep.last_overrides
            name = " ".join([f"{file}: runs.{number} ({run.preset})", *own])
            try:
                config = load_experiment(preset, overrides)
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from None
            arm = PlannedRun(
                preset=preset,
                overrides=tuple(overrides),
                seed=0,
                experiment=config.name,
                representation=kind_of(config),
                path=run_path(replace(config, seed=0), root),
                kimg=config.training.kimg,
                hours=config.training.hours,
                trial=trial if search else None,
                arm=config.label,
                factors=factors,
                config=config,
            )
            if (same := known.setdefault(arm.path, arm)) is not arm:
                raise ConfigError(
                    f"{name} is the same experiment as {same.label}; change the overrides of one "
                    "of them"
                )
            arms.append(arm)
    if search:  # not by what differs, which later trials change
        arms = [_named(arm, _of_factors(arm, len(sweep.runs) > 1)) for arm in arms]
    elif names:  # otherwise reports name arms by what differs between all of their runs
        labels = arm_labels(
            [Arm(a.representation, a.experiment, a.arm, cfg.to_tree(a.config)) for a in arms]
        )
        arms = [_named(arm, label) for arm, label in zip(arms, labels, strict=True)]
    return [_seeded(arm, seed) for seed in sweep.seeds for arm in arms]


def _options(sweep: SweepConfig, run: SweepRun, factors: Mapping[str, str]) -> list[str]:
    """Overrides that follow from other fields of the sweep: threads and label."""
    options = [] if sweep.threads is None else [f"training.threads={sweep.threads}"]
    if run.label:
        several = len(sweep.combinations()) > 1 or sweep.search is not None
        parts = [f"{key} {value}" for key, value in factors.items()] if several else []
        options.append(f"label={_written(', '.join([run.label, *parts]))}")
    return options


def _of_factors(arm: PlannedRun, several: bool) -> str:
    parts = [arm.representation] if several else []
    return ", ".join([*parts, *(f"{key} {value}" for key, value in arm.factors.items())])


def _named(arm: PlannedRun, label: str) -> PlannedRun:
    if arm.arm:
        return arm
    group = f"{arm.experiment}, {label}"
    logging = replace(arm.config.logging, wandb_group=group)
    overrides = (*arm.overrides, f"logging.wandb_group={_written(group)}")
    return replace(arm, arm=label, overrides=overrides, config=replace(arm.config, logging=logging))


def _seeded(arm: PlannedRun, seed: int) -> PlannedRun:
    return replace(
        arm,
        overrides=(*arm.overrides, f"seed={seed}"),
        seed=seed,
        path=arm.path.with_name(f"{arm.path.name.partition('-')[0]}-s{seed}"),
        config=replace(arm.config, seed=seed),
    )


def _is_file(run: SweepRun) -> bool:
    return Path(run.preset).suffix in (".yaml", ".yml")


def _written(value: Any) -> str:
    """Write a value as in an override."""
    word = isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w ./-]*", value)
    return value if word and cfg.parse_yaml(value) == value else json.dumps(value)


def kind_of(config: ExperimentConfig) -> str:
    """Name of the representation."""
    return name_of("representations")(type(config.generator.representation))
