"""Changes of styles: truncated, interpolated, mixed, edited; the scene of a seed after them."""

import re
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import Representation
from lightning_gan3d.inference.camera_paths import cameras_of
from lightning_gan3d.inference.config import LatentOptions, ModelOptions
from lightning_gan3d.inference.model import Model, Styles, Subject
from lightning_gan3d.networks.synthesis import Synthesis

RANGES = ("coarse", "middle", "fine")


def subject_of(model: Model, seed: int, options: LatentOptions, prepare: bool = True) -> Subject:
    """Compute the scene of a seed; `prepare`: for rendering.

    Raises ConfigError if `condition` is not one camera.
    """
    condition = cameras_of(options.condition, 1, model.orbit, "condition")
    if len(condition.cam2world) != 1:
        raise ConfigError(
            f"condition={options.condition}: {len(condition.cam2world)} cameras; name one",
            field="condition",
        )
    label = model.label_of(condition)
    return Subject(model, changed_styles(model, seed, options), label, prepare)


def changed_styles(model: Model, seed: int, options: LatentOptions) -> Styles:
    """Return the styles of a seed, interpolated toward another, then mixed with a third."""
    if options.toward is None:
        styles = model.styles_of(seed, options)
    else:
        pair = (seed, options.toward)
        styles = interpolated(model, pair, options.share, options, options.space)
    if options.mix is None:
        return styles
    levels = style_levels(model.generator.representation)
    names = [name.strip() for name in options.mix_range.split(",")]
    indices = [i for name in names for part in ranges_of(name, levels).values() for i in part]
    return mixed(styles, model.styles_of(options.mix, options), indices)


def along_loop(
    model: Model, seeds: Sequence[int], share: float, options: ModelOptions, space: str
) -> Styles:
    """Styles at `share` in [0, 1) of a closed loop through seeds."""
    position = share * len(seeds)
    first = int(position) % len(seeds)
    pair = (seeds[first], seeds[(first + 1) % len(seeds)])
    return interpolated(model, pair, position - int(position), options, space)


def interpolated(
    model: Model, seeds: tuple[int, int], t: float, options: ModelOptions, space: str
) -> Styles:
    """Styles between two seeds, t in [0, 1]: spherical in z, or linear in w.

    Raises ConfigError for z if a seed is an inverted latent: it has no z.
    """
    if space == "z":
        if min(seeds) < len(model.inverted):
            raise ConfigError("interpolation in z: an inverted latent has no z; use w")
        a, b = (model.latent(seed) for seed in seeds)
        return model.styles(slerp(a, b, t), options.psi, options.cutoff)
    one, other = (model.styles_of(seed, options) for seed in seeds)
    return lambda label: one(label).lerp(other(label), t)


def slerp(
    a: Float[Tensor, "1 z_dim"], b: Float[Tensor, "1 z_dim"], t: float
) -> Float[Tensor, "1 z_dim"]:
    """Spherical interpolation (Shoemake 1985) of directions, linear of lengths."""
    lengths = torch.lerp(a.norm(), b.norm(), t)
    a, b = a / a.norm(), b / b.norm()
    angle = torch.acos((a * b).sum().clamp(-1, 1))
    if angle < 1e-4:  # the same direction
        return torch.lerp(a, b, t) * lengths
    mixed: Tensor = torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b
    return mixed / torch.sin(angle) * lengths


def reject_codes(representation: Representation, action: str) -> None:
    """Reject scenes of parts, whose style vectors have several meanings."""
    if representation.codes:
        names = ", ".join(code.name for code in representation.codes)
        raise ConfigError(
            f"generator.representation.kind=composed: {action} needs one code for all style "
            f"vectors, but there are {len(representation.codes)} ({names}); use a generator of "
            "single objects, or edit the parts: gan3d edit RUN --change rotation,shape"
        )


def style_levels(representation: Representation) -> list[int]:
    """Level of each style vector: the resolution of its layer; for an MLP, the layer's number.

    Raises `ConfigError` for scenes of parts.
    """
    reject_codes(representation, "a range of style vectors")
    for part in representation.modules():
        if isinstance(part, Synthesis):
            levels = [r for r in part.resolutions for _ in range(2)][1:]
            return [*levels, part.resolutions[-1]]
    return list(range(1, representation.num_ws + 1))


def ranges_of(text: str, levels: Sequence[int]) -> dict[str, list[int]]:
    """Indices of the style vectors of each range that an option names.

    `coarse`, `middle`, `fine`: the levels in three parts, of equal size or nearly so. `all`: these
    three. `LOW-HIGH`: levels from LOW to HIGH, e.g. the resolutions 4-8.
    """
    unique = sorted(set(levels))
    if text in (*RANGES, "all"):
        parts = dict(
            zip(RANGES, (part.tolist() for part in np.array_split(unique, 3)), strict=True)
        )
        names = RANGES if text == "all" else (text,)
        if text != "all" and not parts[text]:
            raise ConfigError(f"range={text}: the levels {unique} are too few", field="range")
        return {
            f"{name} ({parts[name][0]}-{parts[name][-1]})": _indices(levels, parts[name])
            for name in names
            if len(parts[name])
        }
    match = re.fullmatch(r"(\d+)-(\d+)", text)
    chosen = [x for x in unique if match and int(match[1]) <= x <= int(match[2])]
    if not chosen:
        raise ConfigError(
            f"range={text}: use coarse, middle, fine, all, or LOW-HIGH with levels of "
            f"{', '.join(map(str, unique))}",
            field="range",
        )
    return {text: _indices(levels, chosen)}


def _indices(levels: Sequence[int], chosen: Sequence[int]) -> list[int]:
    return [i for i, level in enumerate(levels) if level in set(chosen)]


def mixed(destination: Styles, source: Styles, indices: Sequence[int]) -> Styles:
    """Styles of `destination` with the style vectors `indices` of `source`."""

    def styles(label: torch.Tensor) -> torch.Tensor:
        ws = destination(label).clone()
        ws[:, list(indices)] = source(label)[:, list(indices)]
        return ws

    return styles
