from lightning_gan3d.metrics.distribution.network_measures import Found, summarised

SETS = [
    Found("quality.kid_whole", "kernel_whole", value, 50, "cubic kernel", 0.1, "", interval)
    for value, interval in ((1.0, "95 % interval 0.8 to 1.2"), (3.0, "95 % interval 2.8 to 3.2"))
]


def test_one_set_has_its_own_interval():
    one = summarised("quality.kid_whole", SETS[:1], "no truncation")
    assert one.note == ("cubic kernel; 95 % interval 0.8 to 1.2; one set of latents; no truncation")
    assert one.spread == 0.1


def test_several_sets_have_one_interval_that_of_their_mean():
    both = summarised("quality.kid_whole", SETS, "no truncation")
    assert both.value == 2.0
    assert both.note.count("interval") == 1
    assert "95 % interval of the mean -10.706 to 14.706 (Student)" in both.note
