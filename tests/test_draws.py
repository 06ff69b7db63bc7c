import torch

from lightning_gan3d.draws import Draws


def test_the_same_key_gives_the_same_numbers_in_any_order():
    a, b = Draws(3, step=7, microbatch=2), Draws(3, step=7, microbatch=2)
    first = a.normal("z", (4, 8))
    b.uniform("jitter", (100,))
    assert torch.equal(first, b.normal("z", (4, 8)))


def test_every_part_of_the_key_matters():
    base = Draws(0).normal("z", (16,))
    others = [
        Draws(1).normal("z", (16,)),
        Draws(0, step=1).normal("z", (16,)),
        Draws(0, microbatch=1).normal("z", (16,)),
        Draws(0).scope("G").normal("z", (16,)),
        Draws(0).normal("y", (16,)),
        Draws(0).at(1, 1).normal("z", (16,)),
    ]
    seen = [base, *others]
    for i in range(len(seen)):
        for j in range(i):
            assert not torch.equal(seen[i], seen[j]), (i, j)


def test_neighbouring_keys_are_uncorrelated():
    rows = torch.stack([Draws(0, step=s).normal("z", (2000,)) for s in range(20)])
    correlation = torch.corrcoef(rows) - torch.eye(20)
    assert correlation.abs().max() < 0.11  # five standard deviations of 1/sqrt(2000)


def test_global_random_state_is_neither_read_nor_changed():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a = Draws(5).permutation("order", 10)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(a, Draws(5).permutation("order", 10))
    assert sorted(a.tolist()) == list(range(10))


def test_integers_cover_their_range():
    drawn = Draws(0).integers("label", 5, (500,))
    assert set(drawn.tolist()) == {0, 1, 2, 3, 4}
