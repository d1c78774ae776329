"""Third-party readers run guarded: in a child process, whose time and memory are limited for each file.

A damaged file can send such a reader in circles, or make it reserve any amount of memory. The child is then ended, and
the error names the file. A child reads many files, one after the other, so that its imports are paid once.

What a child sends is JSON and numbers, and is never executed. A child ends when its parent does.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from anomalyvae.recordings.child import received, unpacked

Reader = Callable[..., Iterator[Any]]  # yields logs, or tuples of a signal and numbers

TIMEOUT_S = 300.0
_BYTES_PER_S = 50_000  # even the slowest reader is several times as fast
_MOST_GIB = 4.0
_MOST_FILES = 200  # of one child: readers may leak
_START = (
    "import sys; _, scratch, *sys.path[:] = sys.argv; "
    "from anomalyvae.recordings import child; child.answer_requests(scratch)"
)


def guarded(
    reader: Reader,
    path: Path,
    wanted: list[str] | None = None,
    *,
    timeout_s: float | None = None,
    memory_gib: float | None = None,
    **options: Any,
) -> Iterator[Any]:
    """Yield what ``reader(path, wanted, **options)`` yields in a child process; its warnings and errors come along.

    Parameters
    ----------
    reader : callable
        A function of a module that the child can import.
    path, wanted, **options
        Its arguments: plain values.
    timeout_s : float, default=300
        The longest time without a next piece. The whole file may take as long, and a second more per 50 kB. With
        infinity, the reader runs in this process, without limits.
    memory_gib : float, optional
        The most memory of the reader, where the system can limit it (Linux). By default 4, or half of the machine's
        memory if that is less.

    Raises
    ------
    TimeoutError, ValueError
        The reader takes too long, needs too much memory, or its process dies.
    """
    timeout_s = TIMEOUT_S if timeout_s is None else timeout_s
    memory_gib = _memory_gib() if memory_gib is None else memory_gib
    if not timeout_s > 0 or not memory_gib > 0:
        raise ValueError(
            f"Got timeout_s={timeout_s!r} and memory_gib={memory_gib!r}, expected positive numbers. Correct them "
            "(--timeout-s, --memory-gib)."
        )
    if timeout_s == math.inf or getattr(sys, "frozen", False):  # a frozen program is no interpreter to start
        yield from reader(path, wanted, **options)
        return
    left_s = timeout_s + _size_of(path) / _BYTES_PER_S
    child, reusable = _taken(), False
    try:
        child.ask(reader, path, wanted, options, memory_gib)
        while True:
            began = time.monotonic()
            kind, content, numbers = child.receive(min(timeout_s, left_s))
            left_s -= time.monotonic() - began
            if kind == "piece":
                yield unpacked(content, numbers)
            elif kind == "warning":
                name, text = content
                warnings.warn(text, getattr(builtins, name), stacklevel=2)
            elif kind == "error":
                reusable = content["types"][0] != "MemoryError"
                raise _as_error(content, path, memory_gib)
            else:  # the end
                reusable = True
                return
    except _Dead:
        raise child.cause_of_death(path, timeout_s) from None
    finally:
        if reusable:
            child.release()
        else:
            child.end()


def end_readers(threads: Collection[int]) -> None:
    """End the children whose pieces these threads, by their identifiers, wait for."""
    with _lock:
        busy = [child for child in _busy if child.thread in threads]
    for child in busy:
        child.kill("its reader was stopped. Read it again")


def _memory_gib() -> float:
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):  # not on Windows
        return _MOST_GIB
    return min(_MOST_GIB, machine / 2)


def _size_of(path: Path) -> int:
    """The bytes of a file, or of the files in a folder."""
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


# --- children -------------------------------------------------------------------------------------------

_lock = threading.Lock()
_idle: list[_Child] = []
_busy: set[_Child] = set()


class _Dead(Exception):  # noqa: N818
    """A child has ended before its answer."""


class _Child:
    """A child process that reads files."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()  # that waits for its pieces
        self._files, self._killed = 0, ""
        self._scratch = tempfile.mkdtemp(prefix="anomalyvae-")  # a child that is killed leaves its temporary files
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", _START, self._scratch, *(place for place in sys.path if isinstance(place, str))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **threads, "TMPDIR": self._scratch, "TEMP": self._scratch, "TMP": self._scratch},
        )
        self._requests, self._answers = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        try:
            received(self._answers)  # imports are no file's fault: they are waited for
        except EOFError:
            self.end()
            raise RuntimeError(
                f"The process that reads files does not start: {sys.executable} cannot import anomalyvae.recordings. "
                "Pass timeout_s=inf (--timeout-s inf) to read in this process."
            ) from None
        except BaseException:
            self.end()
            raise

    def ask(
        self, reader: Reader, path: Path, wanted: list[str] | None, options: dict[str, Any], memory_gib: float
    ) -> None:
        """Let the child read a file."""
        self._files += 1
        request = {
            "module": reader.__module__,
            "reader": reader.__qualname__,
            "folder": os.getcwd(),
            "path": str(path),
            "wanted": wanted,
            "options": options,
            "memory": memory_gib * 2**30,
        }
        with contextlib.suppress(BrokenPipeError):  # it has died, as receive finds
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()

    def receive(self, timeout_s: float) -> tuple[str, Any, list[np.ndarray]]:
        """The child's next message; _Dead if there is none in time, or the child has died."""
        watch = threading.Timer(timeout_s, self.kill, args=["it takes too long"])
        watch.daemon = True
        watch.start()
        try:
            return received(self._answers)
        except EOFError:
            raise _Dead from None
        finally:
            watch.cancel()

    def kill(self, why: str) -> None:
        """End the process; the thread that waits for it notices."""
        self._killed = self._killed or why
        self._process.kill()

    def cause_of_death(self, path: Path, timeout_s: float) -> OSError | ValueError:
        """The error to raise when the child ends early."""
        code = self._process.wait()
        if self._killed == "it takes too long":
            return TimeoutError(
                f"{path} cannot be read: its reader has given nothing for {timeout_s:g} s, or takes far longer than "
                f"the file's size explains. The file is probably damaged: leave it out, or allow more time by "
                f"timeout_s (--timeout-s)."
            )
        if self._killed:
            return InterruptedError(f"{path} is not read to its end: {self._killed}.")
        return ValueError(
            f"{path} cannot be read: the process of its reader died ({_named(code)}). Copy or export the file again, "
            "or leave it out."
        )

    def release(self) -> None:
        """Keep the child for another file."""
        if self._files >= _MOST_FILES:
            self.end()
            return
        with _lock:
            _busy.discard(self)
            _idle.append(self)

    def end(self) -> None:
        """End the process and remove its temporary files."""
        with _lock:
            _busy.discard(self)
        self._process.kill()
        self._process.wait()
        for pipe in (self._requests, self._answers):
            with contextlib.suppress(OSError):
                pipe.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def lives(self) -> bool:
        return self._process.poll() is None


def _taken() -> _Child:
    """An idle child, or a new one."""
    while True:
        with _lock:
            child = _idle.pop() if _idle else None
        if child is None:
            child = _Child()
        elif not child.lives:
            child.end()
            continue
        child.thread = threading.get_ident()
        with _lock:
            _busy.add(child)
        return child


def _named(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"


@atexit.register
def _end_idle() -> None:
    while _idle:
        _idle.pop().end()


def _forget() -> None:
    """Children belong to the process that started them, not to its forks."""
    global _lock
    _lock = threading.Lock()
    _idle.clear()
    _busy.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _as_error(content: Any, path: Path, memory_gib: float) -> Exception:
    """The child's error, with the same type if it is built in, and the child's traceback as a note."""
    error: Exception
    if "MemoryError" in content["types"]:
        error = ValueError(
            f"{path} cannot be read: its reader needs more than {memory_gib:.3g} GiB of memory. The file, or its "
            "database, is probably damaged: leave it out, or allow more by memory_gib (--memory-gib)."
        )
    elif content["errno"] is not None:
        error = OSError(content["errno"], content["strerror"], content["filename"])
    else:
        named = [name for name in content["types"] if name not in ("Exception", "BaseException", "object")]
        kinds = [kind for name in named if isinstance(kind := getattr(builtins, name, None), type)]
        error = RuntimeError(f"{content['types'][0]}: {content['text']}")
        for kind in kinds:
            with contextlib.suppress(TypeError):  # such as that of UnicodeDecodeError, which takes more than a text
                error = kind(content["text"])
                break
    error.add_note(content["traceback"])
    return error
