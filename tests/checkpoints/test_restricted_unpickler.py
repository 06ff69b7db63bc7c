import contextlib
import hashlib
import json
import os
import pickle
import random
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import hostile
import numpy as np
import pytest
import torch
from handmade import (
    MODULE_SRC,
    EasyDict,
    FakeModule,
    dumps,
    of,
    storage,
    tensor,
    text,
    write_network_pickle,
)

from lightning_gan3d.checkpoints import pickled_objects
from lightning_gan3d.checkpoints.pickled_objects import (
    MAX_MODULE_DEPTH,
    Record,
    UnsafePickle,
    tensors_of,
)
from lightning_gan3d.checkpoints.restricted_unpickler import read_pickle
from lightning_gan3d.checkpoints.store import CheckpointError
from lightning_gan3d.config import UserError

UNSAFE = hostile.unsafe("marker")
BOMBS = hostile.bombs()
MULTIPLIED = hostile.multiplied()


def network(persistent: bool = True, scale: float = 1.0) -> FakeModule:
    """A generator of the shape of EG3D's, in small."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator) * scale

    def layer(*shape):
        return FakeModule(
            "training.networks_stylegan2",
            "FullyConnectedLayer",
            attributes={"gain": np.float64(0.25), "clamp": None, "up": np.int64(2)},
            parameters={"weight": draw(*shape), "bias": None},
            buffers={"filter": draw(2, 2).t()},
        )

    decoder = FakeModule(
        "training.triplane",
        "OSGDecoder",
        persistent=False,
        attributes={"hidden_dim": 8},
        modules={
            "net": FakeModule(
                "torch.nn.modules.container",
                "Sequential",
                False,
                modules={
                    "0": layer(3, 2),
                    "1": FakeModule("torch.nn.modules.activation", "Softplus", False),
                },
            )
        },
    )
    renderer = FakeModule(
        "training.volumetric_rendering.renderer",
        "ImportanceRenderer",
        persistent=False,
        attributes={"plane_axes": torch.eye(3).expand(2, 3, 3).clone(), "pose": torch.Size([1, 2])},
    )
    return FakeModule(
        "training.triplane",
        "TriPlaneGenerator",
        persistent=persistent,
        attributes={
            "size": np.broadcast_to(np.asarray(3), [2]),
            "grid": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
            "device": torch.device("cuda", 0),
            "flag": np.bool_(True),
            "_init_args": (),
            "_init_kwargs": EasyDict(
                c_dim=25, rendering_kwargs=EasyDict(white_back=False, disparity_space_sampling=0.5)
            ),
        },
        parameters={"weight": draw(4, 2)},
        buffers={
            "half": draw(3).half(),
            "brain": draw(3).bfloat16(),
            "double": draw(3).double(),
            **{
                str(d).removeprefix("torch."): torch.tensor([1, 0, 1], dtype=d)
                for d in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
            },
            "bool": torch.tensor([True, False]),
            "scalar": torch.tensor(2.5),
            "empty": torch.empty(0, 3),
            "nothing": None,
        },
        modules={"renderer": renderer, "decoder": decoder, "gone": None},
    )


def expected(fake: FakeModule, prefix: str = "") -> dict[str, torch.Tensor]:
    own = {**fake.parameters, **fake.buffers}
    tensors = {prefix + k: v for k, v in own.items() if v is not None}
    for name, child in fake.modules.items():
        if child is not None:
            tensors |= expected(child, f"{prefix}{name}.")
    return tensors


def file_of(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "NETWORK.pkl"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("persistent", [True, False])
def test_every_tensor_comes_back_bit_for_bit(tmp_path, protocol, persistent):
    fake = network(persistent)
    path = write_network_pickle(
        tmp_path / "n.pkl",
        G=fake,
        D=FakeModule("training.dual_discriminator", "DualDiscriminator"),
        G_ema=network(scale=2.0),
        protocol=protocol,
        training_set_kwargs={"path": "a.zip", "max_size": 10, "xflip": False},
        augment_pipe=FakeModule("training.augment", "AugmentPipe"),
    )
    read = read_pickle(path)

    assert list(read) == ["training_set_kwargs", "G", "D", "G_ema", "augment_pipe"]
    assert read["training_set_kwargs"] == {"path": "a.zip", "max_size": 10, "xflip": False}
    assert type(read["training_set_kwargs"]) is dict
    tensors, got = expected(fake), tensors_of(read["G"])
    assert list(got) == list(tensors)
    for name, value in tensors.items():
        assert got[name].dtype == value.dtype, name
        assert got[name].shape == value.shape, name
        assert got[name].contiguous().view(-1).equal(value.contiguous().view(-1)), name
        assert not got[name].requires_grad
    assert not torch.equal(tensors_of(read["G_ema"])["weight"], got["weight"])


def test_the_record_of_a_module(tmp_path):
    read = read_pickle(write_network_pickle(tmp_path / "n.pkl", G=network()))
    record = read["G"]

    assert (record.module, record.name, record.persistent) == ("", "TriPlaneGenerator", True)
    assert record.source_sha256 == hashlib.sha256(MODULE_SRC.encode()).hexdigest()
    state = record.state
    assert state["_init_kwargs"] == {
        "c_dim": 25,
        "rendering_kwargs": {"white_back": False, "disparity_space_sampling": 0.5},
    }
    assert type(state["_init_kwargs"]["rendering_kwargs"]) is dict
    assert state["size"].tolist() == [3, 3]
    assert state["grid"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert state["device"] == "cuda:0"
    assert state["flag"] is True
    renderer, decoder = state["_modules"]["renderer"], state["_modules"]["decoder"]
    assert renderer.module == "training.volumetric_rendering.renderer"
    assert renderer.name == "ImportanceRenderer"
    assert renderer.source_sha256 is None
    assert not renderer.persistent
    assert renderer.state["plane_axes"].equal(torch.eye(3).expand(2, 3, 3))
    assert renderer.state["pose"] == (1, 2)
    layer = decoder.state["_modules"]["net"].state["_modules"]["0"]
    assert (layer.state["gain"], layer.state["up"]) == (0.25, 2)
    assert type(layer.state["gain"]) is float
    assert type(layer.state["up"]) is int
    with pytest.raises(AttributeError):
        record.name = "other"
    assert len(repr(record)) < 300


def test_names_that_numpy_1_wrote(tmp_path):
    content = dumps({"gain": np.float32(0.5), "size": np.arange(3)}, protocol=3)
    old = content.replace(b"cnumpy._core.", b"cnumpy.core.")
    assert old != content
    read = read_pickle(file_of(tmp_path, old))
    assert read["gain"] == 0.5
    assert read["size"].equal(torch.arange(3))


def test_a_state_dict_with_metadata_is_a_dict(tmp_path):
    state = OrderedDict(a=torch.arange(3.0))
    state._metadata = OrderedDict(version=1)
    read = read_pickle(file_of(tmp_path, pickle.dumps(state, 4)))
    assert type(read) is dict
    assert read["a"].tolist() == [0, 1, 2]


def test_a_module_of_todays_torch_reads_as_its_state_dict(tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
    module.register_buffer("left_out", torch.zeros(1), persistent=False)
    read = tensors_of(read_pickle(file_of(tmp_path, pickle.dumps(module))))
    state = module.state_dict()
    assert list(read) == list(state)
    assert all(read[k].equal(state[k]) for k in state)


def test_tensors_share_memory_as_in_the_file_and_can_be_written(tmp_path):
    blob = storage(torch.arange(4.0).numpy().tobytes(), 4, location="cuda:0")
    read = read_pickle(file_of(tmp_path, b"\x80\x04" + tensor(blob, 1, (3, 1), (1, 9)) + b"."))
    assert read.device == torch.device("cpu")
    assert read.tolist() == [[1], [2], [3]]
    assert read.add_(1).tolist() == [[2], [3], [4]]
    twice = b"\x80\x04]\x94" + tensor(blob, 0, (4,), (1,)) + b"\x94ah\x01a."
    first, second = read_pickle(file_of(tmp_path, twice))
    assert first.data_ptr() == second.data_ptr()


@pytest.mark.parametrize("name", UNSAFE)
def test_a_file_that_asks_for_code_is_rejected(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafePickle, match=r"asks for .*; nothing was executed") as caught:
        read_pickle(file_of(tmp_path, UNSAFE[name]))
    assert caught.value.exit_code == 3
    assert str(caught.value).isprintable()
    assert not (tmp_path / "marker").exists()


def test_the_error_names_the_first_unknown_name(tmp_path):
    with pytest.raises(UnsafePickle, match=r"NETWORK.pkl asks for posix.system; nothing was exec"):
        read_pickle(file_of(tmp_path, UNSAFE["reduce, protocol 4"]))
    with pytest.raises(UnsafePickle, match=r"asks for torch._utils._rebuild_tensor_v2.__globals__"):
        read_pickle(file_of(tmp_path, UNSAFE["dotted"]))
    with pytest.raises(UnsafePickle, match=r"asks for posix.system"):
        read_pickle(file_of(tmp_path, UNSAFE["nested"]))


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_rejected_as_damaged(tmp_path, name):
    with pytest.raises(CheckpointError, match=r"NETWORK.pkl: not a complete network") as caught:
        read_pickle(file_of(tmp_path, BOMBS[name]))
    assert caught.value.exit_code == 2
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("name", MULTIPLIED)
def test_references_to_one_part_cannot_multiply(tmp_path, name):
    with pytest.raises(CheckpointError, match="expands to far more than its own size"):
        read_pickle(file_of(tmp_path, MULTIPLIED[name]))


def test_keys_that_are_slow_or_deep_to_hash_are_rejected_first(tmp_path):
    deep = b")" + b"\x85" * 300_000  # its hash overflows the C stack
    key = b")\x85"  # a tuple of an empty tuple; one deep key is enough, since the scan is slow here
    for ops in (
        b"}" + deep + b"Ns", b"}(" + key + b"Nu", b"(" + key + b"Nd", b"(" + key + b"\x91",
        b"\x8f(" + key + b"\x90", b"}G" + b"\0" * 8 + b"Ns",
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match="neither text nor a small integer"):
            read_pickle(file_of(tmp_path, b"\x80\x04" + ops + b"."))


def traces():
    """State that a pickle could have changed: our classes and tables, and torch's functions."""
    functions = (torch._utils._rebuild_tensor_v2, torch.nn.Linear, Record, pickled_objects.Stub)
    state = [(dict(vars(f)), getattr(f, "__defaults__", None)) for f in functions]
    return state, dict(pickled_objects._FUNCTIONS), dict(pickled_objects._STATES)


def test_a_rejected_file_leaves_no_traces(tmp_path):
    content = dumps({"G": network()})
    before = traces()
    first = tensors_of(read_pickle(file_of(tmp_path, content))["G"])
    for hostile_content in [*UNSAFE.values(), *BOMBS.values()]:
        with pytest.raises(CheckpointError):
            read_pickle(file_of(tmp_path, hostile_content))
    assert traces() == before
    again = read_pickle(file_of(tmp_path, content))["G"]
    assert all(v.equal(first[k]) for k, v in tensors_of(again).items())


AUDIT = """
import json, sys, pickle
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from lightning_gan3d.checkpoints.pickled_objects import tensors_of
from lightning_gan3d.checkpoints.restricted_unpickler import read_pickle
from lightning_gan3d.checkpoints.store import CheckpointError
files = sorted(Path(sys.argv[2]).glob("*.pkl"))
good = Path(sys.argv[2]) / "good.pkl"
tensors_of(read_pickle(good)["G"])  # imports that come late are done by now
try:
    read_pickle(files[0])
except CheckpointError:
    pass
events = []
sys.addaudithook(lambda event, args: events.append((event, *map(str, args))))
outcomes = {}
for file in files:
    try:
        read_pickle(file)
        outcomes[file.stem] = 0
    except CheckpointError as error:
        outcomes[file.stem] = error.exit_code
during = list(events)
exec("1")  # the hook works
print(json.dumps([during, outcomes, [e[0] for e in events[len(during):]]]))
"""


def test_no_code_runs_and_nothing_is_imported_or_written(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    marker = tmp_path / "marker"
    unsafe = hostile.unsafe(str(marker))
    source = f"open({str(marker)!r}, 'w'); import this\n"
    (folder / "good.pkl").write_bytes(
        dumps({"G": FakeModule("a", "b", source=source, modules={"net": network()})})
    )
    for i, content in enumerate([*unsafe.values(), *BOMBS.values()]):
        (folder / f"{i:03}.pkl").write_bytes(content)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", AUDIT, str(root), str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    events, outcomes, control = json.loads(done.stdout)

    assert "exec" in control
    opened = [e for e in events if e[0] == "open"]
    assert {e[0] for e in events} <= {"open", "builtins.id"}
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    assert not any(int(e[3]) & writing for e in opened)
    assert {Path(e[1]).parent for e in opened} == {folder}
    assert outcomes.pop("good") == 0
    assert set(outcomes.values()) == {2, 3}
    assert not marker.exists()


def test_a_truncated_file_is_rejected(tmp_path):
    content = dumps({"G": network()})
    for length in [*range(0, len(content), 397), len(content) - 1]:
        with pytest.raises(CheckpointError) as caught:
            read_pickle(file_of(tmp_path, content[:length]))
        assert caught.value.exit_code == 2


def walk(value, depth=0):
    """Use a value as the importer would."""
    if isinstance(value, Record):
        with contextlib.suppress(UserError):
            tensors_of(value)
        walk(value.state, depth + 1)
    elif isinstance(value, dict | list | tuple | set | frozenset):
        for part in value.values() if isinstance(value, dict) else value:
            walk(part, depth + 1)
    elif isinstance(value, torch.Tensor):
        value.clone()
    else:
        assert value is None or type(value) in (bool, int, float, str)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_mutated_file_is_read_or_rejected(tmp_path, protocol):
    rng = random.Random(protocol)
    small = FakeModule("a", "b", modules=network().modules)
    content = dumps({"G": small}, protocol)
    starts = [*UNSAFE.values(), *(b for b in BOMBS.values() if len(b) < 1000)]
    outcomes = {"read": 0, "rejected": 0}
    for i in range(200):
        mutant = bytearray(rng.choice(starts) if i % 4 == 0 else content)
        for _ in range(rng.choice([1, 1, 4, 16])):
            at = rng.randrange(len(mutant))
            match rng.randrange(4):
                case 0:
                    mutant[at] ^= 1 << rng.randrange(8)
                case 1:
                    mutant[at] = rng.choice(b".)(]}NRbaehjqQ\x81\x82\x85\x8c\x93\x94\x95\xff\0")
                case 2:
                    del mutant[at : at + rng.randrange(1, 8)]
                case 3:
                    mutant[at:at] = mutant[at : at + rng.randrange(1, 64)]
            if not mutant:
                break
        try:
            walk(read_pickle(file_of(tmp_path, bytes(mutant))))
            outcomes["read"] += 1
        except UserError as error:
            outcomes["rejected"] += str(error).isprintable()
    assert sum(outcomes.values()) == 200
    assert outcomes["read"] > 0
    assert outcomes["rejected"] > 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"PK\x03\x04" + b"\0" * 50, "zip"),
        (b"<!DOCTYPE html><html>Not found</html>", "web page"),
        (b"\n  <html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"\x1f\x8b\x08\0\0", "gzip"),
        (b'\x10\0\0\0\0\0\0\0{"__metadata__":{}}', "safetensors"),
        (storage(b"", 0), "weights alone"),
        (b"\x80\x03cdnnlib.tflib.network\nNetwork\n)\x81.", "legacy.py"),
        (b"name: a yaml file", "not a complete network pickle"),
        (bytes(range(256)), "not a complete network pickle"),
    ],
)
def test_another_kind_of_file_is_named(tmp_path, content, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        read_pickle(file_of(tmp_path, content))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_missing_or_too_large_file(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_pickle(tmp_path / "none.pkl")
    with pytest.raises(CheckpointError, match="no such file"):
        read_pickle(tmp_path)
    with pytest.raises(CheckpointError, match="max_bytes=10; raise"):
        read_pickle(file_of(tmp_path, dumps([1] * 100)), max_bytes=10)


def chain(modules: int) -> Record:
    record = Record("a", "leaf", {"_parameters": {"w": torch.zeros(1)}})
    for _ in range(modules):
        record = Record("a", "b", {"_modules": {"x": record}})
    return record


def test_malformed_modules_are_rejected():
    assert list(tensors_of(chain(MAX_MODULE_DEPTH))) == ["x." * MAX_MODULE_DEPTH + "w"]
    with pytest.raises(CheckpointError, match="deeper than"):
        tensors_of(chain(MAX_MODULE_DEPTH + 1))
    looped = Record("a", "b")
    looped.state["_modules"] = {"x": looped}
    with pytest.raises(CheckpointError, match="or nested in themselves"):
        tensors_of(looped)
    for state in (
        {"_parameters": 3},
        {"_parameters": {"w": 3}},
        {"_buffers": {"a.b": torch.zeros(1)}},
        {"_buffers": {"": torch.zeros(1)}},
        {"_buffers": {3: torch.zeros(1)}},
        {"_buffers": {"x" * 1000: torch.zeros(1)}},
        {"_modules": {"w": torch.zeros(1)}},
        {"_modules": []},
    ):
        with pytest.raises(CheckpointError, match="no network does"):
            tensors_of(Record("a", "b", state))


def test_modules_that_share_children_cannot_explode(tmp_path):
    instance = of("torch.nn.modules.container.Sequential") + b")\x81"
    ops = b"\x80\x04(" + instance + b"q\x00"
    for i in range(40):  # 2**40 paths through 40 modules
        both = text("a") + b"h" + bytes([i]) + text("b") + b"h" + bytes([i])
        ops += instance + b"}" + text("_modules") + b"}(" + both + b"usbq" + bytes([i + 1])
    *_, record = read_pickle(file_of(tmp_path, ops + b"t."))
    with pytest.raises(CheckpointError, match="entries"):
        tensors_of(record)
