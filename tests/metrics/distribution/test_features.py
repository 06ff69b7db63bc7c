import sys
import types

import pytest
import stand_in
import torch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.utils import ResizeDataset
from PIL import Image

from lightning_gan3d.files import sha256_of_file
from lightning_gan3d.metrics import pretrained
from lightning_gan3d.metrics.distribution.features import clip, inception, reduced_pixels, vgg16
from lightning_gan3d.metrics.pretrained import WeightsError

IMAGES = torch.randint(0, 256, (5, 3, 48, 48), dtype=torch.uint8, generator=torch.manual_seed(1))


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    # clean-fid expects this name in a folder.
    path = tmp_path_factory.mktemp("w") / "inception-2015-12-05.pt"
    return stand_in.save(stand_in.Inception(), path)


@pytest.mark.parametrize("mode", ["clean", "legacy_tensorflow"])
def test_features_are_those_of_clean_fid_on_files(script, tmp_path, mode):
    files = []
    for i, image in enumerate(IMAGES):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(files[-1])
    dataset = ResizeDataset(files, mode)
    network = InceptionV3W(str(script.parent), download=False, resize_inside=mode != "clean")
    with torch.no_grad():
        expected = network(torch.stack([dataset[i] for i in range(5)]))
    features = inception(mode, given=script)(IMAGES)
    assert features.shape == (5, 2048)
    assert torch.allclose(features, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(features, expected.roll(1, 0), rtol=1e-2)


def test_the_modes_differ(script):
    clean, tensorflow = (inception(m, given=script)(IMAGES) for m in ("clean", "legacy_tensorflow"))
    assert float((clean - tensorflow).abs().max()) > 0.01


def test_legacy_pytorch_runs_the_network_of_pytorch_fid(tmp_path, monkeypatch):
    from cleanfid import inception_pytorch
    from torchvision.models import inception_v3

    given = tmp_path / "pt.pth"
    torch.manual_seed(0)
    blank = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    torch.save(blank.state_dict(), given)
    network = inception("legacy_pytorch", given=given)
    assert network.dim == 2048
    assert network.probabilities(torch.rand(2, 2048)).shape == (2, 1008)
    assert network.network == f"legacy_pytorch_{sha256_of_file(given)[:8]}"
    monkeypatch.setattr(
        inception_pytorch, "load_state_dict_from_url", lambda *_, **__: torch.load(given)
    )
    from cleanfid.features import build_feature_extractor

    dataset = ResizeDataset([], "legacy_pytorch")
    resized = dataset.fn_resize(IMAGES[0].permute(1, 2, 0).numpy())
    reference = build_feature_extractor("legacy_pytorch", torch.device("cpu"), False)
    with torch.no_grad():
        expected = reference(dataset.transforms(resized)[None])
    assert torch.allclose(network(IMAGES[:1]), expected, rtol=1e-4, atol=1e-5)


def test_probabilities_have_no_bias(script):
    network = inception("legacy_tensorflow", given=script)
    expected = torch.jit.load(str(script))(IMAGES, no_output_bias=True)
    assert torch.allclose(network.probabilities(network(IMAGES)), expected, atol=1e-6)


def test_only_published_weights_have_no_digits_in_the_name(script, monkeypatch):
    digest = sha256_of_file(script)
    assert inception("clean", given=script).network == digest[:8]
    assert inception("legacy_tensorflow", given=script).network == f"legacy_tensorflow_{digest[:8]}"
    assert "not published" in inception("clean", given=script).protocol
    entry = pretrained.Weights(script.name, "", digest, "tests")
    monkeypatch.setitem(pretrained.KNOWN, "inception", entry)
    published = inception("clean", given=script)
    assert published.network == ""
    assert f"published weights, SHA-256 {digest[:8]}" in published.protocol


def test_vgg_returns_its_features(tmp_path):
    path = stand_in.save(stand_in.Vgg(), tmp_path / "vgg.pt")
    network = vgg16(given=path)
    expected = torch.jit.load(str(path))(IMAGES.float(), return_features=True)
    assert torch.equal(network(IMAGES), expected.detach())
    assert (network.dim, network.network) == (64, sha256_of_file(path)[:8])


def test_other_files_are_rejected(tmp_path):
    text = tmp_path / "a.pt"
    text.write_text("no network")
    with pytest.raises(WeightsError, match="not a TorchScript file"):
        inception("clean", given=text)
    with pytest.raises(WeightsError, match="not a state dictionary"):
        inception("legacy_pytorch", given=text)
    with pytest.raises(WeightsError, match="`layers` and `output`"):
        inception("clean", given=stand_in.save(stand_in.Identity(), tmp_path / "b.pt"))


def test_reduced_pixels_are_means_of_cells():
    wide = IMAGES[:, :, ::6, ::6].repeat_interleave(8, 2).repeat_interleave(8, 3)
    means = reduced_pixels(8)(wide)
    assert means.shape == (5, 192)
    assert torch.allclose(means.mean(), wide.float().mean() / 255, atol=0.01)
    constant = reduced_pixels(8)(torch.full((1, 3, 64, 64), 51, dtype=torch.uint8))
    assert torch.allclose(constant, torch.full((1, 192), 0.2), atol=1e-6)


def test_clip_is_loaded_by_clean_fid(tmp_path, monkeypatch):
    path = tmp_path / "clip.pt"
    path.write_bytes(b"weights of clip")
    monkeypatch.setitem(sys.modules, "clip", None)  # not installed
    monkeypatch.delitem(sys.modules, "cleanfid.clip_features", raising=False)
    with pytest.raises(WeightsError, match="package clip is not installed"):
        clip(given=path)

    class Model:
        def eval(self):
            return self

        def encode_image(self, x):
            return x[:, :, ::32, ::32].flatten(1)

    calls = []
    package = types.ModuleType("clip")
    package.load = lambda name, device: (calls.append((name, device)), (Model(), None))[1]
    monkeypatch.setitem(sys.modules, "clip", package)
    network = clip(given=path)
    assert calls == [(str(path), "cpu")]
    from cleanfid.clip_features import CLIP_fx, img_preprocess_clip

    small = img_preprocess_clip(IMAGES[1].permute(1, 2, 0).numpy())
    expected = CLIP_fx("other")(torch.from_numpy(small.copy()).permute(2, 0, 1).float())
    assert torch.allclose(network(IMAGES)[1:2], expected)
    assert network.network == sha256_of_file(path)[:8]
    monkeypatch.delitem(sys.modules, "cleanfid.clip_features")
