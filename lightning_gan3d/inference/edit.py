"""Sheets and films of edits: directions in the space of styles, or changes of scenes of parts.

Directions are found without labels, or from labels.
"""

import csv
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.config import ConfigError
from lightning_gan3d.inference.config import EditOptions
from lightning_gan3d.inference.directions import Directions, save
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
from lightning_gan3d.inference.scene_edits import codes_of, edits_of, num_objects
from lightning_gan3d.inference.styles import edited, ranges_of, reject_codes, style_levels
from lightning_gan3d.inference.video import side_by_side, video_writer
from lightning_gan3d.networks.layers import FullyConnected
from lightning_gan3d.progress import track
from representations.composition import PLACEMENT, ComposedRepresentation

FILE = "directions.safetensors"
STRENGTH = 3.0
"""Largest strength on the sheet, in standard deviations."""
FPS = 30
"""Frames per second of films."""
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


class Course(NamedTuple):
    """An edit of increasing strength."""

    name: str
    strengths: list[float]
    """Columns of its sheet."""
    subject: Callable[[int, float], Subject]
    """Scene of a seed at a strength."""
    closed: bool = False
    """Whether both ends are the same. Films of others go forth and back."""


def edit(reference: str, options: EditOptions, out: Path | None = None) -> str:
    """Draw edits of scenes of parts, or find directions and draw them; returns a summary."""
    model, seeds = open_model(reference, options), parse_seeds(options.seeds, most=MOST)
    parts = model.generator.representation
    out = output_folder([reference], "edits", out)
    if isinstance(parts, ComposedRepresentation) and options.method == "pca":
        courses = changes_of_parts(model, parts, options)
        lines = ["apply with --edits, e.g. --edits object0.rotation=0.5,add=7"]
        sheets = {course.name: [course] for course in courses}
    elif options.change != "all":
        raise ConfigError(
            f"change={options.change}: {model.name} has no scenes of parts; find directions with "
            "method=pca, sefa or labels",
            field="change",
        )
    else:
        directions, lines = find_directions(model, options)
        out.mkdir(parents=True, exist_ok=True)
        save(out / FILE, directions)
        lines.append(f"{out / FILE}; apply with --edits {out / FILE}:{next(iter(directions))}=2")
        courses = [_along(model, name, directions[name], options) for name in directions]
        sheets = {"directions": courses}
    out.mkdir(parents=True, exist_ok=True)
    files: list[str] = []
    for name, rows in track(sheets.items(), "sheets", len(sheets)):
        tiles = [
            Tile(
                f"{course.name}, seed {seed}: " + ", ".join(f"{x:.3g}" for x in course.strengths),
                [_picture(course.subject(seed, x), options) for x in course.strengths],
            )
            for course in rows
            for seed in seeds
        ]
        files += write_contact_sheets(out / f"{name}.png", tiles, asdict(options), columns=1)
    for course in courses if options.film != "none" else ():
        files.append(str(out / f"{course.name}.{options.film}"))
        _write_film(Path(files[-1]), course, seeds, options)
    return "\n".join([model.summary, *files, *lines])


def _picture(subject: Subject, options: EditOptions) -> Pixels:
    camera = subject.model.orbit.cameras(1)
    images = subject.render(camera, options.rendering_resolution)
    return pictures(subject.model, images, camera, "image")[0]


def _write_film(path: Path, course: Course, seeds: Sequence[int], options: EditOptions) -> None:
    """Write a film that can be repeated, with the seeds side by side."""
    low, high = course.strengths[0], course.strengths[-1]
    with video_writer(path, FPS) as add:
        for i in track(range(options.frames), path.name, options.frames):
            t = i / options.frames
            share = t if course.closed else (1 - math.cos(2 * math.pi * t)) / 2
            strength = low + share * (high - low)
            row = side_by_side([_picture(course.subject(s, strength), options) for s in seeds])
            add(enlarged(row, -(-CELL // row.shape[0])))


def _along(
    model: Model, name: str, direction: Float[Tensor, "num_ws w_dim"], options: EditOptions
) -> Course:
    def subject(seed: int, strength: float) -> Subject:
        return Subject(model, edited(model.styles_of(seed, options), strength * direction))

    most = options.amount or STRENGTH
    return Course(name, np.linspace(-most, most, options.steps).tolist(), subject)


def changes_of_parts(
    model: Model, parts: ComposedRepresentation, options: EditOptions
) -> list[Course]:
    """Return the chosen changes; `all` leaves out placements that have one value."""
    ranges = dict(zip(PLACEMENT, parts.ranges.tolist(), strict=True))
    changed = (f"object{options.object}", "background")
    codes = {x.rpartition(".")[2]: x for x in codes_of(parts) if x.partition(".")[0] in changed}
    default = {x: (high - low) / 2 for x, (low, high) in ranges.items()} | dict.fromkeys(codes, 1.0)
    default |= {"rotation": 2 * math.pi, "scale": 2 * ranges["scale"][1] / sum(ranges["scale"])}
    others = parse_seeds(options.others, "others")
    counted = {"add": others, "remove": list(range(num_objects(parts)))}
    possible = [*PLACEMENT, *codes, *counted]
    chosen = [x.strip() for x in options.change.split(",")]
    if chosen == ["all"]:
        chosen = [x for x in possible if x not in ranges or ranges[x][0] < ranges[x][1]]

    def course(name: str) -> Course:
        def subject(seed: int, strength: float) -> Subject:
            term = f"object{options.object}.{name}={strength:.10g}"
            if name in counted:
                term = ",".join(f"{name}={value}" for value in counted[name][: round(strength)])
            elif name in codes:
                term = f"{codes[name]}={others[0]}:{strength:.10g}"
            own = replace(model, edits=edits_of(f"{options.edits},{term}", model.generator))
            return Subject(own, own.styles_of(seed, options))

        if name in counted:
            return Course(name, [float(i) for i in range(len(counted[name]) + 1)], subject)
        if name not in possible:
            raise ConfigError(
                f"change={options.change}: `{name}`; use all, or any of {', '.join(possible)}",
                field="change",
            )
        most = options.amount or default[name]
        least = 0.0 if name in codes or name == "rotation" else -most
        least = 1 / most if name == "scale" else least
        if least == most:
            raise ConfigError(
                f"change={name}: generator.representation.placement.{name} has one value; add "
                f"amount={1.2 if name == 'scale' else 0.2}",
                field="amount",
            )
        strengths = np.linspace(least, most, options.steps).tolist()
        return Course(name, strengths, subject, name == "rotation" and options.amount is None)

    return [course(name) for name in chosen]


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
