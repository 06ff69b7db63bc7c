"""Training options: losses, optimizers, schedules, logging. Imports no torch."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Interval

from lightning_gan3d import registry
from lightning_gan3d.config import ConfigError, Count, NonNegative, Positive, Share
from lightning_gan3d.ranges import POWER_OF_TWO

Beta = Annotated[float, Interval(ge=0, lt=1)]


@dataclass(frozen=True)
class TermConfig:
    """Options of every loss term: its weight, when it is computed, and how the weight changes."""

    needs: ClassVar[
        Literal[
            "scene",
            "field",
            "density",
            "sdf",
            "solid",
            "splats",
            "image",
            "depth",
            "opacity",
            "mask",
        ]
    ]
    """What the term reads, checked with the configuration. Once per scene: any scene, a field, a
    field that is no signed distance, or one that is. Once per view: images, depth, opacity, or the
    masks of objects. `solid`, `splats`: once per scene, of such scenes."""
    weight: NonNegative
    """Weight, or its start if it changes."""
    final_weight: NonNegative | None = None
    """Weight at the end. None: `weight` throughout."""
    start_kimg: NonNegative = 0.0
    """Thousands of images before the weight changes."""
    fade_kimg: NonNegative = 0.0
    """Thousands of images of a linear change. 0: immediate."""
    interval: Count = 1
    """Generator steps from one with the term to the next; it multiplies the weight."""


@dataclass(frozen=True)
class ProxyLossConfig:
    """The loss of a proxy, for generator.renderer.kind=proxied (IG-GAN, Lunz et al. 2020).

    A published code sums over 256 x 256 pixels and weighs matching by 100: 0.0015 for means.
    """

    image: NonNegative = 1.0
    """Weight of the mean squared difference between the images of proxy and exact renderer."""
    matching: NonNegative = 0.01
    """Weight of the mean squared difference of their logits: discriminator output matching."""
    pretrain_kimg: NonNegative = 0.0
    """Thousands of images at the start in which the proxy alone learns, by `image`, from random
    solids; part of training.kimg."""


@dataclass(frozen=True)
class LossConfig:
    """The adversarial loss and its regularisers."""

    adversarial: Literal["nonsaturating", "relativistic", "wgan"] = "nonsaturating"
    """Non-saturating (Goodfellow et al. 2014), relativistic pairs (R3GAN, Huang et al. 2024), or
    Wasserstein (WGAN-GP, Gulrajani et al. 2017), which needs r1_gamma=0."""
    wgan_penalty: NonNegative = 10.0
    """`wgan`: weight of (|grad D| - 1)^2 between pairs of real and generated images."""
    wgan_drift: NonNegative = 0.001
    """`wgan`: weight of D(real)^2 (ProGAN, Karras et al. 2018)."""
    r1_gamma: NonNegative = 1.0
    """R1 weight (Mescheder et al. 2018): gamma / 2 * |grad D|^2 at both real images. 0: off."""
    r2_gamma: NonNegative | None = None
    """R2 weight: the same at fakes. None: `r1_gamma` for the relativistic loss, otherwise 0."""
    penalty_at: Literal["image", "discriminator"] = "image"
    """Input of the R1 and R2 gradients: the images before blur and augmentation (Mescheder et al.,
    StyleGAN2-ADA), or the discriminator's input after both (EG3D's code)."""
    r1_interval: Count = 16
    """Steps between penalties, whose weight it multiplies. 1: part of every step."""
    camera_fake: NonNegative = 15.0
    """Weight of |d - viewing direction|^2 at generated images in both steps, for
    discriminator.conditioning=predict; pi-GAN: 15. About the squared angle in radians."""
    camera_real: NonNegative = 0.0
    """The same at real images, whose cameras must be known; GRAM (Deng et al. 2022): 15."""
    style_mixing: Share = 0.0
    """Probability of style mixing: two latents, split at a random layer."""
    density_reg: NonNegative = 0.0
    """Weight of mean |sigma_raw(p) - sigma_raw(q)|, q near p, for fields; EG3D: 0.25. 0: off."""
    density_reg_interval: Count = 4
    """Steps between density penalties, whose weight it multiplies. 1: part of every step."""
    density_reg_points: Literal["box", "eg3d"] = "box"
    """Distribution of p: uniform in the box, or in [-1, 1]^3 for any box (EG3D)."""
    density_reg_num_points: Count = 1000
    """Pairs of points per scene."""
    density_reg_distance: Positive = 0.004
    """Standard deviation of q - p per axis: a share of the box, or (`eg3d`) in world units."""
    terms: tuple[Any, ...] = field(default=(), metadata=registry.metadata("loss_terms"))
    """Further terms of the generator's loss, a list; `kind` is the registered name of each."""
    proxy: ProxyLossConfig = ProxyLossConfig()
    """Loss of the proxy of a renderer without a gradient."""

    def __post_init__(self) -> None:
        """Check that there is one kind of gradient penalty."""
        if self.adversarial == "wgan" and self.penalises_discriminator:
            raise ConfigError(
                f"loss.r1_gamma={self.r1_gamma}, r2_gamma={self.r2_gamma} with adversarial=wgan, "
                "which has its own penalty: set loss.r1_gamma=0 and r2_gamma=null",
                field="r1_gamma",
            )

    @property
    def r2(self) -> float:
        """R2 weight with the default resolved."""
        if self.r2_gamma is not None:
            return self.r2_gamma
        return self.r1_gamma if self.adversarial == "relativistic" else 0.0

    @property
    def penalises_discriminator(self) -> bool:
        """True if R1 or R2 is on."""
        return self.r1_gamma > 0 or self.r2 > 0

    @property
    def lazy_penalty(self) -> int:
        """Steps between separate gradient-penalty steps. 1: there are none."""
        return self.r1_interval if self.penalises_discriminator else 1

    @property
    def lazy_density(self) -> int:
        """Steps between separate density-penalty steps. 1: there are none."""
        return self.density_reg_interval if self.density_reg > 0 else 1


@dataclass(frozen=True)
class AdamConfig:
    """Adam (Kingma & Ba 2015), before the correction for lazy regularisation."""

    lr: Positive = 0.002
    """Learning rate."""
    betas: tuple[Beta, Beta] = (0.0, 0.99)
    """Decay rates of the first and second moment."""
    eps: Positive = 1e-8
    """Added to the root of the second moment."""


@dataclass(frozen=True)
class OptimizersConfig:
    """The optimizers and their learning rate schedule."""

    generator: AdamConfig = AdamConfig(lr=0.0025)
    """Adam of the generator."""
    discriminator: AdamConfig = AdamConfig(lr=0.002)
    """Adam of the discriminator."""
    proxy: AdamConfig = AdamConfig(betas=(0.9, 0.99))
    """Adam of the proxy of a renderer without a gradient."""
    warmup_kimg: NonNegative = 0.0
    """Linear warm-up of the learning rates over this many thousand images."""
    decay_start: Share = 1.0
    """Share of the training after which learning rates decay linearly. 1: no decay."""
    decay_to: Share = 0.1
    """Final learning rates relative to the initial ones."""


@dataclass(frozen=True)
class ResolutionScheduleConfig:
    """Resolution of volume rendering over the training (EG3D's neural rendering resolution)."""

    initial: Annotated[int, Ge(4)] | None = None
    """Resolution at the start. None: the generator's default."""
    final: Annotated[int, Ge(4)] | None = None
    """Resolution at the end. None: `initial` throughout."""
    start_kimg: NonNegative = 0.0
    """Thousands of images before the resolution changes."""
    fade_kimg: NonNegative = 1000.0
    """Thousands of images of a linear change. 0: immediate."""

    def __post_init__(self) -> None:
        """Check that a schedule has a start."""
        if self.final is not None and self.initial is None:
            raise ConfigError(
                f"rendering_resolution.final={self.final}: set rendering_resolution.initial too",
                field="final",
            )


@dataclass(frozen=True)
class CosineConfig:
    """Final values of cosine schedules (R3GAN, Huang et al. 2024) that start at the other options.

    None: constant. R3GAN, FFHQ: 20000 kimg, gamma_factor 0.1, lr_factor 0.25, beta2 0.9 to 0.99,
    half-life 0 to 500 kimg, probability 0 to 0.3.
    """

    kimg: NonNegative = 0.0
    """Thousands of images from the start to the final values. 0: no cosine schedule."""
    gamma_factor: NonNegative | None = None
    """R1 and R2 weights relative to the initial ones."""
    lr_factor: NonNegative | None = None
    """Learning rates relative to the initial ones; multiplies warm-up and decay."""
    beta2: Beta | None = None
    """Adam's second decay rate, of both optimizers, before the correction for lazy penalties."""
    ema_half_life_kimg: NonNegative | None = None
    """Half-life of the moving average, which starts at `training.ema_half_life_kimg`."""
    augment_probability: Share | None = None
    """Augmentation probability of `augment.mode=fixed`, which starts at `augment.probability`."""

    def __post_init__(self) -> None:
        """Check that no value is ignored."""
        finals = (self.gamma_factor, self.lr_factor, self.beta2, self.ema_half_life_kimg,
                  self.augment_probability)  # fmt: skip
        if self.kimg == 0 and any(value is not None for value in finals):
            raise ConfigError(
                "training.cosine.kimg=0: set the length of the schedules, e.g. ${training.kimg}",
                field="kimg",
            )


@dataclass(frozen=True)
class StageConfig:
    """A level of progressive growing: it fades in, then trains alone."""

    resolution: Annotated[int, POWER_OF_TWO, Ge(4)]
    """Side of its images; twice that of the stage before."""
    fade_kimg: NonNegative = 0.0
    """Thousands of images in which it fades in, after the stage before; 0 in the first stage."""
    kimg: NonNegative | None = None
    """Thousands of images after the fade. None: to the end, in the last stage."""
    lr_factor: Positive = 1.0
    """Factor on both learning rates, fade included."""
    r1_gamma: NonNegative | None = None
    """R1 weight, fade included; R2 scales alike. None: `loss.r1_gamma`."""


@dataclass(frozen=True)
class GrowingConfig:
    """Progressive growing (ProGAN, Karras et al. 2018): generator and discriminator start small.

    Pictures and voxel grids grow by layers, other scenes by their rendering resolution alone.
    """

    stages: tuple[StageConfig, ...]
    """The levels; the last has the resolution of the data."""
    reset_optimizer: bool = True
    """Clear Adam's moments at the start and the end of each fade, as ProGAN."""

    def __post_init__(self) -> None:
        """Check the order of the stages."""
        if not self.stages:
            raise ConfigError("training.growing.stages=[]: use one or more", field="stages")
        for i, stage in enumerate(self.stages):
            last, problem = stage is self.stages[-1], ""
            if i > 0 and stage.resolution != 2 * self.stages[i - 1].resolution:
                problem = f"resolution={stage.resolution}: use {2 * self.stages[i - 1].resolution}"
            elif i == 0 and stage.fade_kimg > 0:
                problem = f"fade_kimg={stage.fade_kimg}: use 0, nothing comes before"
            elif last != (stage.kimg is None):
                problem = f"kimg={stage.kimg}: use {'null' if last else 'a number, e.g. 600'}"
            if problem:
                raise ConfigError(f"training.growing.stages.{i}.{problem}", field="stages")


@dataclass(frozen=True)
class PatchConfig:
    """Patches of images instead of whole ones: full resolution without super-resolution."""

    resolution: Annotated[int, POWER_OF_TWO, Ge(8)] = 64
    """Side of the patches, and input of the discriminator, in pixels."""
    scales: Literal["beta", "uniform"] = "beta"
    """Distribution of the patches' share of the image's side: EpiGRAF's, or GRAF's."""
    scale_min: Annotated[float, Interval(gt=0, le=1)] | None = None
    """Smallest share. None: pixels of the patch are those of the image."""
    fade_kimg: NonNegative = 10_000.0
    """Length of the change from whole images to patches of all shares. 0: patches at once."""


@dataclass(frozen=True)
class TrainingConfig:
    """Length, batch, precision, device, intervals and schedules. kimg: thousands of real images."""

    kimg: Positive = 25_000.0
    """Length of the training."""
    hours: Positive | None = None
    """Training time after which the run is complete, whatever `kimg` is; without samples, logs and
    evaluation. Schedules follow `kimg`. None: no limit."""
    batch: Count = 32
    """Images per step, over all processes and accumulation rounds."""
    microbatch: Count | None = None
    """Images per pass: the unit of draws, swaps and minibatch deviation. None: the batch."""
    views: Count = 1
    """Views of each scene in a generator step (CGS-GAN, Barthel et al. 2025: 4): the loss is their
    mean. The cameras are those of the microbatch's other scenes; memory does not grow with them."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16` multiplies in bfloat16; penalties, losses and weights stay in float32."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto` uses CUDA if available, otherwise the CPU."""
    devices: Count = 1
    """Processes that share each step: one per GPU, or several on a CPU."""
    threads: Count | None = None
    """CPU threads per process. None: torch's default."""
    compile: bool = False
    """Compile the generator's convolutions; never the discriminator (double backward) or the layers
    of StyleGAN3 (statistics of inputs)."""
    log_kimg: Positive = 4.0
    """Interval of rows in `metrics.jsonl` and of checks for non-finite gradients."""
    sample_kimg: NonNegative = 200.0
    """Interval of sample grids. 0: none."""
    snapshot_kimg: NonNegative = 200.0
    """Interval of checkpoints. 0: only at the end, or when stopped."""
    eval_kimg: NonNegative = 0.0
    """Interval of the sliced Wasserstein distance. 0: never."""
    keep_checkpoints: Annotated[int, Ge(2)] = 2
    """Newest checkpoints to keep. At least 2, in case the newest is damaged."""
    ema_half_life_kimg: NonNegative | None = None
    """Half-life of the generator's moving average. None: 10 kimg per 32 of batch, as EG3D. 0: no
    average."""
    ema_rampup: Positive | None = 0.05
    """Upper limit of the half-life as a share of the images seen. None: no ramp-up."""
    rendering_resolution: ResolutionScheduleConfig = ResolutionScheduleConfig()
    """Resolution of `image_raw`."""
    patch: PatchConfig | None = None
    """Train on patches. None: whole images."""
    growing: GrowingConfig | None = None
    """Grow the networks. None: full size throughout."""
    blur_sigma: NonNegative = 10.0
    """Initial standard deviation, in pixels, of the blur of the discriminator's input."""
    blur_fade_kimg: NonNegative = 0.0
    """Length of the fade-out of the blur; EG3D: 200 per 32 of batch. 0: no blur."""
    blur_raw: Literal["alike", "eg3d"] = "alike"
    """`alike` blurs `image_raw` in proportion; `eg3d` only reals, by sigma of its own pixels."""
    w_avg_from: Literal["global", "eg3d"] = "global"
    """The running mean of w follows the global batch, or (`eg3d`) its first microbatch, as EG3D's
    with one microbatch per GPU."""
    swap_initial: Share = 1.0
    """Initial probability of conditioning a fake on its neighbour's camera."""
    swap_final: Share = 0.5
    """The same after `swap_fade_kimg`. Without effect if the label is not, or must be, the view."""
    swap_fade_kimg: NonNegative = 1000.0
    """Length of a linear change between the two. 0: final from the start."""
    cosine: CosineConfig = CosineConfig()
    """Cosine schedules of penalties, Adam, moving average and augmentation."""
    freeze: tuple[str, ...] = ()
    """Parts that are not trained: parts of the generator, e.g. `mapping` or
    `representation.decoder`, or of the discriminator, e.g. `discriminator.b64`."""

    def __post_init__(self) -> None:
        """Check that processes and microbatches divide the batch."""
        if self.batch % self.microbatch_size:
            divisors = ", ".join(str(n) for n in range(1, self.batch) if self.batch % n == 0)
            raise ConfigError(
                f"training.microbatch={self.microbatch} does not divide "
                f"training.batch={self.batch}: use one of {divisors}",
                field="microbatch",
            )
        if self.views > self.microbatch_size:
            raise ConfigError(
                f"training.views={self.views}: a microbatch of {self.microbatch_size} has fewer "
                f"cameras; use {self.microbatch_size} or less, or a larger training.microbatch",
                field="views",
            )
        if self.num_microbatches % self.devices:
            raise ConfigError(
                f"training.devices={self.devices} does not divide the {self.num_microbatches} "
                f"microbatch(es) of a step: set training.microbatch to a divisor of "
                f"batch / devices = {self.batch} / {self.devices}; devices must divide the batch",
                field="devices",
            )

    def complete(self, steps: int, seconds: float) -> bool:
        """Whether a training of so many steps and seconds has reached its length."""
        in_time = self.hours is None or seconds < 3600 * self.hours
        return steps >= self.num_steps or not in_time

    @property
    def microbatch_size(self) -> int:
        """Images per pass, with the default resolved."""
        return self.batch if self.microbatch is None else self.microbatch

    @property
    def num_microbatches(self) -> int:
        """Microbatches per step, over all processes."""
        return self.batch // self.microbatch_size

    @property
    def num_steps(self) -> int:
        """Steps of the whole run: whole batches, rounded up."""
        return max(1, -(-round(self.kimg * 1000) // self.batch))


@dataclass(frozen=True)
class InitConfig:
    """Fine-tuning: networks to start from, instead of a random initialisation."""

    path: str = ""
    """A run directory, checkpoint, export or NVIDIA pickle. Empty: random initialisation."""
    schedules: Literal["restart", "keep", "eg3d"] = "restart"
    """Blur, swapping, rendering resolution, EMA ramp-up, cosines, terms: `restart` starts them
    again; `keep` continues after the images that the source has seen; `eg3d` is EG3D's `--resume`:
    no blur, `swap_final`, no ramp-up; the others restart."""
    kimg: NonNegative | None = None
    """Thousands of images that the source has seen, for `keep`. None: as recorded in the source;
    NVIDIA pickles do not record it."""

    def __post_init__(self) -> None:
        """Check that no option is ignored."""
        if self.schedules != "restart" and not self.path:
            raise ConfigError(
                f"init_from.schedules={self.schedules}: set init_from.path too", field="schedules"
            )
        if self.kimg is not None and self.schedules != "keep":
            raise ConfigError(
                f"init_from.kimg={self.kimg}: only init_from.schedules=keep uses it", field="kimg"
            )


@dataclass(frozen=True)
class LoggingConfig:
    """Logging. Nothing here changes the trained weights."""

    progress: bool = True
    """Print a line per log interval: kimg, images per second, time left, memory, D accuracy."""
    alarms: bool = True
    """Warn of degenerate 3D: flat depth, empty or full opacity."""
    sample_latents: Count = 4
    """Rows of a sample grid: latents."""
    sample_views: Count = 5
    """Columns of a sample grid: cameras on an arc around the box."""
    sample_swing: Annotated[float, Interval(ge=0, le=3.15)] = 0.8
    """Azimuth range of the columns, in radians to either side."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Also log `metrics.jsonl`, sample grids, videos and the evaluation to Weights & Biases."""
    wandb_project: str = "lightning-gan3d"
    """W&B project."""
    wandb_entity: str = ""
    """W&B user or team; default: that of the login."""
    wandb_group: str = ""
    """W&B group and name of the runs of a configuration; default: name and label. A sweep sets it
    to the factors."""
    wandb_tags: tuple[str, ...] = ()
    """W&B tags."""
    wandb_notes: str = ""
    """W&B notes."""
    wandb_timeout: Positive = 30.0
    """Seconds without an answer online after which W&B logging is disabled; the training continues.
    """
    wandb_videos: Annotated[int, Ge(0)] = 4
    """Latents whose orbits are logged as videos after the training, with depth. 0: none."""
    wandb_checkpoint: bool = False
    """Upload the averaged generator as an artifact, as `gan3d export` writes it."""


@dataclass(frozen=True)
class TrainerConfig:
    """Options of Lightning's Trainer; its length, devices and precision are in `training`."""

    max_time: str | None = None
    """Save and stop after this time of training, DD:HH:MM:SS, without loading and evaluation; the
    same command continues. None: no limit."""
    num_nodes: Count = 1
    """Machines, each with `training.devices` processes; start the same command on every one, with
    NODE_RANK and MASTER_ADDR in the environment, and the run directory on a shared disk."""
    strategy: str = "auto"
    """`auto`, or an entry point of the group `lightning_gan3d.strategies`, called without
    arguments. It must not wrap the module, which sums its gradients over all processes itself."""
    profiler: Literal["simple", "advanced", "pytorch"] | None = None
    """Lightning's profiler; it writes `fit-profile*` into the run directory."""
    callbacks: tuple[str, ...] = ()
    """`LearningRateMonitor`, `DeviceStatsMonitor`, or those of other packages, by entry point of
    the group `lightning_gan3d.callbacks`; called without arguments."""
    loggers: tuple[str, ...] = ()
    """`csv`, `tensorboard`, or those of other packages, by entry point of the group
    `lightning_gan3d.loggers`; called on rank 0 with the configuration and the run directory."""

    def __post_init__(self) -> None:
        """Check the time."""
        time = self.max_time
        if time is not None and not (
            re.fullmatch(r"\d+:\d\d:\d\d:\d\d", time) and set(time) - set("0:")
        ):
            raise ConfigError(
                f"trainer.max_time={time}: use a time above 0, DD:HH:MM:SS, e.g. 00:12:00:00",
                field="max_time",
            )
