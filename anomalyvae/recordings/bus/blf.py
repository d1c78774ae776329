"""BLF files (Vector): every object is walked, and each that holds a CAN frame is read.

A file is a header and a list of objects, most of them in compressed containers. An object may continue in the next
container. A file that is cut or damaged is refused.
"""

from __future__ import annotations

import mmap
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from anomalyvae.recordings.bus.frames import FD_LENGTHS, FRAME

_HEAD = 144  # bytes of the file's header
_BASE, _TOP = struct.Struct("<4sHHLL"), 32  # of an object: its first fields, and the bytes up to the end of its stamp
_CONTAINER, _STORED, _DEFLATED = 10, 0, 2
_UNCOUNTED = 115  # a kind of object that the count in the header leaves out
_REMOTE, _FD64_REMOTE = 0x80, 0x10
_KNOWN = range(1, 132)  # kinds of objects; those that are not in _FRAMES hold no data of a CAN frame
_CLASSIC = np.dtype([("channel", "<u2"), ("flags", "u1"), ("code", "u1"), ("id", "<u4"), ("data", "u1", (8,))])
_FD = np.dtype(
    {
        "names": ["channel", "flags", "code", "id", "valid", "data"],
        "formats": ["<u2", "u1", "u1", "<u4", "u1", ("u1", (64,))],
        "offsets": [0, 2, 3, 4, 14, 20],
    }
)
_FD64 = np.dtype(
    {
        "names": ["channel", "code", "valid", "id", "flags", "more"],
        "formats": ["u1", "u1", "u1", "<u4", "<u4", "u1"],
        "offsets": [0, 1, 2, 4, 12, 35],
        "itemsize": 40,
    }
)
_FRAMES = {1: _CLASSIC, 86: _CLASSIC, 100: _FD, 101: _FD64}
_TOP_FIELDS = np.dtype({"names": ["unit", "stamp"], "formats": ["<u4", "<u8"], "offsets": [16, 24], "itemsize": _TOP})


class _DamageError(Exception):
    """An object is damaged, or has a header of the version that is the argument."""


def blf_frames(path: Path) -> tuple[float, Generator[np.ndarray, None, None]]:
    """Return a BLF file's start in seconds of unix time, 0 if it has none, and its frames, container by container.

    Stamps count from the start. Raises ValueError for a damaged file, where the damage is reached.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head[:4] != b"LOGG":
        raise ValueError(f"{path} begins with {head[:4]!r}; a BLF file begins with LOGG. Export it again.")
    if len(head) < _HEAD or struct.unpack_from("<Q", head, 16)[0] > size:
        raise _damaged(path, size)
    return _moment(head[40:56]), _pieces(path, *struct.unpack_from("<L24xL", head, 4))


def _damaged(path: Path, offset: int) -> ValueError:
    return ValueError(f"{path} is a BLF file that is cut or damaged near byte {offset:,}. Copy it again.")


def _newer(path: Path, version: int) -> ValueError:
    return ValueError(
        f"{path} has frames with object headers of version {version}, where 1 and 2 can be read. Save it as an older "
        f"version of BLF, or as ASC, with Vector's software."
    )


def _moment(fields: bytes) -> float:
    year, month, _, day, hour, minute, second, millisecond = struct.unpack("<8H", fields)
    try:
        return datetime(year, month, day, hour, minute, second, millisecond * 1000, tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def _pieces(path: Path, offset: int, promised: int) -> Generator[np.ndarray, None, None]:
    kinds: Counter[int] = Counter()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        rest = b""  # of an object that continues in the next container
        while offset + _BASE.size <= len(view):
            signature, _, _, length, kind = _BASE.unpack_from(view, offset)
            if signature != b"LOBJ" or length < _BASE.size or offset + length > len(view):
                raise _damaged(path, offset)
            end = offset + length
            data = _inflated(view, offset, length) if kind == _CONTAINER else view[offset:end]
            if data is None or (rest and kind != _CONTAINER):
                raise _damaged(path, offset)
            try:
                frames, rest = _frames(rest + data, kinds)
            except _DamageError as error:
                raise _newer(path, *error.args) if error.args else _damaged(path, offset) from None
            yield frames
            offset = end
            while offset < min(end + 4, len(view)) and view[offset : offset + 1] != b"L":  # objects are padded
                offset += 1
        if offset < len(view) or rest.strip(b"\0"):
            raise _damaged(path, offset)
    count, unknown = kinds.total(), sum(count for kind, count in kinds.items() if kind not in _KNOWN)
    if unknown or count < promised or 0 < promised < count - kinds[_UNCOUNTED]:
        said = f"{'fewer' if count < promised else 'more'} than the header says"
        said = f"of which {unknown:,} are of an unknown kind and left out" if unknown else said
        warnings.warn(
            f"{path} has {count:,} objects, {said} (the header says {promised:,}). Export it as ASC with Vector's "
            f"software, and compare.",
            stacklevel=2,
        )


def _inflated(view: mmap.mmap, offset: int, length: int) -> bytes | None:
    """Return the content of a container; None if it is damaged."""
    if length < 32:
        return None
    method, size = struct.unpack_from("<H6xL", view, offset + 16)
    packed = view[offset + 32 : offset + length]
    if method == _STORED:
        return packed
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(packed, size + 1) if method == _DEFLATED else None
    except zlib.error:
        return None
    return data if data is not None and len(data) == size and inflate.eof else None


def _frames(data: bytes, kinds: Counter[int]) -> tuple[np.ndarray, bytes]:
    """Return the frames of the objects in ``data``, and the rest: an object that is not complete."""
    found: dict[int, list[tuple[int, int, int]]] = {kind: [] for kind in _FRAMES}  # offsets, sizes of header and object
    offset, end = 0, len(data)
    while offset + _BASE.size <= end:
        signature, header, version, length, kind = _BASE.unpack_from(data, offset)
        if signature != b"LOBJ":
            offset, before = data.find(b"LOBJ", offset, offset + 8), offset
            if offset < 0 or data[before:offset].strip(b"\0"):
                raise _DamageError
            continue
        if length < _BASE.size or kind == _CONTAINER:
            raise _DamageError
        if offset + length > end:
            break
        kinds[kind] += 1
        if kind in _FRAMES:
            if version not in (1, 2):
                raise _DamageError(version)
            least = _FRAMES[kind].itemsize - (64 if kind == 100 else 0)
            if not _TOP <= header <= length - least:
                raise _DamageError
            found[kind].append((offset, header, length))
        offset += length
    padded = np.frombuffer(data + bytes(128), dtype=np.uint8)
    parts = [_parsed(padded, kind, np.array(objects)) for kind, objects in found.items() if objects]
    if not parts:
        return np.zeros(0, dtype=FRAME), data[offset:]
    frames = np.concatenate([frames for frames, _ in parts])
    return frames[np.argsort(np.concatenate([offsets for _, offsets in parts]))], data[offset:]


def _parsed(data: np.ndarray, kind: int, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames of objects of one kind, and their offsets; remote frames, which have no data, are left out."""

    def taken(offsets: np.ndarray, layout: np.dtype) -> np.ndarray:
        return data[offsets[:, None] + np.arange(layout.itemsize)].view(layout)[:, 0]

    offsets, headers, lengths = objects.T
    top, fields = taken(offsets, _TOP_FIELDS), taken(offsets + headers, _FRAMES[kind])
    frames = np.zeros(len(objects), dtype=FRAME)
    frames["time_s"] = top["stamp"] / np.where(top["unit"] == 1, 1e5, 1e9)
    frames["id"], frames["extended"] = fields["id"] & 0x1FFFFFFF, fields["id"] >> 31
    frames["bus"] = fields["channel"]
    if kind == 101:
        after = offsets + headers + _FD64.itemsize
        held = np.where(fields["more"] > 0, np.minimum(fields["more"], lengths), lengths) - headers - _FD64.itemsize
        held = np.clip(held, 0, 64)  # bytes that are not stored are zero, as for Vector's software
        bytes_ = data[after[:, None] + np.arange(64)]
        frames["data"] = np.where(np.arange(64) < held[:, None], bytes_, 0)
        remote = fields["flags"] & _FD64_REMOTE
    else:
        width = fields["data"].shape[1]
        if kind == 100 and (lengths < headers + 20 + np.minimum(fields["valid"], 64)).any():
            raise _DamageError
        frames["data"][:, :width] = fields["data"]
        remote = fields["flags"] & _REMOTE
    valid = fields["valid"] if kind in (100, 101) else np.minimum(FD_LENGTHS[fields["code"] & 15], 8)
    frames["length"] = np.minimum(valid, 64)
    return frames[remote == 0], offsets[remote == 0]
