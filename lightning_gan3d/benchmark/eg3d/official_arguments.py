"""Arguments of the official EG3D's networks, as its `train.py` sets them."""

from typing import Any

SUPERRESOLUTIONS = {128: "2X", 256: "4X", 512: "8XDC"}


def rendering_kwargs(resolution: int, **changes: Any) -> dict[str, Any]:
    """The options that its `train.py` sets: those of ShapeNet for 128, else of FFHQ."""
    name = f"training.superresolution.SuperresolutionHybrid{SUPERRESOLUTIONS[resolution]}"
    options: dict[str, Any] = {
        "image_resolution": resolution,
        "disparity_space_sampling": False,
        "clamp_mode": "softplus",
        "superresolution_module": name,
        "c_gen_conditioning_zero": resolution == 128,
        "gpc_reg_prob": None if resolution == 128 else 0.5,
        "c_scale": 1,
        "superresolution_noise_mode": "none",
        "density_reg": 0.25,
        "density_reg_p_dist": 0.004,
        "reg_type": "l1",
        "decoder_lr_mul": 1,
        "sr_antialias": True,
        "depth_resolution": 48,
        "depth_resolution_importance": 48,
        "ray_start": 2.25,
        "ray_end": 3.3,
        "box_warp": 1,
        "avg_camera_radius": 2.7,
        "avg_camera_pivot": [0, 0, 0.2],
    }
    if resolution == 128:
        options |= {
            "depth_resolution": 64,
            "depth_resolution_importance": 64,
            "ray_start": 0.1,
            "ray_end": 2.6,
            "box_warp": 1.6,
            "white_back": True,
            "avg_camera_radius": 1.7,
            "avg_camera_pivot": [0, 0, 0],
        }
    return options | changes


def generator_kwargs(
    resolution: int, channel_base: int = 32768, channel_max: int = 512, **changes: Any
) -> dict[str, Any]:
    """Arguments of the official generator as its `train.py` sets them, but for `changes`."""
    widths = {"channel_base": channel_base, "channel_max": channel_max}
    return {
        "z_dim": 512,
        "c_dim": 25,
        "w_dim": 512,
        "img_resolution": resolution,
        "img_channels": 3,
        "sr_num_fp16_res": 4,
        "mapping_kwargs": {"num_layers": 2},
        "rendering_kwargs": rendering_kwargs(resolution),
        "sr_kwargs": {**widths, "fused_modconv_default": "inference_only"},
        "num_fp16_res": 0,
        "conv_clamp": None,
        "fused_modconv_default": "inference_only",
        **widths,
        **changes,
    }


def discriminator_kwargs(
    resolution: int, channel_base: int = 32768, channel_max: int = 512, **changes: Any
) -> dict[str, Any]:
    """Arguments of the official discriminator as its `train.py` sets them, but for `changes`."""
    return {
        "c_dim": 25,
        "img_resolution": resolution,
        "img_channels": 3,
        "num_fp16_res": 4,
        "conv_clamp": 256,
        "disc_c_noise": 0,
        "block_kwargs": {"freeze_layers": 0},
        "mapping_kwargs": {},
        "epilogue_kwargs": {"mbstd_group_size": 4},
        "channel_base": channel_base,
        "channel_max": channel_max,
        **changes,
    }
