"""The renderer's works: rays, sampling, decoding, compositing, and their gradient, against ours."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_gan3d.benchmark.eg3d.compare import Work
from lightning_gan3d.benchmark.eg3d.sides import (
    SAMPLES,
    Side,
    difference,
    middles,
    relative,
    styles,
)
from lightning_gan3d.draws import Draws

RESOLUTIONS = (64, 128)


def renderers(side: Side) -> list[Work]:
    """Return the works at both resolutions, without and with the backward pass."""
    return [
        _Renderer(side, resolution, backward).work()
        for resolution in RESOLUTIONS
        for backward in (False, True)
    ]


class _Renderer:
    """The renderer alone, on planes that lie there; with jitter, as in training."""

    def __init__(self, side: Side, resolution: int, backward: bool) -> None:
        self.side, self.resolution, self.backward = side, resolution, backward
        with torch.no_grad():
            planes = side.theirs.backbone.synthesis(styles(side), noise_mode="const")
        self.planes = planes.view(1, 3, 32, 256, 256)
        self.decoder = copy.deepcopy(side.theirs.decoder).requires_grad_(backward)
        generator = torch.Generator().manual_seed(1)
        size = 1, 32, resolution, resolution
        self.weight = torch.randn(size, generator=generator).to(planes.device)

    def work(self) -> Work:
        """Return both sides; with the backward pass ours is in float32 alone."""
        ours = {
            p: self.ours(p, Draws(0)) for p in self.side.ours if p == "fp32" or not self.backward
        }
        direction = "forward and backward" if self.backward else "forward"
        size = f"{self.resolution}² rays of {SAMPLES} + {SAMPLES} samples"
        key = f"renderer_{self.resolution}_{direction.replace(' and ', '_')}"
        renderer: Any = next(iter(self.side.ours.values())).renderer
        return Work(
            key,
            f"renderer, {size}, {direction}",
            self.theirs,
            ours,
            self.agreement,
            lambda: str(renderer.path_taken),
        )

    def theirs(self) -> tuple[Tensor, ...]:
        """Render by the official code: the feature image and, if asked for, the gradients."""
        net, label, r = self.side.theirs, self.side.label, self.resolution
        leaf = self.planes.detach().requires_grad_(self.backward)
        with torch.set_grad_enabled(self.backward):
            pose, intrinsics = label[:, :16].view(-1, 4, 4), label[:, 16:].view(-1, 3, 3)
            rays = net.ray_sampler(pose, intrinsics, r)
            feature, _, _ = net.renderer(leaf, self.decoder, *rays, net.rendering_kwargs)
            feature = feature.mT.reshape(1, 32, r, r)
            return self._finish(feature, leaf, list(self.decoder.parameters()))

    def ours(self, precision: str, draws: Draws | None) -> Callable[[], tuple[Tensor, ...]]:
        """Return a call of ours; the scene is prepared before, as one that is kept would be."""
        net: Any = self.side.ours[precision]
        decoder = copy.deepcopy(net.representation.decoder).requires_grad_(self.backward)
        with torch.no_grad():
            scene: Any = net.scene(styles(self.side))
            scene = scene if self.backward else net.renderer.prepare(scene)

        def run() -> tuple[Tensor, ...]:
            leaf = scene.planes.detach().requires_grad_(self.backward)
            with torch.set_grad_enabled(self.backward):
                field = type(scene)(leaf, decoder, scene.scene_cfg, scene.axes)
                seen = net.renderer(field, self.side.cameras, self.resolution, draws)
                return self._finish(seen.feature, leaf, list(decoder.parameters()))

        return run

    def agreement(self, precision: str) -> str:
        """Compare features and the gradient of the planes, at the middles of strata."""
        with middles():
            wanted = self.theirs()
        found = self.ours(precision, None)()
        text = difference(found[0], wanted[0], precision)
        if self.backward:
            text += f", gradient of the planes {relative(found[1].view_as(wanted[1]), wanted[1])}"
        return text

    def _finish(
        self, feature: Tensor, leaf: Tensor, parameters: list[Tensor]
    ) -> tuple[Tensor, ...]:
        if not self.backward:
            return (feature,)
        gradients = torch.autograd.grad((feature * self.weight).sum(), [leaf, *parameters])
        return (feature.detach(), *gradients)
