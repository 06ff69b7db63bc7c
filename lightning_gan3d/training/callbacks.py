"""Callbacks of a run: log, checkpoints, sample images, distances, stop."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from lightning.pytorch.loggers import Logger
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from lightning_gan3d import devices, files, runs
from lightning_gan3d.cameras import Cameras
from lightning_gan3d.checkpoints.store import steps_in
from lightning_gan3d.cost import count_pair
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.datamodule import DataModule
from lightning_gan3d.draws import Draws
from lightning_gan3d.generator import Generator
from lightning_gan3d.images import Images, resize, to_uint8
from lightning_gan3d.metrics.process_group import rank
from lightning_gan3d.networks.mapping import with_class
from lightning_gan3d.networks.synthesis import describe_layers
from lightning_gan3d.training import checkpoint
from lightning_gan3d.training.config import LoggingConfig
from lightning_gan3d.training.distributed import Agreement
from lightning_gan3d.training.module import AdversarialModule
from lightning_gan3d.training.optimizers import NonFiniteGradient
from lightning_gan3d.training.processes import Session, is_main
from lightning_gan3d.training.schedules import is_due
from lightning_gan3d.training.signals import DONE, FAILED, STOPPED, StopRequest
from lightning_gan3d.training.trainer_plugins import log_image, log_row
from lightning_gan3d.training.wandb_logger import WandbLogger

FLAT, EMPTY, FULL = 0.01, 0.02, 0.98
FOREGROUND, MIN_PIXELS = 0.5, 16
CALLBACK = "trainer.max_time or a callback"
"""Reason of a stop."""


def sample_cameras(labels: Float[Tensor, "n label_dim"], cfg: LoggingConfig) -> Cameras:
    """Cameras of the columns: the data's camera of median elevation, rotated around the y axis."""
    origins = Cameras.from_label(labels).origins
    elevation = torch.asin(origins[:, 1] / origins.norm(dim=1))
    middle = labels[elevation.argsort()[len(labels) // 2]][None]
    azimuth = math.atan2(*Cameras.from_label(middle).origins[0, [0, 2]].tolist())
    swing = torch.linspace(-cfg.sample_swing, cfg.sample_swing, cfg.sample_views)
    if cfg.sample_views == 1:
        swing = torch.zeros(1)
    return Cameras.from_label(middle).rotate_y(swing - azimuth)


@torch.no_grad()
def sample_grid(
    generator: Generator, cameras: Cameras, cfg: LoggingConfig, seed: int, device: torch.device
) -> UInt8[Tensor, "h w 3"]:
    """Render one row per latent and one column per camera; below each row, its depth.

    Classes take turns from row to row.
    """
    draws = Draws(seed).scope("samples")
    middle, num_classes = len(cameras.cam2world) // 2, generator.mapping.num_classes
    rows = []
    for i in range(cfg.sample_latents):
        label = cameras.to_label()[middle][None].to(device)
        label = with_class(label, num_classes, i % max(1, num_classes))
        z = draws.at(i).normal("z", (1, generator.cfg.z_dim), device)
        images = generator.views(z, label, cameras.to(device))
        rows.append(to_uint8(images.image).cpu())
        depth = depth_image(images, generator.resolution)
        if depth is not None:
            rows.append(depth)
    return torch.cat([rearrange(row, "v c h w -> h (v w) c") for row in rows])


def depth_image(images: Images, resolution: int) -> UInt8[Tensor, "v 3 r r"] | None:
    """Depth as grey levels: near is light, far dark, background black; one range for all views."""
    if images.depth is None or images.opacity is None:
        return None
    depth, mask = images.depth.float().cpu(), images.opacity.float().cpu() > FOREGROUND
    surface = depth[mask]
    if not len(surface):
        return torch.zeros(len(depth), 3, resolution, resolution, dtype=torch.uint8)
    near, far = surface.min(), surface.max()
    grey = 1 - 0.8 * (depth - near) / (far - near).clamp(min=1e-6)
    grey = torch.where(mask, grey * 2 - 1, -1.0)
    return to_uint8(resize(grey, resolution)).expand(-1, 3, -1, -1)


def save_png(image: UInt8[Tensor, "h w 3"], path: Path) -> None:
    """Write an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_path(path) as temporary:
        Image.fromarray(image.numpy()).save(temporary, format="PNG")


def relief(
    depth: Float[Tensor, "v 1 h w"], opacity: Float[Tensor, "v 1 h w"], cameras: Cameras
) -> Float[Tensor, ""]:
    """Root mean square distance of the visible surface from its best-fit plane, in world units.

    0 for a billboard of any orientation. Mean over views; NaN if no view shows a surface.
    """
    points = cameras.unproject(depth)
    mask = (opacity > FOREGROUND).flatten(1)[..., None].float()
    count = mask.sum(1).clamp(min=1)
    centred = (points - (points * mask).sum(1, keepdim=True) / count[:, None]) * mask
    covariance = centred.mT @ centred / count[:, None]
    distance = torch.linalg.eigvalsh(covariance)[:, 0].clamp(min=0).sqrt()
    valid: Tensor = distance[count[:, 0] >= MIN_PIXELS]
    return valid.mean()


def scene_statistics(images: Images, cameras: Cameras, box: float) -> dict[str, float]:
    """Mean opacity, and relief as a share of the box; empty for scenes without depth."""
    if images.depth is None or images.opacity is None:
        return {}
    depth, opacity = images.depth.float().cpu(), images.opacity.float().cpu()
    statistics = {"scene/opacity": float(opacity.mean())}
    flatness = float(relief(depth, opacity, cameras.to("cpu"))) / box
    return statistics if math.isnan(flatness) else {**statistics, "scene/relief": flatness}


def scene_warnings(statistics: dict[str, float]) -> list[str]:
    """Describe degenerate scenes."""
    warnings = []
    opacity = statistics.get("scene/opacity", 0.5)
    if opacity < EMPTY:
        warnings.append("empty scene: almost no ray hits a surface")
    if opacity > FULL:
        warnings.append("opaque scene: almost every ray hits a surface")
    if statistics.get("scene/relief", 1.0) < FLAT:
        warnings.append("flat scene: the surface is a billboard")
    filled = statistics.get("scene/filled", 0.5)
    if filled == 0 or filled > FULL:
        warnings.append(f"{'full' if filled else 'empty'} solids: they have no surface")
    if statistics.get("proxy/exact_opacity", 0.5) < EMPTY:
        warnings.append("empty exact renderings: the discriminator sees the background alone")
    if "proxy/logit_gap" in statistics:
        apart = abs(statistics["D/real"] - statistics["D/fake"])
        if statistics["proxy/logit_gap"] > max(1.0, apart):
            warnings.append(
                "the proxy drifts: its logits differ more from the exact renderer's than real from "
                "fake; raise loss.proxy.matching or optimizer.proxy.lr"
            )
    return warnings


log = logging.getLogger(__name__)


class CannotSave(Exception):
    """Checkpoints could not be written three times in a row, or at the end."""


class Clock:
    """Training time in seconds: excludes logging, evaluation, samples and checkpoints."""

    def __init__(self, seconds: float, device: torch.device) -> None:
        """`seconds`: training time before a resume."""
        self.seconds = seconds
        self._device = device
        self._started: float | None = None

    def start(self) -> None:
        """Start or resume."""
        self._started = time.monotonic()

    @property
    def now(self) -> float:
        """Training time, without waiting for the device."""
        running = 0.0 if self._started is None else time.monotonic() - self._started
        return self.seconds + running

    def stop(self) -> None:
        """Pause, after the device has finished."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        if self._started is not None:
            self.seconds += time.monotonic() - self._started
        self._started = None


class PeriodicActions(lightning.Callback):
    """Performs the actions that are due after a step.

    All processes act in the same steps, but only rank 0 writes and logs.
    """

    def __init__(
        self,
        session: Session,
        data: DataModule,
        stop: StopRequest,
        seconds: float,
        show_progress: Callable[[int], None],
    ) -> None:
        """`seconds`: training time before a resume; `show_progress` gets the images seen."""
        self.session, self.data, self.stop = session, data, stop
        self.config, self.path = session.config, session.path
        self.fakes = self.config.fake_labels(data.train.labels)
        self.cameras = sample_cameras(self.fakes.labels, self.config.logging)
        self.clock = Clock(seconds, session.device)
        self.wandb = WandbLogger(self.config, self.path, enabled=is_main())
        self.loggers: Sequence[Logger] = ()
        self.show_progress = show_progress
        self.stopped = self.complete = False
        self._failed_saves = 0
        self._unwritten: list[dict[str, Any]] = []
        self._warned: set[str] = set()
        self._warnings: list[str] = []
        self._backends: dict[str, str] = {}
        self._logged = (0, 0.0)
        self._flops: dict[tuple[int, bool], tuple[int, int]] = {}
        """Of both networks, by stage and whether it fades in."""

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Start the clock, and replace Lightning's signal handlers by ours."""
        self.stop.install()
        self.loggers = trainer.loggers
        # Callbacks log by this counter, which starts at 0 after a resume.
        trainer.fit_loop.epoch_loop._batches_that_stepped = module.steps_done
        self.agreement = Agreement()
        self._logged = (module.images_seen, self.clock.seconds)
        self.wandb.catch_up(module.steps_done)
        if rank() == 0 and module.steps_done == 0 and self.config.training.sample_kimg > 0:
            self._sample(module)
            self.wandb.commit()
        if trainer.world_size > 1:
            trainer.strategy.barrier()
        self.clock.start()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Perform the actions that are due."""
        del outputs, batch, batch_idx
        training = self.config.training
        after = module.images_seen
        self.show_progress(after)
        before = after - training.batch
        last = training.complete(module.steps_done, self.clock.now)
        if training.hours is not None:
            last = self.agreement.any(last)
        if trainer.should_stop and self.stop.reason is None:
            self.stop.reason = CALLBACK
        stopping = self.agreement.any(self.stop.reason is not None) and not last

        def due(kimg: float) -> bool:
            return kimg > 0 and (last or is_due(kimg, before, after))

        logs, saves = due(training.log_kimg), due(training.snapshot_kimg) or last or stopping
        evaluates, samples = due(training.eval_kimg), due(training.sample_kimg)
        if not (logs or saves or evaluates or samples):
            return
        self.clock.stop()
        broken = module.gate.broken()
        if broken:
            raise NonFiniteGradient(*broken)
        means = module.meter.read() if logs else None  # of all processes
        if saves:
            module.meter.share()
        if rank() == 0:
            if means is not None:
                self._log(module, means)
            if evaluates:
                self._evaluate(module)
            if samples:
                self._sample(module)
            self.wandb.commit()
            if saves:
                self._save(module, last)
        if stopping:
            self.stopped = trainer.should_stop = True
        if last:
            self.complete = trainer.should_stop = True
        self.clock.start()

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """Save if a callback stopped the trainer after the last action; close the W&B run."""
        del trainer
        if not self.complete and not self.stopped:
            self.stopped, self.stop.reason = True, CALLBACK
            module.meter.share()
            if rank() == 0:
                self._save(module, last=False)
        self.wandb.close(STOPPED if self.stopped else DONE)

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        """Save the state before a step with a broken image; close the W&B run as failed."""
        del trainer
        if isinstance(exception, DataError) and rank() == 0 and module.steps_done:
            self._save(module, last=False)
        self.wandb.close(FAILED)

    def _write(self, module: AdversarialModule, values: Mapping[str, float | int]) -> None:
        """Append a row to `metrics.jsonl`, after rows that could not be written before."""
        row = {
            "step": module.steps_done,
            "kimg": module.images_seen / 1000,
            "seconds": round(self.clock.seconds, 3),
            **values,
        }
        self._unwritten.append(row)
        try:
            self._write_rows()
        except OSError as error:
            self._warn("metrics.jsonl", error)
        self.wandb.row(row)
        try:
            log_row(self.loggers, row)
        except OSError as error:
            self._warn("the logs of trainer.loggers", error)

    def _write_rows(self) -> None:
        while self._unwritten:
            runs.append_row(self.path / runs.METRICS, self._unwritten[0])
            del self._unwritten[0]

    def _warn(self, name: str, error: Exception) -> None:
        """Log once for each file that it cannot be written."""
        if name not in self._warned:
            self._warned.add(name)
            log.warning("warning: cannot write %s (%s); training goes on", name, error)

    def _log(self, module: AdversarialModule, means: dict[str, float]) -> None:
        state = module.schedule(module.steps_done - 1)
        images, seconds = self._logged
        self._logged = (module.images_seen, self.clock.seconds)
        speed = (module.images_seen - images) / max(self.clock.seconds - seconds, 1e-9)
        memory = devices.peak_memory_mb(module.device)
        scene = {}
        if module.last_fake is not None:
            scene = scene_statistics(*module.last_fake, self.config.generator.scene.box)
        names = ["rendering_resolution", "blur_sigma", "swap_probability", "learning_rate_factor"]
        if self.config.training.cosine.kimg > 0:
            names += ["gamma_factor", "beta2_g", "beta2_d", "ema_decay", "augment_probability"]
        schedule = {f"schedule/{name}": getattr(state, name) for name in names}
        if state.level is not None:
            stage, side, alpha = state.level
            if (at := (stage, alpha < 1)) not in self._flops:
                self._flops[at] = count_pair(module.generator, module.discriminator, side)
            flops = self._flops[at]
            schedule |= {"schedule/stage": stage, "schedule/alpha": alpha}
            schedule |= {"gflop/G": flops[0] / 1e9, "gflop/D": flops[1] / 1e9}
        if self.config.augment.mode == "ada":
            schedule["augment/probability"] = float(module.augment.p)
        self._write(
            module, {**means, **scene, **schedule, "speed/img_s": speed, "memory/peak_mb": memory}
        )
        if self.config.logging.progress:
            total = self.config.training.num_steps * self.config.training.batch
            left = timedelta(seconds=round((total - module.images_seen) / max(speed, 1e-9)))
            losses = f"loss of the proxy {means.get('loss/proxy_image', math.nan):.3g}"
            if "loss/direction" in means:
                cosine = 1 - means["loss/direction"]
                losses = f"cosine of change and direction {cosine:.3f}"
            elif "loss/G" in means:  # not while a proxy is pretrained
                losses = (
                    f"D acc {means['D/accuracy']:.0%}  "
                    f"loss G {means['loss/G']:.3f} D {means['loss/D']:.3f}"
                )
            log.info(
                f"{module.images_seen / 1000:9.2f} of {total / 1000:g} kimg  {speed:6.1f} img/s  "
                f"{left} left  {memory:.0f} MB  {losses}"
            )
        if self.config.logging.alarms:
            warnings = scene_warnings({**means, **scene})
            for text in warnings:
                if text not in self._warnings:
                    log.warning("warning: %s", text)
            self._warnings = warnings
        self._log_backends(module)

    def _log_backends(self, module: AdversarialModule) -> None:
        """Log the implementations of layers and rendering when they change."""
        compiled = self.config.training.compile
        backends = {"layers": "torch.compile" if compiled else describe_layers(module.generator)}
        renderer = getattr(module.generator.renderer, "backend", None)
        if renderer is not None:  # None for pictures
            backends["rendering_path"] = str(renderer)
        for key, backend in backends.items():
            if backend != self._backends.get(key):
                log.info("%s: %s", key.replace("_", " "), backend)
        if backends != self._backends:
            try:
                manifest = {**runs.read_manifest(self.path), **backends}
                files.write_json(self.path / runs.MANIFEST, manifest)
            except OSError as error:
                self._warn(runs.MANIFEST, error)
            self._backends = backends

    def _evaluate(self, module: AdversarialModule) -> None:
        """Log the sliced Wasserstein distance of the averaged generator."""
        from lightning_gan3d.metrics.evaluate import source_of, swd_of

        images, evaluation = self.data.test or self.data.train, self.config.evaluation
        source = source_of(module.average, self.fakes, self.session.device)
        distances = swd_of(source, images, evaluation)
        self._write(module, {f"eval/{name}": value for name, value in distances.items()})

    def _sample(self, module: AdversarialModule) -> None:
        config, kimg = self.config, module.images_seen / 1000
        grid = sample_grid(module.average, self.cameras, config.logging, config.seed, module.device)
        file = self.path / "samples" / f"{kimg:010.3f}kimg.png"
        try:
            save_png(grid, file)
            log_image(self.loggers, module.steps_done, file)
        except OSError as error:
            self._warn("sample grids", error)
            return
        self.wandb.image(module.steps_done, file)

    def _save(self, module: AdversarialModule, last: bool) -> None:
        """Save a checkpoint; a third failure in a row, or one at the end, stops the run."""
        folder = self.path / "checkpoints"
        try:
            self._write_rows()  # a checkpoint without its rows would lose them
            checkpoint.save(module, self.config, folder, self.clock.seconds)
            self._failed_saves = 0
        except (OSError, RuntimeError, SafetensorError) as error:
            self._failed_saves += 1
            saved = steps_in(folder)
            newest = saved[-1][1].name if saved else "none"
            log.warning(
                f"warning: cannot save step {module.steps_done} "
                f"({type(error).__name__}: {error}); newest checkpoint: {newest}"
            )
            if last or self._failed_saves >= 3 or self.stop.reason is not None:
                raise CannotSave(str(error)) from error
