"""Configurations, overrides, options of data commands, and sweep files."""

import dataclasses
import json

import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from mutations import assert_finite, damaged_bytes, mutated, odd, parse, texts

from lightning_gan3d import config as cfg
from lightning_gan3d.config_tree import Origins, load_tree
from lightning_gan3d.data.captures.from_poses import FromPosesConfig
from lightning_gan3d.data.preparers.faces import AfhqConfig, FacesConfig
from lightning_gan3d.data.preparers.shapenet import ShapenetConfig
from lightning_gan3d.data.synthetic.synth import SynthConfig
from lightning_gan3d.data.turntable.collection import TurntableConfig
from lightning_gan3d.errors import UserError
from lightning_gan3d.experiment import ExperimentConfig, load_experiment
from lightning_gan3d.presets import find_file
from lightning_gan3d.sweep.plan import expand, load_sweep

DATA_COMMANDS = [
    SynthConfig, TurntableConfig, FacesConfig, AfhqConfig, ShapenetConfig, FromPosesConfig
]  # fmt: skip
TREE = load_tree(find_file("demo/triplane"), Origins())
FULL = cfg.to_tree(load_experiment("triplane"))
SWEEP = {
    "runs": ["demo/voxel", {"preset": "demo/image2d", "overrides": ["loss.r1_gamma=1"],
             "label": "b"}],
    "name": "s",
    "seeds": [0, 1],
    "overrides": ["training.batch=4"],
    "grid": {"optimizer.generator.lr": [0.001, 0.002], "generator.renderer.kind": ["volume"]},
    "zip": {"training.kimg": [1, 2], "training.precision": ["fp32", "bf16"]},
    "exclude": [{"optimizer.generator.lr": 0.001, "training.kimg": 2}],
    "jobs": 2,
    "threads": 1,
}  # fmt: skip


HUGE = {f"a.{key}": [*range(50)] for key in "abcde"}


def _keys(tree, prefix=""):
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")


@st.composite
def yaml_files(draw, tree):
    """A YAML file with a mutated value, in one of three styles, or with damaged bytes."""
    style = draw(st.sampled_from(["flow", "block", "unicode", "damaged"]))
    if style == "damaged":
        return draw(damaged_bytes(yaml.safe_dump(tree).encode()))
    value = draw(mutated(tree))
    try:
        if style == "flow":
            return json.dumps(value).encode()
        return yaml.safe_dump(value, allow_unicode=style == "unicode").encode(
            "utf-8", "surrogatepass"
        )
    except RecursionError:
        return json.dumps(value).encode()


def check_experiment(config):
    if isinstance(config, UserError):
        return
    assert_finite(config)
    assert len(config.hash) == 8
    tree = cfg.parse_yaml(cfg.to_yaml(config))
    assert cfg.build(ExperimentConfig, tree) == config


@given(st.one_of(yaml_files(TREE), yaml_files(FULL)))
@example(b"base: base.yaml\ndata:\n  resolution; 32\n")
@example(b"base: base.yaml\n" + b"".join(b"k%d: 1\n" % i for i in range(20_000)))
def test_a_configuration_file(tmp_path_factory, content):
    file = find_file("demo/triplane").parent
    path = tmp_path_factory.getbasetemp() / "mine.yaml"
    path.write_bytes(content.replace(b"base.yaml", str(file / "base.yaml").encode()))
    check_experiment(parse(load_experiment, path))


@given(
    st.lists(
        st.tuples(
            st.one_of(st.sampled_from([*_keys(FULL)]), texts),
            st.one_of(texts, odd.map(json.dumps)),
        ).map("=".join),
        min_size=1,
        max_size=2,
    )
)
@example(["data={0}"])
def test_overrides(overrides):
    check_experiment(parse(load_experiment, "demo/triplane", overrides))


@given(st.data())
def test_options_of_data_commands(data):
    command = data.draw(st.sampled_from(DATA_COMMANDS))
    fields = [f.name for f in dataclasses.fields(command)]
    value = st.one_of(texts, odd.map(json.dumps))
    option = st.tuples(st.one_of(st.sampled_from(fields), texts), value).map("=".join)
    config = parse(cfg.from_options, command, data.draw(st.lists(option, max_size=3)))
    if not isinstance(config, UserError):
        assert_finite(config)
        assert cfg.build(command, cfg.parse_yaml(cfg.to_yaml(config))) == config


@given(yaml_files(SWEEP))
@example(yaml.safe_dump({"runs": ["demo/voxel"], "grid": HUGE}).encode())
def test_a_sweep_file(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "grid.yaml"
    path.write_bytes(content)
    loaded = parse(load_sweep, path)
    if isinstance(loaded, UserError):
        return
    sweep, file = loaded
    entries = parse(expand, sweep, file, path.parent)
    if not isinstance(entries, UserError):
        assert len({e.path for e in entries}) == len(entries)
        for entry in entries:
            assert load_experiment(entry.preset, entry.overrides).seed == entry.seed
