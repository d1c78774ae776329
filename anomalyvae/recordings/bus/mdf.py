"""Measurement files (MDF 3 and 4: ``.mf4``, ``.mdf``, ``.dat``), read with asammdf.

Rules:

- **Measured channels** are signals, each with the stamps of its group. Conversions to units are applied; a conversion
  to text is not, the number stays. If only some numbers stand for a text, such as "not available", and others are
  converted to a unit, the former are NaN. So is a sample with its invalidation bit set. Text, bytes, arrays, and
  channels of a group without stamps are left out.
- **Recorded frames** (groups ``CAN_DataFrame``) are decoded by :mod:`anomalyvae.recordings.bus.decode`. Frames of LIN,
  FlexRay and other buses are left out, with a warning that counts them.
- **Names.** A channel keeps its name if neither another channel nor a signal of the databases has it. Otherwise it is
  ``Group.Channel``, or ``group 3.Channel`` if that is not unique or the group has no name, or
  ``group 3.channel 5.Channel`` if the group has that name several times.
- **Time.** Zero is the file's start time (UTC if it has no zone). Samples up to a second late are sorted in; if the
  clock jumps back further, the file is refused. Samples with the same stamp become one, their mean;
  a warning counts those that differ.
- **Cut files.** A file that its logger did not close ("unfinalized") is read as far as it goes; a file that is cut or
  damaged otherwise is refused, see :mod:`anomalyvae.recordings.bus.blocks`.
"""

from __future__ import annotations

import gc
import io
import logging
import re
import shutil
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from anomalyvae.options import Databases
from anomalyvae.recordings.bus.blocks import check_blocks
from anomalyvae.recordings.bus.canbus import in_order
from anomalyvae.recordings.bus.decode import Decoder
from anomalyvae.recordings.bus.frames import FD_LENGTHS, FRAME
from anomalyvae.recordings.bus.messages import missing_extra
from anomalyvae.recordings.log import Log, Signal, not_numbers
from anomalyvae.recordings.shared_stamps import SharedStamps
from anomalyvae.recordings.stamps import UNIX_FROM_S

_FRAMES = "CAN_DataFrame"
_EVENT = re.compile(r"(CAN|LIN|FLX|ETH|MOST|K)_\w*(Frame|Event)")
_NO_DATA = {"CAN_ErrorFrame", "CAN_RemoteFrame", "CAN_OverloadFrame", "LIN_ChecksumError", "LIN_TransmissionError"}
_PARTS = ("BusChannel", "ID", "IDE", "DLC", "DataLength", "DataBytes")
_TO_TEXT = {7, 8}  # types of conversions, in MDF 4: of values, of ranges
_VARYING = {1, 7}  # types of channels with values of varying length
_MOST_BYTES = 64  # in a frame
_TIME = 1  # type of a group that is synchronised by time, not by angle or distance
_BUS_EVENT = 2  # flag of a group of events on a bus
_ROWS, _BYTES = 1 << 16, 1 << 23  # read at once


class _Channel(NamedTuple):
    """A measured channel."""

    group: int
    label: str  # of the group
    place: int  # in the group
    name: str
    unit: str
    reason: str  # why it is not a signal; empty if it is one


class _Group(NamedTuple):
    """Channels that share their stamps."""

    number: int  # in the file
    rows: int
    row_bytes: int
    channels: list[tuple[int, Signal]]  # the place in the group, and a signal without samples


def mdf_pieces(
    path: Path, wanted: list[str] | None = None, *, databases: Databases = None, identifiers: bool = False
) -> Iterator[Log]:
    """Read a measurement file in pieces of about 65,000 rows of the fastest group, or 8 MB.

    With ``identifiers``, only frames are read, as if they could not be decoded.
    """
    decoder = Decoder(databases, wanted, str(path), identifiers=identifiers)
    with _opened(path) as mdf:
        start = _guarded(path, _start, mdf)
        groups, left_out = _guarded(path, _groups, mdf, set(decoder.names))
        names = [signal.name for group in groups for _, signal in group.channels]
        decoder.check([*names, *left_out])
        for name in wanted or ():
            if name in left_out:
                raise not_numbers(name, str(path), left_out[name])
        if identifiers:
            groups = []
        elif wanted is not None:
            groups = [group._replace(channels=[c for c in group.channels if c[1].name in wanted]) for group in groups]
            groups = [group for group in groups if group.channels]
        sources = [in_order(_table(path, mdf, group), f"group {group.number} of {path}") for group in groups]
        if wanted is None or not set(wanted) <= set(names):
            sources += _frame_sources(path, mdf)
        if decoder.lists_identifiers:
            _list_buses(path, mdf, decoder)
        if wanted is None:
            _warn_of_other_frames(path, mdf)
        shared = SharedStamps()
        for stretch in in_step(sources):
            found: dict[str, Signal] = {}
            for group, rows in zip(groups, stretch, strict=False):
                found |= _measured(group, rows, shared)
            if len(stretch) > len(groups):
                found |= decoder.decode(_in_one(stretch[len(groups) :]))
            yield Log(path.stem, start, decoder.completed(found), {**decoder.left_out, **left_out})
    decoder.finish(others=bool(groups if identifiers else names))
    shared.warn(path)


def mdf_counts(
    path: Path, wanted: None = None, *, databases: Databases = None
) -> Iterator[tuple[Signal, int, float, float]]:
    """Yield every signal, how many more samples it has, and the first and last of their stamps in seconds.

    Measured channels are counted by the headers; their values are not read, so errors in them are not found.
    """
    decoder = Decoder(databases, wanted, str(path))
    with _opened(path) as mdf:
        groups, _ = _guarded(path, _groups, mdf, set(decoder.names))
        if decoder.lists_identifiers:
            _list_buses(path, mdf, decoder)
        for group in groups:
            if group.rows:
                first_s, last_s = (_stamp(path, mdf, group, row) for row in (0, group.rows - 1))
                yield from ((signal, group.rows, first_s, last_s) for _, signal in group.channels)
        frames = _frame_sources(path, mdf)
        for stretch in in_step(frames) if frames else ():
            for signal in decoder.decode(_in_one(stretch)).values():
                yield signal, len(signal.time_s), signal.time_s[0], signal.time_s[-1]
    decoder.finish(others=bool(groups))


def _frame_sources(path: Path, mdf: Any) -> list[Iterator[np.ndarray]]:
    """Return the recorded frames of each group, in order of time."""
    return [
        in_order(_frames(path, mdf, number, parts), f"group {number} of {path}")
        for number, parts in _guarded(path, _frame_groups, mdf)
    ]


def _list_buses(path: Path, mdf: Any, decoder: Decoder) -> None:
    for number, parts in _guarded(path, _frame_groups, mdf):
        decoder.list_buses(_frames(path, mdf, number, parts))


def in_step(sources: list[Iterator[np.ndarray]]) -> Iterator[list[np.ndarray]]:
    """Advance through several sources of rows together; each yields arrays with an increasing field ``time_s``.

    Yields the next rows of each source, up to the moment that all of them have reached: no later row is older. Yields
    at least once, as each source does. Rows with the same stamp stay together, if the sources keep them together.
    """
    held = [next(source) for source in sources]
    running = set(range(len(sources)))
    while True:
        for place in sorted(running):
            while not len(held[place]) and place in running:
                rows = next(sources[place], None)
                if rows is None:
                    running.discard(place)
                else:
                    held[place] = rows
        until = min((held[place]["time_s"][-1] for place in running), default=np.inf)
        counts = [int(np.searchsorted(rows["time_s"], until, side="right")) for rows in held]
        yield [rows[:count] for rows, count in zip(held, counts, strict=True)]
        held = [rows[count:] for rows, count in zip(held, counts, strict=True)]
        if not running:
            return


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a measurement file; close it and remove temporary files afterwards."""
    try:
        from asammdf import MDF
    except ImportError as error:
        raise missing_extra(error) from error
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty, not a measurement file. Record it again.")
    check_blocks(path)
    with tempfile.TemporaryDirectory(prefix="anomalyvae-") as folder:
        source, mode = path, "rb"
        with path.open("rb") as file:
            if file.read(8) == b"UnFinMF ":  # asammdf completes it in place, so in a copy
                source, mode = Path(shutil.copyfile(path, Path(folder) / path.name)), "r+b"
        with source.open(mode) as file:
            mdf = _guarded(path, MDF, file, temporary_folder=folder, process_bus_logging=False, use_display_names=False)
            try:
                yield mdf
            finally:
                _guarded(path, mdf.close)


def _guarded(path: Path, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call asammdf without what it prints; turn any of its errors into one that names the file."""
    logger = logging.getLogger("asammdf")
    disabled, logger.disabled = logger.disabled, True
    try:
        with redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
            return call(*args, **kwargs)
    except Exception as error:  # asammdf raises errors of any type
        traceback.clear_frames(error.__traceback__)  # they hold files, as do cycles of asammdf's objects,
        gc.collect()  # and the folder of these files is about to be removed
        raise ValueError(
            f"{path} cannot be read as MDF ({type(error).__name__}: {str(error)[:200]}). Repair the file with the "
            f"logger's software, or copy it again."
        ) from error
    finally:
        logger.disabled = disabled


def _start(mdf: Any) -> pd.Timestamp | None:
    start = pd.Timestamp(mdf.header.start_time)
    start = start.tz_localize("UTC") if start.tzinfo is None else start.tz_convert("UTC")
    return start.round("us") if start.timestamp() >= UNIX_FROM_S else None


def _groups(mdf: Any, taken: set[str]) -> tuple[list[_Group], dict[str, str]]:
    """Return the groups of measured channels, and the channels that are not signals, with what they hold."""
    channels = list(_channels(mdf))
    short = Counter(channel.name for channel in channels)
    long = Counter((channel.label, channel.name) for channel in channels)
    own = Counter((channel.group, channel.name) for channel in channels)
    groups: dict[int, _Group] = {}
    left_out: dict[str, str] = {}
    for number, label, place, name, unit, reason in channels:
        if short[name] > 1 or name in taken:
            prefix = f"group {number}" if own[number, name] == 1 else f"group {number}.channel {place}"
            name = f"{label if long[label, name] == 1 else prefix}.{name}"
        if reason:
            left_out[name] = reason
            continue
        group = mdf.groups[number].channel_group
        rows = _Group(number, group.cycles_nr, group.samples_byte_nr, [])
        signal = Signal(name, np.empty(0), np.empty(0), unit, label)
        groups.setdefault(number, rows).channels.append((place, signal))
    return list(groups.values()), left_out


def _channels(mdf: Any) -> Iterator[_Channel]:
    """Yield the measured channels; one sample of each shows its type and unit."""
    for number, group in enumerate(mdf.groups):
        if _has_bus_events(mdf, group) or any(channel.name == _FRAMES for channel in group.channels):
            continue
        master = mdf.masters_db.get(number)
        places = [place for place in range(len(group.channels)) if place != master]
        varying = {p for p in places if mdf.version >= "4.00" and group.channels[p].channel_type in _VARYING}
        reason = _without_stamps(mdf, number, master)
        asked = [] if reason else [place for place in places if place not in varying]
        probes = dict(zip(asked, mdf.select([(None, number, p) for p in asked], 0, False, True, True, 1), strict=True))
        label = str(getattr(group.channel_group, "acq_name", None) or f"group {number}")
        for place in places:
            probe = probes.get(place)
            why = reason or (_why_not(probe) if probe else "text or bytes of varying length")
            yield _Channel(number, label, place, group.channels[place].name, (probe and probe.unit) or "", why)


def _has_bus_events(mdf: Any, group: Any) -> bool:
    return bool(getattr(group.channel_group, "flags", 0) & _BUS_EVENT) and mdf.version >= "4.10"


def _without_stamps(mdf: Any, index: int, master: int | None) -> str:
    if master is None:
        return "samples without time stamps"
    if mdf.version >= "4.00" and mdf.groups[index].channels[master].sync_type != _TIME:
        return "samples by angle, distance or number, not by time"
    return "" if mdf.groups[index].channel_group.samples_byte_nr else "no stored values"


def _why_not(probe: Any) -> str:
    if probe.samples.ndim > 1 or probe.samples.dtype.names:
        return "arrays or structures"
    return "" if probe.samples.dtype.kind in "iufb" else "text or bytes"


def _gives(conversion: Any) -> set[str]:
    """What a conversion gives: "text", "number" or both."""
    if getattr(conversion, "conversion_type", None) not in _TO_TEXT:
        return {"number"}
    parts = conversion.referenced_blocks.values()
    return {"text" for part in parts if isinstance(part, bytes) and part}.union(
        *(_gives(part) for part in parts if part and not isinstance(part, bytes))
    )


def _steps(rows: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield the first row and the number of rows to read at once; at least once."""
    step = max(1, min(_ROWS, _BYTES // max(row_bytes, 1)))
    for first in range(0, max(rows, 1), step):
        yield first, min(step, max(rows - first, 0))


def _stamp(path: Path, mdf: Any, group: _Group, row: int) -> float:
    found = _guarded(path, mdf.get_master, group.number, None, row, 1)
    if not len(found):
        raise ValueError(
            f"Group {group.number} of {path} ends before row {row:,} of the {group.rows:,} in its header. "
            f"Copy the file again."
        )
    return float(found[0])


def _table(path: Path, mdf: Any, group: _Group) -> Iterator[np.ndarray]:
    """Yield the rows of measured channels: ``time_s`` and ``values``."""
    kind = np.dtype([("time_s", "f8"), ("values", "f8", (len(group.channels),))])
    asked = [(None, group.number, place) for place, _ in group.channels]
    channels = mdf.groups[group.number].channels
    mixed = [c for c, (place, _) in enumerate(group.channels) if len(_gives(channels[place].conversion)) > 1]
    for first, count in _steps(group.rows, group.row_bytes):
        found = _guarded(path, mdf.select, asked, first, False, False, True, count) if count else []
        rows = np.zeros(len(found[0].timestamps) if found else 0, dtype=kind)
        for column, signal in enumerate(found):
            if len(signal.samples) != len(rows) or _why_not(signal):
                raise ValueError(
                    f"Channel {signal.name!r} of {path} has {len(signal.samples)} values of type "
                    f"{signal.samples.dtype} for {len(rows)} stamps, not one number each. Copy the file again."
                )
            rows["time_s"], rows["values"][:, column] = signal.timestamps, signal.samples
            if signal.invalidation_bits is not None:
                rows["values"][np.asarray(signal.invalidation_bits, dtype=bool), column] = np.nan
        if mixed and count:
            in_text = _guarded(path, mdf.select, [asked[c] for c in mixed], first, False, False, False, count)
            for column, signal in zip(mixed, in_text, strict=True):
                # Samples that stand for a text are NaN here; if all do, the channel is one of text.
                is_text = slice(None) if _why_not(signal) else np.isnan(signal.samples)
                rows["values"][is_text, column] = np.nan
        yield rows


def _measured(group: _Group, rows: np.ndarray, shared: SharedStamps) -> dict[str, Signal]:
    signals = [signal for _, signal in group.channels]
    stamps, values = shared.means([signal.name for signal in signals], rows["time_s"], rows["values"])
    time_s = np.ascontiguousarray(stamps)
    return {
        signal.name: replace(signal, time_s=time_s, values=np.ascontiguousarray(values[:, column]))
        for column, signal in enumerate(signals)
    }


def _in_one(frames: list[np.ndarray]) -> np.ndarray:
    """Join the frames of several groups in order of time."""
    if len(frames) == 1:
        return frames[0]
    every = np.concatenate(frames)
    return every[np.argsort(every["time_s"], kind="stable")]


def _frame_groups(mdf: Any) -> list[tuple[int, dict[str, int]]]:
    """Return the groups of recorded CAN frames: the number, and the places of the channels of a frame."""
    found = []
    for number, group in enumerate(mdf.groups):
        parts = {
            channel.name.rpartition(".")[2]: place
            for place, channel in enumerate(group.channels)
            if channel.name.startswith(f"{_FRAMES}.")
        }
        if {"ID", "DataBytes"} <= set(parts) and {"DataLength", "DLC"} & set(parts) and group.channel_group.cycles_nr:
            found.append((number, {name: parts[name] for name in _PARTS if name in parts}))
    return found


def _warn_of_other_frames(path: Path, mdf: Any) -> None:
    """Warn of recorded frames that are not read; those in ``_NO_DATA`` have nothing to read."""
    read = {number for number, _ in _frame_groups(mdf)}
    others: Counter[str] = Counter()
    for number, group in enumerate(mdf.groups):
        kinds = [channel.name.partition(".")[0] for channel in group.channels if "." in channel.name]
        events = _has_bus_events(mdf, group) or any(map(_EVENT.match, kinds))
        if number not in read and events and not _NO_DATA & set(kinds):
            others[kinds[0] if kinds else "without a name"] += int(group.channel_group.cycles_nr)
    others = +others
    if others:
        shown = ", ".join(f"{kind} {count:,}" for kind, count in others.items())
        warnings.warn(
            f"{path} has {others.total():,} frames that are not read ({shown}); those of CAN with identifier, length "
            f"and data are. Convert the others to signals with the logger's software.",
            stacklevel=3,
        )


def _frames(path: Path, mdf: Any, number: int, parts: dict[str, int]) -> Iterator[np.ndarray]:
    """Yield recorded frames as ``FRAME``."""
    group = mdf.groups[number]
    varying = group.channels[parts["DataBytes"]].channel_type in _VARYING
    asked = {name: (None, number, place) for name, place in parts.items() if name != "DataBytes" or not varying}
    for first, count in _steps(group.channel_group.cycles_nr, group.channel_group.samples_byte_nr):
        found = _guarded(path, mdf.select, list(asked.values()), first, True, False, True, count)
        columns = {name: signal.samples for name, signal in zip(asked, found, strict=True)}
        if varying:
            columns |= _guarded(path, _varying_bytes, mdf, number, parts["DataBytes"], first, count)
        yield _guarded(path, _as_frames, columns, found[0].timestamps)


def _varying_bytes(mdf: Any, number: int, place: int, first: int, count: int) -> dict[str, np.ndarray]:
    """Return the bytes of frames that are stored outside of their records, and their lengths.

    asammdf trusts lengths and offsets, so a damaged file crashes the process. Here a frame without bytes at its place
    has length 0.
    """
    group, store = mdf.groups[number], mdf._mdf
    size = group.channel_group.samples_byte_nr + group.channel_group.invalidation_bytes_nr
    at = group.channels[place].byte_offset
    records = [
        np.frombuffer(fragment.data, dtype=np.uint8).reshape(-1, size)[:, at : at + 8].copy()
        for fragment in store._load_data(group, record_offset=first, record_count=count)
    ]
    offsets = np.concatenate(records).view("<u8")[:, 0]
    least = offsets.min()
    stored = store._load_signal_data(group, place, (int(least), int(offsets.max())))
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
