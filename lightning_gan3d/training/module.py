"""The training step: generator, discriminator, and a proxy if there is one; lazy penalties."""

from collections.abc import Sequence
from typing import Any

import lightning
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_gan3d.cameras import LABEL_DIM, Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.datamodule import Batch, DataModule
from lightning_gan3d.draws import Draws
from lightning_gan3d.experiment import ExperimentConfig, make_networks
from lightning_gan3d.generator import Generator
from lightning_gan3d.images import Images, blur_pair
from lightning_gan3d.metrics.process_group import rank
from lightning_gan3d.networks.augment import Augment
from lightning_gan3d.networks.discriminator import Judgement
from lightning_gan3d.networks.precision import computing_in, set_precision
from lightning_gan3d.networks.stylegan3 import InputMagnitudes
from lightning_gan3d.training import distributed, losses, schedules
from lightning_gan3d.training.compatibility import make_data
from lightning_gan3d.training.discriminator_input import DiscriminatorInput, Microbatch
from lightning_gan3d.training.generator_terms import GeneratorTerms
from lightning_gan3d.training.object_crops import ObjectCrops
from lightning_gan3d.training.optimizers import (
    ExponentialMovingAverage,
    Gate,
    NonFiniteGradient,
    Phase,
    freeze,
    gated_step,
    make_adam,
)
from lightning_gan3d.training.proxy import proxy_loss
from lightning_gan3d.training.schedules import ScheduleState


class AdversarialModule(lightning.LightningModule):
    """Generator, discriminator, moving average and optimizers, with manual optimisation.

    Draws are keyed by (seed, step, microbatch), so that they do not depend on the processes.
    """

    sign_sum: Tensor

    def __init__(
        self, config: ExperimentConfig, resolution: int, labels: Float[Tensor, "n label_dim"]
    ) -> None:
        """`labels` from which those of fakes are drawn."""
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.camera_labels = labels
        self.generator, self.discriminator = make_networks(config, resolution)
        freeze(self.generator, self.discriminator, config.frozen_parts)
        self.augment = Augment(config.augment)
        self.gate = Gate()
        self.register_buffer("sign_sum", torch.zeros(()))
        self.moving_average = ExponentialMovingAverage(self.generator)
        self.average: Generator = self.moving_average.module
        renderer: Any = self.generator.renderer
        proxy = renderer.proxy.parameters() if renderer.has_proxy else ()
        self.proxy = [p for p in proxy if p.requires_grad]
        """What the proxy's own step trains, and no other step."""
        of_proxy = {id(p) for p in self.proxy}
        self.optimizer_g = make_adam(
            [p for p in self.generator.parameters() if id(p) not in of_proxy],
            schedules.lazy_adam(config.optimizer.generator, config.loss.lazy_density),
        )
        self.optimizer_d = make_adam(
            list(self.discriminator.parameters()),
            schedules.lazy_adam(config.optimizer.discriminator, config.loss.lazy_penalty),
        )
        self.optimizer_proxy = make_adam(self.proxy, config.optimizer.proxy) if self.proxy else None
        self.buckets = distributed.GradientBuckets(
            [*self.generator.parameters(), *self.discriminator.parameters()]
        )
        self.meter = distributed.Meter()
        self.terms = GeneratorTerms(config.loss, self.meter)
        self.magnitudes = InputMagnitudes(self.generator)
        self.objects = ObjectCrops(config, self.discriminator, self.augment, self.meter)
        self.logs_losses = True
        """Whether the module checks gradients and logs losses every `log_every_n_steps`."""
        self.steps_done = 0
        self.images_before = 0
        """Images seen by the source of a fine-tuning, if its schedules continue."""
        self.last_fake: tuple[Images, Cameras] | None = None
        self._schedules = schedules.with_init(config.training, config.init_from)
        self.input = DiscriminatorInput(config, self.generator)
        self._default_resolution = self.generator.rendering_resolution
        generator = config.generator
        self._swaps = generator.mapping.condition == "camera" and not generator.view_in_label
        set_precision(self.generator, config.training.precision)
        set_precision(self.discriminator, config.training.precision)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Lightning moves the optimizers' state to the device; `training_step` steps them."""
        proxy = [] if self.optimizer_proxy is None else [self.optimizer_proxy]
        return [self.optimizer_g, self.optimizer_d, *proxy]

    @property
    def images_seen(self) -> int:
        """Real images seen so far."""
        return self.steps_done * self.config.training.batch

    def schedule(self, step: int) -> ScheduleState:
        """Evaluate all schedules."""
        training = self._schedules
        trained, total = step * training.batch, training.num_steps * training.batch
        images = trained + self.images_before
        cosine, optimizer, loss = training.cosine, self.config.optimizer, self.config.loss
        augment = self.config.augment.probability
        state = ScheduleState(
            step,
            schedules.rendering_resolution(
                training.rendering_resolution, images, self._default_resolution
            ),
            schedules.blur_sigma(training, images),
            schedules.swap_probability(training, images),
            schedules.learning_rate_factor(optimizer, trained + training.batch, total)
            * schedules.cosine(cosine, images, 1.0, cosine.lr_factor),
            schedules.ema_decay(training, images),
            schedules.cosine(cosine, images, 1.0, cosine.gamma_factor),
            schedules.cosine(cosine, images, augment, cosine.augment_probability),
            schedules.beta2(cosine, optimizer.generator, loss.lazy_density, images),
            schedules.beta2(cosine, optimizer.discriminator, loss.lazy_penalty, images),
            schedules.patch_progress(training, images),
            tuple(schedules.term_weight(t, step, images) for t in self.config.loss.terms),
        )
        return schedules.grown(state, training.growing, loss.r1_gamma, images)

    def set_level(self, schedule: ScheduleState) -> None:
        """Set the rendering resolution of the average, and the level of detail of all networks."""
        self.average.rendering_resolution = schedule.rendering_resolution
        if schedule.level is not None:
            lod = schedule.level.lod(self.generator.resolution)
            self.generator.representation.lod = self.average.representation.lod = lod
            self.discriminator.lod = lod

    def split(self, batch: Batch) -> list[Microbatch]:
        """Split this process's share of the global batch into microbatches."""
        size = self.config.training.microbatch_size
        first = rank() * (len(batch.images) // size)
        draws = Draws(self.config.seed).scope("training")
        schedule = self.schedule(batch.step)
        fields = (batch.images, batch.labels, batch.mattes, batch.boxes)
        num = len(batch.images) // size
        split = [num * [None] if x is None else torch.split(x, size) for x in fields]
        return [
            Microbatch(x, y, draws.at(batch.step, first + i), schedule, mattes, boxes, i == num - 1)
            for i, (x, y, mattes, boxes) in enumerate(zip(*split, strict=True))
        ]

    def training_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002  # Lightning's
        """Generator step, discriminator step, step of a proxy, moving average."""
        microbatches, loss = self.split(batch), self.config.loss
        schedule, growing = microbatches[0].schedule, self.config.training.growing
        self.set_level(schedule)
        if growing is not None and growing.reset_optimizer and batch.step > 0:
            before = self.schedule(batch.step - 1).level
            if schedule.level is not None and before is not None and schedule.level.follows(before):
                for optimizer in (self.optimizer_g, self.optimizer_d):
                    optimizer.state.clear()
        if self.config.augment.mode == "fixed":
            self.augment.p.fill_(microbatches[0].schedule.augment_probability)
        images = batch.step * self.config.training.batch + self.images_before
        pretrains = images < 1000 * loss.proxy.pretrain_kimg
        if self.optimizer_proxy is None or not pretrains:
            self.generator_step(microbatches)
            if loss.lazy_density > 1 and batch.step % loss.lazy_density == 0:
                self.density_step(microbatches)
            self.discriminator_step(microbatches)
            if loss.lazy_penalty > 1 and batch.step % loss.lazy_penalty == 0:
                self.penalty_step(microbatches)
        if self.optimizer_proxy is not None:
            self.proxy_step(microbatches, pretrains)
        self.moving_average.update(schedule.ema_decay, self.gate.healthy)
        self.steps_done = batch.step + 1
        trainer: Any = self._trainer
        if trainer is None:
            return
        progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()  # the trainer's `global_step`, which checkpoints follow
        if self.logs_losses and self.steps_done % trainer.log_every_n_steps == 0:
            self._check_gradients()
            if trainer.loggers:
                self.log_dict(self.meter.read())

    def on_train_end(self) -> None:
        """Check the gradients since the last check."""
        self._check_gradients()

    def _check_gradients(self) -> None:
        if broken := self.gate.broken():
            raise NonFiniteGradient(*broken)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the position in the schedules and the data to Lightning's checkpoint."""
        checkpoint["position"] = {"step": self.steps_done, "images_before": self.images_before}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue schedules and data."""
        self.steps_done = checkpoint["position"]["step"]
        self.images_before = checkpoint["position"]["images_before"]

    def generator_step(self, microbatches: list[Microbatch]) -> None:
        """Train the generator: adversarial loss, loss terms, and density penalty if not lazy."""
        num_views = self.config.training.views
        self._train(self.proxy, False)
        self.discriminator.requires_grad_(False)
        for mb in [m.scope("G") for m in microbatches]:
            label = self.fake_labels(mb)
            ws = self.styles(label, mb)
            scene = self.generator.scene(ws, "random", mb.draws.scope("scene"))
            for name, value in scene.statistics().items():
                self.meter.add(name, value)
            # With several views, the graph of each is freed before the next is built.
            cut = (ws, scene) if num_views == 1 else (_leaf(ws), scene.map(_leaf))
            for view in range(num_views):
                loss = self.view_loss(*cut, label, mb, view) / num_views
                if view == 0:
                    loss = loss + self.terms.of_scene(cut[1], mb)
                self._backward(loss, "G loss", mb.last and num_views == 1)
            if num_views > 1:
                with self.buckets.sending("G loss", mb.last):
                    _backward_through([ws, *scene.tensors()], [cut[0], *cut[1].tensors()])
        self._train([*self.optimizer_d.param_groups[0]["params"], *self.proxy])
        self._optimizer_step("G loss", self.optimizer_g, microbatches)

    def view_loss(
        self,
        ws: Float[Tensor, "b num_ws w_dim"],
        scene: Any,
        label: Float[Tensor, "b label_dim"],
        mb: Microbatch,
        view: int,
    ) -> Float[Tensor, ""]:
        """Loss of one view of each scene; view k has the camera of the k-th next scene."""
        cfg = self.config.loss
        if view > 0:
            mb, label = mb.scope(f"view {view}"), label.roll(-view, dims=0)
        fake, cameras = self.input.fakes(scene, ws, Cameras.from_label(label), mb, smooth=True)
        judged, _ = self.judge(fake, label, mb, real=False)
        real_logits = None
        if cfg.adversarial == "relativistic":
            with torch.no_grad():
                reals, _ = self.judge(self.input.reals(mb), mb.labels, mb, real=True)
            real_logits = reals.logits.roll(-view, dims=0)
        loss = losses.generator_loss(cfg.adversarial, judged.logits, real_logits)
        self.meter.add("loss/G", loss)
        loss = loss + self.objects.generator_loss(fake, mb)
        detached = Images(*(x if x is None else x.detach() for x in fake))  # type: ignore[arg-type]  # images are never None
        self.last_fake = detached, cameras
        loss = loss + self.camera_loss(judged, label, real=False)
        return loss + self.terms.of_view(scene, mb, fake, cameras)

    def density_step(self, microbatches: list[Microbatch]) -> None:
        """Train the generator with the lazy density penalty."""
        for mb in [m.scope("G density") for m in microbatches]:
            # As EG3D: all images of a microbatch swap their cameras, or none.
            ws = self.styles(self.fake_labels(mb), mb, num_coins=1)
            scene = self.generator.scene(ws, "random", mb.draws.scope("noise"))
            interval = self.config.loss.density_reg_interval
            penalty = self.terms.density(scene, mb) * interval
            self._backward(penalty, "G density penalty", mb.last)
        self._optimizer_step("G density penalty", self.optimizer_g, microbatches)

    def discriminator_step(self, microbatches: list[Microbatch]) -> None:
        """Train the discriminator with the adversarial loss, and R1 and R2 if not lazy."""
        cfg, num = self.config.loss, self.config.training.num_microbatches
        penalised = cfg.penalises_discriminator and cfg.r1_interval == 1
        mapping, statistics = self.generator.mapping, []
        for mb in [m.scope("D") for m in microbatches]:
            label = self.fake_labels(mb)
            with self.magnitudes.recorded() as squares:
                fake, ws = self.generate(label, mb)
            reals = self.input.reals(mb)
            of_objects = self.objects.discriminator_loss(fake, reals, mb)
            given = (fake, label, False), (reals, mb.labels, True)
            # Each penalty would differentiate all images of a common pass.
            parts = [(x,) for x in given] if penalised else [given]
            both = [y for part in parts for y in self.judge_together(part, mb, penalised)]
            (judged, fake), (judged_real, real) = both
            fake_logits, real_logits = judged.logits, judged_real.logits
            loss = losses.discriminator_loss(cfg.adversarial, fake_logits, real_logits)
            self.meter.add("loss/D", loss)
            loss = loss + of_objects + self.camera_loss(judged, label, real=False)
            loss = loss + self.camera_loss(judged_real, mb.labels, real=True)
            self.meter.add("D/real", real_logits.mean())
            self.meter.add("D/fake", fake_logits.mean())
            accuracy = losses.accuracy(cfg.adversarial, fake_logits, real_logits)
            self.meter.add("D/accuracy", accuracy)
            mean_w = mapping.mean_style(ws)
            if self.config.training.w_avg_from == "eg3d":
                mean_w = mean_w * (num if mb.draws.microbatch == 0 else 0)
            sign = real_logits.detach().sign().mean()
            statistics.append(torch.cat([mean_w, sign[None], *squares]))
            if penalised:
                penalty = self.gradient_penalty(real_logits, real, fake_logits, fake)
                penalty = penalty + self.objects.penalty(reals, mb)
                loss = loss + penalty * mb.schedule.gamma_factor
            if cfg.adversarial == "wgan":
                loss = loss + cfg.wgan_drift * real_logits.square().mean()
                loss = loss + cfg.wgan_penalty * self.critic_penalty(real, fake, mb)
            self._backward(loss, "D loss", mb.last)
        means = torch.stack(statistics).sum(0) / num
        self._optimizer_step("D loss", self.optimizer_d, microbatches, means)
        end = mapping.w_avg.numel()
        mean_w, mean_sign, mean_squares = means[:end], means[end], means[end + 1 :]
        if any(p.requires_grad for p in mapping.parameters()):
            mapping.update_w_avg(
                torch.where(self.gate.healthy, mean_w.view_as(mapping.w_avg), mapping.w_avg)
            )
        self.magnitudes.update(mean_squares, self.config.training.batch, self.gate.healthy)
        if self.config.augment.mode == "ada":
            self._adapt_augmentation(mean_sign, microbatches[0].schedule.step)

    def penalty_step(self, microbatches: list[Microbatch]) -> None:
        """Train the discriminator with lazy R1 and R2."""
        cfg = self.config.loss
        for mb in [m.scope("D penalty") for m in microbatches]:
            reals = self.input.reals(mb)
            judged, real = self.judge(reals, mb.labels, mb, True, penalised=True)
            real_logits, fake, fake_logits = judged.logits, None, None
            if cfg.r2 > 0:
                label = self.fake_labels(mb)
                fake, _ = self.generate(label, mb)
                judged, fake = self.judge(fake, label, mb, False, penalised=True)
                fake_logits = judged.logits
            penalty = self.gradient_penalty(real_logits, real, fake_logits, fake)
            penalty = penalty + self.objects.penalty(reals, mb)
            penalty = penalty * mb.schedule.gamma_factor * cfg.r1_interval
            self._backward(penalty, "D penalty", mb.last)
        self._optimizer_step("D penalty", self.optimizer_d, microbatches)

    def proxy_step(self, microbatches: list[Microbatch], pretrains: bool = False) -> None:
        """Train the proxy alone: minimise differences of images and logits to exact renderings."""
        self.discriminator.requires_grad_(False)
        for mb in [m.scope("proxy") for m in microbatches]:
            label = self.fake_labels(mb)
            self._backward(proxy_loss(self, label, mb, pretrains), "proxy loss", mb.last)
        self._train(self.optimizer_d.param_groups[0]["params"])
        assert self.optimizer_proxy is not None, "the caller checked"
        self._optimizer_step("proxy loss", self.optimizer_proxy, microbatches)

    @staticmethod
    def _train(parameters: list[nn.Parameter], trained: bool = True) -> None:
        for p in parameters:  # never those that `training.freeze` excludes
            p.requires_grad_(trained)

    def fake_labels(self, mb: Microbatch) -> Float[Tensor, "b label_dim"]:
        """Labels of fakes: drawn, or those of the reals for paired losses."""
        paired = self.config.loss.adversarial != "nonsaturating"
        if paired and self.config.cameras.kind == "dataset":
            return mb.labels
        rows = mb.draws.integers("label", len(self.camera_labels), (len(mb.labels),))
        label = self.camera_labels[rows].to(self.device, non_blocking=True)
        if paired:
            label = torch.cat([label[:, :LABEL_DIM], mb.labels[:, LABEL_DIM:]], dim=1)
        return label

    def styles(
        self, label: Float[Tensor, "b label_dim"], mb: Microbatch, num_coins: int | None = None
    ) -> Float[Tensor, "b num_ws w_dim"]:
        """Style vectors of new latents, with random camera swaps and style mixing.

        `num_coins`: draws that decide on the swaps; None: one per image, 1: one for all.
        """
        draws, batch, z_dim = mb.draws, len(label), self.config.generator.z_dim
        if self._swaps and mb.schedule.swap_probability > 0:
            coins = draws.uniform("swap", (num_coins or batch, 1), self.device)
            swapped = coins < mb.schedule.swap_probability
            label = torch.where(swapped, label.roll(1, dims=0), label)
        ws: Tensor = self.generator.mapping(draws.normal("z", (batch, z_dim), self.device), label)
        num_ws, mixing = ws.shape[1], self.config.loss.style_mixing
        if num_ws > 1 and mixing > 0 and float(draws.uniform("mix", (1,))) < mixing:
            cutoff = 1 + int(draws.integers("cutoff", num_ws - 1, (1,)))
            other = self.generator.mapping(draws.normal("z2", (batch, z_dim), self.device), label)
            ws = torch.cat([ws[:, :cutoff], other[:, cutoff:]], dim=1)
        return ws

    @torch.no_grad()
    def generate(
        self, label: Float[Tensor, "b label_dim"], mb: Microbatch
    ) -> tuple[Images, Tensor]:
        """Generate images for the discriminator's steps; return also their styles."""
        ws = self.styles(label, mb)
        scene = self.generator.scene(ws, "random", mb.draws.scope("scene"))
        smooth = getattr(self.config.generator.renderer, "fakes", "exact") == "proxy"
        return self.input.fakes(scene, ws, Cameras.from_label(label), mb, smooth)[0], ws

    def judge(
        self,
        images: Images,
        label: Float[Tensor, "b label_dim"],
        mb: Microbatch,
        real: bool,
        penalised: bool = False,
    ) -> tuple[Judgement, Images]:
        """Judge images after blur and augmentation; return also the images to differentiate by.

        `penalised`: the logits are in float32 and depend on the returned images for R1 and R2.
        """
        (judged,) = self.judge_together(((images, label, real),), mb, penalised)
        return judged

    def judge_together(
        self, given: Sequence[tuple[Images, Tensor, bool]], mb: Microbatch, penalised: bool
    ) -> list[tuple[Judgement, Images]]:
        """Judge several batches (images, labels, whether real) in one pass, each as by `judge`."""
        forms = [self._discriminated(images, mb, real, penalised) for images, _, real in given]
        assert len({len(x.image) for x, _, _ in forms}) == 1, "batches must have equal sizes"
        (images, patches, _), labels = forms[0], given[0][1]
        if len(forms) > 1:
            image = torch.cat([inputs.image for inputs, _, _ in forms])
            images = Images(image, torch.cat([inputs.image_raw for inputs, _, _ in forms]))
            labels = torch.cat([label for _, label, _ in given])
            numbers = [x[1] for x in forms if x[1] is not None]
            assert len(numbers) in (0, len(forms)), "patches of some batches only"
            patches = torch.cat(numbers) if numbers else None
        precision = "fp32" if penalised else self.config.training.precision
        with computing_in(self.discriminator, precision):
            arguments = images, labels, patches, len(forms)
            if self.config.discriminator.conditioning == "predict":
                judged = self.discriminator.judge(*arguments)
            else:
                judged = Judgement(self.discriminator(*arguments), None)
        return list(zip(judged.chunk(len(forms)), (x[2] for x in forms), strict=True))

    def _discriminated(
        self, images: Images, mb: Microbatch, real: bool, penalised: bool
    ) -> tuple[Images, Tensor | None, Images]:
        """Blur and augment; return numbers of patches too, and the images to differentiate by."""
        leaves = inputs = images
        if penalised and self.config.loss.penalty_at == "image":
            leaves = inputs = losses.with_gradient(images)
        eg3d = self.config.training.blur_raw == "eg3d"
        inputs = blur_pair(inputs, mb.schedule.blur_sigma, real, eg3d)
        if self.config.augment.mode != "none":
            draws = mb.draws.scope("augment real" if real else "augment fake")
            inputs = self.augment(inputs, draws)
        if penalised and self.config.loss.penalty_at == "discriminator":
            leaves = inputs = losses.with_gradient(inputs)
        patches = self.input.patches(mb, real)
        return inputs, None if patches is None else patches.numbers(), leaves

    def camera_loss(
        self, judged: Judgement, label: Float[Tensor, "b label_dim"], real: bool
    ) -> Float[Tensor, ""] | float:
        """Weighted error of the estimated cameras; 0 if the discriminator does not predict them."""
        weight = self.config.loss.camera_real if real else self.config.loss.camera_fake
        if judged.direction is None or weight == 0:
            return 0.0
        error = losses.camera_error(judged.direction, label)
        self.meter.add("loss/camera_real" if real else "loss/camera_fake", error)
        return error * weight

    def gradient_penalty(
        self, real_logits: Tensor, real: Images, fake_logits: Tensor | None, fake: Images | None
    ) -> Float[Tensor, ""]:
        """Gamma / 2 * |grad D|^2 at reals (R1) and fakes (R2)."""
        cfg = self.config.loss
        total = real_logits.new_zeros(())
        if cfg.r1_gamma > 0:
            r1 = losses.gradient_penalty(real_logits, real)
            self.meter.add("loss/R1", r1)
            total = total + cfg.r1_gamma / 2 * r1
        if cfg.r2 > 0 and fake_logits is not None and fake is not None:
            r2 = losses.gradient_penalty(fake_logits, fake)
            self.meter.add("loss/R2", r2)
            total = total + cfg.r2 / 2 * r2
        return total

    def critic_penalty(self, real: Images, fake: Images, mb: Microbatch) -> Float[Tensor, ""]:
        """(|grad D| - 1)^2 of WGAN-GP at random points between the images of pairs."""
        mb = mb.scope("between")
        share = mb.draws.uniform("share", (len(mb.images), 1, 1, 1), self.device)
        between = losses.interpolate(real, fake, share)
        judged, between = self.judge(between, mb.labels, mb, real=False, penalised=True)
        penalty = losses.critic_penalty(judged.logits, between)
        self.meter.add("loss/critic_penalty", penalty)
        return penalty

    def _backward(self, loss: Float[Tensor, ""], phase: Phase, last: bool) -> None:
        """Accumulate the gradient of the mean over the global batch; sum it in the `last` pass."""
        if loss.requires_grad:  # not a density penalty of frozen parts
            with self.buckets.sending(phase, last):
                (loss / self.config.training.num_microbatches).backward()  # type: ignore[no-untyped-call]  # torch

    def _optimizer_step(
        self,
        phase: Phase,
        optimizer: torch.optim.Adam,
        microbatches: list[Microbatch],
        *statistics: Tensor,
    ) -> None:
        """Sum gradients (and statistics) over processes, check them, step the optimizer."""
        schedule = microbatches[0].schedule
        parameters = optimizer.param_groups[0]["params"]
        self.buckets.finish(phase, parameters, statistics)
        gradients = [p.grad for p in parameters if p.grad is not None]
        # As `get_total_norm`, which on a CPU calls Python for each gradient.
        norms = torch._foreach_norm(gradients) if gradients else [torch.zeros_like(self.sign_sum)]
        norm = torch.stack(norms).norm()
        self.meter.add(f"gradient/{phase}", norm)
        self.gate.observe(norm, phase, schedule.step)
        betas = {id(self.optimizer_g): schedule.beta2_g, id(self.optimizer_d): schedule.beta2_d}
        beta2 = betas.get(id(optimizer))
        gated_step(optimizer, schedule.learning_rate_factor, self.gate.healthy, beta2)

    def _adapt_augmentation(self, sign: Float[Tensor, ""], step: int) -> None:
        """Adapt the augmentation probability to the signs of real logits (ADA)."""
        cfg = self.config.augment
        self.sign_sum += sign
        self.meter.add("augment/sign", sign)
        if (step + 1) % cfg.interval == 0:
            mean = torch.where(self.gate.healthy, self.sign_sum / cfg.interval, cfg.target)
            self.augment.update(mean, cfg.interval * self.config.training.batch)
            self.sign_sum.zero_()

    def training_state(self) -> dict[str, dict[str, Any]]:
        """State besides the networks: tensors and plain values."""
        optimizer = self.optimizer_proxy
        proxy = {} if optimizer is None else {"optimizer_proxy": optimizer.state_dict()}
        return {
            "augment": {**self.augment.state_dict(), "sign_sum": self.sign_sum},
            "optimizer_g": self.optimizer_g.state_dict(),
            "optimizer_d": self.optimizer_d.state_dict(),
            **proxy,
            "meter": self.meter.state(),
        }

    def load_training_state(self, state: dict[str, dict[str, Any]], step: int) -> None:
        """Restore `training_state`; `step` is the next step."""
        augment = dict(state["augment"])
        self.sign_sum.copy_(augment.pop("sign_sum"))
        self.augment.load_state_dict(augment)
        self.optimizer_g.load_state_dict(state["optimizer_g"])
        self.optimizer_d.load_state_dict(state["optimizer_d"])
        if self.optimizer_proxy is not None:
            self.optimizer_proxy.load_state_dict(state["optimizer_proxy"])
        if "meter" in state:  # not in earlier checkpoints
            self.meter.load(state["meter"])
        self.steps_done = step


def make_modules(config: ExperimentConfig) -> tuple[AdversarialModule, DataModule]:
    """Open an experiment's data and build its networks, for a plain `lightning.Trainer`.

    Train for `config.training.num_steps` batches. `average` is the generator to use.
    """
    if config.critic.kind != "adversarial":
        raise ConfigError(f"critic.kind={config.critic.kind}: use `gan3d train`, or adversarial")
    data = make_data(config)
    labels = config.fake_labels(data.train.labels).labels
    return AdversarialModule(config, data.train.resolution, labels), data


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_(x.requires_grad)


def _backward_through(tensors: list[Tensor], leaves: list[Tensor]) -> None:
    """Continue from the gradients of detached leaves to the tensors that they were cut from."""
    pairs = [(x, leaf.grad) for x, leaf in zip(tensors, leaves, strict=True)]
    known = [(x, gradient) for x, gradient in pairs if gradient is not None]
    if known:  # not if the scene and the mapping are frozen
        torch.autograd.backward([x for x, _ in known], [gradient for _, gradient in known])
