import torch

from lightning_gan3d.images import to_float, to_uint8


def test_uint8_round_trip_is_exact():
    stored = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(stored)), stored)


def test_uint8_clips_at_both_ends():
    assert to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]
    assert to_uint8(torch.tensor([-3.0, -1.0, 0.0, 1.0, 9.0])).tolist() == [0, 0, 128, 255, 255]


def test_conversion_does_not_modify_its_argument():
    image = torch.tensor([-0.5, 2.0])
    to_uint8(image)
    assert image.tolist() == [-0.5, 2.0]
