"""The scene of a seed under `LatentOptions`: interpolated, mixed, conditioned on a camera."""

from lightning_gan3d.config import ConfigError
from lightning_gan3d.inference.camera_paths import cameras_of
from lightning_gan3d.inference.config import LatentOptions
from lightning_gan3d.inference.model import Model, Styles, Subject, interpolated
from lightning_gan3d.inference.style_mixing import mixed, ranges_of, style_levels


def subject_of(model: Model, seed: int, options: LatentOptions, prepare: bool = True) -> Subject:
    """Compute the scene of a seed; `prepare`: for rendering.

    Raises ConfigError if `condition` is not one camera.
    """
    condition = cameras_of(options.condition, 1, model.orbit)
    if len(condition.cam2world) != 1:
        raise ConfigError(
            f"condition={options.condition}: {len(condition.cam2world)} cameras; name one",
            field="condition",
        )
    label = condition.to_label().to(model.device)
    return Subject(model, changed_styles(model, seed, options), label, prepare)


def changed_styles(model: Model, seed: int, options: LatentOptions) -> Styles:
    """Return the styles of a seed, interpolated toward another, then mixed with a third."""
    if options.toward is None:
        styles = model.styles_of(seed, options)
    else:  # the first half of the loop
        pair = [seed, options.toward]
        styles = interpolated(model, pair, options.share / 2, options, options.space)
    if options.mix is None:
        return styles
    levels = style_levels(model.generator.representation)
    names = [name.strip() for name in options.mix_range.split(",")]
    indices = [i for name in names for part in ranges_of(name, levels).values() for i in part]
    return mixed(styles, model.styles_of(options.mix, options), indices)
