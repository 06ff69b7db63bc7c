import pytest

from lightning_gan3d.progress import counting, spinner, track


@pytest.mark.parametrize("terminal", [True, False])
def test_bars_show_what_is_done_on_a_terminal_only(capsys, monkeypatch, terminal):
    monkeypatch.setenv("TTY_COMPATIBLE", str(int(terminal)))
    assert list(track(iter("abc"), "letters", 3)) == ["a", "b", "c"]
    with counting("images", 600, start=100) as show:
        show(350)
        print("a line of the log")
    shown = capsys.readouterr()
    assert ("letters" in shown.err, "3/3" in shown.err) == (terminal, terminal)
    assert ("images" in shown.err, "350/600" in shown.err) == (terminal, terminal)
    assert shown.out == "a line of the log\n", "stdout is not a terminal"


def test_a_bar_can_be_switched_off(capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert list(track([1, 2], "numbers", enabled=False)) == [1, 2]
    assert capsys.readouterr().err == ""


def test_bars_may_contain_bars_and_end_with_an_error(capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")

    def fail():
        for i in track(range(2), "outer"):
            for j in track(range(2), "inner"):
                assert i * j == 0

    with pytest.raises(AssertionError):
        fail()
    assert "\x1b[?25h" in capsys.readouterr().err, "the cursor is shown again"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_spinner_is_shown_on_a_terminal_only(capsys, monkeypatch, terminal):
    monkeypatch.setenv("TTY_COMPATIBLE", str(int(terminal)))
    with spinner("loading"):
        pass
    shown = capsys.readouterr()
    assert ("loading" in shown.err) == terminal
    assert shown.out == ""
