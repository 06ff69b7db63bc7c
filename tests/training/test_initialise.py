"""Fine-tuning: what is loaded, which schedules go on, what is refused, and how it continues."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

from lightning_gan3d.checkpoints import native, store
from lightning_gan3d.checkpoints.importer import import_file
from lightning_gan3d.checkpoints.load import read_networks
from lightning_gan3d.checkpoints.store import CheckpointError
from lightning_gan3d.config import ConfigError, UserError
from lightning_gan3d.data.datamodule import DataModule
from lightning_gan3d.data.synthetic.synth import SynthConfig, make_synth
from lightning_gan3d.experiment import load_experiment, make_networks
from lightning_gan3d.runs import Run, run_path
from lightning_gan3d.training import checkpoint
from lightning_gan3d.training.config import InitConfig
from lightning_gan3d.training.ema import ExponentialMovingAverage
from lightning_gan3d.training.finetune import fingerprint, initialise
from lightning_gan3d.training.fit import train_run
from lightning_gan3d.training.module import AdversarialModule
from lightning_gan3d.training.plan import plan

sys.path.insert(0, str(Path(__file__).parent.parent / "checkpoints"))

from handmade import write_network_pickle  # after its folder is known
from nvidia_files import discriminator, triplane

SCHEDULES = (
    "training.blur_fade_kimg=0.08",
    "training.swap_fade_kimg=0.08",
    "training.rendering_resolution={initial: 8, final: 16, start_kimg: 0, fade_kimg: 0.08}",
    "training.ema_half_life_kimg=0.04",
    "training.ema_rampup=0.5",
)


@pytest.fixture
def source(tiny, train, tmp_path):
    """A run of three steps, 24 images, whose networks are all apart; and its module."""
    config = tiny("seed=5")
    module = train(config, steps=3)
    with torch.no_grad():
        for parameter in module.average.parameters():
            parameter.add_(0.5)  # the average is told from what it averages
    path = tmp_path / "source"
    checkpoint.save(module, config, path / "checkpoints", 1.0)
    return path, module


@pytest.fixture
def begin(tiny):
    """A function: a module that was initialised from a source, and what was said."""

    def make(path, *overrides, schedules="restart"):
        config = tiny(
            f"init_from.path={path}", f"init_from.schedules={schedules}", *SCHEDULES, *overrides
        )
        data = DataModule(config.data, 8, 8, config.seed)
        module, said = AdversarialModule(config, 16, data.train.labels), []
        initialise(module, config, None, said.append)
        return module, "\n".join(said)

    return make


@pytest.fixture
def start(tmp_path):
    """A function that runs an experiment: exit code, run directory, what was said."""

    def go(config, root="runs"):
        said = []
        code = train_run(config, tmp_path / root, command=[], say=said.append, measure=False)
        print("\n".join(said))  # shown where a test fails
        return code, run_path(config, tmp_path / root), "\n".join(said)

    return go


@pytest.fixture
def stop_at(monkeypatch):
    """A function that has Ctrl-C pressed in a step; None: never."""
    genuine = AdversarialModule.discriminator_step

    def when(step):
        def hooked(self, now, microbatches):
            if now.step == step:
                os.kill(os.getpid(), signal.SIGINT)
            genuine(self, now, microbatches)

        monkeypatch.setattr(AdversarialModule, "discriminator_step", hooked)

    return when


def assert_equal(network, wanted):
    found = network.state_dict()
    assert found.keys() == wanted.keys()
    different = [k for k, v in wanted.items() if not torch.equal(found[k], v)]
    assert not different


def test_networks_are_the_sources_from_run_and_checkpoint(source, begin):
    path, module = source
    for place in (path, path / "checkpoints" / store.name_of(3)):
        found, said = begin(place)
        assert_equal(found.generator, module.generator.state_dict())
        assert_equal(found.average, module.average.state_dict())
        assert_equal(found.discriminator, module.discriminator.state_dict())
        assert all(p.requires_grad for p in found.generator.parameters())
        assert all(p.requires_grad for p in found.discriminator.parameters())
        assert not any(p.requires_grad for p in found.average.parameters())
        assert found.steps_done == 0
        assert not found.optimizer_g.state
        assert f"starting from {path}" in said
        assert "holds no" not in said


def test_an_export_of_the_average_starts_both_and_d_starts_from_the_seed(
    source, begin, tiny, tmp_path
):
    _, module = source
    export = native.save_generator(tmp_path / "export", module.average, tiny())
    found, said = begin(export)
    assert_equal(found.generator, module.average.state_dict())
    assert_equal(found.average, module.average.state_dict())
    assert_equal(found.discriminator, make_networks(tiny(), 16)[1].state_dict())
    assert "holds no D; it starts from the seed" in said


def test_the_first_step_begins_with_the_source(source, tiny, start, monkeypatch):
    path, module = source
    seen = []

    def first(self, batch, index):
        del batch, index
        wanted = (module.generator, module.average, module.discriminator)
        for found, there in zip(
            (self.generator, self.average, self.discriminator), wanted, strict=True
        ):
            assert_equal(found, there.state_dict())
        seen.append(self.images_seen)
        raise RuntimeError("seen")

    monkeypatch.setattr(AdversarialModule, "training_step", first)
    code, _, said = start(tiny(f"init_from.path={path}"))
    assert "RuntimeError: seen" in said
    assert (code, seen) == (4, [0])


@pytest.mark.parametrize(
    ("schedules", "blur", "swap", "resolution", "decay"),
    [
        # After two steps of 8 images: 16 / 80 of every fade; a half-life of 0.5 * 16 = 8 images.
        ("restart", 8.0, 0.9, 10, 0.5),
        # With the source's 24: 40 / 80; a half-life of 20.
        ("keep", 5.0, 0.75, 12, 0.5**0.4),
        # No blur, final swapping, the whole half-life of 40, the resolution of 16 / 80.
        ("eg3d", 0.0, 0.5, 10, 0.5**0.2),
    ],
)
def test_schedules_restart_go_on_or_are_those_of_a_resume_of_eg3d(
    source, begin, monkeypatch, schedules, blur, swap, resolution, decay
):
    module, said = begin(source[0], schedules=schedules)
    assert f"schedules: {schedules}" in said
    now = module.now(2)
    assert now.blur_sigma == pytest.approx(blur)
    assert now.swap_probability == pytest.approx(swap)
    assert now.rendering_resolution == resolution
    assert now.learning_rate_factor == 1
    decays = []
    monkeypatch.setattr(ExponentialMovingAverage, "update", lambda _s, d, _h: decays.append(d))
    data = DataModule(module.config.data, 8, 8, 0)
    data.set_start_step(2)
    module.training_step(next(iter(data.train_dataloader(0, 1))), 0)
    assert decays == [pytest.approx(decay)]
    assert module.average.rendering_resolution == resolution


def test_keep_counts_from_the_very_first_image(source, begin, tiny, tmp_path):
    _, module = source
    module.images_before = 100  # as if it had kept the schedules of its own source
    checkpoint.save(module, tiny(), tmp_path / "again" / "checkpoints", 1.0)
    assert begin(tmp_path / "again", schedules="keep")[0].images_before == 124
    assert begin(tmp_path / "again", schedules="restart")[0].images_before == 0
    told = begin(tmp_path / "again", "init_from.kimg=0.2", schedules="keep")[0]
    assert told.images_before == 200


def test_keep_must_be_told_what_an_export_does_not_say(source, begin, tiny, tmp_path):
    export = native.save_generator(tmp_path / "export", source[1].average, tiny())
    with pytest.raises(ConfigError, match=r"does not say how many images .* give init_from\.kimg"):
        begin(export, schedules="keep")
    assert begin(export, "init_from.kimg=0.04", schedules="keep")[0].images_before == 40
    for wrong in ({"kimg": 1.0}, {"kimg": -1.0, "schedules": "keep"}):
        with pytest.raises(ConfigError, match=r"init_from\.kimg="):
            InitConfig(path="x", **wrong)


def test_a_differing_configuration_is_told(source, begin):
    said = begin(source[0], "generator.renderer.samples_coarse=5", "discriminator.mbstd_group=2")[1]
    assert "init_from: generator.renderer.samples_coarse was 4, now 5" in said
    assert "init_from: discriminator.mbstd_group was 4, now 2" in said
    assert said.count(" was ") == 2


@pytest.mark.parametrize("schedules", ["restart", "keep"])
def test_a_stopped_run_goes_on_from_its_own_checkpoint_without_the_source(
    source, tiny, start, stop_at, schedules
):
    path = source[0]
    config = tiny(f"init_from={{path: {path}, schedules: {schedules}}}", *SCHEDULES)
    code, whole, _ = start(config, "whole")
    assert code == 0
    stop_at(2)
    code, parts, said = start(config, "parts")
    assert code == 75
    assert "starting from" in said
    shutil.rmtree(path)
    stop_at(None)
    code, _, said = start(config, "parts")
    assert code == 0
    assert "continuing from 0.024 kimg" in said
    assert "starting from" not in said
    ends = [folder / "checkpoints" / store.name_of(8) for folder in (whole, parts)]
    assert [store.verify(end)["images_before"] for end in ends] == (
        [24, 24] if schedules == "keep" else [0, 0]
    )
    for kind in ("generator", "generator_raw", "discriminator"):
        a, b = (native.read_tensors(end / f"{kind}.safetensors")[0] for end in ends)
        assert all(torch.equal(a[k], b[k]) for k in a)


def spoilt(kind, path, module, config, tmp_path):
    """A source that cannot be started from."""
    folder = tmp_path / kind
    if kind == "only D":
        folder.mkdir()
        native.save_network(folder, "discriminator", module.discriminator.state_dict(), 16, 16)
        shutil.copy(path / "checkpoints" / store.name_of(3) / "config.yaml", folder)
    elif kind == "other resolution":
        native.save_generator(folder, module.average, config)
        native.save_network(folder, "generator", module.average.state_dict(), 32, 16)
    elif kind == "damaged":
        folder = path / "checkpoints" / store.name_of(3)
        (folder / "discriminator.safetensors").write_bytes(b"x")
    return folder


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "missing: no such folder"),
        ("only D", "it holds no generator"),
        ("other resolution", "images of 32, the data have 16 pixels; prepare the data at 32"),
        ("damaged", "checksum differs"),
    ],
)
def test_sources_that_cannot_be_used_are_refused_and_leave_no_run(
    source, tiny, start, tmp_path, kind, words
):
    path = spoilt(kind, *source, tiny(), tmp_path)
    with pytest.raises(UserError) as caught:
        start(tiny(f"init_from.path='{path}'"))
    assert words in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("generator.w_dim=16", "(G_ema) does not fit its configuration"),
        ("discriminator.channels=[4, 8, 8]", "(D) does not fit its configuration"),
        ("generator.mapping.condition=camera", "mapping.embed.weight is missing"),
    ],
)
def test_other_networks_are_refused_before_any_process_starts(
    source, tiny, start, tmp_path, monkeypatch, override, words
):
    def build(*_):
        raise AssertionError("built")

    monkeypatch.setattr("lightning_gan3d.training.fit.AdversarialModule", build)
    monkeypatch.setattr("lightning_gan3d.training.launch.processes", build)
    for devices in (1, 2):
        split = (f"training.devices={devices}", "training.microbatch=4")
        with pytest.raises(CheckpointError) as caught:
            start(tiny(f"init_from.path={source[0]}", override, *split))
        assert words in str(caught.value)
        assert not (tmp_path / "runs").exists()


def test_a_run_that_begins_again_insists_on_its_source(source, tiny, start, stop_at):
    path, module = source
    overrides = (f"init_from.path={path}", "training.rendering_resolution={initial: 12}")
    stop_at(0)
    code, run, _ = start(tiny(*overrides))
    assert code == 75
    manifest = Run(run).manifest()
    content = manifest["init_from"]["content"]
    assert manifest["init_from"]["step"] == 3
    shutil.rmtree(run / "checkpoints")  # as if it had been killed before the first
    with torch.no_grad():
        next(module.generator.parameters()).add_(1.0)
    shutil.rmtree(path)
    checkpoint.save(module, tiny("seed=5"), path / "checkpoints", 1.0)
    stop_at(None)
    with pytest.raises(ConfigError, match="is not what this run began with"):
        start(tiny(*overrides))
    assert Run(run).manifest()["init_from"]["content"] == content


def test_a_fingerprint_is_of_the_weights_wherever_they_lie(tmp_path):
    network = triplane()
    pickle = write_network_pickle(tmp_path / "cars.pkl", G_ema=network)
    import_file(pickle, tmp_path / "cars")
    there, export = (read_networks(p, ["generator"]) for p in (pickle, tmp_path / "cars"))
    assert fingerprint(there) == fingerprint(export)
    tensors = export.tensors["generator"]
    tensors["mapping.w_avg"] = tensors["mapping.w_avg"] + 1
    assert fingerprint(there) != fingerprint(export)
    tensors["mapping.w_avg"] = tensors["mapping.w_avg"].bfloat16()
    assert len(fingerprint(export)) == 16


def test_the_name_of_a_source_tells_experiments_apart_and_its_folder_does_not(tiny):
    one, moved, other = (
        tiny(f"init_from.path={path}").hash for path in ("a/x.pkl", "/b/c/x.pkl", "a/y.pkl")
    )
    assert one == moved != other


def test_schedules_of_no_source_are_refused(tiny):
    with pytest.raises(ConfigError, match=r"init_from\.schedules=eg3d: give init_from\.path"):
        tiny("init_from.schedules=eg3d")


def test_a_dry_run_looks_at_the_source(tiny, source):
    assert "generator" in plan(tiny(f"init_from.path={source[0]}"))
    with pytest.raises(UserError, match="no such folder"):
        plan(tiny("init_from.path=nowhere"))


def test_an_imported_eg3d_network_is_fine_tuned_stopped_and_continued(tmp_path, start, stop_at):
    network = triplane()
    pickle = write_network_pickle(
        tmp_path / "cars.pkl", G=network, D=discriminator(), G_ema=network
    )
    import_file(pickle, tmp_path / "cars")
    make_synth(SynthConfig(num_images=8, num_objects=4, resolution=128), tmp_path / "few.zip")
    config = load_experiment(
        tmp_path / "cars" / "config.yaml",
        [
            f"init_from={{path: '{tmp_path / 'cars'}', schedules: eg3d}}",
            f"data.path={tmp_path / 'few.zip'}",
            "training={kimg: 0.004, batch: 2, microbatch: 2, devices: 1, threads: 1, device: cpu}",
            "training={log_kimg: 0.002, sample_kimg: 0, snapshot_kimg: 0}",
            "training.rendering_resolution={initial: 8}",
            "loss={r1_interval: 2, density_reg_interval: 2, density_reg_num_points: 10}",
        ],
    )
    stop_at(0)
    code, path, said = start(config)
    assert code == 75
    assert "starting from" in said
    assert "was" not in said  # nothing differs from the import
    first = path / "checkpoints" / store.name_of(1)
    name = "representation.decoder.net.0.weight"
    after = native.read_tensors(first / "generator_raw.safetensors")[0][name]
    before = native.read_tensors(tmp_path / "cars" / "generator_raw.safetensors")[0][name]
    step = (after - before).abs().max()
    assert 0 < step < 0.02  # Adam moves each number by about its learning rate, in two phases
    shutil.rmtree(tmp_path / "cars")
    pickle.unlink()
    stop_at(None)
    code, path, said = start(config)
    assert code == 0
    assert "continuing from 0.002 kimg" in said
    last = path / "checkpoints" / store.name_of(2)
    found = native.read_tensors(last / "generator.safetensors")[0]
    assert all(x.isfinite().all() for x in found.values())
