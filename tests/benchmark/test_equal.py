"""Presets of equal budgets are equal by count."""

import dataclasses
from collections import Counter
from itertools import product
from pathlib import Path

import pytest
import torch

from lightning_gan3d.cost import Cost, count_cost
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.generator import Generator
from lightning_gan3d.presets import preset_names
from lightning_gan3d.sweep.plan import expand, load_sweep

FIELDS = ("triplane", "voxel", "nerf_mlp")
ALL = (*FIELDS, "image2d")
GROUPS = {"parameters": ALL, "memory": ("triplane", "voxel"), "flops": ALL}
NAMES = [f"equal/{group}_{kind}" for group, kinds in GROUPS.items() for kind in kinds]


def cost(name: str) -> Cost:
    config = load_experiment(name)
    assert config.data.resolution is not None
    with torch.device("meta"):
        return count_cost(Generator(config.generator, config.data.resolution))


@pytest.mark.parametrize("kind", ALL)
def test_equal_parameters_are_two_million_in_the_representation(kind: str) -> None:
    parameters = cost(f"equal/parameters_{kind}").parameters["representation"]
    assert parameters == pytest.approx(2e6, rel=0.05)


def test_equal_scene_memory_is_equal_to_the_byte() -> None:
    planes, voxels = cost("equal/memory_triplane"), cost("equal/memory_voxel")
    assert planes.scene_bytes == 4 * 3 * 32 * 256**2
    assert voxels.scene_bytes == 4 * 24 * 64**3
    assert planes.scene_bytes == voxels.scene_bytes


@pytest.mark.parametrize("kind", ALL)
def test_equal_arithmetic_is_38_gflop_an_image(kind: str) -> None:
    assert cost(f"equal/flops_{kind}").total_flops == pytest.approx(38e9, rel=0.05)


def test_all_presets_of_the_folder_are_checked_here() -> None:
    presets = {n for n in preset_names() if n.startswith("equal/")}
    assert presets == {*NAMES, "equal/base"}


@pytest.mark.parametrize("group", GROUPS)
def test_presets_of_a_group_differ_only_in_the_representation(group: str) -> None:
    configs = [load_experiment(f"equal/{group}_{kind}") for kind in GROUPS[group]]
    first = configs[0]
    for config in configs[1:]:
        for part in ("data", "discriminator", "augment", "optimizer", "training", "seed"):
            assert getattr(config, part) == getattr(first, part), (config.name, part)
        assert config.generator.mapping == first.generator.mapping
        assert config.generator.scene == first.generator.scene
        if config.generator.view_in_label:
            continue
        # `recompute` trades time for memory in training and changes no value.
        renderer = dataclasses.replace(config.generator.renderer, recompute=False)
        assert renderer == first.generator.renderer
        assert config.generator.superresolution == first.generator.superresolution
        assert config.loss == first.loss


def budgets(sweep: str) -> dict[str, Cost]:
    """Cost of the first seed of each representation in a sweep."""
    costs = {}
    for entry in expand(*load_sweep(sweep), Path("runs")):
        config = load_experiment(entry.preset, entry.overrides)
        assert config.data.resolution is not None
        with torch.device("meta"):
            costs[entry.representation] = count_cost(
                Generator(config.generator, config.data.resolution)
            )
    return costs


def test_the_demo_is_swept_at_equal_budgets() -> None:
    parameters = budgets("demo_equal_parameters")
    assert set(parameters) == set(ALL)
    for cost in parameters.values():
        assert cost.parameters["representation"] == pytest.approx(32_404, rel=0.01)
    flops = budgets("demo_equal_flops")
    assert set(flops) == set(ALL)
    for cost in flops.values():
        assert cost.total_flops == pytest.approx(64.6e6, rel=0.03)
    memory = budgets("demo_equal_memory")
    assert {kind: cost.scene_bytes for kind, cost in memory.items()} == {
        "triplane": 98_304,
        "voxel": 98_304,
    }


def test_the_ablations_of_representations_and_memory_are_at_equal_budgets() -> None:
    for entry in expand(*load_sweep("ablation/representations"), Path("runs")):
        assert entry.config.data.resolution is not None
        with torch.device("meta"):
            cost = count_cost(Generator(entry.config.generator, entry.config.data.resolution))
        assert cost.parameters["representation"] == pytest.approx(32_404, rel=0.01), entry.label
    kilobytes = {"98 kB": 98_304, "393 kB": 393_216}
    for entry in expand(*load_sweep("ablation/memory"), Path("runs")):
        assert entry.config.data.resolution is not None
        with torch.device("meta"):
            cost = count_cost(Generator(entry.config.generator, entry.config.data.resolution))
        assert cost.scene_bytes == kilobytes[entry.arm.split(", ")[1]], entry.label


def test_each_representation_has_the_same_tuning_budget() -> None:
    rates = Counter()
    for entry in expand(*load_sweep("demo_tuning"), Path("runs")):
        config = load_experiment(entry.preset, entry.overrides)
        rates[config.optimizer.generator.lr, entry.representation] += 1
        assert entry.seed == 3
    assert rates == dict.fromkeys(product((0.001, 0.002, 0.004, 0.008, 0.016), ALL), 1)
