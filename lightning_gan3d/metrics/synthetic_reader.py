"""Networks that read something from images of procedural data, trained on other objects."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.synthetic.ellipsoids import ObjectView
from lightning_gan3d.data.synthetic.synth import SynthConfig, SynthObjects, sample_cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import to_float, to_uint8
from lightning_gan3d.metrics.config import ReaderConfig
from lightning_gan3d.metrics.context import EvaluationContext
from lightning_gan3d.metrics.pose.estimators import ImageReader, Loss, fit, squared_distance
from lightning_gan3d.metrics.protocol import cached


@dataclass(frozen=True)
class ReaderTask:
    """What a network learns to read from an image."""

    name: str
    """Of its draws and its file in the cache."""
    num: int
    """Heads or scenes, one image each; an eighth tests the network."""
    network: Callable[[int], ImageReader]
    """Builds the network for a resolution."""
    targets: Callable[[SynthObjects, Cameras, ObjectView], Float[Tensor, "m d"]]
    """The numbers of object i, seen by camera i; the view has the resolution of the network."""
    score: Callable[[Float[Tensor, "m d"], Float[Tensor, "m d"]], Tensor]
    """Summarises outputs and targets of held-out objects."""
    loss: Loss = squared_distance


def trained_reader(
    context: EvaluationContext, synth: SynthConfig, cfg: ReaderConfig, task: ReaderTask
) -> tuple[ImageReader, Tensor]:
    """Return a network from images to the targets, and its score; from the cache, else trained.

    `synth`: options of the data set.
    """
    num, num_test = task.num, task.num // 8
    # Other objects than those of the data set, before equal backgrounds, from equal cameras.
    synth = replace(synth, num_images=num, num_objects=num, holdout=0.0, seed=synth.seed + 1)
    side = min(cfg.resolution, context.train.resolution)
    network = task.network(side).to(context.device)

    def train() -> dict[str, Tensor]:
        draws = Draws(context.seed).scope(task.name)
        objects, cameras = SynthObjects(synth), sample_cameras(synth, num, draws)
        view = objects.render(torch.arange(num), cameras, side)
        target = task.targets(objects, cameras, view).to(context.device)
        image = to_uint8(view.image).to(context.device)

        def batch(step: Draws) -> tuple[Tensor, Tensor]:
            ids = step.integers("heads", num - num_test, (cfg.batch,))
            noise = 0.05 * step.normal("noise", (cfg.batch, *image.shape[1:]), image.device)
            return to_float(image[ids]) + noise, target[ids]

        fit(network, batch, cfg.iterations, draws, task.loss)
        output = network(to_float(image[-num_test:]))
        score = task.score(output.cpu(), target[-num_test:].cpu())
        return {**network.state_dict(), "score": score}

    key = [asdict(synth), side, cfg.iterations, cfg.batch, context.seed]
    tensors = cached(context.cache, task.name, key, train)
    result = tensors.pop("score").cpu()
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False), result
