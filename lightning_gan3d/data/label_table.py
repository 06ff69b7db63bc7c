"""Labels of millions of images in fewer bytes than a tensor."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils._pytree import tree_map_only

from lightning_gan3d.cameras import LABEL_DIM, Cameras

LABEL_TENSORS = ("shared", "varying", "columns", "classes")


class LabelTable(Tensor):
    """A read-only tensor of labels, (n, 25 + classes), float32; its rows are read as plain tensors.

    Columns that are equal for all images are stored once, and a class as its number. Any operation
    but reading rows first makes the plain tensor, see `dense`.
    """

    stored: Mapping[str, Tensor]
    """`shared` (25,): a label; `varying` (k,): the columns that differ; `columns` (n, k): their
    values; `classes` (n, 1), or (n, 0) without."""
    selected: Int[Tensor, " m"] | None
    """Rows of `columns` that are in the tensor, in order; None for all."""
    mirrored: bool
    """Whether the labels of mirrored images follow."""

    @staticmethod
    def __new__(
        cls,
        stored: Mapping[str, Tensor],
        num_classes: int,
        selected: Int[Tensor, " m"] | None = None,
        mirrored: bool = False,
    ) -> "LabelTable":
        """Keep the tensors; nothing is copied."""
        num = len(stored["columns"] if selected is None else selected) * (1 + mirrored)
        size = (num, LABEL_DIM + num_classes)
        table: LabelTable = Tensor._make_wrapper_subclass(cls, size, dtype=torch.float32)
        table.stored, table.selected, table.mirrored = stored, selected, mirrored
        return table

    @staticmethod
    def pack(
        cameras: Float[Tensor, "n 25"], classes: Int[Tensor, " n"] | None = None
    ) -> dict[str, Tensor]:
        """Return what a table stores; columns are compared by their bits, so NaN equals NaN."""
        cameras = cameras.float().contiguous()
        bits = cameras.view(torch.int32)
        varying = (bits != bits[0]).any(dim=0).nonzero()[:, 0]
        none = torch.full((len(cameras), 0), -1)
        return {
            "shared": cameras[0].clone(),
            "varying": varying,
            "columns": cameras[:, varying].contiguous(),
            "classes": none if classes is None else classes.to(torch.int32)[:, None],
        }

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without."""
        return self.shape[1] - LABEL_DIM

    def of_images(self, rows: Int[Tensor, " m"] | None, mirrored: bool) -> "LabelTable":
        """Return the labels of some images, of a table that has all."""
        return LabelTable(self.stored, self.num_classes, rows, mirrored)

    def rows(self, indices: Int[Tensor, " k"]) -> Float[Tensor, "k label_dim"]:
        """Return labels by index."""
        num = len(self) // (1 + self.mirrored)
        indices = torch.where(indices < 0, indices.long() + len(self), indices)
        indices = torch.where(indices < 0, len(self), indices)  # out of range, as in a tensor
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
        """Return the plain tensor."""
        return self.rows(torch.arange(len(self)))

    def __getitem__(self, index: Any) -> Tensor:
        """Return rows by number, slice or numbers; anything else is read from the plain tensor."""
        match index:
            case int():
                return self.rows(torch.tensor([index]))[0]
            case slice():
                return self.rows(torch.arange(*index.indices(len(self))))
            case Tensor() if index.dim() == 1 and index.dtype != torch.bool:
                return self.rows(index)
        return self.dense()[index]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle the stored tensors."""
        del protocol
        return LabelTable, (self.stored, self.num_classes, self.selected, self.mirrored)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # PyTorch passes the class
        cls,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[Any, Any] | None = None,
    ) -> Any:
        """Run an operation on plain tensors."""
        del types
        args, kwargs = tree_map_only(LabelTable, LabelTable.dense, (args, kwargs or {}))
        return func(*args, **kwargs)
