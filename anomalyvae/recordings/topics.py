"""MCAP files and ROS bags: messages on topics become signals.

The rules are the same for all of them:

- **Formats.** MCAP (``.mcap``) with messages in JSON, Protobuf, ROS 1 or ROS 2 (CDR); ROS 1 bags (``.bag``); ROS 2
  bags: the folder that holds ``metadata.yaml``, or one ``.db3`` file of it. A topic in any other encoding is left out.
- **Compression and splits.** ROS 1 bags with chunks in BZ2 or LZ4, ROS 2 bags compressed by zstd as files (unpacked to
  a temporary folder first) or message by message, and ROS 2 bags in several files are read, the latter two and files
  compressed as a whole by their folder. Each file of a split ROS 1 bag is a recording of its own.
- **Names.** The topic, then the path to the field: ``/imu.linear_acceleration.x``, ``/joints.position[2]``. If two
  fields get one name, as ``{"a.b": 1, "a": {"b": 2}}`` does, both are left out, with a warning.
- **Numbers.** Numbers and truth values (0 and 1) are signals. Each element of a list is a signal if the list has at
  most 64. Longer lists (images, scans, point clouds), bytes, text and lists of messages are left out. If a message
  lacks a field, that sample is missing. If a field holds numbers in some messages and something else in others, the
  latter are missing, with a warning that counts them.
- **Time.** A message's own stamp (``header.stamp``, or ``timestamp`` as in Foxglove's schemas) if it is set and within
  10 s of the log time; otherwise the log time. A stamp further away comes from another clock, and would shift its topic
  against the others.
- **Start.** The first log time of the file. Log times that are not unix times stay as they are.
- **Order.** Samples are sorted by time; those of a topic with the same stamp become one, their mean; a
  warning counts those that differ. A file without an index whose log times jump back by more than 10 s is refused.
- **Damage.** A broken file is refused, and so is one whose index or counts contradict its messages. An MCAP file
  whose index does not fit its chunks is read without it, and one without an end, whose recorder was killed, as far as
  it goes, both with a warning.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from anomalyvae.recordings.bags import Raw, decoded, open_topics
from anomalyvae.recordings.log import Log, Signal, moment, not_numbers
from anomalyvae.recordings.shared_stamps import SharedStamps
from anomalyvae.tables.arrays import as_float
from anomalyvae.tables.names import nearest

_LONGEST = 64  # elements of a list that becomes signals
_LATE_NS = 10 * 10**9
_UNIX_FROM_NS = 10**17  # March 1973, as for tables
_PIECE = 20_000  # messages
_SECONDS, _NANOSECONDS = ("sec", "secs", "seconds"), ("nanosec", "nsec", "nsecs", "nanos")  # as formats call them
_Number = (bool, int, float, np.number, np.bool_)


def topic_pieces(path: Path, signals: list[str] | None = None) -> Iterator[Log]:
    """Read an MCAP file or a ROS bag in pieces of about 20,000 messages."""
    reading = _Reading(signals)
    waiting: dict[str, list[tuple[int, dict[str, float]]]] = {}
    newest_ns = count = 0
    shared = SharedStamps()

    with closing(open_topics(path)) as source:
        zero_ns = source.start_ns if source.start_ns >= _UNIX_FROM_NS else 0
        start = moment(zero_ns, "ns") if zero_ns else None

        def log_of(before_ns: float, left_out: dict[str, str]) -> Log:
            found = _complete(waiting, before_ns, zero_ns, shared)
            return Log(path.name if path.is_dir() else path.stem, start, found, left_out)

        for raw, message in decoded(source, path, reading.wants):
            if raw.log_ns < newest_ns - _LATE_NS:
                raise ValueError(
                    f"{path} has a message of {raw.topic} that was logged {(newest_ns - raw.log_ns) / 1e9:g} s before "
                    f"one ahead of it; messages are in order of time. Sort the file: mcap sort."
                )
            newest_ns = max(newest_ns, raw.log_ns)
            time_ns, found = reading.take(raw, message)
            if found:
                waiting.setdefault(raw.topic, []).append((time_ns, found))
            count += 1
            if count % _PIECE == 0:
                # Later messages were logged at most 10 s earlier, and stamped at most 10 s before that.
                yield log_of(newest_ns - 2 * _LATE_NS, {})
        last = log_of(np.inf, reading.left_out if signals is None else {})
    for name in signals or ():
        if name in reading.left_out:
            raise not_numbers(name, path.stem, reading.left_out[name])
        if name not in reading.seen:
            _refuse_unknown(name, path)
    reading.warn(path)
    shared.warn(path)
    yield last


def _first_messages(path: Path) -> tuple[list[str], dict[str, str]]:
    """Return the signals and the fields left out in the first message of each topic, the latter with the reason."""
    reading = _Reading(None)
    with closing(open_topics(path)) as source:
        for topic in source.topics or ():
            for raw, message in islice(decoded(source, path, topic.__eq__), 1):
                reading.take(raw, message)
        topics: set[str] = set(source.topics or ())
        for raw, message in decoded(source, path, lambda topic: topic not in topics):
            topics.add(raw.topic)
            reading.take(raw, message)
    return list(reading.seen), reading.left_out


def _prefixes(name: str) -> Iterator[str]:
    """Yield a name and the names of what it is a part of, the topic included."""
    yield name
    for index, letter in enumerate(name):
        if letter in ".[":
            yield name[:index]


def _refuse_unknown(name: str, path: Path) -> None:
    known, left_out = _first_messages(path)
    for prefix in _prefixes(name):
        if prefix in left_out:
            raise not_numbers(name, path.stem, left_out[prefix])
    raise ValueError(f"{path} has no signal {name!r} among its {len(known)}. {nearest(name, known)}")


# --- samples --------------------------------------------------------------------------------------------


def _complete(
    waiting: dict[str, list[tuple[int, dict[str, float]]]], before_ns: float, zero_ns: int, shared: SharedStamps
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
        stamps = np.array([time_ns for time_ns, _ in done], dtype=np.int64)
        order = np.argsort(stamps, kind="stable")
        stamps, values = shared.means(names, stamps[order], values[order])
        time_s = (stamps - zero_ns) / 1e9
        for column, name in enumerate(names):
            signals[name] = Signal(name, time_s, np.ascontiguousarray(values[:, column]), source=topic)
    return signals


# --- messages -------------------------------------------------------------------------------------------


class _Reading:
    """What the messages so far had: the signals, and what was left out."""

    def __init__(self, signals: list[str] | None) -> None:
        self._wanted = None if signals is None else {prefix for name in signals for prefix in _prefixes(name)}
        self.seen: dict[str, tuple[str, ...]] = {}  # the path to a signal's field, by its name
        self._names: dict[tuple[str, ...], str] = {}
        self._odd: dict[str, Counter[str]] = {}  # what a field held, and how often, by its name
        self._ambiguous: dict[str, str] = {}

    def wants(self, name: str) -> bool:
        """Return whether a topic or field is read."""
        return self._wanted is None or name in self._wanted

    @property
    def left_out(self) -> dict[str, str]:
        """The fields that are not signals, with what they hold."""
        numbers = {prefix for name in self.seen for prefix in _prefixes(name)}
        return {name: next(iter(why)) for name, why in self._odd.items() if name not in numbers} | self._ambiguous

    def warn(self, path: Path) -> None:
        """Warn of fields that share a name, and of those that hold numbers only at times."""
        for name, why in self._ambiguous.items():
            warnings.warn(f"{name!r} of {path} is {why}; both are left out. Rename one of them.", stacklevel=3)
        left_out = self.left_out
        odd = {name: why for name, why in self._odd.items() if name not in left_out and name not in self._ambiguous}
        if odd:
            shown = (f"{name} ({why.total():,} times {' or '.join(why)})" for name, why in list(odd.items())[:5])
            warnings.warn(
                f"{len(odd)} fields of {path} hold numbers in some messages only, and are missing in the others: "
                f"{', '.join(shown)}.",
                stacklevel=3,
            )

    def take(self, raw: Raw, message: Any) -> tuple[int, dict[str, float]]:
        """Return the time of a message in nanoseconds, and its numbers by name."""
        if isinstance(raw.decode, str):
            self._leave_out(raw.topic, raw.decode)
            return raw.log_ns, {}
        field, stamp_ns = _stamp(message)
        if field:
            self._leave_out(f"{raw.topic}.{field}", "the time of the message")
        found: dict[str, float] = {}
        self._collect(message, (raw.topic,), found, (raw.topic, field))
        return (stamp_ns if stamp_ns and abs(stamp_ns - raw.log_ns) <= _LATE_NS else raw.log_ns), found

    def _leave_out(self, name: str, why: str) -> None:
        self._odd.setdefault(name, Counter())[why] += 1

    def _name_of(self, path: tuple[str, ...]) -> str:
        if path not in self._names:
            self._names[path] = path[0] + "".join(part if part[:1] == "\0" else f".{part}" for part in path[1:])
            self._names[path] = self._names[path].replace("\0", "")
        return self._names[path]

    def _collect(self, value: Any, path: tuple[str, ...], found: dict[str, float], skipped: tuple[str, ...]) -> None:
        name = self._name_of(path)
        if path == skipped or name in self._ambiguous or not self.wants(name):
            return
        if isinstance(value, _Number):
            owner = self.seen.setdefault(name, path)
            if owner == path:
                found[name] = as_float(value)
            else:
                self._ambiguous[name] = f"the name of two fields, {_shown(owner)} and {_shown(path)}"
                found.pop(name, None)
        elif isinstance(value, (str, bytes, bytearray, memoryview)):
            self._leave_out(name, "text" if isinstance(value, str) else "bytes")
        elif value is None:
            return
        elif (parts := _parts(value)) is not None:
            for part, inner in parts:
                self._collect(inner, (*path, part), found, skipped)
        elif len(value) > _LONGEST:
            self._leave_out(name, f"lists of more than {_LONGEST} values")
        elif all(isinstance(inner, _Number) for inner in value):
            for index, inner in enumerate(value):
                self._collect(inner, (*path, f"\0[{index}]"), found, skipped)
        else:
            self._leave_out(name, "lists of something other than numbers")


def _shown(path: tuple[str, ...]) -> str:
    return " > ".join(part.removeprefix("\0") for part in path)


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
