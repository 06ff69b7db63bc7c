"""The official EG3D, run from the checkout that EG3D_CHECKOUT names, never copied here.

Weights are derived from names by NumPy, so that the golden arrays need no weights. Draws of the
official code are replaced: by the middles of strata, or by scripted numbers that ours uses too.
"""

import contextlib
import importlib
import json
import os
import sys
import types
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from lightning_gan3d.benchmark.eg3d import official as official_code
from lightning_gan3d.benchmark.eg3d.official import rendering_kwargs

VARIABLE = "EG3D_CHECKOUT"


def checkout() -> Path | None:
    """Return the official repository's inner `eg3d` folder, if the environment names one."""
    value = os.environ.get(VARIABLE)
    if not value:
        return None
    path = Path(value)
    path = path if (path / "training").is_dir() else path / "eg3d"
    if not (path / "training" / "triplane.py").is_file():
        raise FileNotFoundError(f"{VARIABLE}={value}: no training/triplane.py there")
    return path


def official(module: str) -> Any:
    """Import a module of the official code."""
    path = str(checkout())
    if path not in sys.path:
        sys.path.append(path)
    return importlib.import_module(module)


CHANNELS = {"channel_base": 2048, "channel_max": 32}
"""Narrow networks: every layer and every rule, in seconds."""


def generator_kwargs(resolution: int, **changes: Any) -> dict[str, Any]:
    """Arguments of the official generator, narrowed."""
    return {**official_code.generator_kwargs(resolution, **CHANNELS), **changes}


def discriminator_kwargs(resolution: int, **changes: Any) -> dict[str, Any]:
    """Arguments of the official discriminator, narrowed."""
    return {**official_code.discriminator_kwargs(resolution, **CHANNELS), **changes}


def official_generator(kwargs: Mapping[str, Any]) -> nn.Module:
    """Build the official generator with the weights of `fill`."""
    network = official("training.triplane").TriPlaneGenerator(**kwargs).eval().requires_grad_(False)
    fill(network)
    return network  # type: ignore[no-any-return]  # the checkout is untyped


def official_discriminator(kwargs: Mapping[str, Any]) -> nn.Module:
    """Build the official discriminator with the weights of `fill`."""
    module = official("training.dual_discriminator")
    network = module.DualDiscriminator(**kwargs).eval().requires_grad_(False)
    fill(network)
    return network  # type: ignore[no-any-return]  # the checkout is untyped


def fill(network: nn.Module) -> None:
    """Overwrite parameters and buffers, except filters, by the `numbers` of their names."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not name.endswith("resample_filter"):
                tensor.copy_(numbers(name, tuple(tensor.shape)))


def numbers(name: str, shape: tuple[int, ...]) -> Tensor:
    """Weights of the magnitude after training, derived from the official name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    x = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    mapped = "mapping.fc" in name  # learning-rate multiplier 0.01
    if name.endswith("bias"):
        x = x * (10.0 if mapped else 0.1) + (1.0 if "affine" in name else 0.0)
    elif name.endswith("noise_strength"):
        x = x * 0.0 + 0.1
    elif name.endswith("w_avg"):
        x = x * 0.3
    elif mapped:
        x = x * 100.0
    elif name == "decoder.net.2.weight":
        x[0] *= 16.0  # some rays are opaque, others empty
    if name == "decoder.net.2.bias":
        x[0] -= 4.0
    return x


def latents(num: int, seed: int = 1) -> Tensor:
    """Latents, by NumPy."""
    z = np.random.default_rng(seed).standard_normal((num, 512), dtype=np.float32)
    return torch.from_numpy(z)


def labels(resolution: int, num: int, seed: int = 2) -> Tensor:
    """Cameras that look past the origin, with a skew, at the radius of the data set."""
    rng = np.random.default_rng(seed)
    radius, focal = (1.7, 1.7074) if resolution == 128 else (2.7, 4.2647)
    rows = []
    for _ in range(num):
        yaw, pitch = rng.uniform(-0.6, 0.6, 2)
        eye = radius * np.array(
            [np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)]
        )
        forward = rng.uniform(-0.05, 0.05, 3) - eye
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 1.0, 0.0])
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        pose[:3, 3] = eye
        intrinsics = np.array([[focal, 0.02, 0.51], [0.0, focal * 1.01, 0.49], [0.0, 0.0, 1.0]])
        rows.append(np.concatenate([pose.ravel(), intrinsics.ravel()]))
    return torch.from_numpy(np.array(rows, dtype=np.float32))


@contextlib.contextmanager
def draws_from(answer: Callable[[str, tuple[int, ...]], Tensor]) -> Iterator[None]:
    """Answer every `torch.rand*` within by `answer(kind, shape)`, kind `rand` or `randn`."""

    def shape_of(size: tuple[Any, ...]) -> tuple[int, ...]:
        return tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else tuple(size)

    def rand(*size: Any, **_: Any) -> Tensor:
        return answer("rand", shape_of(size))

    def randn(*size: Any, **_: Any) -> Tensor:
        return answer("randn", shape_of(size))

    with (
        mock.patch.object(torch, "rand", rand),
        mock.patch.object(torch, "randn", randn),
        mock.patch.object(torch, "rand_like", lambda x, **_: answer("rand", tuple(x.shape))),
        mock.patch.object(torch, "randn_like", lambda x, **_: answer("randn", tuple(x.shape))),
    ):
        yield


def middles(kind: str, shape: tuple[int, ...]) -> Tensor:
    """Middles of strata, and u = (i + 1/2) / N, as our renderer without draws."""
    if kind == "rand" and len(shape) == 4:
        return torch.full(shape, 0.5)
    if kind == "rand" and len(shape) == 2:
        return ((torch.arange(shape[1]) + 0.5) / shape[1]).expand(shape)
    raise AssertionError(f"{kind}{shape}: not a draw of the renderer")


def run_official(
    generator: nn.Module,
    discriminator: nn.Module,
    z: Tensor,
    label: Tensor,
    psi: float = 1.0,
    noise_mode: str = "const",
    resolution: int = 64,
) -> dict[str, Tensor]:
    """Return the outputs of both networks for latents and labels."""
    outputs: dict[str, Tensor] = {}

    def keep_opacity(_module: Any, _args: Any, out: Any) -> None:
        side = int(out[2].shape[1] ** 0.5)
        outputs["opacity"] = out[2].reshape(-1, 1, side, side)

    def keep_planes(_module: Any, _args: Any, out: Tensor) -> None:
        outputs["planes"] = out.clone()

    net: Any = generator
    hooks = [
        net.renderer.register_forward_hook(keep_opacity),
        net.backbone.synthesis.register_forward_hook(keep_planes),
    ]
    with torch.no_grad(), draws_from(middles):
        outputs["ws"] = net.mapping(z, label, truncation_psi=psi)
        out = net.synthesis(
            outputs["ws"], label, neural_rendering_resolution=resolution, noise_mode=noise_mode
        )
        outputs["image"], outputs["image_raw"] = out["image"], out["image_raw"].clone()
        outputs["depth"] = out["image_depth"]
        pair = {"image": out["image"], "image_raw": out["image_raw"]}
        outputs["logits"] = discriminator(pair, label)
    for hook in hooks:
        hook.remove()
    return outputs


class Case(NamedTuple):
    """One run of both implementations."""

    resolution: int
    psi: float
    noise_mode: str
    rendering: int
    batch: int = 1

    @property
    def name(self) -> str:
        """Such as `128-psi0.7-const-at64`."""
        return f"{self.resolution}-psi{self.psi:g}-{self.noise_mode}-at{self.rendering}"


CASES = (
    Case(128, 1.0, "const", 64, batch=2),
    Case(128, 0.7, "none", 32),
    Case(128, 0.7, "const", 128),
    Case(256, 1.0, "none", 64, batch=2),
    Case(256, 0.7, "const", 128),
    Case(512, 0.7, "const", 64),
    Case(512, 1.0, "none", 128),
)
"""The published super-resolutions, with and without truncation and noise, rendered at 32 to 128."""

STORED = 2048
"""Numbers stored of a tensor, evenly spaced."""


def thinned(out: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `STORED` numbers of each tensor, and of styles, which are all equal, the first."""
    few = {}
    for name, tensor in out.items():
        flat = (tensor[:, 0] if name == "ws" else tensor).flatten()
        step = max(1, flat.numel() // STORED)
        few[name] = flat[step // 2 :: step][:STORED].clone()
    return few


class Script:
    """Draws by NumPy, equal for both implementations if they ask for equal sizes in order.

    Draws are counted by kind and size, so that other draws in between have no effect.
    """

    def __init__(self) -> None:
        """Start counting."""
        self._counts: dict[tuple[str, int], int] = {}

    def __call__(self, kind: str, shape: tuple[int, ...]) -> Tensor:
        """Return uniform (`rand`) or normal (`randn`) numbers."""
        key = kind, int(np.prod(shape))
        count = self._counts[key] = self._counts.get(key, 0) + 1
        rng = np.random.default_rng(zlib.crc32(f"{key}{count}".encode()))
        x = rng.random(shape, np.float32) if kind == "rand" else rng.standard_normal(shape)
        return torch.from_numpy(np.asarray(x, dtype=np.float32))


TRAINED = {"resolution": 128, "batch": 8, "rendering": 32}
"""Sizes of the training steps that are compared."""
FADES = {"blur_fade_kimg": 0.02, "gpc_reg_fade_kimg": 0.02, "gpc_reg_prob": 0.5, "r1_gamma": 0.3}
"""Schedules under way after the first step, and the weight of R1."""
IMAGES_SEEN = TRAINED["batch"]
PHASES = {"Gmain": 1, "Greg": 4, "Dmain": 1, "Dreg": 16}
"""Phases of a step, and the gains of their losses."""


def training_kwargs() -> dict[str, Any]:
    """Arguments of the official generator in training: conditioned on the camera."""
    options = rendering_kwargs(TRAINED["resolution"], c_gen_conditioning_zero=False)
    return generator_kwargs(TRAINED["resolution"], rendering_kwargs=options)


def training_batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Real images in bytes, their labels, latents, labels of fakes."""
    size, batch = TRAINED["resolution"], TRAINED["batch"]
    smooth = np.random.default_rng(5).random((batch, 3, 8, 8))
    images = np.kron(smooth, np.ones((size // 8, size // 8)))
    stored = torch.from_numpy((images * 255).astype(np.uint8))
    return stored, labels(size, batch, 6), latents(batch, 7), labels(size, batch, 8)


def run_official_phase(phase: str) -> tuple[Tensor, Tensor]:
    """Return the mean reported loss of a phase, and its gradient, flat and in order of names."""
    g = official_generator(training_kwargs()).train()
    d = official_discriminator(discriminator_kwargs(TRAINED["resolution"])).train()
    loss = official("training.loss").StyleGAN2Loss(
        torch.device("cpu"),
        g,
        d,
        blur_init_sigma=10,
        neural_rendering_resolution_initial=TRAINED["rendering"],
        dual_discrimination=True,
        **FADES,
    )
    network = g if phase[0] == "G" else d
    network.requires_grad_(True)
    stored, real_label, z, fake_label = training_batch()
    reported: dict[str, Tensor] = {}

    def report(name: str, value: Tensor) -> Tensor:
        reported[name] = value
        return value

    stats = official("torch_utils.training_stats")
    penalty = torch.nn.functional.l1_loss

    def l1_loss(*args: Any) -> Tensor:
        reported["Loss/density"] = penalty(*args)
        return reported["Loss/density"]

    with (
        mock.patch.object(stats, "report", report),
        mock.patch.object(torch.nn.functional, "l1_loss", l1_loss),
        draws_from(Script()),
    ):
        real = stored.float() / 127.5 - 1
        gain, images_seen = PHASES[phase], IMAGES_SEEN
        loss.accumulate_gradients(phase, real, real_label, z, fake_label, gain, images_seen)
    names = {"Gmain": "G/loss", "Greg": "density", "Dmain": "D/loss", "Dreg": "r1_penalty"}
    return reported[f"Loss/{names[phase]}"].detach().mean(), flat_gradient(network, str)


def flat_gradient(network: nn.Module, official_name: Callable[[str], str]) -> Tensor:
    """Return all gradients, in the order of their official names; without one, zeros."""
    named = sorted((official_name(n), p) for n, p in network.named_parameters())
    unused = ("noise_strength",)  # of the super-resolution, which runs without noise
    rows = [
        torch.zeros_like(p) if p.grad is None else p.grad
        for n, p in named
        if not (n.startswith("superresolution") and n.endswith(unused))
    ]
    return torch.cat([row.flatten() for row in rows])


PUBLISHED = {
    "ffhq512": "--cfg=ffhq --gamma=1 --gen_pose_cond=True",
    "ffhq512_128": (
        "--cfg=ffhq --gamma=1 --gen_pose_cond=True --neural_rendering_resolution_final=128 "
        "--kimg=2000 --resume=ffhq-64.pkl"
    ),
    "ffhqrebalanced512": (
        "--cfg=ffhq --gamma=1 --gen_pose_cond=True --gpc_reg_prob=0.8 --resume=ffhq-64.pkl"
    ),
    "ffhqrebalanced512_128": (
        "--cfg=ffhq --gamma=1 --gen_pose_cond=True --gpc_reg_prob=0.8 "
        "--neural_rendering_resolution_final=128 --resume=ffhq-rebalanced-64.pkl"
    ),
    "afhq512": (
        "--cfg=afhq --gamma=5 --aug=ada --gen_pose_cond=True --gpc_reg_prob=0.8 "
        "--neural_rendering_resolution_final=128 --resume=ffhq-64.pkl"
    ),
    "shapenet128": "--cfg=shapenet --gamma=0.3",
}
"""Our presets, with the published arguments of the official `train.py`."""


def official_options(preset: str, folder: Path) -> dict[str, Any]:
    """Return the options that the official `train.py --dry-run` prints for a preset."""
    from click.testing import CliRunner
    from PIL import Image

    sys.modules.setdefault("psutil", types.ModuleType("psutil"))  # it reports memory in training
    size = 128 if preset == "shapenet128" else 512
    images = folder / f"images{size}"
    images.mkdir(exist_ok=True)
    Image.new("RGB", (size, size)).save(images / "a.png")
    (images / "dataset.json").write_text(json.dumps({"labels": [["a.png", [1.0] * 25]]}))
    arguments = ["--outdir=out", f"--data={images}", "--gpus=8", "--batch=32", "--dry-run"]
    arguments += PUBLISHED[preset].split()
    printed = CliRunner().invoke(official("train").main, arguments, catch_exceptions=False).output
    text = printed.partition("Training options:")[2].partition("\nOutput directory:")[0]
    options = json.loads(text)
    for key in ("training_set_kwargs", "data_loader_kwargs", "run_dir", "metrics"):
        del options[key]  # of this machine
    return dict(options)


SEEN = (0, 1000, 49_999, 64_000, 128_000, 199_999, 250_000, 640_123, 999_999, 2_000_000)
"""Numbers of images at which the schedules of the second preset are compared."""


def official_schedules() -> list[tuple[float, float, int]]:
    """Return blur, swapping probability and rendering resolution after each number of images."""
    loss = official("training.loss").StyleGAN2Loss(
        torch.device("cpu"),
        mock.Mock(rendering_kwargs={}),
        mock.Mock(),
        blur_init_sigma=10,
        blur_fade_kimg=200,
        gpc_reg_prob=0.5,
        gpc_reg_fade_kimg=1000,
        neural_rendering_resolution_initial=64,
        neural_rendering_resolution_final=128,
        neural_rendering_resolution_fade_kimg=1000,
    )
    rows = []
    nothing = torch.zeros(1, 3, 4, 4)
    for images_seen in SEEN:
        with (
            mock.patch.object(loss, "run_G", return_value=({}, None)) as run_g,
            mock.patch.object(
                loss, "run_D", return_value=torch.zeros(1, requires_grad=True)
            ) as run_d,
        ):
            loss.accumulate_gradients("Gmain", nothing, None, None, None, 1, images_seen)
        arguments = run_g.call_args.kwargs
        resolution = int(arguments["neural_rendering_resolution"])
        sigma = float(run_d.call_args.kwargs["blur_sigma"])
        rows.append((sigma, float(arguments["swapping_prob"]), resolution))
    return rows


def stylegan2_kwargs(c_dim: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the StyleGAN2 networks of the StyleGAN3 repository, which EG3D includes."""
    common = {"c_dim": c_dim, "img_resolution": 64, "img_channels": 3, **CHANNELS}
    g = {"z_dim": 512, "w_dim": 512, "mapping_kwargs": {"num_layers": 8}}
    return {**common, **g, "num_fp16_res": 4, "conv_clamp": 256}, {
        **common,
        "num_fp16_res": 4,
        "conv_clamp": 256,
        "epilogue_kwargs": {"mbstd_group_size": 4},
    }


def run_official_stylegan2(c_dim: int) -> dict[str, Tensor]:
    """Return styles, image and logits of the official StyleGAN2."""
    module = official("training.networks_stylegan2")
    g_kwargs, d_kwargs = stylegan2_kwargs(c_dim)
    g, d = module.Generator(**g_kwargs).eval(), module.Discriminator(**d_kwargs).eval()
    fill(g)
    fill(d)
    z, label = latents(4), labels(256, 4)[:, :c_dim]
    with torch.no_grad():
        ws = g.mapping(z, label, truncation_psi=0.7, truncation_cutoff=4)
        image = g.synthesis(ws, noise_mode="const")
        return {"ws": ws, "image": image, "logits": d(image, label)}
