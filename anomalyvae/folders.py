"""Write folders and files atomically: they are replaced as a whole or not at all, and then they are on the disk.

A folder changes places with its successor in one step, where the system can do that. Elsewhere two renames are needed;
what a kill between them leaves is put back by the next call, reading or writing.
"""

import ctypes
import errno
import glob
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

_ABANDONED_S = 3600  # a scratch folder older than this belongs to a process that was killed
_LONGEST = 200  # bytes of a name; a longer one is shortened for the scratch folder, whose name has a limit, too
_EXCHANGE, _HERE = 2, -100  # RENAME_EXCHANGE and AT_FDCWD of Linux
_TRIES, _PAUSE_S = 100, 0.01
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # only writing fails so
_REMEDIES = {
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "Check the path.",
    errno.EISDIR: "Name a file.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EACCES: "Change its permissions, or choose another place.",
    errno.EPERM: "Change its permissions, or choose another place.",
    errno.EROFS: "Choose another place.",
    errno.ENOSPC: "Make room on this disk, and try again.",
    errno.EDQUOT: "Make room, or raise the quota, and try again.",
    errno.EFBIG: "Choose another disk, or raise the limit (ulimit -f).",
    errno.EIO: "Check the disk, and try again.",
    errno.ESTALE: "Check the network drive, and try again.",
    errno.EMFILE: "Raise the limit (ulimit -n), and try again.",
}

Read = TypeVar("Read")


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a new, empty folder, which replaces ``folder`` at the end of the ``with`` block.

    An error or a kill leaves the old folder. If two processes replace it at the same time, each result is whole, and
    the later one stays. A link stays: the folder that it points to is replaced.
    """
    folder = Path(os.path.realpath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _scratch(folder) as scratch:
        new = scratch / "new"
        new.mkdir()
        yield new
        for root, _, names in os.walk(new):
            for path in (*(os.path.join(root, name) for name in names), root):
                _sync(path)
        _put(new, folder, scratch)
        _sync(folder.parent)


@contextmanager
def replacing_file(file: Path) -> Iterator[Path]:
    """Yield the path of a new file, which replaces ``file`` at the end of the ``with`` block; its folder must exist."""
    file = Path(os.path.realpath(file))
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder, expected the name of a file. Add a name.")
    with _scratch(file) as scratch:
        fresh = scratch / file.name
        yield fresh
        put_file(fresh, file)


def write_text(file: Path, text: str, errors: str = "strict") -> None:
    """Write a text file in UTF-8, as `replacing_file` does."""
    with replacing_file(file) as fresh:
        fresh.write_text(text, encoding="utf-8", errors=errors)


def put_file(fresh: Path, file: Path) -> None:
    """Move a complete file to its place, on the same file system, in one step; then it is on the disk."""
    _sync(fresh)
    os.replace(fresh, file)
    _sync(file.parent)


@contextmanager
def naming(target: Path) -> Iterator[None]:
    """Let an error of the disk name ``target``, where it names its scratch file, or no file."""
    try:
        yield
    except OSError as error:
        path = error.filename if error.filename2 is None else error.filename2
        parts = Path(os.fsdecode(path)).parts if isinstance(path, str | bytes | os.PathLike) else ()
        if (error.errno in _FULL and not parts) or any(is_scratch(Path(part)) for part in parts):
            error.filename, error.filename2, error.strerror = str(target), None, os.strerror(error.errno or 0)
        raise


def in_words(error: Exception) -> str:
    """An error in words; one of the system with what, where, and what to do."""
    if not isinstance(error, OSError) or error.errno is None or not error.strerror:
        return str(error)
    path = error.filename if error.filename2 is None else error.filename2
    said = error.strerror if path is None else f"{path}: {error.strerror}"
    remedy = _REMEDIES.get(error.errno)
    return said if remedy is None else f"{said}. {remedy}"


def refuse_unwritable(target: Path) -> None:
    """Refuse, before any work, a file or folder that could not be put in its place.

    Raises
    ------
    PermissionError
        If it cannot be written there, or is a mounted disk, which is not replaced as a whole.
    NotADirectoryError
        If a file has the name of a folder on its path.
    """
    if os.path.ismount(target):
        raise PermissionError(f"{target} is a mounted disk, expected a folder that can be replaced. Name one in it.")
    parent = next(folder for folder in Path(os.path.realpath(target)).parents if folder.exists())
    if not parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(parent))
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{target} cannot be written: {parent} is read-only. {_REMEDIES[errno.EACCES]}")


@contextmanager
def locked(folder: Path, busy: str = "") -> Iterator[None]:
    """Lock a folder against other processes of this machine; the lock of a killed process is gone.

    Where another process has the lock, wait for it; with ``busy``, raise BlockingIOError with this message instead.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError as error:
            raise BlockingIOError(busy) from error
        yield
    finally:
        os.close(handle)


def is_scratch(path: Path) -> bool:
    """Whether a path is what `replacing` or `replacing_file` works in, or what a kill left of it."""
    return path.name.startswith(".") and path.name.endswith(_SUFFIX)


def read_whole(folder: Path, read: Callable[[Path], Read]) -> Read:
    """Call ``read(folder)``, and again if the folder was replaced meanwhile.

    ``read`` must raise an OSError or a ValueError if it meets files of two versions.
    """
    for _ in range(_TRIES):
        before = _identity(folder)
        try:
            return read(folder)
        except (OSError, ValueError):
            aside = _set_aside(folder)
            if _identity(folder) != before:  # looked at last: a writer may just have completed, with nothing aside
                continue
            if before is not None or not aside:
                raise
            time.sleep(_PAUSE_S)
            _restore(folder)  # unless it was replaced in this time, its writer was killed
    return read(folder)


_SUFFIX = ".scratch"


def _prefix(target: Path) -> str:
    name = os.fsencode(target.name)
    return f".{target.name if len(name) <= _LONGEST else hashlib.sha256(name).hexdigest()}-"


def _left(target: Path) -> list[Path]:
    """The scratch folders of a target: of other processes at work, or of killed ones."""
    return list(target.parent.glob(f"{glob.escape(_prefix(target))}*{_SUFFIX}"))


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    _restore(target)
    for left in _left(target):
        with suppress(OSError):  # another process has just removed it
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)
    with naming(target):
        scratch = Path(tempfile.mkdtemp(prefix=_prefix(target), suffix=_SUFFIX, dir=target.parent))
        try:
            yield scratch
        finally:
            _restore(target)
            shutil.rmtree(scratch, ignore_errors=True)


def _put(new: Path, folder: Path, scratch: Path) -> None:
    """Move a folder to its place; what was there is in the scratch folder then."""
    for number in range(_TRIES):
        try:
            return os.rename(new, folder)  # there is none, or an empty one
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if _exchange(new, folder):
            return None
        with suppress(FileNotFoundError):  # another process has just moved it aside
            os.rename(folder, scratch / f"old{number}")
    raise OSError(errno.EBUSY, "Other processes keep replacing it. Try again", str(folder))


def _exchange(a: Path, b: Path) -> bool:
    """Let two paths change places in one step; False where the system cannot do that."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # another system than Linux
        return False
    return bool(rename(_HERE, os.fsencode(a), _HERE, os.fsencode(b), _EXCHANGE) == 0)


def _set_aside(folder: Path) -> list[Path]:
    """A folder that is between the two renames of `_put`."""
    lefts = _left(Path(os.path.realpath(folder)))
    # Unlike Path.glob, glob.glob passes over a scratch folder that its writer removes at this moment.
    return [left / old for left in lefts for old in glob.glob("old*", root_dir=left)]


def _restore(folder: Path) -> None:
    """Put back a folder that was moved aside by a process that was killed before it moved the new one in."""
    if not folder.exists():
        for old in _set_aside(folder):
            with suppress(OSError):
                return os.rename(old, os.path.realpath(folder))
    return None


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a folder from the next one at its place; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns


def _sync(path: str | os.PathLike[str]) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # not every system opens folders
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # not every file system can
            raise
    finally:
        os.close(handle)


def refuse_irregular(path: Path) -> os.stat_result:
    """Return the state of a file; ValueError for a pipe, a socket or a device, which may block or never end."""
    state = path.stat()
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    kind = kinds.get(stat.S_IFMT(state.st_mode))
    if kind is not None:
        raise ValueError(f"{path} is {kind}, expected a file. Store what comes from it in a file.")
    return state


def confined(folder: Path, name: str) -> Path:
    """The file of this name in a resolved folder; PermissionError if it is outside."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise PermissionError(f"Got the file {name!r}, expected one in {folder}. Nothing else is read.")
    return path
