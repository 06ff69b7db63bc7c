from metric_views import Disturbed, figure_labels, figures, flatten_depth

from lightning_gan3d.metrics.config import GeometryConfig
from lightning_gan3d.metrics.selftest.known_geometry import check_geometry
from lightning_gan3d.metrics.selftest.perturbations import Balls

CFG = GeometryConfig(items=3)


def failed(balls, source):
    return [words for words, held in check_geometry(balls, source, CFG) if not held]


def test_known_surfaces_are_rendered_as_they_are_and_cards_are_told_from_figures():
    assert failed(Balls(figure_labels(), 48), figures(48)) == []


def test_depth_that_is_not_the_truths_fails():
    """The depth of the traced balls is a twentieth of a unit less than that of the rendered."""

    class Nearer(Balls):
        def views(self, items, cameras):
            found = super().views(items, cameras)
            return found._replace(depth=found.depth - 0.05)

    words = "\n".join(failed(Nearer(figure_labels(), 48), figures(48)))
    assert "rendered balls: depth off by 0.0" in words
    assert "billboards" not in words


def test_figures_that_are_cards_fail():
    words = failed(Balls(figure_labels(), 48), Disturbed(figures(48), flatten_depth))
    assert len(words) == 2
    assert words[0].startswith("figures: geometry.relief 0.0")
    assert words[1].startswith("figures: geometry.billboards")
