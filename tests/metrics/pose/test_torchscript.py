import dataclasses
import hashlib

import pytest
import torch
from metric_views import Perturbed, RealFigures, context, figures, swap_views
from torch import Tensor, nn

from lightning_gan3d.config import ConfigError, UserError, from_options
from lightning_gan3d.metrics.config import IdentityConfig, PoseConfig
from lightning_gan3d.metrics.evaluate import measure_images
from lightning_gan3d.metrics.pose.estimators import load_network, measure_identity, train_regressor


class MeanColour(nn.Module):
    """An embedding: mean colour of the foreground, relative to its mean over figures."""

    def forward(self, image: Tensor) -> Tensor:
        mask = (image.amin(dim=1, keepdim=True) < 0.99).float()
        mean = (image * mask).sum(dim=(2, 3)) / mask.sum(dim=(2, 3))
        return mean - mean.mean(dim=1, keepdim=True)


class Rotation(nn.Module):
    """Returns one rotation for all images, in one of the two forms."""

    def __init__(self, six: bool, bad: bool) -> None:
        super().__init__()
        self.six, self.bad = six, bad

    def forward(self, image: Tensor) -> Tensor:
        eye = torch.eye(3).expand(image.shape[0], 3, 3)
        if self.bad:
            return eye[:, 0]
        if self.six:
            return torch.cat([eye[:, :, 0], eye[:, :, 1]], dim=1)
        return 2 * eye


def saved(module, path):
    torch.jit.script(module.eval()).save(str(path))
    return str(path)


def measured(source, cfg):
    return {m.key: m for m in measure_identity(context(source, identity=cfg))}


def estimated(source, train, test, cfg, num_images):
    """Metrics of the estimator; the regressor is trained for a few steps only."""
    options = dataclasses.replace(cfg, resolution=16, iterations=1, batch=2)
    metrics = measure_images(context(source, train, test, pose=options, num_images=num_images))
    return {m.key: m for m in metrics if m.name.startswith("pose.estimator_")}


def test_two_views_of_a_figure_are_more_alike_than_two_figures(tmp_path):
    path = saved(MeanColour(), tmp_path / "colour.pt")
    metrics = measured(figures(), IdentityConfig(path, items=40))
    same, other = metrics["identity.cosine"], metrics["identity.cosine_others"]
    assert same.value > 0.9
    assert other.value < 0.6
    assert same.n == other.n == 40
    digest = hashlib.sha256((tmp_path / "colour.pt").read_bytes()).hexdigest()[:16]
    assert f"colour.pt, SHA-256 {digest}" in same.note


def test_options_of_identity_have_an_effect(tmp_path):
    path = saved(MeanColour(), tmp_path / "colour.pt")
    base = measured(figures(), IdentityConfig(path, items=10))["identity.cosine"].value
    for other in ({"items": 12}, {"angle": 1.5}, {"resolution": 8}):
        cfg = IdentityConfig(**{"embedding": path, "items": 10, **other})
        assert measured(figures(), cfg)["identity.cosine"].value != base


@pytest.mark.parametrize(("field", "value"), [("items", 1), ("angle", 0.0), ("resolution", 0)])
def test_invalid_options_name_the_field(field, value):
    with pytest.raises(ConfigError, match=f"{field}={value}"):
        from_options(IdentityConfig, ["embedding=x", f"{field}={value}"])


def test_our_own_regressor_can_be_the_estimator(tmp_path):
    """The regressor as a TorchScript file estimates right and wrong cameras as before."""
    short = PoseConfig(resolution=16, iterations=200, batch=16)
    train, test = RealFigures(400, seed=1), RealFigures(80, seed=2)
    regressor = train_regressor(train, short)
    traced = torch.jit.trace(regressor, train.floats()[:2])
    traced.save(str(tmp_path / "pose.pt"))
    cfg = PoseConfig(estimator=str(tmp_path / "pose.pt"))
    metrics = estimated(figures(), train, test, cfg, 60)
    assert set(metrics) == {
        *(f"pose.estimator_{k}{s}" for k in ("within_20deg", "median_deg") for s in ("", "_real")),
        *("pose.estimator_aligned_median_deg", "pose.estimator_alignment_deg"),
    }
    assert metrics["pose.estimator_median_deg"].value < 40
    assert metrics["pose.estimator_median_deg"].n == 60
    assert "pose.pt, SHA-256" in metrics["pose.estimator_median_deg"].note

    def turned(source, items, cameras):
        return source.views(items, cameras.select(torch.arange(len(items)).roll(1)))

    wrong = estimated(Perturbed(figures(), turned), train, test, cfg, 60)
    median = "pose.estimator_median_deg"
    assert wrong[median].value > metrics[median].value + 20
    assert wrong[f"{median}_real"].value == metrics[f"{median}_real"].value
    assert estimated(figures(), train, test, PoseConfig(), 60) == {}


def test_matrices_and_two_columns_are_read_alike(tmp_path):
    train = RealFigures(20, seed=1)
    medians = []
    for six in (True, False):
        path = saved(Rotation(six, False), tmp_path / f"{six}.pt")
        metrics = estimated(figures(), train, None, PoseConfig(estimator=path), 20)
        medians.append(metrics["pose.estimator_median_deg"].value)
    assert medians[0] == pytest.approx(medians[1], abs=1e-3)
    path = saved(Rotation(False, True), tmp_path / "bad.pt")
    with pytest.raises(UserError, match=r"pose.estimator=.*\(n, 3, 3\)"):
        estimated(figures(), train, None, PoseConfig(estimator=path), 20)


def test_unusable_files_are_rejected_by_name(tmp_path):
    with pytest.raises(UserError, match=r"identity.embedding=.*none.pt: cannot be read"):
        load_network("identity.embedding", str(tmp_path / "none.pt"))
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(UserError, match=r"text.pt: not a TorchScript file"):
        load_network("identity.embedding", str(tmp_path / "text.pt"))
    torch.save({"a": torch.zeros(3)}, tmp_path / "state.pt")
    with pytest.raises(UserError, match=r"state.pt: not a TorchScript file"):
        load_network("identity.embedding", str(tmp_path / "state.pt"))
    path = saved(nn.Linear(5, 2), tmp_path / "linear.pt")
    with pytest.raises(UserError, match=r"rejects images of shape \(20, 3, 32, 32\)") as error:
        measured(figures(), IdentityConfig(path, items=10))
    assert "\n" not in str(error.value)


def test_views_of_other_figures_lower_the_cosine(tmp_path):
    def other(source, items, cameras):
        k = len(cameras.cam2world) // len(items)
        rendered, wrong = source.views(items, cameras), source.views(items + 1, cameras)
        odd = (torch.arange(len(rendered.image)) % k == 1)[:, None, None, None]
        return rendered._replace(image=torch.where(odd, wrong.image, rendered.image))

    path = saved(MeanColour(), tmp_path / "colour.pt")
    cfg = IdentityConfig(path, items=20)
    rendered = measured(Perturbed(figures(), other), cfg)["identity.cosine"].value
    assert rendered < measured(figures(), cfg)["identity.cosine"].value - 0.3
    swapped = measured(Perturbed(figures(), swap_views), cfg)["identity.cosine"].value
    assert swapped == pytest.approx(measured(figures(), cfg)["identity.cosine"].value, abs=1e-5)
