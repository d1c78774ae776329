"""Recorded frames of measurement files: groups ``CAN_DataFrame``, in the layout of ASAM bus logging."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator

import numpy as np

from anomalyvae.recordings.bus.canbus import in_order
from anomalyvae.recordings.bus.frames import FD_LENGTHS, FRAME
from anomalyvae.recordings.bus.mdf_file import VARYING, MdfFile
from anomalyvae.tables.names import PER_SECOND

FRAMES = "CAN_DataFrame"
_EVENT = re.compile(r"(CAN|LIN|FLX|ETH|MOST|K)_\w*(Frame|Event)")
_NO_DATA = {"CAN_ErrorFrame", "CAN_RemoteFrame", "CAN_OverloadFrame", "LIN_ChecksumError", "LIN_TransmissionError"}
_PARTS = ("BusChannel", "ID", "IDE", "DLC", "DataLength", "DataBytes")
_MOST_BYTES = 64  # in a frame


def frame_sources(file: MdfFile) -> list[Iterator[np.ndarray]]:
    """Return the recorded frames of each group, in order of time."""
    groups = file.call(_groups, file)
    return [in_order(_frames(file, *group), f"group {group[0]} of {file.path}") for group in groups]


def all_frames(file: MdfFile) -> Iterator[np.ndarray]:
    """Yield the recorded frames, group by group."""
    for number, parts in file.call(_groups, file):
        yield from _frames(file, number, parts)


def _groups(file: MdfFile) -> list[tuple[int, dict[str, int]]]:
    """Return the groups of recorded CAN frames: the number, and the indices of the channels of a frame."""
    found = []
    for number, group in enumerate(file.groups):
        parts = {
            channel.name.rpartition(".")[2]: index
            for index, channel in enumerate(group.channels)
            if channel.name.startswith(f"{FRAMES}.") and file.unit_of_stamps(number) in PER_SECOND
        }
        if {"ID", "DataBytes"} <= set(parts) and {"DataLength", "DLC"} & set(parts) and group.channel_group.cycles_nr:
            found.append((number, {name: parts[name] for name in _PARTS if name in parts}))
    return found


def warn_of_other_frames(file: MdfFile) -> None:
    """Warn of recorded frames that are not read; those in ``_NO_DATA`` have nothing to read."""
    read = {number for number, _ in _groups(file)}
    others: Counter[str] = Counter()
    for number, group in enumerate(file.groups):
        kinds = [channel.name.partition(".")[0] for channel in group.channels if "." in channel.name]
        events = file.has_bus_events(number) or any(map(_EVENT.match, kinds))
        if number not in read and events and not _NO_DATA & set(kinds):
            others[kinds[0] if kinds else "without a name"] += int(group.channel_group.cycles_nr)
    others = +others
    if others:
        shown = ", ".join(f"{kind} {count:,}" for kind, count in others.items())
        warnings.warn(
            f"{file.path} has {others.total():,} frames that are not read ({shown}); those of CAN with identifier, "
            f"length and data are. Convert the others to signals with the logger's software.",
            stacklevel=3,
        )


def _frames(file: MdfFile, number: int, parts: dict[str, int]) -> Iterator[np.ndarray]:
    """Yield recorded frames as ``FRAME``."""
    varying = file.groups[number].channels[parts["DataBytes"]].channel_type in VARYING
    asked = {name: index for name, index in parts.items() if name != "DataBytes" or not varying}
    for first, count in file.steps(number):
        found = file.select(number, list(asked.values()), first, count, raw=True)
        columns = {name: signal.samples for name, signal in zip(asked, found, strict=True)}
        if varying:
            columns |= file.call(_varying_bytes, file, number, parts["DataBytes"], first, count)
        yield file.call(_as_frames, columns, file.seconds(number, found[0].timestamps))


def _varying_bytes(file: MdfFile, number: int, index: int, first: int, count: int) -> dict[str, np.ndarray]:
    """Return the bytes of frames that are stored outside of their records, and their lengths.

    asammdf trusts lengths and offsets, so a damaged file crashes the process. Here a frame without bytes at its offset
    has length 0.
    """
    group, store = file.groups[number], file.mdf._mdf
    size = group.channel_group.samples_byte_nr + group.channel_group.invalidation_bytes_nr
    at = group.channels[index].byte_offset
    records = [
        np.frombuffer(fragment.data, dtype=np.uint8).reshape(-1, size)[:, at : at + 8].copy()
        for fragment in store._load_data(group, record_offset=first, record_count=count)
    ]
    offsets = np.concatenate(records).view("<u8")[:, 0]
    least = offsets.min()
    stored = store._load_signal_data(group, index, (int(least), int(offsets.max())))
    length_at = np.minimum(offsets - least, np.uint64(len(stored))).astype(np.int64)
    padded = np.frombuffer(bytes(stored) + bytes(_MOST_BYTES + 4), dtype=np.uint8)
    lengths = np.ascontiguousarray(padded[length_at[:, None] + np.arange(4)]).view("<u4")[:, 0].astype(np.int64)
    lengths[(lengths > _MOST_BYTES) | (length_at + 4 + lengths > len(stored))] = 0
    data = padded[length_at[:, None] + np.arange(4, 4 + lengths.max())]
    return {"DataBytes": data, "StoredLength": lengths}


def _as_frames(columns: dict[str, np.ndarray], time_s: np.ndarray) -> np.ndarray:
    data = columns["DataBytes"][:, :_MOST_BYTES]
    length = columns["DataLength"] if "DataLength" in columns else FD_LENGTHS[columns["DLC"] & 15]
    frames = np.zeros(len(time_s), dtype=FRAME)
    frames["time_s"] = time_s
    frames["id"] = columns["ID"] & 0x1FFFFFFF
    frames["extended"] = (columns.get("IDE", 0) != 0) | (frames["id"] > 0x7FF)
    frames["bus"] = columns.get("BusChannel", 0)
    stored = columns["StoredLength"] if "StoredLength" in columns else data.shape[1]
    frames["length"] = np.minimum(length, stored)
    frames["data"][:, : data.shape[1]] = data
    return frames
