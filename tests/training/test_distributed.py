import multiprocessing
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from lightning_gan3d import runs
from lightning_gan3d.checkpoints import store
from lightning_gan3d.config import ConfigError
from lightning_gan3d.training import distributed
from lightning_gan3d.training.fit import fit, plan, train_run
from lightning_gan3d.training.module import AdversarialModule
from lightning_gan3d.training.processes import Ranks, Session, is_main, run_processes

CPU = torch.device("cpu")
# Children are forked from a server that has imported but not computed: autograd does not survive
# the fork of a process that has, and importing again in each child takes seconds.
multiprocessing.set_forkserver_preload(["lightning_gan3d.training.fit"])


def train(config, path):
    """Train in this process, or in one of several."""
    torch.set_num_threads(1)
    if is_main():
        path.mkdir()
        runs.write_config(path, config)
    return fit(Session(config, path, CPU))


def networks(path):
    _, newest = store.steps_in(path / "checkpoints")[-1]
    return {
        f"{file.name}/{name}": value
        for file in sorted(newest.glob("*.safetensors"))
        for name, value in load_file(file).items()
    }


OPTIONS = (
    "loss.density_reg=0.1",
    "loss.density_reg_interval=2",
    "augment={mode: ada, interval: 2, speed_kimg: 0.1, target: -1.0}",
    "loss.style_mixing=0.5",
    "training.log_kimg=0.008",
)


def train_one_and_two(tiny, path, *overrides):
    """Train in one process and in two; return their networks and their rows."""
    assert train(tiny(*OPTIONS, *overrides), path / "one") == 0
    shared = tiny(*OPTIONS, *overrides, "training.devices=2")
    assert run_processes(train, (shared, path / "two"), Ranks(2), method="forkserver") == 0
    return [(networks(path / n), runs.Run(path / n).metrics()) for n in ("one", "two")]


def assert_rows_agree(first, second):
    for a, b in zip(first, second, strict=True):
        for key in ("step", "loss/G", "loss/D", "D/real", "D/accuracy", "gradient/D loss"):
            assert a[key] == pytest.approx(b[key], rel=1e-4), key


def test_two_processes_are_bitwise_one_that_accumulates(tiny, tmp_path):
    planes = "{num_layers: 2, num_critical: 1, channel_max: 8}"  # StyleGAN3 has statistics to share
    network = ["network=stylegan3-t", f"stylegan3={planes}"]
    network = [f"generator.representation.{option}" for option in network]
    half = ("training.microbatch=4", "training.kimg=0.032", *network)
    (one, rows_one), (two, rows_two) = train_one_and_two(tiny, tmp_path, *half)
    assert one.keys() == two.keys()
    assert not [k for k in one if not torch.equal(one[k], two[k])]
    assert_rows_agree(rows_one, rows_two)
    assert len(rows_one) == 4
    magnitudes = [x for name, x in one.items() if name.endswith("magnitude_ema")]
    assert not any((x == 1).any() for x in magnitudes)
    assert len(magnitudes) >= 3


def test_two_processes_are_bitwise_one_in_a_fade(tiny, tmp_path):
    options = (
        "training.microbatch=4",
        "training.kimg=0.024",
        "training.rendering_resolution={initial: null, final: null}",
        "training.growing.stages=[{resolution: 8, kimg: 0.004}, {resolution: 16, fade_kimg: 1}]",
        "generator.representation={kind: voxel, resolution: 16, channels: 4, "
        "synthesis: {channels: [8, 8, 8]}}",
    )
    (one, _), (two, rows) = train_one_and_two(tiny, tmp_path, *options)
    assert [row["schedule/stage"] for row in rows] == [0, 1, 1]
    assert 0 < rows[-1]["schedule/alpha"] < 1
    assert one.keys() == two.keys()
    assert not [k for k in one if not torch.equal(one[k], two[k])]


def test_two_nodes_are_bitwise_one(tiny, tmp_path):
    half = ("training.microbatch=4", "training.kimg=0.016")
    assert train(tiny(*OPTIONS, *half), tmp_path / "one") == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tiny(*OPTIONS, *half, "trainer.num_nodes=2")

    def start(node):
        ranks = Ranks(1, node, 2, "127.0.0.1", port)
        return run_processes(train, (config, tmp_path / "two"), ranks, method="forkserver")

    with ThreadPoolExecutor(2) as nodes:
        assert list(nodes.map(start, range(2))) == [0, 0]
    one, two = networks(tmp_path / "one"), networks(tmp_path / "two")
    assert not [k for k in one if not torch.equal(one[k], two[k])]
    assert runs.Run(tmp_path / "two").manifest()["processes"] == 2
    assert len(runs.Run(tmp_path / "two").metrics()) == 2


def test_a_run_of_one_node_is_main_on_any_node(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("NODE_RANK", "1")
    config = tiny("training.kimg=0.016")
    assert train_run(config, tmp_path, evaluate=False) == 0
    run = runs.Run(runs.run_path(config, tmp_path))
    assert len(run.metrics()) == 1
    assert run.manifest()["processes"] == 1


def test_a_node_reads_its_rank_from_the_environment(tiny, tmp_path, monkeypatch):
    config = tiny("trainer.num_nodes=2", "training.microbatch=4")
    with pytest.raises(ConfigError, match=r"NODE_RANK \(0 to 1\) and MASTER_ADDR"):
        train_run(config, tmp_path)
    monkeypatch.setenv("SLURM_NODEID", "1")
    monkeypatch.setenv("MASTER_ADDR", "node0")
    started = []
    monkeypatch.setattr(
        "lightning_gan3d.training.fit.run_processes",
        lambda *arguments: started.append(arguments) or 0,
    )
    train_run(config, tmp_path)
    ((_, (session,), ranks),) = started
    assert ranks == Ranks(1, 1, 2, "node0", 29500)
    assert session.checkpoint is None
    assert not list(tmp_path.glob("tiny/*"))
    with pytest.raises(ConfigError, match="do not divide the 1 microbatch"):
        plan(tiny("trainer.num_nodes=2"))


def test_processes_that_accumulate_too_differ_by_rounding_alone(tiny, tmp_path):
    quarter = ("training.microbatch=2", "training.kimg=0.008", "training.w_avg_from=eg3d")
    (one, rows_one), (two, rows_two) = train_one_and_two(tiny, tmp_path, *quarter)
    assert_rows_agree(rows_one, rows_two)
    torch.testing.assert_close(
        one["generator.safetensors/mapping.w_avg"], two["generator.safetensors/mapping.w_avg"]
    )


def resumes(config, path):
    torch.set_num_threads(1)
    return fit(Session(config, path, CPU, store.newest(path / "checkpoints", str)))


def test_a_run_continues_with_another_number_of_processes(tiny, tmp_path, at_step):
    half = (*OPTIONS, "training.microbatch=4", "training.kimg=0.016")
    assert train(tiny(*half), tmp_path / "one") == 0
    at_step(0)
    assert train(tiny(*half), tmp_path / "both") == 75
    shared = tiny(*half, "training.devices=2")
    assert run_processes(resumes, (shared, tmp_path / "both"), Ranks(2), method="forkserver") == 0
    one, both = networks(tmp_path / "one"), networks(tmp_path / "both")
    assert not [k for k in one if not torch.equal(one[k], both[k])]
    assert len(runs.Run(tmp_path / "both").metrics()) == 2


def interrupted(config, path):
    genuine = AdversarialModule.training_step

    def hooked(self, batch, index):
        if batch.step == 3 and os.environ["LOCAL_RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)  # one process only
        genuine(self, batch, index)

    AdversarialModule.training_step = hooked
    return train(config, path)


def test_all_processes_stop_after_the_same_step(tiny, tmp_path):
    config = tiny("training.microbatch=4", "training.devices=2")
    assert (
        run_processes(interrupted, (config, tmp_path / "run"), Ranks(2), method="forkserver") == 75
    )
    assert [s for s, _ in store.steps_in(tmp_path / "run" / "checkpoints")] == [4]


def test_sums_reach_every_tensor(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        original = dist.all_reduce
        tensors = [torch.arange(6.0).view(2, 3), torch.tensor(2.0), torch.ones(4)]
        expected = [t * 3 for t in tensors]
        distributed.world_size, world_size = (lambda: 3), distributed.world_size
        dist.all_reduce = lambda flat: flat.mul_(3)  # as if two others had sent twice as much
        distributed.sum_all(tensors)
    finally:
        distributed.world_size, dist.all_reduce = world_size, original
        dist.destroy_process_group()
    for summed, correct in zip(tensors, expected, strict=True):
        assert torch.equal(summed, correct)
