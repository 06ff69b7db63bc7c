"""Run directories: `runs/<experiment>/<hash8>-s<seed>/`, and the files in them."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_gan3d import config as cfg
from lightning_gan3d.config import ConfigError
from lightning_gan3d.experiment import ExperimentConfig, load_experiment
from lightning_gan3d.files import parse_json, write_text

CONFIG, MANIFEST, METRICS = "config.yaml", "manifest.json", "metrics.jsonl"
EVALUATION, CONDITIONS = "evaluation.json", "evaluation.conditions.json"
"""Metrics of an evaluation, and its conditions."""


class Run:
    """Reads a run directory."""

    def __init__(self, path: str | Path) -> None:
        """Open a directory that has a configuration."""
        self.path = Path(path)
        if not (self.path / CONFIG).is_file():
            raise ConfigError(f"{self.path}: not a run directory ({CONFIG} is missing)")

    def config(self) -> ExperimentConfig:
        """The resolved configuration."""
        return load_experiment(self.path / CONFIG)

    def manifest(self) -> dict[str, Any]:
        """Provenance: commit, versions, device, data, command; empty before training."""
        return read_manifest(self.path)

    def metrics(self) -> list[dict[str, Any]]:
        """Rows of `metrics.jsonl`, logged during training; without an incomplete last row."""
        return list(read_rows(self.path / METRICS))

    @property
    def finished(self) -> bool:
        """True if training and evaluation are complete."""
        return bool(self.manifest().get("finished"))


def run_path(config: ExperimentConfig, root: str | Path) -> Path:
    """Return the directory of a run: equal for equal experiments and seeds."""
    return Path(root) / config.name / f"{config.hash}-s{config.seed}"


def walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders below `folder` and their file names, without those inside run directories."""
    for path, folders, files in os.walk(folder):
        folders.sort()
        if CONFIG in files:
            folders.clear()  # checkpoints inside have configurations too
        yield Path(path), files


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a directory; empty if there is none. `ConfigError` if damaged."""
    file = path / MANIFEST
    try:
        return parse_json(file.read_bytes(), dict) if file.is_file() else {}
    except ValueError as error:
        raise ConfigError(
            f"{file}: damaged ({type(error).__name__}); `gan3d train` writes it anew"
        ) from None


def missing_folders(path: Path) -> list[Path]:
    """Return the folders that creating `path` would create, outermost first."""
    return [p for p in (*reversed(path.parents), path) if not p.exists()]


def remove_run(path: Path, created: Sequence[Path]) -> None:
    """Remove the directory of a run that did not start, and the `created` parents if empty."""
    shutil.rmtree(path)
    for folder in reversed([p for p in created if p != path]):
        try:
            folder.rmdir()
        except OSError:  # contains another run
            return


def write_config(path: Path, config: ExperimentConfig) -> None:
    """Write the resolved configuration."""
    write_text(path / CONFIG, cfg.to_yaml(config))


def read_rows(path: Path, key: str = "") -> Iterable[dict[str, Any]]:
    """Read rows of JSON, except for a last one that a kill or a full disk left incomplete.

    `key`: only rows with it, and the last one; others are not parsed, which is faster.
    `ConfigError` if another one is no row.
    """
    if not path.is_file():
        return
    name, skipped = f'"{key}"'.encode() if key else b"", (0, b"")
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if name not in line and line[:1] == b"{" and line[-2:] == b"}\n":
                skipped = number, line
            else:
                skipped = 0, b""
                yield from _parsed(path, number, line)
    if skipped[0]:
        yield from _parsed(path, *skipped)


def _parsed(path: Path, number: int, line: bytes) -> Iterator[dict[str, Any]]:
    row = _row(line)
    if row is not None:
        yield row
    elif line.endswith(b"\n"):
        raise ConfigError(
            f"{path}:{number} is no row of JSON with a step; `gan3d train` leaves it out"
        )


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = parse_json(line, dict)
    except ValueError:
        return None
    return row if type(row.get("step")) is int else None


def repair(path: Path) -> Iterator[str]:
    """Set damaged files of a run aside as `*.damaged`, to be written anew; yields what was done."""
    try:
        read_manifest(path)
    except ConfigError:
        (path / MANIFEST).rename(path / f"{MANIFEST}.damaged")
        yield f"{path / MANIFEST} was damaged; it is written anew"
    try:
        for _ in read_rows(path / METRICS):
            pass
    except ConfigError:
        file = path / METRICS
        rows = [_row(line) for line in file.read_bytes().splitlines()]
        file.rename(path / f"{METRICS}.damaged")
        write_text(file, "".join(json.dumps(row) + "\n" for row in rows if row is not None))
        yield f"{file}: {rows.count(None)} damaged row(s) left out"


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row of plain values; NaN and infinity become null.

    Raises OSError, e.g. on a full disk, and leaves the file as it was.
    """
    plain = {k: None if v != v or v in (float("inf"), -float("inf")) else v for k, v in row.items()}
    data = (json.dumps(plain, allow_nan=False) + "\n").encode()
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            file.truncate(end)
            raise


def drop_rows_after(path: Path, step: int) -> None:
    """Drop rows after the checkpoint that a run continues from: it will write them again."""
    if path.is_file():
        rows = [row for row in read_rows(path) if row["step"] <= step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
