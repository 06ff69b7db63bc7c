import hashlib
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lightning_gan3d.metrics import pretrained
from lightning_gan3d.metrics.pretrained import (
    Weights,
    WeightsError,
    fetch,
    find,
    place_of,
    state_of,
)

CONTENT = bytes(range(256)) * 9000


class Server(BaseHTTPRequestHandler):
    """Sends CONTENT: whole, cut off, or with one bit turned, by the path."""

    def do_GET(self):
        sent = bytearray(CONTENT)
        if self.path == "/flipped":
            sent[1000] ^= 1
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(sent[: len(sent) // 2] if self.path == "/truncated" else sent)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture
def tried(monkeypatch, tmp_path):
    entry = Weights("net.pt", "x", hashlib.sha256(CONTENT).hexdigest(), "tests")
    monkeypatch.setitem(pretrained.KNOWN, "tried", entry)
    return partial(fetch, "tried", tmp_path / "w")


def test_what_is_fetched_is_checked_and_kept(tried, address, tmp_path):
    seen = []
    found = tried(url=f"{address}/whole", progress=lambda *a: seen.append(a))
    assert found.path.read_bytes() == CONTENT
    assert found.published
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [p.name for p in (tmp_path / "w").iterdir()] == ["net.pt"]
    assert find("tried", folder=tmp_path / "w") == found
    assert tried(url="http://127.0.0.1:1/nobody") == found  # at hand: nobody is asked


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("truncated", "could not be fetched"),
        ("flipped", "sent something else"),
        ("missing", "Not Found"),
    ],
)
def test_a_broken_transfer_leaves_nothing(tried, address, tmp_path, path, words):
    with pytest.raises(WeightsError, match=words):
        tried(url=f"{address}/{path}")
    assert list((tmp_path / "w").iterdir()) == []
    assert state_of("tried", tmp_path / "w")[0] is False


def test_without_network_the_remedy_is_told(tried, tmp_path):
    with pytest.raises(WeightsError, match=r"could not be fetched.*put net.pt into"):
        tried(url="http://127.0.0.1:1/net.pt")
    with pytest.raises(WeightsError, match="gan3d weights fetch tried"):
        find("tried", folder=tmp_path)


def test_a_damaged_file_is_told_and_fetched_again(tried, address, tmp_path):
    path = place_of("tried", tmp_path / "w")
    path.parent.mkdir()
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match="is damaged"):
        find("tried", folder=tmp_path / "w")
    assert tried(url=f"{address}/whole").path.read_bytes() == CONTENT


@pytest.mark.usefixtures("tried")
def test_a_file_given_by_hand_is_taken_and_known_for_what_it_is(tmp_path):
    other = tmp_path / "other.pt"
    other.write_bytes(b"mine")
    found = find("tried", given=other)
    assert (found.published, found.sha256) == (False, hashlib.sha256(b"mine").hexdigest())
    with pytest.raises(WeightsError, match="no file"):
        find("tried", given=tmp_path / "absent.pt")


def test_names_and_places():
    with pytest.raises(WeightsError, match="use one of inception, inception-pytorch, vgg16"):
        find("inceptoin")
    for name, entry in pretrained.KNOWN.items():
        assert pretrained.source_of(name).endswith(entry.file)
        assert len(entry.sha256) in (8, 64)


def test_the_trunk_lies_where_torch_looks_for_them(monkeypatch):
    import torch.hub

    monkeypatch.delenv("TORCH_HOME", raising=False)
    assert str(place_of("lpips-alex").parent) == f"{torch.hub.get_dir()}/checkpoints"


def test_the_home_folder_is_written_as_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(WeightsError, match=r"into ~/\.cache/lightning_gan3d/weights") as caught:
        find("inception")
    assert str(tmp_path) not in str(caught.value)
