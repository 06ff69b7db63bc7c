"""A run's directory: `runs/<experiment>/<hash8>-s<seed>/`, and what is in it."""

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from lightning_gan3d import config as cfg
from lightning_gan3d.config import ConfigError
from lightning_gan3d.files import write_text
from lightning_gan3d.metric import Metric, read_measures

if TYPE_CHECKING:
    from lightning_gan3d.experiment import ExperimentConfig
    from lightning_gan3d.generator import Generator

CONFIG, MANIFEST, METRICS, LOCK = "config.yaml", "manifest.json", "metrics.jsonl", "run.lock"


class Run:
    """Reads a run directory."""

    def __init__(self, path: str | Path) -> None:
        """Open; the directory must hold a configuration."""
        self.path = Path(path)
        if not (self.path / CONFIG).is_file():
            raise ConfigError(f"{self.path}: not a run directory ({CONFIG} is missing)")

    def config(self) -> "ExperimentConfig":
        """The resolved configuration."""
        from lightning_gan3d.experiment import load_experiment

        return load_experiment(self.path / CONFIG)

    def manifest(self) -> dict[str, Any]:
        """Where the run comes from: commit, versions, device, data, command; empty before."""
        return read_manifest(self.path)

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, without a last one that was cut off."""
        return list(read_rows(self.path / METRICS))

    def measures(self) -> list[Metric]:
        """What was measured afterwards: `evaluation.json` and `bench.json`."""
        files = [self.path / name for name in ("evaluation.json", "bench.json")]
        return [m for file in files if file.is_file() for m in read_measures(file)]

    def generator(self, device: str = "cpu") -> "Generator":
        """The averaged generator of the newest whole checkpoint."""
        from lightning_gan3d.checkpoints.load import load_generator

        return load_generator(self.path, device)

    @property
    def finished(self) -> bool:
        """Whether the training came to its end."""
        return bool(self.manifest().get("finished"))


def run_path(config: "ExperimentConfig", root: str | Path) -> Path:
    """Return the directory of a run: equal for equal experiments and seeds."""
    return Path(root) / config.name / f"{config.hash}-s{config.seed}"


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a directory; empty before there is one."""
    file = path / MANIFEST
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def missing_folders(path: Path) -> list[Path]:
    """Return the folders that making `path` would make, outermost first."""
    return [p for p in (*reversed(path.parents), path) if not p.exists()]


def remove_traces(path: Path, made: Sequence[Path]) -> None:
    """Remove the directory of a run that never began, and those of `made` that are then empty."""
    shutil.rmtree(path)
    for folder in reversed([p for p in made if p != path]):
        try:
            folder.rmdir()
        except OSError:  # another run has moved in meanwhile
            return


def write_config(path: Path, config: "ExperimentConfig") -> None:
    """Write the resolved configuration, whole or not at all."""
    write_text(path / CONFIG, cfg.to_yaml(config))


def read_rows(path: Path) -> Iterable[dict[str, Any]]:
    """Read rows of JSON; a last one that was cut off, by a kill or a full disk, is left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except ValueError:
            if number < len(lines):
                raise ConfigError(f"{path}:{number} is not JSON; repair or remove it") from None


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row of plain values; a number that is not finite is written as null."""
    plain = {k: None if v != v or v in (float("inf"), -float("inf")) else v for k, v in row.items()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(plain, allow_nan=False) + "\n")


def drop_rows_after(path: Path, step: int) -> None:
    """Forget rows later than a checkpoint from which the run goes on, for they will come again."""
    if not path.is_file():
        return
    kept = [row for row in read_rows(path) if row["step"] <= step]
    write_text(path, "".join(json.dumps(row) + "\n" for row in kept))


class RunLock:
    """One process at a time per run directory. The system drops the lock when its holder dies."""

    def __init__(self, path: Path) -> None:
        """Name the directory."""
        self._path = path
        self._file: IO[str] | None = None

    def __enter__(self) -> "RunLock":
        """Take the lock, or say who has it."""
        file = (self._path / LOCK).open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise ConfigError(
                f"{self._path}: in use by {holder}; wait for it, or choose another --root"
            ) from None
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}")
        file.flush()
        self._file = file
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go."""
        if self._file is not None:
            self._file.close()
