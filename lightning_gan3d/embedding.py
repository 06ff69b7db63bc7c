"""Encoders of images and texts, such as CLIP's halves, and targets in their embeddings.

All embeddings and directions have length 1.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from PIL import ImageOps
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.archive import FolderListing, is_image
from lightning_gan3d.data.image_files import open_header, pixels_of, upright
from lightning_gan3d.files import parse_json, sha256_of_file
from lightning_gan3d.images import to_float
from lightning_gan3d.metrics.pose.estimators import ScriptedNetwork, load_network
from lightning_gan3d.training.critic import EncoderConfig

LEAST = 1e-2
"""Lower bound of the norm by which a change of embeddings is divided.

The first change of a fine-tuning is 0. Gal et al. add 1e-6: that gradient is some 1e4 times those
of later steps, and Adam's second moment would keep the steps small for hundreds of steps.
"""


class Target(NamedTuple):
    """What images are to become, for one encoder."""

    direction: Float[Tensor, " d"] | None
    """Of the change of embeddings; None: from `embedding` minus that of a source."""
    embedding: Float[Tensor, " d"] | None
    """Of the target; None: unknown."""


def direction_loss(
    after: Float[Tensor, "n d"], before: Float[Tensor, "n d"], direction: Float[Tensor, " d"]
) -> Float[Tensor, ""]:
    """1 - cosine of the change of embeddings and the direction (Gal et al. 2022), mean over n."""
    return 1 - (normalize(after - before, dim=1, eps=LEAST) @ direction).mean()


def direction_from(
    target: Float[Tensor, " d"], source: Float[Tensor, " d"], field: str
) -> Float[Tensor, " d"]:
    """Direction between mean embeddings; raises ConfigError if they are equal."""
    if float((target - source).norm()) < 1e-6:
        raise ConfigError(f"{field}: target and source have equal embeddings; use other ones")
    return normalize(target - source, dim=0)


class Encoder:
    """Maps images, and texts if there is a file for them, to embeddings; with gradient."""

    def __init__(
        self, field: str, cfg: EncoderConfig, side: int, device: torch.device | str = "cpu"
    ) -> None:
        """Load the files; raises ScriptError. `side` of the images, unless `cfg` has one.

        `field` leads to the options in messages, e.g. `critic.encoders.0.`.
        """
        self.field, self.cfg, self.side = field, cfg, cfg.resolution or side
        self.network = load_network(f"{field}image", cfg.image, device)
        self.text = load_network(f"{field}text", cfg.text, device) if cfg.text else None
        self._device = torch.device(device)
        with torch.enable_grad():
            image = torch.zeros(2, 3, self.side, self.side, device=device, requires_grad=True)
            embedding = self(image)
        self.dim = embedding.shape[1]
        if not embedding.requires_grad:
            raise self.network.error("the embedding has no gradient; trace it without detach()")

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of its files, by option."""
        halves = (("image", self.network), ("text", self.text))
        return {name: network.digest for name, network in halves if network is not None}

    def __call__(self, image: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Embeddings of images in [-1, 1]."""
        if image.shape[-1] != self.side:
            image = interpolate(image, (self.side, self.side), mode="bicubic", antialias=True)
        return self._embed(self.network, image.float())

    def of_tokens(self, tokens: Tensor) -> Float[Tensor, "n d"]:
        """Embeddings of tokenised texts (n, t)."""
        assert self.text is not None, "the caller checked"
        return self._embed(self.text, tokens.long().to(self._device))

    def of_files(self, paths: list[Path]) -> Float[Tensor, "n d"]:
        """Embeddings of the central squares of image files; transparent pixels become white."""
        embeddings = []
        for path in paths:
            with path.open("rb") as file:
                image = upright(open_header(file, str(path)), str(path))
                image = ImageOps.fit(image, 2 * (min(image.size),))
            pixels = torch.from_numpy(pixels_of(image, str(path), "white")).permute(2, 0, 1)
            embeddings.append(self(to_float(pixels[None]).to(self._device)))
        return torch.cat(embeddings)

    def _embed(self, network: ScriptedNetwork, given: Tensor) -> Float[Tensor, "n d"]:
        if given.device != self._device:
            self._device = given.device
            for each in filter(None, (self.network, self.text)):
                each.module.to(given.device)
        output = network.evaluate(given)
        if output.ndim != 2:
            raise network.error(f"returns shape {tuple(output.shape)}; an embedding is (n, d)")
        return normalize(output, dim=1)


def image_files(path: Path) -> list[Path]:
    """The image `path`, or those of the folder; empty for other files."""
    if path.is_dir():
        return [path / name for name in sorted(FolderListing.of(path).files) if is_image(name)]
    return [path] if is_image(path.name) and path.is_file() else []


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of the images of a folder."""
    each = "".join(map(sha256_of_file, image_files(path)))
    return hashlib.sha256(each.encode()).hexdigest() if path.is_dir() else sha256_of_file(path)


@torch.no_grad()
def read_target(field: str, path: str, encoder: Encoder, source: str = "") -> Target:
    """Read an image, a folder of images, or a JSON file.

    The file holds `direction` (d) or `target` (d) of the encoder whose SHA-256 is `encoder` in it,
    or `target_tokens` and `source_tokens` (n, t) for the text half. Means over n
    texts or images are embedded; `source`: images for the direction to images. Raises ConfigError.
    """
    file, name = Path(path).expanduser(), field.rpartition(".")[2]
    if images := image_files(file):
        target = normalize(encoder.of_files(images).mean(dim=0), dim=0)
        others = image_files(Path(source).expanduser()) if source else []
        if source and not others:
            raise ConfigError(f"critic.source={source}: no images; name a folder of images")
        if not others:
            return Target(None, target)
        return Target(direction_from(target, encoder.of_files(others).mean(0), field), target)
    try:
        if not file.is_file():
            raise ValueError("there are no images" if file.exists() else "no such file")
        values = parse_json(file.read_bytes(), dict)
        tensors = {k: torch.as_tensor(values[k]) for k in _NAMES if k in values}
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(
            f"{field}={path}: {error}; use an image, a folder of images, or a JSON file",
            name,
        ) from None
    problem, vectors = "", list[Tensor | None]()
    if "target_tokens" in tensors and encoder.text is None:
        problem = f"holds tokens of texts; set {encoder.field}text to the encoder of texts"
    elif "target_tokens" in tensors:
        tensors["target"] = encoder.of_tokens(tensors["target_tokens"]).mean(dim=0)
        if "source_tokens" in tensors:
            before = encoder.of_tokens(tensors["source_tokens"]).mean(dim=0)
            tensors["direction"] = tensors["target"] - before
    if (made_for := str(values.get("encoder", ""))) not in ("", encoder.network.digest):
        problem = f"made for SHA-256 {made_for[:16]}, not {encoder.network.protocol}; use that"
    for key in ("direction", "target"):
        vector = tensors.get(key)
        if vector is not None and vector.shape != (encoder.dim,):
            problem = (
                f"{key} has shape {tuple(vector.shape)}, but embeddings of {encoder.network.path} "
                f"have {encoder.dim} numbers; make it with this encoder"
            )
        elif vector is not None and not 1e-6 < float(vector.float().norm()) < torch.inf:
            problem = f"{key} is zero or not finite; source and target must differ"
        elif vector is not None:
            vector = normalize(vector.float().to(encoder.network.device), dim=0)
        vectors.append(vector)
    if vectors == [None, None]:
        problem = problem or f"holds none of {', '.join(_NAMES[:3])}; write one of them"
    if problem:
        raise ConfigError(f"{field}={path}: {problem}", name)
    return Target(*vectors)


_NAMES = ("direction", "target", "target_tokens", "source_tokens")
