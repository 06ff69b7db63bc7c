"""Files of the pretrained networks that measures use: known ones, their digests, their download.

A file is taken only when its SHA-256 is the published one, or when its path was given by hand; then
its digest names the measures (see `distribution.features`). Imports no torch.
"""

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from lightning_gan3d.config import UserError

CHUNK = 2**20
"""Bytes that are read at a time."""
TIMEOUT = 30.0
"""Seconds without a byte after which a download is given up."""

Progress = Callable[[int, int | None], None]
"""Called with the bytes so far and the whole, None where the server does not tell."""


class WeightsError(UserError):
    """Weights that are not there, damaged, or could not be fetched."""


@dataclass(frozen=True)
class Weights:
    """A file that somebody else publishes."""

    file: str
    """Its name in the folder."""
    url: str
    """Where its publisher keeps it; empty: where torchvision says, see `source_of`."""
    sha256: str
    """Published SHA-256 in hexadecimal, or its first digits where the file's name holds these."""
    purpose: str
    """Which measures need it."""


_NVIDIA = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"

KNOWN: dict[str, Weights] = {
    "inception": Weights(
        "inception-2015-12-05.pt",
        f"{_NVIDIA}inception-2015-12-05.pt",
        "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
        "FID, KID, Inception score (modes clean and legacy_tensorflow)",
    ),
    "inception-pytorch": Weights(
        "pt_inception-2015-12-05-6726825d.pth",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        "FID, KID, Inception score (mode legacy_pytorch)",
    ),
    "vgg16": Weights(
        "vgg16.pt",
        f"{_NVIDIA}vgg16.pt",
        "b437eb095feaeb0b83eb3fa11200ebca4548ee39a07fb944a417ddc516cc07c3",
        "precision and recall (Kynkaanniemi et al. 2019)",
    ),
    "clip": Weights(
        "ViT-B-32.pt",
        "https://openaipublic.azureedge.net/clip/models/"
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
        "Fréchet and kernel distance of CLIP features (evaluation.distribution.clip)",
    ),
    "lpips-alex": Weights("alexnet-owt-7be5be79.pth", "", "7be5be79", "LPIPS, AlexNet's trunk"),
}
"""The files that are known, by the name that `gan3d weights fetch NAME` takes."""


@dataclass(frozen=True)
class WeightsFile:
    """A file at hand."""

    path: Path
    sha256: str
    """Digest of its content, 64 hexadecimal digits."""
    published: bool
    """Whether this is the digest that its publisher's file has."""


def default_folder() -> Path:
    """Where weights are kept: under `XDG_CACHE_HOME`, or `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "lightning_gan3d" / "weights"


def known(name: str) -> Weights:
    """Return the entry of that name, or refuse."""
    if name not in KNOWN:
        raise WeightsError(f"weights {name}: not known; use one of {', '.join(KNOWN)}")
    return KNOWN[name]


def shown(path: Path) -> str:
    """Write a path with ~ for the home folder: notes go into reports, which others read."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def place_of(name: str, folder: Path | None = None) -> Path:
    """Return the path at which a known file is kept; LPIPS' trunk lies where torch looks for them.

    That is `checkpoints` in the folder of `torch.hub`, unless a folder is given.
    """
    entry = known(name)
    if folder is None and not entry.url:
        home = os.environ.get("XDG_CACHE_HOME")
        cache = (Path(home) if home else Path.home() / ".cache") / "torch"
        folder = Path(os.environ.get("TORCH_HOME", cache)).expanduser() / "hub" / "checkpoints"
    return (folder or default_folder()) / entry.file


def source_of(name: str) -> str:
    """Return the address of a known file; that of LPIPS' trunk is asked of torchvision."""
    entry = known(name)
    if entry.url:
        return entry.url
    from torchvision import models

    return str(models.AlexNet_Weights.IMAGENET1K_V1.url)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find(name: str, given: str | Path | None = None, folder: Path | None = None) -> WeightsFile:
    """Return a file at hand: the one given by hand, or the known one in the folder, checked.

    Raises:
        WeightsError: it is not there, or its content is not the published one; the message holds
            the command that fetches it.
    """
    entry = known(name)
    path = Path(given) if given else place_of(name, folder)
    remedy = f"`gan3d weights fetch {name}` fetches it"
    try:
        digest = digest_of(path)
    except FileNotFoundError:
        where = f"weights {name}: no file {path}" if given else f"the weights {name} are not here"
        by_hand = "" if given else f"; without network put {entry.file} into {shown(path.parent)}"
        raise WeightsError(f"{where}: {remedy}{by_hand}") from None
    except OSError as error:
        raise WeightsError(f"weights {name}: {path} cannot be read: {error.strerror}") from None
    published = digest.startswith(entry.sha256)
    if not published and not given:
        raise WeightsError(
            f"weights {name}: {path} is damaged (SHA-256 {digest[:16]}... instead of "
            f"{entry.sha256[:16]}...): {remedy} again"
        )
    return WeightsFile(path, digest, published)


def fetch(
    name: str,
    folder: Path | None = None,
    progress: Progress | None = None,
    url: str | None = None,
) -> WeightsFile:
    """Download a known file, unless it is at hand; nothing unchecked ever bears its name.

    `url` replaces the address (a mirror); the content must be the published one all the same.

    Raises:
        WeightsError: no network, a broken transfer, or another content than the published one.
    """
    with suppress(WeightsError):
        return find(name, folder=folder)
    entry, path, address = known(name), place_of(name, folder), url or source_of(name)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            digest = _download(address, temporary, progress)
        except (OSError, HTTPException) as error:
            why = getattr(error, "reason", None) or error
            raise WeightsError(
                f"weights {name}: {address} could not be fetched: {why}; without network put "
                f"{entry.file} into {path.parent}"
            ) from None
        if not digest.startswith(entry.sha256):
            raise WeightsError(
                f"weights {name}: {address} sent something else: SHA-256 {digest} instead of "
                f"{entry.sha256}; nothing was kept, try again or get {entry.file} elsewhere"
            )
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()
    return WeightsFile(path, digest, True)


def _download(address: str, to: Path, progress: Progress | None) -> str:
    """Write what the address holds to a file, and return its SHA-256."""
    digest, done = hashlib.sha256(), 0
    with urllib.request.urlopen(address, timeout=TIMEOUT) as answer, to.open("wb") as file:
        length = answer.headers.get("Content-Length")
        whole = int(length) if length else None
        while chunk := answer.read(CHUNK):
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, whole)
    if whole is not None and done != whole:
        raise urllib.error.ContentTooShortError(f"{done} of {whole} bytes came", b"")  # type: ignore[arg-type]  # only kept
    return digest.hexdigest()


def state_of(name: str, folder: Path | None = None) -> tuple[bool, str]:
    """Return whether a known file is at hand, and one line about it."""
    try:
        found = find(name, folder=folder)
    except WeightsError as error:
        return False, str(error)
    return True, f"{found.path} (SHA-256 {found.sha256[:16]}...)"


def describe(folder: Path | None = None) -> str:
    """Two lines for each known file: what it is for, and where it is or how to get it."""
    lines = []
    for name, entry in KNOWN.items():
        at_hand, detail = state_of(name, folder)
        lines += [
            f"{name}: {entry.purpose}",
            f"    {'at hand' if at_hand else 'missing'}: {detail}",
        ]
    return "\n".join(lines)
