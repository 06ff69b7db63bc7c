import dataclasses

import pytest
import torch
from analytic_fields import cameras, clouds

from lightning_gan3d.config import ConfigError, build, to_tree
from lightning_gan3d.draws import Draws
from lightning_gan3d.experiment import load_experiment
from renderers.config import REPLACED_BY_RULES, VolumeRendererConfig
from renderers.volume import VolumeRenderer

BASE = VolumeRendererConfig(samples_coarse=8, samples_fine=8)

CHANGES = {
    "samples_coarse": 9,
    "samples_fine": 5,
    "bounds": "sphere",
    "near": 2.9,
    "far": 3.1,
    "background": 0.5,
    "rules": "eg3d",
    "density_noise": 1.0,
    "importance": "nucleus",
}
NO_EFFECT_ON_RESULTS = {"chunk", "recompute", "path"}
TESTED_ELSEWHERE = {
    "outside",
    "oversample",
    "precision",
    "cache_precision",
    "skip_cells",
    "skip_opacity",
    "nucleus_mass",
}


def render(cfg):
    out = VolumeRenderer(cfg)(clouds(1), cameras(1), 8, Draws(0))
    return torch.cat([x.flatten() for x in out[:3]])


@pytest.mark.parametrize("name", CHANGES)
def test_every_option_has_an_effect(name):
    assert not torch.allclose(
        render(BASE), render(dataclasses.replace(BASE, **{name: CHANGES[name]}))
    )


def test_every_option_is_tested():
    names = {f.name for f in dataclasses.fields(BASE)}
    assert names == set(CHANGES) | NO_EFFECT_ON_RESULTS | TESTED_ELSEWHERE


def test_the_mass_of_a_nucleus_has_an_effect():
    few, many = (
        dataclasses.replace(BASE, importance="nucleus", nucleus_mass=m) for m in (0.5, 0.99)
    )
    assert not torch.allclose(render(few), render(many))


NUCLEUS = {"importance": "nucleus"}
BEYOND = {"skip_cells": 8, "outside": "field"}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"samples_coarse": 0}, "samples_coarse"),
        ({"samples_coarse": 1, "samples_fine": 0, "rules": "eg3d"}, "samples_coarse"),
        ({"samples_coarse": 3, "rules": "eg3d"}, "samples_coarse"),
        ({"samples_fine": -1}, "samples_fine"),
        ({"oversample": 0}, "oversample"),
        ({"bounds": "near_far", "far": 3.0}, "near"),
        ({"bounds": "near_far", "near": 1.0}, "far"),
        ({"near": -0.1}, "near"),
        ({"near": 2.0, "far": 2.0}, "far"),
        ({"far": 0.0}, "far"),
        ({"background": 1.5}, "background"),
        ({"density_noise": -1.0}, "density_noise"),
        ({"precision": "tf32", "path": "plain"}, "precision"),
        ({"chunk": 0}, "chunk"),
        ({"chunk": 47}, "chunk"),
        ({"cache_precision": "fp16", "path": "numba"}, "cache_precision"),
        ({"skip_cells": -1}, "skip_cells"),
        ({**BEYOND, "bounds": "near_far", "near": 1.0, "far": 2.0}, "skip_cells"),
        ({**BEYOND, "rules": "eg3d"}, "skip_cells"),
        ({"skip_opacity": 0.0}, "skip_opacity"),
        ({"skip_opacity": 1.0}, "skip_opacity"),
        ({**NUCLEUS, "rules": "eg3d"}, "importance"),
        ({**NUCLEUS, "samples_fine": 0}, "importance"),
        ({**NUCLEUS, "nucleus_mass": 0.0}, "nucleus_mass"),
        ({**NUCLEUS, "nucleus_mass": 1.1}, "nucleus_mass"),
    ],
)
def test_impossible_options_are_rejected_by_name(options, field):
    with pytest.raises(ConfigError, match=rf"renderer\.{field}="):
        build(VolumeRendererConfig, options, path="renderer.")


def test_samples_multiply_in_deterministic_rendering_only():
    many = VolumeRenderer(dataclasses.replace(BASE, oversample=3))
    counted = VolumeRenderer(dataclasses.replace(BASE, samples_coarse=24, samples_fine=24))
    plain = VolumeRenderer(BASE)
    scene, view = clouds(1), cameras(1)
    assert torch.equal(many(scene, view, 8).feature, counted(scene, view, 8).feature)
    jittered = many(scene, view, 8, Draws(0)).feature
    assert torch.equal(jittered, plain(scene, view, 8, Draws(0)).feature)


ALL_EG3D = dict.fromkeys(REPLACED_BY_RULES, "eg3d")


@pytest.mark.parametrize(
    ("old", "rules"),
    [
        (REPLACED_BY_RULES, "standard"),
        ({"strata": "within"}, "standard"),
        (ALL_EG3D, "eg3d"),
    ],
)
def test_files_of_earlier_versions_are_converted(old, rules):
    cfg = build(VolumeRendererConfig, {"samples_coarse": 9, **old})
    assert cfg == VolumeRendererConfig(samples_coarse=9, rules=rules)
    assert build(VolumeRendererConfig, to_tree(cfg)) == cfg


def test_importance_had_another_meaning_in_earlier_versions():
    cfg = build(VolumeRendererConfig, {"rules": "standard", "importance": "nucleus"})
    assert cfg.importance == "nucleus"
    assert build(VolumeRendererConfig, to_tree(cfg)) == cfg
    with pytest.raises(ConfigError, match=r"importance=nuclues: .*weights.*nucleus"):
        build(VolumeRendererConfig, {"importance": "nuclues"})


def test_a_stored_experiment_of_an_earlier_version_is_read(tmp_path):
    options = ", ".join(f"{name}: {value}" for name, value in ALL_EG3D.items())
    file = tmp_path / "config.yaml"
    file.write_text(f"""
name: old
data: {{path: x.zip}}
generator:
  representation: {{kind: triplane}}
  renderer: {{kind: volume, {options}}}
""")
    assert load_experiment(file).generator.renderer == VolumeRendererConfig(rules="eg3d")


@pytest.mark.parametrize(
    "old",
    [
        {"strata": "eg3d"},
        {**ALL_EG3D, "depth": "far"},
        {**ALL_EG3D, "rules": "eg3d"},
        {"strata": "withn"},
    ],
)
def test_mixed_rules_of_earlier_versions_are_rejected(old):
    with pytest.raises(ConfigError, match=r"strata=.*: replaced by one option; use rules=standard"):
        build(VolumeRendererConfig, old)
