"""Fine-tuning towards a direction of image encoders: StyleGAN-NADA (Gal et al. 2022) in 3D.

A frozen copy of the start renders the same latents from the same cameras with the same noise; the
loss aligns the difference of both embeddings with the target direction. No discriminator is
trained.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.datamodule import Batch
from lightning_gan3d.draws import Draws
from lightning_gan3d.embedding import (
    Encoder,
    Target,
    digest_of,
    direction_from,
    direction_loss,
    read_target,
)
from lightning_gan3d.experiment import ExperimentConfig
from lightning_gan3d.generator import Generator
from lightning_gan3d.images import Images
from lightning_gan3d.networks.layers import FullyConnected, ToRGB
from lightning_gan3d.training import distributed
from lightning_gan3d.training.discriminator_input import DiscriminatorInput, Microbatch
from lightning_gan3d.training.module import AdversarialModule

SOURCES = 16
"""Images of the start whose mean embedding is the source of a direction to images."""
CODES = 8
"""Latents of a microbatch by which layers are chosen."""


def open_critic(config: ExperimentConfig, resolution: int) -> tuple[list[Encoder], list[Target]]:
    """Load the encoders, and the target for each; raises ScriptError, ConfigError."""
    critic, each = config.critic, enumerate(config.critic.encoders)
    encoders = [Encoder(f"critic.encoders.{i}.", cfg, resolution) for i, cfg in each]
    targets = [read_target("critic.target", critic.target, e, critic.source) for e in encoders]
    return encoders, targets


def digests_of(config: ExperimentConfig, encoders: Sequence[Encoder]) -> dict[str, str]:
    """SHA-256 of the files of encoders, target and source, by option: for the manifest."""
    paths = {"target": config.critic.target, "source": config.critic.source}
    digests = {name: digest_of(Path(path).expanduser()) for name, path in paths.items() if path}
    for i, encoder in enumerate(encoders):
        digests |= {f"encoders.{i}.{half}": digest for half, digest in encoder.digests.items()}
    return digests


@torch.no_grad()
def layers_of_styles(
    generator: Generator, label: Float[Tensor, "1 label_dim"]
) -> list[list[nn.Parameter]]:
    """Trained parameters of the layers that each style vector modulates, without output layers.

    Style i is filled with i, and each layer's affine map of a style sees which one it gets.
    """
    parts, num_ws = dict(generator.named_modules()), generator.representation.num_ws
    layers: list[list[nn.Parameter]] = [[] for _ in range(num_ws)]

    def record(owner: nn.Module) -> Any:
        own = [p for p in owner.parameters() if p.requires_grad]
        return lambda _, given: layers[round(float(given[0].flatten()[0]))].extend(own)

    hooks = []
    for name, part in parts.items():
        if isinstance(part, FullyConnected) and "affine" in name:
            above = parts[name.rpartition(".")[0]]
            owner = part if isinstance(above, nn.ModuleList) else above
            if not isinstance(owner, ToRGB):
                hooks.append(part.register_forward_pre_hook(record(owner)))
    numbers = torch.arange(float(num_ws), device=label.device)[None, :, None]
    generator.synthesis(numbers.repeat(1, 1, generator.cfg.w_dim), Cameras.from_label(label))
    for hook in hooks:
        hook.remove()
    return layers


class DirectionModule(AdversarialModule):
    """Generator and its frozen start. The discriminator stays as it is, for later trainings."""

    def __init__(
        self, config: ExperimentConfig, resolution: int, labels: Float[Tensor, "n label_dim"]
    ) -> None:
        """Load the encoders too; `labels` from which those of images are drawn."""
        super().__init__(config, resolution, labels)
        self.frozen = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.frozen_input = DiscriminatorInput(config, self.frozen)
        self.encoders, self.targets = open_critic(config, resolution)
        self.digests = digests_of(config, self.encoders)
        self.layers: list[list[nn.Parameter]] = []
        """By style vector, if `critic.layers` chooses among them."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Before the first step, both generators start from the average of `init_from`."""
        if self.steps_done == 0:
            for network in (self.generator, self.frozen):
                network.load_state_dict(self.average.state_dict())
            pairs = zip(self.encoders, self.targets, strict=True)
            self.targets = [self.with_source(*pair) for pair in pairs]
        if self.config.critic.layers is not None and not self.layers:
            self.layers = layers_of_styles(self.generator, self.camera_labels[:1].to(self.device))
            if not any(self.layers):
                raise ConfigError(
                    f"critic.layers={self.config.critic.layers}: no trained layer has a style of "
                    "its own; set critic.layers=null, or training.freeze=[]"
                )
        super().training_step(batch, batch_idx)

    @torch.no_grad()
    def with_source(self, encoder: Encoder, target: Target) -> Target:
        """Add the direction to a target: from images of the start, seen by random cameras."""
        if target.direction is not None or target.embedding is None:
            return target
        source = torch.zeros(encoder.dim, device=self.device)
        for i in range(SOURCES):
            draws = Draws(self.config.seed).scope("source").at(i)
            row = draws.integers("label", len(self.camera_labels), (1,))
            z = draws.normal("z", (1, self.config.generator.z_dim), self.device)
            image = self.frozen(z, self.camera_labels[row].to(self.device)).image
            source += encoder(image)[0] / SOURCES
        embedding = target.embedding.to(self.device)
        return Target(direction_from(embedding, source, "critic.target"), embedding)

    def generator_step(self, microbatches: list[Microbatch]) -> None:
        """Train the generator, or its layers that the target would move most."""
        trained = self.optimizer_g.param_groups[0]["params"]
        if self.layers:
            chosen = self.choose_layers(microbatches)
            self._train(trained, False)
            self._train(chosen)
        super().generator_step(microbatches)
        self._train(trained)

    def discriminator_step(self, microbatches: list[Microbatch]) -> None:
        """No discriminator is trained."""

    def penalty_step(self, microbatches: list[Microbatch]) -> None:
        """No discriminator is trained."""

    def view_loss(
        self,
        ws: Float[Tensor, "b num_ws w_dim"],
        scene: Any,
        label: Float[Tensor, "b label_dim"],
        mb: Microbatch,
        view: int,
    ) -> Float[Tensor, ""]:
        """Loss of one view of each scene; view k has the camera of the k-th next scene."""
        with torch.no_grad():
            start = self.frozen.scene(ws, "random", mb.draws.scope("scene"))
        if view > 0:
            mb, label = mb.scope(f"view {view}"), label.roll(-view, dims=0)
        of_label = Cameras.from_label(label)
        images, cameras = self.input.fakes(scene, ws, of_label, mb, smooth=True)
        with torch.no_grad():
            frozen, _ = self.frozen_input.fakes(start, ws, of_label, mb, smooth=True)
        self.last_fake = Images(*(x if x is None else x.detach() for x in images)), cameras  # type: ignore[arg-type]  # images are never None
        total = self.terms.of_view(scene, mb, images, cameras)
        for encoder, target in zip(self.encoders, self.targets, strict=True):
            assert target.direction is not None, "set before the first step"
            with torch.no_grad():
                before = encoder(frozen.image)
            after = encoder(images.image)
            loss = direction_loss(after, before, target.direction.to(self.device))
            self.meter.add("loss/direction", loss)
            if len(after) > 1:
                spread = torch.pdist(after.detach()).mean()
                spread = spread / torch.pdist(before).mean().clamp(min=1e-12)
                self.meter.add("direction/diversity", spread)
            total = total + encoder.cfg.weight * loss
        return torch.as_tensor(total)

    def choose_layers(self, microbatches: list[Microbatch]) -> list[nn.Parameter]:
        """Parameters of the layers whose styles the target would move most.

        Styles move along the gradient of 1 - cosine of embedding and target, or direction: one step
        of gradient descent (Gal et al., section 4.2). All microbatches vote.
        """
        sizes = torch.zeros(len(self.layers), device=self.device)
        for mb in [m.scope("layers") for m in microbatches]:
            few = mb._replace(labels=mb.labels[:CODES])
            label = self.fake_labels(few)
            ws = self.styles(label, few).detach().requires_grad_()
            scene = self.generator.scene(ws, "random", few.draws.scope("scene"))
            images, _ = self.input.fakes(scene, ws, Cameras.from_label(label), few, smooth=True)
            total = torch.zeros((), device=self.device)
            for encoder, (direction, embedding) in zip(self.encoders, self.targets, strict=True):
                vector = direction if embedding is None else embedding
                assert vector is not None, "set before the first step"
                cosine = encoder(images.image) @ vector.to(self.device)
                total = total - encoder.cfg.weight * cosine.mean()
            sizes += torch.autograd.grad(total, ws)[0].abs().mean(dim=(0, 2))
        distributed.sum_all([sizes])
        usable = [i for i in sizes.argsort(descending=True).tolist() if self.layers[i]]
        return [p for i in usable[: self.config.critic.layers] for p in self.layers[i]]

    def training_state(self) -> dict[str, dict[str, Any]]:
        """State besides the networks, with the frozen generator and the targets."""
        own = {"frozen": self.frozen.state_dict(), "targets": [tuple(t) for t in self.targets]}
        return {**super().training_state(), "direction": own}

    def load_training_state(self, state: dict[str, dict[str, Any]], step: int) -> None:
        """Restore `training_state`; `step` is the next step."""
        super().load_training_state(state, step)
        self.frozen.load_state_dict(state["direction"]["frozen"])
        self.targets = [Target(*target) for target in state["direction"]["targets"]]
