"""What the generator learns from: a discriminator, or image encoders. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from lightning_gan3d.config import ConfigError, Count, Positive


@dataclass(frozen=True)
class EncoderConfig:
    """A network from images to embeddings, such as half of CLIP, in a TorchScript file."""

    image: str
    """File of the network: from images (n, 3, r, r) in [-1, 1] to embeddings (n, d)."""
    text: str = ""
    """File of the other half: from tokens (n, t), int64, to embeddings (n, d). For targets of
    tokens."""
    resolution: Count | None = None
    """Side to which images are resized, bicubically. CLIP: 224. None: that of the generator."""
    weight: Positive = 1.0
    """Weight of its loss among those of several encoders."""


@dataclass(frozen=True)
class CriticConfig:
    """What the generator learns from."""

    kind: Literal["adversarial", "direction"] = "adversarial"
    """A discriminator, or a direction in the embeddings of encoders (StyleGAN-NADA, Gal et al.
    2022): fine-tunes the generator of `init_from`; `data` supplies cameras only; the discriminator
    is not trained."""
    encoders: tuple[EncoderConfig, ...] = ()
    """Encoders of a direction; their weighted losses are summed."""
    target: str = ""
    """An image or a folder of images; or a JSON file with a direction, or with tokens of texts:
    `embedding.read_target`."""
    source: str = ""
    """Image or folder of images from which the direction leads to those of `target`. Empty: images
    of the generator before fine-tuning."""
    layers: Count | None = None
    """Style vectors whose layers are trained in a step: those that the target would move most. The
    mapping is never trained. With `layers`, output layers are not trained either. None: all others.
    """

    def __post_init__(self) -> None:
        """Reject missing and unused options."""
        names = ("encoders", "target", "source", "layers")
        given = [name for name in names if getattr(self, name)]
        if self.kind == "adversarial" and given:
            raise ConfigError(
                f"critic.{given[0]}: only kind=direction reads it; leave it out, or set that",
                field=given[0],
            )
        for name, example in (("encoders", "[{image: clip.pt}]"), ("target", "FOLDER")):
            if self.kind == "direction" and name not in given:
                raise ConfigError(
                    f"critic.kind=direction: there is no critic.{name}; set one, e.g. "
                    f"critic.{name}={example}",
                    field=name,
                )
