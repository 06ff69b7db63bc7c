"""Disturb a run until it ends; compare it with an undisturbed one: `python tests/soak.py 40`.

The argument is the length in kimg: 40 take about a quarter of an hour on two idle cores. The run
gets a random stop signal every minute, a full disk once (a limit on the size of files) and a
kill -9 once, and is started again after each. Exit code 1 if weights, optimizers or metrics
differ, or if memory grew.
"""

import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = """
base: {base}
name: soak
data: {{path: {data}}}
generator:
  z_dim: 16
  w_dim: 16
  representation:
    {{kind: triplane, resolution: 16, channels: 4, synthesis: {{channels: [16, 16, 8]}}}}
  scene: {{decoder: {{hidden_dim: 8}}}}
  renderer: {{kind: volume, samples_coarse: 4}}
discriminator: {{channels: [16, 16, 16, 8]}}
augment: {{mode: ada}}
training:
  {{kimg: {kimg}, threads: 1, log_kimg: 0.2, sample_kimg: 4, snapshot_kimg: 0.4, eval_kimg: 2}}
logging: {{sample_latents: 1, sample_views: 2}}
evaluation:
  {{num_images: 16, num_images_training: 16, swd: {{patches: 8, projections: 8}}, following: false,
  distribution: null, consistency: null, refit: null, pose: null, geometry: null}}
"""
GAN3D = (sys.executable, "-m", "lightning_gan3d.cli")
PERIOD = 60.0
"""Seconds of training between disturbances."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
GROWTH = 1.1
"""Allowed ratio of the peak memory at the end to that after a quarter of the undisturbed run."""


class Process:
    """A training process."""

    def __init__(self, file: Path, root: Path) -> None:
        log = (root / "log.txt").open("ab")
        command = (*GAN3D, "train", str(file), "--root", str(root))
        self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.root, self.trains = root, False

    def wait(self, seconds: float) -> int | None:
        """Wait for the end; return the exit code, None after so many seconds of training."""
        rows, end = self.rows(), None
        while self.process.poll() is None and (end is None or time.monotonic() < end):
            if end is None and (self.trains or self.rows() != rows):
                self.trains, end = True, time.monotonic() + seconds
            time.sleep(1)
        return self.process.poll()

    def rows(self) -> int:
        """Size of the logged rows."""
        return sum(file.stat().st_size for file in self.root.glob("soak/*/metrics.jsonl"))

    def fill_disk(self, full: bool) -> None:
        """Limit the size of files that the process writes, or lift the limit."""
        hard = resource.RLIM_INFINITY
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (1000 if full else hard, hard))


def disturb(file: Path, root: Path) -> list[str]:
    """Train with disturbances until the run is finished; return what was done."""
    draw, done = random.Random(0), list[str]()
    while True:
        process = Process(file, root)
        code = process.wait(PERIOD)
        if code is None and "full disk" not in done:
            done.append("full disk")
            process.fill_disk(True)
            code = process.wait(PERIOD / 4)
            if code is None:
                process.fill_disk(False)
                code = process.wait(PERIOD / 2)
        if code is None:
            number = signal.SIGKILL if len(done) == 2 else draw.choice(SIGNALS)
            done.append(number.name)
            process.process.send_signal(number)
            code = process.wait(600)
        print(f"{time.strftime('%X')} {done[-1] if done else ''}: exit code {code}", flush=True)
        if code == 0:
            return done
        if code not in (75, -signal.SIGKILL):
            raise SystemExit(f"{root / 'log.txt'}: exit code {code}")


def digest(root: Path) -> dict[str, object]:
    """Return what two equal runs have in common: rows, evaluation, weights and training state."""
    (path,) = root.glob("soak/*")
    machine = ("seconds", "speed/img_s", "memory/peak_mb")
    rows = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    values: dict[str, object] = {
        f"row {row['step']}": {k: v for k, v in row.items() if k not in machine} for row in rows
    }
    last = max((path / "checkpoints").glob("step*"))
    values |= {file.name: file.read_bytes() for file in last.iterdir() if file.suffix != ".json"}
    metrics = json.loads((path / "evaluation.json").read_text())
    return values | {m["name"]: m["value"] for m in metrics}


def main(kimg: str) -> int:
    """Run both; return the exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # may be ignored in the background
    folder = Path(tempfile.mkdtemp(prefix="soak"))
    data, file = folder / "data.zip", folder / "soak.yaml"
    options = ("resolution=32", "num_images=64", "num_objects=16")
    subprocess.run((*GAN3D, "data", "synth", str(data), *options), check=True)
    base = Path(__file__).parents[1] / "experiments/demo/triplane.yaml"
    file.write_text(CONFIG.format(base=base, data=data, kimg=kimg))
    roots = [folder / "undisturbed", folder / "disturbed"]
    for root in roots:
        root.mkdir()
    undisturbed = Process(file, roots[0])
    done = disturb(file, roots[1])
    code = undisturbed.wait(86400)
    first, second = map(digest, roots)
    different = [key for key in first if first[key] != second.get(key)]
    (rows,) = roots[0].glob("soak/*/metrics.jsonl")
    logged = map(json.loads, rows.read_text().splitlines())
    peaks = [row["memory/peak_mb"] for row in logged if "memory/peak_mb" in row]
    early, late = peaks[len(peaks) // 4], peaks[-1]
    print(f"{len(done)} disturbances: {' '.join(done)}")
    print(f"peak memory: {early:.0f} MB after a quarter, {late:.0f} MB at the end")
    print(f"{len(first)} values compared; different: {different or 'none'}; {folder}")
    return int(
        code != 0 or bool(different) or first.keys() != second.keys() or late > GROWTH * early
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
