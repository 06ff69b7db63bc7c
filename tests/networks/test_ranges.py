"""Ranges of the networks' configurations, checked where YAML is converted."""

import pytest

from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.networks.augment import AugmentConfig
from lightning_gan3d.networks.band_limits import StyleGAN3Config
from lightning_gan3d.networks.decoder import DecoderConfig
from lightning_gan3d.networks.discriminator import DiscriminatorConfig
from lightning_gan3d.networks.mapping import MappingConfig
from lightning_gan3d.networks.superresolution import SuperResolutionConfig
from lightning_gan3d.networks.synthesis import Synthesis3dConfig, SynthesisConfig

OUTSIDE = {
    AugmentConfig: {"probability": 1.5, "target": 2.0, "speed_kimg": 0.0, "interval": 0},
    DecoderConfig: {"hidden_dim": 0, "num_layers": -1, "lr_mul": 0.0},
    DiscriminatorConfig: {
        "channel_base": 0,
        "channel_max": 0,
        "channels": [8, 0, 4],
        "mbstd_group": -1,
        "mapping_layers": -1,
        "conv_clamp": 0.0,
    },
    MappingConfig: {"num_layers": -1, "lr_mul": 0.0, "w_avg_decay": 1.0},
    SuperResolutionConfig: {"channels": [0, 4], "conv_clamp": -1.0},
    StyleGAN3Config: {
        "channel_base": 0,
        "channel_max": 0,
        "num_layers": 1,
        "num_critical": 0,
        "first_cutoff": 0.0,
        "last_stopband_rel": 1.0,
        "margin_size": -1,
        "output_scale": 0.0,
        "conv_clamp": 0.0,
        "filter_size": 1,
        "lrelu_upsampling": 3,
    },
    Synthesis3dConfig: {"channel_base": 0, "channel_max": -1, "channels": [8, 0, 4]},
    SynthesisConfig: {
        "channel_base": 0,
        "channel_max": -1,
        "channels": [8, 0, 4],
        "conv_clamp": 0.0,
    },
}
CASES = [(cls, key, value) for cls, fields in OUTSIDE.items() for key, value in fields.items()]


@pytest.mark.parametrize(("cls", "key", "value"), CASES)
def test_values_outside_their_range_are_rejected_by_name(cls, key, value):
    with pytest.raises(ConfigError, match=rf"^{key}.*: use "):
        build(cls, {key: value})


def test_an_unconditional_term_needs_conditioning():
    with pytest.raises(ConfigError, match="unconditional_term"):
        DiscriminatorConfig(unconditional_term=True, conditioning="none")
