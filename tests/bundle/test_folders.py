"""What is replaced is replaced as a whole, whatever happens on the way."""

import errno
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


def test_a_place_that_is_taken_and_moved_aside_at_that_moment_is_tried_again(folder, monkeypatch):
    """Two others swap their folders in between: one has put its own there, the next has just moved that aside."""
    whole, met = os.replace, []

    def meeting(source, target):
        if target == folder and not met:
            met.append(source)
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        whole(source, target)

    monkeypatch.setattr(os, "replace", meeting)
    with replacing(folder) as new:
        (new / "text").write_text("second")
    assert met
    assert (folder / "text").read_text() == "second"
    assert list(folder.parent.iterdir()) == [folder]


def test_what_cannot_be_put_in_place_is_reported(folder, monkeypatch):
    whole = os.replace

    def refused(source, target):
        if target == folder and source.name == "new":
            raise OSError(errno.EACCES, "Permission denied")
        whole(source, target)

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(PermissionError), replacing(folder) as new:
        (new / "text").write_text("second")
    assert (folder / "text").read_text() == "first"
