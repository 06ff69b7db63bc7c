"""Time the GPU kernels and their lower bounds; `gpu.sh` runs this script.

    python benchmarks/gpu_kernels.py OUT.json
    TRITON_INTERPRET=1 python benchmarks/gpu_kernels.py OUT.json --dry-run   # tiny, on a CPU

The lower bound of a stage is a kernel that only gathers or scatters the same texels. It is measured
with rays in rows and in tiles.
"""

import argparse
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl

from lightning_gan3d.benchmark.speed import Recorded
from lightning_gan3d.cameras import Cameras
from lightning_gan3d.contract import SceneConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.generator import Generator
from lightning_gan3d.metric import Metric, write_metrics
from lightning_gan3d.networks.decoder import Decoder, DecoderConfig
from lightning_gan3d.networks.filtered_lrelu import FilteredActivation, filtered_lrelu, plain
from renderers.fused.gpu import launches
from renderers.fused.gpu.decode_kernels import gather, point_of, rays_of, scatter
from renderers.fused.gpu.point_kernels import part_of, scene_offset
from renderers.fused.gpu.ray_kernels import WeightGradients
from renderers.ray_marching import Request, draw_jitter
from renderers.sampling import ray_span
from renderers.volume import VolumeRenderer, VolumeRendererConfig
from representations.nerf_mlp import FilmNet, NerfField, NerfMlpConfig, ViewNerfField
from representations.triplane import TriPlaneField

DRY = False


@triton.jit
def texels_kernel(points, out, work, SCATTER: tl.constexpr, SHAPE: tl.constexpr):
    """Gather the texels of all samples, or add 1 to all of them."""
    batch, tile, _, begin, end = part_of(work, tl.program_id(0), 0, points.samples)
    ray, ok = rays_of(tile, points.num_rays, SHAPE.tile)
    ray += batch * points.num_rays
    texels = points.texels + scene_offset(batch, SHAPE.grid)
    for s in range(begin, end):
        point = point_of(points, ray, s, ok)
        if SCATTER:
            block = tl.zeros((SHAPE.tile.rows * SHAPE.tile.columns, SHAPE.grid.padded), tl.float32)
            scatter(texels, block + 1, point, ok, SHAPE.grid)
        else:
            feature = gather(texels, point, ok, SHAPE.grid)
            tl.store(out + ray * points.samples + s, tl.sum(feature, 1), mask=ok)


def milliseconds(function: Callable[[], Any]) -> float:
    """Median time on the device, from a cold L2 cache."""
    if DRY:
        start = time.perf_counter()
        function()
        return 1e3 * (time.perf_counter() - start)
    return float(triton.testing.do_bench(function, warmup=20, rep=100, return_mode="median"))


def scene(device: str, size: int, batch: int, dtype: torch.dtype) -> TriPlaneField:
    """Random planes and decoder."""
    torch.manual_seed(0)
    channels, hidden, features = (4, 4, 4) if DRY else (32, 64, 32)
    decoder = Decoder(DecoderConfig(hidden), channels, features).to(device)
    planes = torch.randn(batch, 3, channels, size, size, device=device)
    planes = planes.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3).to(dtype)
    return TriPlaneField(planes, decoder, SceneConfig(feature_dim=features))


def mlp(device: str, batch: int) -> NerfField:
    """Random MLPs of pi-GAN's size."""
    torch.manual_seed(0)
    cfg = NerfMlpConfig(hidden_dim=16 if DRY else 256, num_layers=2 if DRY else 8, view_dirs=True)
    film = torch.randn(2, batch, cfg.num_layers + 1, cfg.hidden_dim, device=device)
    scale, shift = cfg.omega * (1 + 0.1 * film[0]), film[1]
    return ViewNerfField(scale, shift, FilmNet(cfg, 3).to(device), SceneConfig(feature_dim=3))


def cameras(batch: int, device: str) -> Cameras:
    """One view of each scene."""
    return Cameras.orbit(batch, 0.3, 2.7, focal=2.7).to(device)


def config(precision: str, path: str = "triton", n: int = 48) -> VolumeRendererConfig:
    """Twice n samples per ray; EG3D's by default."""
    n = 2 if DRY else n
    return VolumeRendererConfig(n, n, path=path, precision=precision)  # type: ignore[arg-type]  # Literal


def stages(device: str) -> Iterator[Metric]:
    """Time each kernel of one rendering, and its lower bounds."""
    for precision in ("fp32",) if DRY else ("fp32", "tf32", "fp16"):
        yield from stages_of(device, precision)


def stages_of(device: str, precision: str) -> Iterator[Metric]:
    """Time the kernels of one rendering at one precision."""
    size, resolution = (8, 8) if DRY else (256, 128)
    field = scene(device, size, 1, torch.float32)
    o, rays = config(precision), cameras(1, device).rays(resolution)
    span, _ = ray_span(rays, field.box, o)
    jitter = draw_jitter(o, rays.origins, Draws(0))
    request = Request(o, field, rays, span, jitter)
    grids, *weights = request.grid.tensors
    x = launches.prepare(request, grids, tuple(weights), span)
    n, first = x.samples, o.samples_coarse
    t = torch.linspace(0, 1, n, device=device) * (span.far - span.near) + span.near
    sigma = torch.empty_like(t)
    launches.find_sigma(x, t, sigma, None, 0, n)
    order = launches.find_order(x, t)
    omega, sums = launches.find_weights(x, t, sigma, order)
    g = torch.randn_like(launches.sum_features(x, t, omega))
    q = launches.find_q(x, t, g)
    d_weights = WeightGradients(q, torch.randn_like(sums.depth), torch.randn_like(sums.opacity))
    _, d_sigma = launches.find_weights_backward(x, t, sigma, order, d_weights)
    dense = torch.full_like(omega, 1 / n)  # no sample is skipped
    work = {
        "sigma_coarse": lambda: launches.find_sigma(x, t, sigma, None, 0, first),
        "sigma_fine": lambda: launches.find_sigma(x, t, sigma, None, first, n - first),
        "place_fine": lambda: launches.place_fine(x, t.clone(), sigma, jitter.u),
        "order": lambda: launches.find_order(x, t),
        "weights": lambda: launches.find_weights(x, t, sigma, order),
        "features": lambda: launches.sum_features(x, t, dense),
        "q": lambda: launches.find_q(x, t, g),
        "weights_backward": lambda: launches.find_weights_backward(x, t, sigma, order, d_weights),
        "gradients": lambda: launches.find_gradients(x, t, dense, d_sigma, g),
    }
    note = f"{resolution} x {resolution} rays of {n} samples, {size}² planes, {precision}"
    for name, function in work.items():
        yield Metric(f"gpu.{name}_ms.{precision}", milliseconds(function), "ms", 1, note=note)
    yield from bounds(x, t, precision, note)


def bounds(x: launches.Launch, t: torch.Tensor, precision: str, note: str) -> Iterator[Metric]:
    """Time gathers and atomic additions alone, by the order of rays."""
    total = torch.zeros_like(x.texels, dtype=torch.float32)
    out = torch.empty_like(t)
    for order, tile in (("tiles", (8, 8)), ("tiles4", (4, 4)), ("rows", (1, 64))):
        if DRY and order == "rows":
            continue
        work, tasks = x.work(tile, x.samples)
        for does, target in (("gather", x.texels), ("scatter", total)):
            run = texels_kernel[(tasks,)]
            points = x.scene(t)._replace(texels=target)
            constants = {"SCATTER": does == "scatter", "SHAPE": x.shape(tile), "num_stages": 1}
            ms = milliseconds(functools.partial(run, points, out, work, **constants))
            yield Metric(f"gpu.{does}_{order}_ms.{precision}", ms, "ms", 1, note=note)
            if does == "scatter":
                rate = t.numel() * 12 * x.grid.channels / ms / 1e6
                why = "float32 additions per second, 12 corners per point"
                yield Metric(f"gpu.scatter_{order}_rate.{precision}", rate, "G/s", 1, note=why)


def renderings(device: str) -> Iterator[Metric]:
    """Time and memory of renderings, plain and fused, without and with gradient."""
    size = 8 if DRY else 256
    for resolution, batch in [(8, 1)] if DRY else [(64, 1), (64, 4), (128, 1), (128, 4)]:
        for o in configs(48):
            field = scene(device, size, batch, torch.float32)
            yield from rendering("render", field, o, resolution)


def mlp_renderings(device: str) -> Iterator[Metric]:
    """The same of MLPs, with pi-GAN's 12 + 12 samples."""
    for resolution, batch in [(4, 1)] if DRY else [(64, 1), (64, 4)]:
        for o in configs(12):
            yield from rendering("render_mlp", mlp(device, batch), o, resolution)


def configs(n: int) -> list[VolumeRendererConfig]:
    """Paths and precisions to compare."""
    fused = ("fp32",) if DRY else ("fp32", "tf32", "fp16")
    return [config("fp32", "plain", n), *(config(precision, n=n) for precision in fused)]


def rendering(
    kind: str, field: TriPlaneField | NerfField, cfg: VolumeRendererConfig, resolution: int
) -> Iterator[Metric]:
    """Measure one field, size, path and precision."""
    with_gradient = field.map(lambda x: x.clone().requires_grad_())
    batch, device = field.batch, field.tensors()[0].device
    o = VolumeRenderer(cfg)
    views, draws = cameras(batch, str(device)), Draws(0)

    def forward() -> None:
        with torch.no_grad():
            o(field, views, resolution, draws)

    def forward_backward() -> None:
        for x in with_gradient.tensors():
            x.grad = None
        rendering = o(with_gradient, views, resolution, draws)
        rendering.feature.sum().backward()

    name = f"gpu.{kind}_{{}}.{resolution}.b{batch}.{cfg.path}.{cfg.precision}"
    note = f"{batch} x {resolution}² rays, rendered by "
    for work, function in (("forward", forward), ("both", forward_backward)):
        ms = milliseconds(function)
        yield Metric(name.format(f"{work}_ms"), ms, "ms", 1, note=note + str(o.backend))
        if not DRY:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            function()
            peak = (torch.cuda.max_memory_allocated() - before) / 1e6
            yield Metric(name.format(f"{work}_mb"), peak, "MB", 1, note="peak added")


def gradient(function: Any, x: torch.Tensor, *others: Any) -> None:
    """Compute and differentiate a function of an image."""
    torch.autograd.grad(function(x, *others).sum(), x)


def filters(device: str) -> Iterator[Metric]:
    """Time StyleGAN3's filtered leaky ReLU with its gradient, plain and fused."""
    channels, size = (2, 16) if DRY else (64, 276)
    taps = torch.hann_window(12, periodic=False, device=device) / 5.5
    x = torch.randn(1, channels, size + 2, size + 2, device=device, requires_grad=True)
    bias, note = torch.zeros(channels, device=device), f"{channels} x {size}²"
    for kind, down in (("separable", taps), ("radial", taps[:, None] * taps)):
        a = FilteredActivation(taps, down, 2, 2, (9, 8))
        for path, function in (("plain", plain), ("fused", filtered_lrelu)):
            ms = milliseconds(functools.partial(gradient, function, x, bias, a))
            yield Metric(f"gpu.filtered_ms.{kind}.{path}", ms, "ms", 1, note=note)


def recordings(device: str) -> Iterator[Metric]:
    """Time an image at batch 1, eager and as a CUDA graph."""
    if DRY:
        return
    experiment = load_experiment("eg3d/ffhq512")
    generator = Generator(experiment.generator, 512).to(device).eval()
    z, views = torch.randn(1, 512, device=device), cameras(1, device)
    label = views.to_label()
    recorded = Recorded(lambda z, label: generator(z, label, resolution=128), z, label)
    with torch.no_grad():
        for name, function in (
            ("called", lambda: generator(z, label, resolution=128)),
            ("replayed", lambda: recorded(z, label)),
        ):
            ms = milliseconds(function)
            note = "one 512² image from a 128² rendering"
            yield Metric(f"gpu.image_{name}_ms", ms, "ms", 1, note=note)


def main() -> None:
    """Measure everything; write the results even if a part fails."""
    global DRY
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on a CPU, interpreted")
    args = parser.parse_args()
    DRY = args.dry_run
    device, rows, failed = "cpu" if DRY else "cuda", [], []
    for part in (stages, renderings, mlp_renderings, filters, recordings):
        try:
            for row in part(device):
                print(f"{row.key:<48} {row.value:>10.4g} {row.unit}", flush=True)
                rows.append(row)
        except Exception as error:  # keep the results of the other parts
            print(f"{part.__name__}: {type(error).__name__}: {error}", flush=True)
            failed.append(part.__name__)
            note = f"{type(error).__name__}: {error}"
            rows.append(Metric(f"gpu.{part.__name__}", None, note=note))
        write_metrics(args.out, rows)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
