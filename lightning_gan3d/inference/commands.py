"""The commands that use a generator. Imports no torch."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from lightning_gan3d.config import ConfigError, build, split_overrides
from lightning_gan3d.inference.config import (
    EditOptions,
    FigureOptions,
    GenerateOptions,
    InvertOptions,
    MeshOptions,
    MixOptions,
    SplatFileOptions,
    VideoOptions,
    ViewOptions,
)

app = typer.Typer()
Options = TypeVar("Options")

Network = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A run, checkpoint, export, pickle, pretrained:NAME or hf://ORG/NAME."
    ),
]
Networks = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN... [K=V]...",
        help="As many as are shown side by side, and overrides: generator.renderer.KEY=VALUE.",
    ),
]
Each = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN... [K=V]...",
        help="One after another, and overrides: generator.renderer.KEY=VALUE.",
    ),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Output folder.")]


def with_options(cls: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option per field of a dataclass, with the field's docstring as help.

    The command gets the dataclass as its argument `options`.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        texts, hints = field_docs(cls), get_type_hints(cls)
        options = [f for f in fields(cls) if f.default is not MISSING and f.name != "overrides"]

        @wraps(command)
        def run(**arguments: Any) -> None:
            tree = {f.name: arguments.pop(f.name) for f in options}
            if "runs" in arguments:
                arguments["runs"], tree["overrides"] = split_overrides(arguments["runs"])
                if not arguments["runs"]:
                    raise ConfigError(f"{command.__name__}: name at least one generator")
            command(**arguments, options=build(cls, tree))

        signature = inspect.signature(command)
        own = [p for p in signature.parameters.values() if p.name != "options"]
        added = [
            inspect.Parameter(
                f.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=f.default,
                annotation=Annotated[hints[f.name], typer.Option(help=texts[f.name])],
            )
            for f in options
        ]
        run.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]  # typer reads it
        return run

    return decorate


def field_docs(cls: type) -> dict[str, str]:
    """Return the docstrings below the fields of a dataclass and its bases."""
    texts: dict[str, str] = {}
    for part in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(part))).body[0]
        assert isinstance(body, ast.ClassDef)
        for node, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr):
                assert isinstance(node.target, ast.Name)
                assert isinstance(after.value, ast.Constant)
                texts[node.target.id] = " ".join(str(after.value.value).split())
    return texts


def _for_each(
    write: Callable[[str, Options, Path | None], str],
    runs: list[str],
    options: Options,
    out: Path | None,
) -> None:
    """Write the files of each run; with several, `out` holds a folder for each."""
    from lightning_gan3d.checkpoints.references import name_of

    folders = [out / name_of(run) if out and len(runs) > 1 else out for run in runs]
    if out and len(set(folders)) < len(runs):
        raise ConfigError(f"--out {out}: two generators have the same name; give one at a time")
    for run, folder in zip(runs, folders, strict=True):
        typer.echo(write(run, options, folder))


@app.command()
@with_options(GenerateOptions)
def generate(
    runs: Networks,
    options: GenerateOptions,
    out: Out = None,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="All checkpoints of each run, oldest first.")
    ] = False,
) -> None:
    """Write images, raw images, depth, normals, opacity, and contact sheets."""
    from lightning_gan3d.inference.generate import generate as write_images

    typer.echo(write_images(runs, options, out, checkpoints))


@app.command()
@with_options(FigureOptions)
def figure(
    runs: Networks,
    options: FigureOptions,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Output file: .pdf, .png or .svg.")
    ] = None,
) -> None:
    """Draw samples of generators as a figure for a paper."""
    from lightning_gan3d.inference.figure import figure as draw

    typer.echo(draw(runs, options, out))


@app.command()
@with_options(MixOptions)
def mix(runs: Each, options: MixOptions, out: Out = None) -> None:
    """Write style-mixing grids, and measure what each range of styles changes."""
    from lightning_gan3d.inference.style_mixing import mix as write_grids

    _for_each(write_grids, runs, options, out)


@app.command()
@with_options(VideoOptions)
def video(runs: Networks, options: VideoOptions, out: Out = None) -> None:
    """Write videos: orbits, camera paths, interpolation."""
    from lightning_gan3d.inference.video import video as write_videos

    typer.echo(write_videos(runs, options, out))


@app.command()
@with_options(MeshOptions)
def mesh(runs: Each, options: MeshOptions, out: Out = None) -> None:
    """Write meshes with colours: GLB, OBJ, PLY, or the density."""
    from lightning_gan3d.inference.mesh import mesh as write_meshes

    _for_each(write_meshes, runs, options, out)


@app.command()
@with_options(SplatFileOptions)
def splats(runs: Each, options: SplatFileOptions, out: Out = None) -> None:
    """Write Gaussians as files for viewers of splats: PLY or SPZ."""
    from lightning_gan3d.inference.splat_files import splats as write_splats

    _for_each(write_splats, runs, options, out)


@app.command()
@with_options(EditOptions)
def edit(runs: Each, options: EditOptions, out: Out = None) -> None:
    """Find edit directions, with or without labels, and draw a sheet of them."""
    from lightning_gan3d.inference.edit import edit as write_directions

    _for_each(write_directions, runs, options, out)


@app.command()
@with_options(ViewOptions)
def view(runs: Networks, options: ViewOptions, out: Out = None) -> None:
    """Show generators in the browser. Over SSH, forward the port: ssh -L 8080:127.0.0.1:8080."""
    if find_spec("viser") is None:
        raise ConfigError("view needs viser: pip install 'lightning-gan3d[viewer]'")
    from lightning_gan3d.inference.viewer.serve import view as serve

    serve(runs, options, out)


@app.command()
@with_options(InvertOptions)
def invert(
    run: Network,
    images: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    options: InvertOptions,
    out: Out = None,
) -> None:
    """Find latent, camera and tuned weights of images; the other commands open the results."""
    from lightning_gan3d.inference.inversion.invert import invert_files

    typer.echo(invert_files(run, images, options, out))


@app.command()
def export(
    run: Network,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder.")],
) -> None:
    """Write a generator as a folder to share: tensors, configuration and cameras."""
    from lightning_gan3d.checkpoints.load import export_generator

    typer.echo(export_generator(run, out))
