import torch
from metric_views import figure_labels, figures

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.images import Images
from lightning_gan3d.metrics.sources import GeneratorSource, ViewSource


class Recorder:
    """Stands in for a generator: records its arguments."""

    def __init__(self):
        self.z = self.label = self.cameras = None
        self.grad = None

    def views(self, z, label, cameras):
        self.z, self.label, self.cameras = z, label, cameras
        self.grad = torch.is_grad_enabled()
        image = torch.zeros(len(cameras.cam2world), 3, 4, 4)
        return Images(image, image)


def source(seed=0):
    return GeneratorSource(Recorder(), 8, figure_labels(50), seed)


def test_an_item_does_not_depend_on_those_around_it():
    alone, among = torch.tensor([7]), torch.tensor([3, 7, 1000])
    s = source()
    assert torch.equal(s.latents(alone), s.latents(among)[1:2])
    assert torch.equal(s.label(alone), s.label(among)[1:2])
    torch.manual_seed(5)
    assert torch.equal(s.latents(among), source().latents(among))
    assert not torch.equal(s.latents(among), source(seed=1).latents(among))


def test_items_differ_and_their_latents_are_normal():
    z = source().latents(torch.arange(500))
    assert len(z.unique(dim=0)) == 500
    assert abs(float(z.mean())) < 0.06
    assert abs(float(z.std()) - 1) < 0.05
    assert len(source().label(torch.arange(500)).unique(dim=0)) > 45


def test_the_label_stays_while_the_camera_moves():
    s, items = source(), torch.tensor([2, 5])
    cameras = s.base(items).rotate_y(torch.tensor([-0.3, 0.0, 0.3]))
    s.views(items, cameras)
    generator = s.generator
    assert torch.equal(generator.label, s.label(items))
    assert torch.equal(generator.z, s.latents(items))
    assert torch.equal(generator.cameras.cam2world, cameras.cam2world)
    assert generator.grad is False


def test_the_base_camera_is_that_of_the_label():
    s, items = source(), torch.tensor([2, 5])
    assert torch.equal(s.base(items).to_label(), s.label(items))


def test_objects_are_rendered_from_their_cameras_in_order():
    s, items = figures(16), torch.tensor([3, 4])
    cameras = s.base(items).rotate_y(torch.tensor([0.0, 0.7]))
    rendered = s.views(items, cameras)
    for i, item in enumerate([3, 3, 4, 4]):
        one = s.render(torch.tensor([item]), cameras.select(slice(i, i + 1)), 16)
        assert torch.allclose(rendered.image[i], one.image[0], atol=1e-6)
        assert torch.allclose(rendered.depth[i], one.depth[0], atol=1e-5)
    assert isinstance(s, ViewSource)
    assert isinstance(s.base(items), Cameras)
