"""MCAP files and ROS bags: messages on topics become signals.

Rules, the same for all of them:

- **Formats.** MCAP (``.mcap``) with messages in JSON, Protobuf, ROS 1 or ROS 2 (CDR); ROS 1 bags (``.bag``); ROS 2
  bags: the folder that holds ``metadata.yaml``, or one ``.db3`` file of it. A topic in any other encoding is left out.
- **Compression and splits.** ROS 1 bags with chunks in BZ2 or LZ4, ROS 2 bags compressed by zstd as files (unpacked to
  a temporary folder first) or message by message, and ROS 2 bags in several files are read, the latter two and files
  compressed as a whole by their folder. Each file of a split ROS 1 bag is a recording of its own.
- **Names.** The topic, then the way to the field: ``/imu.linear_acceleration.x``, ``/joints.position[2]``.
- **Numbers.** Numbers and truth values (0 and 1) are signals, those of a list by their place in it if it has at most
  64. Longer lists (images, scans, point clouds), bytes, text and lists of messages are left out. A field that a
  message does not have is a sample that was not taken.
- **Time.** A message's own stamp (``header.stamp``, or ``timestamp`` as in Foxglove's schemas) where it is set and
  within 10 s of the log time; otherwise the log time. A stamp further away is of another clock, and would put its topic
  beside the others.
- **Start.** The first log time of the file. Log times that are no unix times stay as they are.
- **Order.** Samples are sorted by time; those of a topic with the same stamp become one, the mean. A file whose log
  times jump back by more than 10 s (and that has no index by which to sort it) is refused.
- **Damage.** A file that is broken is refused. An MCAP file without an end, whose recorder was killed, is read as far
  as it goes, with a warning.
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
from anomalyvae.recordings.log import Log, Signal, nearest

_LONGEST = 64  # of a list that becomes signals
_LATE_NS = 10 * 10**9
_UNIX_FROM_NS = 10**17  # March 1973, as for tables
_PIECE = 20_000  # messages
_SECONDS, _NANOSECONDS = ("sec", "secs", "seconds"), ("nanosec", "nsec", "nsecs", "nanos")  # as formats call them
_Number = (bool, int, float, np.number, np.bool_)


def read_topics(
    path: Path,
    *,
    recording: str,
    time: str | None = None,
    signals: Iterable[str] | None = None,
    databases: Any = None,
) -> Log:
    """Read an MCAP file or a ROS bag, as :func:`~anomalyvae.recordings.read_log` does.

    Raises
    ------
    ValueError
        The file is damaged or empty, it has no such signal, or ``time`` or ``databases`` are given: messages have
        stamps, and describe themselves.

    Warns
    -----
    UserWarning
        The file has no end, and was read as far as it goes.
    """
    if time is not None:
        raise ValueError(f"Got time={time!r} for {path}, whose messages have stamps, expected none. Leave it out.")
    wanted = None if signals is None else list(signals)
    _refuse(databases, path)
    (log,) = _logs(path, recording, wanted, None)
    return log


def topic_pieces(path: Path, signals: Iterable[str] | None, *, databases: Any = None) -> Iterator[Log]:
    """Read the same piece by piece: successive logs with the next samples of these signals, or of all."""
    _refuse(databases, path)
    return _logs(path, path.stem, None if signals is None else list(signals), _PIECE)


def _refuse(databases: Any, path: Path) -> None:
    if databases is not None:
        raise ValueError(f"Got databases for {path}, whose messages describe themselves, expected none. Omit them.")


def _first_messages(path: Path) -> tuple[list[str], dict[str, str]]:
    """Return the names of signals, as the first message of each topic tells, and what is left out, and why."""
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


# --- samples --------------------------------------------------------------------------------------------


def _logs(path: Path, recording: str, wanted: list[str] | None, messages: int | None) -> Iterator[Log]:
    """Yield the recording in pieces of so many messages, or whole."""
    keep = None if wanted is None else {way for name in wanted for way in _ways(name)}
    samples: dict[str, list[tuple[int, dict[str, float]]]] = {}
    left_out: dict[str, str] = {}
    seen: set[str] = set()
    newest_ns = count = 0
    with closing(open_topics(path)) as source:
        zero_ns = source.start_ns if source.start_ns >= _UNIX_FROM_NS else 0
        start = pd.Timestamp(zero_ns, unit="ns", tz="UTC").round("us") if zero_ns else None
        for raw, message in decoded(source, path, lambda topic: keep is None or topic in keep):
            if raw.log_ns < newest_ns - _LATE_NS:
                raise ValueError(
                    f"Got a message of {raw.topic} in {path} that was logged {(newest_ns - raw.log_ns) / 1e9:g} s "
                    f"before one ahead of it, expected them in order of time. Sort the file: mcap sort."
                )
            newest_ns = max(newest_ns, raw.log_ns)
            found: dict[str, float] = {}
            time_ns = _take(raw, message, keep, found, left_out)
            if found:
                samples.setdefault(raw.topic, []).append((time_ns, found))
            count += 1
            if messages is not None and count % messages == 0:
                # What is still to come was logged at most 10 s earlier, and stamped at most 10 s before that.
                log = _complete(samples, newest_ns - 2 * _LATE_NS, zero_ns, recording, start, left_out)
                seen.update(log.signals)
                yield log
        log = _complete(samples, None, zero_ns, recording, start, left_out)
    for name in wanted or ():
        if name not in seen and name not in log.signals:
            _refuse_unknown(name, path, recording)
    if wanted is not None:
        log = dataclasses.replace(log, left_out={})
    yield log


def _ways(name: str) -> Iterator[str]:
    """Yield a name and everything on the way to it, the topic too."""
    yield name
    for place, letter in enumerate(name):
        if letter in ".[":
            yield name[:place]


def _refuse_unknown(name: str, path: Path, recording: str) -> None:
    known, left_out = _first_messages(path)
    for way in _ways(name):
        if way in left_out:
            Log(recording, None, {}, {name: left_out[way]})[name]
    raise ValueError(f"Got signal {name!r}, expected one of the {len(known)} of {path}. {nearest(name, known)}")


def _complete(
    samples: dict[str, list[tuple[int, dict[str, float]]]],
    before_ns: int | None,
    zero_ns: int,
    recording: str,
    start: pd.Timestamp | None,
    left_out: dict[str, str],
) -> Log:
    """Return the samples before a time, or all, and forget them."""
    signals: dict[str, Signal] = {}
    for topic, rows in samples.items():
        done = [row for row in rows if before_ns is None or row[0] < before_ns]
        samples[topic] = [row for row in rows if not (before_ns is None or row[0] < before_ns)]
        if not done:
            continue
        names = list(dict.fromkeys(name for _, found in done for name in found))
        values = np.array([[found.get(name, np.nan) for name in names] for _, found in done])
        stamps, values = _in_order(np.array([time_ns for time_ns, _ in done], dtype=np.int64), values)
        time_s = (stamps - zero_ns) / 1e9
        for column, name in enumerate(names):
            signals[name] = Signal(name, time_s, np.ascontiguousarray(values[:, column]), source=topic)
    return Log(recording, start, signals, {name: reason for name, reason in left_out.items() if name not in signals})


def _in_order(stamps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort samples by time; of those with the same stamp, take the mean of what each signal has there."""
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


def _take(raw: Raw, message: Any, keep: set[str] | None, found: dict[str, float], left_out: dict[str, str]) -> int:
    """Collect the numbers of a message by name; return its time in nanoseconds."""
    if isinstance(raw.decode, str):
        left_out[raw.topic] = raw.decode
        return raw.log_ns
    field, stamp_ns = _stamp(message)
    if field:
        left_out[f"{raw.topic}.{field}"] = "the time of the message"
    _collect(message, raw.topic, keep, found, left_out)
    return stamp_ns if stamp_ns and abs(stamp_ns - raw.log_ns) <= _LATE_NS else raw.log_ns


def _stamp(message: Any) -> tuple[str, int]:
    """Return the field that holds a message's own stamp, and the stamp in nanoseconds, 0 where it is not set."""
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


def _collect(value: Any, name: str, keep: set[str] | None, found: dict[str, float], left_out: dict[str, str]) -> None:
    if name in left_out or (keep is not None and name not in keep):
        return
    if isinstance(value, _Number):
        found[name] = float(value)
    elif isinstance(value, (str, bytes, bytearray, memoryview)):
        left_out[name] = "text" if isinstance(value, str) else "bytes"
    elif value is None:
        return
    elif (parts := _parts(value)) is not None:
        for part, inner in parts:
            _collect(inner, f"{name}.{part}", keep, found, left_out)
    elif len(value) > _LONGEST:
        left_out[name] = f"lists of more than {_LONGEST} values"
    elif all(isinstance(inner, _Number) for inner in value):
        for place, inner in enumerate(value):
            _collect(inner, f"{name}[{place}]", keep, found, left_out)
    else:
        left_out[name] = "lists of something other than numbers"


def _parts(value: Any) -> Iterable[tuple[str, Any]] | None:
    """Return the fields of a message by name, those that are there; None for what is no message."""
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
