"""What is replaced is replaced as a whole, whatever happens on the way."""

import os
import signal
import subprocess
import sys

import pytest

from anomalyvae.folders import replacing


@pytest.fixture
def folder(tmp_path):
    with replacing(tmp_path / "result") as new:
        (new / "text").write_text("first")
    return tmp_path / "result"


def replace_by_half(folder):
    with replacing(folder) as new:
        (new / "text").write_text("half")
        raise ZeroDivisionError


def test_the_new_takes_the_place_of_the_old(folder):
    with replacing(folder) as new:
        (new / "other").write_text("second")
        assert (folder / "text").read_text() == "first"
    assert [path.name for path in folder.iterdir()] == ["other"]
    assert list(folder.parent.iterdir()) == [folder]


def test_an_error_on_the_way_leaves_the_old(folder):
    with pytest.raises(ZeroDivisionError):
        replace_by_half(folder)
    assert (folder / "text").read_text() == "first"
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("renames", [0, 1])
def test_a_kill_at_any_moment_loses_nothing(folder, renames):
    code = f"""
import os, signal
from pathlib import Path
from anomalyvae.folders import replacing
rename, done = os.replace, []
def counted(a, b):
    if len(done) == {renames}:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(rename(a, b))
os.replace = counted
with replacing(Path({str(folder)!r})) as new:
    (new / "text").write_text("second")
"""
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert folder.exists() == (renames == 0)
    with pytest.raises(ZeroDivisionError):
        replace_by_half(folder)  # whatever becomes of the next call, it puts back what had been moved
    assert (folder / "text").read_text() == "first"


def test_what_a_killed_process_left_is_cleared_in_time(folder):
    left = folder.parent / ".result-left"
    (left / "new").mkdir(parents=True)
    with replacing(folder):
        assert left.exists()  # it may be another process at work
    os.utime(left, (0, 0))
    with replacing(folder):
        assert not left.exists()
