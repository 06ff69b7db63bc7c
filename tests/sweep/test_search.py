import json
import logging
import sys

import pytest
import yaml

from lightning_gan3d import config as cfg
from lightning_gan3d.config import ConfigError
from lightning_gan3d.sweep.local import run_sweep
from lightning_gan3d.sweep.plan import expand, load_sweep
from lightning_gan3d.sweep.search import SearchConfig, Trial, add_trial, read_trials
from lightning_gan3d.sweep.states import SweepFolder
from lightning_gan3d.sweep.tables import plan_sweep, results

RATE, WIDTH = "optimizer.generator.lr", "generator.scene.decoder.hidden_dim"
SPACE = {
    RATE: {"low": 1e-4, "high": 1e-1, "log": True},
    WIDTH: {"low": 16, "high": 64, "step": 16},
    "loss.r1_gamma": [0.1, 1.0],
}


def search(**values):
    return cfg.build(SearchConfig, {"space": SPACE, **values})


def write(folder, runs=("demo/voxel",), **values):
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({"runs": list(runs), **values}))
    return load_sweep(path)


def test_random_settings_are_in_their_ranges_and_more_trials_keep_the_first(tmp_path):
    few, many = (read_trials(search(trials=n), tmp_path) for n in (5, 60))
    assert many[:5] == few
    assert len({tuple(t.values()) for t in many}) == 60
    assert {t[WIDTH] for t in many} == {16, 32, 48, 64}
    assert {t["loss.r1_gamma"] for t in many} == {0.1, 1.0}
    rates = [t[RATE] for t in many]
    assert 1e-4 <= min(rates) < 3e-4
    assert 0.03 < max(rates) <= 0.1
    assert sum(r < 0.00316 for r in rates) == pytest.approx(30, abs=12)  # half of the decades
    assert read_trials(search(trials=5, seed=1), tmp_path) != few


def test_an_exhausted_space_ends_the_search(tmp_path):
    cfg_small = cfg.build(SearchConfig, {"space": {"a": [[1, 2], [3]], "b": [True, False]}})
    settings = read_trials(cfg_small, tmp_path)
    assert sorted(map(str, settings)) == sorted(
        str({"a": a, "b": b}) for a in ([1, 2], [3]) for b in (True, False)
    )


def test_the_estimator_finds_a_minimum_from_results_alone(tmp_path):
    space = {"x": {"low": -5.0, "high": 5.0}, "kind": ["good", "bad"]}
    how = cfg.build(
        SearchConfig,
        {"space": space, "sampler": "tpe", "metric": "quality.swd", "trials": 40, "startup": 8},
    )
    known = []
    while add_trial(how, tmp_path, known):
        settings = read_trials(how, tmp_path)[-1]
        value = (settings["x"] - 2) ** 2 + 5 * (settings["kind"] == "bad")
        known.append(Trial(settings, value) if len(known) != 3 else Trial(settings, failed=True))
    assert len(known) == 40
    late = [t.settings for t in known[20:]]
    assert sum(t["kind"] == "good" for t in late) >= 15
    assert sum(abs(t["x"] - 2) < 1.5 for t in late) >= 12
    again = [Trial(t.settings, t.value, t.failed) for t in known[:30]]
    add_trial(how, tmp_path / ".", again)
    assert read_trials(how, tmp_path)[-1] == known[30].settings  # decided by the results


def test_drawn_settings_make_arms_in_every_combination(tmp_path):
    loaded = write(
        tmp_path,
        grid={"training.batch": [4, 8]},
        search={"space": SPACE, "trials": 3},
        seeds=[0, 1],
    )
    runs = expand(*loaded, tmp_path)
    assert [(r.seed, r.factors["batch"], r.trial) for r in runs] == [
        (s, b, t) for s in (0, 1) for b in ("4", "8") for t in range(3)
    ]
    for run in runs:
        assert f"{run.config.optimizer.generator.lr:g}" == run.factors["lr"]
        assert run.config.training.batch == int(run.factors["batch"])
    assert len({r.path for r in runs}) == 12
    more = write(tmp_path, search={"space": SPACE, "trials": 5})
    assert {r.path for r in runs if r.seed == 0 and r.factors["batch"] == "8"} < {
        r.path for r in expand(*more, tmp_path)
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"space": {}}, "space=.*: name at least one setting"),
        ({"space": {"a": []}}, r"space\.a=\[\]: use a list of choices"),
        ({"space": {"a": {"low": 2, "high": 1}}}, "with low < high"),
        ({"space": {"a": {"low": 0, "high": 1, "log": True}}}, "needs low > 0"),
        ({"space": {"a": {"low": 0}}}, "use a list of choices"),
        ({"sampler": "tpe"}, "tpe optimises a metric with a better direction"),
        ({"sampler": "tpe", "metric": "quality.nothing"}, "metric='quality.nothing'"),
        ({"sampler": "grid"}, "random.*tpe"),
    ],
)
def test_a_bad_search_is_rejected(tmp_path, values, message):
    with pytest.raises(ConfigError, match=message):
        write(tmp_path, search={"space": SPACE, **values})


def test_a_search_conflicts_with_factors_and_several_configurations(tmp_path):
    tpe = {"space": SPACE, "sampler": "tpe", "metric": "quality.swd"}
    with pytest.raises(ConfigError, match="is in search and in grid or zip"):
        write(tmp_path, search={"space": SPACE}, grid={RATE: [1.0]})
    with pytest.raises(ConfigError, match="optimises one configuration"):
        write(tmp_path, runs=("demo/voxel", "demo/triplane"), search=tpe)
    with pytest.raises(ConfigError, match="use `seeds`"):
        write(tmp_path, search={"space": {"seed": [1, 2]}})


TRAINER = """
import json, sys, yaml
from pathlib import Path

config = yaml.safe_load(Path(sys.argv[1]).read_text())
name, *_, digest, seed = Path(sys.argv[1]).stem.rsplit("-", 2)
path = Path(sys.argv[3]) / name / f"{digest}-{seed}"
path.mkdir(parents=True)
(path / "config.yaml").write_text("name: a")
rate = config["optimizer"]["generator"]["lr"]
if rate > 0.09:
    sys.exit("diverged")
swd = {"name": "quality.swd", "value": abs(rate - 0.002) + config["seed"] / 10}
(path / "evaluation.json").write_text(json.dumps([swd]))
(path / "manifest.json").write_text(json.dumps({"finished": True}))
"""


def test_a_sweep_chooses_trials_by_the_mean_over_seeds_and_continues(tmp_path, caplog):
    caplog.set_level(logging.INFO, "lightning_gan3d.sweep")
    script = tmp_path / "train.py"
    script.write_text(TRAINER)
    command = (sys.executable, str(script))
    space = {RATE: SPACE[RATE]}
    how = {"space": space, "sampler": "tpe", "metric": "quality.swd", "trials": 4, "startup": 2}
    loaded = write(tmp_path, search=how, seeds=[0, 1])
    root = tmp_path / "runs"
    assert plan_sweep(loaded, root).endswith("0 of 4 trials chosen so far")
    assert run_sweep(loaded, root, command=command) == 0
    runs = expand(*loaded, root)
    assert [(r.seed, r.trial) for r in runs] == [(s, t) for s in (0, 1) for t in range(4)]
    longer = write(tmp_path, search={**how, "trials": 6}, seeds=[0, 1])
    assert "8 to skip" in plan_sweep(longer, root)
    assert run_sweep(longer, root, command=command) == 0
    trials = json.loads((root / "sweeps/grid/trials.json").read_text())
    assert len(trials) == 6
    known = [Trial(t, abs(t[RATE] - 0.002) + 0.05) for t in trials]
    (tmp_path / "other").mkdir()
    add_trial(longer[0].search, tmp_path / "other", known[:5])
    assert read_trials(longer[0].search, tmp_path / "other")[5] == trials[5]


def test_trials_are_chosen_while_others_run(tmp_path, caplog):
    caplog.set_level(logging.INFO, "lightning_gan3d.sweep")
    script = tmp_path / "train.py"
    script.write_text("import time; time.sleep(2)\n" + TRAINER)
    how = {"space": {RATE: {"low": 0.001, "high": 0.01}}, "sampler": "tpe", "trials": 3}
    loaded = write(tmp_path, search={**how, "metric": "quality.swd"}, jobs=2)
    assert run_sweep(loaded, tmp_path / "runs", command=(sys.executable, str(script))) == 0
    words = [m.split()[0] for m in caplog.messages]
    assert words[:2] == ["start", "start"]
    assert words.count("done") == 3


def test_a_changed_space_is_rejected_and_arms_keep_their_names(tmp_path):
    tpe = {"sampler": "tpe", "metric": "quality.swd"}
    loaded = write(tmp_path, search={"space": SPACE, **tpe})
    folder = tmp_path / "sweeps" / "grid"
    folder.mkdir(parents=True)
    names = []
    for _ in range(3):
        add_trial(loaded[0].search, folder, results(loaded[0].search, [], SweepFolder(folder)))
        names.append([run.arm for run in expand(*loaded, tmp_path)])
    assert names[2][:2] == names[1]
    assert names[1][:1] == names[0]
    assert names[0][0].startswith("hidden_dim ")
    smaller = {RATE: {"low": 0.5, "high": 0.9}, WIDTH: SPACE[WIDTH], "loss.r1_gamma": [0.1]}
    for space in (smaller, {RATE: SPACE[RATE]}):
        with pytest.raises(ConfigError, match=r"search\.space has changed: .*trials\.json has"):
            expand(*write(tmp_path, search={"space": space, **tpe}), tmp_path)
