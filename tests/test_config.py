from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Interval

from lightning_gan3d import config as cfg
from lightning_gan3d.config import POWER_OF_TWO, ConfigError, Count, Share, from_options


@dataclass(frozen=True)
class Inner:
    lr: float = 0.1
    betas: tuple[float, float] = (0.0, 0.99)
    widths: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.lr <= 0:
            raise ConfigError(f"lr={self.lr}: use a positive number", field="lr")


@dataclass(frozen=True)
class Plug:
    size: int = 4
    inner: Inner = Inner()


@dataclass(frozen=True)
class Other:
    depth: int = 1
    inner: Inner = Inner()


def plug_kinds(name):
    if name not in ("plug", "other"):
        raise ConfigError(f"no plug-in `{name}`; have plug, other")
    return {"plug": Plug, "other": Other}[name]


@dataclass(frozen=True)
class Outer:
    name: str
    steps: int = 1
    mode: Literal["fast", "slow"] = "fast"
    flag: bool = False
    inner: Inner = Inner()
    part: object = field(
        default=None,
        metadata={"kinds": plug_kinds, "name_of": lambda c: {Plug: "plug", Other: "other"}[c]},
    )


def load(tmp_path, text, overrides=(), **files):
    for name, content in files.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    path = tmp_path / "main.yaml"
    path.write_text(text)
    origins = cfg.Origins()
    tree = cfg.load_tree(path, origins)
    return cfg.build(Outer, cfg.resolve(cfg.apply_overrides(tree, overrides, origins)), origins)


def test_numbers_lists_and_defaults(tmp_path):
    built = load(tmp_path, "name: a\ninner: {lr: 1e-3, betas: [0, 0.9], widths: [8, 4]}\n")
    assert built.inner == Inner(0.001, (0.0, 0.9), (8, 4))
    assert isinstance(built.inner.betas[0], float)
    assert built.steps == 1


def test_base_files_merge_and_overrides_win(tmp_path):
    built = load(
        tmp_path,
        "base: below.yaml\ninner: {lr: 0.5}\n",
        ["steps=7", "inner.widths=[1,2]"],
        below="name: b\nsteps: 3\ninner: {lr: 0.2, betas: [0.1, 0.2]}\n",
    )
    assert built == Outer("b", 7, inner=Inner(0.5, (0.1, 0.2), (1, 2)))


def test_a_new_kind_keeps_the_settings_that_it_has_and_names_those_it_drops(tmp_path, caplog):
    below = "name: b\npart: {kind: plug, size: 9, inner: {lr: 0.3, widths: [4]}}\n"
    text = "base: below.yaml\npart: {kind: other, depth: 2, inner: {lr: 0.4}}\n"
    built = load(tmp_path, text, below=below)
    assert built.part == Other(2, Inner(0.4, widths=(4,)))
    assert not caplog.records, "the author of a file knows"
    same = load(tmp_path, "base: below.yaml\npart: {kind: plug}\n", below=below)
    assert same.part == Plug(9, Inner(0.3, widths=(4,)))
    switched = load(tmp_path, below, ["part.depth=5", "part.kind=other"])
    assert switched.part == Other(5, Inner(0.3, widths=(4,)))
    assert caplog.messages == [
        "part.kind=other (command line): keeps inner, depth; drops size, which this kind does not "
        "have"
    ]
    assert load(tmp_path, below, ["part.kind=other", "part.kind=plug"]).part == same.part
    with pytest.raises(ConfigError, match=r"unknown key `part\.size` .command line."):
        load(tmp_path, below, ["part.kind=other", "part.size=3"])
    kept = load(tmp_path, below + "inner: {lr: '${part.inner.lr}'}\n", ["part.kind=other"])
    assert kept.inner.lr == 0.3


def test_base_names_a_preset_from_any_folder(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("base: demo/voxel\nname: own\n")
    tree = cfg.load_tree(path, cfg.Origins())
    assert tree["name"] == "own"
    assert tree["generator"]["representation"]["kind"] == "voxel"
    path.write_text("base: demo/vxel\n")
    with pytest.raises(ConfigError, match="no preset `demo/vxel`; did you mean `demo/voxel`"):
        cfg.load_tree(path, cfg.Origins())


@pytest.mark.parametrize("word", ["off", "on", "yes", "no", "n", "1:30", "0x10", "2026-01-01"])
def test_words_of_yaml_1_1_are_text(tmp_path, word):
    assert load(tmp_path, f"name: {word}\n").name == word
    assert load(tmp_path, "name: a\n", [f"name={word}"]).name == word
    for number in ("steps", "inner.lr", "flag"):
        with pytest.raises(ConfigError, match=f"{number}='{word}' .command line."):
            load(tmp_path, "name: a\n", [f"{number}={word}"])


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), (".5", 0.5), ("+2", 2.0), ("-1.5E+2", -150.0), ("010", 10)]
)
def test_numbers_are_decimal(text, value):
    assert cfg.parse_yaml(text) == value
    assert cfg.parse_yaml(f"[{text}, ~, null, true]") == [value, None, None, True]


def test_the_resolved_yaml_builds_the_same_again(tmp_path):
    built = load(tmp_path, "name: a\npart: {kind: plug, size: 2}\ninner: {widths: [3]}\n")
    assert load(tmp_path, cfg.to_yaml(built)) == built


@pytest.mark.parametrize(
    ("text", "overrides", "fragments"),
    [
        (
            "name: a\nsteps: 2\ninner:\n  lrr: 1\n",
            [],
            ["unknown key `inner.lrr`", "main.yaml:4", "did you mean `lr`", "betas"],
        ),
        ("name: a\nstepz: 2\n", [], ["unknown key `stepz`", "main.yaml:2", "`steps`"]),
        ("name: a\nsteps: many\n", [], ["steps='many'", "main.yaml:2", "a whole number"]),
        ("name: a\nsteps: 1.5\n", [], ["steps=1.5", "a whole number"]),
        ("name: a\nsteps: true\n", [], ["steps=True", "a whole number"]),
        ("name: a\nflag: 1\n", [], ["flag=1", "true or false"]),
        ("name: a\nmode: fats\n", [], ["mode=fats", "fast, slow", "did you mean `fast`"]),
        ("name: a\ninner: 3\n", [], ["inner=3", "a mapping"]),
        ("name: a\ninner: {betas: [0.1]}\n", [], ["inner.betas", "a list of 2"]),
        ("name: a\ninner:\n  lr: -1\n", [], ["lr=-1.0: use a positive number", "main.yaml:3"]),
        ("name: a\ninner: {lr: .nan}\n", [], ["inner.lr", "a number"]),
        ("name: a\ninner: {lr: .inf}\n", [], ["inner.lr", "a number"]),
        ("name: a\ninner: {lr: nan}\n", [], ["inner.lr", "a number"]),
        ("base: 5\n", [], ["main.yaml", "base=5", "name a YAML file"]),
        ("steps: 2\n", [], ["name: required"]),
        (
            "name: a\npart: {kind: plag}\n",
            [],
            ["part.kind=plag", "main.yaml:2", "have plug, other"],
        ),
        ("name: a\npart: {size: 3}\n", [], ["part=", "`kind:`"]),
        ("name: a\npart: {kind: plug, depth: 3}\n", [], ["unknown key `part.depth`", "size"]),
        ("name: a\nname: b\n", [], ["main.yaml", "not a valid YAML", "duplicate key"]),
        ("name: [a\n", [], ["main.yaml", "not a valid YAML"]),
        ("- a\n", [], ["a mapping of keys"]),
        ("name: !!python/object/apply:os.system ['true']\n", [], ["tag"]),
        ("name: a\nsteps: ${nowhere}\n", [], ["interpolation"]),
        ("base: gone.yaml\n", [], ["gone.yaml", "no such configuration file"]),
        ("base: main.yaml\n", [], ["is circular"]),
        ("name: a\n", ["--steps=3"], ["override `--steps=3`", "write key.path=value"]),
        ("name: a\n", ["steps"], ["override `steps`"]),
        ("name: a\n", ["inner.betas[0]=1"], ["override `inner.betas[0]=1`"]),
        ("name: a\n", ["inner.lrr=1"], ["unknown key `inner.lrr` (command line)"]),
        ("name: a\n", ["inner.lr=0"], ["use a positive number", "(command line)"]),
    ],
)
def test_errors_name_field_value_origin_and_remedy(tmp_path, text, overrides, fragments):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text, overrides)
    for fragment in fragments:
        assert fragment in str(error.value)


def test_the_digest_depends_on_values_not_on_their_order():
    assert cfg.digest({"a": 1, "b": 2}) == cfg.digest({"b": 2, "a": 1})
    assert cfg.digest({"a": 1, "b": 2}) != cfg.digest({"a": 1, "b": 3})


@dataclass(frozen=True)
class Ranges:
    count: Count = 4
    share: Share = 0.5
    size: Annotated[int, Ge(8), POWER_OF_TWO] = 32
    half: Annotated[float, Interval(gt=0, lt=1)] | None = None
    betas: tuple[Annotated[float, Interval(ge=0, lt=1)], Share] = (0.0, 0.9)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("count=0", "count=0 (command line): use a whole number from 1, e.g. 4"),
        ("share=1.5", "share=1.5 (command line): use a number in [0, 1], e.g. 0.5"),
        ("size=12", "size=12 (command line): use a whole number from 8, a power of two, e.g. 32"),
        ("size=4", "size=4 (command line): use a whole number from 8, a power of two, e.g. 32"),
        ("half=1", "half=1 (command line): use a number in (0, 1)"),
        ("betas=[1.0,0.9]", "betas.0=1.0 (command line): use a number in [0, 1), e.g. (0.0, 0.9)"),
    ],
)
def test_a_value_outside_its_annotated_range_is_rejected(override, message):
    with pytest.raises(ConfigError) as error:
        from_options(Ranges, [override])
    assert str(error.value) == message


def test_values_inside_their_annotated_range_are_accepted():
    built = from_options(Ranges, ["count=1", "share=0", "size=8", "half=0.5", "betas=[0,1]"])
    assert built == Ranges(1, 0.0, 8, 0.5, (0.0, 1.0))


def test_a_position_changes_one_item_of_a_list():
    tree = {"terms": [{"kind": "a", "weight": 1}, {"kind": "b", "weight": 2}], "betas": [0, 1]}
    changed = cfg.apply_overrides(tree, ["terms.1.weight=5", "betas.0=0.5"], cfg.Origins())
    assert changed == {"terms": [tree["terms"][0], {"kind": "b", "weight": 5}], "betas": [0.5, 1]}
    assert tree["terms"][1]["weight"] == 2
    with pytest.raises(ConfigError, match=r"terms.2: the list has 2 item\(s\), numbered from 0"):
        cfg.apply_overrides(tree, ["terms.2.weight=5"], cfg.Origins())


@dataclass(frozen=True)
class Required:
    count: Count


@dataclass(frozen=True)
class Nested:
    inner: Required = Required(3)


def test_an_error_further_down_has_no_example_of_the_part_above():
    with pytest.raises(ConfigError) as error:
        from_options(Nested, ["inner.count=0"])
    assert str(error.value) == "inner.count=0 (command line): use a whole number from 1"
