"""Files that ask for code, or for more memory or time than a machine has."""

import operator
import os
import pickle

from handmade import FakeModule, data, dumps, number, of, storage, tensor, text

FOUR = b"\x80\x04"


class _Reduces:
    def __init__(self, *fields):
        self.fields = fields

    def __reduce__(self):
        return self.fields


def unsafe(marker: str) -> dict[str, bytes]:
    """Files that would create the marker, or change the process after loading: exit code 3."""
    command = f"touch {marker}"
    system = _Reduces(os.system, (command,))
    getter = _Reduces(operator.attrgetter, ("x",))
    push = text(command) + b"\x85"
    nested = storage(b"", 0, description=b"\x80\x02cposix\nsystem\n" + push + b"R.")
    nested_type = storage(b"", 0, kind="posix.system")
    v2 = of("torch._utils._rebuild_tensor_v2")
    state = b"}" + text("__defaults__") + b")s"
    cases = {f"reduce, protocol {p}": pickle.dumps({"G": system}, p) for p in range(6)}
    cases |= {f"attrgetter, protocol {p}": pickle.dumps([getter], p) for p in range(6)}
    cases |= {f"exec, protocol {p}": pickle.dumps(_Reduces(exec, ("x",)), p) for p in range(6)}
    cases |= {
        "after a value": dumps({"G": FakeModule("a", "b"), "D": system}),
        "in a module": dumps({"G": FakeModule("a", "b", attributes={"x": system})}),
        "os.system by name": FOUR + of("os.system") + push + b"R.",
        "GLOBAL": b"cposix\nsystem\n(S'" + command.encode() + b"'\ntR.",
        "INST": b"(S'" + command.encode() + b"'\niposix\nsystem\n.",
        "OBJ": b"(cposix\nsystem\nS'" + command.encode() + b"'\no.",
        "STACK_GLOBAL": FOUR + text("posix") + text("system") + b"\x93" + push + b"R.",
        "NEWOBJ": FOUR + of("posix.system") + push + b"\x81.",
        "NEWOBJ_EX": FOUR + of("posix.system") + push + b"}\x92.",
        "EXT1": FOUR + b"\x82\x01.",
        "EXT2": FOUR + b"\x83\x01\x00.",
        "EXT4": FOUR + b"\x84\x01\x00\x00\x00.",
        "getattr": FOUR + of("builtins.getattr") + of("torch.Size") + text("x") + b"\x86R.",
        "eval": FOUR + of("builtins.eval") + text("1") + b"\x85R.",
        "apply, Python 2": b"c__builtin__\napply\n.",
        "torch.load": FOUR + of("torch.load") + b".",
        "torch.serialization": FOUR + of("torch.serialization._load") + b".",
        "numpy.load": FOUR + of("numpy.load") + b".",
        "dotted": FOUR + text("torch._utils") + text("_rebuild_tensor_v2.__globals__") + b"\x93.",
        "dotted class": FOUR + text("torch.nn.modules.linear") + text("torch.sys") + b"\x93.",
        "dotted persistence": FOUR
        + text("torch_utils")
        + text("persistence._reconstruct_persistent_obj.__globals__")
        + b"\x93.",
        "module as text": FOUR + text("posix\nsystem") + text("\x1b[31m") + b"\x93.",
        "build on a function": FOUR + v2 + b"}" + text("__code__") + b"Nsb.",
        "build on a function, by setattr": FOUR + v2 + b"N" + state + b"\x86b.",
        "build on a class": FOUR + of("torch.nn.modules.linear.Linear") + b"N" + state + b"\x86b.",
        "build on EasyDict": FOUR + of("dnnlib.util.EasyDict") + b"N" + state + b"\x86b.",
        "nested": FOUR + tensor(nested, 0, (0,), (1,)) + b".",
        "nested type": FOUR + tensor(nested_type, 0, (0,), (1,)) + b".",
        "nested again": FOUR
        + tensor(storage(b"", 0, kind="torch.storage._load_from_bytes"), 0, (0,), (1,))
        + b".",
    }
    return cases


def bombs() -> dict[str, bytes]:
    """Files that must be rejected as damaged, without the memory or time that they ask for."""
    four = storage(b"\0" * 16, 4)
    record = of("torch.nn.modules.linear.Linear") + b")\x81"
    two = tensor(four, 0, (2,), (1,))  # compared with anything, it has no truth value
    meta = {
        "type": b"",
        "version": b"\x8a\1\6",
        "module_src": b"",
        "class_name": b"",
        "state": b"}",
    }
    meta |= {k: text("class") for k, v in meta.items() if not v}
    persistent = of("torch_utils.persistence._reconstruct_persistent_obj")
    array = of("numpy.core.multiarray._reconstruct") + of("numpy.ndarray") + b"\x85R"
    dtype_call = of("numpy.dtype") + text("f8") + b"\x85R"
    dtype = dtype_call + b"(K\3" + text("<") + b"NNNtb"
    return {
        "memo index": FOUR + b"Nr\xff\xff\xff\xff0h\x07.",
        "long text": FOUR + b"\x8d" + b"\xff" * 7 + b"\x7f.",
        "long bytes": FOUR + b"\x8e" + b"\xff" * 7 + b"\x00.",
        "long bytes of protocol 5": b"\x80\x05\x96" + b"\xff" * 7 + b"\x00.",
        "long number": FOUR + b"\x8b" + b"\xff\xff\xff\x7f.",
        "number of many digits": b"L" + b"9" * 4000 + b"L\n.",
        "key of many bits": FOUR + b"}" + number(2**1000) + b"Ns.",
        "stride 0": FOUR + tensor(four, 0, (2**40,), (0,)) + b".",
        "stride 0 among others": FOUR + tensor(four, 0, (4, 2), (1, 0)) + b".",
        "beyond the storage": FOUR + tensor(four, 1, (4,), (1,)) + b".",
        "stride beyond": FOUR + tensor(four, 0, (2,), (4,)) + b".",
        "offset": FOUR + tensor(four, 2**63, (1,), (1,)) + b".",
        "negative offset": FOUR + tensor(four, -1, (1,), (1,)) + b".",
        "negative stride": FOUR + tensor(four, 3, (2,), (-1,)) + b".",
        "negative size": FOUR + tensor(four, 0, (-1,), (1,)) + b".",
        "empty but huge": FOUR + tensor(four, 0, (0, 2**61, 2**61), (1, 1, 1)) + b".",
        "many dimensions": FOUR + tensor(four, 0, (1,) * 65, (1,) * 65) + b".",
        "declared numel": FOUR + tensor(storage(b"", 2**40), 0, (1,), (1,)) + b".",
        "two numels": FOUR + tensor(storage(b"\0" * 16, 4, declared=2**40), 0, (1,), (1,)) + b".",
        "negative numel": FOUR + tensor(storage(b"", -4), 0, (1,), (1,)) + b".",
        "truth value 2": FOUR
        + tensor(storage(b"\2", 1, "torch.BoolStorage"), 0, (1,), (1,))
        + b".",
        "deep tuples": FOUR + b")" + b"\x85" * 5_000 + b".",
        "deep lists": FOUR + b"]" * 5_000 + b"a" * 4_999 + b".",
        "deep marks": FOUR + b"(" * 5_000,
        "deep dicts": FOUR + (b"}" + text("x")) * 1000 + b"}" + b"s" * 1000 + b".",
        "deep modules": FOUR
        + (record + b"}" + text("_modules") + b"}" + text("x")) * 1000
        + b"N"
        + b"ssb" * 1000
        + b".",
        "a list in itself": FOUR + b"]\x94h\0a.",
        "a module in itself": FOUR
        + record
        + b"\x94}"
        + text("_modules")
        + b"}"
        + text("x")
        + b"h\0ssb.",
        "persistent id": FOUR + b"Nq\0Q.",
        "persistent id of protocol 0": b"Px\n.",
        "buffer of protocol 5": b"\x80\x05\x97.",
        "read-only buffer": b"\x80\x05N\x98.",
        "protocol 6": b"\x80\x06N.",
        "left over": FOUR + b"NN.",
        "followed by more": FOUR + b"N.more",
        "stop at once": FOUR + b".",
        "a function as a value": FOUR + of("torch.Size") + b".",
        "bytes as a value": FOUR + data(b"x") + b".",
        "a call of a class": FOUR + of("torch.nn.modules.linear.Linear") + b")R.",
        "a call of text": FOUR + text("x") + b")R.",
        "a class instantiated with arguments": FOUR
        + of("torch.nn.modules.linear.Linear")
        + b"N\x85\x81.",
        "a function instantiated": FOUR + of("torch.Size") + b")\x81.",
        "a state for a list": FOUR + b"]}b.",
        "slots": FOUR + record + b"N}\x86b.",
        "an attribute without a name": FOUR + record + b"}NNsb.",
        "a list as a key": FOUR + b"}]Ns.",
        **{
            f"a tensor as {name} of a class": FOUR
            + persistent
            + b"}("
            + b"".join(text(k) + (two if k == name else v) for k, v in meta.items())
            + b"u\x85R."
            for name in meta
        },
        "a tensor as an encoding": FOUR + of("_codecs.encode") + text("x") + two + b"\x86R.",
        "a tensor as an array": FOUR + of("numpy.core.multiarray._reconstruct") + two + b"\x85R.",
        "a tensor as a version": FOUR
        + array
        + b"("
        + two
        + b")"
        + dtype
        + b"\x89"
        + data(b"")
        + b"tb.",
        "a tensor as a byte order": FOUR + dtype_call + b"(K\3" + two + b"NNNK\0tb.",
        "a tensor as axes' order": FOUR
        + of("numpy.core.numeric._frombuffer")
        + b"("
        + data(b"")
        + dtype
        + b")"
        + two
        + b"tR.",
        "a tensor as a key": FOUR + b"}" + two + b"Ns.",
        "a tensor as a parameter's flag": FOUR
        + of("torch._utils._rebuild_parameter")
        + two
        + two
        + b"N\x87R.",
        "lone surrogate": FOUR + b"X\x03\0\0\0\xed\xa0\x80.",
    }


def multiplied() -> dict[str, bytes]:
    """Small files that refer to one part many times, and would copy it each time."""
    load, large = of("torch.storage._load_from_bytes"), data(storage(b"\0" * 2**20, 2**18))
    members = b"](" + b"K\1" * 2**13 + b"e\x94"
    arguments = {"storage": (load, large + b"\x94"), "set": (of("builtins.set"), members)}
    return {
        name: FOUR + b"(" + first + (call + b"h\0\x85R") * 400 + b"l."
        for name, (call, first) in arguments.items()
    }
