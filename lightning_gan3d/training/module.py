"""The adversarial loop: a G step, a D step, over microbatches, by manual optimisation."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import lightning
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.datamodule import Batch
from lightning_gan3d.draws import Draws
from lightning_gan3d.experiment import ExperimentConfig, make_networks
from lightning_gan3d.generator import Generator
from lightning_gan3d.images import Images
from lightning_gan3d.networks.augment import Augment
from lightning_gan3d.networks.precision import computing_in, set_precision
from lightning_gan3d.training import discriminator_input, distributed, losses, schedules
from lightning_gan3d.training.ema import ExponentialMovingAverage
from lightning_gan3d.training.meter import Meter
from lightning_gan3d.training.optimizers import Gate, Phase, gated_step, make_adam
from lightning_gan3d.training.regularizers import density_l1, density_points


class Now(NamedTuple):
    """What the schedules say in this step."""

    step: int
    images: int
    """Seen before it, those of a source included whose schedules go on."""
    rendering_resolution: int
    blur_sigma: float
    swap_probability: float
    learning_rate_factor: float


class Microbatch(NamedTuple):
    """One pass's share of the global batch: the unit of draws, swaps and minibatch deviation."""

    draws: Draws
    images: UInt8[Tensor, "b 3 h w"]
    labels: Float[Tensor, "b 25"]


class AdversarialModule(lightning.LightningModule):
    """Generator against discriminator. All randomness is keyed by (seed, step, microbatch)."""

    sign_sum: Tensor

    def __init__(
        self, config: ExperimentConfig, resolution: int, labels: Float[Tensor, "n 25"]
    ) -> None:
        """Build all that is trained; `labels` are the cameras from which fakes are seen."""
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.camera_labels = labels
        self.generator, self.discriminator = make_networks(config, resolution)
        self.augment = Augment(config.augment)
        self.gate = Gate()
        self.register_buffer("sign_sum", torch.zeros(()))
        self.moving_average = ExponentialMovingAverage(self.generator)
        self.average: Generator = self.moving_average.module
        loss, adam = config.loss, config.optimizer
        self.adam = {
            "G": schedules.lazy_adam(
                adam.generator, loss.density_reg_interval if loss.density_reg > 0 else None
            ),
            "D": schedules.lazy_adam(
                adam.discriminator, loss.r1_interval if loss.penalises_discriminator else None
            ),
        }
        self.optimizer_g = make_adam(list(self.generator.parameters()), self.adam["G"])
        self.optimizer_d = make_adam(list(self.discriminator.parameters()), self.adam["D"])
        self.meter = Meter()
        self.steps_done = 0
        self.images_before = 0
        """Images that a source of `init_from` had seen, where its schedules go on."""
        self._schedules = schedules.of_start(config.training, config.init_from)
        self.last_fake: tuple[Images, Cameras] | None = None
        self._natural_resolution = self.generator.rendering_resolution
        self._swaps = (
            config.generator.mapping.condition == "camera" and not config.generator.view_in_label
        )
        self._reduces_reals = (
            config.generator.superresolution.factor == 1 and not config.generator.view_in_label
        )
        set_precision(self.generator, config.training.precision)
        set_precision(self.discriminator, config.training.precision)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Hand Lightning the two optimizers; it moves their state, the steps are ours."""
        return [self.optimizer_g, self.optimizer_d]

    @property
    def images_seen(self) -> int:
        """Real images shown so far."""
        return self.steps_done * self.config.training.batch

    def now(self, step: int) -> Now:
        """Ask the schedules."""
        training = self._schedules
        trained, total = step * training.batch, training.num_steps * training.batch
        images = trained + self.images_before
        return Now(
            step,
            images,
            schedules.rendering_resolution(
                training.rendering_resolution, images, self._natural_resolution
            ),
            schedules.blur_sigma(training, images),
            schedules.swap_probability(training, images),
            schedules.learning_rate_factor(self.config.optimizer, trained + training.batch, total),
        )

    def training_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002  # Lightning's
        """A G step, a D step, and the average follows."""
        now = self.now(batch.step)
        microbatches = self.split(batch)
        self.generator_step(now, microbatches)
        self.discriminator_step(now, microbatches)
        decay = schedules.ema_decay(self._schedules, now.images)
        self.moving_average.update(decay, self.gate.healthy)
        self.average.rendering_resolution = now.rendering_resolution
        self.steps_done = now.step + 1

    def generator_step(self, now: Now, microbatches: list[Microbatch]) -> None:
        """Make fakes that the discriminator takes for real; every few steps, smooth the density."""
        loss = self.config.loss
        self.run_phase("G loss", now, microbatches)
        lazy = loss.density_reg > 0 and loss.density_reg_interval > 1
        if lazy and now.step % loss.density_reg_interval == 0:
            self.run_phase("G density penalty", now, microbatches)

    def discriminator_step(self, now: Now, microbatches: list[Microbatch]) -> None:
        """Tell fakes from reals; every few steps, penalise the gradient at both."""
        loss = self.config.loss
        self.run_phase("D loss", now, microbatches)
        lazy = loss.penalises_discriminator and loss.r1_interval > 1
        if lazy and now.step % loss.r1_interval == 0:
            self.run_phase("D penalty", now, microbatches)

    def run_phase(self, phase: Phase, now: Now, microbatches: list[Microbatch]) -> None:
        """Accumulate the gradient of one loss over the microbatches, and step its optimizer."""
        losses_of = {
            "G loss": self._generator_losses,
            "G density penalty": self._density_penalties,
            "D loss": self._discriminator_losses,
            "D penalty": self._discriminator_penalties,
        }
        self._discriminator_learns(phase[0] == "D")
        self._update(phase, now, losses_of[phase](now, microbatches))
        self._discriminator_learns(True)

    def split(self, batch: Batch) -> list[Microbatch]:
        """Cut this process's share of the global batch into microbatches, numbered over all."""
        size = self.config.training.microbatch_size
        first = distributed.rank() * (len(batch.images) // size)
        draws = Draws(self.config.seed).scope("training")
        return [
            Microbatch(draws.at(batch.step, first + i), images, labels)
            for i, (images, labels) in enumerate(
                zip(torch.split(batch.images, size), torch.split(batch.labels, size), strict=True)
            )
        ]

    def _generator_losses(self, now: Now, microbatches: list[Microbatch]) -> Iterator[Tensor]:
        loss = self.config.loss
        for mb in microbatches:
            draws = mb.draws.scope("G")
            label = self.fake_labels(mb, draws)
            fake, scene, _ = self.generate(label, draws, now)
            logits = self.discriminate(fake, label, draws, now, real=False)
            real_logits = None
            if loss.adversarial == "relativistic":
                with torch.no_grad():
                    real = self.reals(mb, now)
                    real_logits = self.discriminate(real, label, draws, now, real=True)
            total = losses.generator_loss(loss.adversarial, logits, real_logits)
            self.meter.add("loss/G", total)
            if loss.density_reg > 0 and loss.density_reg_interval == 1:
                total = total + self._density_penalty(scene, draws)
            self.last_fake = (
                Images(*(None if x is None else x.detach() for x in fake)),  # type: ignore[arg-type]  # images are never None
                Cameras.from_label(label),
            )
            yield total

    def _density_penalties(self, now: Now, microbatches: list[Microbatch]) -> Iterator[Tensor]:
        for mb in microbatches:
            draws = mb.draws.scope("G density")
            # As EG3D: the images of a microbatch all swap their cameras here, or none does.
            ws = self.styles(self.fake_labels(mb, draws), draws, now, num_coins=1)
            scene = self.generator.scene(ws, "random", draws.scope("noise"))
            yield self._density_penalty(scene, draws) * self.config.loss.density_reg_interval

    def _density_penalty(self, scene: Any, draws: Draws) -> Tensor:
        loss = self.config.loss
        points = density_points(loss, scene.box, scene.batch, draws, self.device)
        penalty = density_l1(scene, *points)
        self.meter.add("loss/density", penalty)
        return penalty * loss.density_reg

    def _discriminator_losses(self, now: Now, microbatches: list[Microbatch]) -> Iterator[Tensor]:
        loss = self.config.loss
        penalised = loss.penalises_discriminator and loss.r1_interval == 1
        self._batch_statistics = []
        for mb in microbatches:
            draws = mb.draws.scope("D")
            label = self.fake_labels(mb, draws)
            with torch.no_grad():
                fake, _, ws = self.generate(label, draws, now)
            real = self.reals(mb, now)
            if penalised:
                fake_logits, fake = self.discriminate_smoothly(fake, label, draws, now, False)
                real_logits, real = self.discriminate_smoothly(real, mb.labels, draws, now, True)
            else:
                fake_logits = self.discriminate(fake, label, draws, now, real=False)
                real_logits = self.discriminate(real, mb.labels, draws, now, real=True)
            total = losses.discriminator_loss(loss.adversarial, fake_logits, real_logits)
            self.meter.add("loss/D", total)
            self.meter.add("D/real", real_logits.mean())
            self.meter.add("D/fake", fake_logits.mean())
            self.meter.add(
                "D/accuracy", losses.accuracy(loss.adversarial, fake_logits, real_logits)
            )
            self._batch_statistics.append(
                torch.cat([self._mean_style(ws, mb), real_logits.detach().sign().mean()[None]])
            )
            if penalised:
                total = total + self._penalty(real_logits, real, fake_logits, fake)
            yield total

    def _discriminator_penalties(
        self, now: Now, microbatches: list[Microbatch]
    ) -> Iterator[Tensor]:
        loss = self.config.loss
        for mb in microbatches:
            draws = mb.draws.scope("D penalty")
            real = self.reals(mb, now)
            real_logits, real = self.discriminate_smoothly(real, mb.labels, draws, now, True)
            fake = fake_logits = None
            if loss.r2 > 0:
                label = self.fake_labels(mb, draws)
                with torch.no_grad():
                    fake, _, _ = self.generate(label, draws, now)
                fake_logits, fake = self.discriminate_smoothly(fake, label, draws, now, False)
            yield self._penalty(real_logits, real, fake_logits, fake) * loss.r1_interval

    def _penalty(
        self, real_logits: Tensor, real: Images, fake_logits: Tensor | None, fake: Images | None
    ) -> Tensor:
        """R1 at reals and R2 at fakes: gamma / 2 * |grad D|^2 each."""
        loss = self.config.loss
        total = real_logits.new_zeros(())
        if loss.r1_gamma > 0:
            r1 = losses.gradient_penalty(real_logits, real)
            self.meter.add("loss/R1", r1)
            total = total + loss.r1_gamma / 2 * r1
        if loss.r2 > 0 and fake_logits is not None and fake is not None:
            r2 = losses.gradient_penalty(fake_logits, fake)
            self.meter.add("loss/R2", r2)
            total = total + loss.r2 / 2 * r2
        return total

    def fake_labels(self, mb: Microbatch, draws: Draws) -> Float[Tensor, "b 25"]:
        """Cameras of fakes: drawn from the data set; or, for pairs, those of the reals."""
        if self.config.loss.adversarial == "relativistic":
            return mb.labels
        rows = draws.integers("label", len(self.camera_labels), (len(mb.labels),))
        return self.camera_labels[rows].to(self.device, non_blocking=True)

    def styles(
        self,
        label: Float[Tensor, "b 25"],
        draws: Draws,
        now: Now,
        num_coins: int | None = None,
    ) -> Float[Tensor, "b num_ws w_dim"]:
        """Styles of fresh latents; conditioned on a swapped camera, and mixed, now and then.

        `num_coins` decide on the swaps: one for each image (None), or 1 for all.
        """
        batch, z_dim = len(label), self.config.generator.z_dim
        if self._swaps and now.swap_probability > 0:
            coins = draws.uniform("swap", (num_coins or batch, 1), self.device)
            swapped = coins < now.swap_probability
            label = torch.where(swapped, label.roll(1, dims=0), label)
        ws: Tensor = self.generator.mapping(draws.normal("z", (batch, z_dim), self.device), label)
        num_ws, mixing = ws.shape[1], self.config.loss.style_mixing
        if num_ws > 1 and mixing > 0 and float(draws.uniform("mix", (1,))) < mixing:
            cutoff = 1 + int(draws.integers("cutoff", num_ws - 1, (1,)))
            other = self.generator.mapping(draws.normal("z2", (batch, z_dim), self.device), label)
            ws = torch.cat([ws[:, :cutoff], other[:, cutoff:]], dim=1)
        return ws

    def generate(
        self, label: Float[Tensor, "b 25"], draws: Draws, now: Now
    ) -> tuple[Images, Any, Float[Tensor, "b num_ws w_dim"]]:
        """Fakes seen from the cameras of `label`, with their scene and styles."""
        ws = self.styles(label, draws, now)
        scene = self.generator.scene(ws, "random", draws.scope("scene"))
        images = self.generator.render(
            scene,
            ws,
            Cameras.from_label(label),
            now.rendering_resolution,
            noise_mode="random",
            draws=draws.scope("render"),
        )
        return images, scene, ws

    def reals(self, mb: Microbatch, now: Now) -> Images:
        """The real images of a microbatch, as a generator would return them."""
        return discriminator_input.real_pair(
            mb.images, now.rendering_resolution, self._reduces_reals
        )

    def discriminate(
        self,
        images: Images,
        label: Float[Tensor, "b 25"],
        draws: Draws,
        now: Now,
        real: bool,
    ) -> Float[Tensor, "b 1"]:
        """Logits of blurred and augmented images."""
        return self.logits(self.seen(images, draws, now, real), label)

    def discriminate_smoothly(
        self,
        images: Images,
        label: Float[Tensor, "b 25"],
        draws: Draws,
        now: Now,
        real: bool,
    ) -> tuple[Float[Tensor, "b 1"], Images]:
        """Logits in float32, and the leaves by which a penalty differentiates them."""
        if self.config.loss.penalty_at == "image":
            leaves = losses.with_gradient(images)
            seen = self.seen(leaves, draws, now, real)
        else:
            leaves = seen = losses.with_gradient(self.seen(images, draws, now, real))
        return self.logits(seen, label, twice=True), leaves

    def seen(self, images: Images, draws: Draws, now: Now, real: bool) -> Images:
        """What the discriminator is given of images: blurred and augmented."""
        images = discriminator_input.blur_pair(
            images, now.blur_sigma, real, self.config.training.blur_raw == "eg3d"
        )
        if self.config.augment.mode != "none":
            images = self.augment(images, draws.scope("augment real" if real else "augment fake"))
        return images

    def logits(
        self, seen: Images, label: Float[Tensor, "b 25"], twice: bool = False
    ) -> Float[Tensor, "b 1"]:
        """Logits of what the discriminator is given; float32 if to be differentiated twice."""
        precision = "fp32" if twice else self.config.training.precision
        with computing_in(self.discriminator, precision):
            logits: Tensor = self.discriminator(seen, label)
        return logits

    def _discriminator_learns(self, yes: bool) -> None:
        for parameter in self.optimizer_d.param_groups[0]["params"]:
            parameter.requires_grad_(yes)

    def _update(self, phase: Phase, now: Now, terms: Iterator[Tensor]) -> None:
        """Accumulate the gradient of the mean over the global batch, then step behind the gate."""
        network = phase[0]
        optimizer = self.optimizer_g if network == "G" else self.optimizer_d
        num = self.config.training.num_microbatches
        for term in terms:
            (term / num).backward()  # type: ignore[no-untyped-call]  # torch
        gradients = [p.grad for p in optimizer.param_groups[0]["params"] if p.grad is not None]
        if phase == "D loss":
            statistics = torch.stack(self._batch_statistics).sum(0) / num
            distributed.sum_all([*gradients, statistics])
        else:
            distributed.sum_all(gradients)
        norm = nn.utils.get_total_norm(gradients)
        self.meter.add(f"gradient/{phase}", norm)
        self.gate.observe(norm, phase, now.step)
        gated_step(optimizer, self.adam[network].lr * now.learning_rate_factor, self.gate.healthy)
        if phase == "D loss":
            self._follow(now, statistics)

    def _mean_style(
        self, ws: Float[Tensor, "b num_ws w_dim"], mb: Microbatch
    ) -> Float[Tensor, " w_dim"]:
        """What the running mean of w follows, such that the mean over microbatches is that."""
        mean = ws[:, 0].mean(0)
        if self.config.training.w_avg_from == "global":
            return mean
        first = mb.draws.microbatch == 0
        return mean * (self.config.training.num_microbatches if first else 0)

    def _follow(self, now: Now, statistics: Float[Tensor, " n"]) -> None:
        """Move what follows the global batch: the mean style, and the strength of augmentation."""
        healthy, mapping = self.gate.healthy, self.generator.mapping
        mapping.update_w_avg(torch.where(healthy, statistics[:-1], mapping.w_avg))
        augment = self.config.augment
        if augment.mode != "ada":
            return
        self.sign_sum += statistics[-1]
        self.meter.add("augment/sign", statistics[-1])
        if (now.step + 1) % augment.interval == 0:
            sign = torch.where(healthy, self.sign_sum / augment.interval, augment.target)
            self.augment.update(sign, augment.interval * self.config.training.batch)
            self.sign_sum.zero_()

    def training_state(self) -> dict[str, dict[str, Any]]:
        """What training changes besides the networks: tensors and plain values."""
        return {
            "augment": {**self.augment.state_dict(), "sign_sum": self.sign_sum},
            "optimizer_g": self.optimizer_g.state_dict(),
            "optimizer_d": self.optimizer_d.state_dict(),
        }

    def load_training_state(self, state: dict[str, dict[str, Any]], step: int) -> None:
        """Continue as if never stopped, with `step` next."""
        augment = dict(state["augment"])
        self.sign_sum.copy_(augment.pop("sign_sum"))
        self.augment.load_state_dict(augment)
        self.optimizer_g.load_state_dict(state["optimizer_g"])
        self.optimizer_d.load_state_dict(state["optimizer_d"])
        self.steps_done = step
