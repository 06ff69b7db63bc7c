"""Draws sheets and films of edits; finds directions of styles, with or without labels."""

import csv
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.config import ConfigError
from lightning_gan3d.inference.config import EditOptions
from lightning_gan3d.inference.directions import Directions, save
from lightning_gan3d.inference.edit_courses import Course, along, changes_of_parts, reject_unused
from lightning_gan3d.inference.model import (
    Model,
    Subject,
    latents,
    open_model,
    output_folder,
    parse_seeds,
)
from lightning_gan3d.inference.pictures import (
    CELL,
    Pixels,
    Tile,
    enlarged,
    pictures,
    write_contact_sheets,
)
from lightning_gan3d.inference.styles import ranges_of, reject_codes, style_levels
from lightning_gan3d.inference.towards import OPTIONS, offset_towards, open_target
from lightning_gan3d.inference.video import side_by_side, video_writer
from lightning_gan3d.networks.layers import FullyConnected
from lightning_gan3d.progress import track
from representations.composition import ComposedRepresentation

FILE = "directions.safetensors"
STRENGTH = 3.0
"""Largest strength on the sheet, in standard deviations."""
TOWARDS = [0.0, 0.5, 1.0]
"""Strengths on the sheet of an optimised latent: 0 is the first, 1 the result."""
FPS = 30
"""Frames per second of films."""
FRAMES = 60
"""Frames of a film."""
MOST = 32
"""Rows of a sheet of one edit."""
FOLDS = 5
"""Folds of the cross-validation of a linear fit."""
RIDGE = 1e-2
"""Ridge penalty of a linear fit, relative to the variance of the styles."""

Regressor = Callable[[Float[Tensor, "1 3 h w"]], Mapping[str, float]]
"""From an image in [-1, 1] to the values of attributes."""
Attributes = dict[str, Float[Tensor, " n"]]
"""Values of each attribute, one per latent."""


def edit(reference: str, options: EditOptions, out: Path | None = None) -> str:
    """Draw edits of scenes of parts, or find directions and draw them; returns a summary."""
    model, seeds = open_model(reference, options), parse_seeds(options.seeds, most=MOST)
    parts, directions = model.generator.representation, Directions()
    out = output_folder([reference], "edits", out)
    if not options.towards:
        reject_unused(options, OPTIONS, "no effect without towards; add towards=FILE or FOLDER")
    if options.towards:
        goal, lines = open_target(model, options), []
        for seed in seeds:
            directions[f"seed{seed}"], line = offset_towards(model, seed, options, goal)
            lines.append(line)
        courses = [
            along(name, x, model, 1.0)._replace(strengths=TOWARDS, only=seed)
            for seed, (name, x) in zip(seeds, directions.items(), strict=True)
        ]
        sheets = {"towards": courses}
    elif isinstance(parts, ComposedRepresentation) and options.method == "pca":
        unused = ["components", "range", "samples_w"]
        reject_unused(options, unused, "no effect on scenes of parts; use change, object, others")
        courses = changes_of_parts(model, parts, options)
        for course, seed in product(courses, seeds):  # fails before anything is drawn
            course.subject(model, options, seed, course.strengths[-1])
        lines = ["apply with --edits, e.g. --edits object0.rotation=0.5,add=7"]
        sheets = {course.name: [course] for course in courses}
    else:
        unused = ["change", "object", "others"]
        reject_unused(options, unused, "no effect on directions, only on scenes of parts")
        directions, lines = find_directions(model, options)
        most = options.amount or STRENGTH
        courses = [along(name, x, model, most) for name, x in directions.items()]
        sheets = {"directions": courses}
    out.mkdir(parents=True, exist_ok=True)
    if directions:
        file = out / ("towards.safetensors" if options.towards else FILE)
        save(file, directions)
        example = f"{next(iter(directions))}={1 if options.towards else 2}"
        unusable = isinstance(parts, ComposedRepresentation)  # their --edits name parts
        lines.append(f"{file}" if unusable else f"{file}; apply with --edits {file}:{example}")
    camera, files = model.orbit.cameras(1), list[str]()

    def picture(course: Course, seed: int, strength: float) -> Pixels:
        subject = course.subject(model, options, seed, strength)
        images = subject.render(camera, options.rendering_resolution)
        return pictures(model, images, camera, "image")[0]

    for name, rows in track(sheets.items(), "sheets", len(sheets)):
        tiles = []
        for course, seed in ((c, s) for c in rows for s in c.seeds(seeds)):
            strengths = ", ".join(f"{x:.3g}" for x in course.strengths)
            row = [picture(course, seed, x) for x in course.strengths]
            tiles.append(Tile(f"{course.name}, seed {seed}: {strengths}", row))
        files += write_contact_sheets(out / f"{name}.png", tiles, asdict(options), columns=1)
    for course in courses if options.film != "none" else ():
        files.append(str(out / f"{course.name}.{options.film}"))
        _write_film(
            Path(files[-1]), course, lambda c, x: [picture(c, s, x) for s in c.seeds(seeds)]
        )
    return "\n".join([model.summary, *files, *lines])


def _write_film(path: Path, course: Course, row: Callable[[Course, float], list[Pixels]]) -> None:
    """Write a film that can be repeated, with the pictures of a strength side by side."""
    low, high = course.strengths[0], course.strengths[-1]
    with video_writer(path, FPS) as add:
        for i in track(range(FRAMES), path.name, FRAMES):
            t = i / FRAMES
            share = t if course.closed else (1 - math.cos(2 * math.pi * t)) / 2
            picture = side_by_side(row(course, low + share * (high - low)))
            add(enlarged(picture, -(-CELL // picture.shape[0])))


def find_directions(model: Model, options: EditOptions) -> tuple[Directions, list[str]]:
    """Find directions by the method of the options; returns notes too."""
    w = first_styles(model, range(options.samples_w))
    lines: list[str] = []
    if options.method == "pca":
        vectors = principal_components(w, options.components)
        names = [f"pc{i + 1}" for i in range(len(vectors))]
    elif options.method == "sefa":
        vectors = closed_form(model, options.components)
        names = [f"sefa{i + 1}" for i in range(len(vectors))]
    else:
        seeds, values = labelled(model, options)
        fits = {name: linear_fit(first_styles(model, seeds), v) for name, v in values.items()}
        names, vectors = list(fits), torch.stack([vector for vector, _ in fits.values()])
        lines = [f"{name}: R² {r2:.2f} ({FOLDS}-fold)" for name, (_, r2) in fits.items()]
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    deviation = ((w - w.mean(dim=0)) @ vectors.mT).std(dim=0)
    levels = style_levels(model.generator.representation)
    mask = torch.zeros(len(levels), 1, device=model.device)
    if options.range == "all":
        mask += 1
    else:
        (indices,) = ranges_of(options.range, levels).values()
        mask[indices] = 1
    scaled = (vectors * deviation[:, None])[:, None] * mask
    return dict(zip(names, scaled, strict=True)), lines


@torch.no_grad()
def first_styles(model: Model, seeds: Sequence[int]) -> Float[Tensor, "n w_dim"]:
    """Style of each latent under the frontal camera; all layers have the same."""
    reject_codes(model.generator.representation, "an edit direction")
    z = latents(seeds, model.generator.cfg.z_dim).to(model.device)
    ws: Tensor = model.generator.mapping(z, model.label.expand(len(z), -1))
    return ws[:, 0]


def principal_components(w: Float[Tensor, "n w_dim"], num: int) -> Float[Tensor, "k w_dim"]:
    """Principal components of styles, GANSpace (Härkönen et al. 2020), largest first."""
    _, _, vectors = torch.linalg.svd(w - w.mean(dim=0), full_matrices=False)
    components: Tensor = vectors[:num]
    return components


def closed_form(model: Model, num: int) -> Float[Tensor, "k w_dim"]:
    """Closed-form factorisation, SeFa (Shen and Zhou 2021), eq. 6.

    The directions that change the styles of all layers most: right singular vectors of their
    stacked affine weights, each row normalised as in the paper's code for StyleGAN2.
    """
    weights = [
        part.weight
        for name, part in model.generator.representation.named_modules()
        if "affine" in name and isinstance(part, FullyConnected)
    ]
    stacked = torch.cat([weight / weight.norm(dim=1, keepdim=True) for weight in weights])
    _, _, vectors = torch.linalg.svd(stacked, full_matrices=False)
    directions: Tensor = vectors[:num]
    return directions


def labelled(model: Model, options: EditOptions) -> tuple[Sequence[int], Attributes]:
    """Seeds and the values of their attributes: from a CSV file, or from a regressor."""
    if model.inverted:
        raise ConfigError("method=labels: use the generator itself, not an inverted photograph")
    if options.csv:
        return read_csv(Path(options.csv))
    regressor, camera = load_regressor(options.regressor), model.orbit.cameras(1)
    rows = []
    for seed in track(range(options.samples_w), "attributes", options.samples_w):
        images = Subject(
            model, model.styles(model.latent(seed), options.psi, options.cutoff)
        ).render(camera, options.rendering_resolution)
        rows.append(regressor(images.image.float().cpu()))
    values = {name: torch.tensor([float(row[name]) for row in rows]) for name in rows[0]}
    return range(options.samples_w), values


def read_csv(path: Path) -> tuple[list[int], Attributes]:
    """Read a table with the column `seed` and one column per attribute."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        seeds = [int(row["seed"]) for row in rows]
        names = [name for name in rows[0] if name != "seed"]
        values = {name: torch.tensor([float(row[name]) for row in rows]) for name in names}
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(
            f"csv={path}: expected a column `seed` and columns of numbers: {error}"
        ) from None
    finite = all(bool(v.isfinite().all()) for v in values.values())
    if len(seeds) < 2 * FOLDS or not names or not finite:
        raise ConfigError(f"csv={path}: give {2 * FOLDS} rows or more, of finite numbers")
    return seeds, values


def load_regressor(text: str) -> Regressor:
    """Import `package.module:function`."""
    module, _, name = text.partition(":")
    try:
        regressor: Regressor = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"regressor={text}: use package.module:function: {error}") from None
    return regressor


def linear_fit(
    w: Float[Tensor, "n w_dim"], values: Float[Tensor, " n"]
) -> tuple[Float[Tensor, " w_dim"], float]:
    """Fit an attribute by ridge regression of styles; returns gradient and cross-validated R².

    An R² near 0 means that the direction is meaningless.
    """
    values = values.to(w)
    if float(values.std()) == 0:
        raise ConfigError("an attribute has the same value in all images; remove it")
    fold = torch.arange(len(w), device=w.device) % FOLDS
    residual = torch.zeros_like(values)
    for i in range(FOLDS):
        gradient, offset = _ridge(w[fold != i], values[fold != i])
        residual[fold == i] = values[fold == i] - (w[fold == i] @ gradient + offset)
    r2 = 1 - float(residual.square().mean() / values.var(correction=0))
    return _ridge(w, values)[0], r2


def _ridge(
    w: Float[Tensor, "n w_dim"], values: Float[Tensor, " n"]
) -> tuple[Float[Tensor, " w_dim"], Float[Tensor, ""]]:
    mean, target = w.mean(dim=0), values.mean()
    x = (w - mean).double()
    covariance = x.mT @ x
    penalty = RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
    gradient = torch.linalg.solve(covariance + penalty, x.mT @ (values - target).double()).to(w)
    return gradient, target - mean @ gradient
