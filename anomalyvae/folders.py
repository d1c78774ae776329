"""Folders and files that are replaced as a whole or not at all."""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ABANDONED_S = 3600  # a half-made folder older than this belongs to a process that was killed


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, which takes the place of ``folder`` once it is complete.

    An error or a kill on the way leaves what was there before. (Between the two renames that swap the folders, a kill
    leaves it beside, under a hidden name; the next call puts it back.)

    Parameters
    ----------
    folder : Path

    Yields
    ------
    Path
        Empty, on the same file system.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}-*"):
        if not folder.exists():
            with suppress(OSError):
                os.replace(left / "old", folder)
        with suppress(FileNotFoundError):  # of another process that has just finished
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        new = scratch / "new"
        new.mkdir()
        yield new
        with suppress(FileNotFoundError):
            os.replace(folder, scratch / "old")
        _put(new, folder)
    finally:
        if not folder.exists():
            with suppress(OSError):
                os.replace(scratch / "old", folder)
        shutil.rmtree(scratch, ignore_errors=True)


def _put(new: Path, folder: Path) -> None:
    """Move a folder to a place, unless another process was faster: what it made is as good."""
    while True:
        try:
            return os.replace(new, folder)
        except OSError as error:
            if folder.is_dir():
                return None
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # else it was there, and has just been moved aside
                raise


@contextmanager
def replacing_file(file: Path) -> Iterator[Path]:
    """Give a file to write, which takes the place of ``file`` once it is complete; an error leaves what was there.

    Parameters
    ----------
    file : Path
        In a folder that exists.

    Yields
    ------
    Path
        Beside it, with the same suffix.
    """
    with tempfile.TemporaryDirectory(prefix=f".{file.name}-", dir=file.parent) as scratch:
        fresh = Path(scratch) / file.name
        yield fresh
        os.replace(fresh, file)
