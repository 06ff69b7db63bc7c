"""The input that all metrics of an evaluation share, and the mean of a metric over items."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from lightning_gan3d.cameras import LABEL_DIM, Cameras
from lightning_gan3d.data.synthetic.synth import SynthConfig
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import SEED, EvaluationConfig
from lightning_gan3d.metrics.sources import GeneratorSource, ImageSet, ViewSource

NOT_FINITE = "the images are not finite"


@dataclass(frozen=True, eq=False)
class EvaluationContext:
    """Generated and real images, options, device and folders of one evaluation."""

    source: ViewSource
    """The generator or images to evaluate."""
    train: ImageSet
    """Training images."""
    test: ImageSet | None
    """Held-out images, if there are any."""
    cfg: EvaluationConfig = EvaluationConfig()
    """Options of all metrics."""
    device: torch.device = torch.device("cpu")
    """Device of the metrics' networks."""
    seed: int = SEED
    """Key of every random choice."""
    truth: ViewSource | None = None
    """The data set's own objects, whose metrics are the ceiling."""
    multiview: ViewSource | None = None
    """Stored views of the data set's objects, if `truth` is unknown."""
    synth: SynthConfig | None = None
    """Options of the data set, if it is procedural."""
    initial: ViewSource | None = None
    """The generator before training."""
    curves: bool = True
    """Whether reprojection compares views at all angles, or neighbours only."""
    cache: Path | None = None
    """Cache of results that evaluations on the same data share."""
    weights: Mapping[str, Path] = field(default_factory=dict)
    """Paths of pretrained networks, by the names of `gan3d weights list`."""
    folder: Path | None = None
    """Folder of the tables that are written beside the metrics."""

    @property
    def labels(self) -> Float[Tensor, "n label_dim"]:
        """Labels of the cameras to render from: of generated images, else of training images."""
        of = self.source if isinstance(self.source, GeneratorSource) else self.train
        return torch.as_tensor(of.labels)

    @property
    def real(self) -> ImageSet:
        """Held-out images if there are any, else training images."""
        return self.train if self.test is None else self.test

    @property
    def without_cameras(self) -> str:
        """Why metrics of several views are missing; empty if there are cameras to render from."""
        if why := _without_cameras(self.labels):
            return why
        first = self.source.base(torch.zeros(1, dtype=torch.int64)).cam2world
        return "the images come without cameras (dataset.json)" if bool(first.isnan().any()) else ""

    @property
    def without_poses(self) -> str:
        """Why metrics of poses are missing; empty if those of real images are known, too."""
        return _without_cameras(torch.as_tensor(self.train.labels)) or self.without_cameras

    def arcs(
        self, num_items: int, azimuth: Float[Tensor, " k"]
    ) -> Iterator[tuple[Int64[Tensor, " b"], Cameras]]:
        """Yield batches of items, with k cameras each: their own, rotated about the world's y axis.

        A batch has at most `cfg.batch` views, but at least one item.
        """
        for items in torch.split(torch.arange(num_items), max(1, self.cfg.batch // len(azimuth))):
            base = self.source.base(items)
            yield items, base.rotate_y(azimuth.to(base.cam2world))


def _without_cameras(labels: Float[Tensor, "n label_dim"]) -> str:
    if not bool(labels[:, :LABEL_DIM].isnan().any()):
        return ""
    option = "class" if labels.shape[1] > LABEL_DIM else "none"
    return (
        f"the data are used without cameras (data.labels={option}); if they have some, evaluate "
        "with data.labels=camera"
    )


def mean_of(
    name: str,
    values: Float[Tensor, " n"],
    unit: str,
    note: str,
    valid: Bool[Tensor, " n"] | None = None,
    empty: str = "nothing to measure",
) -> Metric:
    """Return the mean with count and spread; missing if no value is valid, or the mean not finite.

    `valid` marks the items that have a value; with it, the metric stores the value of each item, so
    that generators can be compared item by item. `empty`: the reason if no item has a value.
    """
    defined = values if valid is None else values[valid]
    if len(defined) == 0:
        return missing(name, f"{empty} ({note})", unit)
    spread = float(defined.std()) if len(defined) > 1 else None
    items: list[float | None] = []
    if valid is not None:
        pairs = zip(values.tolist(), valid.tolist(), strict=True)
        items = [float(f"{value:.6g}") if ok else None for value, ok in pairs]
    return Metric(name, float(defined.mean()), unit, len(defined), spread, note, items)
