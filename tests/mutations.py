"""Break the code on purpose, one small fault at a time, and see that the tests notice.

    python tests/mutations.py [--only WORD]

Works on a copy of the repository in a temporary folder; prints a Markdown table of the faults and
of the first test that caught each. Exits with 1 if one survives. Takes some minutes, so it is not
part of `make test`; docs/testing.md holds its last outcome.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple


class Mutation(NamedTuple):
    """A fault: replace `old`, which stands once in `file`, and run `tests`."""

    what: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = [
    Mutation(
        "renderer: transmittance includes the sample's own absorption",
        "renderers/compositing.py",
        "torch.exp(tau - total)",
        "torch.exp(-total)",
        "tests/renderers",
    ),
    Mutation(
        "renderer: empty rays keep a depth of zero",
        "renderers/compositing.py",
        "torch.where(opacity < EMPTY, background,",
        "torch.where(opacity < 0, background,",
        "tests/renderers",
    ),
    Mutation(
        "renderer: background without the opacity in front of it",
        "renderers/volume.py",
        "(1 - total.opacity) * o.background",
        "o.background",
        "tests/renderers",
    ),
    Mutation(
        "renderer: views dealt to the wrong scene",
        "renderers/volume.py",
        '"(b k) r c -> b (k r) c"',
        '"(k b) r c -> b (k r) c"',
        "tests/renderers",
    ),
    Mutation(
        "renderer: strata begin at their lower end instead of the middle",
        "renderers/sampling.py",
        "0.5 if jitter is None",
        "0.0 if jitter is None",
        "tests/renderers",
    ),
    Mutation(
        "renderer: density outside the box is kept",
        "renderers/march.py",
        "points.abs().amax(dim=1) <= field.box / 2",
        "points.abs().amax(dim=1) <= field.box",
        "tests/renderers",
    ),
    Mutation(
        "representation: the third plane repeats the second pair of axes",
        "representations/triplane.py",
        "((0, 1, 2), (0, 2, 1), (2, 1, 0))",
        "((0, 1, 2), (0, 2, 1), (2, 0, 1))",
        "tests/representations",
    ),
    Mutation(
        "representation: a voxel grid addressed in reverse axis order",
        "representations/voxel.py",
        "points.mT * (2 / self.box)",
        "points.mT.flip(1) * (2 / self.box)",
        "tests/representations",
    ),
    Mutation(
        "losses: the generator's sign",
        "lightning_gan3d/training/losses.py",
        "return softplus(-fake).mean()",
        "return softplus(fake).mean()",
        "tests/training/test_losses.py",
    ),
    Mutation(
        "losses: reals and fakes swapped for the discriminator",
        "lightning_gan3d/training/losses.py",
        "(softplus(fake) + softplus(-real)).mean()",
        "(softplus(-fake) + softplus(real)).mean()",
        "tests/training/test_losses.py",
    ),
    Mutation(
        "losses: gradient penalty averages over pixels instead of summing",
        "lightning_gan3d/training/losses.py",
        "g.square().sum(dim=(1, 2, 3))",
        "g.square().mean(dim=(1, 2, 3))",
        "tests/training/test_losses.py",
    ),
    Mutation(
        "losses: lazy penalties not weighted by their interval",
        "lightning_gan3d/training/module.py",
        "yield self._penalty(real_logits, real, fake_logits, fake) * loss.r1_interval",
        "yield self._penalty(real_logits, real, fake_logits, fake)",
        "tests/training/test_module.py",
    ),
    Mutation(
        "losses: fakes judged under another camera than they were rendered from",
        "lightning_gan3d/training/module.py",
        "            logits = self.discriminate(fake, label, draws, now, real=False)",
        "            logits = self.discriminate(fake, label.roll(1, 0), draws, now, real=False)",
        "tests/training/test_module.py",
    ),
    Mutation(
        "cameras: image y points up",
        "lightning_gan3d/cameras.py",
        "torch.stack([right, down, forward], dim=-1)",
        "torch.stack([right, -down, forward], dim=-1)",
        "tests/test_cameras.py",
    ),
    Mutation(
        "cameras: rays through pixel corners",
        "lightning_gan3d/cameras.py",
        "+ 0.5\n        ) / resolution",
        "\n        ) / resolution",
        "tests/test_cameras.py",
    ),
    Mutation(
        "cameras: distance taken for camera z",
        "lightning_gan3d/cameras.py",
        "return depth * cosine.view_as(depth)",
        "return depth / cosine.view_as(depth)",
        "tests/test_cameras.py",
    ),
    Mutation(
        "cameras: mirroring leaves the rotation's other half",
        "lightning_gan3d/cameras.py",
        "self.cam2world * s[:, None] * s[None, :]",
        "self.cam2world * s[:, None]",
        "tests/test_cameras.py",
    ),
    Mutation(
        "EMA: decay and its complement exchanged",
        "lightning_gan3d/training/ema.py",
        "healthy * (1.0 - decay)",
        "healthy * decay",
        "tests/training/test_ema.py",
    ),
    Mutation(
        "EMA: buffers left behind",
        "lightning_gan3d/training/ema.py",
        "torch._foreach_copy_(copies, buffers)",
        "pass",
        "tests/training/test_ema.py",
    ),
    Mutation(
        "EMA: half-life counts steps instead of images",
        "lightning_gan3d/training/schedules.py",
        "0.5 ** (cfg.batch / in_images)",
        "0.5 ** (1 / in_images)",
        "tests/training",
    ),
    Mutation(
        "data: mirrored images keep their camera",
        "lightning_gan3d/data/dataset.py",
        "found.flip(-1), found)",
        "found, found)",
        "tests/data",
    ),
    Mutation(
        "data: labels shifted by one image",
        "lightning_gan3d/data/datamodule.py",
        "self.dataset.labels[indices], step)",
        "self.dataset.labels[indices.roll(1)], step)",
        "tests/data",
    ),
    Mutation(
        "data: ranks see the same images",
        "lightning_gan3d/data/datamodule.py",
        "slice(rank * share, (rank + 1) * share)",
        "slice(0, share)",
        "tests/data",
    ),
    Mutation(
        "data: the order of a step depends on nothing but its epoch's start",
        "lightning_gan3d/data/datamodule.py",
        "[offset : offset + end - position]",
        "[: end - position]",
        "tests/data",
    ),
    Mutation(
        "data: stored colours off by half a range",
        "lightning_gan3d/images.py",
        ".div_(127.5).sub_(1.0)",
        ".div_(255.0).sub_(0.5)",
        "tests/data",
    ),
    Mutation(
        "own images: OpenGL's camera axes are taken for OpenCV's",
        "lightning_gan3d/data/captures/transforms.py",
        "np.diag([1.0, -1.0, -1.0, 1.0])",
        "np.eye(4)",
        "tests/data/test_from_poses.py",
    ),
    Mutation(
        "own images: the pose of COLMAP is not inverted",
        "lightning_gan3d/data/captures/colmap.py",
        "-rotation.T @ np.array(image.translation)",
        "np.array(image.translation)",
        "tests/data/test_colmap.py",
    ),
    Mutation(
        "own images: the principal point does not follow the crop",
        "lightning_gan3d/data/captures/from_poses.py",
        "[0, 1 / side, -top / side]",
        "[0, 1 / side, 0]",
        "tests/data/test_from_poses.py",
    ),
    Mutation(
        "own images: what is seen is cut elsewhere than the labels say",
        "lightning_gan3d/data/captures/from_poses.py",
        "box = (left, top, left + side, top + side)",
        "box = (0, top, side, top + side)",
        "tests/data/test_from_poses.py",
    ),
    Mutation(
        "own images: the similarity that is stored leaves out the scale",
        "lightning_gan3d/data/captures/normalise.py",
        "matrix[:3, :3] = self.scale * self.rotation",
        "matrix[:3, :3] = self.rotation",
        "tests/data/test_from_poses.py",
    ),
    Mutation(
        "own images: a count in a binary file is believed",
        "lightning_gan3d/data/captures/colmap.py",
        "if num * least > left:",
        "if num < 0:",
        "tests/data/test_colmap.py",
    ),
    Mutation(
        "own images: near lies within the box",
        "lightning_gan3d/data/captures/framing.py",
        "np.linalg.norm(beyond, axis=1).min()",
        "np.linalg.norm(beyond, axis=1).max() + box",
        "tests/data/test_from_poses.py",
    ),
    Mutation(
        "EG3D: the released planes are read as the mended ones",
        "representations/triplane.py",
        '"eg3d": ((0, 1, 2), (0, 2, 1), (2, 0, 1)),',
        '"eg3d": ((0, 1, 2), (0, 2, 1), (2, 1, 0)),',
        "tests/eg3d",
    ),
    Mutation(
        "EG3D: importance sampling without its shift toward the camera",
        "renderers/sampling.py",
        "invert_cdf(midpoints[..., :-1], smooth, u)",
        "invert_cdf(midpoints[..., 1:], smooth, u)",
        "tests/eg3d",
    ),
    Mutation(
        "EG3D: a checkpoint without c_scale is conditioned fully",
        "lightning_gan3d/checkpoints/nvidia.py",
        'rendering.number("c_scale", 0)',
        'rendering.number("c_scale", 1)',
        "tests/checkpoints/test_importer.py",
    ),
    Mutation(
        "EG3D: R1 differentiates through the blur",
        "lightning_gan3d/training/module.py",
        "leaves = seen = losses.with_gradient(self.seen(images, draws, now, real))",
        "leaves = losses.with_gradient(images); seen = self.seen(leaves, draws, now, real)",
        "tests/eg3d",
    ),
    Mutation(
        "EG3D: consecutive images form a group of the minibatch deviation",
        "lightning_gan3d/networks/discriminator.py",
        '"(g n) c h w -> n g c h w"',
        '"(n g) c h w -> n g c h w"',
        "tests/eg3d",
    ),
    Mutation(
        "import: a view of a storage may claim more than it holds",
        "lightning_gan3d/checkpoints/storages.py",
        "if reach > available or math.prod(size) > available:",
        "if reach > available:",
        "tests/checkpoints/test_unpickle.py",
    ),
    Mutation(
        "kernel on a CPU: samples take the weights of the sorted order",
        "renderers/fused/cpu/quadrature.py",
        "lines[OMEGA, i] = lines[WEIGHT, k]",
        "lines[OMEGA, i] = lines[WEIGHT, i]",
        "tests/renderers/fused/test_cpu.py",
    ),
    Mutation(
        "kernel on a CPU: what passes an interval is left out of its gradient",
        "renderers/fused/cpu/quadrature.py",
        "passed * gradient * lines[TRANS, i] - kept",
        "gradient * lines[TRANS, i] - kept",
        "tests/renderers/fused/test_cpu.py",
    ),
    Mutation(
        "kernel on a CPU: the widened sigmoid forgets the opacity",
        "renderers/fused/cpu/kernels.py",
        "WIDER * lines[SHADE, i] - LOWER * opacity",
        "WIDER * lines[SHADE, i] - LOWER",
        "tests/renderers/fused/test_cpu.py",
    ),
    Mutation(
        "kernel on a GPU: gradients of texels are not shared among the planes",
        "renderers/fused/gpu/decode_kernels.py",
        "slope *= 1.0 / GRIDS",
        "slope *= 1.0",
        "tests/renderers/fused/test_gpu.py",
    ),
    Mutation(
        "kernel on a GPU: the opacity's own gradient is lost",
        "renderers/fused/gpu/ray_kernels.py",
        "d_tau += d_total * tl.exp(-tl.sum(tau, 1))[:, None]",
        "d_tau += 0.0 * d_total",
        "tests/renderers/fused/test_gpu.py",
    ),
    Mutation(
        "kernel check: a kernel is believed without comparing values",
        "renderers/fused/kernel_check.py",
        "if not off <= (GRADIENT if",
        "if not off <= torch.inf * (GRADIENT if",
        "tests/renderers/fused/test_kernel_check.py",
    ),
    Mutation(
        "fused layer: the scale's gradient keeps what was added after it",
        "lightning_gan3d/networks/fused/layer.py",
        "(by_out - shift * alone) / scale",
        "by_out / scale",
        "tests/networks/test_fused.py",
    ),
    Mutation(
        "measures: a point that is hidden is compared with what hides it",
        "lightning_gan3d/metrics/consistency/warp.py",
        "inside & seen & visible & first_hit",
        "inside & seen & first_hit",
        "tests/metrics/test_consistency.py",
    ),
    Mutation(
        "measures: several points of a target may fall on one source pixel",
        "lightning_gan3d/metrics/consistency/warp.py",
        "inside & seen & visible & first_hit",
        "inside & seen & visible",
        "tests/metrics/test_consistency.py",
    ),
    Mutation(
        "measures: FID by the biased covariance",
        "lightning_gan3d/metrics/distribution/frechet.py",
        "self.scatter / (self.n - 1)",
        "self.scatter / self.n",
        "tests/metrics/test_frechet.py",
    ),
    Mutation(
        "measures: an image is paired with itself in KID",
        "lightning_gan3d/metrics/distribution/kernel_distance.py",
        "(k.sum() - k.trace()) / (len(k) * (len(k) - 1))",
        "k.sum() / len(k) ** 2",
        "tests/metrics/test_kernel.py",
    ),
    Mutation(
        "measures: memorisation forgets how many images there are of each kind",
        "lightning_gan3d/metrics/distribution/memorisation.py",
        "(share.mean() - expected) / (1 - expected)",
        "share.mean()",
        "tests/metrics/test_memorisation.py",
    ),
    Mutation(
        "report: the sign of a paired difference",
        "lightning_gan3d/report/paired.py",
        "return self.first if (self.mean > 0) ==",
        "return self.first if (self.mean < 0) ==",
        "tests/report/test_differences.py",
    ),
]


def test(root: Path, *paths: str) -> subprocess.CompletedProcess[str]:
    """Run the tests of the copy."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *paths],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def run(mutation: Mutation, root: Path) -> tuple[bool, str]:
    """Apply, test, undo; return whether it was caught and by which test."""
    path = root / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
        return False, f"stale: the text to replace occurs {text.count(mutation.old)} times"
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
        done = test(root, mutation.tests)
    finally:
        path.write_text(text)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return done.returncode == 1 and failed is not None, failed.group(1) if failed else "survived"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="faults whose description has this word")
    chosen = [m for m in MUTATIONS if parser.parse_args().only in m.what]
    repository = Path(__file__).resolve().parent.parent
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "copy"
        hidden = shutil.ignore_patterns(".*", "runs", "data.zip", "__pycache__")
        shutil.copytree(repository, root, ignore=hidden)
        healthy = test(root, *sorted({m.tests for m in chosen}))
        if healthy.returncode:
            sys.exit(f"the tests fail without any fault:\n{healthy.stdout[-3000:]}")
        print("| fault | in | caught by |\n|---|---|---|", flush=True)
        for mutation in chosen:
            caught, by = run(mutation, root)
            survived += not caught
            mark = "" if caught else "**SURVIVED** "
            print(f"| {mutation.what} | `{mutation.file}` | {mark}`{by}` |", flush=True)
    print(f"\n{len(chosen) - survived} of {len(chosen)} caught")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
