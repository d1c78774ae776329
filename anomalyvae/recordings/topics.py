"""MCAP files and ROS bags: messages on topics become signals.

The rules are the same for all of them:

- **Formats.** MCAP (``.mcap``) with messages in JSON, Protobuf, ROS 1 or ROS 2 (CDR); ROS 1 bags (``.bag``); ROS 2
  bags: the folder that holds ``metadata.yaml``, or one ``.db3`` file of it. A topic in any other encoding is left out.
- **Compression and splits.** ROS 1 bags with chunks in BZ2 or LZ4, ROS 2 bags compressed by zstd as files (unpacked to
  a temporary folder first) or message by message, and ROS 2 bags in several files are read, the latter two and files
  compressed as a whole by their folder. Each file of a split ROS 1 bag is a recording of its own.
- **Names.** The topic, then the path to the field: ``/imu.linear_acceleration.x``, ``/joints.position[2]``.
- **Numbers.** Numbers and truth values (0 and 1) are signals. Each element of a list is a signal if the list has at
  most 64. Longer lists (images, scans, point clouds), bytes, text and lists of messages are left out. If a message
  lacks a field, that sample is missing.
- **Time.** A message's own stamp (``header.stamp``, or ``timestamp`` as in Foxglove's schemas) if it is set and within
  10 s of the log time; otherwise the log time. A stamp further away comes from another clock, and would shift its topic
  against the others.
- **Start.** The first log time of the file. Log times that are not unix times stay as they are.
- **Order.** Samples are sorted by time; those of a topic with the same stamp become one, their mean. A file
  without an index whose log times jump back by more than 10 s is refused.
- **Damage.** A broken file is refused. An MCAP file without an end, whose recorder was killed, is read as far as it
  goes, with a warning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anomalyvae.recordings.bags import Raw, decoded, open_topics
from anomalyvae.recordings.log import Log, Signal, nearest, not_numbers

_LONGEST = 64  # elements of a list that becomes signals
_LATE_NS = 10 * 10**9
_UNIX_FROM_NS = 10**17  # March 1973, as for tables
_PIECE = 20_000  # messages
_SECONDS, _NANOSECONDS = ("sec", "secs", "seconds"), ("nanosec", "nsec", "nsecs", "nanos")  # as formats call them
_Number = (bool, int, float, np.number, np.bool_)


def topic_pieces(path: Path, signals: list[str] | None = None) -> Iterator[Log]:
    """Read an MCAP file or a ROS bag in pieces of about 20,000 messages."""
    wanted = None if signals is None else {prefix for name in signals for prefix in _prefixes(name)}
    waiting: dict[str, list[tuple[int, dict[str, float]]]] = {}
    left_out: dict[str, str] = {}
    seen: set[str] = set()
    newest_ns = count = 0

    with closing(open_topics(path)) as source:
        zero_ns = source.start_ns if source.start_ns >= _UNIX_FROM_NS else 0
        start = pd.Timestamp(zero_ns, unit="ns", tz="UTC").round("us") if zero_ns else None

        def log_of(before_ns: float) -> Log:
            found = _complete(waiting, before_ns, zero_ns)
            seen.update(found)
            others = {} if signals is not None else {name: why for name, why in left_out.items() if name not in seen}
            return Log(path.name if path.is_dir() else path.stem, start, found, others)

        for raw, message in decoded(source, path, lambda topic: wanted is None or topic in wanted):
            if raw.log_ns < newest_ns - _LATE_NS:
                raise ValueError(
                    f"{path} has a message of {raw.topic} that was logged {(newest_ns - raw.log_ns) / 1e9:g} s before "
                    f"one ahead of it; messages are in order of time. Sort the file: mcap sort."
                )
            newest_ns = max(newest_ns, raw.log_ns)
            found: dict[str, float] = {}
            time_ns = _take(raw, message, wanted, found, left_out)
            if found:
                waiting.setdefault(raw.topic, []).append((time_ns, found))
            count += 1
            if count % _PIECE == 0:
                # Later messages were logged at most 10 s earlier, and stamped at most 10 s before that.
                yield log_of(newest_ns - 2 * _LATE_NS)
        last = log_of(np.inf)
    for name in signals or ():
        if name not in seen:
            _refuse_unknown(name, path)
    yield last


def _first_messages(path: Path) -> tuple[list[str], dict[str, str]]:
    """Return the signals and the fields left out in the first message of each topic, the latter with the reason."""
    found: dict[str, float] = {}
    left_out: dict[str, str] = {}
    with closing(open_topics(path)) as source:
        for topic in source.topics or ():
            for raw, message in islice(decoded(source, path, topic.__eq__), 1):
                _take(raw, message, None, found, left_out)
        seen: set[str] = set(source.topics or ())
        for raw, message in decoded(source, path, lambda topic: topic not in seen):
            seen.add(raw.topic)
            _take(raw, message, None, found, left_out)
    return list(found), left_out


def _prefixes(name: str) -> Iterator[str]:
    """Yield a name and the names of what it is a part of, the topic included."""
    yield name
    for place, letter in enumerate(name):
        if letter in ".[":
            yield name[:place]


def _refuse_unknown(name: str, path: Path) -> None:
    known, left_out = _first_messages(path)
    for prefix in _prefixes(name):
        if prefix in left_out:
            raise not_numbers(name, path.stem, left_out[prefix])
    raise ValueError(f"{path} has no signal {name!r} among its {len(known)}. {nearest(name, known)}")


# --- samples --------------------------------------------------------------------------------------------


def _complete(
    waiting: dict[str, list[tuple[int, dict[str, float]]]], before_ns: float, zero_ns: int
) -> dict[str, Signal]:
    """Return the samples before a time as signals, and remove them from those that wait."""
    signals: dict[str, Signal] = {}
    for topic, rows in waiting.items():
        done = [row for row in rows if row[0] < before_ns]
        waiting[topic] = [row for row in rows if row[0] >= before_ns]
        if not done:
            continue
        names = list(dict.fromkeys(name for _, found in done for name in found))
        values = np.array([[found.get(name, np.nan) for name in names] for _, found in done])
        stamps, values = _in_order(np.array([time_ns for time_ns, _ in done], dtype=np.int64), values)
        time_s = (stamps - zero_ns) / 1e9
        for column, name in enumerate(names):
            signals[name] = Signal(name, time_s, np.ascontiguousarray(values[:, column]), source=topic)
    return signals


def _in_order(stamps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort samples by time; those with the same stamp become their mean, signal by signal."""
    order = np.argsort(stamps, kind="stable")
    stamps, values = stamps[order], values[order]
    first = np.flatnonzero(np.concatenate(([True], np.diff(stamps) > 0)))
    if len(first) == len(stamps):
        return stamps, values
    taken = np.isfinite(values)
    count = np.add.reduceat(taken.astype(np.float64), first)
    total = np.add.reduceat(np.where(taken, values, 0.0), first)
    return stamps[first], np.where(count > 0, total / np.maximum(count, 1.0), np.nan)


# --- messages -------------------------------------------------------------------------------------------


def _take(raw: Raw, message: Any, wanted: set[str] | None, found: dict[str, float], left_out: dict[str, str]) -> int:
    """Collect the numbers of a message by name; return its time in nanoseconds."""
    if isinstance(raw.decode, str):
        left_out[raw.topic] = raw.decode
        return raw.log_ns
    field, stamp_ns = _stamp(message)
    if field:
        left_out[f"{raw.topic}.{field}"] = "the time of the message"
    _collect(message, raw.topic, wanted, found, left_out)
    return stamp_ns if stamp_ns and abs(stamp_ns - raw.log_ns) <= _LATE_NS else raw.log_ns


def _stamp(message: Any) -> tuple[str, int]:
    """Return the field that holds a message's own stamp, and the stamp in nanoseconds, 0 if it is not set."""
    header = _part(message, "header")
    for field, stamp in (("header", _part(header, "stamp")), ("timestamp", _part(message, "timestamp"))):
        seconds, nanoseconds = (
            next((part for name in names if type(part := _part(stamp, name)) is int), None)
            for names in (_SECONDS, _NANOSECONDS)
        )
        if seconds is not None and nanoseconds is not None:
            return field, seconds * 10**9 + nanoseconds
    return "", 0


def _part(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


def _collect(value: Any, name: str, wanted: set[str] | None, found: dict[str, float], left_out: dict[str, str]) -> None:
    if name in left_out or (wanted is not None and name not in wanted):
        return
    if isinstance(value, _Number):
        found[name] = float(value)
    elif isinstance(value, (str, bytes, bytearray, memoryview)):
        left_out[name] = "text" if isinstance(value, str) else "bytes"
    elif value is None:
        return
    elif (parts := _parts(value)) is not None:
        for part, inner in parts:
            _collect(inner, f"{name}.{part}", wanted, found, left_out)
    elif len(value) > _LONGEST:
        left_out[name] = f"lists of more than {_LONGEST} values"
    elif all(isinstance(inner, _Number) for inner in value):
        for place, inner in enumerate(value):
            _collect(inner, f"{name}[{place}]", wanted, found, left_out)
    else:
        left_out[name] = "lists of something other than numbers"


def _parts(value: Any) -> Iterable[tuple[str, Any]] | None:
    """Return the fields that a message has, by name; None if the value is not a message."""
    if isinstance(value, dict):
        return value.items()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return ((field, getattr(value, field)) for field in _fields(type(value)))
    descriptor = getattr(value, "DESCRIPTOR", None)
    if descriptor is None:
        return None
    present = (field for field in descriptor.fields if not field.has_presence or value.HasField(field.name))
    return ((field.name, getattr(value, field.name)) for field in present)


@lru_cache(maxsize=256)
def _fields(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind) if not field.name.startswith("__"))
