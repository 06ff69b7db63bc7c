"""Runs of a sweep as SLURM jobs: array jobs through submitit, or a printed `sbatch` script."""

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from lightning_gan3d import config as cfg
from lightning_gan3d.config import ConfigError
from lightning_gan3d.files import parse_json, write_json
from lightning_gan3d.ranges import Count
from lightning_gan3d.sweep.plan import PlannedRun
from lightning_gan3d.sweep.states import SweepFolder
from lightning_gan3d.sweep.task import TASK, run_task
from lightning_gan3d.training.signals import STOPPED

JOBS = "jobs.json"
"""The newest job of each run: `{"run id": "job id"}`."""
REQUEUE_WAIT = 600.0
"""Seconds to wait for the end of a job that was queued again."""
ATTEMPTS, PAUSE = 6, 5.0
"""Calls of a program of SLURM until its failure counts, and seconds between them."""
MAX_ARRAY = 1000
"""Jobs of an array; SLURM's default limit is 1001."""
MASTER = (
    'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
    "export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))",
)
"""Shell lines that name the node of rank 0, for runs on several nodes."""


@dataclass(frozen=True)
class ClusterConfig:
    """What SLURM gives to each run. GPUs and nodes follow from the run's configuration."""

    partition: str = ""
    """Empty: SLURM's default."""
    minutes: Count = 1440
    """Time limit of a job. A run that reaches it is saved, queued again and continued."""
    cpus: Count = 4
    """CPU cores of each node."""
    memory_gb: Count | None = None
    """Memory of each node; None: SLURM's default."""
    parallel: Count = 100
    """Runs at the same time."""
    warning: Count = 120
    """Seconds before the time limit at which a run is told to save."""
    requeues: Count = 1000
    """How often a run is queued again after it reached the time limit, or stopped itself."""
    gpu_option: str = "gpus-per-node"
    """Option of `sbatch` that asks for GPUs: `gpus-per-node`, or `gres`."""
    options: dict[str, str | int] = field(default_factory=dict)
    """Further options of `sbatch`, such as `{account: vision, qos: long}`."""
    setup: tuple[str, ...] = ()
    """Shell lines before each run, such as `module load cuda`."""

    def __post_init__(self) -> None:
        """Check that a job has time before its warning."""
        if self.warning >= 60 * self.minutes:
            raise ConfigError(
                f"warning={self.warning}: a job of {self.minutes} minutes would be warned at its "
                f"start; use less than {60 * self.minutes} seconds",
                field="warning",
            )


def load_cluster(path: Path | None) -> ClusterConfig:
    """Read a YAML file of a `ClusterConfig`; None: the defaults."""
    if path is None:
        return ClusterConfig()
    origins = cfg.Origins()
    return cfg.build(ClusterConfig, cfg.resolve(cfg.load_tree(path, origins)), origins)


def _options(cluster: ClusterConfig, run: PlannedRun) -> dict[str, str | int]:
    """Options of `sbatch` for what a run needs; equal ones share an array."""
    config = run.config
    gpus = 0 if config.training.device == "cpu" else config.training.devices
    options: dict[str, str | int] = {
        "nodes": config.trainer.num_nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": cluster.cpus,
        "time": cluster.minutes,
        "open-mode": "append",
        "requeue": True,
    }
    if gpus:
        by_type = cluster.gpu_option == "gres"
        options[cluster.gpu_option] = f"gpu:{gpus}" if by_type else gpus
    if cluster.memory_gb is not None:
        options["mem"] = f"{cluster.memory_gb}G"
    if cluster.partition:
        options["partition"] = cluster.partition
    return options | cluster.options


def _arrays(
    cluster: ClusterConfig, runs: Sequence[PlannedRun]
) -> Iterator[tuple[dict[str, str | int], list[PlannedRun]]]:
    def key(run: PlannedRun) -> str:
        return repr(_options(cluster, run))

    for _, alike in groupby(sorted(runs, key=key), key):
        group = list(alike)
        for start in range(0, len(group), MAX_ARRAY):
            yield _options(cluster, group[0]), group[start : start + MAX_ARRAY]


def submit(folder: SweepFolder, runs: Sequence[PlannedRun], cluster: ClusterConfig) -> list[str]:
    """Submit runs as array jobs through submitit, one array per kind of job; return their ids.

    Raises:
        ConfigError: no SLURM here, it rejects the job, or submitit is missing.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "no `sbatch` on this machine: submit from a login node of the cluster, or use "
            "`gan3d sweep run`"
        )
    try:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError
    except ImportError:
        raise ConfigError(
            "sweep submit needs submitit: pip install 'lightning-gan3d[slurm]'; or add --script"
        ) from None
    jobs, ids = _read_jobs(folder), list[str]()
    for options, group in _arrays(cluster, runs):
        executor = submitit.SlurmExecutor(folder.path / "submitit")
        executor.update_parameters(
            job_name=folder.path.name,
            array_parallelism=cluster.parallel,
            signal_delay_s=cluster.warning,
            stderr_to_stdout=True,
            setup=[*MASTER, *cluster.setup],
            additional_parameters=options,
        )
        path, count = folder.path.resolve(), cluster.requeues
        try:
            with executor.batch():
                submitted = [executor.submit(_job, path, run.id, count) for run in group]
        except (FailedJobError, FailedSubmissionError) as error:
            raise ConfigError(f"SLURM rejects the job: {' '.join(str(error).split())}") from None
        jobs.update({run.id: job.job_id for run, job in zip(group, submitted, strict=True)})
        write_json(folder.path / JOBS, jobs)
        ids += dict.fromkeys(job.job_id.partition("_")[0] for job in submitted)
    return ids


def run_job(path: Path, run_id: str, requeues: int) -> int:
    """Run a task within a SLURM job; queue the job again if the run stopped. Return the exit code.

    SLURM's warning before the time limit, and its SIGTERM before a preemption, stop the run. So
    does `scancel`, after which the job no longer counts as running and is not queued. A run that
    stops without a signal, for example since the disk is full, is not queued either.
    """
    code, signalled = run_task(path, run_id)
    first_node = os.environ.get("SLURM_NODEID", "0") == "0"
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    if code == STOPPED and signalled and first_node and restarts < requeues:
        job = _own_job()
        if _slurm("squeue", "--noheader", f"--jobs={job}", "--format=%T") == "RUNNING":
            _slurm("scontrol", "requeue", job)
            time.sleep(REQUEUE_WAIT)  # SLURM ends this job
    return code


def _own_job() -> str:
    """Return the id of this job; SLURM_JOB_ID of one job of an array is that of the array."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]


def _job(path: Path, run_id: str, requeues: int) -> None:
    """Run a job, and end the process with its code, which SLURM shows as the job's."""
    raise SystemExit(run_job(path, run_id, requeues))


def script(folder: SweepFolder, runs: Sequence[PlannedRun], cluster: ClusterConfig) -> str:
    """Return an `sbatch` script that does the same as `submit`; the runs must be of one kind."""
    arrays = list(_arrays(cluster, runs))
    if len(arrays) > 1:
        differ = sorted(k for k in arrays[0][0] if len({a[0].get(k) for a in arrays}) > 1)
        raise ConfigError(
            f"the runs need several arrays ({', '.join(differ) or f'of {MAX_ARRAY}'}), and a "
            "script has one: submit without --script, or split the sweep"
        )
    ((options, group),) = arrays
    log = shlex.quote(str(folder.path / "logs" / "slurm-%A_%a.out"))
    task = [*TASK, str(folder.path.resolve())]
    lines = [
        f"#SBATCH --{key}" + ("" if value is True else f"={shlex.quote(str(value))}")
        for key, value in options.items()
    ]
    return "\n".join(
        [
            "#!/bin/bash",
            f"#SBATCH --job-name={shlex.quote(folder.path.name)}",
            f"#SBATCH --array=0-{len(group) - 1}%{cluster.parallel}",
            f"#SBATCH --signal=USR2@{cluster.warning}",
            f"#SBATCH --output={log}",
            *lines,
            "runs=(",
            *(f"  {shlex.quote(run.id)}" for run in group),
            ")",
            *MASTER,
            *cluster.setup,
            f'srun {shlex.join(task)} --run "${{runs[$SLURM_ARRAY_TASK_ID]}}" '
            f"--requeues {cluster.requeues}",
        ]
    )


def _read_jobs(folder: SweepFolder) -> dict[str, str]:
    file = folder.path / JOBS
    return parse_json(file.read_bytes(), dict) if file.is_file() else {}


def queued(folder: SweepFolder) -> dict[str, str]:
    """Return the runs that have a job which waits or runs, with its id."""
    jobs = _read_jobs(folder)
    if not jobs or shutil.which("squeue") is None:
        return {}
    ids = _slurm("squeue", "--me", "--noheader", "--array", "--format=%i").split()
    return {run: job for run, job in jobs.items() if job in set(ids)}


def _slurm(*command: str) -> str:
    """Return the output of a program of SLURM; `ConfigError` with its message if it keeps failing.

    A busy controller does not answer for a while.
    """
    error = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE)
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as reason:
            error = str(reason)
            continue
        if done.returncode == 0:
            return done.stdout.strip()
        error = done.stderr.strip()
    raise ConfigError(f"{command[0]}: {error}; try again when SLURM answers")
