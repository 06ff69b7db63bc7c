import sys
import types

import pytest
import stand_in
import torch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.utils import ResizeDataset
from PIL import Image

from lightning_gan3d.metrics import pretrained
from lightning_gan3d.metrics.distribution.features import ReducedPixels, clip, inception, vgg16
from lightning_gan3d.metrics.pretrained import WeightsError, digest_of

IMAGES = torch.randint(0, 256, (5, 3, 48, 48), dtype=torch.uint8, generator=torch.manual_seed(1))


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    # The name under which clean-fid looks for it in a folder.
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
        wanted = network(torch.stack([dataset[i] for i in range(5)]))
    found = inception(mode, given=script)(IMAGES)
    assert found.shape == (5, 2048)
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, wanted.roll(1, 0), rtol=1e-2)


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
    assert network.name == f"legacy_pytorch_{digest_of(given)[:8]}"
    monkeypatch.setattr(
        inception_pytorch, "load_state_dict_from_url", lambda *_, **__: torch.load(given)
    )
    from cleanfid.features import build_feature_extractor

    dataset = ResizeDataset([], "legacy_pytorch")
    resized = dataset.fn_resize(IMAGES[0].permute(1, 2, 0).numpy())
    reference = build_feature_extractor("legacy_pytorch", torch.device("cpu"), False)
    with torch.no_grad():
        wanted = reference(dataset.transforms(resized)[None])
    assert torch.allclose(network(IMAGES[:1]), wanted, rtol=1e-4, atol=1e-5)


def test_probabilities_leave_the_bias_out(script):
    network = inception("legacy_tensorflow", given=script)
    wanted = torch.jit.load(str(script))(IMAGES, no_output_bias=True)
    assert torch.allclose(network.probabilities(network(IMAGES)), wanted, atol=1e-6)


def test_only_the_published_digest_goes_without_digits_in_the_name(script, monkeypatch):
    digest = digest_of(script)
    assert inception("clean", given=script).name == digest[:8]
    assert inception("legacy_tensorflow", given=script).name == f"legacy_tensorflow_{digest[:8]}"
    assert "not the published" in inception("clean", given=script).protocol
    entry = pretrained.Weights(script.name, "", digest, "tests")
    monkeypatch.setitem(pretrained.KNOWN, "inception", entry)
    published = inception("clean", given=script)
    assert published.name == ""
    assert f"published weights, SHA-256 {digest[:8]}" in published.protocol


def test_vgg_answers_with_its_features(tmp_path):
    path = stand_in.save(stand_in.Vgg(), tmp_path / "vgg.pt")
    network = vgg16(given=path)
    wanted = torch.jit.load(str(path))(IMAGES.float(), return_features=True)
    assert torch.equal(network(IMAGES), wanted.detach())
    assert (network.dim, network.name) == (64, digest_of(path)[:8])


def test_other_files_are_refused(tmp_path):
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
    found = ReducedPixels(8)(wide)
    assert found.shape == (5, 192)
    assert torch.allclose(found.mean(), wide.float().mean() / 255, atol=0.01)
    constant = ReducedPixels(8)(torch.full((1, 3, 64, 64), 51, dtype=torch.uint8))
    assert torch.allclose(constant, torch.full((1, 192), 0.2), atol=1e-6)


def test_clip_is_asked_through_clean_fid(tmp_path, monkeypatch):
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

    asked = []
    package = types.ModuleType("clip")
    package.load = lambda name, device: (asked.append((name, device)), (Model(), None))[1]
    monkeypatch.setitem(sys.modules, "clip", package)
    network = clip(given=path)
    assert asked == [(str(path), "cpu")]
    from cleanfid.clip_features import CLIP_fx, img_preprocess_clip

    small = img_preprocess_clip(IMAGES[1].permute(1, 2, 0).numpy())
    wanted = CLIP_fx("other")(torch.from_numpy(small.copy()).permute(2, 0, 1).float())
    assert torch.allclose(network(IMAGES)[1:2], wanted)
    assert network.name == digest_of(path)[:8]
    monkeypatch.delitem(sys.modules, "cleanfid.clip_features")
