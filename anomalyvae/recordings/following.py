"""Bytes that are written to a file or a pipe become windows at once, the newest first or in the order of time.

A file may be ahead of its windows: it is long already, or the consumer is slow. Then it is read to its end, and the
newest window comes first. The windows before it are a backlog: they follow while nothing new comes. They are read again
from the beginning of the file, so memory does not grow with them.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import select
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from anomalyvae.recordings.live_bus import Live
from anomalyvae.recordings.stamps import NoTimeColumnError
from anomalyvae.recordings.windows import Windows
from anomalyvae.tables.dialect import encoding_of, find_dialect
from anomalyvae.tables.layout import NoTableError

CHUNK = 65536  # bytes at a time: what a pipe holds, and few enough to be handled at once
_LONGEST = 1 << 20  # bytes of a line
_HEAD_LINES = 200  # a preamble is shorter
_MARK = 4  # bytes that show an encoding
_POLL_S = 0.01  # between two looks at a file
_KNOWN = 1024  # of the last bytes that were read, by which a file is known that has grown, and was not overwritten
_AGAIN = ("cut", "overwritten")  # after these changes, the same file is read from its beginning


class Feed:
    """Bytes that come through a pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self) -> bytes | None:
        """Return the new bytes, at most ``CHUNK``; None if nothing will follow."""
        if not select.select([self._descriptor], [], [], 0)[0]:
            return b""
        return os.read(self._descriptor, CHUNK) or None

    def read_again(self, begin: int, size: int) -> bytes:
        """Return bytes by their offset; none of a pipe, which is read once."""
        return b""

    def is_behind(self) -> bool:
        """Return whether more than ``CHUNK`` bytes are known to wait."""
        return False

    def change(self) -> str:
        """Return what happened to a file, ``cut``, ``overwritten`` or ``replaced``; otherwise an empty string."""
        return ""

    def wait(self) -> None:
        """Wait until something comes, or a moment."""
        select.select([self._descriptor], [], [], 10 * _POLL_S)


class GrowingFile(Feed):
    """Bytes that are appended to a file.

    Files that get its name later are opened at once, so that none is missed if the name soon passes to another.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._files = path, [path.open("rb", buffering=0)]  # this one, and those that have replaced it
        self._begin()

    def __enter__(self) -> GrowingFile:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def _begin(self) -> None:
        super().__init__(self._files[0].fileno())
        self._offset, self._last, self._changed = 0, b"", ""

    def read(self) -> bytes | None:
        """Return the new bytes, at most ``CHUNK``; they never end."""
        data = self.read_again(self._offset, CHUNK)
        self._offset, self._last = self._offset + len(data), (self._last + data)[-_KNOWN:]
        return data

    def read_again(self, begin: int, size: int) -> bytes:
        """Return bytes by their offset."""
        return os.pread(self._descriptor, size, begin)

    def read_so_far(self) -> tuple[int, str]:
        """Return how many bytes were read, and a digest of the last of them, by which `has` knows the file."""
        return self._offset, hashlib.sha256(self._last).hexdigest()

    def has(self, offset: int, digest: str) -> bool:
        """Return whether the bytes before an offset have a digest: then this is the file that was read until there."""
        begin = max(offset - _KNOWN, 0)
        known = self.read_again(begin, offset - begin)
        return len(known) == offset - begin and hashlib.sha256(known).hexdigest() == digest

    def is_behind(self) -> bool:
        """Return whether more than ``CHUNK`` bytes wait."""
        return os.fstat(self._descriptor).st_size - self._offset > CHUNK

    def change(self) -> str:
        """Return ``cut`` if the file has become shorter, ``replaced`` if another has its name.

        ``overwritten`` if the last bytes that were read are others now: it was cut, and has grown beyond them since.
        """
        self._changed = ""
        with suppress(FileNotFoundError):  # moved away, and the next one is not there yet
            if not os.path.samestat(os.fstat(self._files[-1].fileno()), os.stat(self._path)):
                self._files.append(self._path.open("rb", buffering=0))
        if os.fstat(self._descriptor).st_size < self._offset:
            self._changed = "cut"
        elif self.read_again(self._offset - len(self._last), len(self._last)) != self._last:
            self._changed = "overwritten"
        elif len(self._files) > 1:
            self._changed = "replaced"
        return self._changed

    def begin_again(self) -> None:
        """Go to the beginning of the file, or of the one that has replaced it, as `change` said last."""
        if self._changed not in _AGAIN:
            self._files.pop(0).close()
        self._begin()

    def wait(self) -> None:
        """Wait a moment."""
        time.sleep(_POLL_S)


class Following:
    """Windows of a feed, the newest first or, without ``newest_first``, in the order of time.

    ``open_`` begins a recording with its first lines; ``notify`` receives a sentence about a backlog, or about rows
    that are left out. It ends when nothing has come for ``timeout_s`` (``timed_out``), or because of what happened to
    the file (``change``). The number of windows in the backlog is ``waiting``, and ``left_out`` is 1 if the last line
    was left out because it had no end. Lines in another ``encoding`` than UTF-8 become UTF-8.
    """

    def __init__(
        self,
        feed: Feed,
        open_: Callable[[bytes], Live],
        *,
        timeout_s: float | None = None,
        notify: Callable[[str], None] = lambda _: None,
        encoding: str | None = None,
        newest_first: bool = True,
    ) -> None:
        self._newest_first = newest_first
        self._feed, self._lines, self._notify = feed, _Lines(self._opened, encoding), notify
        self._encoding = encoding
        self._open, self._timeout_s = open_, timeout_s
        self._read = 0  # bytes
        self._made = self._done = 0  # windows so far, and those that were yielded or are in the backlog
        self._held: list[Windows] = []  # windows that are neither; only the newest ones while the feed is behind
        self._backlog: list[Iterator[Windows]] = []
        self._left_out = self._recordings = self._averaged = 0  # as last reported
        self._infinite: str | None = None
        self.waiting, self.left_out, self.timed_out, self.change = 0, 0, False, ""

    def _opened(self, head: bytes) -> Live:
        live = self._open(head)
        self._recordings = live.recordings  # so that one that begins in the same bytes is reported
        return live

    @property
    def live(self) -> Live | None:
        """The source of the windows; None before the header has come."""
        return self._lines.live

    def __iter__(self) -> Iterator[Windows]:
        heard_s = time.monotonic()
        while True:
            change = self._feed.change()  # before reading, so that everything written until then is read
            behind = self._feed.is_behind()
            data = None if change in _AGAIN else self._feed.read()
            if data:
                yield from self._new(data, behind)
                heard_s = time.monotonic()  # the time that a consumer takes is no silence of the file
            elif self._backlog and change not in _AGAIN:
                yield from self._old()
            elif change or data is None:
                self.change = change
                break
            elif self._timeout_s is not None and time.monotonic() - heard_s > self._timeout_s:
                self.timed_out = True
                break
            else:
                self._feed.wait()
        lost = self.waiting + self._made - self._done
        if lost:
            self._notify(f"{lost:,} windows of the backlog are lost: the file was {change}")
        complete = data is None and not change
        if not complete and self._lines.is_within:
            self.left_out = 1
            self._notify("the last line is left out: it has no end, so more of it may have been to come")
        yield from self._lines.end(complete, change)

    def _new(self, data: bytes, behind: bool) -> Iterator[Windows]:
        """Yield the windows of new bytes, the newest first; while more bytes wait, only hold the newest."""
        batches = list(self._lines.add(data))
        self._read += len(data)
        self._made += sum(map(len, batches))
        self._report()
        if not self._newest_first:
            self._done = self._made
            yield from batches
            return
        self._held += batches
        if behind or not self._held:
            self._held = self._held[-1:]
            return
        (*before, last), self._held = self._held, []
        held, self._done = self._made - self._done, self._made
        if held > sum(map(len, before)) + len(last):  # some were not held
            before, last = [], last.part(slice(-1, None))
            self._postpone(self._made - held, self._made - 1)
        yield last.part(slice(-1, None))
        yield from (batch for batch in (*before, last.part(slice(-1))) if len(batch))

    def _postpone(self, first: int, end: int) -> None:
        """Add windows, by their numbers, to the backlog."""
        if end > first:
            self.waiting += end - first
            self._backlog.append(self._again(first, end, self._read))
            self._notify(f"{end - first:,} windows are skipped for the newest, and follow when there is time")

    def _old(self) -> Iterator[Windows]:
        """Yield some windows of the backlog."""
        batch = next(self._backlog[0], None)
        if batch is None:
            self._backlog.pop(0)
        elif len(batch):
            self.waiting -= len(batch)
            yield batch

    def _again(self, first: int, end: int, size: int) -> Iterator[Windows]:
        """Yield the windows with these numbers from the bytes read so far, and an empty batch for each other."""
        lines, made = _Lines(self._open, self._encoding), 0
        for begin in range(0, size, CHUNK):
            for batch in lines.add(self._feed.read_again(begin, min(CHUNK, size - begin))):
                yield batch.part(slice(max(first - made, 0), max(end - made, 0)))
                made += len(batch)
            if made >= end:
                return

    def _report(self) -> None:
        """Report the first row that is left out, and a new recording."""
        live = self._lines.live
        if live is None:
            return
        if live.left_out and not self._left_out:
            self._notify(f"a row was left out, and so will be others like it: {live.complaint}")
        if live.averaged and not self._averaged:
            self._notify(f"rows with the same stamp and different values become their mean: {live.recording}")
        infinite = live.coverage.infinite()
        if infinite and not self._infinite:
            self._notify(f"{live.recording} {infinite}")
        if live.recordings != self._recordings:
            self._notify(f"the clock jumped back: a new recording begins, {live.recording}")
        self._left_out, self._recordings, self._infinite = live.left_out, live.recordings, infinite
        self._averaged = live.averaged


class _Lines:
    """Splits bytes into complete lines; the first show how they are written, the others become windows."""

    def __init__(self, open_: Callable[[bytes], Live], encoding: str | None) -> None:
        self._open, self._encoding = open_, encoding
        self._rest = self._head = self._first = b""
        self._torn = False  # the last byte was CR, and LF may follow
        self._decoder: codecs.IncrementalDecoder | None = None
        self.live: Live | None = None

    @property
    def is_within(self) -> bool:
        """Whether a line waits for its end."""
        return bool((self._rest + self._first).strip(b" \t\r\0"))

    def add(self, data: bytes) -> Iterator[Windows]:
        """Take bytes; an incomplete line waits for its end."""
        data = self._as_utf8(data)
        if self._torn and data.startswith(b"\n"):  # of CR LF
            data = data[1:]
        self._torn = data.endswith(b"\r") if data else self._torn
        text = (self._rest + data).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines, newline, self._rest = text.rpartition(b"\n")
        if len(self._rest) > _LONGEST:
            raise ValueError(
                f"A line has more than {_LONGEST:,} bytes, which is not CSV. Check what is written to the file."
            )
        lines += newline
        if newline and self.live is None:
            self._head, lines = self._head + lines, b""
            try:
                self.live = self._open(self._head)
            except (NoTableError, NoTimeColumnError):
                if _has_rows(self._head):
                    raise
        if newline and self.live is not None:
            yield from self.live.add(lines)

    def _as_utf8(self, data: bytes) -> bytes:
        """Return bytes as UTF-8, from the encoding that the first of them show."""
        if self._decoder is None:
            data, self._first = self._first + data, b""
            if len(data) < _MARK:
                self._first = data
                return b""
            self._codec, mark = encoding_of(data, self._encoding, "the file")
            self._decoder, data = codecs.getincrementaldecoder(self._codec)("replace"), data[mark:]
        if self._codec == "utf-8":
            return data
        return self._decoder.decode(data).encode()

    def end(self, complete: bool, change: str = "") -> Iterator[Windows]:
        """Yield the last windows; ``complete`` says that the last line is complete although it has no end."""
        self._rest += self._first
        if complete and self._rest:
            self._rest += b"\n"
            yield from self.add(b"")
        if self.live is None and self._head and not change:
            self._open(self._head)  # raises what is wrong with it
        if self.live is not None:
            yield from self.live.end()


def _has_rows(head: bytes) -> bool:
    """Return whether the first lines hold values, so that a header must have been among them, or are many."""
    if head.count(b"\n") > _HEAD_LINES:
        return True
    try:
        return find_dialect(head, "").complete
    except NoTableError:
        return False
