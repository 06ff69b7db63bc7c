"""Translate networks of NVIDIA's repositories to our configuration and tensor names.

EG3D (Chan et al. 2022), StyleGAN2 as in the repositories of StyleGAN2-ADA and StyleGAN3, and
StyleGAN3. A network with an unknown class or option is rejected; nothing is guessed.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_gan3d.cameras import LABEL_DIM
from lightning_gan3d.checkpoints.nvidia_arguments import Arguments, Network, number, text_of, whole
from lightning_gan3d.checkpoints.pickled_objects import Record, printable
from lightning_gan3d.checkpoints.store import CheckpointError
from lightning_gan3d.contract import SceneConfig
from lightning_gan3d.generator import GeneratorConfig
from lightning_gan3d.networks.band_limits import StyleGAN3Config
from lightning_gan3d.networks.decoder import DecoderConfig
from lightning_gan3d.networks.discriminator import DiscriminatorConfig
from lightning_gan3d.networks.mapping import MappingConfig
from lightning_gan3d.networks.superresolution import SuperResolutionConfig
from lightning_gan3d.networks.synthesis import SynthesisConfig
from renderers.picture import PictureRendererConfig
from renderers.volume import VolumeRendererConfig
from representations.image2d import Image2dConfig
from representations.triplane import AXES, PlaneAxes, TriPlaneConfig

PLANE_RESOLUTION, PLANE_CHANNELS, FEATURE_DIM = 256, 32, 32
"""Fixed in EG3D's generator, as are the 64 units of its decoder and its 512 style channels."""

SUPERRESOLUTIONS: dict[str, tuple[int, int, tuple[int, int]]] = {
    "SuperresolutionHybrid2X": (128, 2, (128, 64)),
    "SuperresolutionHybrid4X": (256, 4, (128, 64)),
    "SuperresolutionHybridDeepfp32": (256, 4, (128, 64)),
    "SuperresolutionHybrid8X": (512, 8, (128, 64)),
    "SuperresolutionHybrid8XDC": (512, 8, (256, 128)),
}
"""EG3D's modules: image resolution, our factor, widths of the two blocks."""

SR_CLAMP = 256.0
"""Magnitude to which EG3D clamps its 16-bit super-resolution, on every device."""

_BUILT_FOR_SPEED = ("fused_modconv_default", "fp16_channels_last", "num_fp16_res")
"""Arguments that change the speed of layers, not their results."""
_LAYER_OPTIONS = {"resample_filter": [1, 3, 3, 1], "activation": "lrelu"}
_MAPPING_OPTIONS = {"embed_features": None, "layer_features": None, "activation": "lrelu"}
"""Arguments of layers and of the mapping network, with the only values that are supported."""


class GeneratorParts(NamedTuple):
    """A generator in our terms."""

    config: GeneratorConfig
    resolution: int
    rendering_resolution: int
    tensors: dict[str, Tensor]
    """By our names."""
    notes: list[str]
    """For the user: differences from the original code."""
    density_reg: float = 0.0
    density_reg_distance: float = 0.004
    swap_probability: float | None = None
    """Of the mapping's camera; None if the file has no value."""
    orbit: dict[str, Any] | None = None
    """Radius and target of the cameras."""


class DiscriminatorParts(NamedTuple):
    """A discriminator in our terms."""

    config: DiscriminatorConfig
    resolution: int
    tensors: dict[str, Tensor]
    notes: list[str]


def read_generator(network: Network) -> GeneratorParts:
    """Translate a generator. Raises `CheckpointError` if its class or an option is unknown."""
    if network.name == "TriPlaneGenerator":
        return _triplane(network)
    if network.name == "Generator":
        is_stylegan3 = "synthesis.input.freqs" in network.tensors
        return _stylegan3(network) if is_stylegan3 else _stylegan2(network)
    raise CheckpointError(
        f"the generator is a {printable(network.name)}; use EG3D's TriPlaneGenerator or "
        "the Generator of StyleGAN2 or StyleGAN3"
    )


def read_discriminator(network: Network) -> DiscriminatorParts:
    """Translate a discriminator. Raises `CheckpointError` if its class or an option is unknown."""
    names = ("DualDiscriminator", "SingleDiscriminator", "Discriminator")
    if network.name not in names:
        raise CheckpointError(
            f"the discriminator is a {printable(network.name)}; use one of {', '.join(names)}"
        )
    options = Arguments(network)
    resolution = options.whole("img_resolution")
    c_dim = _label_dim(options)
    options.expect(img_channels=3, architecture="resnet", cmap_dim=None)
    blocks, labels = options.inner("block_kwargs"), options.inner("mapping_kwargs")
    epilogue = options.inner("epilogue_kwargs")
    blocks.ignore("freeze_layers", *_BUILT_FOR_SPEED)
    blocks.expect(**_LAYER_OPTIONS)
    epilogue.expect(activation="lrelu")
    if c_dim:
        labels.expect(lr_multiplier=0.01, **_MAPPING_OPTIONS)
    else:
        labels.ignore()  # there is no mapping network
    group = epilogue.take("mbstd_group_size", 4)
    if group is None:
        raise CheckpointError(
            "mbstd_group_size=None (the whole batch) is not supported; export it with a number"
        )
    if epilogue.whole("mbstd_num_channels", 1) == 0:
        group = 0
    notes = []
    noise = options.number("disc_c_noise", 0)
    if noise:
        notes.append(f"trained with noise on D's labels (disc_c_noise={noise}); here there is none")
    config = DiscriminatorConfig(
        channel_base=options.whole("channel_base", 32768),
        channel_max=options.whole("channel_max", 512),
        dual=network.name == "DualDiscriminator",
        mbstd_group=whole("epilogue_kwargs.mbstd_group_size", group),
        conditioning="projection" if c_dim else "none",
        mapping_layers=labels.whole("num_layers", 8),
        conv_clamp=options.number_or_none("conv_clamp", 256),
    )
    options.ignore("num_fp16_res")
    options.finish(blocks, labels, epilogue)
    tensors = _without(network.tensors, "resample_filter$")
    return DiscriminatorParts(config, resolution, tensors, notes)


def _triplane(network: Network) -> GeneratorParts:
    options = Arguments(network)
    resolution = options.whole("img_resolution")
    c_dim = _label_dim(options)
    options.expect(img_channels=3, w_dim=512)
    fp16 = options.whole("sr_num_fp16_res", 0) > 0
    sr_kwargs = options.inner("sr_kwargs")
    sr_kwargs.ignore("channel_base", "channel_max", *_BUILT_FOR_SPEED)
    # The attribute is current; the argument is its value at construction.
    options.ignore("rendering_kwargs")
    rendering = Arguments(network, "rendering_kwargs", network.mapping("rendering_kwargs"))
    notes: list[str] = []
    superresolution = _superresolution(rendering, resolution, fp16)
    scale = rendering.number("c_scale", 0)  # EG3D's default; old files lack it
    if rendering.flag("c_gen_conditioning_zero"):
        scale = 0.0
    config = GeneratorConfig(
        representation=TriPlaneConfig(
            resolution=PLANE_RESOLUTION,
            channels=PLANE_CHANNELS,
            axes=_axes(network),
            synthesis=_synthesis(options),
        ),
        renderer=_renderer(rendering, notes),
        z_dim=options.whole("z_dim"),
        w_dim=512,
        mapping=_map(options.inner("mapping_kwargs"), c_dim, scale),
        scene=SceneConfig(
            box=rendering.number("box_warp"),
            feature_dim=FEATURE_DIM,
            decoder=DecoderConfig(lr_mul=rendering.number("decoder_lr_mul", 1)),
        ),
        superresolution=superresolution,
    )
    rendering.expect(reg_type="l1")
    swap_probability = rendering.number_or_none("gpc_reg_prob", None)
    density_reg = rendering.number("density_reg", 0.0)
    density_reg_distance = rendering.number("density_reg_p_dist", 0.004)
    orbit = _orbit(rendering)
    rendering.ignore("image_resolution")
    notes += [f"unknown rendering option {item} ignored" for item in rendering.left()]
    if fp16:
        notes.append(
            "EG3D runs the super-resolution in 16 bits on GPUs; here it runs in float32 with the "
            "same clamps, as EG3D's code does on CPUs"
        )
    options.finish(sr_kwargs)
    unused = r"(resample_filter|dataset_label_std)$"
    if superresolution.noise == "none":
        unused += r"|^superresolution\.block[01]\.conv[01]\.noise_(const|strength)$"
    tensors = {our_name(name): x for name, x in _without(network.tensors, unused).items()}
    name = "neural_rendering_resolution"
    raw = whole(name, network.attributes.get(name, 64))
    return GeneratorParts(
        config,
        resolution,
        raw,
        tensors,
        notes,
        density_reg,
        density_reg_distance,
        swap_probability,
        orbit,
    )


def our_name(name: str) -> str:
    """Return our name of a tensor of EG3D's generator."""
    for theirs, here in (("backbone.mapping.", ""), ("backbone.synthesis.", "representation.")):
        if name.startswith(theirs):
            return here + name.removeprefix("backbone.")
    return f"representation.{name}" if name.startswith("decoder.") else name


def _superresolution(rendering: Arguments, resolution: int, fp16: bool) -> SuperResolutionConfig:
    choices = {f"training.superresolution.{name}": name for name in SUPERRESOLUTIONS}
    module = choices[rendering.choice("superresolution_module", choices)]
    expected, factor, channels = SUPERRESOLUTIONS[module]
    if resolution != expected:
        raise CheckpointError(f"{module} is for images of {expected}, not {resolution}")
    noise = rendering.choice("superresolution_noise_mode", ("none", "const", "random"), "none")
    antialias = rendering.flag("sr_antialias", False)
    return SuperResolutionConfig(
        factor=factor,  # type: ignore[arg-type]  # of the table above
        channels=channels,
        antialias=antialias and module != "SuperresolutionHybridDeepfp32",
        noise=noise,  # type: ignore[arg-type]  # one of the choices
        conv_clamp=SR_CLAMP if fp16 else None,
        residual_in_raw=factor in (2, 4),
    )


def _renderer(rendering: Arguments, notes: list[str]) -> VolumeRendererConfig:
    rendering.expect(disparity_space_sampling=False, clamp_mode="softplus")
    near, far = rendering.take("ray_start"), rendering.take("ray_end")
    autos = [isinstance(x, str) and x == "auto" for x in (near, far)]
    if any(autos) and not all(autos):
        raise CheckpointError(
            f"rendering_kwargs: ray_start={text_of(near)}, ray_end={text_of(far)}: expected two "
            "numbers, or auto twice"
        )
    box = all(autos)
    if box:
        notes.append("EG3D samples rays that miss the box; here they are empty")
    noise = rendering.number("density_noise", 0)
    if noise:
        notes.append("EG3D adds density noise outside training too; here evaluation has none")
    return VolumeRendererConfig(
        samples_coarse=rendering.whole("depth_resolution"),
        samples_fine=rendering.whole("depth_resolution_importance"),
        bounds="box" if box else "near_far",
        near=None if box else number("rendering_kwargs.ray_start", near),
        far=None if box else number("rendering_kwargs.ray_end", far),
        outside="field",
        background=1.0 if rendering.flag("white_back", False) else 0.0,
        rules="eg3d",
        density_noise=noise,
    )


def _orbit(rendering: Arguments) -> dict[str, Any]:
    pivot = rendering.take("avg_camera_pivot", (0, 0, 0))
    name = "rendering_kwargs.avg_camera_pivot"
    if not isinstance(pivot, list | tuple) or len(pivot) != 3:
        raise CheckpointError(f"{name}={text_of(pivot)}: expected three numbers")
    radius = rendering.number("avg_camera_radius", 2.7)
    return {"radius": radius, "target": [number(name, x) for x in pivot]}


def _axes(network: Network) -> PlaneAxes:
    """Return the axes of the planes, onto which the inverses of the stored matrices project."""
    modules = network.attributes.get("_modules")
    renderer = modules.get("renderer") if isinstance(modules, Mapping) else None
    matrices = renderer.state.get("plane_axes") if isinstance(renderer, Record) else None
    if not isinstance(matrices, Tensor) or matrices.shape != (3, 3, 3):
        raise CheckpointError(
            "the TriPlaneGenerator has no renderer.plane_axes of three 3x3 matrices"
        )
    for name, axes in AXES.items():
        projections = torch.zeros(3, 3, 3, dtype=torch.float64)
        for plane, source in enumerate(axes):
            projections[plane, list(source), [0, 1, 2]] = 1
        if torch.equal(matrices.double(), projections.mT):  # the inverse of a permutation
            return name
    raise CheckpointError(
        f"renderer.plane_axes={text_of(matrices.tolist())}: neither the planes of EG3D's release "
        "nor the corrected ones"
    )


def _stylegan2(network: Network) -> GeneratorParts:
    options = Arguments(network)
    resolution = options.whole("img_resolution")
    c_dim = _label_dim(options)
    options.expect(img_channels=3)
    nested = "synthesis_kwargs" in options  # StyleGAN2-ADA's repository, not StyleGAN3's
    synthesis = options.inner("synthesis_kwargs") if nested else options
    config = GeneratorConfig(
        representation=Image2dConfig(synthesis=_synthesis(synthesis)),
        renderer=PictureRendererConfig(),
        z_dim=options.whole("z_dim"),
        w_dim=options.whole("w_dim"),
        mapping=_map(options.inner("mapping_kwargs"), c_dim, 1.0, 0.995 if nested else 0.998),
    )
    options.finish(*([synthesis] if nested else []))
    return _picture(network, config, resolution)


def _picture(network: Network, config: GeneratorConfig, resolution: int) -> GeneratorParts:
    """A 2D generator, whose tensors are named as ours but for the representation."""
    tensors = {
        f"representation.{name}" if name.startswith("synthesis.") else name: x
        for name, x in _without(network.tensors, "resample_filter$").items()
    }
    notes = ["not conditioned on cameras: every view of a latent is the same image"]
    if config.mapping.condition == "camera":
        notes = []
    return GeneratorParts(config, resolution, resolution, tensors, notes)


def _stylegan3(network: Network) -> GeneratorParts:
    options = Arguments(network)
    resolution = options.whole("img_resolution")
    c_dim = _label_dim(options)
    options.expect(img_channels=3)
    kernel, radial = options.whole("conv_kernel", 3), options.flag("use_radial_filters", False)
    variants = {(3, False): "stylegan3-t", (1, True): "stylegan3-r"}
    if (kernel, radial) not in variants:
        raise CheckpointError(
            f"conv_kernel={kernel} and use_radial_filters={radial}: only configurations T (3, "
            "False) and R (1, True) are supported"
        )
    upsampling = options.whole("lrelu_upsampling", 2)
    if upsampling not in (2, 4):
        raise CheckpointError(f"lrelu_upsampling={upsampling}: only 2 and 4 are supported")
    options.ignore("magnitude_ema_beta", "num_fp16_res")  # of the training; of speed
    stylegan3 = StyleGAN3Config(
        channel_base=options.whole("channel_base", 32768),
        channel_max=options.whole("channel_max", 512),
        num_layers=options.whole("num_layers", 14),
        num_critical=options.whole("num_critical", 2),
        first_cutoff=options.number("first_cutoff", 2),
        first_stopband=options.number("first_stopband", 2**2.1),
        last_stopband_rel=options.number("last_stopband_rel", 2**0.3),
        margin_size=options.whole("margin_size", 10),
        output_scale=options.number("output_scale", 0.25),
        conv_clamp=options.number_or_none("conv_clamp", 256),
        filter_size=options.whole("filter_size", 6),
        lrelu_upsampling=upsampling,  # type: ignore[arg-type]  # checked above
    )
    config = GeneratorConfig(
        representation=Image2dConfig(
            network=variants[kernel, radial],  # type: ignore[arg-type]  # of the table above
            stylegan3=stylegan3,
        ),
        renderer=PictureRendererConfig(),
        z_dim=options.whole("z_dim"),
        w_dim=options.whole("w_dim"),
        mapping=_map(options.inner("mapping_kwargs"), c_dim, 1.0, num_layers=2),
    )
    options.finish()
    return _picture(network, config, resolution)


def _synthesis(options: Arguments) -> SynthesisConfig:
    options.expect(architecture="skip", **_LAYER_OPTIONS)
    options.ignore(*_BUILT_FOR_SPEED)
    return SynthesisConfig(
        channel_base=options.whole("channel_base", 32768),
        channel_max=options.whole("channel_max", 512),
        use_noise=options.flag("use_noise", True),
        conv_clamp=options.number_or_none("conv_clamp", 256),
    )


def _map(
    options: Arguments,
    c_dim: int,
    label_scale: float,
    decay: float = 0.998,
    num_layers: int = 8,
) -> MappingConfig:
    options.expect(**_MAPPING_OPTIONS)
    config = MappingConfig(
        num_layers=options.whole("num_layers", num_layers),
        lr_mul=options.number("lr_multiplier", 0.01),
        condition="camera" if c_dim else "none",
        label_scale=label_scale,
        w_avg_decay=options.number("w_avg_beta", decay),
    )
    options.finish()
    return config


def _label_dim(options: Arguments) -> int:
    c_dim = options.whole("c_dim")
    if c_dim not in (0, LABEL_DIM):
        raise CheckpointError(
            f"c_dim={c_dim}: its labels are not cameras; use an unconditional network (0), or one "
            f"conditioned on cameras ({LABEL_DIM})"
        )
    return c_dim


def _without(tensors: Mapping[str, Tensor], pattern: str) -> dict[str, Tensor]:
    return {k: v for k, v in tensors.items() if not re.search(pattern, k)}
