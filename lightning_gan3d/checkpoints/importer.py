"""NVIDIA's network pickles to ours: read safely, translated, exported with their provenance."""

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_gan3d import config as cfg
from lightning_gan3d import files, runs
from lightning_gan3d.checkpoints import arguments, native, nvidia, store
from lightning_gan3d.checkpoints.store import CheckpointError
from lightning_gan3d.checkpoints.stored import NAMES, Network, Stored
from lightning_gan3d.checkpoints.unpickle import Record, read_pickle, tensors_of
from lightning_gan3d.data.dataset import DataConfig
from lightning_gan3d.experiment import ExperimentConfig, load_experiment

LICENCE = (
    "The weights keep the licence of their source. NVIDIA's EG3D and StyleGAN checkpoints come "
    "under NVIDIA source code licences: research or evaluation, no commercial use."
)
ALL: tuple[Network, ...] = ("generator", "generator_raw", "discriminator")


def read_file(path: Path, kinds: Sequence[Network] = ALL) -> Stored:
    """Read a network pickle; `about` says what it is, and what to know of it.

    Raises `CheckpointError` for what is no network or holds what is not known, `UnsafePickle` for
    what asks for code.
    """
    content = read_pickle(path)
    if not isinstance(content, Mapping) or not any(n in content for n in NAMES.values()):
        raise CheckpointError(f"{path}: a pickle, but without the networks G, D or G_ema")
    try:
        return _translate(path, content, kinds)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except cfg.ConfigError as error:
        raise CheckpointError(f"{path}: holds an impossible option: {error}") from None


def _translate(path: Path, content: Mapping[str, Any], kinds: Sequence[Network]) -> Stored:
    found: dict[Network, Record] = {}
    for kind, name in NAMES.items():
        record = content.get(name)
        if isinstance(record, Record):
            found[kind] = record
        elif record is not None:
            raise CheckpointError(f"its {name} is a {type(record).__name__}, not a network")
    generators = [found[kind] for kind in ALL[:2] if kind in found]
    if not generators:
        raise CheckpointError("holds no generator; only pickles with G or G_ema can be read")
    wanted = [found[kind] for kind in ALL[:2] if kind in found and kind in kinds]
    generators = wanted or generators[:1]
    parts = nvidia.read_generator(_network(generators[0]))
    preset = load_experiment("eg3d/base" if parts.config.is_field else "image2d")
    discriminator, notes = preset.discriminator, list(parts.notes) if wanted else []
    tensors: dict[Network, Any] = {}
    for kind, record in found.items():
        if kind not in kinds:
            continue
        if kind == "discriminator":
            d = nvidia.read_discriminator(_network(record))
            if d.resolution != parts.resolution:
                raise CheckpointError(
                    f"its D sees images of {d.resolution}, its generator makes {parts.resolution}"
                )
            discriminator = d.config
            notes += d.notes
            tensors[kind] = d.tensors
            continue
        same = parts if record is generators[0] else nvidia.read_generator(_network(record))
        if same.config != parts.config:
            raise CheckpointError("its G and G_ema are not built alike")
        tensors[kind] = same.tensors
    if not tensors:
        there, names = (", ".join(NAMES[k] for k in some) for some in (found, kinds))
        raise CheckpointError(f"holds no {names}; it holds {there}")
    config = dataclasses.replace(
        preset,
        name=re.sub(r"[^\w.-]+", "-", path.stem).lstrip(".") or "imported",
        data=DataConfig(),
        generator=parts.config,
        discriminator=discriminator,
    )
    config = _as_trained(config, generators[0], parts.rendering_resolution)
    about: dict[str, Any] = {
        "source": {
            "file": path.name,
            "classes": {NAMES[k]: r.name for k, r in found.items()},
            "code_sha256": {NAMES[k]: r.source_sha256 for k, r in found.items()},
            "trained_on": _plain(content.get("training_set_kwargs")),
        },
        "licence": LICENCE,
        "notes": notes,
    }
    if config.generator.is_field:
        about["orbit"] = _orbit(generators[0].state["rendering_kwargs"])
    return Stored(path, config, parts.resolution, parts.rendering_resolution, tensors, about)


def _network(record: Record) -> arguments.Network:
    return arguments.Network(record.name, record.state, tensors_of(record))


def _as_trained(config: ExperimentConfig, record: Record, raw: int) -> ExperimentConfig:
    """Set what the pickle says of its training, so that its configuration can be fine-tuned."""
    if not config.generator.is_field:
        return config
    rendering = record.state["rendering_kwargs"]
    kind = rendering.get("reg_type", "l1")
    if not isinstance(kind, str) or kind != "l1":
        raise CheckpointError(
            f"rendering_kwargs.reg_type={arguments.said(kind)}: only l1 is known here"
        )

    def number(key: str, default: float) -> float:
        return arguments.number(f"rendering_kwargs.{key}", rendering.get(key, default))

    loss = dataclasses.replace(
        config.loss,
        density_reg=number("density_reg", 0.0),
        density_reg_distance=number("density_reg_p_dist", 0.004),
    )
    swap = rendering.get("gpc_reg_prob")
    training = dataclasses.replace(
        config.training,
        devices=1,  # how many GPUs it had is not said; the microbatches stay those of eight
        swap_final=config.training.swap_final if swap is None else number("gpc_reg_prob", 0.0),
        rendering_resolution=dataclasses.replace(
            config.training.rendering_resolution, initial=raw, final=None
        ),
    )
    return dataclasses.replace(config, loss=loss, training=training)


def _orbit(rendering: Mapping[str, Any]) -> dict[str, Any]:
    name, pivot = "rendering_kwargs.avg_camera_pivot", rendering.get("avg_camera_pivot", (0, 0, 0))
    if not isinstance(pivot, list | tuple) or len(pivot) != 3:
        raise CheckpointError(f"{name}={arguments.said(pivot)}: this is three numbers elsewhere")
    radius = rendering.get("avg_camera_radius", 2.7)
    return {
        "radius": arguments.number("rendering_kwargs.avg_camera_radius", radius),
        "target": [arguments.number(name, x) for x in pivot],
    }


def import_file(
    path: Path, out: Path, overrides: Sequence[str] = (), overwrite: bool = False
) -> str:
    """Write a network pickle as a native export, whole or not at all; return what was done."""
    path, out = Path(path), Path(out)
    if out.exists() and not overwrite:
        raise CheckpointError(f"{out} exists: give another folder, or ask to overwrite it")
    if out.exists() and not _is_ours(out):
        raise CheckpointError(f"{out} exists and is no import: give another folder")
    stored = read_file(path)
    stored.about["source"]["sha256"] = _sha256(path)
    config = stored.config
    if overrides:
        origins = cfg.Origins()
        tree = cfg.apply_overrides(cfg.to_tree(config), overrides, origins)
        config = cfg.build(ExperimentConfig, tree, origins)
    stored = stored._replace(config=config)
    for kind in stored.tensors:
        stored.check(kind, config)
    try:
        _write(stored, out)
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be written: {error.strerror or error}") from None
    return _report(stored, out)


def _is_ours(out: Path) -> bool:
    """Whether a folder is empty, or an import: not a run's checkpoint, nor anything else."""
    if not out.is_dir():
        return False
    if not any(out.iterdir()):
        return True
    try:
        return "source" in store.read_index(out)
    except (OSError, ValueError):
        return False


def _write(stored: Stored, out: Path) -> None:
    temporary, replaced = (out.with_name(f".{out.name}.{what}") for what in ("importing", "old"))
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        (temporary / native.CONFIG).write_text(cfg.to_yaml(stored.config), encoding="utf-8")
        for kind, tensors in stored.tensors.items():
            sizes = (stored.resolution, stored.rendering_resolution)
            native.save_network(temporary, kind, tensors, *sizes)
        files.write_json(temporary / runs.MANIFEST, _manifest(stored))
        store.seal(temporary, stored.about)
        if out.exists():
            out.rename(replaced)  # so that an import is under its name, or the old one is at hand
        temporary.rename(out)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _manifest(stored: Stored) -> dict[str, Any]:
    """What a run directory says of its run, so that measures and reports take an export for one."""
    return {
        "experiment": stored.config.name,
        "hash": stored.config.hash,
        "seed": stored.config.seed,
        "resolution": stored.resolution,
        "imported_from": stored.about["source"],
        **files.provenance(["gan3d", "import", stored.path.name]),
        "finished": True,
    }


def _report(stored: Stored, out: Path) -> str:
    about, source = stored.about, stored.about["source"]
    networks = ", ".join(f"{name} ({cls})" for name, cls in source["classes"].items())
    lines = [
        f"{out}: {networks}; images of {stored.resolution}², rendered at "
        f"{stored.rendering_resolution}²",
        f"source    {source['file']}, SHA-256 {source['sha256']}",
        f"licence   {about['licence']}",
        *(f"note      {note}" for note in about["notes"]),
        f"use       gan3d generate {out}",
        f"          gan3d train {out / native.CONFIG} init_from.path={out} "
        "init_from.schedules=eg3d data.path=DATA",
    ]
    return "\n".join(lines)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    """What JSON can hold of the data set's options."""
    if not isinstance(value, Mapping):
        return None
    return json.loads(json.dumps(dict(value), default=str))
