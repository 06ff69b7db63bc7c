"""Fine-tuning: loaded networks, schedules, rejected sources, and resuming."""

import copy
import shutil
import sys
from pathlib import Path

import pytest
import torch

from lightning_gan3d.checkpoints import store, stored_networks
from lightning_gan3d.checkpoints.importer import import_file
from lightning_gan3d.checkpoints.load import read_networks
from lightning_gan3d.checkpoints.store import CheckpointError
from lightning_gan3d.config import ConfigError, UserError, from_options
from lightning_gan3d.data.datamodule import DataModule
from lightning_gan3d.data.synthetic.synth import SynthConfig, make_synth
from lightning_gan3d.experiment import load_experiment, make_networks
from lightning_gan3d.runs import Run
from lightning_gan3d.training import checkpoint
from lightning_gan3d.training.checkpoint import fingerprint, initialise
from lightning_gan3d.training.config import InitConfig
from lightning_gan3d.training.fit import plan
from lightning_gan3d.training.module import AdversarialModule
from lightning_gan3d.training.optimizers import ExponentialMovingAverage

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


@pytest.fixture(scope="module")
def trained():
    """The trained module of `source`, once it exists."""
    return {}


@pytest.fixture
def source(tiny, train, tmp_path, trained):
    """A run of three steps (24 images) whose networks all differ, and its module."""
    config = tiny("seed=5")
    if not trained:
        module = train(config, steps=3)
        with torch.no_grad():
            for parameter in module.average.parameters():
                parameter.add_(0.5)
        trained["module"] = module
    module = copy.deepcopy(trained["module"])
    path = tmp_path / "source"
    checkpoint.save(module, config, path / "checkpoints", 1.0)
    return path, module


@pytest.fixture
def begin(tiny, caplog):
    """A function that initialises a module from a source: returns module and log."""

    def make(path, *overrides, schedules="restart"):
        config = tiny(
            f"init_from.path={path}", f"init_from.schedules={schedules}", *SCHEDULES, *overrides
        )
        data = DataModule(config.data, 8, 8, config.seed)
        module = AdversarialModule(config, 16, data.train.labels)
        caplog.clear()
        caplog.set_level("INFO", "lightning_gan3d")
        initialise(module, config, None)
        return module, "\n".join(caplog.messages)

    return make


def assert_equal(network, expected):
    tensors = network.state_dict()
    assert tensors.keys() == expected.keys()
    different = [k for k, v in expected.items() if not torch.equal(tensors[k], v)]
    assert not different


def test_networks_come_from_a_run_or_a_checkpoint(source, begin):
    path, module = source
    for place in (path, path / "checkpoints" / store.name_of(3)):
        started, log = begin(place)
        assert_equal(started.generator, module.generator.state_dict())
        assert_equal(started.average, module.average.state_dict())
        assert_equal(started.discriminator, module.discriminator.state_dict())
        assert all(p.requires_grad for p in started.generator.parameters())
        assert all(p.requires_grad for p in started.discriminator.parameters())
        assert not any(p.requires_grad for p in started.average.parameters())
        assert started.steps_done == 0
        assert not started.optimizer_g.state
        assert f"starting from {path}" in log
        assert "has no" not in log


def test_an_export_initialises_both_generators_and_d_is_random(source, begin, tiny, tmp_path):
    _, module = source
    export = stored_networks.save_generator(tmp_path / "export", module.average, tiny())
    started, log = begin(export)
    assert_equal(started.generator, module.average.state_dict())
    assert_equal(started.average, module.average.state_dict())
    assert_equal(started.discriminator, make_networks(tiny(), 16)[1].state_dict())
    assert "has no D; using random weights" in log


def test_the_first_step_starts_from_the_source(source, tiny, start, monkeypatch):
    path, module = source
    images = []

    def first(self, batch, index):
        del batch, index
        sources = (module.generator, module.average, module.discriminator)
        for network, there in zip(
            (self.generator, self.average, self.discriminator), sources, strict=True
        ):
            assert_equal(network, there.state_dict())
        images.append(self.images_seen)
        raise RuntimeError("first step")

    monkeypatch.setattr(AdversarialModule, "training_step", first)
    code, _, log = start(tiny(f"init_from.path={path}"))
    assert "RuntimeError: first step" in log
    assert (code, images) == (4, [0])


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
def test_schedules_restart_continue_or_follow_eg3d(
    source, begin, monkeypatch, schedules, blur, swap, resolution, decay
):
    module, log = begin(source[0], schedules=schedules)
    assert f"schedules: {schedules}" in log
    state = module.schedule(2)
    assert state.blur_sigma == pytest.approx(blur)
    assert state.swap_probability == pytest.approx(swap)
    assert state.rendering_resolution == resolution
    assert state.learning_rate_factor == 1
    decays = []
    monkeypatch.setattr(ExponentialMovingAverage, "update", lambda _s, d, _h: decays.append(d))
    data = DataModule(module.config.data, 8, 8, 0)
    data.set_start_step(2)
    module.training_step(next(iter(data.train_dataloader(0, 1))), 0)
    assert decays == [pytest.approx(decay)]
    assert module.average.rendering_resolution == resolution


def test_keep_counts_all_earlier_images(source, begin, tiny, tmp_path):
    _, module = source
    module.images_before = 100  # as if it had kept the schedules of its own source
    checkpoint.save(module, tiny(), tmp_path / "again" / "checkpoints", 1.0)
    assert begin(tmp_path / "again", schedules="keep")[0].images_before == 124
    assert begin(tmp_path / "again", schedules="restart")[0].images_before == 0
    explicit = begin(tmp_path / "again", "init_from.kimg=0.2", schedules="keep")[0]
    assert explicit.images_before == 200


def test_keep_needs_the_number_of_images(source, begin, tiny, tmp_path):
    export = stored_networks.save_generator(tmp_path / "export", source[1].average, tiny())
    with pytest.raises(ConfigError, match=r"no record of its training images; set init_from\.kimg"):
        begin(export, schedules="keep")
    assert begin(export, "init_from.kimg=0.04", schedules="keep")[0].images_before == 40
    for options in (["kimg=1.0"], ["kimg=-1.0", "schedules=keep"]):
        with pytest.raises(ConfigError, match=r"kimg=-?1\.0"):
            from_options(InitConfig, ["path=x", *options])


def test_differing_options_are_logged(source, begin):
    log = begin(source[0], "generator.renderer.samples_coarse=5", "discriminator.mbstd_group=2")[1]
    assert "init_from: generator.renderer.samples_coarse was 4, now 5" in log
    assert "init_from: discriminator.mbstd_group was 4, now 2" in log
    assert log.count(" was ") == 2


@pytest.mark.parametrize("schedules", ["restart", "keep"])
def test_a_stopped_run_resumes_without_the_source(source, tiny, start, at_step, schedules):
    path = source[0]
    config = tiny(f"init_from={{path: {path}, schedules: {schedules}}}", *SCHEDULES)
    code, whole, _ = start(config, "whole")
    assert code == 0
    at_step(2)
    code, parts, log = start(config, "parts")
    assert code == 75
    assert "starting from" in log
    shutil.rmtree(path)
    at_step(None)
    code, _, log = start(config, "parts")
    assert code == 0
    assert "continuing from 0.024 kimg" in log
    assert "starting from" not in log
    ends = [folder / "checkpoints" / store.name_of(8) for folder in (whole, parts)]
    assert [store.verify(end)["images_before"] for end in ends] == (
        [24, 24] if schedules == "keep" else [0, 0]
    )
    for kind in ("generator", "generator_raw", "discriminator"):
        a, b = (stored_networks.read_tensors(end / f"{kind}.safetensors")[0] for end in ends)
        assert all(torch.equal(a[k], b[k]) for k in a)


def spoilt(kind, path, module, config, tmp_path):
    """An unusable source."""
    folder = tmp_path / kind
    if kind == "only D":
        folder.mkdir()
        stored_networks.save_network(
            folder, "discriminator", module.discriminator.state_dict(), 16, 16
        )
        shutil.copy(path / "checkpoints" / store.name_of(3) / "config.yaml", folder)
    elif kind == "other resolution":
        stored_networks.save_generator(folder, module.average, config)
        stored_networks.save_network(folder, "generator", module.average.state_dict(), 32, 16)
    elif kind == "damaged":
        folder = path / "checkpoints" / store.name_of(3)
        (folder / "discriminator.safetensors").write_bytes(b"x")
    return folder


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "missing: no such folder"),
        ("only D", "contains no generator"),
        ("other resolution", "images have 32 pixels, the data 16; prepare the data at 32"),
        ("damaged", "checksum differs"),
    ],
)
def test_invalid_sources_are_rejected_and_leave_no_run(
    source, tiny, start, tmp_path, kind, message
):
    path = spoilt(kind, *source, tiny(), tmp_path)
    with pytest.raises(UserError) as caught:
        start(tiny(f"init_from.path='{path}'"))
    assert message in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("generator.w_dim=16", "(G_ema) does not fit its configuration"),
        ("discriminator.channels=[4, 8, 8]", "(D) does not fit its configuration"),
        ("generator.mapping.condition=camera", "mapping.embed.weight is missing"),
    ],
)
def test_other_networks_are_rejected_before_any_process_starts(
    source, tiny, start, tmp_path, monkeypatch, override, message
):
    def build(*_):
        raise AssertionError("built")

    monkeypatch.setattr("lightning_gan3d.training.fit.AdversarialModule", build)
    monkeypatch.setattr("lightning_gan3d.training.fit.run_processes", build)
    for devices in (1, 2):
        split = (f"training.devices={devices}", "training.microbatch=4")
        with pytest.raises(CheckpointError) as caught:
            start(tiny(f"init_from.path={source[0]}", override, *split))
        assert message in str(caught.value)
        assert not (tmp_path / "runs").exists()


def test_a_restarted_run_requires_the_same_source(source, tiny, start, at_step):
    path, module = source
    overrides = (f"init_from.path={path}", "training.rendering_resolution={initial: 12}")
    at_step(0)
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
    at_step(None)
    with pytest.raises(ConfigError, match="has changed since this run started"):
        start(tiny(*overrides))
    assert Run(run).manifest()["init_from"]["content"] == content


def test_a_pickle_and_its_import_have_equal_fingerprints(tmp_path):
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


def test_the_hash_depends_on_the_name_of_the_source_not_its_folder(tiny):
    one, moved, other = (
        tiny(f"init_from.path={path}").hash for path in ("a/x.pkl", "/b/c/x.pkl", "a/y.pkl")
    )
    assert one == moved != other


def test_schedules_need_a_source(tiny):
    with pytest.raises(ConfigError, match=r"init_from\.schedules=eg3d: set init_from\.path too"):
        tiny("init_from.schedules=eg3d")


def test_a_dry_run_checks_the_source(tiny, source):
    assert "generator" in plan(tiny(f"init_from.path={source[0]}"))
    with pytest.raises(UserError, match="no such folder"):
        plan(tiny("init_from.path=nowhere"))


def test_an_imported_eg3d_network_is_fine_tuned_and_resumed(tmp_path, start, at_step):
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
    at_step(0)
    code, path, log = start(config)
    assert code == 75
    assert "starting from" in log
    assert "was" not in log  # nothing differs from the import
    first = path / "checkpoints" / store.name_of(1)
    name = "representation.decoder.net.0.weight"
    after = stored_networks.read_tensors(first / "generator_raw.safetensors")[0][name]
    before = stored_networks.read_tensors(tmp_path / "cars" / "generator_raw.safetensors")[0][name]
    step = (after - before).abs().max()
    assert 0 < step < 0.02  # Adam moves each number by about its learning rate, in two phases
    shutil.rmtree(tmp_path / "cars")
    pickle.unlink()
    at_step(None)
    code, path, log = start(config)
    assert code == 0
    assert "continuing from 0.002 kimg" in log
    last = path / "checkpoints" / store.name_of(2)
    tensors = stored_networks.read_tensors(last / "generator.safetensors")[0]
    assert all(x.isfinite().all() for x in tensors.values())
