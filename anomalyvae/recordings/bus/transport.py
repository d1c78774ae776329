"""Messages longer than a frame are joined from their packets.

Rules:

- **J1939** (SAE J1939-21, transport protocol): a broadcast (BAM) or a request to send (RTS) gives the parameter group
  and its size; packets of seven bytes follow, numbered from 1. The receiver may ask for packets again (CTS).
- **Diagnostics** (ISO 15765-2): a first frame gives the size; consecutive frames follow, numbered from 1, modulo 16.
- **Time.** A message has the stamp of its last packet.
- **Broken messages are left out**: a packet is missing, repeated, out of order, too short, or later than the standard
  allows. Messages of different senders, destinations and buses are kept separate. (The protocols have no checksum: a
  gap from one place of a message to the same place of the next, within that time, goes unnoticed.)
- **Ends.** A message that is incomplete because the recording begins or ends is skipped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from anomalyvae.recordings.bus.frames import EXTENDED
from anomalyvae.recordings.bus.messages import MOST_JOINED

_CONTROL, _DATA = 0xEC, 0xEB  # the second byte of the identifier of J1939 packets
_RTS, _CTS, _BAM, _ABORT = 16, 17, 32, 255  # the first byte of J1939 control frames
_FIRST, _NEXT, _FLOW = 1, 2, 3  # kinds of ISO 15765-2, in the upper half of a frame's first byte
_BROADCAST_S, _CONNECTION_S, _DIAGNOSTICS_S = 0.75, 1.25, 1.0  # T1 and T2 of J1939-21, N_Cr of ISO 15765-2
_FULL = 8  # the fewest bytes of a first frame
_LEAST_J1939 = 9  # bytes of a joined message; fewer fit into a frame

Channel = tuple[int, ...]


class JoinedMessage(NamedTuple):
    """A message joined from packets."""

    time_s: float
    key: int  # the identifier that a frame with these bytes would have, with EXTENDED if it has 29 bits
    bus: int
    data: bytes
    packets: int  # frames that it was joined from


@dataclass(slots=True)
class _Transfer:
    """A message under way."""

    key: int
    size: int  # bytes
    step: int  # bytes of a packet
    patience_s: float
    newest_s: float
    data: bytearray = field(default_factory=bytearray)
    frames: int = 1
    awaited: int = 1  # the number of the next packet
    intact: bool = True


class Transport:
    """Joins packets; messages may continue in the next piece of a recording.

    ``broken`` counts the frames of messages that were left out, by identifier and first byte (empty if it is missing).
    """

    def __init__(self) -> None:
        self.broken: Counter[tuple[int, bytes]] = Counter()
        self._open: dict[Channel, _Transfer] = {}

    def join_j1939(self, frames: np.ndarray) -> list[JoinedMessage]:
        """Return the messages that frames complete; all are packets by :func:`is_packet`, sorted by time."""
        found: list[JoinedMessage] = []
        for time_s, identifier, bus, data in each_frame(frames):
            source, destination = identifier & 0xFF, identifier >> 8 & 0xFF
            if identifier >> 16 & 0xFF == _DATA:
                found += self._go_on((bus, source, destination), time_s, data[0] if data else 0, 256, data[1:])
            else:
                self._control(bus, source, destination, time_s, data)
        return found

    def join_diagnostics(self, frames: np.ndarray) -> list[JoinedMessage]:
        """Return the messages that frames of ISO 15765-2 complete, sorted by time; a single frame ends a message."""
        found: list[JoinedMessage] = []
        extended = EXTENDED if len(frames) and frames["extended"][0] else 0
        for time_s, identifier, bus, data in each_frame(frames):
            key, kind = identifier | extended, data[0] >> 4 if data else 0
            channel = (bus, key)
            if kind == _NEXT:
                found += self._go_on(channel, time_s, data[0] & 15, 16, data[1:])
            elif kind == _FIRST and len(data) >= _FULL:
                size = (data[0] & 15) << 8 | data[1]
                transfer = _Transfer(key, size, len(data) - 1, _DIAGNOSTICS_S, time_s, bytearray(data[2:]))
                transfer.intact = size >= len(data)
                self._begin(channel, transfer)
            elif kind != _FLOW:
                self._leave_out(channel)
        return found

    def expire(self, now_s: float) -> None:
        """Leave out the messages whose next packet is overdue."""
        for channel in [c for c, transfer in self._open.items() if now_s - transfer.newest_s > transfer.patience_s]:
            self._leave_out(channel)

    def finish(self) -> None:
        """Skip the messages that the end of the recording cut off."""
        for channel, transfer in list(self._open.items()):
            if not transfer.intact:
                self._leave_out(channel)
        self._open.clear()

    def _control(self, bus: int, source: int, destination: int, time_s: float, data: bytes) -> None:
        """Handle a control frame of J1939."""
        channel, back = (bus, source, destination), (bus, destination, source)
        control = data[0] if len(data) == 8 else None
        if control in (_BAM, _RTS):
            group, size = int.from_bytes(data[5:8], "little") & 0x3FFFF, int.from_bytes(data[1:3], "little")
            patience_s = _BROADCAST_S if control == _BAM else _CONNECTION_S
            transfer = _Transfer(_carried(group, destination, source), size, 7, patience_s, time_s)
            if not (_LEAST_J1939 <= size <= MOST_JOINED and data[3] == -(-size // 7)):
                transfer.intact, transfer.awaited = False, 0  # no packet can repair that
            self._begin(channel, transfer)
        elif control == _CTS:
            self._resume(back, time_s, data[1], data[2])
        elif control == _ABORT:
            self._leave_out(channel)
            self._leave_out(back)

    def _begin(self, channel: Channel, transfer: _Transfer) -> None:
        self._leave_out(channel)
        self._open[channel] = transfer

    def _leave_out(self, channel: Channel) -> None:
        transfer = self._open.pop(channel, None)
        if transfer is not None:
            self.broken[transfer.key, bytes(transfer.data[:1])] += transfer.frames

    def _under_way(self, channel: Channel, time_s: float) -> _Transfer | None:
        """Return the message that a frame of this moment may continue."""
        transfer = self._open.get(channel)
        if transfer is not None and time_s - transfer.newest_s > transfer.patience_s:
            self._leave_out(channel)
            return None
        return transfer

    def _resume(self, channel: Channel, time_s: float, packets: int, first: int) -> None:
        """Go back to the first of the packets that the receiver asks for; none means that it asks to wait."""
        transfer = self._under_way(channel, time_s)
        if transfer is None:
            return
        transfer.newest_s = time_s
        if packets:
            transfer.intact = 1 <= first <= transfer.awaited
        if packets and transfer.intact:
            transfer.awaited = first
            del transfer.data[(first - 1) * transfer.step :]

    def _go_on(
        self, channel: Channel, time_s: float, number: int, modulus: int, payload: bytes
    ) -> Iterator[JoinedMessage]:
        """Add a packet; yield the message if it is complete."""
        transfer = self._under_way(channel, time_s)
        if transfer is None:
            return
        transfer.frames, transfer.newest_s = transfer.frames + 1, time_s
        missing = transfer.size - len(transfer.data)
        if number != transfer.awaited % modulus or len(payload) < min(transfer.step, missing):
            transfer.intact = False
        if not transfer.intact:
            return
        transfer.data += payload[:missing]
        transfer.awaited += 1
        if len(transfer.data) == transfer.size:
            del self._open[channel]
            yield JoinedMessage(time_s, transfer.key, channel[0], bytes(transfer.data), transfer.frames)


def is_packet(key: int) -> bool:
    """Return whether frames with this identifier (and EXTENDED) are packets of the transport protocol of J1939."""
    return bool(key & EXTENDED) and key >> 24 & 3 == 0 and key >> 16 & 0xFF in (_CONTROL, _DATA)


def are_segments(data: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Return which frames of ISO 15765-2 belong to longer messages or control their flow; ``data``: (n, width)."""
    kind = data[:, 0] >> 4
    return ((kind == _FIRST) & (length >= _FULL)) | (((kind == _NEXT) | (kind == _FLOW)) & (length > 0))


def each_frame(frames: np.ndarray) -> Iterator[tuple[float, int, int, bytes]]:
    """Yield the time in seconds, the identifier, the bus and the sent bytes of each ``FRAME``."""
    data = np.ascontiguousarray(frames["data"]).tobytes()
    columns = (frames[name].tolist() for name in ("time_s", "id", "bus", "length"))
    for row, (time_s, identifier, bus, length) in enumerate(zip(*columns, strict=True)):
        yield time_s, identifier, bus, data[64 * row : 64 * row + length]


def _carried(group: int, destination: int, source: int) -> int:
    """Return the identifier of a frame of this parameter group, with J1939's default priority of 6."""
    directed = group >> 8 & 0xFF < 0xF0
    return EXTENDED | 6 << 26 | (group & 0x3FF00 | destination if directed else group) << 8 | source
