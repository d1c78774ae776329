"""CAN logs: BLF and ASC (Vector), TRC (PEAK) and candump files, decoded with databases.

BLF files are read with python-can, and their frames are counted; the others by :mod:`anomalyvae.recordings.bus.text`.

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
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anomalyvae.options import Databases
from anomalyvae.recordings.bus.decode import FRAME, Decoder
from anomalyvae.recordings.bus.messages import missing_extra
from anomalyvae.recordings.bus.text import Frame, Lines, asc_frames, candump_frames, trc_frames
from anomalyvae.recordings.log import Log
from anomalyvae.recordings.stamps import LATE_S, UNIX_FROM_S

_ROWS = 1 << 15  # frames of a piece
_MOST_BUSES = 255
_BLF_HEAD = 144  # bytes
_CONTAINER, _DEFLATED = 10, 2  # in BLF: an object that holds others, and its compression
_FRAMES = {1, 73, 86, 100, 101}  # types of objects: CAN frames, error frames, and those of CAN FD
_TEXT = {".asc": asc_frames, ".trc": trc_frames, ".log": candump_frames}


def can_pieces(path: Path, wanted: list[str] | None = None, *, databases: Databases = None) -> Iterator[Log]:
    """Read a CAN log in pieces of about 32,000 frames."""
    decoder = Decoder(databases, wanted, str(path))
    decoder.check([])
    with _opened(path) as (start, buses, chunks):
        decoder.bus_names = buses
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
def _opened(path: Path) -> Iterator[tuple[pd.Timestamp | None, list[str], Iterator[np.ndarray]]]:
    """Open a CAN log: its start, the names of its buses (as far as it is read), and its frames in chunks."""
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty, not a CAN log. Record it again.")
    kind = path.suffix.lower()
    buses: list[str] = []
    with closing(_Blf(path) if kind == ".blf" else Lines(path)) as file:
        with _refusing(path, file):
            start, frames = file.frames() if isinstance(file, _Blf) else _TEXT[kind](file, path)
            head = list(islice(frames, 1))
        if not head:
            raise ValueError(f"{path} has no CAN frame with data. Check that the right channel was recorded.")
        zero_s = head[0].time_s if start is None and head[0].time_s >= UNIX_FROM_S else 0.0
        if zero_s:
            start = pd.Timestamp(zero_s, unit="s", tz="UTC").round("us")
        yield start, buses, _chunks(path, file, chain(head, frames), zero_s, buses)


def _chunks(path: Path, file: Any, frames: Iterator[Frame], zero_s: float, buses: list[str]) -> Iterator[np.ndarray]:
    """Yield at least one chunk of frames."""
    more = True
    while more:
        with _refusing(path, file):
            read = list(islice(frames, _ROWS))
            chunk = _as_array(read, zero_s, buses)
        more = len(read) == _ROWS
        yield chunk


@contextmanager
def _refusing(path: Path, file: Any) -> Iterator[None]:
    """Turn any error into one that names the file and the line."""
    try:
        yield
    except Exception as error:  # python-can raises errors of any type
        if str(path) in str(error):
            raise
        where = f" in line {file.number}" if isinstance(file, Lines) else ""
        said = str(error) if type(error) is ValueError else f"{type(error).__name__}: {str(error)[:200]}"
        raise ValueError(
            f"{path} cannot be read as {path.suffix.lower()[1:].upper()}{where}: {said}. Repair the file, or export it "
            "again."
        ) from error


def _as_array(read: list[Frame], zero_s: float, buses: list[str]) -> np.ndarray:
    """Return frames as ``FRAME``; the names of new buses are added to ``buses``."""
    frames = np.zeros(len(read), dtype=FRAME)
    if not read:
        return frames
    time_s, identifiers, extended, names, data = zip(*read, strict=True)
    if max(identifiers) > 0x1FFFFFFF:
        raise ValueError(f"the identifier {max(identifiers):#x} has more than 29 bits")
    # Unix times in float64 are good to a quarter of a microsecond.
    frames["time_s"] = np.round(np.array(time_s) - zero_s, 6)
    frames["id"] = identifiers
    frames["extended"] = np.array(extended) | (frames["id"] > 0x7FF)
    buses += [name for name in dict.fromkeys(names) if name not in buses]
    if len(buses) > _MOST_BUSES:
        raise ValueError(f"there are more than {_MOST_BUSES} buses")
    number = {name: place for place, name in enumerate(buses)}
    frames["bus"] = [number[name] for name in names]
    frames["length"] = [min(len(sent), 64) for sent in data]
    joined = b"".join(sent[:64].ljust(64, b"\0") for sent in data)
    frames["data"] = np.frombuffer(joined, dtype=np.uint8).reshape(-1, 64)
    return frames


# --- BLF ------------------------------------------------------------------------------------------------


class _Blf:
    """A BLF file, read with python-can, which skips objects that it does not know: frames are counted first."""

    def __init__(self, path: Path) -> None:
        try:
            from can import BLFReader
        except ImportError as error:
            raise missing_extra(error) from error
        self._reader = BLFReader
        self._expected = count_blf_frames(path)
        self._file = path.open("rb")

    def frames(self) -> tuple[pd.Timestamp | None, Iterator[Frame]]:
        """The start, and the frames."""
        with _quiet():
            reader = self._reader(self._file)
        zero_s = reader.start_timestamp
        start = pd.Timestamp(zero_s, unit="s", tz="UTC").round("us") if zero_s else None
        return start, self._read(iter(reader), zero_s)

    def _read(self, messages: Iterator[Any], zero_s: float) -> Iterator[Frame]:
        count = 0
        with _quiet():
            for message in messages:
                count += 1
                if not (message.is_error_frame or message.is_remote_frame):
                    yield Frame(
                        message.timestamp - zero_s,
                        message.arbitration_id,
                        message.is_extended_id,
                        str(message.channel + 1),
                        bytes(message.data),
                    )
        if count != self._expected:
            raise ValueError(f"{count:,} of its {self._expected:,} frames can be read")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep python-can's warnings from standard error, unless logging is set up."""
    logger, handler = logging.getLogger("can"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def count_blf_frames(path: Path) -> int:
    """Count the frames of a BLF file, error frames included; refuse a file that is cut or damaged.

    An object begins with ``LOBJ``, the size of its header, the header's version, its own size, and its type. Containers
    hold other objects, which may reach from one container into the next, and are compressed.
    """
    size, count, rest = path.stat().st_size, 0, b""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        if view[:4] != b"LOGG":
            raise ValueError(f"{path} begins with {view[:4]!r}; a BLF file begins with LOGG. Export it again.")
        place, length = struct.unpack_from("<L8xQ", view, 4) if size >= _BLF_HEAD else (0, _BLF_HEAD)
        cut = length > size or place < _BLF_HEAD
        while not cut and place + 16 <= size:
            signature, _, _, length, kind = struct.unpack_from("<4sHHLL", view, place)
            cut = signature != b"LOBJ" or length < 16 or place + length > size
            if not cut and kind == _CONTAINER:
                inside = _inflated(view, place, length)
                cut = inside is None
                if inside is not None:
                    found, rest = _count_objects(rest + inside, path)
                    count += found
            elif not cut and kind in _FRAMES:
                raise ValueError(
                    f"{path} has frames outside of containers, which cannot be read. Export it again, as BLF with "
                    "compression or as ASC."
                )
            place += length + length % 4
        if cut or place < size:
            raise ValueError(f"{path} is a BLF file that is cut or damaged near byte {place:,}. Copy it again.")
    if rest.strip(b"\0"):
        raise ValueError(f"{path} is a BLF file whose last object is cut. Copy it again.")
    return count


def _inflated(view: mmap.mmap, place: int, length: int) -> bytes | None:
    """The content of a container; None if it is damaged."""
    if length < 32:
        return None
    method, size = struct.unpack_from("<H6xL", view, place + 16)
    if method != _DEFLATED:
        return view[place + 32 : place + length] if method == 0 else None
    inflate = zlib.decompressobj()
    try:
        found = inflate.decompress(view[place + 32 : place + length], size + 1)
    except zlib.error:
        return None
    return found if len(found) == size and inflate.eof else None


def _count_objects(data: bytes, path: Path) -> tuple[int, bytes]:
    """The number of frames among whole objects, and the bytes of a last object that is not whole."""
    count = place = 0
    while place + 16 <= len(data):
        signature, _, version, length, kind = struct.unpack_from("<4sHHLL", data, place)
        if signature != b"LOBJ":
            begin = data.find(b"LOBJ", place, place + 8)  # objects are padded
            if begin < 0:
                raise ValueError(f"{path} is a BLF file with a damaged container. Copy it again.")
            place = begin
            continue
        if length < 16:
            raise ValueError(f"{path} is a BLF file with an object of {length} bytes, which is damaged. Copy it again.")
        if place + length > len(data):
            break
        if kind in _FRAMES:
            if version not in (1, 2):
                raise ValueError(
                    f"{path} has frames with a header of version {version}, which cannot be read. Export it again as "
                    "BLF of an older version, as MF4 or as ASC."
                )
            count += 1
        place += length
    return count, data[place:]
