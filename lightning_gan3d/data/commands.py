"""`gan3d data`: one thin function per command, with lazy imports."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lightning_gan3d.data.captures.from_poses import PreparedCaptures

app = typer.Typer(no_args_is_help=True, help="Create, prepare and validate data sets.")
Options = Annotated[
    list[str] | None, typer.Argument(help="Options: key=value ...", metavar="[K=V]...")
]
Overwrite = Annotated[bool, typer.Option(help="Replace an existing output.")]
Raw = Annotated[Path, typer.Argument(help="A folder or zip (layouts: docs/data_reference.md).")]
Photos = Annotated[Path, typer.Argument(help="Photographs: a folder or zip. from-video: a file.")]
Out = Annotated[Path, typer.Argument(help="Output .zip file or folder.")]


@app.command("synth")
def synth(out: Out, options: Options = None, overwrite: Overwrite = False) -> None:
    """Create procedural figures, heads, scenes or solids with known shape, pose and depth."""
    from lightning_gan3d.config import from_options
    from lightning_gan3d.data.synthetic.synth import SynthConfig, make_synth

    make_synth(from_options(SynthConfig, options or []), out, overwrite=overwrite)
    typer.echo(out)


@app.command("turntable")
def turntable(source: Raw, out: Out, options: Options = None, overwrite: Overwrite = False) -> None:
    """Prepare photographs of objects on a turntable, such as COIL-100."""
    from lightning_gan3d.config import from_options
    from lightning_gan3d.data.turntable.collection import TurntableConfig, prepare_turntable

    cfg = from_options(TurntableConfig, options or [])
    residuals = prepare_turntable(source, out, cfg, overwrite)
    worst = max(residuals, key=lambda k: residuals[k])
    typer.echo(
        f"{out}: {len(residuals)} objects; silhouette residual in pixels: mean "
        f"{sum(residuals.values()) / len(residuals):.2f}, "
        f"maximum {residuals[worst]:.2f} (object {worst})"
    )


@app.command("ffhq")
def ffhq(source: Raw, out: Out, options: Options = None, overwrite: Overwrite = False) -> None:
    """Prepare FFHQ: EG3D's data set, or aligned images with a file of cameras."""
    from lightning_gan3d.config import from_options
    from lightning_gan3d.data.preparers.faces import FacesConfig, prepare_faces

    cfg = from_options(FacesConfig, options or [])
    typer.echo(prepare_faces("ffhq", source, out, cfg, overwrite))


@app.command("celebahq")
def celebahq(source: Raw, out: Out, options: Options = None, overwrite: Overwrite = False) -> None:
    """Prepare CelebA-HQ: images with a file of cameras."""
    from lightning_gan3d.config import from_options
    from lightning_gan3d.data.preparers.faces import FacesConfig, prepare_faces

    cfg = from_options(FacesConfig, options or [])
    typer.echo(prepare_faces("celebahq", source, out, cfg, overwrite))


@app.command("afhq")
def afhq(source: Raw, out: Out, options: Options = None, overwrite: Overwrite = False) -> None:
    """Prepare AFHQ: images with the rotations of their cameras, or EG3D's data set."""
    from lightning_gan3d.config import from_options
    from lightning_gan3d.data.preparers.faces import AfhqConfig, prepare_afhq

    cfg = from_options(AfhqConfig, options or [])
    typer.echo(prepare_afhq(source, out, cfg, overwrite))


@app.command("shapenet")
def shapenet(source: Raw, out: Out, options: Options = None, overwrite: Overwrite = False) -> None:
    """Prepare renders of ShapeNet: those of Scene Representation Networks, or EG3D's data set."""
    from lightning_gan3d.config import from_options
    from lightning_gan3d.data.preparers.shapenet import ShapenetConfig, prepare_shapenet

    cfg = from_options(ShapenetConfig, options or [])
    typer.echo(prepare_shapenet(source, out, cfg, overwrite))


@app.command("from-images")
def images(source: Photos, out: Out, options: Options = None, overwrite: Overwrite = False) -> None:
    """Prepare any photographs as square images, without cameras or with a file of them."""
    from lightning_gan3d.config import from_options
    from lightning_gan3d.data.preparers.from_images import FromImagesConfig, prepare_images

    cfg = from_options(FromImagesConfig, options or [])
    typer.echo(f"{out}: {prepare_images(source, out, cfg, overwrite)}")


@app.command("from-poses")
def from_poses(
    source: Annotated[
        Path, typer.Argument(help="A folder of images with COLMAP's model or transforms.json.")
    ],
    out: Out,
    options: Options = None,
    overwrite: Overwrite = False,
    sheet: Annotated[
        Path | None, typer.Option(help="Output plot of the cameras; default: OUT.cameras.png.")
    ] = None,
) -> None:
    """Prepare your own images with poses; propose box, near and far."""
    from lightning_gan3d.config import from_options
    from lightning_gan3d.data.captures.from_poses import prepare_from_poses
    from lightning_gan3d.data.captures.posed_images import FromPosesConfig

    cfg = from_options(FromPosesConfig, options or [])
    _check_cameras(prepare_from_poses(source, out, cfg, overwrite), sheet)


@app.command("from-video", help="Estimate the cameras of a video around one object, likewise.")
@app.command("from-photos")
def photos(source: Photos, out: Out, options: Options = None, overwrite: Overwrite = False) -> None:
    """Estimate the cameras of photographs of one object, then as from-poses (extra pycolmap)."""
    from lightning_gan3d.config import from_options
    from lightning_gan3d.data.captures.from_photos import FromPhotosConfig, prepare_from_photos

    cfg = from_options(FromPhotosConfig, options or [])
    _check_cameras(prepare_from_photos(source, out, cfg, overwrite))


def _check_cameras(result: "PreparedCaptures", sheet: Path | None = None) -> None:
    from lightning_gan3d.data.captures.camera_plot import draw_cameras
    from lightning_gan3d.data.check import check_dataset
    from lightning_gan3d.data.dataset import DataConfig, ImageDataset

    out = result.out
    data = DataConfig(path=str(out), memory_mb=0)
    typer.echo(check_dataset(data))
    sheet = sheet or out.with_name(f"{out.stem if out.suffix == '.zip' else out.name}.cameras.png")
    draw_cameras(ImageDataset(data, "all"), result.framing, result.points, sheet)
    typer.echo(f"{result}\ncamera plot: {sheet}; check it before training")


@app.command("check")
def check(
    path: Annotated[Path, typer.Argument(help="A folder or zip with dataset.json.")],
    options: Options = None,
    sheet: Annotated[Path | None, typer.Option(help="Output contact sheet (PNG).")] = None,
) -> None:
    """Validate a data set as `train` reads it with data.KEY=VALUE; draw images and cameras."""
    from lightning_gan3d.config import from_options
    from lightning_gan3d.data.check import check_dataset
    from lightning_gan3d.data.dataset import DataConfig

    cfg = from_options(DataConfig, [o.removeprefix("data.") for o in options or []])
    typer.echo(check_dataset(replace(cfg, path=str(path)), sheet))


@app.command("cameras")
def cameras(
    experiment: Annotated[str, typer.Argument(help="A preset or YAML file.")],
    options: Options = None,
    sheet: Annotated[Path, typer.Option(help="Output picture (PNG).")] = Path("cameras.png"),
) -> None:
    """Draw the cameras of generated images, and the box of the scene over real images."""
    from lightning_gan3d.data.camera_sheet import draw_camera_sheet
    from lightning_gan3d.data.dataset import ImageDataset
    from lightning_gan3d.experiment import load_experiment

    config = load_experiment(experiment, options or [])
    images = ImageDataset(config.data, "train")
    fakes, box = config.fake_labels(images.labels), config.generator.scene.box
    draw_camera_sheet(images, fakes, box, sheet)
    typer.echo(f"{sheet}: {fakes.source}")


@app.command("placements")
def placements(
    experiment: Annotated[str, typer.Argument(help="A preset or YAML file: a scene of parts.")],
    options: Options = None,
    sheet: Annotated[Path, typer.Option(help="Output picture (PNG).")] = Path("placements.png"),
    masks: Annotated[Path | None, typer.Option(help="A folder or zip, named as images.")] = None,
    propose: Annotated[bool, typer.Option(help="Propose ranges from the data.")] = False,
) -> None:
    """Draw boxes of objects from the placement prior over real images; propose its ranges."""
    from lightning_gan3d.config import ConfigError
    from lightning_gan3d.data import placement_sheet
    from lightning_gan3d.data.dataset import ImageDataset
    from lightning_gan3d.experiment import load_experiment
    from representations.composition import ComposedConfig

    config = load_experiment(experiment, options or [])
    composed = config.generator.representation
    if not isinstance(composed, ComposedConfig):
        raise ConfigError(
            f"{experiment}: only generator.representation.kind=composed has placements; use a "
            "scene of parts, e.g. the preset family/small_giraffe"
        )
    images, num = ImageDataset(config.data, "train"), composed.num_objects
    fakes, priors = config.fake_labels(images.labels), {"configured": composed.placement}
    sample = placement_sheet.sample_objects(images, fakes, num, masks)
    if propose:
        priors["proposed"], text = placement_sheet.propose(sample, composed.placement)
        typer.echo(text)
    lines = placement_sheet.draw_placement_sheet(images, sample, priors, num, sheet)
    typer.echo("# " + "\n# ".join([*lines, f"{sheet}: {fakes.source}"]))
