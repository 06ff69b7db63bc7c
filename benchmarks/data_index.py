"""How long does a data set of a million images take to open, and how much memory?

`python -m benchmarks.data_index --out FILE [--peer FOLDER]` writes data sets of tiny images as zip,
shards and folder, opens each for the first time and from its index, and reads images in random
order. `--peer` is a checkout of an earlier version; both open the zip of `--peer-images` in turn.

Memory is that of several processes that have the data set open at once, and have read all names,
positions and labels, above that before opening: `private` of one; `shared` pages are in memory
once. Images are small, so that the figures are those of the index; `memory_mb=0`, as for
images that do not fit in memory.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

PIXELS = 8
"""Side of the images."""
PROCESSES = 4
"""Processes that open a data set from its index at once."""
SHARD = 50_000
"""Images of a tar file."""
READ_SECONDS = 5.0
IMAGES = ("zip=1000000", "shards=100000", "folder=100000")


def entries(num: int) -> Iterator[tuple[str, bytes]]:
    """Yield names and PNG files, in folders of 1,000."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return ((f"{i // 1000:05d}/img{i:08d}.png", buffer.getvalue()) for i in range(num))


def write_labels(path: Path, num: int) -> None:
    """Write `dataset.json` with a camera of its own for each image."""
    from lightning_gan3d.cameras import Cameras

    azimuth, elevation = torch.rand(2, num, generator=torch.Generator().manual_seed(0))
    labels = Cameras.on_sphere(6 * azimuth - 3, elevation - 0.5).to_label().double()
    with path.open("w") as file:
        file.write('{"labels": [')
        for i, (name, _) in enumerate(entries(num)):
            file.write(f"{', ' if i else ''}{json.dumps([name, labels[i].tolist()])}")
        file.write("]}")


def write(kind: str, path: Path, num: int) -> None:
    """Write a data set."""
    if kind == "zip":
        labels = path.with_suffix(".json")
        write_labels(labels, num)
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in entries(num):
                archive.writestr(zipfile.ZipInfo(name), data)
            archive.write(labels, "dataset.json")
        labels.unlink()
        return
    path.mkdir()
    write_labels(path / "dataset.json", num)
    with ExitStack() as stack:
        for i, (name, data) in enumerate(entries(num)):
            if kind == "folder":
                (path / name).parent.mkdir(exist_ok=True)
                (path / name).write_bytes(data)
                continue
            if i % SHARD == 0:
                file = path / f"{i // SHARD:06d}.tar"
                shard = stack.enter_context(tarfile.open(file, "w", format=tarfile.USTAR_FORMAT))
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    time.sleep(3)  # an index needs a folder that has not just changed


def memory() -> dict[str, int]:
    """Bytes of this process's pages: of its own, and shared with other processes."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    pages = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}
    return {k: pages[f"{k}_Clean"] + pages[f"{k}_Dirty"] for k in ("Private", "Shared")}


def peak() -> int:
    """Peak of resident memory in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def opened(path: str) -> None:
    """Open a data set here and print the cost; wait for a line, then print memory and reads."""
    from lightning_gan3d.data.datamodule import KeyedOrder
    from lightning_gan3d.data.dataset import DataConfig, ImageDataset

    with tempfile.TemporaryDirectory() as folder:  # load the code
        small = Path(folder) / "a.png"
        small.write_bytes(next(entries(1))[1])
        ImageDataset(DataConfig(path=folder, labels="none", memory_mb=0)).images([0])
    before, peak_before = memory(), peak()
    seconds, cpu = time.perf_counter(), time.process_time()
    dataset = ImageDataset(DataConfig(path=path, memory_mb=0))
    cost = {
        "seconds": time.perf_counter() - seconds,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mb": (peak() - peak_before) / 1e6,
        "fingerprint": dataset.fingerprint,
    }
    num, table = len(dataset), getattr(dataset, "label_table", None)
    rows = table.rows if table else dataset.labels.__getitem__  # an earlier version
    for i in range(0, num, 2**14):
        rows(torch.arange(i, min(i + 2**14, num)))
    for i in range(0, num, 50):
        dataset.source.read(dataset.names[i])  # reads every page of the index
    print(json.dumps(cost), flush=True)
    sys.stdin.readline()  # all processes have opened it
    after = memory()
    grown = {f"{k.lower()}_bytes": (after[k] - before[k]) / num for k in after}
    print(json.dumps(grown), flush=True)
    if sys.stdin.readline().strip() != "read":
        return
    shuffled, count, start = torch.randperm(num).tolist(), 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < READ_SECONDS:
        dataset.images([shuffled[count % num]])
        count += 1
    start = time.perf_counter()
    KeyedOrder(num, 32, 0).indices(0)
    order = time.perf_counter() - start
    print(json.dumps({"images_per_second": count / spent, "order_seconds": order}), flush=True)


def open_in(path: Path, cache: Path, processes: int = 1, package: Path | None = None) -> Any:
    """Open a data set in processes of their own; medians, and reads of the first."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(package or Path(__file__).parents[1])
    line = [sys.executable, __file__, "--child", str(path)]
    children = [
        subprocess.Popen(
            line, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(processes)
    ]

    def ask(text: str, child: "subprocess.Popen[str]") -> dict[str, Any]:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(text)
        child.stdin.flush()
        return dict(json.loads(child.stdout.readline()))

    costs = [ask("", child) for child in children]
    for child, grown in zip(children, [ask("\n", child) for child in children], strict=True):
        costs[children.index(child)] |= grown
    reads = ask("read\n", children[0])
    for child in children:
        child.communicate("\n")
    fingerprint = costs[0].pop("fingerprint")
    assert all(cost.pop("fingerprint", fingerprint) == fingerprint for cost in costs)
    medians = {key: round(median(cost[key] for cost in costs), 3) for key in costs[0]}
    rounded = {key: round(value, 3) for key, value in reads.items()}
    return {**medians, **rounded, "fingerprint": fingerprint}


def measure_kind(kind: str, num: int, folder: Path) -> dict[str, Any]:
    """Open a data set of one kind for the first time, alone, and by several processes at once."""
    path, cache = folder / f"{kind}.zip" if kind == "zip" else folder / kind, folder / "cache"
    write(kind, path, num)
    first = open_in(path, cache)
    os.sync()  # pages of a file that is not on disk yet count as private
    size = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    result = {
        "images": num,
        "first": first,
        "again": open_in(path, cache),
        "index_bytes": size / num,
    }
    result["several"] = open_in(path, cache, PROCESSES)
    subprocess.run(["rm", "-r", path, cache], check=True)
    return result


def compare(num: int, folder: Path, peer: Path) -> dict[str, Any]:
    """Open a zip by the earlier version and by this one in turn, three times each."""
    path, cache = folder / "peer.zip", folder / "cache"
    write("zip", path, num)
    runs: dict[str, list[dict[str, Any]]] = {"peer": [], "first": [], "again": []}
    for _ in range(3):
        runs["peer"].append(open_in(path, cache, package=peer))
        runs["first"].append(open_in(path, cache))
        runs["again"].append(open_in(path, cache))
        subprocess.run(["rm", "-r", cache], check=True)
    (fingerprint,) = {run.pop("fingerprint") for each in runs.values() for run in each}
    medians = {
        name: {key: round(median(run[key] for run in each), 3) for key in each[0]}
        for name, each in runs.items()
    }
    return {"fingerprint": fingerprint, **medians}


def main() -> None:
    """Measure and write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", nargs="+", metavar="KIND=NUMBER", default=IMAGES)
    parser.add_argument("--peer", type=Path, help="checkout of an earlier version")
    parser.add_argument("--peer-images", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", help="open this data set here, and print JSON")
    chosen = parser.parse_args()
    if chosen.child is not None:
        opened(chosen.child)
        return
    from lightning_gan3d.benchmark.speed import Environment

    result: dict[str, Any] = {
        "what": __doc__.split("\n\n")[2].replace("\n", " ").strip(),
        "setup": asdict(Environment.current(torch.device("cpu"), sys.argv)),
        "pixels": PIXELS,
        "processes": PROCESSES,
        "peer_images": chosen.peer_images,
    }
    with tempfile.TemporaryDirectory() as folder:
        if chosen.peer:
            result["compared"] = compare(chosen.peer_images, Path(folder), chosen.peer)
        for kind, _, num in (text.partition("=") for text in chosen.images):
            result[kind] = measure_kind(kind, int(num), Path(folder))
    text = json.dumps(result, indent=1)
    if chosen.out is not None:
        chosen.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
