import dataclasses

import pytest
import torch
from analytic_fields import cameras, clouds

from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import RenderSettings, SceneConfig
from lightning_gan3d.draws import Draws
from renderers.config import VolumeRendererConfig
from renderers.volume import VolumeRenderer

BASE = VolumeRendererConfig(samples_coarse=8, samples_fine=8)

CHANGES = {
    "samples_coarse": 9,
    "samples_fine": 5,
    "bounds": "sphere",
    "near": 2.9,
    "far": 3.1,
    "background": 0.5,
    "strata": "eg3d",
    "compositing": "eg3d",
    "importance": "eg3d",
    "depth": "eg3d",
    "density_noise": 1.0,
}
NO_EFFECT_ON_RESULTS = {"chunk", "recompute", "path"}


def render(cfg, settings=None):
    o = VolumeRenderer(cfg, SceneConfig(box=2.0, feature_dim=3))
    return torch.cat([x.flatten() for x in o(clouds(1), cameras(1), 8, settings, Draws(0))])


@pytest.mark.parametrize("name", CHANGES)
def test_every_option_has_an_effect(name):
    assert not torch.allclose(
        render(BASE), render(dataclasses.replace(BASE, **{name: CHANGES[name]}))
    )


def test_no_option_is_left_out():
    names = {f.name for f in dataclasses.fields(BASE)}
    elsewhere = {
        "outside",
        "oversample",
        "precision",
        "cache_precision",
        "skip_cells",
        "skip_opacity",
    }
    assert names == set(CHANGES) | NO_EFFECT_ON_RESULTS | elsewhere


@pytest.mark.parametrize("field", dataclasses.fields(RenderSettings), ids=lambda f: f.name)
def test_settings_of_a_call_are_those_of_the_configuration(field):
    value = CHANGES[field.name]
    by_call = render(BASE, RenderSettings(**{field.name: value}))
    by_config = render(dataclasses.replace(BASE, **{field.name: value}))
    torch.testing.assert_close(by_call, by_config, rtol=0, atol=0)
    assert not torch.allclose(by_call, render(BASE))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"samples_coarse": 0}, "samples_coarse"),
        ({"samples_coarse": 1, "compositing": "eg3d"}, "samples_coarse"),
        ({"samples_coarse": 1, "strata": "eg3d"}, "samples_coarse"),
        ({"samples_coarse": 3, "importance": "eg3d"}, "samples_coarse"),
        ({"samples_fine": -1}, "samples_fine"),
        ({"bounds": "near_far", "far": 3.0}, "near"),
        ({"bounds": "near_far", "near": 1.0}, "far"),
        ({"near": -0.1}, "near"),
        ({"near": 2.0, "far": 2.0}, "far"),
        ({"far": 0.0}, "far"),
        ({"background": 1.5}, "background"),
        ({"density_noise": -1.0}, "density_noise"),
        ({"precision": "tf32", "path": "plain"}, "precision"),
        ({"chunk": 47}, "chunk"),
        ({"cache_precision": "fp16", "path": "numba"}, "cache_precision"),
        ({"skip_cells": -1}, "skip_cells"),
        (
            {"skip_cells": 8, "outside": "field", "bounds": "near_far", "near": 1.0, "far": 2.0},
            "skip_cells",
        ),
        ({"skip_cells": 8, "outside": "field", "strata": "eg3d"}, "skip_cells"),
        ({"skip_opacity": 0.0}, "skip_opacity"),
        ({"skip_opacity": 1.0}, "skip_opacity"),
    ],
)
def test_impossible_options_are_refused_by_name(options, field):
    with pytest.raises(ConfigError, match=rf"renderer\.{field}=") as caught:
        VolumeRendererConfig(**options)
    assert caught.value.field == field


def test_settings_are_checked_like_a_configuration():
    with pytest.raises(ConfigError, match=r"renderer\.background=2"):
        render(BASE, RenderSettings(background=2.0))


def test_oversampling_multiplies_the_samples_where_nothing_is_random():
    many = VolumeRenderer(dataclasses.replace(BASE, oversample=3), SceneConfig(box=2.0))
    counted = VolumeRenderer(
        dataclasses.replace(BASE, samples_coarse=24, samples_fine=24), SceneConfig(box=2.0)
    )
    plain = VolumeRenderer(BASE, SceneConfig(box=2.0))
    scene, view = clouds(1), cameras(1)
    assert torch.equal(many(scene, view, 8).feature, counted(scene, view, 8).feature)
    jittered = many(scene, view, 8, None, Draws(0)).feature
    assert torch.equal(jittered, plain(scene, view, 8, None, Draws(0)).feature)
