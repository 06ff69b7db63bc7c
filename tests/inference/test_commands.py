import subprocess
import sys
from dataclasses import fields

import pytest

from lightning_gan3d import cli
from lightning_gan3d.config import ConfigError
from lightning_gan3d.inference import config
from lightning_gan3d.inference.commands import field_docs
from lightning_gan3d.inference.model import open_model

OPTIONS = [getattr(config, name) for name in dir(config) if name.endswith("Options")]


@pytest.mark.parametrize("cls", OPTIONS)
def test_every_option_has_a_help_text(cls):
    texts = field_docs(cls)
    for field in fields(cls):
        assert len(texts[field.name]) > 8, field.name
    assert texts["psi"].startswith("Truncation psi")


def test_options_reach_the_command(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(
        "lightning_gan3d.inference.video.video", lambda *a: calls.append(a) or "written"
    )
    line = "video a b --psi 0.5 --cutoff 3 --interpolate w --rendering-resolution 48"
    with pytest.raises(SystemExit) as ended:
        cli.main([*line.split(), "-o", str(tmp_path), "--format", "gif"])
    assert not ended.value.code
    options = config.VideoOptions(
        psi=0.5, cutoff=3, interpolate="w", rendering_resolution=48, format="gif"
    )
    assert calls == [(["a", "b"], options, tmp_path)]


def test_several_runs_have_a_folder_each_and_overrides_reach_the_renderer(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "lightning_gan3d.inference.mesh.mesh", lambda *a: calls.append(a) or "written"
    )
    line = "mesh a pretrained:voxel generator.renderer.oversample=3 --seeds 2"
    with pytest.raises(SystemExit) as ended:
        cli.main([*line.split(), "-o", str(tmp_path)])
    assert not ended.value.code
    options = config.MeshOptions(seeds="2", overrides=("generator.renderer.oversample=3",))
    expected = [("a", options, tmp_path / "a"), ("pretrained:voxel", options, tmp_path / "voxel")]
    assert calls == expected


def test_overrides_change_the_renderer_alone():
    own = open_model("pretrained:voxel", config.ModelOptions())
    override = ("generator.renderer.samples_coarse=7",)
    changed = open_model("pretrained:voxel", config.ModelOptions(overrides=override))
    assert changed.generator.cfg.renderer.samples_coarse == 7
    assert own.generator.cfg.renderer.samples_coarse != 7
    with pytest.raises(ConfigError, match=r"only generator\.renderer can change"):
        open_model("pretrained:voxel", config.ModelOptions(overrides=("loss.r1_gamma=1",)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["video", "a", "--fps", "0"], "fps=0: use a whole number in [1, 120]"),
        (["generate", "a", "--outputs", "depths"], "outputs=depths"),
        (["mix", "a", "--pairs", "2"], "pairs=2: use 0, or 3 or more"),
        (["mesh", "a", "--resolution", "4"], "resolution=4: use a whole number from 8"),
        (["edit", "a", "--method", "labels"], "labels with no labels: method=labels needs"),
        (["video", "/nowhere"], "/nowhere"),
        (["mesh", "generator.renderer.oversample=2"], "mesh: name at least one generator"),
        (["generate", "label=" + 300 * "x"], "generate: name at least one generator"),
        (["mix", "/nowhere"], "/nowhere"),
        (["mesh", "/nowhere"], "/nowhere"),
        (["edit", "/nowhere"], "/nowhere"),
        (["export", "/nowhere", "-o", "x"], "/nowhere"),
        (["generate", "pretrained:x"], "pretrained:x: use one of"),
        (["evaluate", "hf://x"], "use hf://org/name"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    capsys, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.iterdir())


def test_the_options_import_no_torch():
    code = (
        "import sys; from lightning_gan3d.inference import commands\n"
        "sys.exit('torch' in sys.modules or not commands)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
