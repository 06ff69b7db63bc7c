"""Module trees of EG3D's and StyleGAN2's networks, narrow, as their pickles hold them.

Names, shapes and arguments are those of the formats; weights come from names alone, by the
`numbers` that the comparison with the official code uses.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from handmade import EasyDict, FakeModule

from lightning_gan3d.benchmark.eg3d.official import SUPERRESOLUTIONS

sys.path.insert(0, str(Path(__file__).parent.parent / "eg3d"))

from ours import RELEASED_PLANES  # after its folder is known
from reference import discriminator_kwargs, generator_kwargs, numbers

CHANNELS = {"channel_base": 256, "channel_max": 4}
NARROW = {
    **CHANNELS,
    "z_dim": 8,
    "sr_kwargs": {**CHANNELS, "fused_modconv_default": "inference_only"},
}
SAMPLES = {"depth_resolution": 4, "depth_resolution_importance": 4}
NETWORKS = "training.networks_stylegan2"
SR_WIDTHS = {128: (128, 64), 256: (128, 64), 512: (256, 128)}
FILTER = torch.tensor([1.0, 3, 3, 1]).outer(torch.tensor([1.0, 3, 3, 1])) / 64
CAMERA_KWARGS = {"num_layers": 2}

Draw = Callable[[str, tuple[int, ...]], torch.Tensor]


def triplane(
    resolution: int = 128,
    draw: Draw = numbers,
    raw: int | None = 64,
    planes: Any = RELEASED_PLANES,
    whole: bool = True,
    rendering: dict[str, Any] | None = None,
    without: tuple[str, ...] = (),
    **kwargs: Any,
) -> FakeModule:
    """EG3D's generator. `whole=False` leaves all weights out: what it says of itself remains.

    Args:
        resolution: of the images.
        draw: a function from the name and shape of a parameter to its weights.
        raw: `neural_rendering_resolution`; None: missing.
        planes: `renderer.plane_axes`.
        whole: with weights.
        rendering: changes of `rendering_kwargs`; None is a value.
        without: keys of `rendering_kwargs` to leave out.
        kwargs: changes of the constructor's arguments.
    """
    arguments = generator_kwargs(resolution, **{**NARROW, **kwargs})
    options = {**arguments["rendering_kwargs"], **SAMPLES, **(rendering or {})}
    options = EasyDict({k: v for k, v in options.items() if k not in without})
    arguments["rendering_kwargs"] = options
    volumetric = "training.volumetric_rendering"
    modules = {
        "renderer": FakeModule(
            f"{volumetric}.renderer",
            "ImportanceRenderer",
            persistent=False,
            attributes={"plane_axes": planes},
            modules={
                "ray_marcher": FakeModule(f"{volumetric}.ray_marcher", "MipRayMarcher2", False)
            },
        ),
        "ray_sampler": FakeModule(f"{volumetric}.ray_sampler", "RaySampler", False),
    }
    buffers = {}
    if whole:
        modules |= {
            "backbone": _backbone(arguments["z_dim"]),
            "superresolution": _superresolution(resolution),
            "decoder": _decoder(),
        }
        buffers["dataset_label_std"] = torch.ones(25)
    network = FakeModule(
        "training.triplane",
        "TriPlaneGenerator",
        attributes={
            **_arguments(arguments),
            "rendering_kwargs": options,
            **({} if raw is None else {"neural_rendering_resolution": raw}),
        },
        buffers=buffers,
        modules=modules,
    )
    fill(network, draw)
    return network


def discriminator(
    resolution: int = 128, name: str = "DualDiscriminator", whole: bool = True, **kwargs: Any
) -> FakeModule:
    """EG3D's discriminator, or with `name="Discriminator"` that of StyleGAN2."""
    arguments = discriminator_kwargs(resolution, **{**CHANNELS, **kwargs})
    if name == "Discriminator":
        del arguments["disc_c_noise"]
    modules = {}
    if whole:
        image = 6 if name == "DualDiscriminator" else 3
        out = _width(4) if arguments["c_dim"] else 1
        sizes = [2**i for i in range(resolution.bit_length() - 1, 2, -1)]
        modules = {
            f"b{r}": _residual(_width(r), _width(r // 2), image if r == resolution else 0)
            for r in sizes
        }
        modules["b4"] = FakeModule(
            NETWORKS,
            "DiscriminatorEpilogue",
            modules={
                "mbstd": FakeModule(NETWORKS, "MinibatchStdLayer"),
                "conv": _plain(_width(4) + 1, _width(4), 3),
                "fc": _linear(_width(4) * 16, _width(4)),
                "out": _linear(_width(4), out),
            },
        )
        if arguments["c_dim"]:
            modules["mapping"] = _mapping(0, 25, out, 8)
    network = FakeModule(
        "training.dual_discriminator" if name != "Discriminator" else NETWORKS,
        name,
        attributes=_arguments(arguments),
        buffers={} if name == "Discriminator" else {"resample_filter": FILTER},
        modules=modules,
    )
    fill(network, numbers)
    return network


def stylegan2(
    resolution: int = 32,
    c_dim: int = 0,
    nested: bool = True,
    whole: bool = True,
    **synthesis: Any,
) -> FakeModule:
    """StyleGAN2's generator, z and w of 16; `nested` as StyleGAN2-ADA's `synthesis_kwargs`."""
    options = {**CHANNELS, "num_fp16_res": 4, "conv_clamp": 256, **synthesis}
    arguments = {
        "c_dim": c_dim,
        "img_resolution": resolution,
        "img_channels": 3,
        "z_dim": 16,
        "w_dim": 16,
        "mapping_kwargs": CAMERA_KWARGS,
        **({"synthesis_kwargs": options} if nested else options),
    }
    modules = {}
    if whole:
        modules = {
            "synthesis": _synthesis(resolution, 3, 16),
            "mapping": _mapping(16, c_dim, 16, 2, average=True),
        }
    network = FakeModule(
        "training.networks" if nested else NETWORKS,
        "Generator",
        attributes=_arguments(arguments),
        modules=modules,
    )
    fill(network, numbers)
    return network


def stylegan3(network: torch.nn.Module | None, **kwargs: Any) -> FakeModule:
    """StyleGAN3's generator with the weights of `network`, ours: the names are the same.

    None: without weights. `kwargs`: changes of the constructor's arguments.
    """
    arguments = {
        "c_dim": 0,
        "img_resolution": 16,
        "img_channels": 3,
        "z_dim": 16,
        "w_dim": 16,
        "mapping_kwargs": CAMERA_KWARGS,
        **CHANNELS,
        "num_layers": 4,
        "magnitude_ema_beta": 0.999,
        "num_fp16_res": 4,
        **kwargs,
    }
    module = "training.networks_stylegan3"
    root = FakeModule(module, "Generator", attributes=_arguments(arguments))
    if network is None:
        return root
    parameters = {name for name, _ in network.named_parameters()}
    for ours, x in network.state_dict().items():
        part, (*path, name) = root, ours.removeprefix("representation.").split(".")
        for child in path:
            part = part.modules.setdefault(child, FakeModule(module, "SynthesisLayer"))
        (part.parameters if ours in parameters else part.buffers)[name] = x
    return root


def fill(module: FakeModule, draw: Draw, prefix: str = "") -> None:
    """Set every parameter and buffer, but for filters, by its dotted name."""
    for part in (module.parameters, module.buffers):
        for name, x in part.items():
            if x is not None and name not in ("resample_filter", "dataset_label_std"):
                part[name] = draw(prefix + name, tuple(x.shape))
    for name, child in module.modules.items():
        fill(child, draw, f"{prefix}{name}.")


def at(network: FakeModule, path: str) -> FakeModule:
    """Return a module by its dotted path."""
    for name in path.split("."):
        network = network.modules[name]
    return network


def _arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    frozen = EasyDict({k: EasyDict(v) if type(v) is dict else v for k, v in kwargs.items()})
    return {"_init_args": (), "_init_kwargs": frozen}


def _width(resolution: int) -> int:
    return min(CHANNELS["channel_base"] // resolution, CHANNELS["channel_max"])


def _linear(i: int, o: int) -> FakeModule:
    weights = {"weight": torch.empty(o, i), "bias": torch.empty(o)}
    return FakeModule(NETWORKS, "FullyConnectedLayer", parameters=weights)


def _mapping(z: int, c_dim: int, w: int, layers: int, average: bool = False) -> FakeModule:
    embed = {"embed": _linear(c_dim, w)} if c_dim else {}
    first = z + (w if c_dim else 0)
    return FakeModule(
        NETWORKS,
        "MappingNetwork",
        buffers={"w_avg": torch.empty(w)} if average else {},
        modules={**embed, **{f"fc{i}": _linear(w if i else first, w) for i in range(layers)}},
    )


def _layer(i: int, o: int, resolution: int, w: int) -> FakeModule:
    return FakeModule(
        NETWORKS,
        "SynthesisLayer",
        parameters={
            "weight": torch.empty(o, i, 3, 3),
            "noise_strength": torch.empty([]),
            "bias": torch.empty(o),
        },
        buffers={
            "resample_filter": FILTER,
            "noise_const": torch.empty(resolution, resolution),
        },
        modules={"affine": _linear(w, i)},
    )


def _block(i: int, o: int, resolution: int, images: int, w: int) -> FakeModule:
    constant = {} if i else {"const": torch.empty(o, resolution, resolution)}
    first = {"conv0": _layer(i, o, resolution, w)} if i else {}
    colours = FakeModule(
        NETWORKS,
        "ToRGBLayer",
        parameters={"weight": torch.empty(images, o, 1, 1), "bias": torch.empty(images)},
        modules={"affine": _linear(w, o)},
    )
    return FakeModule(
        NETWORKS,
        "SynthesisBlock",
        parameters=constant,
        buffers={"resample_filter": FILTER},
        modules={**first, "conv1": _layer(o, o, resolution, w), "torgb": colours},
    )


def _synthesis(resolution: int, images: int, w: int) -> FakeModule:
    blocks, below = {}, 0
    for r in (2**i for i in range(2, resolution.bit_length())):
        blocks[f"b{r}"] = _block(below, _width(r), r, images, w)
        below = _width(r)
    return FakeModule(NETWORKS, "SynthesisNetwork", modules=blocks)


def _backbone(z: int) -> FakeModule:
    return FakeModule(
        NETWORKS,
        "Generator",
        modules={
            "synthesis": _synthesis(256, 96, 512),
            "mapping": _mapping(z, 25, 512, 2, average=True),
        },
    )


def _superresolution(resolution: int) -> FakeModule:
    first, second = SR_WIDTHS[resolution]
    return FakeModule(
        "training.superresolution",
        f"SuperresolutionHybrid{SUPERRESOLUTIONS[resolution]}",
        buffers={} if resolution == 512 else {"resample_filter": FILTER},
        modules={
            "block0": _block(32, first, resolution // 2, 3, 512),
            "block1": _block(first, second, resolution, 3, 512),
        },
    )


def _decoder() -> FakeModule:
    layers = {
        "0": _linear(32, 64),
        "1": FakeModule("torch.nn.modules.activation", "Softplus", False),
        "2": _linear(64, 33),
    }
    net = FakeModule("torch.nn.modules.container", "Sequential", False, modules=layers)
    return FakeModule("training.triplane", "OSGDecoder", False, modules={"net": net})


def _plain(i: int, o: int, kernel: int, bias: bool = True) -> FakeModule:
    return FakeModule(
        NETWORKS,
        "Conv2dLayer",
        parameters={
            "weight": torch.empty(o, i, kernel, kernel),
            "bias": torch.empty(o) if bias else None,
        },
        buffers={"resample_filter": FILTER},
    )


def _residual(i: int, o: int, image: int) -> FakeModule:
    colours = {"fromrgb": _plain(image, i, 1)} if image else {}
    return FakeModule(
        NETWORKS,
        "DiscriminatorBlock",
        buffers={"resample_filter": FILTER},
        modules={
            **colours,
            "conv0": _plain(i, i, 3),
            "conv1": _plain(i, o, 3),
            "skip": _plain(i, o, 1, bias=False),
        },
    )
