"""Fine-tuning towards a direction: loss, frozen start, chosen layers, targets, errors, resume."""

import hashlib
import json
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, normalize

from lightning_gan3d.checkpoints.stored_networks import save_generator
from lightning_gan3d.config import ConfigError, UserError
from lightning_gan3d.data.datamodule import DataModule
from lightning_gan3d.embedding import LEAST, Encoder, direction_loss, read_target
from lightning_gan3d.experiment import make_networks
from lightning_gan3d.runs import Run
from lightning_gan3d.training import checkpoint
from lightning_gan3d.training.compatibility import check_trainable
from lightning_gan3d.training.critic import EncoderConfig
from lightning_gan3d.training.direction import (
    DirectionModule,
    digests_of,
    layers_of_styles,
    open_critic,
)
from lightning_gan3d.training.fit import plan
from lightning_gan3d.training.module import make_modules


class Regions(nn.Module):
    """Mean colours of the quarters of an image, and a constant: 13 numbers."""

    def forward(self, image):
        colours = adaptive_avg_pool2d(image, 2).flatten(1)
        return torch.cat([colours, torch.ones_like(colours[:, :1])], dim=1)


class Texts(nn.Module):
    """13 numbers of tokens (n, 13)."""

    def forward(self, tokens):
        return tokens.float()


class Detached(Regions):
    """With weights of its own, which must not pass for the image's gradient."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(13, 13)

    def forward(self, image):
        return self.last(super().forward(image.detach()))


RED = torch.cat([torch.tensor([1.0, -1.0, -1.0]).repeat_interleave(4), torch.zeros(1)])


def save_start(path, config):
    """Export a generator with random weights and visible noise."""
    generator = make_networks(config, 16)[0]
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.3)
    save_generator(path, generator, config)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with encoders and targets."""
    tmp_path = tmp_path_factory.mktemp("files")
    torch.jit.trace(Regions(), torch.zeros(2, 3, 16, 16)).save(tmp_path / "encoder.pt")
    torch.jit.trace(Texts(), torch.zeros(2, 13, dtype=torch.int64)).save(tmp_path / "text.pt")
    torch.jit.trace(Detached(), torch.zeros(2, 3, 16, 16)).save(tmp_path / "detached.pt")
    directions = {"red": RED.tolist(), "zero": 13 * [0], "short": 5 * [1], "other": RED.tolist()}
    (tmp_path / "null.json").write_text('{"direction": [null]}')
    for name, direction in directions.items():
        made_for = {"encoder": "0" * 64} if name == "other" else {}
        (tmp_path / f"{name}.json").write_text(json.dumps({"direction": direction, **made_for}))
    for name, colour in (("reds", (255, 0, 0)), ("blues", (0, 0, 255))):
        (tmp_path / name).mkdir()
        for i, size in enumerate(((16, 16), (32, 24))):
            Image.new("RGB", size, colour).save(tmp_path / name / f"{i}.png")
    tokens = {"target_tokens": [[2] + 12 * [1]], "source_tokens": [13 * [1]]}
    (tmp_path / "text.json").write_text(json.dumps(tokens))
    return tmp_path


@pytest.fixture
def files(written, tmp_path, tiny):
    """The same, with an export to start from."""
    path = shutil.copytree(written, tmp_path / "files")
    if not (written / "start").exists():
        save_start(written / "start", tiny("seed=3"))
    return shutil.copytree(written, path, dirs_exist_ok=True)


@pytest.fixture
def directed(tiny, files):
    """A function from overrides to an experiment that starts from the export."""

    def make(*overrides, target="red.json", kind="triplane"):
        return tiny(
            f"init_from.path={files / 'start'}",
            "critic.kind=direction",
            f"critic.encoders=[{{image: '{files / 'encoder.pt'}'}}]",
            f"critic.target={files / target}",
            "training.ema_half_life_kimg=0",
            *overrides,
            kind=kind,
        )

    return make


def begin(config):
    data = DataModule(config.data, 8, config.training.microbatch_size, config.seed)
    module = DirectionModule(config, 16, data.train.labels)
    checkpoint.initialise(module, config, None)
    return module


def run(module, steps):
    config = module.config
    data = DataModule(config.data, 8, config.training.microbatch_size, config.seed)
    data.set_start_step(module.steps_done)
    for _, batch in zip(range(steps), data.train_dataloader(0, 1), strict=False):
        module.training_step(batch, 0)
    return module


def changed(network, before):
    now = network.state_dict()
    return {name for name, tensor in before.items() if not torch.equal(tensor, now[name])}


def copied(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_the_loss_is_one_minus_the_cosine_of_long_changes_and_smooth_at_zero():
    direction = torch.tensor([1.0, 0.0])
    before = torch.zeros(1, 2)
    for change, loss in (((3, 0), 0), ((0, 1), 1), ((-0.5, 0), 2), ((0.3, 0.4), 0.4)):
        after = torch.tensor([change], dtype=torch.float32)
        assert float(direction_loss(after, before, direction)) == pytest.approx(loss)
    after = torch.zeros(1, 2, requires_grad=True)
    direction_loss(after, before, direction).backward()
    assert torch.allclose(after.grad, torch.tensor([[-1 / LEAST, 0]]))


@pytest.mark.parametrize("views", [1, 2])
def test_mapping_discriminator_and_frozen_start_keep_their_bits(directed, views):
    module = begin(directed(f"training.views={views}"))
    start = copied(module.average)
    others = [copied(module.discriminator), copied(module.augment)]
    run(module, 1)
    assert module.meter.read()["loss/direction"] == 1.0  # both images are equal
    run(module, 2)
    assert changed(module.frozen, start) == set()
    moved = changed(module.generator, start)
    assert moved
    assert not any(name.startswith("mapping") for name in moved)
    assert changed(module.discriminator, others[0]) == changed(module.augment, others[1]) == set()
    assert changed(module.average, module.generator.state_dict()) == set()


@pytest.mark.parametrize("kind", ["triplane", "image2d"])
def test_images_move_in_the_direction(directed, tiny, files, kind):
    shutil.rmtree(files / "start")
    save_start(files / "start", tiny("seed=3", kind=kind))
    module = run(begin(directed(kind=kind, target="red.json")), 12)
    assert module.meter.read()["loss/direction"] < 0.6
    label = module.camera_labels[:4]
    z = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        change = module.generator(z, label).image - module.frozen(z, label).image
    red, green, blue = change.mean(dim=(0, 2, 3)).tolist()
    assert red > max(green, blue) + 0.01


def test_a_resume_is_bitwise_equal_without_the_source(directed, files):
    config = directed("training.freeze=[representation.decoder]", "critic.layers=2", target="reds")
    whole, half = run(begin(config), 4), run(begin(config), 2)
    checkpoint.save(half, config, files / "saved", 1.0)
    data = DataModule(config.data, 8, 8, 0)
    module = DirectionModule(config, 16, data.train.labels)
    checkpoint.load(module, config, next((files / "saved").glob("step*")))
    run(module, 2)
    for part in ("generator", "frozen", "average"):
        assert changed(getattr(module, part), getattr(whole, part).state_dict()) == set()
    assert torch.equal(module.targets[0].direction, whole.targets[0].direction)
    assert not any("decoder" in x for x in changed(module.generator, module.frozen.state_dict()))


def test_only_layers_of_the_styles_with_the_largest_gradients_are_trained(directed):
    module = begin(directed("critic.layers=1"))
    start = copied(module.average)
    names = {id(p): name for name, p in module.generator.named_parameters()}
    layers = layers_of_styles(module.generator, module.camera_labels[:1])
    owners = [{names[id(p)].rpartition("conv")[0][-3:] for p in layer} for layer in layers]
    assert owners == [{"b4."}, {"b8."}, {"b8."}, {"16."}, {"16."}, set()]
    gradients = []
    genuine = torch.autograd.grad
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.autograd, "grad", lambda *a: gradients.append(genuine(*a)) or gradients[-1]
        )
        run(module, 1)
    best = int(gradients[0][0].abs().mean(dim=(0, 2))[:5].argmax())
    assert changed(module.generator, start) <= {names[id(p)] for p in layers[best]}
    assert changed(module.generator, start)
    assert all(p.requires_grad for p in module.optimizer_g.param_groups[0]["params"])


def test_layers_need_a_trained_layer(directed):
    parts = "[representation.synthesis]"
    with pytest.raises(ConfigError, match=r"critic\.layers=1: no trained layer has a style"):
        run(begin(directed("critic.layers=1", f"training.freeze={parts}")), 1)


def test_layers_of_an_mlp_are_its_affine_maps(tiny):
    config = tiny("generator.representation={kind: nerf_mlp, hidden_dim: 8, num_layers: 2}")
    generator = make_networks(config, 16)[0]
    label = DataModule(config.data, 8, 8, 0).train.labels[:1]
    affines = generator.representation.affines
    for affine, layer in zip(affines, layers_of_styles(generator, label), strict=True):
        assert [id(p) for p in layer] == [id(p) for p in affine.parameters()]


def test_targets_are_means_of_normalised_embeddings(files):
    encoder = Encoder("", EncoderConfig(str(files / "encoder.pt"), str(files / "text.pt")), 16)
    red, blue = (
        normalize(torch.cat([torch.tensor(c).repeat_interleave(4), torch.ones(1)]), dim=0)
        for c in ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0))
    )
    target = read_target("critic.target", str(files / "reds"), encoder, str(files / "blues"))
    assert torch.allclose(target.embedding, red, atol=1e-6)
    assert torch.allclose(target.direction, normalize(red - blue, dim=0), atol=1e-6)
    assert read_target("", str(files / "reds/1.png"), encoder).direction is None
    text = read_target("", str(files / "text.json"), encoder)
    one, two = (normalize(torch.tensor(x), dim=0) for x in (13 * [1.0], [2.0, *12 * [1.0]]))
    assert torch.allclose(text.embedding, two)
    assert torch.allclose(text.direction, normalize(two - one, dim=0), atol=1e-6)


def test_the_source_is_the_start_if_there_is_none(directed):
    module = begin(directed(target="reds"))
    assert module.targets[0].direction is None
    run(module, 1)
    direction = module.targets[0].direction
    assert float(direction.norm()) == pytest.approx(1, abs=1e-5)
    assert direction[:4].min() > -0.2  # the start is grey or white
    assert direction[4:12].max() < 0


def check(config):
    check_trainable(config, 16)
    open_critic(config, 16)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["critic.encoders=[]"], "there is no critic.encoders; set one"),
        (["critic.target=''"], "there is no critic.target; set"),
        (["critic.kind=adversarial"], "critic.encoders: only kind=direction reads it"),
        (["init_from.path=''"], "set init_from.path, e.g. pretrained:triplane"),
        (["training.patch={resolution: 8}"], "set training.patch=null"),
        (["training.growing.stages=[{resolution: 16}]"], "set training.growing=null"),
        (["loss.adversarial=relativistic"], "set loss.adversarial=nonsaturating"),
        (["augment.mode=ada"], "set augment.mode=none"),
        (["training.freeze=[discriminator.b4, mapping]"], "remove discriminator.b4 from"),
        (["training.freeze=[representation]"], "leaves no part of the generator to train"),
        (["critic.encoders=[{image: nowhere.pt}]"], "critic.encoders.0.image=nowhere.pt: cannot"),
        (["critic.encoders=[{image: FILES/detached.pt}]"], "the embedding has no gradient"),
        (["critic.encoders=[{image: FILES/text.pt}]"], "critic.encoders.0.image="),
        (["critic.target=FILES/short.json"], "have 13 numbers; make it with this encoder"),
        (["critic.target=FILES/zero.json"], "zero or not finite; source and target must differ"),
        (["critic.target=FILES/text.json"], "set critic.encoders.0.text to the encoder of texts"),
        (["critic.target=FILES/other.json"], "made for SHA-256 0000000000000000, not"),
        (["critic.target=FILES/null.json"], "use an image, a folder of images, or a JSON"),
        (["critic.target=FILES/start"], "no images; use an image, a folder of images, or a JSON"),
        (["critic.target=FILES/reds", "critic.source=FILES/start"], "no images; name a folder"),
        (["critic.target=FILES/reds", "critic.source=FILES/reds"], "have equal embeddings"),
    ],
)  # fmt: skip
def test_wrong_options_are_rejected_before_anything_is_written(directed, files, overrides, message):
    with pytest.raises(UserError) as caught:
        check(directed(*(o.replace("FILES", str(files)) for o in overrides)))
    assert message in str(caught.value)


def test_a_run_logs_and_checks_its_files(directed, files, start):
    config = directed(
        "training.kimg=0.016", "training.sample_kimg=0.016", "training.log_kimg=0.008"
    )
    assert "images of 16² to 13 numbers" in plan(config)
    code, path, log = start(config)
    assert code == 0
    assert "cosine of change and direction" in log
    assert len(list((path / "samples").glob("*.png"))) == 2
    digest = hashlib.sha256((files / "encoder.pt").read_bytes()).hexdigest()
    assert Run(path).manifest()["critic"]["encoders.0.image"] == digest
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["loss/direction"] == 1
    assert rows[1]["direction/diversity"] == pytest.approx(1, abs=0.2)
    (files / "red.json").write_text(json.dumps({"direction": (-RED).tolist()}))
    longer = replace(config, training=replace(config.training, kimg=0.024))
    with pytest.raises(ConfigError, match=r"critic\.target has changed since"):
        start(longer, prepare=partial(checkpoint.prepare, how="extend"))
    shutil.rmtree(path / "checkpoints")
    (path / "manifest.json").write_text(json.dumps({**Run(path).manifest(), "finished": False}))
    with pytest.raises(ConfigError, match=r"critic\.target has changed since"):
        start(config)


def test_the_hash_names_files_and_ignores_their_folders(directed, tiny, files):
    encoder = str(files / "encoder.pt")
    moved = directed("critic.encoders=[{image: elsewhere/encoder.pt}]", "critic.target=a/red.json")
    assert directed().critic.encoders[0].image == encoder
    assert directed().hash == moved.hash
    assert directed().hash != directed("critic.target=a/blue.json").hash
    assert tiny().hash != directed().hash
    pair = "critic.encoders=[{{image: {}/e.pt}}, {{image: {}/e.pt}}]"
    assert len({directed(pair.format(*x)).hash for x in ("ab", "ba", "aa")}) == 3


def test_files_of_equal_names_have_their_own_digests(directed, files):
    other = files / "reds" / "encoder.pt"
    torch.jit.trace(nn.Flatten(), torch.zeros(2, 3, 16, 16)).save(other)
    images = [files / "encoder.pt", other]
    encoders = ", ".join(f"{{image: '{image}'}}" for image in images)
    config = directed(f"critic.encoders=[{encoders}]", target="reds")
    digests = digests_of(config, open_critic(config, 16)[0])
    assert digests.keys() == {"target", "encoders.0.image", "encoders.1.image"}
    for i, file in enumerate(images):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert digests[f"encoders.{i}.image"] == digest


def test_other_entry_points_reject_a_direction_and_the_mapping_is_never_trained(directed):
    with pytest.raises(ConfigError, match="use `gan3d train`, or adversarial"):
        make_modules(directed())
    assert directed().frozen_parts == ("mapping",)
    assert directed("generator.mapping={num_layers: 0, condition: none}").frozen_parts == ()
