"""NVIDIA's pickles: whatever bytes they hold, nothing of them runs."""

import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from mutations import assert_finite, damaged_bytes, mutated, parse

sys.path.insert(0, str(Path(__file__).parent.parent / "checkpoints"))

from handmade import dumps, of, text  # after its folder is known
from hostile import bombs, unsafe
from nvidia_files import triplane

from lightning_gan3d.checkpoints.importer import read_file
from lightning_gan3d.checkpoints.restricted_unpickler import read_pickle
from lightning_gan3d.errors import UserError

NETWORK = triplane(whole=False)
PICKLES = {protocol: dumps({"G_ema": NETWORK}, protocol) for protocol in (2, 4)}
MARKER = Path("marker-of-hostile-pickles")
HOSTILE = [*unsafe(str(MARKER)).values(), *(b for b in bombs().values() if len(b) < 1000)]
NAMES = [
    *("torch.Size", "torch.device", "builtins.set", "builtins.bytes", "collections.OrderedDict"),
    *("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "numpy.dtype"),
    *("torch.storage._load_from_bytes", "numpy.core.multiarray.scalar", "_codecs.encode"),
    *("numpy.core.multiarray._reconstruct", "torch.nn.modules.linear.Linear"),
    *(
        "torch_utils.persistence._reconstruct_persistent_obj",
        "dnnlib.util.EasyDict",
        "posix.system",
    ),
]
OPCODES = st.one_of(
    st.sampled_from([b")", b"(", b"t", b"]", b"}", b"\x85", b"\x86", b"\x87", b"R", b"b", b"\x81"]),
    st.sampled_from(
        [b"s", b"u", b"a", b"e", b"\x94", b"h\0", b"h\1", b"q\0", b"N", b"\x88", b"\x8f"]
    ),
    st.sampled_from([b"0", b"2", b"K\1", b"J\xff\xff\xff\xff", b"\x8a\1\1", b"\x90", b"\x93"]),
    st.sampled_from(NAMES).map(of),
    st.sampled_from(["x", "latin1", "cpu", "f4", "<", "state", "_modules"]).map(text),
    st.sampled_from([b"C\x04abcd", b"G\x7f\xf0\0\0\0\0\0\0", b"B\xff\xff\xff\x7f", b"I10\n"]),
)


def check(tmp_path_factory, content, read):
    file = tmp_path_factory.getbasetemp() / "network.pkl"
    file.write_bytes(content)
    value = parse(read, file)
    assert not MARKER.exists()
    return value


@given(
    st.one_of(
        st.sampled_from([*PICKLES.values()]).flatmap(damaged_bytes),
        st.sampled_from(HOSTILE).flatmap(damaged_bytes),
        st.lists(OPCODES, max_size=30).map(lambda parts: b"\x80\x04" + b"".join(parts) + b"."),
    )
)
def test_a_pickle(tmp_path_factory, content):
    check(tmp_path_factory, content, read_pickle)


@given(mutated({"kwargs": dict(NETWORK.attributes["_init_kwargs"])}, 1))
def test_arguments_of_a_network(tmp_path_factory, tree):
    kwargs = tree.get("kwargs") if isinstance(tree, dict) else tree
    network = triplane(whole=False)
    network.attributes["_init_kwargs"] = kwargs
    if isinstance(kwargs, dict) and "rendering_kwargs" in kwargs:
        network.attributes["rendering_kwargs"] = kwargs["rendering_kwargs"]
    content = dumps({"G_ema": network})
    stored = check(tmp_path_factory, content, read_file)
    if not isinstance(stored, UserError):
        assert_finite(stored.config)
        parse(stored.check, "generator", stored.config)
