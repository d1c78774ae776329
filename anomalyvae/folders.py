"""Write folders and files atomically: they are replaced as a whole or not at all."""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ABANDONED_S = 3600  # a scratch folder older than this belongs to a process that was killed


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder, which replaces ``folder`` at the end of the ``with`` block.

    An error or a kill leaves the old folder. (A kill between the two renames that swap them leaves it beside, under a
    hidden name; the next call restores it.)

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
        with suppress(FileNotFoundError):  # another process has just removed it
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
    """Move a folder to its place, unless another process has just put its own there."""
    while True:
        try:
            return os.replace(new, folder)
        except OSError as error:
            if folder.is_dir():
                return None
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # else another process has just moved it aside
                raise


@contextmanager
def replacing_file(file: Path) -> Iterator[Path]:
    """Yield the path of a new file, which replaces ``file`` at the end of the ``with`` block; its folder must exist."""
    with tempfile.TemporaryDirectory(prefix=f".{file.name}-", dir=file.parent) as scratch:
        fresh = Path(scratch) / file.name
        yield fresh
        os.replace(fresh, file)
