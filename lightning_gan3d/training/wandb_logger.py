"""Optional Weights & Biases logging; a failure disables it but never stops the run."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lightning_gan3d import config as cfg
from lightning_gan3d.experiment import ExperimentConfig
from lightning_gan3d.metric import Metric

log = logging.getLogger(__name__)
TILE = 128
"""Side of an image of a sample grid in pixels, at least."""
PATIENCE = 5.0
"""Seconds to wait beyond `logging.wandb_timeout`."""


class WandbLogger:
    """Logs rows and sample grids to W&B, if configured; the first failure disables it.

    Uploads the configuration without paths, and generated images; no code, repository state,
    console output or images of the data set.
    """

    def __init__(self, config: ExperimentConfig, path: Path, enabled: bool = True) -> None:
        """Start the W&B run, or continue the one with the same id."""
        self._run: Any = None
        self._logging, self._seed = config.logging, config.seed
        self._enabled = False
        mode = config.logging.wandb
        if mode == "off" or not enabled:
            return
        try:
            # Outside the timeout, which is for the network: imports may be slow.
            import wandb
        except ImportError as error:
            log.warning("warning: cannot import wandb (%s); W&B logging disabled", error)
            return
        self._enabled, self._image = True, wandb.Image
        tree = cfg.to_tree(config)
        del tree["data"]["path"]

        own = f"{config.name}{config.label and ', '}{config.label}"
        arm = config.logging.wandb_group or own

        def init() -> Any:
            return wandb.init(
                project=config.logging.wandb_project,
                entity=config.logging.wandb_entity or None,
                tags=[*config.logging.wandb_tags, *([config.label] if config.label else [])],
                notes=config.logging.wandb_notes or None,
                dir=str(path),
                mode=mode,
                id=f"{config.name}-{config.hash}-s{config.seed}",
                resume="allow",
                name=f"{arm} seed {config.seed}",
                group=f"{config.name}-{config.hash}" if arm == config.name else arm,
                job_type="train",
                config=tree,
                settings=wandb.Settings(
                    init_timeout=config.logging.wandb_timeout,
                    disable_code=True,
                    disable_git=True,
                    console="off",
                    silent=True,
                    x_disable_machine_info=True,
                ),
            )

        self._run = self._try("init", init)
        self._try("define_metric", lambda: self._run.define_metric("*", step_metric="kimg"))

    def row(self, row: Mapping[str, Any]) -> None:
        """Log a row of `metrics.jsonl`."""
        self._try("log", lambda: self._run.log(dict(row)))

    def image(self, kimg: float, file: Path) -> None:
        """Log a sample grid; small ones are enlarged to `TILE` pixels per image."""

        def log_image() -> None:
            with Image.open(file) as grid:
                factor = max(1, TILE * self._logging.sample_views // grid.width)
                size = (factor * grid.width, factor * grid.height)
                enlarged = grid.resize(size, Image.Resampling.NEAREST)
            caption = f"seed {self._seed}, {kimg:g} kimg"
            self._run.log({"kimg": kimg, "samples": self._image(enlarged, caption=caption)})

        self._try("log", log_image)

    def evaluation(self, metrics: Sequence[Metric]) -> None:
        """Write the metrics of the evaluation to the summary, by their keys."""
        values = {m.key: m.value for m in metrics if m.value is not None and m.at is None}
        self._try("summary", lambda: self._run.summary.update(values))

    def close(self, exit_code: int) -> None:
        """Finish the W&B run. Offline runs stay in the run directory, for `wandb sync`."""
        self._try("finish", lambda: self._run.finish(exit_code=exit_code))
        self._enabled = False

    def _try(self, name: str, action: Callable[[], Any]) -> Any:
        """Run in a thread, and abandon it after the timeout: some network calls never return."""
        if not self._enabled:
            return None
        outcome: dict[str, Any] = {}

        def work() -> None:
            try:
                outcome["value"] = action()
            except BaseException as error:
                outcome["error"] = error

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        timeout = self._logging.wandb_timeout + PATIENCE
        # Offline, nothing waits for a network, and a busy disk is no reason to stop logging.
        thread.join(None if self._logging.wandb == "offline" else timeout)
        if "value" in outcome:
            return outcome["value"]
        error = outcome.get("error", TimeoutError(f"no answer within {timeout:g} s"))
        log.warning(
            "warning: wandb.%s failed (%s: %s); W&B logging disabled, metrics.jsonl continues",
            name, type(error).__name__, error,
        )  # fmt: skip
        self._enabled = False
        return None
