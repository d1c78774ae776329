"""Samples of signals: the fields of frames as numbers."""

from __future__ import annotations

import numpy as np

from anomalyvae.recordings.bus.messages import Bits, Field
from anomalyvae.recordings.bus.transport import JoinedMessage
from anomalyvae.recordings.log import Signal
from anomalyvae.recordings.shared_stamps import SharedStamps


def samples_of(
    source: str,
    fields: list[Field],
    frames: np.ndarray,
    parts: list[np.ndarray],
    joined: list[JoinedMessage],
    shared: SharedStamps,
) -> dict[str, Signal]:
    """Decode the fields, at least one, of the message ``source``; only signals with a sample are returned, by name.

    Its frames are at the indices ``parts`` in ``frames``, which are sorted by time; others were joined from packets.
    """
    asked = [bits for field in fields for bits in (field.bits, *(bits for bits, _ in field.conditions))]
    time_s, length, data = _stacked(frames, parts, joined, max(bits.end for bits in asked))
    raw = {bits: bits.raw(data) for bits in set(asked)}
    known: dict[str, tuple[str, np.ndarray, np.ndarray]] = {}  # a signal may have a field on each page of a multiplexer
    for field in fields:
        holds = _holds(field, length, raw)
        if not holds.any():
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            values = field.bits.numbers(raw[field.bits]) * field.scale + field.offset
        holds &= ~np.isnan(values)
        if field.name in known:
            _, held, others = known[field.name]
            values, holds = np.where(holds, values, others), holds | held
        known[field.name] = field.unit, holds, values
    found = {}
    for name, (unit, holds, values) in known.items():
        if holds.any():
            stamps, values = (time_s, values) if holds.all() else (time_s[holds], values[holds])
            stamps, column = shared.means([name], stamps, values[:, None])
            found[name] = Signal(name, stamps, column[:, 0], unit, source)
    return found


def _stacked(
    frames: np.ndarray, parts: list[np.ndarray], joined: list[JoinedMessage], width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the stamps of frames and joined messages, their lengths, and ``width`` of their bytes, padded by 8."""
    rows = parts[0] if len(parts) == 1 else np.sort(np.concatenate([np.empty(0, dtype=np.intp), *parts]))
    data = np.zeros((len(rows) + len(joined), width + 8), dtype=np.uint8)
    held = min(width, frames["data"].shape[1])
    data[: len(rows), :held] = frames["data"][:, :held][rows]
    if not joined:
        return frames["time_s"][rows], frames["length"][rows], data
    for row, message in enumerate(joined, len(rows)):
        first = message.data[:width]
        data[row, : len(first)] = np.frombuffer(first, dtype=np.uint8)
    time_s = np.concatenate([frames["time_s"][rows], [message.time_s for message in joined]])
    length = np.concatenate([frames["length"][rows], [len(message.data) for message in joined]])
    order = np.argsort(time_s, kind="stable")
    return time_s[order], length[order], data[order]


def _holds(field: Field, length: np.ndarray, raw: dict[Bits, np.ndarray]) -> np.ndarray:
    """Return which frames have a value for the field."""
    holds = length >= field.bits.end
    for bits, ranges in field.conditions:
        holds &= length >= bits.end
        value = raw[bits]
        holds &= np.logical_or.reduce([(value >= first) & (value <= last) for first, last in ranges])
        if not holds.any():
            break
    if field.missing_from is not None:
        holds &= raw[field.bits] < field.missing_from
    return holds
