import hashlib
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lightning_gan3d.metrics import pretrained
from lightning_gan3d.metrics.pretrained import Weights, WeightsError, fetch, find, path_of, state_of

CONTENT = bytes(range(256)) * 9000


class Server(BaseHTTPRequestHandler):
    """Sends CONTENT: whole, truncated, or with one bit flipped, by the path."""

    def do_GET(self):
        content = bytearray(CONTENT)
        if self.path == "/flipped":
            content[1000] ^= 1
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.path == "/truncated" else content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture
def publish(monkeypatch, tmp_path):
    """Register weights `tried` at a URL; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def register(url="http://127.0.0.1:1/nobody"):
        entry = Weights("net.pt", url, hashlib.sha256(CONTENT).hexdigest(), "tests")
        monkeypatch.setitem(pretrained.KNOWN, "tried", entry)

    register()
    return register


def test_a_download_is_checked_and_stored(publish, address, tmp_path):
    publish(f"{address}/whole")
    file = fetch("tried")
    assert file.path.read_bytes() == CONTENT
    assert file.published
    assert [p.name for p in (tmp_path / "lightning_gan3d" / "weights").iterdir()] == ["net.pt"]
    assert find("tried") == file
    publish("http://127.0.0.1:1/nobody")
    assert fetch("tried") == file  # no second download


@pytest.mark.parametrize(
    ("path", "message"),
    [("truncated", "failed"), ("flipped", "does not match the known hash"), ("missing", "404")],
)
def test_a_broken_download_leaves_no_file(publish, address, tmp_path, path, message):
    publish(f"{address}/{path}")
    with pytest.raises(WeightsError, match=f"weights tried: download of .*{message}"):
        fetch("tried")
    assert list((tmp_path / "lightning_gan3d" / "weights").iterdir()) == []
    assert state_of("tried")[0] is False


@pytest.mark.usefixtures("publish")
def test_errors_name_the_remedy():
    with pytest.raises(WeightsError, match=r"failed.*offline, copy net.pt to"):
        fetch("tried")
    with pytest.raises(WeightsError, match="gan3d weights fetch tried"):
        find("tried")


def test_a_damaged_file_is_reported_and_replaced(publish, address):
    path = path_of("tried")
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match="is damaged"):
        find("tried")
    publish(f"{address}/whole")
    assert fetch("tried").path.read_bytes() == CONTENT


@pytest.mark.usefixtures("publish")
def test_user_weights_need_not_be_published(tmp_path):
    other = tmp_path / "other.pt"
    other.write_bytes(b"mine")
    file = find("tried", given=other)
    assert (file.published, file.sha256) == (False, hashlib.sha256(b"mine").hexdigest())
    with pytest.raises(WeightsError, match="no file"):
        find("tried", given=tmp_path / "missing.pt")


def test_known_files_have_address_and_digest():
    from torchvision.models import AlexNet_Weights

    with pytest.raises(WeightsError, match="use one of inception, inception-pytorch, vgg16"):
        find("inceptoin")
    for entry in pretrained.KNOWN.values():
        assert entry.url.endswith(entry.file)
        assert len(entry.sha256) == 64
    alexnet = pretrained.KNOWN["lpips-alex"]
    assert alexnet.url == AlexNet_Weights.IMAGENET1K_V1.url
    assert alexnet.sha256[:8] in alexnet.file  # torchvision's names hold the first digits


def test_alexnet_is_in_the_folder_of_torch_hub(monkeypatch):
    import torch.hub

    monkeypatch.delenv("TORCH_HOME", raising=False)
    assert str(path_of("lpips-alex").parent) == f"{torch.hub.get_dir()}/checkpoints"


def test_messages_write_the_home_folder_as_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(WeightsError, match=r"to ~/\.cache/lightning_gan3d/weights") as caught:
        find("inception")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.usefixtures("publish")
def test_the_list_names_purpose_and_state_of_each_file(monkeypatch):
    entry = pretrained.KNOWN["tried"]
    monkeypatch.setattr(pretrained, "KNOWN", {"a": entry, "b": replace(entry, file="b.pt")})
    path_of("b").parent.mkdir(parents=True)
    path_of("b").write_bytes(CONTENT)
    first, second = pretrained.describe().split("\n")[1::2]
    assert "missing; run `gan3d weights fetch a`" in first
    assert f"{path_of('b')} (SHA-256 {entry.sha256[:16]}...)" in second
