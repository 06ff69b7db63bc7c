"""Labels of millions of images in fewer bytes than a tensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from lightning_gan3d.cameras import Cameras

LABEL_TENSORS = ("shared", "varying", "columns", "classes")


@dataclass(frozen=True, eq=False)
class LabelTable:
    """Labels, (n, 25 + classes); columns that are equal for all images are stored once."""

    stored: Mapping[str, Tensor]
    """`shared` (25,): a label; `varying` (k,): the columns that differ; `columns` (n, k): their
    values; `classes` (n, 1), the number of the class, or (n, 0) without."""
    num_classes: int = 0
    selected: Int[Tensor, " m"] | None = None
    """Rows of `columns` that are in the table, in order; None for all."""
    mirrored: bool = False
    """Whether the labels of mirrored images follow."""

    @classmethod
    def pack(
        cls,
        cameras: Float[Tensor, "n 25"],
        classes: Int[Tensor, " n"] | None = None,
        num_classes: int = 0,
    ) -> "LabelTable":
        """Store labels as float32; columns are compared by their bits, so NaN equals NaN."""
        cameras = cameras.float().contiguous()
        bits = cameras.view(torch.int32)
        varying = (bits != bits[0]).any(dim=0).nonzero()[:, 0]
        none = torch.full((len(cameras), 0), -1)
        stored = {
            "shared": cameras[0].clone(),
            "varying": varying,
            "columns": cameras[:, varying].contiguous(),
            "classes": none if classes is None else classes.to(torch.int32)[:, None],
        }
        return cls(stored, num_classes)

    def __len__(self) -> int:
        """Return the number of labels, mirrored ones included."""
        rows = self.stored["columns"] if self.selected is None else self.selected
        return len(rows) * (1 + self.mirrored)

    def rows(self, indices: Int[Tensor, " k"]) -> Float[Tensor, "k label_dim"]:
        """Return labels by index, 0 or more."""
        num = len(self) // (1 + self.mirrored)
        plain = torch.where(indices < num, indices, indices - num * self.mirrored)
        rows = plain if self.selected is None else self.selected[plain].long()
        labels = self.stored["shared"].repeat(len(rows), 1)
        labels[:, self.stored["varying"]] = self.stored["columns"][rows]
        if self.mirrored:
            mirror = Cameras.from_label(labels).mirror().to_label()
            labels = torch.where((indices != plain)[:, None], mirror, labels)
        if self.num_classes:
            classes = one_hot(self.stored["classes"][rows, 0].long(), self.num_classes)
            labels = torch.cat([labels, classes.float()], dim=1)
        return labels

    def dense(self) -> Float[Tensor, "n label_dim"]:
        """Return all labels as a new tensor."""
        return self.rows(torch.arange(len(self)))

    @cached_property
    def tensor(self) -> Float[Tensor, "n label_dim"]:
        """All labels, which stay in memory once they were used."""
        return self.dense()
