"""Weight files of the pretrained networks that metrics need: digests, download, lookup.

A file must have the published SHA-256, unless the user names it; then its digest becomes part of
the metrics' keys (`distribution.features`). Imports no torch.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lightning_gan3d.config import UserError
from lightning_gan3d.files import sha256_of_file, user_cache


class WeightsError(UserError):
    """Missing or damaged weights, or a failed download."""


@dataclass(frozen=True)
class Weights:
    """A published file."""

    file: str
    """File name."""
    url: str
    """Publisher's address."""
    sha256: str
    """Published SHA-256, in hexadecimal."""
    purpose: str
    """Metrics that need it."""
    torch_hub: bool = False
    """Whether it is stored in the folder of `torch.hub`, which other packages share."""


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
        "precision and recall (Kynkäänniemi et al. 2019)",
    ),
    "clip": Weights(
        "ViT-B-32.pt",
        "https://openaipublic.azureedge.net/clip/models/"
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
        "Fréchet and kernel distance of CLIP features (evaluation.distribution.clip)",
    ),
    "lpips-alex": Weights(
        "alexnet-owt-7be5be79.pth",
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        "LPIPS, AlexNet's trunk",
        torch_hub=True,
    ),
}
"""Known files, by their names in `gan3d weights fetch NAME`."""


@dataclass(frozen=True)
class WeightsFile:
    """A file on disk."""

    path: Path
    sha256: str
    """SHA-256 of its content, 64 hexadecimal digits."""
    published: bool
    """Whether the digest is the published one."""


def known(name: str) -> Weights:
    """Return the entry of that name; raises `WeightsError` for an unknown one."""
    if name not in KNOWN:
        raise WeightsError(f"weights {name}: unknown name; use one of {', '.join(KNOWN)}")
    return KNOWN[name]


def path_of(name: str) -> Path:
    """Path of a known file: in the user's cache, or in the folder of `torch.hub`."""
    entry = known(name)
    if entry.torch_hub:
        home = Path(os.environ.get("TORCH_HOME", user_cache() / "torch")).expanduser()
        return home / "hub" / "checkpoints" / entry.file
    return user_cache() / "lightning_gan3d" / "weights" / entry.file


def find(name: str, given: str | Path | None = None) -> WeightsFile:
    """Return the file that the user gives, or the known one, with its digest.

    Raises:
        WeightsError: it is missing, or its content is not the published one; the message contains
            the command that downloads it.
    """
    entry = known(name)
    path = Path(given) if given else path_of(name)
    remedy, folder = f"run `gan3d weights fetch {name}`", _tilde(path.parent)
    try:
        digest = sha256_of_file(path)
    except FileNotFoundError:
        if given:
            raise WeightsError(f"weights {name}: no file {path}; {remedy}") from None
        raise WeightsError(
            f"weights {name}: missing; {remedy}; offline, copy {entry.file} to {folder}"
        ) from None
    except OSError as error:
        raise WeightsError(f"weights {name}: cannot read {path}: {error.strerror}") from None
    if digest != entry.sha256 and not given:
        raise WeightsError(
            f"weights {name}: {path} is damaged (SHA-256 {digest[:16]}..., expected "
            f"{entry.sha256[:16]}...); {remedy} again"
        )
    return WeightsFile(path, digest, digest == entry.sha256)


def fetch(name: str) -> WeightsFile:
    """Download a known file unless it exists; it is renamed only after its SHA-256 is verified.

    Raises:
        WeightsError: no network, an incomplete download, or another digest than the published one.
    """
    with suppress(WeightsError):
        return find(name)
    import pooch

    entry, path = known(name), path_of(name)
    try:
        pooch.retrieve(entry.url, f"sha256:{entry.sha256}", path.name, path.parent)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors
        raise WeightsError(
            f"weights {name}: download of {entry.url} failed: {error}; offline, copy {entry.file} "
            f"to {path.parent}"
        ) from None
    return find(name)


def state_of(name: str) -> tuple[bool, str]:
    """Return whether a known file is available, and its path or how to get it."""
    try:
        file = find(name)
    except WeightsError as error:
        return False, str(error).removeprefix(f"weights {name}: ")
    return True, f"{file.path} (SHA-256 {file.sha256[:16]}...)"


def describe() -> str:
    """Two lines for each known file: its purpose; its path or how to get it."""
    return "\n".join(f"{name}: {w.purpose}\n    {state_of(name)[1]}" for name, w in KNOWN.items())


def _tilde(path: Path) -> str:
    """Write the home folder as ~: notes go into reports, which others read."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
