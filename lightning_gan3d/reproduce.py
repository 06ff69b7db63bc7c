"""`gan3d reproduce`: repeat a run from its manifest, and compare the results bit by bit."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_gan3d import devices, files, runs
from lightning_gan3d.checkpoints import references, store
from lightning_gan3d.checkpoints.stored_networks import NAMES
from lightning_gan3d.config import ConfigError
from lightning_gan3d.experiment import ExperimentConfig, override
from lightning_gan3d.metric import read_metrics
from lightning_gan3d.metric_table import BENCHED, block
from lightning_gan3d.training import checkpoint
from lightning_gan3d.training.fit import describe_machine, train_run
from lightning_gan3d.training.signals import DONE, FAILED

log = logging.getLogger(__name__)
Results = tuple[dict[str, dict[str, Any]], dict[str, Any]]
"""Values by part (training, evaluation, weights), and the environment."""
_FACTS = ("hash", "seed", "version", "commit", "dirty", "versions", "device", "threads",
          "processes", "layers", "rendering_path", "continued_at_step")  # fmt: skip
"""Keys of a manifest on which the bits of a run may depend."""


def reproduce(
    path: Path, root: Path | None, overrides: Sequence[str], command: Sequence[str]
) -> int:
    """Repeat a finished run below `root` and compare; return the exit code, 4 if they differ.

    Continues a stopped repetition. Writes `reproduction.json` into the new run.
    """
    run = runs.Run(references.local_path(path).resolve())
    manifest, config = run.manifest(), run.config()
    if not manifest.get("finished"):
        raise ConfigError(f"{path}: is not a finished run; `gan3d train` continues it")
    try:
        results = _results(run.path)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(f"{path}: has no complete results ({error!r})") from None
    threads = config.training.threads or manifest.get("threads", "null")
    own = [f"training.threads={threads}", "logging.wandb=off"]
    config = override(config, [*own, *overrides])
    root = root or run.path.with_name(f"{run.path.name}-reproduced")
    target, training = runs.run_path(config, root), config.training

    def prepare(config: ExperimentConfig, folder: Path) -> None:
        before = runs.read_manifest(folder)
        if before.get("reproduces") == str(run.path):
            return
        if before or run.path in folder.resolve().parents:
            raise ConfigError(f"{folder}: is of another run; choose another --root")
        keys = "dataset_fingerprint", "boxes_fingerprint", "init_from", "extends"
        kept = {k: manifest[k] for k in keys if k in manifest}
        if "extends" in manifest:
            source = run.path.with_name(kept["extends"]["run"])
            record = checkpoint.copy_state(source, config, folder)
            if record["content"] != kept["extends"]["content"]:
                raise ConfigError(f"{source}: has changed since {path} extended it; restore it")
        files.write_json(folder / runs.MANIFEST, {**kept, "reproduces": str(run.path)})

    device = devices.choose_device(training.device, training.devices)
    devices.set_threads(training.threads, device)
    present = describe_machine(config, device, command)
    for change in _changes(_facts(manifest), _facts(present)):
        log.info("environment: %s", change)
    return train_run(config, root, prepare, command) or _compare(results, target)


def _compare(original: Results, target: Path) -> int:
    """Print and write what differs; return the exit code."""
    (then, old), (now, new) = original, _results(target)
    differences = {
        part: [
            (key, then[part].get(key, "-"), now[part].get(key, "-"))
            for key in then[part] | now[part]
            if then[part].get(key, "-") != now[part].get(key, "-")
        ]
        for part in then
    }
    changes, equal = _changes(old, new), not any(differences.values())
    result = {"equal": equal, "environment": changes, "differences": differences}
    files.write_json(target / "reproduction.json", result)
    for part, rows in differences.items():
        state = f"{len(rows)} differ" if rows else "equal"
        log.info(f"{part:<10}  {len(then[part]):6} values  {state}")
        for key, value, other in rows[:3]:
            log.info(f"  {key}: {value} then, {other} now")
    if not equal:
        log.info("possible reasons: %s", "; ".join(changes) or "none known")
    log.info(f"{'reproduced' if equal else 'different'}; all: {target / 'reproduction.json'}")
    return DONE if equal else FAILED


def _results(path: Path) -> Results:
    """Read the results of a finished run, without times and memory."""
    rows = {
        f"{key} at step {row['step']}": value
        for row in runs.read_rows(path / runs.METRICS)
        for key, value in row.items()
        if key != "seconds" and key.partition("/")[0] not in BENCHED
    }
    evaluation = {
        f"{m.key} {field}": getattr(m, field)
        for m in read_metrics(path / runs.EVALUATION)
        for field in ("value", "spread", "n", "protocol")
        if block(m.id) not in BENCHED and m.unit != "ms"
    }
    step, newest = store.steps_in(path / "checkpoints")[-1]
    weights = {
        f"{name} at step {step}": files.sha256_of_file(newest / f"{kind}.safetensors")[:16]
        for kind, name in NAMES.items()
    }
    conditions = files.parse_json((path / runs.CONDITIONS).read_bytes(), dict)
    facts = _facts(runs.read_manifest(path)) | checkpoint.flat(conditions, "evaluation")
    return {"training": rows, "evaluation": evaluation, "weights": weights}, facts


def _facts(manifest: dict[str, Any]) -> dict[str, Any]:
    return checkpoint.flat({k: manifest[k] for k in _FACTS if k in manifest}, "manifest")


def _changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """List the facts that differ, except weights; uncommitted code counts as different."""
    return [
        f"{key} {value} then, {now[key]} now"
        for key, value in then.items()
        if key in now and key != "evaluation.weights_sha256"
        if value != now[key] or (key == "manifest.dirty" and value)
    ]
