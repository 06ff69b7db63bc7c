"""Import NVIDIA's network pickles: read safely, translated, exported with their provenance."""

import dataclasses
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_gan3d import files, runs
from lightning_gan3d.checkpoints import nvidia, store
from lightning_gan3d.checkpoints.nvidia_arguments import Network
from lightning_gan3d.checkpoints.pickled_objects import Record, tensors_of
from lightning_gan3d.checkpoints.restricted_unpickler import read_pickle
from lightning_gan3d.checkpoints.store import CheckpointError
from lightning_gan3d.checkpoints.stored_networks import NAMES, NetworkKind, Stored, save_network
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.dataset import DataConfig
from lightning_gan3d.experiment import ExperimentConfig, load_experiment, override

LICENCE = (
    "The weights keep the licence of their source. NVIDIA's EG3D and StyleGAN checkpoints come "
    "under NVIDIA source code licences: research or evaluation, no commercial use."
)
GENERATORS: tuple[NetworkKind, ...] = ("generator", "generator_raw")
ALL: tuple[NetworkKind, ...] = (*GENERATORS, "discriminator")


def read_file(path: Path, kinds: Sequence[NetworkKind] = ALL) -> Stored:
    """Read a network pickle; `about` holds its source, its licence and notes for the user.

    Raises `CheckpointError` if it holds no network or an unsupported one, `UnsafePickle` if it asks
    for code.
    """
    content = read_pickle(path)
    if not isinstance(content, Mapping) or not any(n in content for n in NAMES.values()):
        raise CheckpointError(f"{path}: a pickle, but without the networks G, D or G_ema")
    try:
        return _translate(path, content, kinds)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except ConfigError as error:
        raise CheckpointError(f"{path}: holds an impossible option: {error}") from None


def _translate(path: Path, content: Mapping[str, Any], kinds: Sequence[NetworkKind]) -> Stored:
    records: dict[NetworkKind, Record] = {}
    for kind, name in NAMES.items():
        record = content.get(name)
        if isinstance(record, Record):
            records[kind] = record
        elif record is not None:
            raise CheckpointError(f"its {name} is a {type(record).__name__}, not a network")
    requested = {kind: record for kind, record in records.items() if kind in kinds}
    generators = [x[kind] for x in (requested, records) for kind in GENERATORS if kind in x]
    if not generators:
        raise CheckpointError("holds no generator; only pickles with G or G_ema can be read")
    if not requested:
        names, expected = (", ".join(NAMES[k] for k in x) for x in (records, kinds))
        raise CheckpointError(f"holds no {expected}; it holds {names}")
    main = generators[0]
    parts = nvidia.read_generator(_network(main))
    preset = load_experiment("eg3d/base" if parts.config.is_field else "image2d")
    discriminator = preset.discriminator
    notes = parts.notes if set(GENERATORS) & requested.keys() else []
    tensors: dict[NetworkKind, Any] = {}
    for kind, record in requested.items():
        if kind == "discriminator":
            d = nvidia.read_discriminator(_network(record))
            if d.resolution != parts.resolution:
                raise CheckpointError(
                    f"its D is for images of {d.resolution}, its generator for {parts.resolution}"
                )
            discriminator, notes, tensors[kind] = d.config, notes + d.notes, d.tensors
            continue
        same = parts if record is main else nvidia.read_generator(_network(record))
        if same.config != parts.config:
            raise CheckpointError("its G and G_ema have different configurations")
        tensors[kind] = same.tensors
    config = dataclasses.replace(
        preset,
        name=re.sub(r"[^\w.-]+", "-", path.stem).lstrip(".") or "imported",
        data=DataConfig(),
        generator=parts.config,
        discriminator=discriminator,
    )
    about: dict[str, Any] = {
        "source": {
            "file": path.name,
            "classes": {NAMES[k]: r.name for k, r in records.items()},
            "code_sha256": {NAMES[k]: r.source_sha256 for k, r in records.items()},
            "trained_on": _as_json(content.get("training_set_kwargs")),
        },
        "licence": LICENCE,
        "notes": notes,
    }
    if parts.orbit is not None:
        config = _with_training(config, parts)
        about["orbit"] = parts.orbit
    config = override(config, [])  # checks the ranges
    return Stored(path, config, parts.resolution, parts.rendering_resolution, tensors, about)


def _network(record: Record) -> Network:
    return Network(record.name, record.state, tensors_of(record))


def _with_training(config: ExperimentConfig, parts: nvidia.GeneratorParts) -> ExperimentConfig:
    """Set the training options of EG3D's generator, so that it can be fine-tuned."""
    loss = dataclasses.replace(
        config.loss,
        density_reg=parts.density_reg,
        density_reg_distance=parts.density_reg_distance,
    )
    training, swap = config.training, parts.swap_probability
    training = dataclasses.replace(
        training,
        devices=1,  # the number of GPUs is not stored; microbatches stay those of eight
        swap_final=training.swap_final if swap is None else swap,
        rendering_resolution=dataclasses.replace(
            training.rendering_resolution, initial=parts.rendering_resolution, final=None
        ),
    )
    return dataclasses.replace(config, loss=loss, training=training)


def import_file(
    path: Path, out: Path, overrides: Sequence[str] = (), overwrite: bool = False
) -> str:
    """Write a network pickle as an export, atomically; return a summary."""
    path, out = Path(path), Path(out)
    if out.exists() and not overwrite:
        raise CheckpointError(f"{out} exists: give another folder, or ask to overwrite it")
    if out.exists() and not _is_import(out):
        raise CheckpointError(f"{out} exists and is not an import: give another folder")
    stored = read_file(path)
    stored.about["source"]["sha256"] = files.sha256_of_file(path)
    stored = stored._replace(config=override(stored.config, overrides))
    for kind in stored.tensors:
        stored.check(kind, stored.config)
    try:
        _write(stored, out)
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be written: {error.strerror or error}") from None
    return _summary(stored, out)


def _is_import(out: Path) -> bool:
    """Whether a folder is empty or an import."""
    if not out.is_dir():
        return False
    if not any(out.iterdir()):
        return True
    try:
        return "source" in store.read_index(out)
    except CheckpointError:
        return False


def _write(stored: Stored, out: Path) -> None:
    temporary, replaced = (out.with_name(f".{out.name}.{end}") for end in ("importing", "old"))
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        runs.write_config(temporary, stored.config)
        for kind, tensors in stored.tensors.items():
            sizes = (stored.resolution, stored.rendering_resolution)
            save_network(temporary, kind, tensors, *sizes)
        files.write_json(temporary / runs.MANIFEST, _manifest(stored))
        store.seal(temporary, stored.about)
        if out.exists():
            out.rename(replaced)  # at any moment the new or the old import exists
        temporary.rename(out)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _manifest(stored: Stored) -> dict[str, Any]:
    """The manifest of a run, so that evaluation and reports treat an import as one."""
    return {
        "experiment": stored.config.name,
        "hash": stored.config.hash,
        "seed": stored.config.seed,
        "resolution": stored.resolution,
        "imported_from": stored.about["source"],
        **files.provenance(["gan3d", "import", stored.path.name]),
        "finished": True,
    }


def _summary(stored: Stored, out: Path) -> str:
    about, source = stored.about, stored.about["source"]
    networks = ", ".join(f"{name} ({cls})" for name, cls in source["classes"].items())
    lines = [
        f"{out}: {networks}; images of {stored.resolution}², rendered at "
        f"{stored.rendering_resolution}²",
        f"source    {source['file']}, SHA-256 {source['sha256']}",
        f"licence   {about['licence']}",
        *(f"note      {note}" for note in about["notes"]),
        f"use       gan3d generate {out}",
        f"          gan3d train {out / runs.CONFIG} init_from.path={out} "
        "init_from.schedules=eg3d data.path=DATA",
    ]
    return "\n".join(lines)


def _as_json(value: Any) -> Any:
    """Return the data set's options as JSON can hold them."""
    if not isinstance(value, Mapping):
        return None
    return json.loads(json.dumps(dict(value), default=str))
