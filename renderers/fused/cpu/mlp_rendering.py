"""Rendering of fields that are MLPs by the CPU kernels: memory, threads, and gradients."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.networks.lowering import LoweredMlp
from lightning_gan3d.simd import FEW_ROWS, ROWS, WIDTH, num_workers, run_ranges
from renderers.fused.cpu.film_layers import Activations, Network, NetworkGradient
from renderers.fused.cpu.mlp_kernels import GroupScratch, mlp_backward, mlp_forward
from renderers.fused.cpu.workspace import (
    FLOATS,
    NUM_INDICES,
    NUM_SCALARS,
    TILE,
    MlpScene,
    Options,
    RayTensors,
    Sizes,
    SumArrays,
    as_array,
    empty_sums,
    find_options,
    find_tiles,
    num_columns,
    padded,
    ray_arrays,
)
from renderers.ray_marching import RaySums, Request

POINTS = 192
"""Points of a group of rays, unless one ray has more: a gradient stores 2 kB per layer of 256."""

AHEAD = 4
"""Tiles per thread whose gradients of the network are stored before they are added."""


class MlpRendering(NamedTuple):
    """The rendering of fields that are MLPs."""

    networks: list[Network]
    """Of each scene."""
    memory: list[Tensor]
    """Keeps the networks alive."""
    widths: tuple[int, ...]
    """Inputs of layer 0, layers after it, units, and features of the MLP, not padded."""
    sizes: Sizes
    options: Options
    side: int
    tiles: int

    @classmethod
    def prepare(cls, request: Request, mlp: LoweredMlp) -> "MlpRendering":
        """Lay out a request."""
        options = find_options(request, float(mlp.density_bias.detach()))
        samples, features = options.coarse + options.fine, len(mlp.out_bias)
        sizes = Sizes(samples, padded(samples, ROWS), features, grids=0, corners=0)
        networks, memory = _networks(mlp)
        _, layers, units, _ = mlp.weights.shape
        widths = mlp.first_weight.shape[2], layers, units, features
        return cls(networks, memory, widths, sizes, options, *find_tiles(request))

    def forward(
        self,
        inputs: Sequence[Tensor],  # noqa: ARG002  # copied by `prepare`
        rays: RayTensors,
        keep: bool,
    ) -> tuple[RaySums, Float[Tensor, "b r f"]]:
        """Render all scenes; return the fine depths too, if `keep`."""
        sums = empty_sums(rays, self.sizes.features)
        b, r, _ = sums.feature.shape
        fine = torch.empty((b, r, self.options.fine) if keep else (b, 0, 0), **FLOATS)
        scratches = [self._allocate(False) for _ in range(num_workers(self.tiles))]
        for i in range(b):
            arrays = SumArrays(*(as_array(x[i]) for x in sums))
            work = functools.partial(
                _tiles_forward, self._scene(rays, i), arrays, as_array(fine[i]), scratches
            )
            run_ranges(work, self.tiles)
        return sums, fine

    def backward(
        self,
        inputs: Sequence[Tensor],
        rays: RayTensors,
        fine: Float[Tensor, "b r f"],
        d_sums: RaySums,
        needs: Sequence[bool],  # noqa: ARG002  # all parts come from one pass
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of the inputs."""
        shapes = self._shapes()
        ends = np.cumsum([padded(math.prod(s), WIDTH) for s in shapes]).tolist()
        offsets = NetworkGradient(*(4 * end for end in [0, *ends[:-1]]))
        ahead = AHEAD * num_workers(self.tiles)
        scratches = [self._allocate(True) for _ in range(num_workers(self.tiles))]
        total = np.zeros((len(fine), ends[-1] + WIDTH))
        for i in range(len(fine)):
            arrays = SumArrays(*(as_array(x[i]) for x in d_sums))
            scene, depths = self._scene(rays, i), as_array(fine[i])
            for first in range(0, self.tiles, ahead):
                num = min(ahead, self.tiles - first)
                parts = torch.zeros(num, total.shape[1], **FLOATS).numpy()
                work = functools.partial(
                    _tiles_backward, scene, first, depths, arrays, offsets, parts, scratches
                )
                run_ranges(work, num)
                # In this order, in float64: the same for any number of threads.
                for part in parts:
                    total[i] += part
        return self._split(torch.from_numpy(total).float(), inputs)

    def _shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the parts of a network's gradient, in the order of `NetworkGradient`."""
        n, layers = self.networks[0], self.widths[1]
        return [
            (n.inputs, n.units),
            (layers, n.units, n.units),
            (layers + 1, n.units),
            (3, n.units),
            (1, n.units),
            (n.units, n.columns),
            (1, n.columns),
        ]

    def _split(
        self, flat: Float[Tensor, "b n"], inputs: Sequence[Tensor]
    ) -> tuple[Tensor | None, ...]:
        """Remove the padding; in the order of `LoweredMlp`. Heads are shared by all scenes."""
        num_inputs, _, units, features = self.widths
        shapes = self._shapes()
        lengths = [padded(math.prod(s), WIDTH) for s in shapes]
        *parts, rest = torch.split(flat, [*lengths, WIDTH], dim=1)
        first, hidden, biases, dirs, density, out, out_bias = (
            x[:, : math.prod(s)].view(-1, *s) for x, s in zip(parts, shapes, strict=True)
        )
        return (
            first[:, :num_inputs, :units].mT,
            hidden[..., :units, :units].mT,
            biases[..., :units],
            dirs[..., :units].mT[..., : inputs[3].shape[2]],
            density[..., :units].sum(0),
            rest[:, -1:].sum(0),
            out[:, :units, :features].sum(0).T,
            out_bias[:, 0, :features].sum(0),
        )

    def _scene(self, rays: RayTensors, i: int) -> MlpScene:
        return MlpScene(self.networks[i], self.sizes, self.options, ray_arrays(self.side, rays, i))

    def _allocate(self, backward: bool) -> GroupScratch:
        """Allocate a worker's memory."""
        network, samples = self.networks[0], self.sizes.samples
        group = min(TILE, max(1, POINTS // samples))
        rows = padded(group * samples, FEW_ROWS) + 2 * FEW_ROWS + WIDTH
        columns = max(num_columns(self.options), network.columns)
        points = padded(rows + WIDTH, WIDTH)
        layers, level = self.widths[1], rows * network.units
        levels = layers if backward else 2
        shapes = {
            "scalars": (group, NUM_SCALARS, columns),
            "indices": (group, NUM_INDICES, columns),
            "inputs": (network.inputs, points),
            "units": (levels, level),
            "slopes": (layers + 1 if backward else 1, level),
            "hidden": (level,),
            "last": (level,),
            "out": (rows, network.columns),
            "d_units": (level if backward else 1,),
            "d_below": (level if backward else 1,),
            "sigma": (points,),
        }
        starts = np.cumsum([0, *(padded(math.prod(s), 16) for s in shapes.values())]).tolist()
        whole = torch.zeros(starts[-1], **FLOATS)
        parts = {
            name: whole[start : start + math.prod(shape)].view(shape)
            for start, (name, shape) in zip(starts, shapes.items(), strict=False)
        }
        at = {name: x.data_ptr() for name, x in parts.items()}
        names = set(at) & set(Activations._fields)
        numbers = {"input_row": 4 * points, "level": 4 * level, "levels": levels}
        return GroupScratch(
            parts["scalars"].numpy(),
            parts["indices"].view(torch.int32).numpy(),
            np.zeros(group, np.int64),
            np.zeros(group, np.float32),
            Activations(**{name: at[name] for name in names}, **numbers),
        )


def _tiles_forward(
    scene: MlpScene,
    sums: SumArrays,
    fine: np.ndarray,
    memory: list[GroupScratch],
    worker: int,
    first: int,
    end: int,
) -> None:
    mlp_forward(scene, first, end, sums, fine, memory[worker])


def _tiles_backward(
    scene: MlpScene,
    first: int,
    fine: np.ndarray,
    d_sums: SumArrays,
    offsets: NetworkGradient,
    parts: np.ndarray,
    memory: list[GroupScratch],
    worker: int,
    begin: int,
    end: int,
) -> None:
    rows = parts[begin:end]
    mlp_backward(scene, first + begin, fine, d_sums, offsets, rows, memory[worker])


def _networks(mlp: LoweredMlp) -> tuple[list[Network], list[Tensor]]:
    """Return the addresses of the padded weights of each scene, and their memory."""
    b, layers, units, _ = mlp.weights.shape
    inputs, channels = mlp.first_weight.shape[2], len(mlp.out_bias)
    wide, rows, columns = padded(units, WIDTH), padded(inputs, FEW_ROWS), padded(channels)
    shared = {
        "density": _pad(mlp.density_weight, 1, wide),
        "out": _pad(mlp.out_weight.T, wide, columns),
        "out_bias": _pad(mlp.out_bias[None], 1, columns),
        "out_t": _pad(mlp.out_weight, columns, wide),
        "zeros": torch.zeros(1, max(wide, FEW_ROWS * columns), **FLOATS),
    }
    matrices = {
        "first": _pad(mlp.first_weight.mT, rows, wide),
        "hidden": _pad(mlp.weights.mT, wide, wide),
        "biases": _pad(mlp.biases, layers + 1, wide),
        "dirs": _pad(mlp.dirs_weight.mT, 3, wide),
        "hidden_t": _pad(mlp.weights, wide, wide),
        **{name: x.expand(b, -1, -1) for name, x in shared.items()},
    }
    networks = [
        Network(
            **{name: x[i].data_ptr() for name, x in matrices.items()},
            inputs=rows,
            octaves=mlp.octaves,
            layers=layers,
            units=wide,
            channels=channels,
            columns=columns,
            sine=mlp.activation == "sine",
            has_dirs=mlp.dirs_weight.shape[2] > 0,
        )
        for i in range(b)
    ]
    return networks, list(matrices.values())


def _pad(matrices: Float[Tensor, "*b i j"], rows: int, columns: int) -> Tensor:
    whole = torch.zeros(*matrices.shape[:-2], rows, columns, **FLOATS)
    whole[..., : matrices.shape[-2], : matrices.shape[-1]] = matrices.detach()
    return whole
