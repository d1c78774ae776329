"""CAN frames become signals, by what databases say of them.

Rules:

- **Which message.** A frame belongs to the message with its identifier (11 and 29 bits are told apart); of several
  databases the first one that knows it decides. A 29-bit frame that none knows belongs to the J1939 message with its
  parameter group number, whatever its priority, source and destination (SAE J1939-21). What is then left and is a
  reply of on-board diagnostics is read as that, see :mod:`anomalyvae.logs.obd`.
- **Names.** A signal keeps its name if it is the only one of that name in all databases given, else it is called
  ``Message.Signal``. So a name depends on the databases and never on the file.
- **Senders.** The frames of a message are one signal, whichever bus and sender they come from. If there are several,
  a warning says so.
- **Numbers.** ``raw * scale + offset``, of 64 bits at most; texts that stand for values are left aside. A frame that
  ends before a signal does gives no value, and neither does one whose multiplexer has another value.
- **J1939.** Raw values that mean "error" or "not available" (SAE J1939-71: of whole bytes those from 0xFE… on, of two
  bits 2 and 3, of other widths all ones) give no value, unless the database's own range includes them.
- **Same stamp.** Frames of a message with the same stamp become one sample: the mean.
"""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np

from anomalyvae.logs import obd
from anomalyvae.logs.log import Signal, nearest
from anomalyvae.logs.messages import EXTENDED, Bits, Databases, Field, Message, load_messages

# A CAN frame: seconds from the recording's start, the identifier, and the bytes that were sent; those after them mean
# nothing.
FRAME = np.dtype(
    [("time_s", "f8"), ("id", "u4"), ("extended", "?"), ("bus", "u1"), ("length", "u1"), ("data", "u1", (64,))]
)


class Decoder:
    """Turns the frames of a recording into signals, piece by piece.

    Parameters
    ----------
    databases : path-like, iterable of path-like, or None
        DBC, ARXML, KCD or SYM files. Without any, only replies of on-board diagnostics are understood.
    wanted : list of str or None
        The signals to decode; None for all.
    source : str
        How errors and warnings name the recording.
    """

    def __init__(self, databases: Databases, wanted: list[str] | None, source: str) -> None:
        self._messages = load_messages(databases)
        self._with_databases = databases is not None
        self._wanted = None if wanted is None else set(wanted)
        self._source = source
        self._by_key = {message.key: message for message in self._messages}
        groups = [message for message in reversed(self._messages) if message.j1939]
        self._by_group = {_parameter_group(message.key): message for message in groups}
        self._senders: dict[str, set[tuple[int, int]]] = {}
        self._unknown: Counter[int] = Counter()
        self._frames = self._requests = 0
        self._sampled: set[str] = set()

    @property
    def left_out(self) -> dict[str, str]:
        """Signals of the databases that cannot be numbers, with the reason."""
        return {name: reason for message in self._messages for name, reason in message.left_out.items()}

    @property
    def names(self) -> list[str]:
        """The names of the databases' signals."""
        return [field.name for message in self._messages for field in message.fields]

    def empty(self, name: str) -> Signal | None:
        """Return a signal without samples by name; None if no frame can hold it."""
        sender = obd.sender_of(name)
        for message in [*self._messages, *([] if sender is None else [obd.message(sender)])]:
            for field in message.fields:
                if field.name == name:
                    return Signal(name, np.empty(0), np.empty(0), field.unit, message.name)
        return None

    def decode(self, frames: np.ndarray) -> dict[str, Signal]:
        """Return what frames hold, by name; only signals that have a sample.

        Parameters
        ----------
        frames : numpy.ndarray of ``FRAME``, shape (n,)
            Sorted by time; two calls never share a stamp.
        """
        if not len(frames):
            return {}
        self._frames += len(frames)
        keys = frames["id"] | np.where(frames["extended"], np.uint32(EXTENDED), np.uint32(0))
        distinct, place = np.unique(keys, return_inverse=True)
        # Counting sort is what numpy does with 16 bits.
        order = np.argsort(place.astype(np.uint16) if len(distinct) < 1 << 16 else place, kind="stable")
        bounds = np.cumsum(np.bincount(place, minlength=len(distinct)))[:-1]
        rows_of: dict[int, tuple[Message, list[Field], list[np.ndarray]]] = {}
        for key, rows in zip(distinct.tolist(), np.split(order, bounds), strict=True):
            message, rows = self._message_of(key, rows, frames)
            fields = [f for f in message.fields if self._wanted is None or f.name in self._wanted] if message else []
            if message is not None and fields and len(rows):
                buses = np.unique(frames["bus"][rows]).tolist()
                self._senders.setdefault(message.name, set()).update((key, bus) for bus in buses)
                rows_of.setdefault(message.key, (message, fields, []))[2].append(rows)
        found: dict[str, Signal] = {}
        for message, fields, parts in rows_of.values():
            rows = parts[0] if len(parts) == 1 else np.sort(np.concatenate(parts))
            found |= _decoded(message.name, fields, frames, rows)
        self._sampled |= set(found)
        return found

    def _message_of(self, key: int, rows: np.ndarray, frames: np.ndarray) -> tuple[Message | None, np.ndarray]:
        """Return the message of an identifier, and those of its frames that belong to it."""
        message = self._by_key.get(key)
        if message is None and key & EXTENDED:
            message = self._by_group.get(_parameter_group(key))
        if message is not None:
            return message, rows
        if obd.is_request(key):
            self._requests += len(rows)
            return None, rows
        if obd.is_sender(key):
            is_reply = obd.replies(frames["data"][rows])
            message, unknown, rows = obd.message(key), rows[~is_reply], rows[is_reply]
        else:
            unknown = rows
        if len(unknown):
            self._unknown[key] += len(unknown)
        return message, rows

    def finish(self, *, others: bool) -> None:
        """Say which frames nobody could read and which signals never came, once the recording is at its end.

        Parameters
        ----------
        others : bool
            Whether the recording holds signals beside its frames.

        Raises
        ------
        ValueError
            Not one frame could be read, and there is nothing else.
        """
        unread = sum(self._unknown.values())
        read = self._frames - self._requests - unread
        most = ", ".join(f"{_shown(key)} ({count:,})" for key, count in self._unknown.most_common(5))
        help_ = (
            "Check that the database is the one of this vehicle and bus."
            if self._with_databases
            else "Pass the vehicle's database: databases='car.dbc'."
        )
        if unread and not read and not others:
            raise ValueError(
                f"Got {self._source}, none of whose {unread:,} frames is in a database, expected some; the most "
                f"frequent identifiers are {most}. {help_}"
            )
        if unread and (self._wanted is None or not read):
            share = f"{unread / self._frames:.1%}" if unread < self._frames else "all"
            warnings.warn(
                f"Got {self._source}, of whose {self._frames:,} frames {share} are in no database; the most frequent "
                f"identifiers are {most}. {help_}",
                stacklevel=2,
            )
        silent = sorted(name for name in (self._wanted or set()) - self._sampled if self.empty(name) is not None)
        if silent:
            warnings.warn(
                f"Got no sample of {', '.join(silent[:5])}{', …' if len(silent) > 5 else ''} in {self._source}, "
                f"expected some. {help_}",
                stacklevel=2,
            )
        for name, senders in self._senders.items():
            if len(senders) > 1:
                shown = ", ".join(f"{_shown(key)} on bus {bus}" for key, bus in sorted(senders)[:5])
                warnings.warn(
                    f"Got message {name} of {self._source} from {len(senders)} senders ({shown}), expected one. Their "
                    f"samples are joined.",
                    stacklevel=2,
                )

    def check(self, others: dict[str, str] | list[str]) -> None:
        """Refuse a wanted signal that is neither known nor among the ``others`` of the recording."""
        for name in self._wanted or ():
            if name in others or self.empty(name) is not None:
                continue
            if name in self.left_out:
                raise ValueError(
                    f"Got signal {name!r} of {self._source}, which has {self.left_out[name]}, expected a number of "
                    f"64 bits at most. Leave it out."
                )
            known = [*others, *self.names]
            where = "of the databases" if self._with_databases else "of on-board diagnostics, for no database is given"
            raise ValueError(f"Got signal {name!r}, expected one {where} or {self._source}. {nearest(name, known)}")


def _shown(key: int) -> str:
    return f"{key & ~EXTENDED:#010x}" if key & EXTENDED else f"{key:#05x}"


def _parameter_group(key: int) -> int:
    """Return the parameter group number (SAE J1939-21): 18 bits, without a destination address."""
    group = key >> 8 & 0x3FFFF
    return group if group >> 8 & 0xFF >= 0xF0 else group & 0x3FF00


def _decoded(source: str, fields: list[Field], frames: np.ndarray, rows: np.ndarray) -> dict[str, Signal]:
    """Decode the frames of one message."""
    time_s, length = frames["time_s"][rows], frames["length"][rows]
    asked = [bits for field in fields for bits in (field.bits, *(bits for bits, _ in field.conditions))]
    width = max(bits.end for bits in asked)
    data = np.zeros((len(rows), width + 8), dtype=np.uint8)
    data[:, :width] = frames["data"][:, :width][rows]
    raw = {bits: bits.raw(data) for bits in set(asked)}
    apart = bool((time_s[1:] > time_s[:-1]).all())
    found = {}
    for field in fields:
        holds = _holds(field, length, raw)
        if not holds.any():
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            values = field.bits.numbers(raw[field.bits]) * field.scale + field.offset
        holds &= ~np.isnan(values)
        if apart and holds.all():
            found[field.name] = Signal(field.name, time_s, values, field.unit, source)
        elif holds.any():
            found[field.name] = Signal(field.name, *means(time_s[holds], values[holds]), field.unit, source)
    return found


def _holds(field: Field, length: np.ndarray, raw: dict[Bits, np.ndarray]) -> np.ndarray:
    """Return which frames have a value of the field."""
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


def means(time_s: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make one sample, the mean, of those with the same stamp.

    Parameters
    ----------
    time_s : numpy.ndarray of float64, shape (n,)
        Sorted stamps.
    values : numpy.ndarray of float64, shape (n,)

    Returns
    -------
    time_s, values : numpy.ndarray of float64, shape (m,)
        Strictly increasing stamps, and their samples.

    Examples
    --------
    >>> means(np.array([0.0, 1.0, 1.0]), np.array([5.0, 6.0, 8.0]))
    (array([0., 1.]), array([5., 7.]))
    """
    begins = np.flatnonzero(np.concatenate((np.full(min(len(time_s), 1), True), time_s[1:] > time_s[:-1])))
    if len(begins) == len(time_s):
        return time_s, values
    counts = np.diff(np.append(begins, len(time_s)))
    with np.errstate(over="ignore", invalid="ignore"):
        return time_s[begins], np.add.reduceat(values, begins) / counts
