"""CAN logs: BLF and ASC (Vector), TRC (PEAK) and candump files, read with python-can and decoded with databases.

Rules:

- **Time.** Zero is the start in the file's header (UTC if it has no zone); otherwise the first frame, if its stamp is
  a unix time; otherwise the zero of the file's own stamps.
- **Order.** Frames that are up to a second late are sorted in. If the clock jumps back further, the file is refused:
  sorting would mix two recordings.
- **Frames.** Error frames and remote frames hold no data and are skipped. A last line without its end may be cut and is
  left out.
- :mod:`anomalyvae.recordings.bus.decode` says what a frame means.
"""

from __future__ import annotations

import logging
import mmap
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anomalyvae.options import Databases
from anomalyvae.recordings.bus.decode import FRAME, Decoder
from anomalyvae.recordings.bus.messages import missing_extra
from anomalyvae.recordings.log import Log
from anomalyvae.recordings.stamps import LATE_S, UNIX_FROM_S

_ROWS = 1 << 15  # frames of a piece
_LONGEST_LINE = 1 << 16
_BLF_HEAD = 144  # bytes
_CONTAINER, _DEFLATED = 10, 2  # in BLF: an object that holds others, and its compression
_CANDUMP = re.compile(r"\s*\(\d+(\.\d+)?\)\s+\S+\s+[0-9A-Fa-f]{1,8}#")


def can_pieces(path: Path, wanted: list[str] | None = None, *, databases: Databases = None) -> Iterator[Log]:
    """Read a CAN log in pieces of about 32,000 frames."""
    decoder = Decoder(databases, wanted, str(path))
    decoder.check([])
    with _opened(path) as (start, chunks):
        for frames in in_order(chunks, str(path)):
            yield Log(path.stem, start, decoder.completed(decoder.decode(frames)), decoder.left_out)
    decoder.finish(others=False)


def in_order(chunks: Iterable[np.ndarray], source: str) -> Iterator[np.ndarray]:
    """Sort late rows, of arrays with a field ``time_s``, into those before; rows with the same stamp stay together.

    Raises ValueError if the clock jumps back by more than a second; ``source`` names the file in it.
    """
    newest, passed = -np.inf, 0
    waiting: np.ndarray | None = None
    for chunk in chunks:
        stamps = chunk["time_s"]
        if not np.isfinite(stamps).all():
            raise ValueError(f"{source} has a time stamp that is not finite. Repair the file, or record it again.")
        reach = np.maximum.accumulate(np.concatenate(([newest], stamps)))
        late = np.flatnonzero(reach[1:] - stamps > LATE_S)
        if len(late):
            raise ValueError(
                f"The clock in {source} jumps back by {reach[late[0] + 1] - stamps[late[0]]:g} s after "
                f"{passed + late[0]} rows; a recording is in order of time. Split the file there."
            )
        newest, passed = reach[-1], passed + len(chunk)
        rows = chunk if waiting is None else np.concatenate((waiting, chunk))
        if (rows["time_s"][1:] < rows["time_s"][:-1]).any():
            rows = rows[np.argsort(rows["time_s"], kind="stable")]
        # Rows with the stamp newest - LATE_S may still follow.
        ready = int(np.searchsorted(rows["time_s"], newest - LATE_S))
        yield rows[:ready]
        waiting = rows[ready:]
    if waiting is not None:
        yield waiting


@contextmanager
def _opened(path: Path) -> Iterator[tuple[pd.Timestamp | None, Iterator[np.ndarray]]]:
    """Open a CAN log: its start, and its frames in chunks, in the order of the file."""
    try:
        import can
    except ImportError as error:
        raise missing_extra(error) from error
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty, not a CAN log. Record it again.")
    kind = path.suffix.lower()
    if kind == ".blf":
        _check_blf(path)
    elif kind == ".log":
        _check_candump(path)
    readers = {".blf": can.BLFReader, ".asc": can.ASCReader, ".trc": can.TRCReader, ".log": can.CanutilsLogReader}
    with _quiet(), closing(path.open("rb") if kind == ".blf" else _Lines(path)) as file:
        reader: Any
        with _refusing(path, file):
            reader = readers[kind](file)
            messages = iter(reader)
            head = list(islice(messages, 1))
        if getattr(reader, "timestamps_format", None) == "relative":
            raise ValueError(
                f"The stamps of {path} count from the line before, not from the start. Export it with 'timestamps "
                f"absolute'."
            )
        zero_s, start = _zero(reader, head)
        yield start, _chunks(path, file, chain(head, messages), zero_s)


def _chunks(path: Path, file: Any, messages: Iterator[Any], zero_s: float) -> Iterator[np.ndarray]:
    """Yield at least one chunk of frames."""
    more = True
    while more:
        with _refusing(path, file):
            read = list(islice(messages, _ROWS))
            frames = _frames([m for m in read if not (m.is_error_frame or m.is_remote_frame)], zero_s)
        more = len(read) == _ROWS
        yield frames


@contextmanager
def _refusing(path: Path, file: Any) -> Iterator[None]:
    """Turn any error of python-can into one that names the file and the line."""
    try:
        yield
    except Exception as error:  # python-can raises errors of any type
        where = f" in line {file.number}" if isinstance(file, _Lines) else ""
        raise ValueError(
            f"{path} cannot be read as {path.suffix.lower()[1:].upper()}{where} "
            f"({type(error).__name__}: {str(error)[:200]}). Repair the file, or record it again."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep python-can's warnings from standard error, unless logging is set up."""
    logger, handler = logging.getLogger("can"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _frames(messages: list[Any], zero_s: float) -> np.ndarray:
    """Return messages of python-can as ``FRAME``."""
    frames = np.zeros(len(messages), dtype=FRAME)
    if not messages:
        return frames
    identifiers = np.array([message.arbitration_id for message in messages])
    extended = np.array([message.is_extended_id for message in messages]) | (identifiers > 0x7FF)
    if identifiers.max() > 0x1FFFFFFF:
        raise ValueError(f"identifier {identifiers.max():#x} of more than 29 bits")
    stamps = np.array([message.timestamp for message in messages])
    # Unix times in float64 are good to a quarter of a microsecond.
    frames["time_s"] = np.round(stamps - zero_s, 6) if zero_s else stamps
    frames["id"], frames["extended"] = identifiers, extended
    frames["bus"] = [_bus(message.channel) for message in messages]
    frames["length"] = [min(len(message.data), 64) for message in messages]
    data = b"".join(bytes(message.data[:64]).ljust(64, b"\0") for message in messages)
    frames["data"] = np.frombuffer(data, dtype=np.uint8).reshape(-1, 64)
    return frames


def _bus(channel: Any) -> int:
    """Return the number of a bus, for a name such as can1 the number in it."""
    if isinstance(channel, int):
        return channel % 256
    digits = re.search(r"\d+$", str(channel))
    return int(digits[0]) % 256 if digits else 0


def _zero(reader: Any, head: list[Any]) -> tuple[float, pd.Timestamp | None]:
    """Return which of a file's stamps is zero, and the moment of it."""
    if hasattr(reader, "date"):  # ASC: stamps count from the start
        return 0.0, _start_of_asc(reader)
    named = getattr(reader, "start_time", None)  # TRC
    zero_s = getattr(reader, "start_timestamp", 0.0) if named is None else named.timestamp()
    if not zero_s and head and head[0].timestamp >= UNIX_FROM_S:
        zero_s = head[0].timestamp
    return zero_s, pd.Timestamp(zero_s, unit="s", tz="UTC").round("us") if zero_s else None


def _start_of_asc(reader: Any) -> pd.Timestamp | None:
    try:  # python-can reads the date as this machine's local time; undone here
        local = datetime.fromtimestamp(reader._datetime_to_timestamp(reader.date or ""))
    except (ValueError, OverflowError, OSError):
        return None
    return pd.Timestamp(local, tz="UTC")


def _check_candump(path: Path) -> None:
    with closing(_Lines(path)) as lines:
        first = next((line for line in lines if line.strip()), "")
    if not _CANDUMP.match(first):
        raise ValueError(
            f"{path} begins with {first.strip()[:60]!r}; a candump log has lines such as '(1436509052.249713) can0 "
            f"123#11223344'. Record it with candump -L, or export it as ASC."
        )


def _check_blf(path: Path) -> None:
    """Refuse a BLF file that is cut or damaged; python-can would read a part of it without an error."""
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        if view[:4] != b"LOGG":
            raise ValueError(f"{path} begins with {view[:4]!r}; a BLF file begins with LOGG. Export it again.")
        place, length = struct.unpack_from("<L8xQ", view, 4) if size >= _BLF_HEAD else (0, _BLF_HEAD)
        cut = length > size
        while not cut and place + 16 <= size:
            signature, _, _, length, kind = struct.unpack_from("<4sHHLL", view, place)
            cut = signature != b"LOBJ" or length < 16 or place + length > size
            if not cut and kind == _CONTAINER:
                cut = length < 32 or not _container_is_complete(view, place, length)
            place += length + length % 4
        if cut or place < size:
            raise ValueError(f"{path} is a BLF file that is cut or damaged near byte {place:,}. Copy it again.")


def _container_is_complete(view: mmap.mmap, place: int, length: int) -> bool:
    method, size = struct.unpack_from("<H6xL", view, place + 16)
    if method != _DEFLATED:
        return method == 0
    inflate = zlib.decompressobj()
    try:
        found = len(inflate.decompress(view[place + 32 : place + length], size + 1))
    except zlib.error:
        return False
    return found == size and inflate.eof


class _Lines:
    """The lines of a text file, counted; without a last line that has no end."""

    def __init__(self, path: Path) -> None:
        self._file = path.open(encoding="utf-8", errors="replace")
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(_LONGEST_LINE)
        self.number += 1
        if len(line) == _LONGEST_LINE:
            raise ValueError(f"a line of more than {_LONGEST_LINE:,} characters")
        if not line.endswith("\n"):
            raise StopIteration
        return line

    def close(self) -> None:
        self._file.close()
