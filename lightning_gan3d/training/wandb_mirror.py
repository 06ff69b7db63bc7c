"""The mirror of a run's record on Weights & Biases: off by default, and never a run's undoing."""

import copy
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning_gan3d import config as cfg
from lightning_gan3d.experiment import ExperimentConfig

PATIENCE = 5.0
"""Seconds beyond the configured ones that anything is waited for."""


class Mirror:
    """Repeats rows and sample grids. The first failure switches it off, with a line that says so.

    It sends the configuration without paths, and generated images; no code, no state of the
    repository, no output, no images of the data set.
    """

    def __init__(
        self, config: ExperimentConfig, path: Path, leads: bool, warn: Callable[[str], None]
    ) -> None:
        """Begin, or go on with, the run of the same name; wait no longer than the configuration."""
        self._warn = warn
        self._run: Any = None
        self._timeout = config.logging.wandb_timeout
        mode = config.logging.wandb
        if mode == "off" or not leads:
            return

        try:
            # Not within the time allowed: a slow disk is no network failure.
            import wandb
        except ImportError as error:
            warn(f"warning: W&B cannot be imported ({error}); the mirror is off")
            return

        def begin() -> Any:
            tree = copy.deepcopy(cfg.to_tree(config))
            del tree["data"]["path"]
            return wandb.init(
                project=config.logging.wandb_project,
                dir=str(path),
                mode=mode,
                id=f"{config.name}-{config.hash}-s{config.seed}",
                resume="allow",
                name=f"{config.name}-s{config.seed}",
                group=f"{config.name}-{config.hash}",
                job_type="train",
                config=tree,
                settings=wandb.Settings(
                    init_timeout=self._timeout,
                    disable_code=True,
                    disable_git=True,
                    console="off",
                    silent=True,
                    x_disable_machine_info=True,
                ),
            )

        self._run = self._try(begin, "begin")
        if self.active:
            self._try(lambda: self._run.define_metric("*", step_metric="kimg"), "define the axis")

    @property
    def active(self) -> bool:
        """Whether anything is still mirrored."""
        return self._run is not None

    def row(self, row: Mapping[str, Any]) -> None:
        """Repeat a row of `metrics.jsonl`."""
        if self.active:
            self._try(lambda: self._run.log(dict(row)), "log a row")

    def picture(self, kimg: float, file: Path) -> None:
        """Repeat a sample grid."""
        if self.active:

            def log() -> None:
                import wandb

                self._run.log({"kimg": kimg, "samples": wandb.Image(str(file))})

            self._try(log, "log a grid")

    def close(self, exit_code: int) -> None:
        """End; an offline mirror stays in the run's directory, for `wandb sync`."""
        if self.active:
            self._try(lambda: self._run.finish(exit_code=exit_code), "finish")
            self._run = None

    def _try(self, action: Callable[[], Any], what: str) -> Any:
        """Run in a thread that may be left behind: some network failures never come back."""
        outcome: dict[str, Any] = {}

        def work() -> None:
            try:
                outcome["value"] = action()
            except BaseException as error:
                outcome["error"] = error

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        patience = self._timeout + PATIENCE
        thread.join(patience)
        if "value" in outcome:
            return outcome["value"]
        why = outcome.get("error", TimeoutError(f"no answer within {patience:g} s"))
        self._warn(
            f"warning: W&B could not {what} ({type(why).__name__}: {why}); the mirror is off, "
            "metrics.jsonl goes on"
        )
        self._run = None
        return None
