"""What happens between steps, in this order: look at the gate, log, measure, sample, save, stop."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch

from lightning_gan3d import devices, files, runs
from lightning_gan3d.cameras import Cameras
from lightning_gan3d.checkpoints.store import steps_in
from lightning_gan3d.experiment import ExperimentConfig
from lightning_gan3d.networks.fused.report import describe
from lightning_gan3d.training import distributed
from lightning_gan3d.training.alarms import alarms, scene_statistics
from lightning_gan3d.training.module import AdversarialModule
from lightning_gan3d.training.optimizers import Phase
from lightning_gan3d.training.samples import sample_grid, save_png
from lightning_gan3d.training.schedules import is_due
from lightning_gan3d.training.signals import StopRequest
from lightning_gan3d.training.wandb_mirror import Mirror

Say = Callable[[str], None]


class BrokenGradient(Exception):
    """A gradient was not finite; nothing has been learned since."""

    def __init__(self, phase: Phase, step: int) -> None:
        """Say which, and when."""
        super().__init__(f"the gradient of the {phase} is not finite in step {step}")


class CannotSave(Exception):
    """Checkpoints could not be written three times in a row."""


class Clock:
    """Seconds of training alone: it stands while the run logs, measures, samples or saves."""

    def __init__(self, seconds: float, device: torch.device) -> None:
        """Go on from `seconds`."""
        self.seconds = seconds
        self._device = device
        self._since: float | None = None

    def start(self) -> None:
        """Run."""
        self._since = time.monotonic()

    def stop(self) -> None:
        """Stand, when the device has done its work."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        if self._since is not None:
            self.seconds += time.monotonic() - self._since
        self._since = None


class Rhythm(lightning.Callback):
    """Does what is due after a step. Only process 0 writes and speaks; all take the same turns."""

    def __init__(
        self,
        config: ExperimentConfig,
        path: Path,
        cameras: Cameras,
        clock: Clock,
        stop: StopRequest,
        mirror: Mirror,
        save: Callable[[], Path],
        measure: Callable[[], dict[str, float]],
        say: Say,
    ) -> None:
        """Remember the tools; `cameras` are the columns of the sample grids."""
        self.config, self.path, self.cameras = config, path, cameras
        self.clock, self.stop, self.mirror = clock, stop, mirror
        self.save, self.measure, self.say = save, measure, say
        self.stopped = False
        self._failed_saves = 0
        self._raised: list[str] = []
        self._told: dict[str, str] = {}
        self._logged = (0, 0.0)

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Begin to count time, and take the signals back."""
        self.stop.watch()
        self.agreement = distributed.Agreement()
        self._logged = (module.images_seen, self.clock.seconds)
        if module.steps_done == 0 and self.config.training.sample_kimg > 0:
            self._sample(module)
        if trainer.world_size > 1:
            trainer.strategy.barrier()
        self.clock.start()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Do what is due."""
        del outputs, batch, batch_idx
        training = self.config.training
        after = module.images_seen
        before = after - training.batch
        last = module.steps_done >= training.num_steps
        stopping = self.agreement.any(self.stop.reason is not None) and not last

        def due(kimg: float) -> bool:
            return kimg > 0 and (last or is_due(kimg, before, after))

        logs, saves = due(training.log_kimg), due(training.snapshot_kimg) or last or stopping
        measures, samples = due(training.eval_kimg), due(training.sample_kimg)
        if not (logs or saves or measures or samples):
            return
        self.clock.stop()
        broken = module.gate.broken()
        if broken:
            raise BrokenGradient(*broken)
        if logs or stopping:
            self._log(module)
        if measures and distributed.rank() == 0:
            self._write(module, self.measure())
        if samples:
            self._sample(module)
        if saves:
            self._save(module, last)
        if stopping:
            self.stopped = trainer.should_stop = True
        self.clock.start()

    def _position(self, module: AdversarialModule) -> dict[str, float | int]:
        return {
            "step": module.steps_done,
            "kimg": module.images_seen / 1000,
            "seconds": round(self.clock.seconds, 3),
        }

    def _write(self, module: AdversarialModule, values: Mapping[str, float | int]) -> None:
        row = {**self._position(module), **values}
        runs.append_row(self.path / runs.METRICS, row)
        self.mirror.row(row)

    def _log(self, module: AdversarialModule) -> None:
        means = module.meter.read()
        if distributed.rank() != 0:
            return
        now = module.now(module.steps_done - 1)
        images, seconds = self._logged
        self._logged = (module.images_seen, self.clock.seconds)
        speed = (module.images_seen - images) / max(self.clock.seconds - seconds, 1e-9)
        memory = devices.peak_memory_mb(module.device)
        scene = {}
        if module.last_fake is not None:
            scene = scene_statistics(*module.last_fake, self.config.generator.scene.box)
        schedule = {
            "schedule/rendering_resolution": now.rendering_resolution,
            "schedule/blur_sigma": now.blur_sigma,
            "schedule/swap_probability": now.swap_probability,
            "schedule/learning_rate_factor": now.learning_rate_factor,
        }
        if self.config.augment.mode == "ada":
            schedule["augment/probability"] = float(module.augment.p)
        self._write(
            module,
            {**means, **scene, **schedule, "speed/img_s": speed, "memory/peak_mb": memory},
        )
        if self.config.logging.progress:
            self.say(self._progress(module, means, speed, memory))
        if self.config.logging.alarms:
            self._alarm(scene)
        self._tell_paths(module)

    def _tell_paths(self, module: AdversarialModule) -> None:
        """Say, and keep in the manifest, which code works, when that changes."""
        compiled = self.config.training.compile
        now = {"layers": "torch.compile" if compiled else describe(module.generator)}
        taken = getattr(module.generator.renderer, "path_taken", None)
        if taken is not None:  # a picture has no rays
            now["rendering_path"] = str(taken)
        words = {"layers": "synthesis layers:", "rendering_path": "rays are marched by"}
        for key, code in now.items():
            if code != self._told.get(key):
                self.say(f"{words[key]} {code}")
        if now != self._told:
            self._told = now
            manifest = {**runs.read_manifest(self.path), **now}
            files.write_json(self.path / runs.MANIFEST, manifest)

    def _progress(
        self, module: AdversarialModule, means: dict[str, float], speed: float, memory: float
    ) -> str:
        total = self.config.training.num_steps * self.config.training.batch
        left = (total - module.images_seen) / max(speed, 1e-9)
        return (
            f"{module.images_seen / 1000:9.2f} of {total / 1000:g} kimg  {speed:6.1f} img/s  "
            f"{_duration(left)} left  {memory:.0f} MB  D right {means['D/accuracy']:.0%}  "
            f"loss G {means['loss/G']:.3f} D {means['loss/D']:.3f}"
        )

    def _alarm(self, scene: dict[str, float]) -> None:
        """Say an alarm when it begins, not at every log."""
        found = alarms(scene)
        for text in found:
            if text not in self._raised:
                self.say(f"alarm: {text}")
        self._raised = found

    def _sample(self, module: AdversarialModule) -> None:
        if distributed.rank() != 0:
            return
        grid = sample_grid(
            module.average, self.cameras, self.config.logging, self.config.seed, module.device
        )
        kimg = module.images_seen / 1000
        file = self.path / "samples" / f"{kimg:010.3f}kimg.png"
        save_png(grid, file)
        self.mirror.picture(kimg, file)

    def _save(self, module: AdversarialModule, last: bool) -> None:
        """Save; a full disk or the like ends the training the third time, or when it is over."""
        if distributed.rank() != 0:
            return
        try:
            self.save()
            self._failed_saves = 0
        except (OSError, RuntimeError) as error:
            self._failed_saves += 1
            good = steps_in(self.path / "checkpoints")
            newest = good[-1][1].name if good else "none"
            self.say(
                f"warning: step {module.steps_done} could not be saved "
                f"({type(error).__name__}: {error}); last good checkpoint: {newest}"
            )
            if last or self._failed_saves >= 3 or self.stop.reason is not None:
                raise CannotSave(str(error)) from error


def _duration(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours} h {m:02d} min" if hours else f"{m} min {s:02d} s"
