"""GAN inversion: the latent, camera and noise of an image, then pivotal tuning of the weights.

Projection as in StyleGAN2 (Karras et al. 2020, appendix D), with offsets from the mean style in the
eigenvectors of the styles' covariance (Zhu et al. 2020, "Improved StyleGAN embedding"). Pivotal
tuning: Roich et al. 2022.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_gan3d.cameras import Cameras, Orbit
from lightning_gan3d.config import ConfigError, UserError
from lightning_gan3d.draws import Draws
from lightning_gan3d.generator import Generator
from lightning_gan3d.images import Images
from lightning_gan3d.inference.config import InvertOptions
from lightning_gan3d.inference.inversion.targets import (
    Target,
    image_distance,
    noise_regulariser,
    perceptual_distance,
)
from lightning_gan3d.inference.model import Model, mean_styles, offset_styles
from lightning_gan3d.metrics.consistency.image_similarity import LpipsMap, load_lpips
from lightning_gan3d.networks.layers import SynthesisLayer
from lightning_gan3d.progress import track

NOISE = 0.05
"""Noise on the latent at the start, in its standard deviations; it ends after 3/4 of the steps."""
NOISE_WEIGHT = 1e5
"""Weight of the regulariser of noise maps (Karras et al. 2020)."""
CAMERA_RATE = 0.1
"""Learning rate of angles and log distance, as a share of the latent's."""
AWAY = 0.5
"""Distance from the pivot of the latents at which tuning must change nothing, as a share of the
distance to a drawn latent."""
POSES = (12, (-0.3, 0.0, 0.3))
"""Grid of the search: azimuths on the orbit, elevations relative to it in radians."""
AT_ONCE = 64
"""Views that the search renders together."""


@dataclass(frozen=True)
class Stage:
    """A finished stage: its name, the loss of each step, and the picture after it."""

    name: str
    losses: list[float]
    image: Float[Tensor, "1 3 r r"]


@dataclass(frozen=True)
class Inversion:
    """A latent with the generator and camera that show the image; the latent is seed 0."""

    model: Model
    offset: Float[Tensor, "num_ws w_dim"]
    """From the mean styles."""
    cameras: Cameras
    stages: list[Stage]


@dataclass(frozen=True)
class Problem:
    """What is optimised: a generator that may change, an image and options."""

    model: Model
    target: Target
    options: InvertOptions
    noise: list[Tensor]
    """Noise maps that are optimised in place."""

    @property
    def generator(self) -> Generator:
        """The generator."""
        return self.model.generator

    @cached_property
    def axes(self) -> Float[Tensor, "w_dim w_dim"]:
        """Matrix from standard deviations along the principal axes of W to style vectors."""
        drawn = self.drawn("axes", 4096)[:, 0]
        values, vectors = torch.linalg.eigh(drawn.T @ drawn / len(drawn))
        axes: Tensor = vectors * values.clamp(min=1e-3 * float(values.max())).sqrt()
        return axes

    def drawn(self, purpose: str, num: int) -> Float[Tensor, "num num_ws w_dim"]:
        """Offsets of drawn latents from the mean style, for the frontal camera's label."""
        z = Draws(self.options.seed).normal(purpose, (num, self.generator.cfg.z_dim))
        label = self.model.label
        ws = self.generator.mapping(
            z.to(label.device), label.expand(num, -1), self.options.psi, self.options.cutoff
        )
        return ws - self.mean  # type: ignore[no-any-return]  # nn.Module

    @cached_property
    def mean(self) -> Float[Tensor, "1 num_ws w_dim"]:
        """Mean styles of the frontal camera's label."""
        return mean_styles(self.generator, self.model.label)

    def images(self, offset: Float[Tensor, "b num_ws w_dim"], cameras: Cameras) -> Images:
        """Render k = v / b views of each latent."""
        mean = self.mean
        if self.generator.cfg.view_in_label:
            offset = offset.repeat_interleave(len(cameras.cam2world) // len(offset), dim=0)
            mean = mean_styles(self.generator, self.model.label_of(cameras))
        return self.generator.synthesis(mean + offset, cameras)[1]

    def distance(
        self, image: Float[Tensor, "v 3 r r"], target: Target | None = None
    ) -> Float[Tensor, " v"]:
        """Distance of pictures to a target: multi-scale squared error, and LPIPS if available."""
        target = target or self.target
        lpips = perceptual_network()
        distance = image_distance(image.float(), target)
        if self.options.lpips and isinstance(lpips, LpipsMap):
            distance = distance + self.options.lpips * perceptual_distance(image, target, lpips)
        return distance


@cache
def perceptual_network() -> LpipsMap | str:
    """LPIPS, or why there is none."""
    return load_lpips(None)


def invert(model: Model, target: Target, cameras: Cameras, options: InvertOptions) -> Inversion:
    """Find the latent, and weights near it, with which a generator shows an image.

    `cameras`: the image's camera, or the poses among which it is searched; the camera is optimised
    if `options.refine_camera` is set or there are several. The model itself does not change.
    Deterministic, given the options.
    """
    model = dataclasses.replace(model, generator=copy.deepcopy(model.generator))
    if options.rendering_resolution:
        model.generator.rendering_resolution = options.rendering_resolution
    noise = noise_maps(model.generator) if options.noise else []
    problem = Problem(model, target.to(model.device), options, noise)
    moving = options.refine_camera or len(cameras.cam2world) > 1
    u, cameras = find_start(problem, cameras.to(model.device))
    stages: list[Stage] = []

    def finish(name: str, losses: list[float]) -> None:
        with torch.no_grad():
            image = problem.images(u @ problem.axes.T, cameras).image.float()
        stages.append(Stage(name, losses, image[:1]))

    finish("start", [])
    early = max(1, options.steps // 3)
    u, cameras, losses = project(problem, u, cameras, early if moving or len(u) > 1 else 0, moving)
    with torch.no_grad():
        best = problem.distance(problem.images(u @ problem.axes.T, cameras).image).argmin()[None]
    u, cameras = u[best], cameras.select(best)
    finish("starts in w", losses)
    if options.space == "w+":
        u = u.repeat(1, model.generator.representation.num_ws, 1)
    u, cameras, losses = project(problem, u, cameras, options.steps, moving)
    finish(options.space, losses)
    offset = (u @ problem.axes.T).expand(-1, model.generator.representation.num_ws, -1)
    if options.tuning_steps:
        finish("tuned", tune(problem, offset, cameras))
    styles = offset_styles(model.generator, offset[0])
    return Inversion(dataclasses.replace(model, inverted=(styles,)), offset[0], cameras, stages)


def pose_grid(orbit: Orbit) -> Cameras:
    """Cameras among which the search chooses: circles or arcs above and below the orbit."""
    num, elevations = POSES
    rings = [
        orbit._replace(elevation=min(1.4, max(-1.4, orbit.elevation + e))).cameras(num)
        for e in elevations
    ]
    return Cameras(*(torch.cat(part) for part in zip(*rings, strict=True)))


@torch.no_grad()
def find_start(problem: Problem, cameras: Cameras) -> tuple[Float[Tensor, "s 1 w_dim"], Cameras]:
    """Return the best of the mean and drawn latents: one for each of the best poses, if several.

    Latents are in standard deviations along the principal axes.
    """
    options, poses = problem.options, len(cameras.cam2world)
    drawn = problem.drawn("start", options.candidates)
    offsets = torch.cat([torch.zeros_like(drawn[:1]), drawn])
    losses = []
    for batch in torch.split(offsets, max(1, AT_ONCE // poses)):
        each = Cameras(*(x.repeat(len(batch), 1, 1) for x in cameras))
        losses.append(problem.distance(problem.images(batch, each).image).view(-1, poses))
    loss = torch.cat(losses)
    if poses > 1:
        best = loss.min(dim=0)
        pose = best.values.argsort()[: options.starts]
        latent: Int[Tensor, " s"] = best.indices[pose]
    else:
        latent = loss[:, 0].argsort()[: options.starts]
        pose = torch.zeros_like(latent)
    # With a cutoff, only the coarse styles are truncated: their mean starts W.
    start = offsets[latent].mean(dim=1, keepdim=True)
    return torch.linalg.solve(problem.axes, start.mT).mT, cameras.select(pose)


def project(
    problem: Problem, u: Float[Tensor, "b n w_dim"], cameras: Cameras, steps: int, moving: bool
) -> tuple[Float[Tensor, "b n w_dim"], Cameras, list[float]]:
    """Optimise b latents with n style vectors, 1 or one per layer, each with its camera.

    Returns latents, cameras, and the loss of each step.
    """
    options = problem.options
    u = u.detach().clone().requires_grad_()
    move = torch.zeros(len(u), 3, device=u.device, requires_grad=moving)
    noise = problem.noise if len(u) == 1 else []
    for x in noise:
        x.requires_grad_()
    groups = [{"params": [u, *noise], "lr": options.rate}]
    if moving:
        groups.append({"params": [move], "lr": options.rate * CAMERA_RATE})
    draws = Draws(options.seed).scope("project")
    target = problem.model.orbit.target

    def loss(step: int) -> Tensor:
        strength = NOISE * max(0.0, 1 - step / steps / 0.75) ** 2
        noisy = u + strength * draws.at(step).normal("noise", u.shape, u.device)
        seen = cameras.moved(move, target) if moving else cameras
        distance = problem.distance(problem.images(noisy @ problem.axes.T, seen).image)
        total = (distance + options.prior * u.square().mean(dim=(1, 2))).sum()
        return total + NOISE_WEIGHT * noise_regulariser(noise) if noise else total

    def normalise() -> None:
        for x in noise:
            x.sub_(x.mean()).mul_(x.square().mean().rsqrt())

    losses = optimise(groups, loss, steps, options.patience, normalise)
    for x in noise:
        x.requires_grad_(False)
    with torch.no_grad():
        return u.detach(), cameras.moved(move, target) if moving else cameras, losses


def noise_maps(generator: Generator) -> list[Tensor]:
    """Noise maps that influence a generator; raises ConfigError if there are none."""
    layers = [m for m in generator.modules() if isinstance(m, SynthesisLayer)]
    maps = [m.noise_const for m in layers if m.options.use_noise]
    if not maps:
        raise ConfigError("noise=true: this generator has no noise maps", field="noise")
    return maps


def tune(problem: Problem, pivot: Float[Tensor, "1 num_ws w_dim"], cameras: Cameras) -> list[float]:
    """Tune the generator's weights, except the mapping, around a latent; returns the losses.

    Roich et al. 2022: distance to the image, and locality: latents between the pivot and drawn ones
    keep their pictures. Here the pivot, too, keeps its pictures from other cameras than its own.
    """
    options, generator = problem.options, problem.generator
    original = dataclasses.replace(
        problem, model=dataclasses.replace(problem.model, generator=copy.deepcopy(generator))
    )
    weights = [p for n, p in generator.named_parameters() if not n.startswith("mapping.")]
    for weight in weights:
        weight.requires_grad_()
    draws = Draws(options.seed).scope("tune")
    around = problem.model.orbit.cameras(36).to(pivot.device)
    mask = torch.ones_like(problem.target.mask)

    def loss(step: int) -> Tensor:
        total = problem.distance(problem.images(pivot, cameras).image).sum()
        if options.locality:
            keys = draws.at(step)
            view = around.select(keys.integers("camera", len(around.cam2world), (1,)))
            # In turn: the pivot from another camera, and a latent on the way to a drawn one.
            drawn = original.drawn(f"tune {step}", 1)
            offset = pivot.lerp(drawn, AWAY) if step % 2 else pivot
            with torch.no_grad():
                before = original.images(offset, view).image.float()
            after = problem.images(offset, view).image
            kept = problem.distance(after, Target(before, mask)).sum()
            total = total + options.locality * kept
        return total

    losses = optimise(
        [{"params": weights, "lr": options.tuning_rate}],
        loss,
        options.tuning_steps,
        options.patience,
    )
    for weight in weights:
        weight.requires_grad_(False)
    return losses


def optimise(
    groups: list[dict[str, Any]],
    loss: Callable[[int], Tensor],
    steps: int,
    patience: int,
    after: Callable[[], None] = lambda: None,
) -> list[float]:
    """Minimise by Adam with StyleGAN2's learning-rate ramps; returns the loss of each step.

    Rates rise over 5 % of the steps and fall over the last 25 %. If `patience` steps gain less than
    1 %, the fall starts at once. Raises UserError if the loss is not finite.
    """
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.999))
    rates = [group["lr"] for group in optimizer.param_groups]
    losses: list[float] = []
    fall, step, best, since = math.ceil(0.75 * steps), 0, math.inf, 0

    def schedule() -> Iterator[int]:
        nonlocal step
        while step < steps:
            yield step
            step = fall if since >= patience and step < fall else step + 1

    for now in track(schedule(), "optimise", steps):
        t = now / steps
        scale = (0.5 - 0.5 * math.cos(math.pi * min(1, (1 - t) / 0.25))) * min(1, (t + 0.01) / 0.05)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * scale
        optimizer.zero_grad()
        value = loss(now)
        value.backward()  # type: ignore[no-untyped-call]  # torch's
        losses.append(float(value.detach()))
        if not math.isfinite(losses[-1]):
            raise UserError(f"the loss is {losses[-1]} at step {now}: lower rate or tuning_rate")
        optimizer.step()
        with torch.no_grad():
            after()
        since += 1
        if losses[-1] < 0.99 * best:
            best, since = losses[-1], 0
    return losses
