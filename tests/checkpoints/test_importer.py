"""Import of files in the formats of EG3D, StyleGAN2-ADA and StyleGAN3."""

import hashlib
import json
import shutil
import warnings

import hostile
import nvidia_files
import pytest
import torch
from handmade import EasyDict, FakeModule, write_network_pickle
from nvidia_files import at, discriminator, numbers, stylegan2, stylegan3, triplane
from reference import labels, latents

from lightning_gan3d import cli
from lightning_gan3d import config as cfg
from lightning_gan3d.checkpoints import store, stored_networks
from lightning_gan3d.checkpoints.importer import import_file, read_file
from lightning_gan3d.checkpoints.load import load_discriminator, load_generator
from lightning_gan3d.checkpoints.store import CheckpointError
from lightning_gan3d.config import ConfigError
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.generator import Generator
from lightning_gan3d.images import Images
from lightning_gan3d.networks.discriminator import Discriminator
from lightning_gan3d.runs import Run

NARROW = "{channel_base: 256, channel_max: 4}"
OFFICIAL = [
    f"generator.representation.synthesis={NARROW}",
    "generator.renderer={samples_coarse: 4, samples_fine: 4}",
    "generator.z_dim=8",
    "discriminator.channel_base=256",
    "discriminator.channel_max=4",
]


def trained(name, shape):
    """Weights of G, other than those of G_ema."""
    return numbers(name, shape) + 0.01


@pytest.fixture(scope="session")
def pickles(tmp_path_factory):
    """Networks of EG3D's 128-pixel models; by protocol 3 the average alone."""
    folder = tmp_path_factory.mktemp("pickles")
    average = triplane()
    networks = {"G": triplane(draw=trained), "D": discriminator(), "G_ema": average}
    about = {"path": "cars_128.zip", "use_labels": True, "max_size": 10, "xflip": False}
    path = folder / "network-snapshot-000000.pkl"
    write_network_pickle(path, **networks, training_set_kwargs=about)
    return {
        3: write_network_pickle(folder / "three.pkl", G_ema=average, protocol=3),
        4: path,
    }


@pytest.fixture(scope="session")
def exported(pickles, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "export"
    import_file(pickles[4], out)
    return out


@pytest.fixture
def export(exported, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(exported, tmp_path / "export")


@pytest.fixture
def read_options(tmp_path):
    """A function that reads a generator with arguments but without weights."""

    def read(G_ema=None, D=None, **changes):
        path = tmp_path / "arguments.pkl"
        write_network_pickle(path, G_ema=G_ema or triplane(whole=False, **changes), D=D)
        return read_file(path)

    return read


@pytest.fixture
def error_of(tmp_path, read_options):
    """A function that returns the one-line error of a generator's arguments."""

    def read(*args, **changes):
        with pytest.raises(CheckpointError) as caught:
            read_options(*args, **changes)
        text = str(caught.value)
        assert text.startswith(f"{tmp_path / 'arguments.pkl'}: ")
        assert text.isprintable()
        return text

    return read


def small(tmp_path):
    return write_network_pickle(tmp_path / "small.pkl", G_ema=stylegan2())


def load(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_generator(path, **options)


def official_generator():
    """The preset of ShapeNet's cars, with weights by EG3D's names."""
    from ours import fill

    config = load_experiment("eg3d/shapenet128", OFFICIAL)
    network = Generator(config.generator, 128).eval().requires_grad_(False)
    fill(network)
    return network


def picture(generator, psi=0.7):
    z, label = latents(1)[:, :8], labels(128, 1)
    with torch.no_grad():
        return generator(z, label, truncation_psi=psi, resolution=8)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))


# Results of an import.


def test_pickle_export_and_a_generator_built_directly_render_equal_bits(pickles, exported):
    expected = picture(official_generator())
    assert expected.image.shape == (1, 3, 128, 128)
    for path in (pickles[3], pickles[4], exported):
        with pytest.warns(UserWarning, match="in 16 bits"):  # a difference
            generator = load_generator(path)
        assert generator.rendering_resolution == 64
        assert not generator.training
        assert not any(p.requires_grad for p in generator.parameters())
        assert same(picture(generator), expected)


def test_an_export_is_complete_and_names_its_source(pickles, exported):
    folder = exported
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint.json", "config.yaml", "discriminator.safetensors", "generator.safetensors",
        "generator_raw.safetensors", "manifest.json",
    ]  # fmt: skip
    manifest = Run(folder).manifest()
    assert manifest["finished"]  # evaluation and reports treat it as a run
    assert manifest["imported_from"]["file"] == "network-snapshot-000000.pkl"
    about = store.verify(folder)
    assert set(about["files"]) == {p.name for p in folder.iterdir()} - {"checkpoint.json"}
    source = about["source"]
    assert source["file"] == "network-snapshot-000000.pkl"
    assert source["sha256"] == hashlib.sha256(pickles[4].read_bytes()).hexdigest()
    assert source["classes"] == {
        "G_ema": "TriPlaneGenerator", "G": "TriPlaneGenerator", "D": "DualDiscriminator",
    }  # fmt: skip
    assert set(source["code_sha256"]) == {"G", "D", "G_ema"}
    assert source["trained_on"]["path"] == "cars_128.zip"
    assert "no commercial use" in about["licence"]
    assert about["orbit"] == {"radius": 1.7, "target": [0, 0, 0]}
    (note,) = about["notes"]
    assert "16 bits" in note
    config = load_experiment(folder / "config.yaml")
    assert config.name == "network-snapshot-000000"
    preset = load_experiment("eg3d/shapenet128", OFFICIAL)
    assert config.generator == preset.generator
    assert config.discriminator == preset.discriminator
    assert config.loss.density_reg == 0.25
    assert config.training.rendering_resolution.initial == 64


def test_g_and_its_average_differ(exported):
    average, raw = load(exported), load(exported, which="G")
    for name, tensor in average.state_dict().items():
        difference = raw.state_dict()[name] - tensor
        torch.testing.assert_close(difference, torch.full_like(tensor, 0.01), rtol=0, atol=1e-4)
    assert not same(picture(average), picture(raw))


def test_the_discriminator_is_imported(exported):
    from ours import fill

    config = load_experiment("eg3d/shapenet128", OFFICIAL)
    direct = Discriminator(config.discriminator, 128).eval()
    fill(direct)
    images = Images(torch.rand(2, 3, 128, 128), torch.rand(2, 3, 64, 64), None, None)
    label = labels(128, 2)
    with torch.no_grad():
        expected = direct(images, label)
        assert torch.equal(load_discriminator(exported)(images, label), expected)


def test_truncation_pulls_toward_the_imported_mean(exported):
    generator = load(exported)
    z, label = latents(1)[:, :8], labels(128, 1)
    ws = generator.mapping(z, label, truncation_psi=0.0)
    mean = numbers("backbone.mapping.w_avg", (512,))
    torch.testing.assert_close(ws[0, 5], mean)


# Arguments in the file.


def value(stored, path):
    value = stored.config
    for name in path.split("."):
        value = getattr(value, name)
    return value


RENDERER, SR = "generator.renderer.", "generator.superresolution."


@pytest.mark.parametrize(
    ("options", "path", "expected"),
    [
        ({"ray_start": 0.5}, RENDERER + "near", 0.5),
        ({"ray_end": 9}, RENDERER + "far", 9.0),
        ({"ray_start": "auto", "ray_end": "auto"}, RENDERER + "bounds", "box"),
        ({"ray_start": "auto", "ray_end": "auto"}, RENDERER + "near", None),
        ({"white_back": False}, RENDERER + "background", 0.0),
        ({"white_back": True}, RENDERER + "background", 1.0),
        ({"depth_resolution": 17}, RENDERER + "samples_coarse", 17),
        ({"depth_resolution_importance": 0}, RENDERER + "samples_fine", 0),
        ({"density_noise": 0.5}, RENDERER + "density_noise", 0.5),
        ({"box_warp": 2.5}, "generator.scene.box", 2.5),
        ({"decoder_lr_mul": 2}, "generator.scene.decoder.lr_mul", 2.0),
        ({"c_gen_conditioning_zero": True}, "generator.mapping.label_scale", 0.0),
        ({"c_gen_conditioning_zero": False}, "generator.mapping.label_scale", 1.0),
        (
            {"c_gen_conditioning_zero": False, "c_scale": 3},
            "generator.mapping.label_scale",
            3.0,
        ),
        ({"superresolution_noise_mode": "none"}, SR + "noise", "none"),
        ({"superresolution_noise_mode": "const"}, SR + "noise", "const"),
        ({"superresolution_noise_mode": "random"}, SR + "noise", "random"),
        ({"sr_antialias": True}, SR + "antialias", True),
        ({"sr_antialias": False}, SR + "antialias", False),
        ({"density_reg": 0.5}, "loss.density_reg", 0.5),
        ({"density_reg_p_dist": 0.02}, "loss.density_reg_distance", 0.02),
        ({"gpc_reg_prob": 0.8}, "training.swap_final", 0.8),
        ({"gpc_reg_prob": None}, "training.swap_final", 0.5),
    ],
)
def test_rendering_options(read_options, options, path, expected):
    assert value(read_options(rendering=options), path) == expected


@pytest.mark.parametrize(
    ("key", "path", "expected"),
    [
        ("c_scale", "generator.mapping.label_scale", 0.0),
        ("white_back", RENDERER + "background", 0.0),
        ("sr_antialias", SR + "antialias", False),
        ("density_reg", "loss.density_reg", 0.0),
        ("decoder_lr_mul", "generator.scene.decoder.lr_mul", 1.0),
        ("superresolution_noise_mode", SR + "noise", "none"),
    ],
)
def test_defaults_of_options_that_old_files_lack(read_options, key, path, expected):
    shown = {"c_gen_conditioning_zero": False}
    assert value(read_options(rendering=shown, without=(key,)), path) == expected


@pytest.mark.parametrize(
    ("changes", "path", "expected"),
    [
        ({"sr_num_fp16_res": 0}, SR + "conv_clamp", None),
        ({"sr_num_fp16_res": 4}, SR + "conv_clamp", 256.0),
        ({"conv_clamp": 128}, "generator.representation.synthesis.conv_clamp", 128.0),
        ({"conv_clamp": None}, "generator.representation.synthesis.conv_clamp", None),
        ({"channel_max": 64}, "generator.representation.synthesis.channel_max", 64),
        ({"use_noise": False}, "generator.representation.synthesis.use_noise", False),
        ({"z_dim": 64}, "generator.z_dim", 64),
        ({"c_dim": 0}, "generator.mapping.condition", "none"),
        ({"mapping_kwargs": {"num_layers": 8}}, "generator.mapping.num_layers", 8),
        ({"mapping_kwargs": {"w_avg_beta": 0.9}}, "generator.mapping.w_avg_decay", 0.9),
        ({"raw": 128}, "rendering", 128),
        ({"raw": None}, "rendering", 64),
    ],
)
def test_arguments_of_the_generator(read_options, changes, path, expected):
    stored = read_options(**changes)
    if path == "rendering":
        assert stored.rendering_resolution == expected
        path = "training.rendering_resolution.initial"
    assert value(stored, path) == expected


@pytest.mark.parametrize(
    ("resolution", "factor", "channels", "leaks"),
    [(128, 2, (128, 64), True), (256, 4, (128, 64), True), (512, 8, (256, 128), False)],
)
def test_superresolutions_and_their_residual_in_the_raw_image(
    read_options, resolution, factor, channels, leaks
):
    stored = read_options(resolution=resolution)
    config = stored.config.generator.superresolution
    assert (config.factor, config.channels, config.residual_in_raw) == (factor, channels, leaks)
    assert stored.resolution == resolution


@pytest.mark.parametrize(
    ("module", "resolution", "channels", "antialias"),
    [
        ("SuperresolutionHybrid8X", 512, (128, 64), True),
        ("SuperresolutionHybridDeepfp32", 256, (128, 64), False),
    ],
)
def test_other_superresolutions_of_the_release(
    read_options, module, resolution, channels, antialias
):
    name = f"training.superresolution.{module}"
    stored = read_options(resolution=resolution, rendering={"superresolution_module": name})
    config = stored.config.generator.superresolution
    assert (config.channels, config.antialias) == (channels, antialias)


def test_plane_axes_come_from_the_file(read_options, error_of):
    axes = "generator.representation.axes"
    released = nvidia_files.RELEASED_PLANES
    corrected = released.clone()
    corrected[2] = torch.tensor([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])
    assert value(read_options(), axes) == "eg3d"
    assert value(read_options(planes=corrected), axes) == "standard"
    assert value(read_options(planes=corrected.half()), axes) == "standard"
    for foreign in (
        released.flip(0), -released, released * 2, torch.zeros(3, 3, 3),
        torch.full((3, 3, 3), float("nan")), released[:2], torch.eye(3), None, "planes",
    ):  # fmt: skip
        assert "plane_axes" in error_of(planes=foreign)


def test_corrected_planes_render_another_image(exported, tmp_path):
    corrected = nvidia_files.RELEASED_PLANES.clone()
    corrected[2] = torch.tensor([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])
    path = write_network_pickle(tmp_path / "corrected.pkl", G_ema=triplane(planes=corrected))
    assert not same(picture(load(path)), picture(load(exported)))


@pytest.mark.parametrize(
    ("changes", "path", "expected"),
    [
        ({}, "conv_clamp", 256.0),
        ({"conv_clamp": None}, "conv_clamp", None),
        ({"conv_clamp": 64}, "conv_clamp", 64.0),
        ({}, "dual", True),
        ({"name": "SingleDiscriminator"}, "dual", False),
        ({"c_dim": 0}, "conditioning", "none"),
        ({"epilogue_kwargs": {"mbstd_group_size": 8}}, "mbstd_group", 8),
        ({"epilogue_kwargs": {"mbstd_num_channels": 0}}, "mbstd_group", 0),
        ({"mapping_kwargs": {"num_layers": 2}}, "mapping_layers", 2),
        # As converted from TensorFlow's files: all options are given, used or not.
        (
            {
                "c_dim": 0,
                "mapping_kwargs": {"num_layers": 0, "lr_multiplier": 0.1, "activation": "lrelu"},
                "block_kwargs": {"activation": "lrelu", "resample_filter": [1, 3, 3, 1]},
                "epilogue_kwargs": {"mbstd_group_size": 4, "activation": "lrelu"},
            },
            "conditioning",
            "none",
        ),
    ],
)
def test_arguments_of_the_discriminator(read_options, changes, path, expected):
    stored = read_options(D=discriminator(whole=False, **changes))
    assert getattr(stored.config.discriminator, path) == expected


def test_noise_on_labels_is_a_note(read_options):
    notes = read_options(D=discriminator(whole=False, disc_c_noise=0.5)).about["notes"]
    assert any("disc_c_noise=0.5" in note for note in notes)


def test_an_unknown_rendering_option_is_a_note(read_options):
    # Notes are warnings too: see the test of equal bits.
    notes = read_options(rendering={"fork\x1b[31m": "x\ny", "other": torch.ones(2)}).about["notes"]
    assert "unknown rendering option rendering_kwargs.fork\\x1b[31m=x\\ny ignored" in notes
    assert "unknown rendering option rendering_kwargs.other=(Tensor) ignored" in notes


@pytest.mark.parametrize(
    ("rendering", "parts"),
    [
        ({"ray_start": "auto"}, ["ray_start=auto, ray_end=2.6"]),
        ({"ray_start": "near"}, ["ray_start=near"]),
        ({"ray_end": None}, ["ray_end=None"]),
        ({"ray_start": float("nan")}, ["ray_start=nan"]),
        ({"ray_start": 3.0}, ["far=2.6"]),
        ({"clamp_mode": "relu"}, ["clamp_mode=relu", "only softplus"]),
        ({"disparity_space_sampling": True}, ["disparity_space_sampling=True"]),
        (
            {"superresolution_module": "os.system"},
            ["module=os.system", "use one of"],
        ),
        ({"superresolution_module": "x.SuperresolutionHybrid2X"}, ["use one of"]),
        ({"superresolution_module": 5}, ["superresolution_module=5"]),
        (
            {"superresolution_module": "training.superresolution.SuperresolutionHybrid8X"},
            ["images of 512, not 128"],
        ),
        ({"superresolution_noise_mode": "loud"}, ["superresolution_noise_mode=loud"]),
        ({"reg_type": "monotonic-fixed"}, ["reg_type=monotonic-fixed", "only l1"]),
        ({"box_warp": "wide"}, ["box_warp=wide", "a number"]),
        ({"box_warp": -1.0}, ["impossible option", "box=-1.0"]),
        ({"c_scale": 10**500}, ["c_scale=a huge number"]),
        ({"depth_resolution": 2.5}, ["depth_resolution=2.5", "a whole number"]),
        ({"depth_resolution": -4}, ["depth_resolution=-4"]),
        ({"white_back": "no"}, ["white_back=no", "true or false"]),
        ({"avg_camera_pivot": [0, 0]}, ["avg_camera_pivot=[0, 0]", "three numbers"]),
        ({"avg_camera_pivot": [0, 0, "x"]}, ["avg_camera_pivot=x"]),
        ({"avg_camera_radius": torch.ones(1)}, ["avg_camera_radius=(Tensor)"]),
        ({"density_reg": None}, ["density_reg=None"]),
        ({"gpc_reg_prob": 7}, ["swap_final=7"]),
    ],
)
def test_impossible_rendering_options_are_rejected_in_one_line(error_of, rendering, parts):
    text = error_of(rendering=rendering)
    for word in parts:
        assert word in text


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"c_dim": 10}, ["c_dim=10", "not cameras"]),
        ({"c_dim": "many"}, ["c_dim=many"]),
        ({"img_channels": 4}, ["img_channels=4", "only 3"]),
        ({"w_dim": 256}, ["w_dim=256"]),
        ({"z_dim": 0}, ["z_dim=0"]),
        ({"z_dim": 2**40}, ["z_dim="]),
        ({"channel_base": "all"}, ["channel_base=all"]),
        ({"channel_max": 0}, ["channel_max=0"]),
        ({"conv_clamp": "soft"}, ["conv_clamp=soft"]),
        ({"mapping_kwargs": 3}, ["mapping_kwargs", "not a mapping"]),
        ({"mapping_kwargs": {"num_layers": 0}}, ["num_layers=0"]),
        ({"mapping_kwargs": {"w_avg_beta": None}}, ["w_avg_beta=None"]),
        ({"mapping_kwargs": {"residual": True}}, ["mapping_kwargs.residual=True", "from a fork?"]),
        ({"mapping_kwargs": {"activation": "relu"}}, ["activation=relu"]),
        ({"resample_filter": [1, 2, 1]}, ["resample_filter=[1, 2, 1]"]),
        ({"resample_filter": torch.ones(4)}, ["resample_filter=(Tensor)"]),
        ({"architecture": "resnet"}, ["architecture=resnet", "only skip"]),
        ({"normal_head": True}, ["normal_head=True", "from a fork?"]),
        ({"sr_kwargs": {"deep": True}}, ["sr_kwargs.deep=True", "from a fork?"]),
        ({"without": ("ray_start",)}, ["has no argument rendering_kwargs.ray_start"]),
        ({"without": ("superresolution_module",)}, ["superresolution_module"]),
        ({"raw": "high"}, ["neural_rendering_resolution=high"]),
    ],
)
def test_unsupported_arguments_are_rejected_in_one_line(error_of, changes, parts):
    text = error_of(**changes)
    for word in parts:
        assert word in text


def test_the_generator_beside_an_unsupported_discriminator_is_read(tmp_path):
    path = tmp_path / "fork.pkl"
    foreign = discriminator(whole=False, name="DummyDualDiscriminator")
    write_network_pickle(path, G_ema=triplane(), D=foreign)
    with pytest.warns(UserWarning, match="16 bits"):
        assert load_generator(path).resolution == 128
    with pytest.raises(CheckpointError, match="DummyDualDiscriminator"):
        load_discriminator(path)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"name": "DummyDualDiscriminator"}, ["a DummyDualDiscriminator", "DualDiscriminator"]),
        ({"c_dim": 10}, ["c_dim=10"]),
        ({"architecture": "skip"}, ["architecture=skip"]),
        ({"epilogue_kwargs": {"mbstd_group_size": None}}, ["mbstd_group_size=None"]),
        ({"mapping_kwargs": {"lr_multiplier": 0.1}}, ["lr_multiplier=0.1"]),
        ({"block_kwargs": {"activation": "relu"}}, ["activation=relu"]),
        ({"resolution": 256}, ["images of 256, its generator for 128"]),
        ({"heads": 2}, ["heads=2"]),
    ],
)
def test_unsupported_discriminators_are_rejected_in_one_line(error_of, changes, parts):
    text = error_of(D=discriminator(whole=False, **changes))
    for word in parts:
        assert word in text


def test_another_class_is_rejected_by_name(error_of):
    network = triplane(whole=False)
    network.name = "NextGenerator\n"
    assert "the generator is a NextGenerator\\n; use EG3D's" in error_of(network)
    network = triplane(whole=False)
    network.attributes["_init_args"] = (512, 25)
    assert "unnamed arguments" in error_of(network)
    del (network := triplane(whole=False)).attributes["rendering_kwargs"]
    assert "no rendering_kwargs" in error_of(network)


# Tensors in the file.


def extra_layer():
    network = triplane()
    weights = {"weight": torch.ones(2)}
    network.modules["normals"] = FakeModule("training.fork", "Head", parameters=weights)
    return network


def missing_tensor():
    network = stylegan2()
    del at(network, "mapping").buffers["w_avg"]
    return network


def wrong_shape():
    network = stylegan2()
    first = at(network, "mapping.fc0").parameters
    first["weight"] = first["weight"][:3]
    return network


@pytest.mark.parametrize(
    ("fault", "parts"),
    [
        (extra_layer, "normals.weight is not part of the network"),
        (missing_tensor, "mapping.w_avg is missing"),
        (wrong_shape, "mapping.fc0.weight is (3, 16), not (16, 16)"),
    ],
)
def test_tensors_that_do_not_fit_the_arguments_are_named(tmp_path, fault, parts):
    path = write_network_pickle(tmp_path / "fork.pkl", G_ema=fault())
    with pytest.raises(CheckpointError) as caught:
        import_file(path, tmp_path / "deep" / "out")
    assert parts in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["fork.pkl"]
    if fault is not extra_layer:
        with pytest.raises(CheckpointError) as caught:
            load(path)
        assert parts in str(caught.value)


def test_g_and_g_ema_of_different_configurations_are_rejected(tmp_path):
    path = write_network_pickle(
        tmp_path / "two.pkl",
        G=triplane(whole=False, rendering={"box_warp": 2}),
        G_ema=triplane(whole=False),
    )
    with pytest.raises(CheckpointError, match="G and G_ema have different configurations"):
        read_file(path)


def test_the_average_alone_is_imported(tmp_path):
    path = small(tmp_path)
    import_file(path, tmp_path / "out")
    assert {p.stem for p in (tmp_path / "out").glob("*.safetensors")} == {"generator"}
    for place in (path, tmp_path / "out"):
        with pytest.raises(CheckpointError, match=r"holds no (G|.*\(G\)); it holds (G_ema|gen)"):
            load(place, which="G")
        with pytest.raises(CheckpointError, match=r"holds no (D|.*\(D\)); it holds (G_ema|gen)"):
            load_discriminator(place)


def test_without_a_discriminator_the_published_one_is_configured(read_options):
    assert read_options().config.discriminator == load_experiment("eg3d/shapenet128").discriminator


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ({"D": discriminator(whole=False)}, "holds no generator"),
        ({}, "holds no generator"),
        ({"G": EasyDict(a=1)}, "its G is a dict, not a network"),
    ],
)
def test_pickles_without_a_generator_are_rejected(tmp_path, content, parts):
    path = write_network_pickle(tmp_path / "none.pkl", **content)
    with pytest.raises(CheckpointError, match=parts):
        read_file(path)


def test_a_pickle_of_something_else_is_rejected(tmp_path):
    from handmade import dumps

    for value in ({"lpips": triplane(whole=False)}, [1, 2], triplane(whole=False)):
        (tmp_path / "vgg16.pkl").write_bytes(dumps(value))
        with pytest.raises(CheckpointError, match="without the networks G, D or G_ema"):
            read_file(tmp_path / "vgg16.pkl")


# StyleGAN2.


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("c_dim", [0, 25])
def test_stylegan2_becomes_the_2d_baseline(tmp_path, nested, c_dim):
    d = discriminator(32, "Discriminator", c_dim=c_dim)
    path = write_network_pickle(tmp_path / "ffhq.pkl", G_ema=stylegan2(32, c_dim, nested), D=d)
    import_file(path, tmp_path / "out")
    config = load_experiment(tmp_path / "out" / "config.yaml")
    assert config.generator.view_in_label
    assert config.generator.mapping.w_avg_decay == (0.995 if nested else 0.998)
    assert not config.discriminator.dual
    direct = Generator(
        load_experiment(
            "image2d",
            [
                "generator={z_dim: 16, w_dim: 16}",
                f"generator.mapping.condition={'camera' if c_dim else 'none'}",
                "generator.representation.synthesis="
                "{channel_base: 256, channel_max: 4, conv_clamp: 256}",
            ],
        ).generator,
        32,
    ).eval()
    with torch.no_grad():
        for name, tensor in direct.state_dict().items():
            theirs = name.removeprefix("representation.")
            tensor.copy_(numbers(theirs, tuple(tensor.shape)))
    z, label = latents(2)[:, :16], labels(128, 2)
    with torch.no_grad():
        expected = direct(z, label, truncation_psi=0.5).image
        for place in (path, tmp_path / "out"):
            images = load(place)(z, label, truncation_psi=0.5)
            assert torch.equal(images.image, expected)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logits = load_discriminator(tmp_path / "out")(images, label)
    assert logits.isfinite().all()
    notes = store.verify(tmp_path / "out")["notes"]
    assert any("not conditioned on cameras" in note for note in notes) == (c_dim == 0)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"c_dim": 10}, "c_dim=10: its labels are not cameras"),
        ({"architecture": "resnet"}, "architecture=resnet of the Generator: only skip"),
        ({"architecture": "orig", "nested": False}, "architecture=orig"),
        ({"mirror": True}, "unsupported argument synthesis_kwargs.mirror=True"),
        ({"resolution": 48, "whole": True}, "power of two"),
    ],
)
def test_unsupported_stylegan2_is_rejected(tmp_path, changes, parts):
    network = stylegan2(**{"whole": False, **changes})
    path = write_network_pickle(tmp_path / "network.pkl", G_ema=network)
    with pytest.raises(ConfigError, match=parts):
        load(path)


STYLEGAN3 = {
    "t": {},
    "r": {"conv_kernel": 1, "use_radial_filters": True},
}


def our_stylegan3(variant):
    config = load_experiment(
        "image2d",
        [
            "generator={z_dim: 16, w_dim: 16, mapping: {condition: none}}",
            "generator.representation.stylegan3={channel_base: 256, channel_max: 4, num_layers: 4}",
            f"generator.representation.network=stylegan3-{variant}",
        ],
    )
    torch.manual_seed(0)
    return Generator(config.generator, 16).eval().requires_grad_(False)


@pytest.mark.parametrize("variant", STYLEGAN3)
def test_stylegan3_becomes_the_2d_baseline(tmp_path, variant):
    direct = our_stylegan3(variant)
    network = stylegan3(direct, **STYLEGAN3[variant])
    path = write_network_pickle(tmp_path / "afhq.pkl", G_ema=network)
    generator = load(path)
    read, expected = generator.cfg.representation, direct.cfg.representation
    assert (read.network, read.stylegan3) == (expected.network, expected.stylegan3)
    assert generator.cfg.mapping == direct.cfg.mapping
    z, label = torch.randn(1, 16), torch.zeros(1, 25)
    with torch.no_grad():
        assert torch.equal(generator(z, label).image, direct(z, label).image)
    import_file(path, tmp_path / "out")
    assert load_experiment(tmp_path / "out" / "config.yaml").generator == generator.cfg


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"conv_kernel": 1}, "conv_kernel=1 and use_radial_filters=False"),
        ({"lrelu_upsampling": 3}, "lrelu_upsampling"),
        ({"num_layers": 0}, "num_layers"),
        ({"img_resolution": 48}, "resolution=48"),
        ({"c_dim": 7}, "c_dim=7"),
        ({"first_layer": 3}, "first_layer=3"),
    ],
)
def test_unsupported_stylegan3_is_rejected(tmp_path, changes, parts):
    network = stylegan3(our_stylegan3("t"), **changes)
    path = write_network_pickle(tmp_path / "network.pkl", G_ema=network)
    with pytest.raises(ConfigError, match=parts):
        load(path)


# The command.


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(a) for a in arguments])
    shown = capsys.readouterr()
    return ended.value.code or 0, shown.out, shown.err


def test_the_command_prints_a_summary(tmp_path, capsys):
    d = discriminator(32, "Discriminator", c_dim=0)
    path = write_network_pickle(tmp_path / "ffhq.pkl", G_ema=stylegan2(), D=d)
    out = tmp_path / "new folder" / "ffhq"
    code, text, _ = run(capsys, "import", path, "-o", out)
    assert code == 0
    for parts in (
        "G_ema (Generator), D (Discriminator); images of 32², rendered at 32²",
        f"SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}", "licence", "note",
        f"gan3d generate {out}", f"init_from.path={out}",
    ):  # fmt: skip
        assert parts in text
    store.verify(out)


def test_bad_overrides_write_nothing(tmp_path, capsys):
    arguments = ("import", small(tmp_path), "-o", tmp_path / "out")
    for bad, parts in (
        ("generator.mapping.lr_mul=x", "generator.mapping.lr_mul='x' (command line)"),
        ("generator.mapping.lr=1", "unknown key"),
        ("generator.w_dim=256", "does not fit its configuration"),
        ("name", "write key.path=value"),
    ):
        code, _, err = run(capsys, *arguments, bad)
        assert code == 2
        assert parts in err
        assert err.count("\n") == 1
        assert [p.name for p in tmp_path.iterdir()] == ["small.pkl"]


def test_overrides_change_the_written_configuration(pickles, exported, tmp_path):
    option = "generator.superresolution.residual_in_raw=false"
    import_file(pickles[4], tmp_path / "cars", [option, "seed=7", "name=clean"])
    config = load_experiment(tmp_path / "cars" / "config.yaml")
    assert (config.seed, config.name) == (7, "clean")
    z, label = latents(1)[:, :8], labels(128, 1)
    with torch.no_grad():
        clean, leaky = (
            g(z, label, resolution=64) for g in (load(tmp_path / "cars"), load(exported))
        )
    assert torch.equal(clean.image, leaky.image)
    assert (clean.image_raw - leaky.image_raw).abs().max() > 0.1


def test_an_existing_import_needs_overwrite(tmp_path, capsys):
    path, out = small(tmp_path), tmp_path / "out"
    arguments = ("import", path, "-o", out)
    assert run(capsys, *arguments)[0] == 0
    (out / "mine.txt").write_text("notes")
    code, _, err = run(capsys, *arguments, "name=other")
    assert code == 2
    assert "exists: give another folder, or ask to overwrite it" in err
    assert load_experiment(out / "config.yaml").name == "small"
    assert run(capsys, *arguments, "name=other", "--overwrite")[0] == 0
    assert load_experiment(out / "config.yaml").name == "other"
    store.verify(out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "small.pkl"]


def test_foreign_folders_files_and_checkpoints_are_never_replaced(tmp_path, capsys):
    path = small(tmp_path)
    foreign, file, checkpoint = (tmp_path / n for n in ("photos", "file", "step000000001"))
    foreign.mkdir()
    (foreign / "img.png").write_bytes(b"x")
    file.write_text("x")
    checkpoint.mkdir()
    (checkpoint / "training.pt").write_bytes(b"x")
    store.seal(checkpoint, {"step": 1, "kimg": 1.0})
    for out in (foreign, file, checkpoint):
        code, _, err = run(capsys, "import", path, "-o", out, "--overwrite")
        assert code == 2
        assert "is not an import: give another folder" in err
    assert (foreign / "img.png").exists()
    assert file.read_text() == "x"
    store.verify(checkpoint)
    (tmp_path / "empty").mkdir()
    assert run(capsys, "import", path, "-o", tmp_path / "empty", "--overwrite")[0] == 0


def test_a_write_error_is_one_line(tmp_path, capsys, monkeypatch):
    path = small(tmp_path)
    (tmp_path / "file").write_text("x")
    code, _, err = run(capsys, "import", path, "-o", tmp_path / "file" / "out")
    assert code == 2
    assert "cannot be written" in err

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored_networks, "save_file", full)
    code, _, err = run(capsys, "import", path, "-o", tmp_path / "out")
    assert code == 2
    assert "out: cannot be written: No space left on device" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "small.pkl"]


def test_a_flipped_byte_in_an_export_is_rejected(export):
    load(export)
    for name in ("generator.safetensors", "config.yaml"):
        file = export / name
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{name}: checksum differs"):
            load(export)
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    load(export)


@pytest.mark.parametrize("case", ["reduce, protocol 4", "in a module", "nested", "getattr"])
def test_hostile_files_are_rejected_as_unsafe_and_write_nothing(tmp_path, capsys, case):
    marker = tmp_path / "marker"
    path = tmp_path / "hostile.pkl"
    path.write_bytes(hostile.unsafe(str(marker))[case])
    code, out, err = run(capsys, "import", path, "-o", tmp_path / "out")
    assert code == 3
    assert out == ""
    assert err.count("\n") == 1
    assert "nothing was executed" in err
    assert [p.name for p in tmp_path.iterdir()] == ["hostile.pkl"]


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_truncated_files_are_rejected_and_write_nothing(tmp_path, capsys, share):
    path = small(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    code, _, err = run(capsys, "import", path, "-o", tmp_path / "out")
    assert code == 2
    assert err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["small.pkl"]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("ffhq512-128.pkl", "ffhq512-128"),
        ("my network (1).pkl", "my-network-1-"),
        ("a:b*c?.pkl", "a-b-c-"),
        ("gesichter-für-alle.pkl", "gesichter-für-alle"),
        (".hidden.pkl", "hidden"),
        ("....pkl", "imported"),
        ("1e5.pkl", "1e5"),
        ("no.pkl", "no"),
        ("no-ending", "no-ending"),
    ],
)
def test_odd_file_names_become_valid_run_names(tmp_path, file, name):
    path = write_network_pickle(tmp_path / file, G_ema=stylegan2(whole=False))
    config = read_file(path).config
    assert config.name == name
    (tmp_path / "config.yaml").write_text(cfg.to_yaml(config))
    assert load_experiment(tmp_path / "config.yaml") == config


def test_the_data_set_s_options_are_stored_as_json(tmp_path):
    about = {"path": "x", "labels": torch.ones(2), "odd": float("nan"), 5: {1, 2}}
    path = write_network_pickle(
        tmp_path / "n.pkl", G_ema=stylegan2(whole=False), training_set_kwargs=about
    )
    trained_on = read_file(path).about["source"]["trained_on"]
    assert trained_on["path"] == "x"
    json.dumps(trained_on)
