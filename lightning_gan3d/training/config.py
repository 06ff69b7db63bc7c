"""How a run trains: losses, optimizers, length, rhythm, schedules, logging. Imports no torch.

One file, for the loop reads all of it and no part of it configures one module alone.
"""

from dataclasses import dataclass
from typing import Literal

from lightning_gan3d.config import ConfigError


@dataclass(frozen=True)
class LossConfig:
    """What the two networks minimise."""

    adversarial: Literal["nonsaturating", "relativistic"] = "nonsaturating"
    """Non-saturating (Goodfellow et al. 2014) or relativistic pairs (R3GAN, Huang et al. 2024)."""
    r1_gamma: float = 1.0
    """Weight of R1 (Mescheder et al. 2018): gamma / 2 * |grad D|^2 on both real images. 0: none."""
    r2_gamma: float | None = None
    """The same on fakes. None: `r1_gamma` for the relativistic loss, which needs both, else 0."""
    penalty_at: Literal["image", "discriminator"] = "image"
    """By what R1 and R2 differentiate: the images before blur and augmentation, as Mescheder et
    al. and StyleGAN2-ADA; or those that the discriminator is given, after both, as EG3D's code."""
    r1_interval: int = 16
    """Steps between penalties, weighted by this number; 1: within every step."""
    style_mixing: float = 0.0
    """Probability that a latent's styles come from two latents, split at a random layer."""
    density_reg: float = 0.0
    """Weight of mean |sigma_raw(p) - sigma_raw(q)|, q near p, on fields; EG3D: 0.25. 0: none."""
    density_reg_interval: int = 4
    """Steps between these penalties, weighted by this number; 1: within every step."""
    density_reg_points: Literal["box", "eg3d"] = "box"
    """Where p lies: uniform in the box, or in [-1, 1]^3 whatever the box, as EG3D."""
    density_reg_num_points: int = 1000
    """Pairs of points per scene."""
    density_reg_distance: float = 0.004
    """Standard deviation of q - p per axis: a share of the box, or (`eg3d`) in world units."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("r1_gamma", "r2_gamma", "density_reg"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(f"loss.{name}={value}: use 0 (none) or more", field=name)
        for name in ("r1_interval", "density_reg_interval", "density_reg_num_points"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"loss.{name}={getattr(self, name)}: use a whole number from 1", field=name
                )
        if not 0 <= self.style_mixing <= 1:
            raise ConfigError(
                f"loss.style_mixing={self.style_mixing}: use a share in [0, 1]",
                field="style_mixing",
            )
        if not self.density_reg_distance > 0:
            raise ConfigError(
                f"loss.density_reg_distance={self.density_reg_distance}: use a positive number, "
                "e.g. 0.004",
                field="density_reg_distance",
            )

    @property
    def r2(self) -> float:
        """The weight of R2, with its default resolved."""
        if self.r2_gamma is not None:
            return self.r2_gamma
        return self.r1_gamma if self.adversarial == "relativistic" else 0.0

    @property
    def penalises_discriminator(self) -> bool:
        """Whether there is an R1 or R2."""
        return self.r1_gamma > 0 or self.r2 > 0


@dataclass(frozen=True)
class AdamConfig:
    """One Adam (Kingma & Ba 2015), before the scaling that lazy regularisation asks for."""

    lr: float = 0.002
    """Learning rate."""
    betas: tuple[float, float] = (0.0, 0.99)
    """Decay of the first and the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.lr > 0:
            raise ConfigError(f"lr={self.lr}: use a positive number, e.g. 0.002", field="lr")
        if not all(0 <= b < 1 for b in self.betas):
            raise ConfigError(
                f"betas={self.betas}: use two numbers in [0, 1), e.g. [0.0, 0.99]", field="betas"
            )
        if not self.eps > 0:
            raise ConfigError(f"eps={self.eps}: use a positive number, e.g. 1e-8", field="eps")


@dataclass(frozen=True)
class OptimizersConfig:
    """Both optimizers, and the course of their learning rates over images."""

    generator: AdamConfig = AdamConfig(lr=0.0025)
    """Adam of the generator."""
    discriminator: AdamConfig = AdamConfig(lr=0.002)
    """Adam of the discriminator."""
    warmup_kimg: float = 0.0
    """Learning rates rise linearly over these first thousands of images."""
    decay_start: float = 1.0
    """Share of the training after which learning rates fall linearly. 1: never."""
    decay_to: float = 0.1
    """Share of the learning rate that is left at the end of the fall."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.warmup_kimg >= 0:
            raise ConfigError(
                f"optimizer.warmup_kimg={self.warmup_kimg}: use 0 (none) or more",
                field="warmup_kimg",
            )
        for name in ("decay_start", "decay_to"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"optimizer.{name}={getattr(self, name)}: use a share in [0, 1]", field=name
                )


@dataclass(frozen=True)
class ResolutionScheduleConfig:
    """The resolution of the volume rendering over images (EG3D's neural rendering resolution)."""

    initial: int | None = None
    """Resolution at the start. None: the generator's own."""
    final: int | None = None
    """Resolution at the end. None: the initial one throughout."""
    start_kimg: float = 0.0
    """Thousands of images before the resolution begins to change."""
    fade_kimg: float = 1000.0
    """Thousands of images over which it changes, through every integer between. 0: at once."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("initial", "final"):
            value = getattr(self, name)
            if value is not None and value < 4:
                raise ConfigError(
                    f"rendering_resolution.{name}={value}: use 4 pixels or more", field=name
                )
        if self.final is not None and self.initial is None:
            raise ConfigError(
                f"rendering_resolution.final={self.final}: give `initial` too, where it starts",
                field="final",
            )
        for name in ("start_kimg", "fade_kimg"):
            value = getattr(self, name)
            if not value >= 0:
                raise ConfigError(f"rendering_resolution.{name}={value}: use 0 or more", field=name)


@dataclass(frozen=True)
class TrainingConfig:
    """Length, batch, precision, device, rhythm and schedules. Everything counts images (kimg)."""

    kimg: float = 25_000.0
    """Thousands of real images shown to the discriminator in the whole run."""
    batch: int = 32
    """Images of a step, over all processes and accumulation rounds."""
    microbatch: int | None = None
    """Images of one pass: the unit of draws, swaps and minibatch deviation. None: the batch."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16` multiplies in bfloat16; penalties, losses and weights stay in float32."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train; `auto` takes CUDA where there is one, else the CPU."""
    devices: int = 1
    """Processes that share each step: one per GPU, or several on a CPU."""
    threads: int | None = None
    """CPU threads of each process. None: as torch chooses."""
    compile: bool = False
    """Compile the generator's convolutions; never the discriminator (R1 differentiates twice)."""
    log_kimg: float = 4.0
    """Thousands of images between rows of `metrics.jsonl`, and between looks at the NaN gate."""
    sample_kimg: float = 200.0
    """Thousands of images between sample grids. 0: none."""
    snapshot_kimg: float = 200.0
    """Thousands of images between checkpoints. 0: only at the end, or when stopped."""
    eval_kimg: float = 0.0
    """Thousands of images between measurements of sliced Wasserstein distance. 0: none."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep; 2 or more, so that a damaged one has a predecessor."""
    ema_half_life_kimg: float | None = None
    """Half-life of the averaged generator. None: 10 kimg for each 32 of batch, as EG3D."""
    ema_rampup: float | None = 0.05
    """The half-life is at most this share of the images seen so far. None: no ramp-up."""
    rendering_resolution: ResolutionScheduleConfig = ResolutionScheduleConfig()
    """Resolution of `image_raw`."""
    blur_sigma: float = 10.0
    """Initial standard deviation, in pixels, of the blur of what the discriminator sees."""
    blur_fade_kimg: float = 0.0
    """Thousands of images over which it fades; EG3D: 200 for each 32 of batch. 0: no blur."""
    blur_raw: Literal["alike", "eg3d"] = "alike"
    """`alike` blurs `image_raw` to scale; `eg3d` only reals', sigma being in its own pixels."""
    w_avg_from: Literal["global", "eg3d"] = "global"
    """The running mean of w follows the mean of the global batch; or (`eg3d`) that of its first
    microbatch alone, as EG3D's does where each GPU has one."""
    swap_initial: float = 1.0
    """Probability that a generated image is conditioned on its neighbour's camera, at first."""
    swap_final: float = 0.5
    """The same after `swap_fade_kimg`. No effect where the label is not, or must be, the view."""
    swap_fade_kimg: float = 1000.0
    """Thousands of images from the one probability to the other. 0: final at once."""

    def __post_init__(self) -> None:
        """Check ranges, and that batch, microbatch and processes divide."""
        for name in ("kimg", "log_kimg", "ema_half_life_kimg", "ema_rampup"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"training.{name}={value}: use a positive number", field=name)
        for name in ("batch", "microbatch", "devices", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"training.{name}={value}: use a whole number from 1", field=name)
        if self.batch % self.microbatch_size:
            divisors = ", ".join(str(n) for n in range(1, self.batch) if self.batch % n == 0)
            raise ConfigError(
                f"training.microbatch={self.microbatch} does not divide "
                f"training.batch={self.batch}: use one of {divisors}",
                field="microbatch",
            )
        if self.num_microbatches % self.devices:
            raise ConfigError(
                f"training.devices={self.devices} cannot share the {self.num_microbatches} "
                f"microbatch(es) of a step: set training.microbatch to a divisor of "
                f"batch / devices = {self.batch} / {self.devices}",
                field="devices",
            )
        if self.keep_checkpoints < 2:
            raise ConfigError(
                f"training.keep_checkpoints={self.keep_checkpoints}: use 2 or more, so that a "
                "damaged checkpoint has a predecessor",
                field="keep_checkpoints",
            )
        for name in ("swap_initial", "swap_final"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"training.{name}={getattr(self, name)}: use a share in [0, 1]", field=name
                )
        for name in (
            "sample_kimg", "snapshot_kimg", "eval_kimg",
            "blur_sigma", "blur_fade_kimg", "swap_fade_kimg",
        ):  # fmt: skip
            if not getattr(self, name) >= 0:
                raise ConfigError(
                    f"training.{name}={getattr(self, name)}: use 0 or more", field=name
                )

    @property
    def microbatch_size(self) -> int:
        """Images of one pass, with its default resolved."""
        return self.batch if self.microbatch is None else self.microbatch

    @property
    def num_microbatches(self) -> int:
        """Microbatches of a step, over all processes."""
        return self.batch // self.microbatch_size

    @property
    def num_steps(self) -> int:
        """Steps of the whole run, a G step and a D step each; whole batches, rounded up."""
        return max(1, -(-round(self.kimg * 1000) // self.batch))


@dataclass(frozen=True)
class InitConfig:
    """A trained generator to start from (fine-tuning), instead of from the seed alone."""

    path: str = ""
    """A run directory, a checkpoint, an export or an NVIDIA pickle. Empty: start from the seed."""
    schedules: Literal["restart", "keep", "eg3d"] = "restart"
    """Blur, swapping, rendering resolution and the average's ramp-up: `restart` begins them anew;
    `keep` goes on after the images that the source has seen; `eg3d` does as EG3D's `--resume`: no
    blur, swapping at its final probability, no ramp-up, the rendering resolution anew."""
    kimg: float | None = None
    """Thousands of images that the source has seen, for `keep`. None: as the source says; NVIDIA
    pickles do not say it."""

    def __post_init__(self) -> None:
        """Check what needs what."""
        if self.schedules != "restart" and not self.path:
            raise ConfigError(
                f"init_from.schedules={self.schedules}: give init_from.path, or leave it out",
                field="schedules",
            )
        if self.kimg is not None and (self.kimg < 0 or self.schedules != "keep"):
            raise ConfigError(
                f"init_from.kimg={self.kimg}: use 0 or more, and schedules: keep, which reads it",
                field="kimg",
            )


@dataclass(frozen=True)
class LoggingConfig:
    """What a run tells while it trains. Nothing here changes what is learned."""

    progress: bool = True
    """Print a line at every log: kimg, images per second, time left, memory, D's accuracy."""
    alarms: bool = True
    """Warn of 3D failure: flat depth, empty or full opacity."""
    sample_latents: int = 4
    """Rows of a sample grid: latents."""
    sample_views: int = 5
    """Columns of a sample grid: cameras on an arc around the box."""
    sample_swing: float = 0.8
    """Azimuth in radians to either side of the middle column."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Mirror `metrics.jsonl` and sample grids to Weights & Biases."""
    wandb_project: str = "lightning-gan3d"
    """Project of the mirror."""
    wandb_timeout: float = 30.0
    """Seconds after which the mirror is given up; the training goes on without it."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("sample_latents", "sample_views"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"logging.{name}={getattr(self, name)}: use a whole number from 1", field=name
                )
        if not 0 <= self.sample_swing <= 3.15:
            raise ConfigError(
                f"logging.sample_swing={self.sample_swing}: use radians in [0, 3.15]",
                field="sample_swing",
            )
        if not self.wandb_timeout > 0:
            raise ConfigError(
                f"logging.wandb_timeout={self.wandb_timeout}: use a positive number of seconds",
                field="wandb_timeout",
            )
