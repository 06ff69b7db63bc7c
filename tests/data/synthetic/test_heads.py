"""Procedural heads: exact depth, attributes that are visible, and the poses of portraits."""

import colorsys
import dataclasses
import itertools
import json
import math

import pytest
import torch

from lightning_gan3d.cameras import Cameras, spherical
from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.data.archive import open_source
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.data.labels import read_index
from lightning_gan3d.data.synthetic.ellipsoids import Ellipsoids, level_of, render_ellipsoids
from lightning_gan3d.data.synthetic.heads import ATTRIBUTES, build_heads, draw_attributes
from lightning_gan3d.data.synthetic.synth import (
    SynthConfig,
    SynthObjects,
    make_synth,
    read_truth,
    sample_cameras,
)
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import to_uint8

SMALL = SynthConfig(kind="heads", num_images=24, num_objects=12, resolution=16)
RADIUS, FOCAL = SMALL.radius, SMALL.focal
FRONT, LEFT, BACK = 0.0, math.pi / 2, math.pi


def middle(num: int, **changed: torch.Tensor) -> Ellipsoids:
    """Heads with attributes in the middle of their ranges, but for the changed ones."""
    values = {k: torch.full((num,), (low + high) / 2) for k, (low, high) in ATTRIBUTES.items()}
    return build_heads({**values, **changed})


def seen(heads: Ellipsoids, azimuth: float, resolution: int = 128):
    num = len(heads.centre)
    cameras = Cameras.on_sphere(torch.full((num,), azimuth), torch.zeros(num), RADIUS, FOCAL)
    return render_ellipsoids(heads, cameras, resolution, far=RADIUS + 1)


def hues(image: torch.Tensor) -> torch.Tensor:
    """Hues of pixels, in turns."""
    pixels = (image.flatten(1).T / 2 + 0.5).tolist()
    return torch.tensor([colorsys.rgb_to_hsv(*p)[0] for p in pixels]).view(image.shape[1:])


def test_depth_is_that_of_the_nearest_ellipsoid():
    """Every ray is intersected with each ellipsoid, mapped to the unit sphere."""
    heads = build_heads(draw_attributes(3, seed=1))
    cameras = Cameras.on_sphere(torch.tensor([0.2, -0.9, 2.5]), torch.full((3,), 0.2), 3.2, 1.5)
    view = render_ellipsoids(heads, cameras, 24, far=9.0)
    dirs = cameras.rays(48).dirs.double()
    offset = cameras.origins.double()[:, None] - heads.centre.double()
    o = torch.einsum("vpij,vpj->vpi", heads.axes.double(), offset)[:, :, None]
    d = torch.einsum("vpij,vrj->vpri", heads.axes.double(), dirs)
    closest = -(o * d).sum(-1) / d.square().sum(-1)
    miss = (o + closest[..., None] * d).square().sum(-1)
    t = (closest - ((1 - miss).clamp(min=0) / d.square().sum(-1)).sqrt()).masked_fill(
        miss > 1, math.inf
    )
    t = t.amin(1).view(3, 24, 2, 24, 2).permute(0, 1, 3, 2, 4).flatten(3)
    hit = t < math.inf
    depth = torch.where(hit, t, 0).sum(-1) / hit.sum(-1)
    inside = hit.all(-1)
    assert 0.2 < float(inside.float().mean()) < 0.6
    torch.testing.assert_close(view.mask[:, 0].double(), hit.double().mean(-1))
    torch.testing.assert_close(view.depth[:, 0][inside].double(), depth[inside], atol=1e-4, rtol=0)
    assert torch.all(view.depth[:, 0][~hit.any(-1)] == 9.0)


def test_the_level_is_zero_on_the_surface_and_positive_inside():
    objects, ids = SynthObjects(SMALL), torch.arange(6)
    view = seen(objects.shapes.select(ids), FRONT, 64)
    cameras = Cameras.on_sphere(torch.zeros(6), torch.zeros(6), RADIUS, FOCAL)
    points = cameras.unproject(view.depth)
    inner = (torch.nn.functional.avg_pool2d(view.mask, 5, 1, 2) == 1).flatten(1)
    away = 0.05 * torch.nn.functional.normalize(cameras.origins[:, None] - points, dim=-1)
    at, out, below = (objects.level(ids, p)[inner] for p in (points, points + away, points - away))
    assert float(at.abs().median()) < 0.02
    assert (out < 0).float().mean() > 0.95
    assert (below > 0).float().mean() > 0.95


def test_the_largest_heads_fit_the_unit_sphere():
    names = ("head_width", "hair_length", "hair_right", "parting", "nose_length")
    rows = torch.tensor([*itertools.product(*(ATTRIBUTES[n] for n in names))])
    heads = middle(len(rows), **dict(zip(names, rows.T, strict=True)))
    directions = torch.nn.functional.normalize(Draws(0).normal("d", (500, 3)), dim=-1)
    surface = torch.einsum("mpij,nj->mpni", torch.linalg.inv(heads.axes), directions)
    reach = float((surface + heads.centre[:, :, None]).norm(dim=-1).amax())
    assert 0.9 < reach < 1
    outside = torch.nn.functional.normalize(directions, dim=-1)[None].expand(len(rows), -1, 3)
    assert float(level_of(heads, outside).amax()) < 0


def test_a_head_does_not_depend_on_their_number_and_attributes_are_uniform():
    few, many = draw_attributes(3, seed=5), draw_attributes(900, seed=5)
    assert list(few) == list(ATTRIBUTES)
    for name, (low, high) in ATTRIBUTES.items():
        assert torch.equal(few[name], many[name][:3])
        share = (many[name] - low) / (high - low)
        assert float(share.mean()) == pytest.approx(1 / 2, abs=4 * (1 / 12 / 900) ** 0.5)
        assert float(share.var()) == pytest.approx(1 / 12, abs=0.012)
    unrelated = torch.corrcoef(torch.stack([*many.values()])) - torch.eye(len(ATTRIBUTES))
    assert float(unrelated.abs().max()) < 5 / 900**0.5


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_each_attribute_changes_the_picture(name):
    heads = middle(2, **{name: torch.tensor(ATTRIBUTES[name])})
    change = [(a - b).abs().amax(0) for a, b in (seen(heads, x, 64).image for x in (FRONT, -0.6))]
    assert min(float((c > 0.1).float().mean()) for c in change) > 0.003


def test_the_hue_of_the_hair_is_its_attribute_and_hair_covers_the_back():
    attributes = draw_attributes(8, seed=2)
    view = seen(build_heads(attributes), BACK, 48)
    for image, mask, hue in zip(view.image, view.mask, attributes["hair_hue"], strict=True):
        upper = mask[0, :18] == 1
        assert float((hues(image[:, :18])[upper] - hue).abs().max()) < 1e-3
        assert float((hues(image[:, 18:28, 20:28]) - hue).abs().max()) < 1e-3  # to the nape


def test_skin_gets_darker_with_its_tone():
    tone = torch.linspace(0, 1, 5)
    cheek = seen(middle(5, skin_tone=tone), FRONT).image[:, :, 70:74, 50:54].mean((1, 2, 3))
    assert (cheek.diff() < -0.1).all()


PIXELS = 128 * FOCAL
"""Pixels of a unit at distance 1."""


@pytest.mark.parametrize(
    ("name", "azimuth", "slope"),
    [
        # The widest part is the skull's outline with hair, 0.14 behind the middle.
        ("head_width", FRONT, 2 * PIXELS / (RADIUS + 0.14)),
        # The nose's end is 1.3 lengths before the face.
        ("nose_length", LEFT, 1.3 * PIXELS / RADIUS),
    ],
)
def test_lengths_in_pixels_are_those_of_the_attributes(name, azimuth, slope):
    values = torch.linspace(*ATTRIBUTES[name], 5)
    columns = seen(middle(5, **{name: values}), azimuth).mask.sum(2)[:, 0]
    width = columns.clamp(max=1).sum(1)
    assert (width.diff() > 0).all()
    assert float(width[-1] - width[0]) == pytest.approx(
        slope * float(values[-1] - values[0]), rel=0.1
    )


def test_hair_ends_on_the_left_where_its_length_says():
    length = torch.linspace(*ATTRIBUTES["hair_length"], 5)
    short = torch.full((5,), 0.15)
    image = seen(middle(5, hair_length=length, hair_right=short), BACK).image
    hair = torch.stack([(hues(i) - 0.375).abs() < 1e-3 for i in image])
    # Seen from the back, the left is on the left.
    last = torch.stack([h[:, 36:40].any(1).nonzero().max() for h in hair]).float()
    expected = 64 - (0.15 - length) * PIXELS / (RADIUS - 0.14)
    torch.testing.assert_close(last, expected, atol=2.0, rtol=0)
    assert all(h[int(end) - 4 :, 84:].sum() == 0 for h, end in zip(hair[1:], last[1:], strict=True))


def test_a_mirrored_head_is_another_one():
    heads = build_heads(draw_attributes(50, seed=0))
    skull = Ellipsoids(*(x[:, :1] for x in heads[:3]))
    changed = []
    for shape in (heads, skull):
        mask = seen(shape, FRONT, 64).mask
        changed.append((mask - mask.flip(-1)).abs().sum((1, 2, 3)) / mask.sum((1, 2, 3)))
    assert float(changed[0].min()) > 0.02
    assert float(changed[1].max()) < 1e-5  # the test itself is symmetric


NARROW = {"kind": "normal", "std": 0.1}


def angles(cfg: SynthConfig, num: int = 6000):
    return spherical(sample_cameras(cfg, num, Draws(3)).origins)


@pytest.mark.parametrize(
    ("options", "azimuth_std", "elevation", "elevation_std"),
    [
        ({"kind": "heads"}, 0.3, 0.0, 0.155),  # GRAF, pi-GAN: faces
        ({"azimuth": NARROW, "elevation": {**NARROW, "mean": 0.2}}, 0.1, 0.2, 0.1),
        ({"kind": "heads", "azimuth": NARROW}, 0.1, 0.0, 0.155),
    ],
)
def test_gaussian_poses_have_the_moments_of_their_options(
    options, azimuth_std, elevation, elevation_std
):
    found = angles(build(SynthConfig, options))
    for x, mean, std in (
        (found.azimuth, 0.0, azimuth_std),
        (found.elevation, elevation, elevation_std),
    ):
        assert float(x.mean()) == pytest.approx(mean, abs=4 * std / 6000**0.5 + 1e-6)
        assert float(x.std()) == pytest.approx(std, abs=4 * std / 12000**0.5 + 1e-6)
        kurtosis = float(((x - mean) / std).pow(4).mean())
        assert kurtosis == pytest.approx(3.0, abs=0.3)
    torch.testing.assert_close(found.radius, torch.full((6000,), RADIUS))


def test_heads_are_seen_from_all_sides_on_request():
    around = {"azimuth": {"low": -math.pi, "high": math.pi}}
    above = {"elevation": {"kind": "sphere", "low": 0.0, "high": 0.4}}
    found = angles(build(SynthConfig, {"kind": "heads", **around, **above}))
    # Azimuths are uniform: deviation pi / sqrt(3). Heights are uniform between 0 and sin 0.4.
    assert float(found.azimuth.std()) == pytest.approx(math.pi / 3**0.5, rel=0.03)
    assert float(found.elevation.sin().mean()) == pytest.approx(math.sin(0.4) / 2, rel=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"elevation_max": 0.9, "kind": "heads"}, "elevation_max=0.9: only kind=figures"),
        ({"elevation_min": 0.1, "elevation": NARROW}, "elevation_min=0.1: only kind=figures"),
        ({"elevation": {"low": 0.0, "high": 1.6}}, "elevation reaches from 0 to 1.6"),
        ({"azimuth": {"kind": "sphere", "low": 0.0, "high": 1.0}}, "azimuth.kind=sphere: only"),
        ({"kind": "hands"}, "kind=hands"),
    ],
)
def test_options_that_nothing_reads_are_rejected(options, message):
    with pytest.raises(ConfigError, match=message):
        build(SynthConfig, options)


def test_a_data_set_of_heads_has_truth_identities_and_attributes(tmp_path):
    make_synth(SMALL, tmp_path / "heads.zip")
    data = ImageDataset(DataConfig(path=str(tmp_path / "heads.zip")), "all")
    objects = SynthObjects.open(tmp_path / "heads.zip")
    assert objects.cfg == SMALL
    assert data.objects.tolist() == [*range(12), *range(12)]
    view = objects.render(data.objects, Cameras.from_label(data.labels), 16)
    assert int((to_uint8(view.image).int() - data.images(range(24)).int()).abs().max()) <= 1
    torch.testing.assert_close(read_truth(data, 5)[1], view.mask[5])
    drawn = draw_attributes(12, SMALL.seed)
    assert all(torch.equal(v, drawn[k]) for k, v in objects.attributes().items())
    assert objects.attributes().keys() == ATTRIBUTES.keys()
    assert SynthObjects(dataclasses.replace(SMALL, kind="figures")).attributes() == {}


def test_data_sets_of_figures_store_no_later_option(tmp_path):
    """They equal those of versions that had no heads, byte for byte, and are read alike."""
    small = SynthConfig(num_images=4, num_objects=4, resolution=8)
    make_synth(small, tmp_path / "data")
    stored = read_index(open_source(tmp_path / "data"))["synth"]
    assert list(stored) == [
        *("num_images", "num_objects", "holdout", "resolution", "seed", "background", "radius"),
        *("focal", "elevation_min", "elevation_max"),
    ]
    assert SynthObjects.open(tmp_path / "data").cfg == small
    text = (tmp_path / "data/dataset.json").read_text()
    (tmp_path / "data/dataset.json").write_text(
        json.dumps({**json.loads(text), "synth": {**stored, "kind": "heads"}})
    )
    assert SynthObjects.open(tmp_path / "data").shapes.centre.shape[1] > 10
