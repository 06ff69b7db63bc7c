"""Sums of gradients in buckets; `test_distributed.py` has whole runs of several processes."""

import inspect
import json
import os
import textwrap
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from test_distributed import OPTIONS, networks, train
from torch import nn

from lightning_gan3d import runs
from lightning_gan3d.files import write_json
from lightning_gan3d.training import distributed
from lightning_gan3d.training.distributed import GradientBuckets
from lightning_gan3d.training.module import AdversarialModule
from lightning_gan3d.training.processes import Ranks, run_processes


class Group:
    """Stand-in for three processes with equal gradients: sums exist once they are waited for."""

    def __init__(self):
        self.events = []

    def all_reduce(self, flat, async_op=False):
        self.events.append(flat.numel())
        if not async_op:
            flat.mul_(3)
            return None
        return Message(flat)


class Message:
    def __init__(self, flat):
        self.flat = flat

    def wait(self):
        self.flat.mul_(3)


@pytest.fixture
def group(monkeypatch):
    group = Group()
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    monkeypatch.setattr(dist, "all_reduce", group.all_reduce)
    monkeypatch.setattr(distributed, "BUCKET_BYTES", 8)
    return group


class Chain(nn.Module):
    """Multiplies by scalars, two of which fill a bucket."""

    def __init__(self, length):
        super().__init__()
        self.scales = nn.ParameterList(nn.Parameter(torch.tensor([i + 2.0])) for i in range(length))

    def forward(self, x, skipped=()):
        for i, scale in enumerate(self.scales):
            x = x if i in skipped else x * scale
        return x.sum()


def accumulate(buckets, chain, skipped=(), statistics=()):
    """Two passes; returns the sums of their gradients."""
    for p in chain.parameters():
        p.grad = None
    for last, x in ((False, 1.0), (True, 2.0)):
        with buckets.sending("phase", last):
            chain(torch.tensor([x]), skipped).backward()
    buckets.finish("phase", list(chain.parameters()), statistics)
    return [p.grad for p in chain.parameters()]


def expected(chain, skipped=()):
    """Three processes with inputs of 1 and 2: nine times the product of the other factors."""
    factors = [None if i in skipped else p.detach() for i, p in enumerate(chain.scales)]
    product = torch.stack([x for x in factors if x is not None]).prod(dim=0)
    return [None if x is None else 9 * product / x for x in factors]


def test_full_buckets_are_sent_within_the_pass_and_the_rest_with_the_statistics(group):
    chain = Chain(5)
    buckets = GradientBuckets(list(chain.parameters()))
    for p, name in zip(chain.parameters(), "edcba", strict=True):
        p.register_post_accumulate_grad_hook(lambda _, name=name: group.events.append(name))
    statistics = torch.ones(3)
    sums = accumulate(buckets, chain, statistics=[statistics])
    assert group.events == [*"abcde", *"abcde", 5 + 3]  # the first time, after the pass
    torch.testing.assert_close(sums, expected(chain))
    assert torch.equal(statistics, torch.full((3,), 3.0))
    group.events.clear()
    sums = accumulate(buckets, chain, statistics=[statistics])
    assert group.events == [*"abcde", "a", "b", 2, "c", "d", 2, "e", 1 + 3]
    torch.testing.assert_close(sums, expected(chain))
    assert torch.equal(statistics, torch.full((3,), 9.0))


def test_missing_and_new_gradients(group):
    chain = Chain(5)
    buckets = GradientBuckets(list(chain.parameters()))
    for skipped in ((), (), (4,), (0, 1), ()):
        sums = accumulate(buckets, chain, skipped)
        for value, correct in zip(sums, expected(chain, skipped), strict=True):
            assert (value is None) == (correct is None)
            assert value is None or value == pytest.approx(float(correct))
    grown = Chain(5)
    buckets = GradientBuckets(list(grown.parameters()))
    messages = []
    for skipped in ((0, 1), (0, 1), (), (), ()):  # known buckets, new gradients, recorded, known
        group.events.clear()
        torch.testing.assert_close(accumulate(buckets, grown, skipped), expected(grown, skipped))
        messages.append(list(group.events))
    assert messages == [[3], [2, 1], [2, 3], [5], [2, 2, 1]]


def test_frozen_parameters_and_those_of_other_optimizers_are_in_no_bucket(group):
    chain, other = Chain(5), Chain(5)
    chain.scales[2].requires_grad_(False)
    buckets = GradientBuckets([*chain.parameters(), *other.parameters()])
    own = [p for p in chain.parameters() if p.requires_grad]
    for sizes in ([4], [2, 2]):
        group.events.clear()
        for p in (*chain.parameters(), *other.parameters()):
            p.grad = None
        with buckets.sending("phase", last=True):
            (chain(torch.ones(1)) * other(torch.ones(1))).backward()
        buckets.finish("phase", own)
        assert group.events == sizes[: len(group.events)]
        assert sum(group.events) == 4
        assert chain.scales[2].grad is None
        factors = torch.stack([p.detach() for p in (*chain.parameters(), *other.parameters())])
        alone = factors.prod()
        for p in other.parameters():
            assert p.grad == pytest.approx(float(alone / p.detach()))
        for p in own:
            assert p.grad == pytest.approx(float(3 * alone / p.detach()))


@pytest.mark.usefixtures("group")
def test_a_pass_after_the_last_one_is_an_error():
    chain = Chain(5)
    buckets = GradientBuckets(list(chain.parameters()))
    accumulate(buckets, chain)
    with buckets.sending("phase", last=True):
        chain(torch.ones(1)).backward()
        with pytest.raises(RuntimeError, match="phase: a gradient changed after its bucket was"):
            chain(torch.ones(1)).backward()


@pytest.mark.usefixtures("group")
def test_a_faulty_rule_for_full_buckets_is_caught():
    source = textwrap.dedent(inspect.getsource(GradientBuckets._sender))
    rule = " and not missing[len(self._sent)]"
    assert rule in source
    faulty = {**vars(distributed)}
    exec(source.replace(rule, ""), faulty)  # sends all with the first gradient
    kind = type("Faulty", (GradientBuckets,), {"_sender": faulty["_sender"]})
    chain = Chain(5)
    buckets = kind(list(chain.parameters()))
    accumulate(buckets, chain)
    with pytest.raises(RuntimeError, match="changed after its bucket was sent"):
        accumulate(buckets, chain)


@pytest.mark.usefixtures("group")
def test_ranks_with_gradients_of_other_parameters_are_an_error(monkeypatch):
    chain = Chain(5)
    monkeypatch.setattr(distributed, "from_main", lambda mine: [mine[0], mine[1][1:]])
    with pytest.raises(RuntimeError, match="ranks 0 and 0 have gradients of other parameters"):
        accumulate(GradientBuckets(list(chain.parameters())), chain)


def test_one_process_has_no_hooks_and_no_copies(monkeypatch):
    monkeypatch.setattr(distributed, "BUCKET_BYTES", 8)
    monkeypatch.setattr(torch, "cat", pytest.fail)
    chain = Chain(5)
    buckets = GradientBuckets(list(chain.parameters()))
    for _ in range(2):
        with buckets.sending("phase", last=True):
            assert not any(p._post_accumulate_grad_hooks for p in chain.parameters())
            chain(torch.ones(1)).backward()
        buckets.finish("phase", list(chain.parameters()))
    assert not buckets._buckets


def train_in_buckets(config, path):
    """Train with buckets of a few layers; write the messages that each backward pass sent.

    Images that the discriminator gets in the first step, and their logits, are written too.
    """
    sent, passes, judged = [], [], {}
    all_reduce, step = dist.all_reduce, AdversarialModule._optimizer_step
    judge = AdversarialModule.judge

    def recorded(tensor, *arguments, async_op=False, **options):
        if async_op:
            sent.append(tensor.numel())
        return all_reduce(tensor, *arguments, async_op=async_op, **options)

    def after_backward(self, phase, *arguments):
        passes.append([phase, sent.copy()])
        sent.clear()
        step(self, phase, *arguments)

    def kept(self, images, label, mb, real, penalised=False):
        judgement, leaves = judge(self, images, label, mb, real, penalised)
        if mb.schedule.step == 0:
            key = f"{mb.draws.prefix}{'real' if real else 'fake'} {mb.draws.microbatch}"
            judged[key] = images.image.detach(), judgement.logits.detach()
        return judgement, leaves

    with (
        mock.patch.object(distributed, "BUCKET_BYTES", 2000),
        mock.patch.object(dist, "all_reduce", recorded),
        mock.patch.object(AdversarialModule, "_optimizer_step", after_backward),
        mock.patch.object(AdversarialModule, "judge", kept),
    ):
        code = train(config, path)
    number = os.environ.get("RANK", 0)
    write_json(path / f"passes{number}.json", passes)
    torch.save(judged, path / f"judged{number}.pt")
    return code


def train_by(tiny, path, count, *overrides):
    """Train in this process, and in so many; return the directories."""
    one = tiny(*OPTIONS, *overrides, "training.log_kimg=0.016")
    several = tiny(*OPTIONS, *overrides, "training.log_kimg=0.016", f"training.devices={count}")
    assert train_in_buckets(one, path / "one") == 0
    arguments = (several, path / "several")
    assert run_processes(train_in_buckets, arguments, Ranks(count), "forkserver") == 0
    return path / "one", path / "several"


def test_two_processes_are_bitwise_one_over_twenty_steps_with_all_phases(tiny, tmp_path):
    one, two = train_by(tiny, tmp_path, 2, "training.microbatch=4", "training.kimg=0.16")
    expected, shared = networks(one), networks(two)
    assert expected.keys() == shared.keys()
    assert not [k for k in expected if not torch.equal(expected[k], shared[k])]
    assert {name.partition("/")[0] for name in expected} == {
        *("generator.safetensors", "generator_raw.safetensors", "discriminator.safetensors")
    }
    rows = runs.Run(two).metrics()
    assert rows[-1]["step"] == 20
    assert rows[-1]["augment/probability"] > 0.05
    passes = [json.loads((two / f"passes{rank}.json").read_text()) for rank in range(2)]
    assert passes[0] == passes[1]
    assert len(passes[0]) == 20 + 10 + 20 + 10
    first, later = passes[0][:4], passes[0][4:]
    assert [phase for phase, _ in first] == ["G loss", "G density penalty", "D loss", "D penalty"]
    assert not any(sent for _, sent in first)
    assert all(sent for _, sent in later)


def test_images_latents_and_groups_of_four_processes_are_those_of_one(tiny, tmp_path):
    options = ("training.microbatch=2", "training.kimg=0.016", "training.views=2")
    one, four = train_by(tiny, tmp_path, 4, *options)
    expected, parts = torch.load(one / "judged0.pt"), {}
    for rank in range(4):
        part = torch.load(four / f"judged{rank}.pt")
        assert {key[-1] for key in part} == {str(rank)}
        parts |= part
    assert parts.keys() == expected.keys()
    passes = json.loads((four / "passes3.json").read_text())
    assert [bool(sent) for phase, sent in passes if phase == "G loss"] == [False, True]
    for key, (images, logits) in parts.items():
        if key.startswith("training/D/fake"):  # after a step whose sum of four is rounded
            torch.testing.assert_close(images, expected[key][0], rtol=0, atol=1e-5)
        else:
            assert torch.equal(images, expected[key][0]), key
        torch.testing.assert_close(logits, expected[key][1], rtol=0, atol=1e-5)
    ours, shared = networks(one), networks(four)
    for name, value in ours.items():
        torch.testing.assert_close(shared[name], value, rtol=0, atol=1e-6, msg=name)
