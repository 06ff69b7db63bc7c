"""Run directories as training, evaluation and benchmark leave them, with made-up numbers."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
import yaml

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.images import Images
from lightning_gan3d.metric import Metric, missing, parse_key, read_metrics, write_metrics

NUMBERS = {
    # SWD, the same before training, refit, consistency, gain, pose,
    # scene ms, view ms, training img/s, MB, bytes of a scene
    "triplane": (0.051, 0.571, 27.1, 29.4, 6.1, 0.98, 14.2, 3.1, 61.0, 182.0, 98304),
    "voxel": (0.027, 0.465, 27.9, 30.3, 6.9, 0.97, 9.7, 4.4, 44.0, 251.0, 131072),
    "nerf_mlp": (0.031, 0.516, 30.2, 33.8, 9.2, 1.0, 0.4, 18.9, 64.0, 402.0, 4608),
    "image2d": (0.038, 0.544, 18.3, None, None, 0.89, 6.8, 6.9, 75.0, 96.0, 12288),
}
DEFICITS = {"triplane": 3.3, "voxel": 2.5, "nerf_mlp": 0.2, "image2d": 7.0}
"""Below the ceiling, of refit and reprojection."""
FLOOR = 0.0129


def metric_of(key, *values, **fields):
    """A metric with the id of a key."""
    return replace(Metric(key, *values, **fields), **parse_key(key)._asdict())


CONDITIONS = {
    "resolution": 32,
    "rendering_resolution": 16,
    "precision": "weights float32, rendering fp32",
    "truncation_psi": 1.0,
    "seed": 0,
    "weights_sha256": "abcdef0123456789" * 4,
    "dataset_fingerprint": "f00dfeed",
    "commit": "0123abc" * 5,
    "dirty": True,
}


def make_run(
    root: Path,
    kind: str,
    seed: int = 0,
    *,
    finished: bool = True,
    evaluated: bool = True,
    benched: bool = True,
    kimg: float = 8.0,
    shift: float = 0.0,
    experiment: str | None = None,
    variant: str | None = None,
    data: str = "data/synth32.zip",
    manifest: dict | None = None,
) -> Path:
    """Make one run directory. `shift` moves its numbers; one not `finished` stops half-way."""
    experiment = experiment or kind
    path = root / experiment / f"{variant or format(sum(kind.encode()), '08x')}-s{seed}"
    path.mkdir(parents=True)
    config = {
        "name": experiment,
        "seed": seed,
        "data": {"path": data},
        "generator": {"representation": {"kind": kind}},
        "training": {"kimg": kimg, "threads": 1},
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    facts = {
        "finished": finished,
        "commit": "0123abc",
        "versions": {"torch": "2.15.0", "lightning": "2.6.6"},
        "device": "cpu (a processor)",
        "dataset_fingerprint": "f00dfeed",
        "command": ["gan3d", "train", f"demo/{kind}", f"seed={seed}"],
        "threads": 1,
    }
    (path / "manifest.json").write_text(json.dumps(facts | (manifest or {})))
    swd, start = NUMBERS[kind][:2]
    speed = NUMBERS[kind][8]
    rows = []
    for step in range(1, 9 if finished else 5):
        seen = kimg * step / 8
        row = {"step": 125 * step, "kimg": seen, "seconds": 1000 * seen / speed}
        value = swd + shift + (start - swd) * math.exp(-0.6 * step)
        rows += [row | {"loss/G": 0.7, "loss/D": 1.3}, row | {"eval/swd": value}]
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    if evaluated:
        (path / "evaluation.conditions.json").write_text(json.dumps(CONDITIONS))
        write_metrics(path / "evaluation.json", evaluation(kind, shift))
    if benched:
        write_metrics(path / "bench.json", bench(kind, shift))
    return path


def make_seeds(root: Path, kind: str, **options) -> list[Path]:
    """Make three runs of a kind that differ by seed in all measured numbers, by 1e-5 of them."""
    paths = [make_run(root, kind, seed, **options) for seed in range(3)]
    for path in paths:
        for file in ("evaluation.json", "bench.json"):
            if (path / file).exists():
                rows = read_metrics(path / file)
                write_metrics(path / file, [replace(m, value=_varied(path, m)) for m in rows])
    return paths


def _varied(path: Path, m: Metric) -> float | None:
    if m.value is None or m.name.split(".")[0] in ("cost", "memory", "growth"):
        return m.value
    return m.value * (1 + 1e-5 * random.Random(f"{path.parent.name} {path.name} {m.key}").gauss())


def edit(path: Path | list[Path], key: str, **values) -> None:
    """Change fields of a stored metric of a run or of runs; a metric that it lacks is added.

    A list of values has one for each run; a single one varies between runs.
    """
    if isinstance(path, list):
        for i, one in enumerate(path):
            value = values.get("value")
            own = value[i] if isinstance(value, list) else value
            if isinstance(value, float):
                own = _varied(one, metric_of(key, value))
            edit(one, key, **(values | ({"value": own} if "value" in values else {})))
        return
    for file in ("evaluation.json", "bench.json"):
        rows = read_metrics(path / file) if (path / file).exists() else []
        if key in [m.key for m in rows]:
            rows = [replace(m, **values) if m.key == key else m for m in rows]
            write_metrics(path / file, rows)
            return
    file = path / "evaluation.json"
    write_metrics(file, [*read_metrics(file), metric_of(key, **values)])


def edit_all(path: Path | list[Path], **values) -> None:
    """Change fields of all stored metrics of a run or of runs."""
    if isinstance(path, list):
        for one in path:
            edit_all(one, **values)
        return
    for file in ("evaluation.json", "bench.json"):
        write_metrics(path / file, [replace(m, **values) for m in read_metrics(path / file)])


def evaluation(kind: str, shift: float = 0.0) -> list[Metric]:
    swd, start, refit, psnr, gain, pose = NUMBERS[kind][:6]
    progress = (start - swd - shift) / (start - FLOOR)
    levels = "levels 32 (Laplacian), 16; 128 patches of 7x7 an image; 512 projections"
    out = [
        metric_of(
            "quality.swd", swd + shift, "", 500, 0.0008, f"500 against 500 held-out; {levels}"
        ),
        metric_of("quality.swd_init", start, "", 500, note=f"the same before training; {levels}"),
        metric_of("quality.swd_floor", FLOOR, "", 500, note=f"real against real; {levels}"),
        metric_of(
            "quality.swd_progress", progress, "share", 500, note="(start - now) / (start - floor)"
        ),
        metric_of("refit.psnr", refit + 100 * shift, "dB", 8, 1.1, "12 views fitted, 12 held out"),
        metric_of("refit.gain", 5.0, "dB", 8, 1.1, "12 views fitted"),
        metric_of("refit.deficit", DEFICITS[kind] + 100 * shift, "dB", 8, 1.1, "12 fitted"),
        metric_of(
            "pose.within_20deg", pose, "share", 1000, note="regressor trained on real images"
        ),
    ]
    if psnr is None:
        why = "no depth is rendered, so nothing can be warped"
        return out + [missing(f"consistency.{k}", why, "dB") for k in ("psnr", "gain", "deficit")]
    return [
        *out,
        metric_of("consistency.psnr", psnr, "dB", 32, 1.4, "5 views 0.25 rad apart"),
        metric_of("consistency.gain", gain, "dB", 32, note="5 views 0.25 rad apart"),
        metric_of("consistency.deficit", DEFICITS[kind], "dB", 32, note="5 views"),
        metric_of("consistency.coverage", 0.81, "share", 32, 0.05, "5 views 0.25 rad apart"),
    ]


def bench(kind: str, shift: float = 0.0) -> list[Metric]:
    scene, view, train, memory, size = NUMBERS[kind][6:]
    note = "median of 10 calls after 3 of warm-up"
    out = [
        metric_of("speed.scene_ms", scene, "ms", 10, 0.2, note),
        metric_of("speed.view_ms", view + 10 * shift, "ms", 10, 0.1, note),
        metric_of("speed.image_ms", scene + view, "ms", 10, 0.3, note),
        metric_of("speed.train_img_s", train, "img/s", 10, 1.0, note),
        metric_of("memory.image_mb", memory / 20, "MB", 1, note="allocator record"),
        metric_of("memory.train_mb", memory, "MB", 1, note="allocator record"),
        metric_of("cost.representation_parameters", 1000.0 * size / 512, "count", 1),
        metric_of("cost.scene_bytes", float(size), "bytes", 1, note="of one scene, as stored"),
        metric_of("cost.flops", view / 40, "GFLOP", 1, note="one image"),
    ]
    for r in (16, 32, 64):
        if kind == "image2d":
            continue
        out.append(
            metric_of(f"growth.rendering.view_ms@{r}", view * (r / 32) ** 1.9, "ms", 10, 0.1)
        )
    if kind == "image2d":
        out.append(missing("growth.rendering", "a picture has one size"))
    if kind in ("triplane", "voxel"):
        power = 2 if kind == "triplane" else 3
        out += [
            metric_of(f"growth.grid.scene_bytes@{r}", size * (r / 32) ** power, "bytes", 1)
            for r in (16, 32, 64)
        ]
    else:
        out.append(missing("growth.grid", "this representation stores no grid"))
    if kind == "nerf_mlp":
        out.append(metric_of("growth.image.scene_bytes_exponent", 0.0, "", 3))
    return out


def write_labels(folder: Path, num: int = 60) -> Path:
    """Write labels of a data set that is seen from all around; images are not needed here."""
    folder.mkdir(parents=True)
    azimuth = torch.linspace(0, 2 * math.pi, num + 1)[:-1]
    elevation = torch.linspace(0.0, 0.7, num)
    labels = Cameras.on_sphere(azimuth, elevation, radius=3.2, focal=1.5).to_label()
    rows = [[f"img{i}.png", label] for i, label in enumerate(labels.tolist())]
    (folder / "dataset.json").write_text(json.dumps({"labels": rows}))
    return folder


class Ball:
    """Stands for a generator: a striped ball under the camera, with or without depth."""

    def __init__(self, solid: bool = True, z_dim: int = 4, resolution: int = 24) -> None:
        self.solid, self.resolution = solid, resolution
        self.cfg = SimpleNamespace(z_dim=z_dim)
        self.asked: list[dict] = []

    def views(self, z, label, cameras, truncation_psi=1.0):
        self.asked.append({"z": z, "label": label, "cameras": cameras, "psi": truncation_psi})
        rays = cameras.rays(self.resolution)
        along = -(rays.origins * rays.dirs).sum(-1)
        near = (rays.origins**2).sum(-1) - along**2
        hit = near < 0.8
        depth = along - (0.8 - near).clamp(min=0).sqrt()
        point = rays.origins + depth[..., None] * rays.dirs
        hue = z.repeat_interleave(len(rays.dirs) // len(z), 0)[:, :3, None].sigmoid()
        stripes = (torch.atan2(point[..., 0], point[..., 2]) * 2).sin()[:, None] * 0.5 + 0.5
        image = torch.where(hit[:, None], 2 * (0.2 + 0.8 * stripes) * hue - 1, torch.ones(()))

        def square(x):
            return x.reshape(len(x), -1, self.resolution, self.resolution)

        if not self.solid:
            return Images(square(image), square(image))
        far = torch.where(hit, depth, torch.full_like(depth, 4.2))
        return Images(square(image), square(image), square(far), square(hit.float()))
