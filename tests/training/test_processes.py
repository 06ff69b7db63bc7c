import fcntl
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from lightning_gan3d.config import ConfigError, UserError
from lightning_gan3d.training import processes
from lightning_gan3d.training.processes import (
    LOCK,
    Ranks,
    lock_holder,
    print_log,
    run_lock,
    run_processes,
)
from lightning_gan3d.training.signals import Interrupted, StopRequest

multiprocessing.set_forkserver_preload(["lightning_gan3d.training.fit"])


def local_rank():
    return int(os.environ["LOCAL_RANK"])


def dies():
    if local_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)
    return 0


def test_a_dead_process_ends_the_others(monkeypatch, caplog):
    monkeypatch.setattr(processes, "GRACE", 0.1)
    assert run_processes(dies, (), Ranks(2), method="forkserver") == 75
    assert caplog.messages == ["stopped: process 1 died; the same command continues"]


def fails(code):
    return code * local_rank()


def test_the_exit_code_of_one_process_is_that_of_all():
    assert run_processes(fails, (4,), Ranks(2), method="forkserver") == 4
    assert run_processes(fails, (0,), Ranks(2), method="forkserver") == 0


def rejects(errors):
    if local_rank() == 1:
        sys.stderr = errors.open("w")
        raise UserError("img1.png is broken")


def test_invalid_input_of_one_process_is_one_line(tmp_path):
    errors = tmp_path / "errors"
    assert run_processes(rejects, (errors,), Ranks(2), method="forkserver") == 2
    assert errors.read_text() == "error: img1.png is broken\n"


@pytest.mark.parametrize(
    ("rank", "printed"), [("0", "hello\nno memory\n"), ("1", "rank 1: no memory\n")]
)
def test_rank_0_prints_its_log_and_others_only_errors(monkeypatch, capsys, rank, printed):
    logger = logging.getLogger("lightning_gan3d")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setenv("RANK", rank)
    print_log()
    logging.getLogger("lightning_gan3d.training").info("hello")
    logging.getLogger("lightning_gan3d.training").error("no memory")
    print_log()
    assert len(logger.handlers) == 1
    assert capsys.readouterr().out == printed


def test_a_run_is_locked_until_the_process_ends(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, '');"
        "import fcntl; f = open(sys.argv[1], 'a+'); fcntl.flock(f, fcntl.LOCK_EX);"
        "f.write('pid 1 on node7'); f.flush(); print('ready', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run.lock")], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"ready\n"
        with pytest.raises(ConfigError, match="in use by pid 1 on node7"), run_lock(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with run_lock(tmp_path):
        pass


def waits(folder):
    (folder / f"rank{local_rank()}").write_text(str(os.getpid()))
    time.sleep(600)
    return 0


def launches(folder):
    with run_lock(folder) as lock:
        run_processes(waits, (folder,), Ranks(2), "forkserver", lock)


def until(condition):
    end = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_locked(folder):
    try:
        with run_lock(folder):
            return False
    except ConfigError:
        return True


def test_ranks_end_with_a_killed_launcher_and_hold_its_lock_until_then(tmp_path):
    code = (
        f"import pathlib, sys; sys.path[:0] = {sys.path}; import test_processes;"
        f"test_processes.launches(pathlib.Path({str(tmp_path)!r}))"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    until(lambda: len([f for f in tmp_path.glob("rank*") if f.read_text()]) == 2)
    pids = [int(file.read_text()) for file in tmp_path.glob("rank*")]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    launcher.kill()
    launcher.wait()
    assert is_locked(tmp_path)  # by stopped ranks, which could go on writing
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    until(lambda: not is_locked(tmp_path))


def test_a_second_ctrl_c_interrupts_and_handlers_are_restored():
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.reason == "SIGINT"
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    with StopRequest(at_once=True), pytest.raises(Interrupted):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_second_ctrl_c_kills_the_ranks():
    def interrupt():
        for _ in range(2):
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert run_processes(stubborn, (), Ranks(2), "fork") == 75
    thread.join()


def stubborn():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
    return 0


def test_a_closed_pipe_ends_no_run(monkeypatch):
    logger = logging.getLogger("lightning_gan3d")
    monkeypatch.setattr(logger, "handlers", [])
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        print_log()
        logger.info("a row")  # raises BrokenPipeError if the handler does not expect it
        with pytest.raises(BrokenPipeError):
            closed.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), write)


def test_ignored_signals_stay_ignored():
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with StopRequest():
            assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def test_other_threads_handle_no_signals():
    before, during = signal.getsignal(signal.SIGTERM), []

    def work():
        with StopRequest():
            during.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert during == [before]


def test_looking_for_the_holder_of_a_lock_does_not_hold_it(tmp_path):
    (tmp_path / LOCK).write_text("pid 1 on gone")
    (tmp_path / LOCK).chmod(0o444)  # a run of another user
    with (tmp_path / LOCK).open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # another one that looks
        assert lock_holder(tmp_path) == ""
        fcntl.flock(other, fcntl.LOCK_EX)
        assert lock_holder(tmp_path) == "pid 1 on gone"
