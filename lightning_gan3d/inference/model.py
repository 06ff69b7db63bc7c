"""A generator, opened for use: its cameras, its latents, and what is rendered from them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_gan3d.arms import Arm, arm_labels, natural_key
from lightning_gan3d.cameras import Cameras, Orbit
from lightning_gan3d.checkpoints import references
from lightning_gan3d.checkpoints.load import orbit_of, read_networks, warn_of_differences
from lightning_gan3d.checkpoints.store import CheckpointError, steps_in
from lightning_gan3d.checkpoints.stored_networks import LATENT
from lightning_gan3d.config import ConfigError, to_tree
from lightning_gan3d.contract import Scene
from lightning_gan3d.devices import choose_device
from lightning_gan3d.draws import Draws
from lightning_gan3d.experiment import ExperimentConfig, load_experiment, override
from lightning_gan3d.generator import Generator
from lightning_gan3d.images import Images
from lightning_gan3d.inference.config import ModelOptions, Output, RenderOptions
from lightning_gan3d.inference.scene_edits import (
    SceneEdits,
    codes_of,
    edited_scene,
    edited_styles,
    edits_of,
)
from lightning_gan3d.networks.mapping import with_class
from lightning_gan3d.networks.precision import set_precision
from lightning_gan3d.ranges import parse_ranges
from lightning_gan3d.runs import CONFIG

Styles = Callable[[Float[Tensor, "k label_dim"]], Float[Tensor, "k num_ws w_dim"]]
"""One latent as a function from conditioning labels to style vectors.

Mixtures, interpolations and edits are such functions too. A 3D scene is made for one label; the 2D
baseline needs the styles of every camera.
"""

RAYS, PIXELS = 2**16, 2**18
"""Rays and pixels of views that are rendered together: several small views, or one large view."""
MEAN_OVER = 1024
"""Latents of the mean styles."""


@dataclass(frozen=True)
class Model:
    """A generator with what its use needs besides the networks."""

    name: str
    """For file names and captions."""
    generator: Generator
    orbit: Orbit
    """Cameras on which it is shown."""
    cameras_from: str = ""
    """Source of the orbit, for messages."""
    edits: Float[Tensor, "num_ws w_dim"] | SceneEdits | None = None
    """Added to the styles of all latents, or edits of their scenes of parts."""
    inverted: tuple[Styles, ...] = ()
    """Inverted latents: they have the first seeds, drawn latents the others."""
    alone: bool = True
    """Whether it is used without others; beside others, outputs that it lacks are left out."""
    class_index: int = 0
    """The class to generate, if the generator has classes."""

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return self.generator.mapping.w_avg.device

    @property
    def has_depth(self) -> bool:
        """Whether views have depth, normals and opacity; those of the 2D baseline have none."""
        return not self.generator.cfg.view_in_label

    @property
    def summary(self) -> str:
        """Name, source of the cameras, and what is missing."""
        missing = "" if self.has_depth else "; it renders no depth, normals or opacity"
        return f"{self.name}: {self.cameras_from}{missing}"

    def available(self, outputs: Sequence[Output]) -> list[Output]:
        """Those of the outputs that the generator renders.

        Raises ConfigError if there are none and the generator is used alone.
        """
        rendered = [o for o in outputs if self.has_depth or o in ("image", "raw")]
        if not rendered and self.alone:
            raise ConfigError(
                f"outputs={','.join(outputs)}: {self.name} renders image and raw only", "outputs"
            )
        return rendered

    @property
    def label(self) -> Float[Tensor, "1 label_dim"]:
        """Label of the frontal camera, on which the mapping is conditioned."""
        return self.label_of(self.orbit.cameras(1))

    def label_of(self, cameras: Cameras) -> Float[Tensor, "v label_dim"]:
        """Labels of cameras, with the class to generate."""
        label = cameras.to_label().to(self.device)
        return with_class(label, self.generator.mapping.num_classes, self.class_index)

    def latent(self, seed: int) -> Float[Tensor, "1 z_dim"]:
        """Draw the latent of a seed."""
        return latents([seed], self.generator.cfg.z_dim).to(self.device)

    def styles(
        self, z: Float[Tensor, "1 z_dim"], psi: float = 1.0, cutoff: int | None = None
    ) -> Styles:
        """The styles of a latent, truncated."""
        mapping = self.generator.mapping
        return self._changed(lambda label: mapping(z.expand(len(label), -1), label), psi, cutoff)

    def styles_of(self, seed: int, options: ModelOptions) -> Styles:
        """The styles of a seed, or of the inverted latent that has this seed; truncated."""
        if seed >= len(self.inverted):
            return self.styles(self.latent(seed), options.psi, options.cutoff)
        return self._changed(self.inverted[seed], options.psi, options.cutoff)

    def _changed(self, styles: Styles, psi: float, cutoff: int | None) -> Styles:
        """Styles after truncation and edits."""

        def changed(label: Float[Tensor, "k label_dim"]) -> Float[Tensor, "k num_ws w_dim"]:
            ws: Tensor = self.generator.mapping.truncate(styles(label), psi, cutoff)
            if not isinstance(self.edits, tuple):
                return ws if self.edits is None else ws + self.edits
            plain, codes = replace(self, edits=None), codes_of(self.generator.representation)
            return edited_styles(
                ws, self.edits, lambda s: plain.styles(self.latent(s), psi, cutoff)(label), codes
            )

        return changed

    def scene(self, ws: Float[Tensor, "1 num_ws w_dim"]) -> Scene:
        """Compute the scene of styles, with its edits."""
        if isinstance(self.edits, tuple):
            return edited_scene(self.generator, ws, self.edits)
        return self.generator.scene(ws)


class Subject:
    """One latent of a model: its scene is computed once and rendered from any cameras."""

    @torch.no_grad()
    def __init__(
        self,
        model: Model,
        styles: Styles,
        label: Float[Tensor, "1 label_dim"] | None = None,
        prepare: bool = True,
    ) -> None:
        """Compute the scene.

        `label` conditions the mapping (default: the frontal camera); `prepare`: for rendering,
        otherwise the scene is as the representation returns it.
        """
        self.model, self.styles = model, styles
        self.of_each_view = model.generator.cfg.view_in_label
        self.scene: Any = None
        """None for the 2D baseline, which has a picture for each view."""
        if not self.of_each_view:
            self.ws = styles(model.label if label is None else label)
            scene = model.scene(self.ws)
            self.scene = model.generator.renderer.prepare(scene) if prepare else scene

    @torch.no_grad()
    def render(self, cameras: Cameras, resolution: int | None = None) -> Images:
        """Render k views; `resolution` is that of the rendering."""
        batches = [images for _, images in self.batches(cameras, resolution)]
        fields: Any = [None if x[0] is None else torch.cat(x) for x in zip(*batches, strict=True)]
        return Images(*fields)

    @torch.no_grad()
    def batches(
        self, cameras: Cameras, resolution: int | None = None
    ) -> Iterator[tuple[Cameras, Images]]:
        """Render views in batches of at most `RAYS` and `PIXELS`, which bounds memory."""
        generator = self.model.generator
        rays = (resolution or generator.rendering_resolution) ** 2
        num = max(1, min(RAYS // rays, PIXELS // generator.resolution**2))
        for i in range(0, len(cameras.cam2world), num):
            batch = cameras.select(slice(i, i + num)).to(self.model.device)
            if self.of_each_view:
                styles = self.styles(self.model.label_of(batch))
                yield batch, generator.synthesis(styles, batch, resolution)[1]
            else:
                yield batch, generator.render(self.scene, self.ws, batch, resolution)


def open_model(reference: str | Path, options: ModelOptions, alone: bool = True) -> Model:
    """Open a generator of a run, checkpoint, export, pickle or reference; `alone`: see `Model`."""
    device = choose_device(options.device)
    stored = read_networks(reference, ["generator"])
    warn_of_differences(stored)
    if options.overrides:
        wrong = [o for o in options.overrides if not o.startswith("generator.renderer.")]
        if wrong:
            raise ConfigError(
                f"override `{wrong[0]}`: of a trained generator, only generator.renderer can change"
            )
        stored = stored._replace(config=override(stored.config, options.overrides))
    renderer = stored.config.generator.renderer
    if isinstance(options, RenderOptions) and options.samples > 1:
        if hasattr(renderer, "oversample"):
            oversample = f"generator.renderer.oversample={renderer.oversample * options.samples}"
            stored = stored._replace(config=override(stored.config, [oversample]))
        elif alone:
            raise ConfigError(f"samples={options.samples}: {reference} has no samples per ray")
    generator = stored.generator("generator").to(device)
    set_precision(generator, options.precision)
    orbit, source = orbit_of(stored)
    latent = stored.path / LATENT
    return Model(
        name_of(reference),
        generator,
        orbit,
        source,
        edits_of(options.edits, generator),
        (read_latent(latent, generator),) if latent.is_file() else (),
        alone,
        _class_index(generator.mapping.num_classes, options.class_index),
    )


def _class_index(num_classes: int, index: int | None) -> int:
    if num_classes == 0 and index is None:
        return 0
    if index is None or index >= num_classes:
        usable = f"0 to {num_classes - 1}" if num_classes else "none: the generator has no classes"
        raise ConfigError(f"class_index={index}: use {usable}", "class_index")
    return index


def mean_styles(
    generator: Generator, label: Float[Tensor, "k label_dim"]
) -> Float[Tensor, "k num_ws w_dim"]:
    """Mean styles of `MEAN_OVER` latents, for each label."""
    z = Draws(0).normal("mean styles", (MEAN_OVER, generator.cfg.z_dim), label.device)
    each = [generator.mapping(z, row.expand(len(z), -1)).mean(dim=0) for row in label]
    return torch.stack(each)


def offset_styles(generator: Generator, offset: Float[Tensor, "num_ws w_dim"]) -> Styles:
    """The styles of an inverted latent: the mean styles of a label plus the latent's offset."""
    return lambda label: mean_styles(generator, label) + offset


def save_latent(path: Path, offset: Float[Tensor, "num_ws w_dim"]) -> None:
    """Write the offset of an inverted latent from the mean styles."""
    save_file({"offset": offset.detach().cpu().contiguous()}, path)


def read_latent(path: Path, generator: Generator) -> Styles:
    """Read what `save_latent` wrote; raises CheckpointError for another file or generator."""
    expected = (generator.representation.num_ws, generator.cfg.w_dim)
    try:
        offset = load_file(path).get("offset")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from None
    if offset is None or tuple(offset.shape) != expected:
        raise CheckpointError(f"{path}: not a latent of this generator, an offset {expected}")
    return offset_styles(generator, offset.to(generator.mapping.w_avg))


def history(reference: str | Path) -> list[Path]:
    """Return all checkpoints of a run, oldest first."""
    steps = [path for _, path in steps_in(references.resolve(reference) / "checkpoints")]
    if not steps:
        raise ConfigError(f"{reference}: no run with checkpoints; name a run directory")
    return steps


def name_of(reference: str | Path) -> str:
    """Return a short name: of a run, experiment and directory; of a checkpoint, run and step."""
    path = references.local_path(reference)
    if (path / CONFIG).is_file() and (path / "checkpoints").is_dir():
        return f"{path.parent.name}-{path.name}"
    if _is_checkpoint(path):
        return f"{path.parent.parent.name}-{path.name}"
    return references.name_of(reference)


def _is_checkpoint(path: Path) -> bool:
    return path.parent.name == "checkpoints" and (path.parent.parent / CONFIG).is_file()


def captions(paths: Sequence[str | Path]) -> list[str]:
    """Return names for pictures: runs are named by their arms, as in reports, others as files."""
    names = [name_of(path) for path in paths]
    runs = {i: run for i, path in enumerate(paths) if (run := _run_config(path))}
    if len(paths) == 1 or not runs:
        return names
    labels = arm_labels([_arm(config) for config in runs.values()])
    if len(set(labels)) < len(labels):
        labels = [f"{x} seed {c.seed}" for x, c in zip(labels, runs.values(), strict=True)]
    shown = dict(enumerate(names)) | dict(zip(runs, labels, strict=True))
    return list(shown.values()) if len(set(shown.values())) == len(names) else names


def by_settings(paths: Sequence[str]) -> list[str]:
    """Order runs of one representation by their settings, as reports do; keep others as given."""
    configs = [_run_config(path) for path in paths]
    kinds = {config and _arm(config).kind for config in configs}
    if len(kinds) > 1 or None in kinds:
        return list(paths)
    return [path for _, path in sorted(zip(map(natural_key, captions(paths)), paths, strict=True))]


def _run_config(path: str | Path) -> ExperimentConfig | None:
    """Return the configuration of a run; None for another generator."""
    folder = references.resolve(path)
    return load_experiment(folder / CONFIG) if (folder / "checkpoints").is_dir() else None


def _arm(config: ExperimentConfig) -> Arm:
    tree = to_tree(config)
    return Arm(tree["generator"]["representation"]["kind"], config.name, config.label, tree)


def output_folder(models: Sequence[str], command: str, out: Path | None) -> Path:
    """Return where a command writes: `out`, in the folder of a run or export, or `COMMAND/NAME`."""
    if out is not None:
        return out
    path = references.local_path(models[0])
    if len(models) == 1 and (path / CONFIG).is_file() and not _is_checkpoint(path):
        return path / command
    return Path(command) / ("-".join(name_of(m) for m in models)[:100])


def parse_seeds(text: str, option: str = "seeds", most: int | None = None) -> list[int]:
    """Parse `0-7,12` into at most `most` seeds; order is kept, duplicates are dropped."""
    try:
        seeds = parse_ranges(text)
    except ValueError as error:
        raise ConfigError(f"{option}={text}: {error}; use e.g. 0-7 or 0-3,12", option) from None
    if not seeds:
        raise ConfigError(f"{option} is empty; use e.g. 0-7 or 0-3,12", option)
    if most is not None and len(seeds) > most:
        raise ConfigError(f"{option}={text}: {len(seeds):,} seeds; use {most} or fewer", option)
    return seeds


def latents(seeds: Iterable[int], z_dim: int) -> Float[Tensor, "b z_dim"]:
    """Draw one latent per seed; it depends on its own seed only."""
    return torch.cat([Draws(seed).normal("latent", (1, z_dim)) for seed in seeds])
