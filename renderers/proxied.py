"""Training through a renderer without a gradient, by a proxy (IG-GAN, Lunz et al. 2020)."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from lightning_gan3d import registry
from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import Renderer
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Rendering
from renderers.backends import Backend
from representations.solid import Solid, randomised

SHARED = ("light", "light_frame", "ambient", "background")
"""Options that must agree, if both renderers have them."""


@dataclass(frozen=True)
class ProxiedConfig:
    """The exact renderer, and its proxy."""

    exact: Any = field(metadata=registry.metadata("renderers"))
    """The renderer that discriminator, metrics, samples and benchmarks see."""
    proxy: Any = field(metadata=registry.metadata("renderers"))
    """The renderer of the generator's loss; `loss.proxy` alone trains its parameters."""
    fakes: Literal["exact", "proxy"] = "exact"
    """Renderer of the discriminator's fakes. `proxy`: a GAN on soft renderings; samples and metrics
    stay exact."""

    def __post_init__(self) -> None:
        """Check that both render solids, and alike."""
        for name in ("exact", "proxy"):
            module = registry.module_of("renderers", getattr(self, name))
            kind = registry.name_of("renderers")(type(getattr(self, name)))
            if not issubclass(Solid, module.accepts) or module.has_proxy:
                raise ConfigError(
                    f"generator.renderer.{name}.kind={kind}: renders no solids; use raster for "
                    "`exact`, and soft or volume for `proxy`",
                    field=name,
                )
            if name == "proxy" and not module.differentiable:
                raise ConfigError(
                    f"generator.renderer.proxy.kind={kind}: has no gradient either; use soft",
                    field=name,
                )
        for name in SHARED:
            values = [getattr(x, name, None) for x in (self.exact, self.proxy)]
            if None not in values and values[0] != values[1]:
                raise ConfigError(
                    f"generator.renderer: exact.{name}={values[0]}, proxy.{name}={values[1]}: set "
                    "both to one value",
                    field="proxy",
                )

    @property
    def background(self) -> Any:
        """Value of the background in [0, 1], if the exact renderer has one."""
        return getattr(self.exact, "background", None)


class ProxiedRenderer(Renderer):
    """Renders exactly; `proxy` renders with a gradient."""

    accepts = Solid
    differentiable: ClassVar[bool] = False
    has_proxy: ClassVar[bool] = True

    def __init__(self, cfg: ProxiedConfig) -> None:
        """Build both renderers."""
        super().__init__()
        self.cfg = cfg
        self.exact: Renderer = registry.module_of("renderers", cfg.exact)(cfg.exact)
        self.proxy: Renderer = registry.module_of("renderers", cfg.proxy)(cfg.proxy)

    @property
    def backend(self) -> Backend | None:
        """Backend of the last exact rendering, for logs and reports."""
        return getattr(self.exact, "backend", None)

    def forward(
        self, scene: Solid, cameras: Cameras, resolution: int, draws: Draws | None = None
    ) -> Rendering:
        """Render exactly."""
        rendering: Rendering = self.exact(scene, cameras, resolution, draws)
        return rendering

    def random_scenes(self, like: Solid, draws: Draws) -> Solid:
        """Return solids of random shapes, with the colours of others."""
        return randomised(like, like.scene_cfg.density.prior_radius, draws)
