"""SLURM jobs: scripts and requeues with fake programs, and a real cluster where there is one."""

import os
import shutil
import subprocess
import time

import pytest
import yaml

from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.synthetic.synth import SynthConfig, make_synth
from lightning_gan3d.runs import METRICS, read_rows
from lightning_gan3d.sweep import slurm
from lightning_gan3d.sweep.plan import expand, load_sweep
from lightning_gan3d.sweep.slurm import ClusterConfig, load_cluster, queued, run_job, script, submit
from lightning_gan3d.sweep.states import Failure, SweepFolder, pending, read_state


@pytest.fixture
def sweep(tmp_path):
    """Two runs on 2 GPUs each, on 3 nodes, as the pair (folder, runs)."""
    file = tmp_path / "grid.yaml"
    overrides = ["training.devices=2", "trainer.num_nodes=3", "training.microbatch=1"]
    overrides += ["training.batch=12", "training.device=auto"]
    file.write_text(
        yaml.safe_dump({"runs": ["demo/voxel", "demo/triplane"], "overrides": overrides})
    )
    runs = expand(*load_sweep(file), tmp_path / "runs")
    folder = SweepFolder(tmp_path / "runs" / "sweeps" / "grid")
    return folder, pending(runs, folder, retry=False)


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A function that puts a shell script on the path."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("env", "grep", "head", "sh", "wc"):
        (folder / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(folder))  # without a real SLURM

    def add(name, text):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)

    return add


def test_a_script_asks_for_what_each_run_needs(sweep):
    cluster = ClusterConfig(
        partition="gpu", minutes=90, memory_gb=64, parallel=5, warning=300,
        options={"account": "my lab", "time": "1-0"}, setup=("module load cuda",),
    )  # fmt: skip
    folder, runs = sweep
    text = script(folder, runs, cluster)
    lines = text.splitlines()
    for line in (
        "--job-name=grid", "--array=0-1%5", "--nodes=3", "--ntasks-per-node=1", "--requeue",
        "--gpus-per-node=2", "--cpus-per-task=4", "--mem=64G", "--partition=gpu",
        "--account='my lab'", "--time=1-0", "--signal=USR2@300", "--open-mode=append",
    ):  # fmt: skip
        assert f"#SBATCH {line}" in lines, line
    assert lines.index("module load cuda") > lines.index(f"  {runs[1].id}")
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    # The script finds the run of its array index.
    shell = text.replace("srun ", "echo ")
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_ID": "7"}
    shell = shell.replace("module load cuda", "").replace("scontrol show", "echo")
    out = subprocess.run(["bash"], input=shell, env=environment, capture_output=True, text=True)
    assert out.stdout.split()[-4:] == ["--run", runs[1].id, "--requeues", "1000"]


def test_gpus_can_be_a_generic_resource_and_runs_of_two_kinds_need_two_arrays(sweep):
    folder, runs = sweep
    assert "#SBATCH --gres=gpu:2" in script(folder, runs, ClusterConfig(gpu_option="gres"))
    (single,) = expand(*load_sweep("demo_one_seed"), folder.path)[:1]
    with pytest.raises(ConfigError, match=r"need several arrays \(gpus-per-node, nodes\)"):
        script(folder, [*runs, single], ClusterConfig())


def test_cluster_files_are_checked(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text("minutes: 0\n")
    with pytest.raises(ConfigError, match=r"minutes=0 .*: use a whole number from 1"):
        load_cluster(file)
    file.write_text("minutes: 1\nwarning: 60\n")
    with pytest.raises(ConfigError, match=r"warning=60: .* use less than 60 seconds"):
        load_cluster(file)
    file.write_text("partitions: gpu\n")
    with pytest.raises(ConfigError, match=r"unknown key `partitions`.* did you mean `partition`"):
        load_cluster(file)
    assert load_cluster(None) == ClusterConfig()


@pytest.mark.parametrize(
    ("code", "restarts", "node", "state", "requeued"),
    [
        (75, "0", "0", "RUNNING", True),
        (75, "3", "0", "RUNNING", False),
        (75, "0", "1", "RUNNING", False),
        (4, "0", "0", "RUNNING", False),
        (75, "0", "0", "COMPLETING", False),  # after scancel
        (75, "0", "0", "without a signal", False),  # e.g. a full disk
    ],
)
@pytest.mark.parametrize(("array", "job"), [(False, "12"), (True, "12_5")])
def test_a_job_of_a_stopped_run_is_queued_again(
    sweep, programs, monkeypatch, tmp_path, code, restarts, node, state, requeued, array, job
):
    signalled = state != "without a signal"
    programs("scontrol", f"echo $@ > {tmp_path}/calls")
    monkeypatch.setattr(slurm, "run_task", lambda *_: (code, signalled))
    monkeypatch.setattr(slurm, "REQUEUE_WAIT", 0)
    for name, value in (("JOB_ID", "12"), ("RESTART_COUNT", restarts), ("NODEID", node)):
        monkeypatch.setenv(f"SLURM_{name}", value)
    if array:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    programs("squeue", f"echo $@ | grep -q -- '--jobs={job} ' && echo {state}")
    assert run_job(sweep[0].path, "a-s0", 3) == code
    calls = tmp_path / "calls"
    assert (calls.read_text() if calls.exists() else "") == (f"requeue {job}\n" if requeued else "")


def test_queued_failed_and_finished_runs_are_not_submitted(sweep, programs, monkeypatch, tmp_path):
    folder, runs = sweep
    programs("squeue", "echo 7_1; echo 8_0")
    (folder.path / "jobs.json").write_text(f'{{"{runs[0].id}": "7_1", "{runs[1].id}": "7_10"}}')
    assert queued(folder) == {runs[0].id: "7_1"}
    assert pending(runs, folder, False, queued(folder)) == [runs[1]]
    folder.failed(runs[1], Failure(4, "no memory"))
    assert pending(runs, folder, False) == [runs[0]]
    assert pending(runs, folder, True) == runs
    monkeypatch.setattr(slurm, "PAUSE", 0)
    down = f"echo x >> {tmp_path}/n; [ $(wc -l < {tmp_path}/n) -gt 2 ] && echo 7_1 || exit 1"
    programs("squeue", down)
    assert queued(folder) == {runs[0].id: "7_1"}  # at the third call
    programs("squeue", "echo 'slurm is down' >&2; exit 1")
    with pytest.raises(ConfigError, match="squeue: slurm is down; try again"):
        queued(folder)


def test_submission_needs_slurm_and_reports_its_error(sweep, programs):
    with pytest.raises(ConfigError, match="no `sbatch` on this machine"):
        submit(*sweep, ClusterConfig())
    programs("sbatch", "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1")
    programs("srun", "")
    with pytest.raises(ConfigError, match=r"SLURM rejects the job: .*invalid partition"):
        submit(*sweep, ClusterConfig(partition="gpu"))


def command(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def changed(job, setting):
    """Change a job, unless it is ending just now."""
    words = ["scontrol", "update", f"JobId={job}", setting]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


class Cluster:
    """A sweep of two short runs on the cluster that `.ci/slurm.sh` started."""

    def __init__(self, folder):
        data = folder / "tiny.zip"
        make_synth(SynthConfig(num_images=16, num_objects=8, resolution=32), data)
        (folder / "tiny.yaml").write_text(TINY.format(data=data))
        (folder / "grid.yaml").write_text(yaml.safe_dump({"runs": ["tiny.yaml"], "seeds": [0, 1]}))
        self.runs = expand(*load_sweep(folder / "grid.yaml"), folder / "runs")
        self.folder = SweepFolder(folder / "runs" / "sweeps" / "grid")
        pending(self.runs, self.folder, retry=False)

    def state(self, run):
        return read_state(run, self.folder)

    def requeued(self, job):
        return "Restarts=0" not in command("scontrol", "show", "job", job)

    def runs_again(self, job):
        return "JobState=RUNNING" in command("scontrol", "show", "job", job)

    def wait(self, condition, seconds=240):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, command("squeue")
            failed = [s.reason for s in map(self.state, self.runs) if s.state == "failed"]
            assert not failed
            time.sleep(0.2)

    def steps(self, run):
        return [row["step"] for row in read_rows(run.path / METRICS)]


TINY = """
base: demo/image2d
name: tiny
data: {{path: {data}}}
training: {{kimg: 80, batch: 4, microbatch: 4, log_kimg: 0.008, snapshot_kimg: 1, eval_kimg: 0,
  sample_kimg: 0, device: cpu, threads: 1}}
evaluation: {{num_images: 8, distribution: null, refit: null, features: null, pose: null,
  geometry: null, consistency: null}}
"""


@pytest.mark.skipif(
    "SLURM_CONF" not in os.environ, reason='needs SLURM: eval "$(.ci/slurm.sh FOLDER)"'
)
def test_preempted_jobs_and_those_over_their_limit_continue_on_slurm(tmp_path):
    cluster = Cluster(tmp_path)
    submit(
        cluster.folder,
        cluster.runs,
        ClusterConfig(partition="normal", minutes=2, warning=60, cpus=1),
    )
    ids = queued(cluster.folder)
    jobs = [ids[run.id] for run in cluster.runs]
    assert jobs == [f"{jobs[0].partition('_')[0]}_{i}" for i in range(2)]
    cluster.wait(lambda: any(cluster.state(run).kimg > 0 for run in cluster.runs))
    command("sbatch", "--partition=urgent", "--output=/dev/null", "--wrap=true")  # preempts one
    for job, run in zip(jobs, cluster.runs, strict=True):
        cluster.wait(lambda job=job: cluster.requeued(job))
        assert cluster.state(run).state in ("stopped", "planned")
        before = cluster.steps(run)
        cluster.wait(lambda job=job: changed(job, "TimeLimit=10"))  # else it is warned again
        cluster.wait(lambda job=job: cluster.runs_again(job) or changed(job, "StartTime=now"))
        cluster.wait(lambda run=run, rows=before: len(cluster.steps(run)) > len(rows))
        assert cluster.steps(run)[: len(before)] == before
    for job, run in zip(jobs, cluster.runs, strict=True):
        command("scancel", job)
        cluster.wait(lambda run=run: cluster.state(run).state == "stopped")
        steps = cluster.steps(run)
        assert steps == list(range(2, 2 * len(steps) + 1, 2))  # none twice, none missing
    cluster.wait(lambda: not queued(cluster.folder))
