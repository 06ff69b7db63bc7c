"""The discriminator of objects: crops, their boxes in data sets, losses, gradients, errors."""

import dataclasses
import json

import pytest
import torch
from test_fit import assert_same, values_of
from test_mask_terms import PARTS
from torch.nn.functional import softplus

from lightning_gan3d.benchmark.training import make_step, phase_of
from lightning_gan3d.cameras import Cameras
from lightning_gan3d.checkpoints import store
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.check import check_dataset
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.data.labels import mirror_objects, read_index, read_placements
from lightning_gan3d.data.synthetic.scenes import ScenesConfig
from lightning_gan3d.data.synthetic.synth import SynthConfig, make_synth
from lightning_gan3d.experiment import make_networks, run_hash
from lightning_gan3d.images import Images, blur, resize, to_float
from lightning_gan3d.training.compatibility import make_data
from lightning_gan3d.training.module import make_modules
from lightning_gan3d.training.object_crops import crop_objects

OBJECTS = "discriminator.objects={resolution: 8, weight: 2.0, padding: 0.2}"
NONE = [torch.nan] * 4
WHOLE = [0.0, 0.0, 1.0, 1.0]
PLACEMENTS = {"images/000000.png": [{"box": [0.1, 0.2, 0.5, 0.4]}, {"box": [0.5, -0.1, 0.9, 0.6]}]}


@pytest.fixture(scope="session")
def scenes_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("scenes") / "scenes.zip"
    scenes = ScenesConfig(objects_max=3)
    make_synth(
        SynthConfig(kind="scenes", num_images=12, num_objects=12, resolution=16, scenes=scenes),
        path,
    )
    return path


@pytest.fixture
def parts(tiny, scenes_path):
    """A function from overrides to an experiment with scenes of two objects; real ones have 1-3."""
    common = [*PARTS, f"data.path={scenes_path}", "data.holdout=0", "training.microbatch=4"]
    return lambda *overrides: tiny(*common, OBJECTS, *overrides)


@pytest.fixture
def annotated(tmp_path):
    """A function from `placements` to a data set of the tiny images with them."""

    def make(placements, **options):
        file = tmp_path / "data" / "dataset.json"
        if not file.exists():
            cfg = SynthConfig(num_images=4, num_objects=4, resolution=16)
            make_synth(cfg, tmp_path / "data")
        index = {**json.loads(file.read_text()), "placements": placements}
        file.write_text(json.dumps(index))
        return ImageDataset(DataConfig(path=str(tmp_path / "data"), **options), "all")

    return make


def first_step(config):
    """The module of an experiment, its first batch, and the microbatches of this."""
    module, data = make_modules(config)
    batch = next(iter(data.train_dataloader(0, 1)))
    return module, batch, module.split(batch)


def copies(parameters):
    return [p.detach().clone() for p in parameters]


def moved(before, parameters):
    return [not torch.equal(a, b) for a, b in zip(before, parameters, strict=True)]


def test_crops_are_exact_where_the_image_is_linear():
    y, x = torch.meshgrid(*[(torch.arange(32) + 0.5) / 32] * 2, indexing="ij")
    images = torch.stack([x, y, 3 * x - y])[None].expand(2, -1, -1, -1)
    boxes = torch.tensor([[[0.3, 0.4, 0.45, 0.5]], [[0.45, 0.3, 0.55, 0.3 + 5 / 12]]])
    crops = crop_objects(images, boxes, 8, 0.2)
    assert crops.present.tolist() == [1, 1]
    at = (torch.arange(8) + 0.5) / 8 - 0.5
    squares = ((0.375, 0.45, 0.18), (0.5, 0.3 + 5 / 24, 0.5))  # centre and side
    for crop, (u, v, side) in zip(crops.image, squares, strict=True):
        columns, rows = (u + side * at)[None], (v + side * at)[:, None]
        expected = torch.stack([columns + 0 * rows, rows + 0 * columns, 3 * columns - rows])
        # Triangles that reach a whole number of pixels keep linear functions.
        torch.testing.assert_close(crop, expected, rtol=0, atol=1e-5)


def test_crops_reduce_as_the_antialiased_resize_and_keep_pixels():
    images = torch.randn(2, 3, 32, 32)
    boxes = torch.tensor([[WHOLE, [0.25, 0.5, 0.5, 0.75]]]).expand(2, -1, -1)
    for resolution in (8, 16, 32, 64):
        whole = crop_objects(images, boxes, resolution, 0.0).image[::2]
        torch.testing.assert_close(whole, resize(images, resolution), rtol=1e-4, atol=1e-5)
    part = crop_objects(images, boxes, 8, 0.0).image[1::2]
    torch.testing.assert_close(part, images[:, :, 16:24, 8:16], rtol=1e-5, atol=1e-5)


def test_crops_beyond_the_image_repeat_its_border():
    images = torch.arange(8.0).expand(1, 3, 8, 8)
    crop = crop_objects(images, torch.tensor([[[-0.5, 0.0, 0.5, 1.0]]]), 8, 0.0).image
    torch.testing.assert_close(crop[0, 0, 0], torch.tensor([0.0] * 4 + [0, 1, 2, 3]))


def test_objects_that_no_pixel_can_show_are_absent():
    beside, above, corner = [1.1, 0.2, 1.4, 0.5], [0.2, -0.6, 0.4, 0.0], [-0.2, 0.9, 0.1, 1.3]
    boxes = [NONE, beside, above, corner, [torch.inf] * 4]
    crops = crop_objects(torch.randn(1, 3, 16, 16), torch.tensor([boxes]), 8, 0.1)
    assert crops.present.tolist() == [0, 0, 0, 1, 0]
    assert crops.image.isfinite().all()
    assert float(crops.mean(torch.tensor([5.0, 5, 5, 2, 5]))) == 2
    assert float(crops._replace(present=0 * crops.present).mean(torch.ones(5))) == 0


def test_crops_of_mirrored_images_are_mirrored(scenes_path):
    data = ImageDataset(DataConfig(path=str(scenes_path), mirror=True))
    data.use_boxes(3)
    num, boxes = len(data.names), data.boxes
    assert boxes.shape == (2 * num, 3, 4)
    placements = read_index(data.source)["placements"]
    for image, name in enumerate(data.names):
        placed = placements[name]
        plain = torch.tensor([x["box"] for x in placed])
        flipped = plain[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([1, 0, 1, 0])
        missing = torch.tensor([NONE] * (3 - len(placed))).view(-1, 4)
        for i, own in ((image, plain), (num + image, flipped)):
            torch.testing.assert_close(boxes[i], torch.cat([own, missing]), equal_nan=True)
    crops = crop_objects(to_float(data.images(range(2 * num))), boxes, 8, 0.3)
    plain, flipped = crops.image.chunk(2)
    present, also = crops.present.bool().chunk(2)
    assert torch.equal(present, also)
    torch.testing.assert_close(flipped[present], plain[present].flip(-1), rtol=1e-4, atol=1e-4)


def test_a_detector_may_give_boxes_alone_and_miss_images(annotated):
    data = annotated({**PLACEMENTS, "images/000002.PNG": [], "images/000003.png": [{"box": WHOLE}]})
    data.use_boxes(5)
    boxes = data.boxes
    assert boxes.shape == (4, 2, 4)
    assert boxes.isfinite().all(-1).sum(1).tolist() == [2, 0, 0, 1]
    expected = torch.tensor([[0.1, 0.2, 0.5, 0.4], [0.5, -0.1, 0.9, 0.6]])
    torch.testing.assert_close(boxes[0], expected)


def test_the_largest_boxes_in_the_image_are_kept_in_their_order(annotated):
    small, large, beside = [0.1, 0.1, 0.2, 0.2], [0.5, 0.5, 0.9, 0.9], [0.8, -2, 3, 0.1]
    listed = [{"box": box} for box in (small, beside, large, WHOLE)]
    data = annotated({"images/000001.png": listed, "./images/000003.PNG": listed[:1]})
    for most, expected in ((2, [large, WHOLE]), (3, [beside, large, WHOLE])):
        data.use_boxes(most)
        boxes = data.boxes
        assert boxes.shape == (4, most, 4)
        torch.testing.assert_close(boxes[1], torch.tensor(expected))
        torch.testing.assert_close(boxes[3, 0], torch.tensor(small))


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (WHOLE, r"a.png in `placements` of x is \[0.0, .*: use"),
        ([{}], r"is \[{}\]: use \[{\"box\": \[x0, y0"),
        ([{"box": [0, 0, 1]}], "use"),
        ([{"box": [0, 0, 1, True]}], "use"),
        ([{"box": [0, 0, 1, float("nan")]}], "use"),
        ([{"box": [0.4, 0, 0.4, 1]}], "with x0 < x1 and y0 < y1"),
        ([{"box": [2, 3, 11, 12]}], "divide pixels by the image size"),
        ([{"box": WHOLE, "scale": 0}], '"scale" > 0'),
        ([{"box": WHOLE, "translation": [0, 0, 10**400]}], "up to 1e6"),
        ({"box": WHOLE}, "x: `placements` must map image names to list"),
    ],
)  # fmt: skip
def test_wrong_objects_are_rejected_with_image_value_and_remedy(objects, message):
    with pytest.raises(DataError, match=message):
        read_placements({"placements": {"a.png": objects}}, "x")


def test_mirrored_objects_are_those_of_the_mirrored_camera():
    row = torch.tensor([[0.1, 0.2, 0.5, 0.4, 2, 0.3, 0.4, 0.5, 0.6]])
    expected = torch.tensor([[0.5, 0.2, 0.9, 0.4, 2, -0.3, -0.4, 0.5, 0.6]])
    torch.testing.assert_close(mirror_objects(row), expected)
    assert torch.equal(mirror_objects(mirror_objects(row)).isnan(), row.isnan())


def test_data_check_training_and_evaluation_reject_the_same_boxes(annotated):
    cfg = annotated({"images/000000.png": []}).cfg
    assert check_dataset(cfg).num_images == 4
    with pytest.raises(DataError, match=r"split `all` of .*: `placements` has no box"):
        ImageDataset(cfg, "all").use_boxes(1)
    for placements, message in (
        ({"images/000000.png": [{"box": [2, 3, 11, 12]}]}, "divide pixels by the image size"),
        ({"other.png": [{"box": WHOLE}]}, "`placements` .* names other.png, which does not exist"),
    ):
        with pytest.raises(DataError, match=message):
            annotated(placements)  # as training and evaluation open data
        with pytest.raises(DataError, match=message):
            check_dataset(cfg)


def test_only_the_fingerprint_of_a_training_that_uses_boxes_covers_them(annotated, parts):
    for option in ("discriminator.objects=null", "seed=0"):
        prints = []
        for height in (0.5, 1.0):
            cfg = annotated({"images/000000.png": [{"box": [0, 0, 1, height]}]}).cfg
            data = make_data(dataclasses.replace(parts(option), data=cfg))
            prints.append(data.train.fingerprints)
        assert prints[0]["dataset_fingerprint"] == prints[1]["dataset_fingerprint"]
        assert ("boxes_fingerprint" in prints[0]) == (option == "seed=0")
        assert (prints[0] == prints[1]) == (option != "seed=0")


def test_losses_are_means_over_the_objects_in_the_image(parts):
    blurred = ("training.blur_fade_kimg=1.0", "training.blur_sigma=1.0")
    module, batch, (mb, other) = first_step(parts(*blurred))
    given = torch.cat([mb.boxes, other.boxes])
    torch.testing.assert_close(given, batch.boxes, rtol=0, atol=0, equal_nan=True)
    real, network = module.input.reals(mb), module.discriminator.objects
    assert mb.boxes.shape == (4, 2, 4)
    present = mb.boxes.isfinite().all(-1)
    assert not present.all()
    image = blur(real.image, 1.0)
    alone = torch.cat(
        [
            crop_objects(image[i : i + 1], mb.boxes[i][present[i]][None], 8, 0.2).image
            for i in range(4)
        ]
    ).requires_grad_()
    logits = network(Images(alone, alone), torch.zeros(len(alone), 0))
    loss = module.objects.generator_loss(real, mb).detach()
    torch.testing.assert_close(loss, 2 * softplus(-logits).mean().detach())
    both = module.objects.discriminator_loss(real, real, mb).detach()
    expected = softplus(logits).mean() + softplus(-logits).mean()
    torch.testing.assert_close(both, expected.detach())
    (gradient,) = torch.autograd.grad(logits.sum(), alone)
    r1 = gradient.square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(module.objects.penalty(real, mb), r1 / 2)
    logged = module.meter.read()
    assert logged["D/objects_accuracy"] == 0.5
    assert logged["loss/G_objects"] == pytest.approx(float(loss) / 2)
    assert logged["loss/D_objects"] == pytest.approx(float(both))
    assert logged["loss/R1_objects"] == pytest.approx(float(r1))
    none = real._replace(boxes=torch.full((4, 2, 4), torch.nan))
    assert module.objects.discriminator_loss(none, none, mb).detach() == 0


def test_crops_of_fakes_are_those_of_their_projected_objects(parts):
    module, _, (mb, _) = first_step(parts())
    label = module.fake_labels(mb)
    ws = module.styles(label, mb).detach().requires_grad_()
    scene = module.generator.scene(ws, "random", mb.draws)
    fake, cameras = module.input.fakes(scene, ws, Cameras.from_label(label), mb)
    expected = torch.stack([x.box_in(cameras) for x in scene.objects], dim=1)
    assert expected.requires_grad
    assert not fake.boxes.requires_grad
    assert torch.equal(fake.boxes, expected)


def test_each_phase_moves_its_own_network(parts):
    module, _, microbatches = first_step(parts("loss.r1_gamma=0.1"))
    g, d = list(module.generator.parameters()), list(module.discriminator.parameters())
    of_objects = list(module.discriminator.objects.parameters())
    before_g, before_d = copies(g), copies(d)
    module.generator_step(microbatches)
    assert any(moved(before_g, g))
    assert not any(moved(before_d, d))
    assert all(p.grad is None and p.requires_grad for p in of_objects)
    before_g = copies(g)
    for step in (module.discriminator_step, module.penalty_step):
        before = copies(of_objects)
        step(microbatches)
        changed = zip(moved(before, of_objects), of_objects, strict=True)
        assert all(m for m, p in changed if p.ndim > 1), step.__name__
    assert not any(moved(before_g, g))
    assert all(p.grad is None for p in g)


def test_the_loss_of_objects_reaches_the_generator(parts):
    module, _, microbatches = first_step(parts())
    module._optimizer_step = lambda *_: None

    def gradient_of(weight):
        module.objects.cfg = dataclasses.replace(module.objects.cfg, weight=weight)
        module.generator.zero_grad()
        module.generator_step(microbatches[:1])
        grads = [p.grad for p in module.generator.parameters() if p.grad is not None]
        return torch.cat([g.flatten() for g in grads])

    one, two, three = (gradient_of(w) for w in (1.0, 2.0, 3.0))
    assert float((two - one).norm()) > 1e-4 * float(one.norm())
    torch.testing.assert_close(three - two, two - one, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("interval", [1, 2])
def test_the_gradient_is_that_of_the_mean_over_microbatches(parts, gradients, interval):
    config = parts(f"loss.r1_interval={interval}", "augment={mode: fixed, probability: 0.9}",
                   "training.views=2")  # fmt: skip
    module, batch, microbatches = first_step(config)
    module.training_step(batch, 0)
    whole = list(gradients)
    steps = [module.generator_step, module.discriminator_step, module.penalty_step]
    assert len(whole) == 1 + interval
    for step, gradient in zip(steps[: len(whole)], whole, strict=True):
        gradients.clear()
        for mb in microbatches:
            step([mb])
        for expected, *parts_of in zip(gradient, *gradients, strict=True):
            if expected is not None:
                torch.testing.assert_close(sum(parts_of), expected, rtol=1e-4, atol=1e-6)


def test_a_lazy_penalty_has_its_interval_as_weight(parts, gradients):
    for interval in (3, 2):
        module, _, microbatches = first_step(parts(f"loss.r1_interval={interval}"))
        module.penalty_step(microbatches)
    num = len(list(module.discriminator.objects.parameters()))
    three, two = (g[-num:] for g in gradients)
    weights = [(a, b) for a, b in zip(three, two, strict=True) if a is not None]
    assert len(weights) >= 5
    for a, b in weights:
        torch.testing.assert_close(a / 3, b / 2)


def test_without_it_weights_draws_and_hash_are_as_before(parts):
    plain, with_objects = parts("discriminator.objects=null"), parts()
    assert run_hash(plain) != run_hash(with_objects)
    first, second = (make_networks(c, 16)[1].state_dict() for c in (plain, with_objects))
    assert not [k for k in first if k.startswith("objects.")]
    assert [k for k in second if k not in first and k.startswith("objects.b4.")]
    assert all(torch.equal(first[k], second[k]) for k in first)
    modules = [first_step(c) for c in (plain, with_objects)]
    assert modules[0][1].boxes is None
    logits = []
    for module, _, (mb, _) in modules:
        label = module.fake_labels(mb.scope("D"))
        fake, _ = module.generate(label, mb.scope("D"))
        logits.append(module.judge(fake, label, mb, real=False)[0].logits)
    assert torch.equal(*logits)


def test_a_resumed_run_is_bitwise_equal(parts, start, at_step):
    config = parts("training.kimg=0.024", "augment={mode: ada, interval: 2, target: -1.0}")
    code, whole, _ = start(config, "whole")
    assert code == 0
    at_step(0)
    assert start(config, "cut")[0] == 75
    at_step(None)
    code, cut, log = start(config, "cut")
    assert code == 0, log
    last = store.name_of(3)
    assert_same(whole / "checkpoints" / last, cut / "checkpoints" / last)
    assert values_of(whole) == values_of(cut)
    assert {"loss/G_objects", "loss/D_objects", "D/objects_accuracy"} <= values_of(cut)[0].keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["training.patch.resolution=8"], "patches cut objects; set training.patch=null, or"),
        (["loss.r1_gamma=0"], "r1_gamma=1.0: it is part of the penalties of `loss`.*; set loss.r1"),
        (["discriminator.objects.resolution=12"], "power of two"),
        (["discriminator.objects.resolution=4"], "8"),
    ],
)
def test_combinations_that_cannot_work_are_rejected(parts, options, message):
    with pytest.raises(ConfigError, match=message):
        parts(*options)


def test_scenes_images_and_data_without_objects_are_rejected(tiny, parts, start, data_path):
    with pytest.raises(ConfigError, match=r"the scenes have no objects; set .*kind=composed, or"):
        tiny(OBJECTS)
    with pytest.raises(ConfigError, match="resolution=32: the images have 16 pixels; use 16"):
        start(parts("discriminator.objects.resolution=32"))
    with pytest.raises(DataError, match="`placements` has no box of its images"):
        start(parts(f"data.path={data_path}"))


def test_the_benchmark_trains_on_one_object_per_image(parts):
    module, batch = make_step(parts(), 16, torch.device("cpu"))
    assert batch.boxes.shape == (8, 1, 4)
    phase_of(module, "D loss", batch)()
    assert module.gate.healthy


def test_a_step_does_not_synchronise_with_the_device(parts, monkeypatch):
    module, batch, _ = first_step(parts("generator.renderer.path=plain"))
    module.training_step(batch, 0)

    def fail(*_, **__):
        raise AssertionError("a training step synchronised with the device")

    for name in ("item", "tolist", "cpu", "__bool__", "__float__", "__int__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, fail)
    module.training_step(batch, 0)
