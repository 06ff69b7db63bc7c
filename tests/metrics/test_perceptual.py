import lpips
import pytest
import torch
import torchvision
from metric_views import Disturbed, change_colour, figures

from lightning_gan3d.config import Refusal
from lightning_gan3d.metrics.consistency import ConsistencyConfig, measure_consistency
from lightning_gan3d.metrics.perceptual import LpipsMap, load_lpips


@pytest.fixture(scope="module")
def random_trunk(tmp_path_factory):
    """AlexNet with weights drawn at random, under torchvision's names: no LPIPS, but its path."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = torchvision.models.alexnet(weights=None).features.state_dict()
    path = tmp_path_factory.mktemp("trunk") / "alexnet.pth"
    torch.save({f"features.{k}": v for k, v in state.items()}, path)
    return path


def test_its_mean_is_that_of_lpips_with_the_same_trunk(random_trunk):
    before = torch.random.get_rng_state()
    net = load_lpips(str(random_trunk))
    assert torch.equal(torch.random.get_rng_state(), before)
    g = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 3, 64, 64, generator=g) * 2 - 1 for _ in range(2))
    reference = lpips.LPIPS(net="alex", pnet_rand=True, spatial=True, verbose=False)
    reference.net.load_state_dict(net.net.net.state_dict())
    found = net(a, b)
    assert found.shape == (2, 1, 64, 64)
    assert torch.allclose(found, reference(a, b))
    assert not net(a, a).any()
    trunk = torch.load(random_trunk, weights_only=True)
    weight = net.net.net.state_dict()["slice3.6.weight"]
    assert torch.equal(weight, trunk["features.6.weight"])


def test_it_is_measured_over_compared_pixels_with_the_hash_of_its_weights(random_trunk):
    cfg = ConsistencyConfig(items=2, steps=1, flicker=None, lpips=str(random_trunk))
    found = {m.metric: m for m in measure_consistency(figures(), cfg, curves=False)}
    tinted = Disturbed(figures(), change_colour)
    worse = {m.metric: m for m in measure_consistency(tinted, cfg, curves=False)}
    for name in ("consistency.lpips", "consistency.lpips_raw"):
        assert worse[name].value > 3 * found[name].value > 0
        assert "SHA-256" in found[name].note


def test_files_that_are_no_trunk_are_refused(random_trunk, tmp_path):
    with pytest.raises(Refusal, match=r"consistency.lpips=.*none.pth: cannot be read"):
        load_lpips(str(tmp_path / "none.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(Refusal, match=r"text.pth: not a state dict"):
        load_lpips(str(tmp_path / "text.pth"))
    trunk = torch.load(random_trunk, weights_only=True)
    with pytest.raises(Refusal, match=r"no `features.6.weight`"):
        LpipsMap({k: v for k, v in trunk.items() if k != "features.6.weight"}, "")
    with pytest.raises(Refusal, match="not AlexNet's weights"):
        LpipsMap({**trunk, "features.6.weight": torch.zeros(3)}, "")


def test_without_weights_it_says_what_fetches_them(tmp_path, monkeypatch, random_trunk):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert "gan3d weights fetch lpips-alex" in load_lpips(None)
    place = tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(random_trunk.read_bytes())
    assert load_lpips(None).protocol == load_lpips(str(random_trunk)).protocol
