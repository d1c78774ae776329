"""Measurement files (MDF 3 and 4: ``.mf4``, ``.mdf``, ``.dat``), read with asammdf.

Rules:

- **Measured channels** are signals, each with the stamps of its group. Conversions to units are applied; a conversion
  to text is not, the number stays. If only some numbers stand for a text, such as "not available", and others are
  converted to a unit, the former are NaN. So is a sample that is marked invalid, by itself or with its channel.
  Text, bytes, arrays, complex numbers, and channels of a group without samples or stamps are left out.
- **Recorded frames** (groups ``CAN_DataFrame``) are decoded by :mod:`anomalyvae.recordings.bus.decode`. Frames of LIN,
  FlexRay and other buses are left out, with a warning that counts them.
- **Names.** A channel keeps its name if neither another channel nor a signal of the databases has it. Otherwise it is
  ``Group.Channel``, or ``group 3.Channel`` if that is not unique or the group has no name, or
  ``group 3.channel 5.Channel`` if the group has that name several times.
- **Time.** Zero is the file's start time (UTC if it has no zone). Stamps in another unit of time than seconds are
  converted; with a unit that is none of time, the group is left out. Samples up to a second late are sorted in; if the
  clock jumps back further, the file is refused. Samples with the same stamp become one, their mean;
  a warning counts those that differ.
- **Cut files.** A file that its logger did not close ("unfinalized") is read as far as it goes; a file that is cut or
  damaged otherwise is refused, see :mod:`anomalyvae.recordings.bus.blocks`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anomalyvae.options import Databases
from anomalyvae.recordings.bus.canbus import in_order
from anomalyvae.recordings.bus.decode import Decoder
from anomalyvae.recordings.bus.mdf_file import VARYING, MdfFile, open_mdf
from anomalyvae.recordings.bus.mdf_frames import FRAMES, all_frames, frame_sources, warn_of_other_frames
from anomalyvae.recordings.log import Log, Signal, not_numbers
from anomalyvae.recordings.shared_stamps import SharedStamps
from anomalyvae.tables.names import PER_SECOND

_TO_TEXT = {7, 8}  # types of conversions, in MDF 4: of values, of ranges
_ALL_INVALID = 1  # flag of a channel
_TIME = 1  # type of a group that is synchronised by time, not by angle or distance


class _Channel(NamedTuple):
    """A measured channel."""

    group: int
    label: str  # of the group
    channel: int  # its index in the group
    name: str
    unit: str
    reason: str  # why it is not a signal; empty if it is one


class _Group(NamedTuple):
    """Channels that share their stamps."""

    number: int  # in the file
    rows: int
    channels: list[tuple[int, Signal]]  # the index in the group, and the signal without samples


def mdf_pieces(
    path: Path, wanted: list[str] | None = None, *, databases: Databases = None, identifiers: bool = False
) -> Iterator[Log]:
    """Read a measurement file in pieces of about 65,000 rows of the fastest group, or 8 MB.

    With ``identifiers``, only frames are read, as if they could not be decoded.
    """
    decoder = Decoder(databases, wanted, str(path), identifiers=identifiers)
    with open_mdf(path) as file:
        start = file.call(lambda: file.start)
        groups, left_out = file.call(_groups, file, set(decoder.names))
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
        sources = [in_order(_table(file, group), f"group {group.number} of {path}") for group in groups]
        if wanted is None or not set(wanted) <= set(names):
            sources += frame_sources(file)
        if decoder.lists_identifiers:
            decoder.list_buses(all_frames(file))
        if wanted is None:
            warn_of_other_frames(file)
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
    with open_mdf(path) as file:
        groups, _ = file.call(_groups, file, set(decoder.names))
        if decoder.lists_identifiers:
            decoder.list_buses(all_frames(file))
        for group in groups:
            first_s, last_s = (file.stamp_s(group.number, row) for row in (0, group.rows - 1))
            yield from ((signal, group.rows, first_s, last_s) for _, signal in group.channels)
        frames = frame_sources(file)
        for stretch in in_step(frames) if frames else ():
            for signal in decoder.decode(_in_one(stretch)).values():
                yield signal, len(signal.time_s), signal.time_s[0], signal.time_s[-1]
    decoder.finish(others=bool(groups))


def in_step(sources: list[Iterator[np.ndarray]]) -> Iterator[list[np.ndarray]]:
    """Advance through several sources of rows together; each yields arrays with an increasing field ``time_s``.

    Yields the next rows of each source, up to the moment that all of them have reached: no later row is older. Yields
    at least once, as each source does. Rows with the same stamp stay together, if the sources keep them together.
    """
    held = [next(source) for source in sources]
    running = set(range(len(sources)))
    while True:
        for index in sorted(running):
            while not len(held[index]) and index in running:
                rows = next(sources[index], None)
                if rows is None:
                    running.discard(index)
                else:
                    held[index] = rows
        until = min((held[index]["time_s"][-1] for index in running), default=np.inf)
        counts = [int(np.searchsorted(rows["time_s"], until, side="right")) for rows in held]
        yield [rows[:count] for rows, count in zip(held, counts, strict=True)]
        held = [rows[count:] for rows, count in zip(held, counts, strict=True)]
        if not running:
            return


def _groups(file: MdfFile, taken: set[str]) -> tuple[list[_Group], dict[str, str]]:
    """Return the groups of measured channels, and the channels that are not signals, with what they hold."""
    channels = list(_channels(file))
    short = Counter(channel.name for channel in channels)
    long = Counter((channel.label, channel.name) for channel in channels)
    own = Counter((channel.group, channel.name) for channel in channels)
    groups: dict[int, _Group] = {}
    left_out: dict[str, str] = {}
    for number, label, index, name, unit, reason in channels:
        if short[name] > 1 or name in taken:
            prefix = f"group {number}" if own[number, name] == 1 else f"group {number}.channel {index}"
            name = f"{label if long[label, name] == 1 else prefix}.{name}"
        if reason:
            left_out[name] = reason
            continue
        rows = _Group(number, file.groups[number].channel_group.cycles_nr, [])
        signal = Signal(name, np.empty(0), np.empty(0), unit, label)
        groups.setdefault(number, rows).channels.append((index, signal))
    return list(groups.values()), left_out


def _channels(file: MdfFile) -> Iterator[_Channel]:
    """Yield the measured channels; one sample of each shows its type."""
    for number, group in enumerate(file.groups):
        if file.has_bus_events(number) or any(channel.name == FRAMES for channel in group.channels):
            continue
        master = file.mdf.masters_db.get(number)
        indices = [index for index in range(len(group.channels)) if index != master]
        varying = {p for p in indices if file.is_4 and group.channels[p].channel_type in VARYING}
        reason = _without_stamps(file, number, master)
        asked = [] if reason else [index for index in indices if index not in varying]
        probes = dict(zip(asked, file.select(number, asked, 0, 1), strict=True))
        label = str(getattr(group.channel_group, "acq_name", None) or f"group {number}")
        for index in indices:
            why = reason or ("text or bytes of varying length" if index in varying else _why_not(probes[index]))
            yield _Channel(number, label, index, group.channels[index].name, file.unit(number, index), why)


def _without_stamps(file: MdfFile, number: int, master: int | None) -> str:
    if master is None:
        return "samples without time stamps"
    if file.is_4 and file.groups[number].channels[master].sync_type != _TIME:
        return "samples by angle, distance or number, not by time"
    if (unit := file.unit_of_stamps(number)) not in PER_SECOND:
        return f"samples with stamps in {unit!r}, which is no unit of time"
    group = file.groups[number].channel_group
    return "" if group.samples_byte_nr and group.cycles_nr else "no samples"


def _why_not(probe: Any) -> str:
    kind = probe.samples.dtype
    if probe.samples.ndim > 1 or kind.names:
        return "arrays or structures"
    return "" if kind.kind in "iufb" else "complex numbers" if kind.kind == "c" else "text or bytes"


def _gives(conversion: Any) -> set[str]:
    """What a conversion gives: "text", "number" or both."""
    if getattr(conversion, "conversion_type", None) not in _TO_TEXT:
        return {"number"}
    parts = conversion.referenced_blocks.values()
    return {"text" for part in parts if isinstance(part, bytes) and part}.union(
        *(_gives(part) for part in parts if part and not isinstance(part, bytes))
    )


def _table(file: MdfFile, group: _Group) -> Iterator[np.ndarray]:
    """Yield the rows of measured channels: ``time_s`` and ``values``."""
    kind = np.dtype([("time_s", "f8"), ("values", "f8", (len(group.channels),))])
    indices = [index for index, _ in group.channels]
    channels = file.groups[group.number].channels
    mixed = [c for c, index in enumerate(indices) if len(_gives(channels[index].conversion)) > 1]
    invalid = [c for c, index in enumerate(indices) if file.is_4 and channels[index].flags & _ALL_INVALID]
    for first, count in file.steps(group.number):
        found = file.select(group.number, indices, first, count)
        rows = np.zeros(len(found[0].timestamps), dtype=kind)
        rows["time_s"] = file.seconds(group.number, found[0].timestamps)
        for column, signal in enumerate(found):
            if len(signal.samples) != len(rows) or _why_not(signal):
                raise ValueError(
                    f"Channel {signal.name!r} of {file.path} has {len(signal.samples)} values of type "
                    f"{signal.samples.dtype} for {len(rows)} stamps, not one number each. Copy the file again."
                )
            rows["values"][:, column] = signal.samples
            if signal.invalidation_bits is not None:
                rows["values"][np.asarray(signal.invalidation_bits, dtype=bool), column] = np.nan
        rows["values"][:, invalid] = np.nan
        if mixed:
            in_text = file.select(group.number, [indices[c] for c in mixed], first, count, in_numbers=False)
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
