"""Every preset resolves, builds and generates; the comparison is fair by construction."""

import dataclasses

import pytest
import torch

from lightning_gan3d import config as cfg
from lightning_gan3d.config import ConfigError
from lightning_gan3d.experiment import load_experiment, run_hash
from lightning_gan3d.generator import Generator
from lightning_gan3d.presets import preset_names, presets_folder

RUNNABLE = preset_names("runs")
SHARED = ("z_dim", "w_dim", "scene")


@pytest.mark.parametrize("name", RUNNABLE)
def test_every_preset_resolves_and_builds_a_generator_without_memory(name):
    config = load_experiment(name)
    with torch.device("meta"):
        generator = Generator(config.generator, config.data.resolution or 64)
    assert generator.representation.num_ws >= 1
    assert generator.mapping.num_ws == generator.representation.num_ws


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_resolved_preset_is_the_same_experiment(name, tmp_path):
    config = load_experiment(name)
    path = tmp_path / "config.yaml"
    path.write_text(cfg.to_yaml(config))
    again = load_experiment(path)
    assert again == config
    assert again.hash == config.hash


@pytest.mark.parametrize("folder", ["", "demo/", "coil100/", "synth64/"])
def test_a_comparison_shares_everything_but_the_representation(folder):
    kinds = ["triplane", "voxel", "nerf_mlp", "image2d"]
    # Elsewhere, splats have a tuned learning rate and are rendered at full size throughout.
    kinds += ["splats"] if folder == "" else []
    # These learning rates are tuned for each representation; elsewhere one is shared.
    tuned = ["optimizer.generator.lr=0.002"] if folder in ("demo/", "coil100/") else []
    configs = [load_experiment(f"{folder}{kind}", tuned) for kind in kinds]
    for config in configs[1:]:
        for part in ("data", "discriminator", "augment", "optimizer", "training"):
            assert getattr(config, part) == getattr(configs[0], part), (config.name, part)
        for part in SHARED:
            assert getattr(config.generator, part) == getattr(configs[0].generator, part)
        mine, first = config.generator.renderer, configs[0].generator.renderer
        if type(mine) is type(first):  # `recompute` trades memory for time, and changes no number
            assert dataclasses.replace(mine, recompute=False) == dataclasses.replace(
                first, recompute=False
            )
            assert config.generator.superresolution == configs[0].generator.superresolution


def test_presets_are_beside_the_package_and_found_by_name_or_path():
    assert (presets_folder() / "triplane.yaml").is_file()
    assert load_experiment(presets_folder() / "triplane.yaml") == load_experiment("triplane")


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean `triplane`"):
        load_experiment("triplan")


@pytest.mark.parametrize(
    "override",
    [
        "seed=9",
        "data.path=elsewhere",
        "data.num_workers=2",
        "training.threads=3",
        "logging.wandb=offline",
    ],
)
def test_the_hash_ignores_seed_paths_and_machine(override):
    assert run_hash(load_experiment("triplane", [override])) == run_hash(
        load_experiment("triplane")
    )


@pytest.mark.parametrize(
    "override", ["training.batch=16", "generator.scene.box=1.5", "data.mirror=true"]
)
def test_the_hash_changes_with_the_experiment(override):
    assert run_hash(load_experiment("triplane", [override])) != run_hash(
        load_experiment("triplane")
    )


@pytest.mark.parametrize(
    ("overrides", "fragments"),
    [
        (
            ["generator.representation.kind=triplan"],
            ["no representation `triplan`", "did you mean `triplane`"],
        ),
        (["generator.renderer={kind: picture}"], ["renderer.kind=picture", "TriPlane"]),
        (
            ["generator.representation.resolution=100"],
            ["representation.resolution=100", "power of two"],
        ),
        (["generator.z_dim=0"], ["generator.z_dim=0", "(command line)"]),
        (["name=a/b"], ["name='a/b'", "a plain folder name"]),
        (["seed=-1"], ["seed=-1"]),
        (["training.batch=30", "training.microbatch=8"], ["microbatch=8", "does not divide"]),
        (["generator.scene.density.scale=0"], ["density.scale=0"]),
    ],
)
def test_invalid_experiments_are_rejected(overrides, fragments):
    with pytest.raises(ConfigError) as error:
        load_experiment("triplane", overrides)
    for fragment in fragments:
        assert fragment in str(error.value)


def test_options_that_need_a_field_are_rejected_for_a_picture():
    with pytest.raises(ConfigError, match="no density field"):
        load_experiment("image2d", ["loss.density_reg=0.25"])
