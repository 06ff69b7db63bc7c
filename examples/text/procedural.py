"""An image encoder of procedural figures or heads, a stand-in for CLIP, and its test.

python procedural.py encoder OUT.pt   trains and exports the encoder
python procedural.py target FOLDER    renders figures with bodies, or heads with hair, of one hue
python procedural.py measure RUN      compares a fine-tuned generator with its start
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch.nn.functional import normalize

from lightning_gan3d.data.synthetic.ellipsoids import hsv
from lightning_gan3d.data.synthetic.figures import PARTS
from lightning_gan3d.data.synthetic.heads import build_heads
from lightning_gan3d.data.synthetic.synth import SynthConfig, SynthObjects, sample_cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import to_float, to_uint8
from lightning_gan3d.inference.config import RenderOptions
from lightning_gan3d.inference.model import Subject, open_model
from lightning_gan3d.metrics.pose import estimators

COLOUR, SHAPE, POSE = slice(0, 3), slice(3, -6), slice(-6, None)
SHAPES = ("hair_length", "hair_right", "head_width", "jaw_width", "nose_length", "skin_tone")
"""Attributes of heads besides the colour of the hair."""


def synth(options, num, seed=0):
    """Options of procedural data."""
    return SynthConfig(num, num, 0.0, options.side, seed, kind=options.kind)


def attributes(objects, cameras):
    """Colour of body or hair; measures of the shape; columns of the camera."""
    columns = cameras.cam2world[:, :3, :2].mT.flatten(1)
    if objects.cfg.kind == "heads":
        named = objects.attributes()
        hue, value = named["hair_hue"], named["hair_value"]
        shape = torch.stack([named[name] for name in SHAPES], dim=1)
        return torch.cat([hsv(hue, 0 * hue + 0.75, value), shape, columns], dim=1)
    body, head, _, arm, pack = range(len(PARTS))
    sizes = (1 / objects.shapes.axes[:, [body, head, pack]].norm(dim=-1)).flatten(1)
    towards = normalize(objects.shapes.axes[:, arm, 0], dim=-1)
    return torch.cat([objects.shapes.colour[:, body], sizes, towards, columns], dim=1)


def train(options, seed):
    """Return a network from images to standardised attributes, and their deviation and mean."""
    draws, cfg = Draws(seed).scope("encoder"), synth(options, 3000, 7 + seed)
    objects, cameras = SynthObjects(cfg), sample_cameras(cfg, cfg.num_images, draws)
    image = to_uint8(objects.render(torch.arange(cfg.num_objects), cameras, options.side).image)
    values = attributes(objects, cameras)
    deviation, mean = torch.std_mean(values, dim=0)
    network = estimators.ImageRegressor(options.side, values.shape[1])

    def batch(step):
        ids = step.integers("figures", len(image), (64,))
        noise = 0.05 * step.normal("noise", (64, *image.shape[1:]))
        return to_float(image[ids]) + noise, ((values - mean) / deviation)[ids]

    estimators.fit(network, batch, options.iterations, draws)
    return network, deviation, mean


def measure(options):
    """Print how hue, pose, silhouette and diversity change; four views of each latent."""
    (network, deviation, mean), spread, masks = train(options, 1), [], []
    turns = torch.arange(3) / 3 * 2 * torch.pi
    for path in (options.start, options.path):
        model = open_model(path, RenderOptions(device="cpu"))
        styles = [model.styles_of(seed, RenderOptions()) for seed in range(options.num)]
        views = [Subject(model, s).render(model.orbit.cameras(4)) for s in styles]
        read = network(torch.cat([v.image for v in views]).clamp(-1, 1))
        masks.append(torch.cat([v.opacity for v in views]).flatten(1) > 0.5)
        spread.append([torch.pdist(read[::4, part]).mean() for part in (COLOUR, SHAPE)])
        known = read * deviation + mean
        hue = torch.atan2(known[:, COLOUR] @ turns.sin(), known[:, COLOUR] @ turns.cos())
        away = ((hue / (2 * torch.pi) - options.hue + 0.5) % 1 - 0.5).abs()
        true = model.orbit.cameras(4).cam2world[:, :3, :3].repeat(options.num, 1, 1)
        error = estimators.angle_between(estimators.rotation_from_6d(known[:, POSE]), true)
        near, mean_away = (away < 0.1).float().mean(), away.mean()
        print(f"{path}: {near:.0%} within 0.1 turns of hue {options.hue:g}, mean {mean_away:.3f}")
        print(f"  median error of the pose {error.median():.3f} rad")
    iou = (masks[0] & masks[1]).sum(1) / (masks[0] | masks[1]).sum(1)
    colour, shape = (after / before for before, after in zip(*spread, strict=True))
    print(f"silhouette IoU {iou.mean():.3f}")
    print(f"pairwise distance after / before: colour {colour:.2f}, shape {shape:.2f}")


def render_target(options):
    """Write images of figures or heads of one hue."""
    cfg = synth(options, options.num)
    objects, hue = SynthObjects(cfg), torch.full((options.num,), options.hue)
    if options.kind == "heads":
        objects.shapes = build_heads({**objects.attributes(), "hair_hue": hue})
    else:
        objects.shapes.colour[:, PARTS.index("body")] = hsv(hue, 0 * hue + 0.7, 0 * hue + 0.85)
    cameras = sample_cameras(cfg, options.num, Draws(0).scope("target"))
    views = to_uint8(objects.render(torch.arange(options.num), cameras, options.side).image)
    Path(options.path).mkdir(parents=True, exist_ok=True)
    for i, pixels in enumerate(views.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(pixels).save(Path(options.path) / f"{i:03d}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["encoder", "target", "measure"])
    parser.add_argument("path")
    parser.add_argument("--kind", choices=["figures", "heads"], default="figures")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--start", default="pretrained:triplane")
    parser.add_argument("--hue", type=float, default=0.62)
    parser.add_argument("--num", type=int, default=32)
    parser.add_argument("--iterations", type=int, default=600)
    given = parser.parse_args()
    if given.command == "encoder":
        network = train(given, 0)[0]
        torch.jit.trace(network, torch.zeros(2, 3, given.side, given.side)).save(given.path)
    elif given.command == "measure":
        measure(given)
    else:
        render_target(given)
