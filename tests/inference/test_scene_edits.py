"""Edits of scenes of parts: exact cases, free places, sheets, films and the viewer's controls."""

import copy
import dataclasses
import math
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gan3d import cli
from lightning_gan3d.checkpoints.stored_networks import save_generator
from lightning_gan3d.config import ConfigError
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.generator import Generator
from lightning_gan3d.inference.config import EditOptions, RenderOptions
from lightning_gan3d.inference.edit import edit
from lightning_gan3d.inference.edit_courses import Course, changes_of_parts
from lightning_gan3d.inference.model import Subject, open_model
from lightning_gan3d.inference.scene_edits import codes_of, edits_of
from lightning_gan3d.inference.viewer.view_state import Stage, ViewState, command_of

CPU = RenderOptions(device="cpu")
SMALL = [
    "generator.z_dim=40",
    "generator.w_dim=16",
    "generator.scene.feature_dim=8",
    "generator.representation.object.hidden_dim=12",
    "generator.representation.background.hidden_dim=12",
    "generator.renderer.samples_coarse=4",
    "generator.head.channels=[8]",
]


def make(labels, *overrides, name="family/small_giraffe_hd"):
    small = SMALL if "giraffe" in name else []
    config = load_experiment(
        name, [*small, f"data.path={labels}", "data.resolution=32", *overrides]
    )
    torch.manual_seed(0)
    generator = Generator(config.generator, 32)
    if small:
        with torch.no_grad():  # biases start at zero
            for p in generator.superresolution.parameters():
                p.add_(0.3 * torch.randn_like(p))
    return generator.eval(), config


@pytest.fixture(scope="module")
def run(tmp_path_factory, labels):
    """An exported tiny GIRAFFE HD of one object."""
    return str(save_generator(tmp_path_factory.mktemp("parts") / "one", *make(labels)))


@pytest.fixture(scope="module")
def model(run):
    return open_model(run, CPU)


@pytest.fixture(scope="module")
def pair(model, labels):
    """The same with two objects that may be apart."""
    two = ["generator.z_dim=42", "generator.representation.num_objects=2"]
    wide = "generator.representation.placement.x=[-0.9, 0.9]"
    return dataclasses.replace(model, generator=make(labels, *two, wide)[0])


@pytest.fixture(scope="module")
def flat(model, labels):
    """A generator without parts."""
    return dataclasses.replace(model, generator=make(labels, name="demo/image2d")[0], edits=None)


def subject(model, text="", seed=3, psi=1.0):
    own = dataclasses.replace(model, edits=edits_of(text, model.generator))
    return Subject(own, own.styles_of(seed, RenderOptions(device="cpu", psi=psi)))


def shown(model, text="", seed=3, psi=1.0):
    return subject(model, text, seed, psi).render(model.orbit.cameras(2))


@pytest.mark.parametrize("psi", [1.0, 0.7])
@pytest.mark.parametrize(
    "text",
    [
        "object0.rotation=0,object0.x=0,object0.y=0,object0.z=0,object0.scale=1",
        "object0.shape=7:0,object0.appearance=8:0,background=9:0",
    ],
)
def test_edits_without_strength_change_no_bit(model, text, psi):
    assert torch.equal(shown(model, text, psi=psi).image, shown(model, psi=psi).image)


def test_a_full_turn_is_the_identity_and_half_a_turn_is_not(model):
    plain = shown(model).image
    turned = shown(model, f"object0.rotation={2 * math.pi:.10g}").image
    assert torch.allclose(turned, plain, atol=1e-3)
    assert not torch.allclose(shown(model, "object0.rotation=3").image, plain, atol=1e-2)


def test_placements_change_by_the_given_numbers(model):
    text = "object0.x=0.1,object0.y=-0.2,object0.z=0.3,object0.scale=1.5,object0.rotation=0.4"
    before, after = (subject(model, t).scene.objects[0] for t in ("", text))
    assert torch.allclose(after.translation - before.translation, torch.tensor([0.1, -0.2, 0.3]))
    assert torch.allclose(after.scale / before.scale, torch.tensor(1.5))
    assert torch.allclose(after.rotation - before.rotation, torch.tensor(0.4), atol=1e-6)


def test_without_its_object_a_scene_is_the_background(model):
    plain = subject(model)
    cameras = model.orbit.cameras(2)
    with torch.no_grad():
        expected = model.generator.render(plain.scene.remove(0), plain.ws, cameras).image
    removed = shown(model, "remove=0")
    assert torch.equal(removed.image, expected)
    assert torch.equal(shown(model, "remove=0,object0.shape=9").image, expected)
    assert not torch.equal(plain.render(cameras).image, expected)


def test_codes_are_interpolated_in_w_alone(model):
    own, given = (model.styles_of(seed, CPU)(model.label) for seed in (3, 7))
    for name, rows in codes_of(model.generator.representation).items():
        ws = subject(model, f"{name}=7:0.25").ws
        assert torch.allclose(ws[:, rows], 0.75 * own[:, rows] + 0.25 * given[:, rows], atol=1e-5)
        others = torch.ones(ws.shape[1], dtype=torch.bool)
        others[rows] = False
        assert torch.equal(ws[:, others], own[:, others])
        assert not torch.equal(shown(model, f"{name}=7:0.25").image, shown(model).image)


def test_the_background_does_not_change_the_mask(model):
    plain, other = shown(model), shown(model, "background=8:0.5")
    assert torch.equal(other.mask, plain.mask)
    assert not torch.equal(other.image, plain.image)


def test_an_added_object_looks_as_in_its_own_scene(model):
    """The object of seed 7 before the background of seed 3, made in two ways."""
    added = shown(model, "remove=0,add=7", psi=0.8)
    exchanged = shown(model, "background=3", seed=7, psi=0.8)
    assert torch.allclose(added.image, exchanged.image, atol=1e-5)
    assert torch.allclose(added.mask, exchanged.mask, atol=1e-5)
    both = shown(model, "add=5,remove=0,remove=1,add=7,object2.x=0.1", psi=0.8)
    moved = shown(model, "background=3,object0.x=0.1", seed=7, psi=0.8)
    assert torch.allclose(both.image, moved.image, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_added_objects_take_free_places(model, seed):
    scene = subject(model, "add=20,add=21,add=22,object0.x=0.5,object2.scale=1.3", seed).scene
    apart = torch.stack([x.translation[0, ::2] for x in scene.objects])
    scale = torch.cat([x.scale for x in scene.objects])
    scale[2] /= 1.3  # it grew after it was placed, which the third object regards
    gap = torch.cdist(apart, apart) - scale - scale[:, None]
    assert float(gap.fill_diagonal_(1).min()) > 0
    assert float(gap[3, 2]) > float(0.3 * scale[2])
    for x, own in zip(scene.objects[1:], (20, 21, 22), strict=True):  # beside or behind
        assert float(x.translation[0, 2]) <= float(
            subject(model, "", own).scene.objects[0].translation[0, 2]
        )


def test_three_objects_fit_into_forty_scenes(model):
    for seed in range(40):
        assert (
            len(subject(model, f"add={seed + 50},add={seed + 51},add=7", seed).scene.objects) == 4
        )


def assert_same_scenes(model, one, two):
    """Compare styles, codes and placements, which are all of a scene."""
    a, b = (subject(model, text) for text in (one, two))
    num = model.generator.representation.num_ws
    assert len(a.scene.objects) == len(b.scene.objects)
    for x, y in zip(a.scene.objects, b.scene.objects, strict=True):
        for name in ("scale", "rotation", "translation"):
            assert torch.allclose(getattr(x, name), getattr(y, name), atol=1e-6), name
        points = torch.rand(1, 20, 3) - 0.5
        assert torch.allclose(x.field(points, None).feature, y.field(points, None).feature)
    assert torch.allclose(a.ws[:, -num:], b.ws[:, -num:])
    assert torch.allclose(shown(model, one).image, shown(model, two).image, atol=1e-5)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("remove=0,add=5", "add=5,remove=0"),
        ("object0.x=0.9,add=5,object1.scale=0.5", "object1.scale=0.5,add=5,object0.x=0.9"),
        ("object0.x=0.1,object0.x=0.2,object0.scale=0.5", "object0.scale=0.5,object0.x=0.3"),
        ("add=5,remove=1,add=6,object2.z=-0.1", "add=6,object1.z=-0.1"),
    ],
)
def test_the_order_of_edits_does_not_matter(model, one, two):
    assert_same_scenes(model, one, two)


def test_an_object_with_a_free_place_of_its_own_stays_there(pair):
    assert not torch.equal(shown(pair, "object1.shape=9").image, shown(pair).image)
    text = "object0.x=-9,object1.x=9"
    scene, other = subject(pair, f"{text},add=8").scene, subject(pair, seed=8).scene
    assert torch.equal(scene.objects[2].translation, other.objects[0].translation)
    assert scene.objects[2].code == 2


def test_a_full_ground_is_an_error_with_a_remedy(model):
    full = ",".join(f"add={seed}" for seed in range(30))
    with pytest.raises(ConfigError, match=r"no free place .* others smaller: object0\.scale=0\.5"):
        subject(model, full)
    assert len(subject(model, "object0.scale=0.2,add=1").scene.objects) == 2


@pytest.mark.parametrize(
    "text",
    [
        *("object1.x=1", "object0.w=1", "object0.x", "object0.x=nan", "object0.x=1:0.5"),
        *("object0.scale=0", "object0.shape=1.5", "object0.shape=-1", "background=1:2"),
        *("add=inf", "remove=1", "remove=0,remove=0", "remove=0:0.5", "edits.safetensors:pc1=2"),
        *("background=1:0.5,background=2", "add=3,object2.x=1"),
    ],
)
def test_impossible_edits_name_the_possible_ones(model, text):
    with pytest.raises(ConfigError) as error:
        subject(model, text)
    message = str(error.value)
    for part in (f"edits={text}", ".rotation=RADIANS", "object0.shape, object0.appearance", "SEED"):
        assert part in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "sefa"}, r"an edit direction needs one code .* --change rotation"),
        ({"components": 3}, "components=3: no effect on scenes of parts; use change, object"),
        ({"range": "4-8"}, "range=4-8: no effect on scenes of parts"),
        ({"samples_w": 20}, "samples_w=20: no effect on scenes of parts"),
        ({"others": ",".join(map(str, range(30)))}, "no free place"),
    ],
)
def test_nothing_is_drawn_for_wrong_options(run, model, tmp_path, monkeypatch, options, message):
    monkeypatch.setattr("lightning_gan3d.inference.edit.open_model", lambda *_: model)
    with pytest.raises(ConfigError, match=message):
        edit(run, EditOptions(device="cpu", **options), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [{"change": "x"}, {"object": 1}, {"others": "3"}])
def test_directions_have_no_options_of_parts(run, flat, tmp_path, monkeypatch, option):
    monkeypatch.setattr("lightning_gan3d.inference.edit.open_model", lambda *_: flat)
    with pytest.raises(ConfigError, match=r"=.: no effect on directions, only on scenes of parts"):
        edit(run, EditOptions(device="cpu", **option), tmp_path)


def courses(model, **options):
    options = EditOptions(device="cpu", **options)
    parts = model.generator.representation
    own = dataclasses.replace(model, edits=edits_of(options.edits, model.generator))
    return {c.name: c for c in changes_of_parts(own, parts, options)}


def at(model, course, strength):
    return course.subject(model, EditOptions(device="cpu"), 3, strength).scene.objects


def test_strengths_follow_the_placements(model):
    every = courses(model, others="5,6")
    assert list(every) == [
        *("scale", "rotation", "x", "y", "z", "shape", "appearance", "background", "add", "remove")
    ]
    assert every["x"].strengths == pytest.approx([-0.25, -0.125, 0, 0.125, 0.25])
    assert every["scale"].strengths[-1] == pytest.approx(0.6 / 0.525)
    assert every["scale"].strengths[0] == pytest.approx(0.525 / 0.6)
    assert every["rotation"].strengths[::2] == pytest.approx([0, math.pi, 2 * math.pi])
    assert every["shape"].strengths == [0, 0.25, 0.5, 0.75, 1]
    assert every["add"].strengths == [0, 1, 2]
    assert courses(model, change="x", amount=0.4)["x"].strengths[0] == -0.4
    assert len(at(model, every["add"], 2.0)) == 3
    assert at(model, every["remove"], 1.0) == ()


def test_changes_begin_after_the_edits(model):
    assert list(courses(model, edits="remove=0")) == ["background", "add"]
    more = courses(model, edits="add=9,remove=0,add=8", object=2)
    assert list(more)[:5] == ["scale", "rotation", "x", "y", "z"]
    assert more["remove"].strengths == [0, 1, 2]
    assert [len(at(model, more["remove"], i)) for i in (0.0, 1.0, 2.0)] == [2, 1, 0]
    left, right = (at(model, more["x"], x)[1].translation[0, 0] for x in more["x"].strengths[::4])
    assert float(right - left) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"change": "x,w"}, "change=x,w: `w`; for object=0 use all, or any of scale, rotation"),
        ({"object": 5}, "object=5: use 0 to 0"),
        ({"object": 1, "edits": "add=9", "change": "shape"}, "`shape`; for object=1 after edits="),
        ({"edits": "remove=0", "change": "x"}, "`x`; for object=0 after edits=remove=0 use all"),
        ({"object": 1, "edits": "add=9", "change": "background"}, "object=1: no effect with"),
        ({"others": "5", "change": "x"}, "others=5: no effect with change=x"),
        ({"change": "scale", "amount": 1.0}, "amount=1: not for `scale`: a factor above 1"),
        ({"change": "shape", "amount": 1.5}, "amount=1.5: not for `shape`: .* share up to 1"),
        ({"change": "x,add", "amount": 1.5}, "amount=1.5: not for `add`"),
    ],
)
def test_impossible_changes_name_their_option(model, options, message):
    with pytest.raises(ConfigError, match=message):
        courses(model, **options)


def test_a_placement_with_one_value_needs_an_amount(model, labels):
    generator, _ = make(labels, "generator.representation.placement.y=[0.1, 0.1]")
    model = dataclasses.replace(model, generator=generator)
    assert "y" not in courses(model)
    assert courses(model, change="y", amount=0.1)["y"].strengths[0] == -0.1
    with pytest.raises(ConfigError, match=r"placement\.y has one value; add amount=0\.2"):
        courses(model, change="y")


def test_sheets_and_films_of_changes(run, model, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_gan3d.inference.edit.FRAMES", 6)
    monkeypatch.setattr("lightning_gan3d.inference.edit_courses.STEPS", 3)
    options = EditOptions(change="rotation,remove", seeds="2,3", film="gif", device="cpu")
    text = edit(run, options, tmp_path)
    for name, columns in (("rotation", 3), ("remove", 2)):
        assert str(tmp_path / f"{name}.png") in text
        with Image.open(tmp_path / f"{name}.png") as sheet:
            assert sheet.size == (4 + columns * 100, 2 * (14 + 100))
        with Image.open(tmp_path / f"{name}.gif") as film:
            assert film.n_frames == (6 if name == "rotation" else 3)  # a GIF joins equal frames
            times = [film.info["duration"] for i in range(film.n_frames) if film.seek(i) is None]
            assert sum(times) == 200
            assert film.size == (2 * 96, 96)
            film.seek(film.n_frames // 2)  # half a turn; without the object
            half = np.asarray(film.convert("RGB")).astype(int)[::3, 96::3]
        edits = "remove=0" if name == "remove" else f"object0.rotation={math.pi:.10g}"
        image = subject(model, edits).render(model.orbit.cameras(1)).image[0]
        expected = ((image.permute(1, 2, 0) + 1) * 127.5).clamp(0, 255).numpy()
        assert np.abs(half - expected).mean() < 8  # of 255: palette


def test_a_turn_goes_on_and_other_films_go_forth_and_back(run, tmp_path, monkeypatch):
    strengths = {"rotation": [], "x": []}

    def record(course, *others):
        strength = others[-1]
        strengths[course.name].append(strength)
        return SimpleNamespace(render=lambda *_: None)

    monkeypatch.setattr(Course, "subject", record)
    monkeypatch.setattr(
        "lightning_gan3d.inference.edit.pictures", lambda *_: [np.zeros((8, 8, 3), np.uint8)]
    )
    monkeypatch.setattr("lightning_gan3d.inference.edit.FRAMES", 4)
    monkeypatch.setattr("lightning_gan3d.inference.edit_courses.STEPS", 2)
    edit(run, EditOptions(change="rotation,x", film="gif", device="cpu"), tmp_path)
    turn = 2 * math.pi  # first the check, then the sheet, then the film
    assert strengths["rotation"] == pytest.approx(
        [turn, 0, turn, *(i * math.pi / 2 for i in range(4))]
    )
    assert strengths["x"] == pytest.approx([0.25, -0.25, 0.25, -0.25, 0, 0.25, 0])


EDITS = "object0.rotation=0.7,object0.shape=9:0.5,add=12,object1.scale=0.8"


def test_the_viewers_command_writes_the_very_picture(run, tmp_path):
    stage = Stage([run], RenderOptions(device="cpu", edits=EDITS))
    state = ViewState(seed=3, edits=EDITS, device="cpu")
    camera = stage.orbit.cameras(1)
    words = shlex.split(command_of(stage.references, state, "frontal"))
    with pytest.raises(SystemExit) as stop:
        cli.main([*words[1:], f"--out={tmp_path}"])
    assert not stop.value.code
    with Image.open(tmp_path / "seed0003_view00.png") as image:
        assert np.array_equal(np.asarray(image), stage.render(state, camera))


@pytest.fixture
def controls_of(tmp_path):
    """Make the controls of the viewer, without a browser."""
    pytest.importorskip("viser")
    from lightning_gan3d.inference.viewer.controls import Controls
    from lightning_gan3d.inference.viewer.session import RenderLoop, Server, Session

    server = Server(8123)
    loop = RenderLoop(lambda *_: True, print)
    yield lambda stage, **state: Controls(
        Session(stage, server, loop, tmp_path), ViewState(**state)
    )
    server.stop()


@pytest.fixture(scope="module")
def stage(run):
    return Stage([run], CPU)


def test_the_viewers_controls_are_edits(controls_of, stage):
    controls = controls_of(stage)
    parts = controls.parts
    assert controls.state.edits == ""
    parts.objects[0]["rotation"].value = 0.7
    seed, share = parts.codes["object0.shape"]
    seed.value, share.value = 9, 0.5
    parts.objects[2]["present"].value, parts.objects[2]["seed"].value = True, 12
    parts.objects[2]["scale"].value = 0.8
    assert (
        controls.state.edits == "object0.rotation=0.7,add=12,object1.scale=0.8,object0.shape=9:0.5"
    )
    parts.objects[0]["present"].value = False
    assert controls.state.edits.startswith("remove=0,add=12")


@pytest.mark.parametrize(
    "text",
    [
        *(
            EDITS,
            "remove=0",
            "add=5,remove=0",
            "remove=0,add=5",
            "add=5,remove=1,add=6,object2.x=0.5",
        ),
        "object0.x=0.1,object0.x=0.2,object0.scale=0.5,object0.scale=0.5,background=7:0.5",
    ],
)
def test_the_viewer_starts_with_the_given_edits(controls_of, stage, model, text):
    assert_same_scenes(model, controls_of(stage, edits=text).state.edits, text)


def test_only_scenes_of_the_same_parts_have_controls(controls_of, stage, model, pair, flat):
    def of(*models):
        other = copy.copy(stage)
        other.models = list(models)
        return other

    assert controls_of(of(flat)).parts is None
    assert controls_of(of(flat)).state.edits == ""
    assert of(model, model).parts is model.generator.representation
    assert of(model, flat).parts is None
    assert of(model, pair).parts is None
