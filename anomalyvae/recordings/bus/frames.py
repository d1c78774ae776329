"""Frames of CAN buses as arrays."""

from collections.abc import Iterator

import numpy as np

# A frame: seconds from the recording's start, the identifier, the number of the bus in the file, and the sent bytes;
# bytes after them are undefined.
FRAME = np.dtype(
    [("time_s", "f8"), ("id", "u4"), ("extended", "?"), ("bus", "u2"), ("length", "u1"), ("data", "u1", (64,))]
)
FD_LENGTHS = np.array([*range(9), 12, 16, 20, 24, 32, 48, 64], dtype=np.uint8)  # bytes by data length code
EXTENDED = 1 << 31  # set in identifiers of 29 bits: 0x100 may be of 11 bits or of 29


def by_identifier(frames: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield the buses and identifiers (with EXTENDED) of frames, and the indices of their frames."""
    keys = frames["id"] | np.where(frames["extended"], np.uint32(EXTENDED), np.uint32(0)).astype(np.uint64)
    keys = keys | frames["bus"].astype(np.uint64) << np.uint64(32)
    distinct, inverse = np.unique(keys, return_inverse=True)
    # With 16 bits numpy uses a counting sort.
    order = np.argsort(inverse.astype(np.uint16) if len(distinct) < 1 << 16 else inverse, kind="stable")
    bounds = np.cumsum(np.bincount(inverse, minlength=len(distinct)))[:-1]
    for key, rows in zip(distinct.tolist(), np.split(order, bounds), strict=True):
        yield key >> 32, key & 0xFFFFFFFF, rows


def digits_of(key: int) -> str:
    """An identifier (with EXTENDED) as names and messages have it.

    Examples
    --------
    >>> digits_of(EXTENDED | 0x18FEDF00), digits_of(0x12)
    ('0x18FEDF00', '0x012')
    """
    return f"0x{key & ~EXTENDED:08X}" if key & EXTENDED else f"0x{key:03X}"
