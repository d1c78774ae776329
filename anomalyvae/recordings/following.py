"""What is written to a file or into a pipe becomes windows at once, the newest first.

A file may be ahead of its windows: there is much in it already, or whoever asks for windows is slow. Then it is read
through to its end, the newest window is given out, and those that were passed over follow whenever nothing new comes:
they are read again from the beginning, so memory does not grow with them.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from anomalyvae.recordings.live import LiveWindows
from anomalyvae.recordings.windows import Windows

CHUNK = 65536  # bytes at a time: what a pipe holds, and few enough to be dealt with at once
_LONGEST = 1 << 20  # bytes of a line
_POLL_S = 0.01  # how long a file that has not grown is left alone

Open = Callable[[bytes], LiveWindows]


class GrowingFile:
    """A file that is appended to."""

    def __init__(self, path: Path) -> None:
        self._path, self._file, self._place = path, path.open("rb", buffering=0), 0

    def __enter__(self) -> GrowingFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self) -> bytes | None:
        """Return what is new, ``CHUNK`` bytes at most; None if nothing will come any more."""
        data = self.read_again(self._place, CHUNK)
        self._place += len(data)
        return data

    def read_again(self, begin: int, size: int) -> bytes:
        """Return bytes that were read before."""
        return os.pread(self._file.fileno(), size, begin)

    def is_behind(self) -> bool:
        """Return whether more than ``CHUNK`` bytes are known to wait."""
        return os.fstat(self._file.fileno()).st_size - self._place > CHUNK

    def change(self) -> str:
        """Return what happened to the file, ``cut`` or ``replaced``; empty if nothing did."""
        here = os.fstat(self._file.fileno())
        if here.st_size < self._place:
            return "cut"
        try:
            there = os.stat(self._path)
        except FileNotFoundError:  # moved away, and the next one is not there yet
            return ""
        return "" if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino) else "replaced"

    def wait(self) -> None:
        """Wait a moment."""
        time.sleep(_POLL_S)


class Pipe:
    """A pipe, or whatever else has an end, with the methods of a file that grows."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self) -> bytes | None:
        """Return what is new, ``CHUNK`` bytes at most; None if nothing will come any more."""
        if not select.select([self._descriptor], [], [], 0)[0]:
            return b""
        return os.read(self._descriptor, CHUNK) or None

    def read_again(self, begin: int, size: int) -> bytes:
        """Return nothing: what has been read is gone."""
        return b""

    def is_behind(self) -> bool:
        """Return that it is not: nobody knows how much waits."""
        return False

    def change(self) -> str:
        """Return that nothing happened."""
        return ""

    def wait(self) -> None:
        """Wait until something comes, but not for long."""
        select.select([self._descriptor], [], [], 10 * _POLL_S)


Feed = GrowingFile | Pipe


class Following:
    """Windows of a feed, in the order in which they should be looked at.

    Parameters
    ----------
    feed : GrowingFile or Pipe
    open_ : callable
        Begins a recording with its header line.
    timeout_s : float, optional
        End when nothing has come for so long; by default never.
    tell : callable
        Told in a sentence of a backlog and of rows that are left out.

    Attributes
    ----------
    waiting : int
        Windows that were passed over and are still to come.
    timed_out : bool
        Whether it ended because nothing has come.
    change : str
        What happened to the file, if it ended by that.
    """

    def __init__(
        self, feed: Feed, open_: Open, *, timeout_s: float | None = None, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self._feed, self._lines, self._tell = feed, _Lines(open_), tell
        self._open, self._timeout_s = open_, timeout_s
        self._read = self._made = 0  # bytes, windows
        self._passed: tuple[int, list[Windows]] | None = None  # the first window passed over, and the newest, if any
        self._backlog: list[Iterator[Windows]] = []
        self._left_out = self._recordings = 0  # that were told of
        self.waiting, self.timed_out, self.change = 0, False, ""

    @property
    def live(self) -> LiveWindows | None:
        """What makes the windows, from the header on."""
        return self._lines.live

    def __iter__(self) -> Iterator[Windows]:
        heard_s = time.monotonic()
        while True:
            change = self._feed.change()  # asked before reading, so that nothing is missed that was written until then
            behind = self._feed.is_behind()
            data = None if change == "cut" else self._feed.read()
            if data:
                heard_s = time.monotonic()
                yield from self._new(data, behind)
            elif self._backlog and change != "cut":
                yield from self._old()
            elif change or data is None:
                self.change = change
                break
            elif self._timeout_s is not None and time.monotonic() - heard_s > self._timeout_s:
                self.timed_out = True
                break
            else:
                self._feed.wait()
        lost = self.waiting + (self._made - self._passed[0] if self._passed else 0)
        if lost:
            self._tell(f"{lost:,} windows that were passed over are lost: the file was {change}")
        yield from self._lines.end(whole=data is None and not change)

    def _new(self, data: bytes, behind: bool) -> Iterator[Windows]:
        """Yield windows of what is new, the newest first, or pass them over where more waited than this."""
        first = self._made
        slabs = list(self._lines.add(data))
        self._read += len(data)
        self._made += sum(map(len, slabs))
        self._tell_of_rows()
        if behind:
            self._passed = self._passed or (first, [])
            self._passed = self._passed[0], slabs[-1:] or self._passed[1]
        elif self._passed is None:
            yield from _newest_first(slabs)
        else:
            (begun, newest), self._passed = self._passed, None
            for slab in slabs[-1:] or newest:
                self._put_off(begun, self._made - 1)
                yield _part(slab, len(slab) - 1, len(slab))

    def _put_off(self, first: int, behind: int) -> None:
        """Remember windows, by their numbers, for when there is time."""
        if behind > first:
            self.waiting += behind - first
            self._backlog.append(self._again(first, behind, self._read))
            self._tell(f"{behind - first:,} windows are passed over for the newest, and follow when there is time")

    def _old(self) -> Iterator[Windows]:
        """Yield some of the windows that were passed over."""
        slab = next(self._backlog[0], None)
        if slab is None:
            self._backlog.pop(0)
        elif len(slab):
            self.waiting -= len(slab)
            yield slab

    def _again(self, first: int, behind: int, size: int) -> Iterator[Windows]:
        """Yield the windows of these numbers from what was read, none where they are others."""
        lines, made = _Lines(self._open), 0
        for begin in range(0, size, CHUNK):
            for slab in lines.add(self._feed.read_again(begin, min(CHUNK, size - begin))):
                yield _part(slab, max(first - made, 0), max(behind - made, 0))
                made += len(slab)
            if made >= behind:
                return

    def _tell_of_rows(self) -> None:
        live = self._lines.live
        if live is None:
            return
        if live.left_out and not self._left_out:
            self._tell(f"a row was left out, and so will be others like it: {live.complaint}")
        if live.recordings != self._recordings and self._recordings:
            self._tell(f"the clock jumped back: a new recording begins, {live.recording}")
        self._left_out, self._recordings = live.left_out, live.recordings


class _Lines:
    """Bytes become whole lines, the first of them a header, and the others windows."""

    def __init__(self, open_: Open) -> None:
        self._open, self._rest = open_, b""
        self.live: LiveWindows | None = None

    def add(self, data: bytes) -> Iterator[Windows]:
        """Take bytes; a line that is not whole yet waits for its end."""
        lines, newline, self._rest = (self._rest + data).rpartition(b"\n")
        if len(self._rest) > _LONGEST:
            raise ValueError(
                f"Got a line of more than {_LONGEST:,} bytes, expected lines of a CSV file. Check what is written."
            )
        if newline and self.live is None:
            header, _, lines = lines.partition(b"\n")
            self.live = self._open(header)
        if lines and self.live is not None:
            yield from self.live.add(lines + newline)

    def end(self, whole: bool) -> Iterator[Windows]:
        """Take it that nothing will come, and that the last line is whole although it has no end."""
        if whole and self._rest:
            yield from self.add(b"\n")
        if self.live is not None:
            yield from self.live.end()


def _newest_first(slabs: list[Windows]) -> Iterator[Windows]:
    if slabs:
        *before, last = slabs
        yield _part(last, len(last) - 1, len(last))
        yield from (slab for slab in (*before, _part(last, 0, len(last) - 1)) if len(slab))


def _part(windows: Windows, begin: int, end: int) -> Windows:
    return Windows(windows.rows.iloc[begin:end], windows.spans.iloc[begin:end], windows.units)
