"""A scene that is a finished picture, and its renderer: for 2D baselines."""

from dataclasses import dataclass

from einops import repeat
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.contract import Renderer, Scene
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Rendering


@dataclass(frozen=True, eq=False)
class Picture(Scene):
    """A finished image in [-1, 1]. It is not 3D: another view needs another label."""

    image: Float[Tensor, "b 3 h w"]


@dataclass(frozen=True)
class PictureRendererConfig:
    """A picture has no rendering options."""


class PictureRenderer(Renderer):
    """Returns the picture for each of its cameras, at the picture's own size."""

    accepts = Picture
    has_depth = False

    def __init__(self, cfg: PictureRendererConfig) -> None:  # noqa: ARG002  # empty
        """Take the configuration, as every renderer."""
        super().__init__()

    def forward(
        self,
        scene: Picture,
        cameras: Cameras,
        resolution: int,  # noqa: ARG002  # the generator reduces the picture to `image_raw`
        draws: Draws | None = None,  # noqa: ARG002  # deterministic
    ) -> Rendering:
        """Return the picture once per camera, without depth or opacity."""
        views = len(cameras.cam2world)
        if views % scene.batch:
            raise ValueError(
                f"{views} cameras for {scene.batch} pictures: use a multiple of {scene.batch}"
            )
        image = repeat(scene.image, "b c h w -> (b k) c h w", k=views // scene.batch)
        return Rendering(image, None, None)
