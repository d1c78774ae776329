"""Frames of CAN buses as arrays."""

import numpy as np

# A frame: seconds from the recording's start, the identifier, the number of the bus in the file, and the sent bytes;
# bytes after them are undefined.
FRAME = np.dtype(
    [("time_s", "f8"), ("id", "u4"), ("extended", "?"), ("bus", "u2"), ("length", "u1"), ("data", "u1", (64,))]
)
FD_LENGTHS = np.array([*range(9), 12, 16, 20, 24, 32, 48, 64], dtype=np.uint8)  # bytes by data length code
