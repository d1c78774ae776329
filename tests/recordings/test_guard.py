"""Third-party readers run in a child process: what they give comes through, and none of them can stop the caller."""

import math
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import warnings

import numpy as np
import pandas as pd
import pytest

from anomalyvae.recordings import Log, Signal, read_log, reading
from anomalyvae.recordings.guard import end_readers, guarded
from anomalyvae.recordings.reading import check_databases, read_pieces

# Readers, which the child imports from this file.


def logs(path, wanted, pieces=3, rows=4):
    print("a reader may print")
    for number in range(pieces):
        clock = np.arange(rows) + rows * number + 0.1
        signals = {
            "a\udcff": Signal("a\udcff", clock, clock / 3, "°C", "bus\n1"),
            "b": Signal("b", clock, np.where(clock > 2, np.nan, -0.0)),
            "c": Signal("c", np.array([np.inf]), np.array([5e-324])),
        }
        yield Log(path.stem, pd.Timestamp("2024-05-01T08:00:00.123456Z"), signals, {"text": "text such as 'ü'"})


def warns(path, wanted):
    warnings.warn(f"{path} is odd", stacklevel=1)
    warnings.warn("this is not for users", DeprecationWarning, stacklevel=1)
    yield from logs(path, wanted, 1)


def fails(path, wanted, kind="ValueError"):
    yield from logs(path, wanted, 1)
    if kind == "OSError":
        path.with_name("gone.blf").open()
    if kind == "Unicode":
        b"\xff".decode()
    raise {"ValueError": ValueError, "EOFError": EOFError, "Own": OwnError}[kind](f"{path} is broken")


class OwnError(Exception):
    pass


def hangs(path, wanted):
    yield from logs(path, wanted, 1)
    while True:
        pass


def endless(path, wanted):
    while True:
        time.sleep(0.05)
        yield from logs(path, wanted, 1)


def greedy(path, wanted, hidden=False):
    try:
        np.ones(1 << 33)
    except MemoryError as error:
        if hidden:
            raise ValueError("cannot be read") from error
        raise
    yield from logs(path, wanted, 1)


def dies(path, wanted):
    yield from logs(path, wanted, 1)
    os.abort()


def leaves_files(path, wanted):
    path.write_text(tempfile.mkdtemp())
    yield from hangs(path, wanted)


def number_of_process(path, wanted):
    yield Signal("x", np.empty(0), np.empty(0)), os.getpid(), math.nan, -0.0


def process_of(path):
    return next(iter(list(guarded(number_of_process, path))))[1]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "drive.blf"
    path.write_bytes(b"x" * 1000)
    return path


def test_pieces_come_through_bit_for_bit(file, capfd):
    here, there = list(logs(file, None)), list(guarded(logs, file))
    assert len(there) == len(here) == 3
    for ours, theirs in zip(here, there, strict=True):
        assert (theirs.recording, theirs.start, theirs.left_out) == (ours.recording, ours.start, ours.left_out)
        assert list(theirs.signals) == list(ours.signals)
        assert theirs["a\udcff"].time_s is theirs["b"].time_s  # shared, as in the reader
        for name, signal_ in ours.signals.items():
            found = theirs[name]
            assert (found.unit, found.source) == (signal_.unit, signal_.source)
            assert found.time_s.tobytes() == signal_.time_s.tobytes()
            assert found.values.tobytes() == signal_.values.tobytes()
            assert found.values.flags.writeable
    ((signal_, process, nan, zero),) = guarded(number_of_process, file)
    assert (signal_.name, math.isnan(nan), math.copysign(1, zero)) == ("x", True, -1.0)
    assert process != os.getpid()
    assert capfd.readouterr().out.count("a reader may print") == 1  # that of this process


def test_a_child_reads_many_files_also_after_an_error(file):
    first = process_of(file)
    with pytest.raises(ValueError, match="is broken"):
        list(guarded(fails, file))
    assert process_of(file) == first


def test_warnings_come_through(file):
    with pytest.warns(UserWarning, match="is odd") as caught:
        assert len(list(guarded(warns, file))) == 1
    assert [str(each.message) for each in caught] == [f"{file} is odd"]


@pytest.mark.parametrize(
    ("kind", "expected", "text"),
    [
        ("ValueError", ValueError, "drive.blf is broken"),
        ("EOFError", EOFError, "drive.blf is broken"),
        ("Own", RuntimeError, "OwnError: .*drive.blf is broken"),
        ("Unicode", ValueError, "can't decode byte 0xff"),
        ("OSError", FileNotFoundError, "No such file"),
    ],
)
def test_errors_come_through_with_their_type_text_and_traceback(file, kind, expected, text):
    with pytest.raises(expected, match=text) as caught:
        list(guarded(fails, file, kind=kind))
    assert "in fails" in caught.value.__notes__[0]
    if kind == "OSError":
        assert caught.value.filename == str(file.with_name("gone.blf"))


@pytest.mark.parametrize("reader", [hangs, endless])
def test_a_reader_without_an_end_is_ended(file, reader):
    with pytest.raises(TimeoutError, match=r"drive\.blf cannot be read: .* 0.5 s.* \(--timeout-s\)"):
        for _ in guarded(reader, file, timeout_s=0.5):
            pass
    assert len(list(guarded(logs, file))) == 3


def test_a_consumer_may_take_its_time(file):
    """What is done between pieces is not the reader's time."""
    for _ in guarded(logs, file, timeout_s=0.4):
        time.sleep(0.3)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits memory")
@pytest.mark.parametrize("hidden", [False, True])
def test_memory_is_limited(file, hidden):
    with pytest.raises(ValueError, match=r"drive\.blf cannot be read: its reader needs more than 1 GiB .*--memory-gib"):
        list(guarded(greedy, file, hidden=hidden, memory_gib=1))
    assert len(list(guarded(logs, file))) == 3


def test_a_reader_that_dies_is_named(file):
    with pytest.raises(ValueError, match=r"drive\.blf cannot be read: the process of its reader died \(SIGABRT\)"):
        list(guarded(dies, file))
    assert len(list(guarded(logs, file))) == 3


def test_what_a_killed_reader_leaves_is_removed(file):
    with pytest.raises(TimeoutError):
        list(guarded(leaves_files, file, timeout_s=0.5))
    assert file.read_text()
    assert not os.path.exists(file.read_text())


def test_a_thread_that_waits_can_be_freed(file):
    found = []

    def read():
        try:
            list(guarded(hangs, file))
        except InterruptedError as error:
            found.append(str(error))

    thread = threading.Thread(target=read)
    thread.start()
    while thread.is_alive():
        end_readers([thread.ident])
        thread.join(0.05)
    assert "drive.blf is not read to its end" in found[0]


def test_without_limits_the_reader_runs_here(file):
    ((_, process, *_),) = guarded(number_of_process, file, timeout_s=math.inf)
    assert process == os.getpid()
    with pytest.raises(ValueError, match=r"Got timeout_s=-1 .*positive"):
        next(guarded(logs, file, timeout_s=-1))


SCRIPT = """
import os, sys, time
sys.path.insert(0, {folder!r})
import test_guard
from pathlib import Path
from anomalyvae.recordings.guard import guarded
pieces = guarded(test_guard.{reader}, Path({file!r}))
next(pieces)
print(test_guard.process_of(Path({file!r})), flush=True)
"""


def started(file, reader, more=""):
    script = SCRIPT.format(folder=os.path.dirname(__file__), reader=reader, file=str(file)) + textwrap.dedent(more)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{process}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_children_end_with_their_parent_and_need_no_main_guard(file, kill, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with started(file, "hangs", "next(pieces)" if kill == signal.SIGINT else "time.sleep(60)") as parent:
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.send_signal(kill)
        parent.communicate(timeout=30)
    for _ in range(200):
        if not alive(child) and not [*temporary.iterdir()]:
            break
        time.sleep(0.05)
    assert not alive(child)
    assert not [*temporary.iterdir()]


def test_a_fork_starts_children_of_its_own(file):
    ours = process_of(file)
    read, write = os.pipe()
    fork = os.fork()
    if fork == 0:
        os.write(write, str(process_of(file)).encode())
        os._exit(0)
    os.waitpid(fork, 0)
    assert int(os.read(read, 100)) != ours
    assert process_of(file) == ours
    os.close(read)
    os.close(write)


# --- files ----------------------------------------------------------------------------------------------


def test_a_log_that_hangs_its_reader_is_named(file, monkeypatch):
    monkeypatch.setitem(reading.READERS, ".blf", hangs)
    with pytest.raises(TimeoutError, match=r"drive\.blf cannot be read"):
        read_log(file, timeout_s=0.5)


def test_a_database_that_takes_too_long_is_refused_once(tmp_path):
    database, log = tmp_path / "slow.dbc", tmp_path / "drive.log"
    # Each message is compared with all others.
    signals = "".join(f' SG_ s{i} : {i % 64}|1@1+ (1,0) [0|0] "" ECU\n' for i in range(300))
    text = "".join(f"BO_ {number} m{number}: 8 ECU\n{signals}\n" for number in range(120))
    database.write_text(f'VERSION ""\n\nNS_ :\n\nBS_:\n\nBU_: ECU\n\n{text}')
    log.write_text("(1700000000.000000) can0 001#0000000000000000\n")
    for _ in range(2):  # the second time without waiting
        with pytest.raises(TimeoutError, match=r"slow\.dbc cannot be read: .* 0\.2 s"):
            list(read_pieces(log, databases=database, timeout_s=0.2))
    with pytest.raises(TimeoutError, match=r"slow\.dbc"):
        check_databases({"databases": database, "timeout_s": 0.2})


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".mf4", ".blf", ".mcap"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, suffix):
    path = tmp_path / f"drive{suffix}"
    os.mkfifo(path)
    with pytest.raises(ValueError, match=rf"drive\{suffix} is a pipe, expected a file\. Store what comes from it"):
        read_log(path)


def test_a_device_is_refused(tmp_path):
    (tmp_path / "drive.csv").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"drive\.csv is a device, expected a file"):
        read_log(tmp_path / "drive.csv")
