from metric_views import Perturbed, context, figure_labels, figures, flatten_depth

from lightning_gan3d.metrics.config import GeometryConfig
from lightning_gan3d.metrics.selftest.known_scenes import Balls, check_geometry

CFG = GeometryConfig(items=3)


def failed(balls, source):
    checks = check_geometry(balls, context(source, geometry=CFG))
    return [text for text, holds in checks if not holds]


def test_known_surfaces_pass():
    assert failed(Balls(figure_labels(), 48), figures(48)) == []


def test_wrong_depth_fails():
    """The depth of the traced balls is a twentieth of a unit less than that of the rendered."""

    class Nearer(Balls):
        def views(self, items, cameras):
            result = super().views(items, cameras)
            return result._replace(depth=result.depth - 0.05)

    text = "\n".join(failed(Nearer(figure_labels(), 48), figures(48)))
    assert "rendered balls: depth error 0.0" in text
    assert "billboards" not in text


def test_figures_that_are_cards_fail():
    failures = failed(Balls(figure_labels(), 48), Perturbed(figures(48), flatten_depth))
    assert len(failures) == 2
    assert failures[0].startswith("figures: geometry.relief 0.0")
    assert failures[1].startswith("figures: geometry.billboards")
