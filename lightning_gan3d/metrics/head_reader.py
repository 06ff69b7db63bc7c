"""Networks that read something from images of procedural heads, trained on other heads."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.synthetic.synth import SynthConfig, SynthObjects, sample_cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import to_float, to_uint8
from lightning_gan3d.metrics.config import HeadReaderConfig
from lightning_gan3d.metrics.context import EvaluationContext
from lightning_gan3d.metrics.pose.estimators import ImageRegressor, fit
from lightning_gan3d.metrics.protocol import cached


@dataclass(frozen=True)
class ReaderTask:
    """What a network learns to read from an image."""

    name: str
    """Of its draws and its file in the cache."""
    dim: int
    """Numbers per image."""
    targets: Callable[[SynthObjects, Cameras], Float[Tensor, "m d"]]
    """The numbers of head i, seen by camera i; NaN is ignored."""
    score: Callable[[Float[Tensor, "m d"], Float[Tensor, "m d"]], Tensor]
    """Summarises errors and targets of held-out heads."""


def trained_reader(
    context: EvaluationContext, synth: SynthConfig, cfg: HeadReaderConfig, task: ReaderTask
) -> tuple[ImageRegressor, Tensor]:
    """Return a network from images to the targets, and its score; from the cache, else trained.

    `synth`: options of the data set.
    """
    num, num_test = cfg.heads, cfg.heads // 8
    # Other heads than those of the data set, before equal backgrounds, from equal cameras.
    synth = replace(synth, num_images=num, num_objects=num, holdout=0.0, seed=synth.seed + 1)
    side = min(cfg.resolution, context.train.resolution)
    network = ImageRegressor(side, task.dim).to(context.device)

    def train() -> dict[str, Tensor]:
        draws = Draws(context.seed).scope(task.name)
        heads, cameras = SynthObjects(synth), sample_cameras(synth, num, draws)
        target = task.targets(heads, cameras).to(context.device)
        image = to_uint8(heads.render(torch.arange(num), cameras, side).image).to(context.device)

        def batch(step: Draws) -> tuple[Tensor, Tensor]:
            ids = step.integers("heads", num - num_test, (cfg.batch,))
            noise = 0.05 * step.normal("noise", (cfg.batch, *image.shape[1:]), image.device)
            return to_float(image[ids]) + noise, target[ids]

        fit(network, batch, cfg.iterations, draws)
        wrong = network(to_float(image[-num_test:])) - target[-num_test:]
        return {**network.state_dict(), "score": task.score(wrong.cpu(), target[-num_test:].cpu())}

    key = [asdict(synth), side, cfg.iterations, cfg.batch, context.seed]
    tensors = cached(context.cache, task.name, key, train)
    result = tensors.pop("score").cpu()
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False), result
