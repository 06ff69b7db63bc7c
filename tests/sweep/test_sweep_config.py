import pytest
import yaml

from lightning_gan3d import experiment
from lightning_gan3d.config import ConfigError
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.sweep.plan import SweepEntry, expand, load_sweep, read_record, write_record


def write(folder, **values):
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def plan(path, root):
    sweep, file = load_sweep(path)
    return expand(sweep, file, root)


def test_runs_are_listed_seed_by_seed_in_order(tmp_path):
    path = write(
        tmp_path,
        runs=["demo/voxel", {"preset": "demo/triplane", "overrides": ["training.kimg=2"]}],
        seeds=[3, 1],
        overrides=["training.kimg=1", "training.batch=4"],
        threads=2,
    )
    entries = plan(path, tmp_path / "runs")
    assert [(e.representation, e.seed) for e in entries] == [
        ("voxel", 3),
        ("triplane", 3),
        ("voxel", 1),
        ("triplane", 1),
    ]
    assert entries[0].overrides == (
        "training.kimg=1",
        "training.batch=4",
        "training.threads=2",
        "seed=3",
    )
    assert entries[1].overrides[2] == "training.kimg=2"  # applied after that of the sweep
    assert entries[0].path.parent == tmp_path / "runs" / entries[0].experiment
    assert entries[0].path.name.endswith("-s3")
    assert all(e.config == load_experiment(e.preset, e.overrides) for e in entries)


WIDTH, SAMPLES = "generator.scene.decoder.hidden_dim", "generator.renderer.samples_coarse"


def test_a_grid_is_a_product_and_zip_goes_in_step(tmp_path):
    path = write(
        tmp_path,
        runs=["demo/voxel"],
        grid={SAMPLES: [8, 12], WIDTH: [16, 32]},
        zip={"optimizer.generator.lr": [0.001, 2e-5], "training.precision": ["fp32", "bf16"]},
        exclude=[{SAMPLES: 12, WIDTH: 16}, {WIDTH: 32, "training.precision": "bf16"}],
    )
    entries = plan(path, tmp_path)
    assert [e.factors for e in entries] == [
        {"samples_coarse": s, "hidden_dim": w, "lr": lr, "precision": p}
        for s, w, lr, p in (
            ("8", "16", "0.001", "fp32"),
            ("8", "16", "2e-05", "bf16"),
            ("8", "32", "0.001", "fp32"),
            ("12", "32", "0.001", "fp32"),
        )
    ]
    for entry in entries:
        config = load_experiment(entry.preset, entry.overrides)
        assert config.hash in entry.path.name
        assert config.label == ""
        assert config.logging.wandb_group == f"demo-voxel, {entry.arm}"
        assert str(config.generator.renderer.samples_coarse) == entry.factors["samples_coarse"]
        assert f"{config.optimizer.generator.lr:g}" == entry.factors["lr"]
    assert entries[1].arm == "samples_coarse 8, hidden_dim 16, lr 2e-05, precision bf16"
    assert entries[1].label == f"demo-voxel, {entries[1].arm}, seed 0"


def test_arms_are_named_by_label_or_by_representation_and_factors(tmp_path):
    runs = ["demo/voxel", "demo/nerf_mlp", {"preset": "demo/triplane", "label": "planes: 3"}]
    entries = plan(write(tmp_path, runs=runs, grid={"training.kimg": [1]}), tmp_path)
    assert [e.arm for e in entries] == ["voxel", "nerf_mlp", "planes: 3"]
    assert load_experiment(entries[2].preset, entries[2].overrides).label == "planes: 3"
    grid = {"training.kimg": [1, 2]}
    labelled = [{"preset": "demo/voxel", "label": "a: b: *c"}]
    several = plan(write(tmp_path, runs=labelled, grid=grid), tmp_path)
    assert [e.arm for e in several] == ["a: b: *c, kimg 1", "a: b: *c, kimg 2"]
    unnamed = plan(write(tmp_path, runs=runs[:2]), tmp_path)
    assert [e.arm for e in unnamed] == ["", ""]
    assert unnamed[0].path == plan(write(tmp_path, runs=runs[:1]), tmp_path)[0].path


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grid": {SAMPLES: []}}, "samples_coarse=.*: name at least one value"),
        ({"grid": {SAMPLES: 8}}, "grid.*samples_coarse=8.*use a list"),
        ({"grid": [8]}, "grid=.*a mapping"),
        ({"grid": {SAMPLES: [8]}, "zip": {SAMPLES: [9]}}, "is in grid and in zip"),
        (
            {"zip": {SAMPLES: [8], WIDTH: [1, 2]}},
            "same number of values .*coarse 1, .*hidden_dim 2",
        ),
        ({"grid": {SAMPLES: [8]}, "exclude": [{SAMPLES: 9}]}, "samples_coarse=9 is not a value"),
        ({"grid": {SAMPLES: [8, -1]}}, r"runs\.0 .*samples_coarse=-1.* use a whole number"),
        ({"grid": {SAMPLES: [8, 8]}}, "is the same experiment as"),
        ({"grid": {"generator.renderer.samples": [8]}}, "unknown key"),
        ({"grid": {"seed": [0, 1]}}, "use `seeds` of the sweep"),
        ({"exclude": [{}]}, "exclude: leaves no combination"),
        ({"grid": {SAMPLES: [8]}, "exclude": [{SAMPLES: 8}]}, "exclude: leaves no combination"),
    ],
)
def test_bad_factors_are_rejected(tmp_path, values, message):
    with pytest.raises(ConfigError, match=message):
        plan(write(tmp_path, runs=["demo/voxel"], **values), tmp_path)


def test_directories_do_not_depend_on_threads_or_jobs(tmp_path):
    def path_of(**values):
        (entry,) = plan(write(tmp_path, runs=["demo/voxel"], **values), tmp_path)
        return entry.path

    assert path_of() == path_of(threads=2) == path_of(jobs=2)
    assert path_of(overrides=["training.kimg=1"]) != path_of()


def test_name_defaults_to_the_file_and_paths_are_relative_to_it(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: ./other.yaml\nname: mine\n")
    preset = load_preset_text()
    (tmp_path / "other.yaml").write_text(preset)
    path = write(tmp_path, runs=["mine.yaml"])
    sweep, _ = load_sweep(path)
    assert sweep.name == "grid"
    (entry,) = plan(path, tmp_path)
    assert entry.experiment == "mine"
    assert entry.preset == str(tmp_path / "mine.yaml")


def load_preset_text():
    from lightning_gan3d.config import to_yaml
    from lightning_gan3d.experiment import load_experiment

    return to_yaml(load_experiment("demo/voxel"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "runs: required"),
        ({"runs": []}, "name at least one preset"),
        ({"runs": "demo/voxel"}, "use a list"),
        ({"runs": [3]}, r"runs\.0=3"),
        ({"runs": [{"overrides": ["a=1"]}]}, r"runs\.0\.preset: required"),
        ({"runs": ["demo/voxle"]}, r"runs\.0 \(demo/voxle\): no preset .* did you mean `demo/vo"),
        ({"runs": ["demo/voxel"], "sede": [1]}, "unknown key `sede`.*did you mean `seeds`"),
        ({"runs": ["demo/voxel"], "seeds": [1, 1]}, "different whole numbers"),
        ({"runs": ["demo/voxel"], "seeds": []}, "different whole numbers"),
        ({"runs": ["demo/voxel"], "seeds": [-1]}, "different whole numbers"),
        ({"runs": ["demo/voxel"], "jobs": 0}, "jobs=0"),
        ({"runs": ["demo/voxel"], "threads": 0}, "threads=0"),
        ({"runs": ["demo/voxel"], "name": "a/b"}, "plain folder name"),
        ({"runs": ["demo/voxel"], "overrides": ["seed=3"]}, "use `seeds`"),
        (
            {"runs": ["demo/voxel"], "overrides": ["training.threads=3"], "threads": 1},
            "use `threads`",
        ),
        ({"runs": ["demo/voxel"], "overrides": ["trainin.kimg=3"]}, "did you mean `training`"),
        ({"runs": ["voxel", {"preset": "voxel", "overrides": ["training.kimg=x"]}]}, r"runs\.1"),
        ({"runs": ["demo/voxel", "demo/voxel"]}, "the same experiment as demo-voxel"),
    ],
)  # fmt: skip
def test_invalid_sweeps_are_rejected(tmp_path, values, message):
    with pytest.raises(ConfigError, match=message):
        plan(write(tmp_path, **values), tmp_path)


def test_unknown_sweeps_are_rejected(tmp_path):
    with pytest.raises(ConfigError, match="no preset `nothing_like_it`"):
        load_sweep("nothing_like_it")
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_sweep(tmp_path / "gone.yaml")


def test_a_record_round_trips_and_moves_with_its_folder(tmp_path):
    root = tmp_path / "a folder" / "runs"
    run = root / "voxel" / "00000000-s0"
    run.mkdir(parents=True)
    common = {"preset": "p", "experiment": "voxel", "representation": "voxel"}
    entries = [
        SweepEntry(**common, overrides=("a=1", "seed=0"), seed=0, path=run),
        SweepEntry(**common, overrides=(), seed=1, path=run.with_name("x"), factors={"lr": "1"}),
    ]
    record = root / "sweeps" / "grid" / "sweep.json"
    write_record(record, entries)
    assert [e.path.resolve() for e in read_record(record)] == [e.path.resolve() for e in entries]
    assert [e.factors for e in read_record(record)] == [{}, {"lr": "1"}]
    assert read_record(record)[0].overrides == ("a=1", "seed=0")
    moved = tmp_path / "elsewhere"
    root.rename(moved)
    paths = [e.path.resolve() for e in read_record(moved / "sweeps" / "grid" / "sweep.json")]
    assert paths[0] == moved / "voxel" / "00000000-s0"


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"runs": 3}', '{"runs": [{}]}', '{"runs": [{"path": "x", "overrides": []}]}'],
)
def test_a_broken_record_is_rejected(tmp_path, text):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(ConfigError, match="not a sweep record"):
        read_record(tmp_path / "sweep.json")


def test_planning_hundreds_of_runs_hashes_each_arm_once(tmp_path, monkeypatch):
    hashed = []
    genuine = experiment.run_hash
    monkeypatch.setattr(
        experiment, "run_hash", lambda config: hashed.append(config) or genuine(config)
    )
    rates = [n / 1000 for n in range(1, 11)]
    path = write(
        tmp_path, runs=["demo/voxel"], grid={"optimizer.generator.lr": rates}, seeds=[*range(40)]
    )
    assert len({e.path for e in plan(path, tmp_path)}) == 400
    assert len(hashed) == 10


def test_overrides_of_the_command_line_win_over_all_of_the_file(tmp_path):
    runs = [{"preset": "demo/voxel", "overrides": ["training.kimg=12"]}]
    path = write(tmp_path, runs=runs, grid={SAMPLES: [8]}, overrides=["training.batch=4"])
    given = ["training.kimg=1", "training.batch=2"]
    (run,) = expand(*load_sweep(path, overrides=given), tmp_path)
    assert (run.config.training.kimg, run.config.training.batch) == (1, 2)
    with pytest.raises(ConfigError, match=f"override `{SAMPLES}=9`: the sweep varies {SAMPLES}"):
        load_sweep(path, overrides=[f"{SAMPLES}=9"])
