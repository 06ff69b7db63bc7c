"""Optional Weights & Biases logging; a failure disables it but never stops the run."""

import logging
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from lightning_gan3d import config as cfg
from lightning_gan3d import runs
from lightning_gan3d.checkpoints.load import export_generator
from lightning_gan3d.experiment import ExperimentConfig
from lightning_gan3d.metric import Metric
from lightning_gan3d.metric_table import Use, describe, order, selected
from lightning_gan3d.training import wandb_folders

log = logging.getLogger(__name__)
TILE = 128
"""Side of an image of a sample grid in pixels, at least."""
ORBIT = 60
"""Frames of an orbit."""
UPLOAD = 3600.0
"""Seconds to wait for the upload of videos and artifacts."""
FLUSH = 1.0
"""Seconds between writes of an offline run. W&B's 15 s would be lost at a kill."""
PATIENCE = 5.0
"""Seconds to wait beyond `logging.wandb_timeout`."""


def without_paths(config: ExperimentConfig) -> dict[str, Any]:
    """Return a configuration as plain values, with the file names of its paths only."""
    tree: dict[str, Any] = cfg.to_tree(config)
    critic = tree["critic"]
    del tree["data"]["make"]  # a command with paths
    for part in (tree["data"], tree["init_from"], critic, *critic["encoders"]):
        for key in part.keys() & {"path", "target", "source", "image", "text"}:
            part[key] = Path(part[key]).name
    return tree


class WandbLogger:
    """Logs rows and sample grids to W&B, if configured; the first failure disables it.

    Logs the configuration without paths, and generated images; no code, repository state, host,
    user name, console output or images of the data set. Each training step is logged once, also
    if a resumed run repeats it.
    """

    def __init__(self, config: ExperimentConfig, path: Path, enabled: bool = True) -> None:
        """Start the W&B run, or continue the one with the same id."""
        self._run: Any = None
        self._uploads = False
        self._wandb: Any = None
        self._logging, self._seed = config.logging, config.seed
        self._training, self._path = config.training, path
        self._logged, self._step = -1, -1
        self._values: dict[str, Any] = {}
        self._enabled = False
        mode = config.logging.wandb
        if mode == "off" or not enabled:
            return
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            # Outside the timeout, which is for the network: imports may be slow.
            import wandb
        except ImportError as error:
            log.warning("warning: cannot import wandb (%s); W&B logging disabled", error)
            return
        self._enabled, self._wandb = True, wandb
        logging.getLogger("wandb").setLevel(logging.CRITICAL)  # its debug.log holds paths
        tree = without_paths(config)
        # An agent of `wandb sweep` has chosen an id for its run.
        own_id = (
            None
            if "WANDB_SWEEP_ID" in os.environ
            else f"{config.name}-{config.hash}-s{config.seed}"
        )
        own = f"{config.name}{config.label and ', '}{config.label}"
        arm = config.logging.wandb_group or own

        def init() -> Any:
            logged = wandb_folders.continue_after(path, mode == "online")
            run = wandb.init(
                project=config.logging.wandb_project,
                entity=config.logging.wandb_entity or None,
                tags=[*config.logging.wandb_tags, *([config.label[:64]] if config.label else [])],
                notes=config.logging.wandb_notes or None,
                dir=str(path),
                mode=mode,
                id=own_id,
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
                    symlink=False,
                    host="",
                    program="gan3d",
                    x_disable_machine_info=True,
                    x_save_requirements=False,
                    x_transaction_log_flush_interval=FLUSH,
                ),
            )
            run.define_metric("*", step_metric="kimg")
            self._logged = run.step - 1 if mode == "online" else logged
            return run

        self._run = self._try("init", init)

    def row(self, row: Mapping[str, Any]) -> None:
        """Collect a row of `metrics.jsonl`, for `commit`."""
        self._add(row["step"], row)

    def image(self, step: int, file: Path) -> None:
        """Collect a sample grid; small ones are enlarged to `TILE` pixels per image."""
        kimg = step * self._training.batch / 1000

        def image() -> Any:
            with Image.open(file) as grid:
                factor = max(1, TILE * self._logging.sample_views // grid.width)
                size = (factor * grid.width, factor * grid.height)
                enlarged = grid.resize(size, Image.Resampling.NEAREST)
            return self._wandb.Image(enlarged, caption=f"seed {self._seed}, {kimg:g} kimg")

        if step > self._logged and (grid := self._try("Image", image)) is not None:
            self._add(step, {"kimg": kimg, "samples": grid})

    def _add(self, step: int, values: Mapping[str, Any]) -> None:
        if step > self._logged:
            self._step = step
            self._values = {**self._values, **values}

    def commit(self) -> None:
        """Log what was collected at a step; W&B ignores later values of the same step."""
        step, values = self._step, self._values
        if values:
            self._values, self._logged = {}, step
            self._try("log", lambda: self._run.log(values, step=step, commit=True))

    def catch_up(self, step: int) -> None:
        """Log rows and sample grids up to a step that a kill kept from W&B."""
        if not self._enabled:
            return
        by_step: dict[int, list[dict[str, Any]]] = {}
        for row in runs.read_rows(self._path / runs.METRICS):
            by_step.setdefault(row["step"], []).append(row)
        grids = {
            round(float(file.name.removesuffix("kimg.png")) * 1000 / self._training.batch): file
            for file in (self._path / "samples").glob("*kimg.png")
        }
        for at in sorted({*by_step, *grids}):
            if self._logged < at <= step:
                for row in by_step.get(at, []):
                    self.row(row)
                if at in grids:
                    self.image(at, grids[at])
                self.commit()

    def evaluation(self, metrics: Sequence[Metric]) -> None:
        """Write the metrics to the summary, by their keys, and those of the headline to a table."""
        values = {m.key: m.value for m in metrics if m.value is not None and m.at is None}
        self._try("summary", lambda: self._run.summary.update(values))
        by_id = {m.id: m for m in metrics if m.value is not None}
        rows = [
            [info.heading, info.scale * value, by_id[metric_id].n]
            for metric_id in sorted(selected(by_id, Use.SUMMARY), key=order)
            if (value := by_id[metric_id].value) is not None
            for info in [describe(metric_id, by_id[metric_id].unit)]
        ]
        columns = ["metric", "value", "n"]
        table = self._try("Table", lambda: self._wandb.Table(columns=columns, data=rows))
        self._add_final({"headline": table})

    def orbits(self, path: Path) -> None:
        """Log an orbit of each latent of `logging.wandb_videos`, with depth."""
        num = self._logging.wandb_videos
        if not self._enabled or num == 0:
            return
        from lightning_gan3d.inference.config import VideoOptions
        from lightning_gan3d.inference.video import video

        suffix: Literal["mp4", "gif"] = "mp4" if find_spec("av") else "gif"
        try:
            options = VideoOptions(
                seeds=f"0-{num - 1}",
                outputs="image,depth",
                frames=ORBIT,
                enlarge=max(1, TILE // runs.read_manifest(path)["resolution"]),
                format=suffix,
            )
            video([str(path)], options, path / "videos")
        except Exception as error:
            log.warning("warning: no videos for W&B (%s: %s)", type(error).__name__, error)
            return

        files = {seed: path / f"videos/seed{seed:04d}.{suffix}" for seed in range(num)}

        def videos() -> dict[str, Any]:
            return {
                f"orbit/seed {seed}": self._wandb.Video(str(file), format=suffix)
                for seed, file in files.items()
            }

        self._add_final(self._try("Video", videos) or {})
        self._uploads = True

    def _add_final(self, values: Mapping[str, Any]) -> None:
        """Collect values of the trained generator, after the last step."""
        kimg = self._training.num_steps * self._training.batch / 1000
        self._add(self._training.num_steps + 1, {"kimg": kimg, **values})

    def checkpoint(self, path: Path) -> None:
        """Upload the averaged generator of a run as an artifact, if `logging.wandb_checkpoint`."""
        if not self._logging.wandb_checkpoint:
            return

        def upload() -> None:
            artifact = self._wandb.Artifact(re.sub(r"[^\w.-]", "_", self._run.id), type="model")
            with tempfile.TemporaryDirectory() as folder:
                artifact.add_dir(str(export_generator(path, Path(folder) / "generator")))
            self._run.log_artifact(artifact)

        self._try("log_artifact", upload)
        self._uploads = True

    def close(self, exit_code: int) -> None:
        """Finish the W&B run. Offline runs stay in the run directory, for `wandb sync`."""
        self.commit()
        finish = UPLOAD if self._uploads else None

        def close() -> None:
            self._run.finish(exit_code=exit_code)
            for logs in self._path.glob("wandb/offline-run-*/logs"):  # name a temporary folder
                shutil.rmtree(logs)

        self._try("finish", close, finish)
        self._enabled = False

    def _try(self, name: str, action: Callable[[], Any], timeout: float | None = None) -> Any:
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
        timeout = timeout or self._logging.wandb_timeout + PATIENCE
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
