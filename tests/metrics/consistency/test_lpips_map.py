import dataclasses
import shutil

import lpips
import pytest
import torch
import torchvision
from metric_views import Perturbed, change_colour, context, figures

from lightning_gan3d.config import UserError
from lightning_gan3d.files import sha256_of_file
from lightning_gan3d.metrics.config import ConsistencyConfig
from lightning_gan3d.metrics.consistency.image_similarity import LpipsMap, find_trunk, load_lpips
from lightning_gan3d.metrics.consistency.reprojection import measure_consistency
from lightning_gan3d.metrics.evaluate import evaluate
from lightning_gan3d.metrics.pretrained import KNOWN


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
    result = net(a, b)
    assert result.shape == (2, 1, 64, 64)
    assert torch.allclose(result, reference(a, b))
    assert not net(a, a).any()
    trunk = torch.load(random_trunk, weights_only=True)
    weight = net.net.net.state_dict()["slice3.6.weight"]
    assert torch.equal(weight, trunk["features.6.weight"])


def test_it_is_measured_over_compared_pixels_with_the_hash_of_its_weights(random_trunk):
    cfg = ConsistencyConfig(items=2, steps=1, flicker=None, lpips=str(random_trunk))
    metrics, worse = (
        {m.key: m for m in measure_consistency(context(s, consistency=cfg, curves=False))}
        for s in (figures(), Perturbed(figures(), change_colour))
    )
    digits = sha256_of_file(random_trunk)[:8]  # not the published trunk, hence not LPIPS
    for name in (f"consistency.lpips_{digits}", f"consistency.lpips_{digits}_raw"):
        assert worse[name].value > 3 * metrics[name].value > 0
        assert "SHA-256" in metrics[name].note
        assert "linear layers" in metrics[name].note


def test_files_that_are_no_trunk_are_rejected(random_trunk, tmp_path):
    with pytest.raises(UserError, match=r"consistency.lpips=.*no file .*none.pth"):
        load_lpips(str(tmp_path / "none.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UserError, match=r"text.pth: not a state dict"):
        load_lpips(str(tmp_path / "text.pth"))
    trunk, result = torch.load(random_trunk, weights_only=True), find_trunk(str(random_trunk))
    with pytest.raises(UserError, match=r"no `features.6.weight`"):
        LpipsMap({k: v for k, v in trunk.items() if k != "features.6.weight"}, result)
    with pytest.raises(UserError, match="not AlexNet's weights"):
        LpipsMap({**trunk, "features.6.weight": torch.zeros(3)}, result)


def test_without_weights_the_reason_has_the_command(tmp_path, monkeypatch, random_trunk):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert "gan3d weights fetch lpips-alex" in load_lpips(None)
    place = tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(random_trunk.read_bytes())
    assert "is damaged" in load_lpips(None)  # not what its name says
    known = dataclasses.replace(KNOWN["lpips-alex"], sha256=sha256_of_file(random_trunk))
    monkeypatch.setitem(KNOWN, "lpips-alex", known)
    assert load_lpips(None).network == ""
    assert load_lpips(None).protocol == load_lpips(str(random_trunk)).protocol


def test_ceilings_are_cached_by_the_digest_of_the_weights(tmp_path, monkeypatch, random_trunk):
    """Weights downloaded later, or replaced at one path, give another ceiling."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    cfg, cache = ConsistencyConfig(items=2, steps=1, flicker=None), tmp_path / "cache"

    def ceilings(lpips):
        options = dataclasses.replace(cfg, lpips=lpips)
        ctx = context(figures(), consistency=options, truth=figures(), cache=cache)
        keys = {m.key for m in evaluate(ctx)}
        return {key for key in keys if key.endswith("_truth") and "lpips" in key}

    assert ceilings(None) == set()
    own = tmp_path / "own.pth"
    shutil.copy(random_trunk, own)
    first = ceilings(str(own))
    trunk = torch.load(own, weights_only=True)
    torch.save({k: v * 0.9 for k, v in trunk.items()}, own)
    assert len(first) == len(ceilings(str(own))) == 2
    assert not first & ceilings(str(own))
