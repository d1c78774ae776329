"""CAN frames become signals, by databases of messages.

Rules:

- **Which message.** A frame belongs to the message with its identifier (of 11 or 29 bits) in the first database that
  has one. Otherwise a 29-bit frame belongs to the J1939 message with its parameter group number, whatever its priority,
  source and destination (SAE J1939-21). Otherwise it may be a reply of on-board diagnostics, see
  :mod:`anomalyvae.recordings.bus.obd`.
- **Without a message.** Without databases, the other identifiers have signals that need none, see
  :mod:`anomalyvae.recordings.bus.identifiers`; with databases they have those that are asked for by name.
- **Longer messages** are joined from the packets of J1939's transport protocol, if a database describes J1939 (a DBC
  file can say that it does), and from those of diagnostics, see :mod:`anomalyvae.recordings.bus.transport`.
- **Names.** A signal keeps its name if no other signal of the databases has it; otherwise it is ``Message.Signal``. So
  a name depends on the databases and never on the file.
- **Buses.** Frames of different buses are never joined: if a message comes on several, the recording is refused until
  the databases say of which bus they are.
- **Senders.** The frames of a message are one signal, whichever sender they come from. If there are several, a warning
  says so.
- **Numbers** are ``raw * scale + offset``, of 64 bits at most; texts for values are ignored. A frame that ends before a
  signal does has no value, which a warning counts, and neither does one with another value of the multiplexer.
- **J1939.** Raw values that mean "error" or "not available" (SAE J1939-71: for whole bytes those from 0xFE… on, for two
  bits 2 and 3, for other widths all ones) are no values, unless the range in the database includes them.
- **Same stamp.** Frames of a message with the same stamp become one sample, their mean; a warning counts those with
  different values of a signal.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from anomalyvae.options import Databases
from anomalyvae.recordings.bus import obd
from anomalyvae.recordings.bus.frames import EXTENDED, by_identifier, digits_of
from anomalyvae.recordings.bus.identifier_names import is_identifier_signal
from anomalyvae.recordings.bus.identifiers import IdentifierSignals
from anomalyvae.recordings.bus.messages import Field, Message, load_messages
from anomalyvae.recordings.bus.samples import samples_of
from anomalyvae.recordings.bus.transport import JoinedMessage, Transport, are_segments, each_frame, is_packet
from anomalyvae.recordings.log import Signal
from anomalyvae.recordings.shared_stamps import SharedStamps
from anomalyvae.tables.names import nearest
from anomalyvae.untrusted import listed


class _Collected(NamedTuple):
    """The frames of a message, which are decoded at once."""

    message: Message
    fields: list[Field]
    rows: list[np.ndarray]  # indices of frames
    joined: list[JoinedMessage]  # joined from packets, or split from longer replies


class Decoder:
    """Turns the frames of a recording into the wanted signals, by default all, piece by piece.

    Without databases, replies of on-board diagnostics are decoded, and other identifiers have signals that need none.
    With ``identifiers``, only those signals are read, of all identifiers. ``source`` names the recording in errors.
    """

    def __init__(
        self, databases: Databases, wanted: list[str] | None, source: str, *, identifiers: bool = False
    ) -> None:
        self._messages = load_messages(databases)
        self._with_databases = bool(self._messages)
        undecoded = [name for name in wanted or () if is_identifier_signal(name)]
        self.lists_identifiers = wanted is None and (identifiers or not self._with_databases)
        self._identifiers = IdentifierSignals(
            None if self.lists_identifiers else undecoded,
            source,
            skipped=(lambda key: False) if identifiers else lambda key: obd.is_sender(key) or obd.is_request(key),
            learning=identifiers,
        )
        wanted = [] if identifiers else wanted
        self._buses = {message.bus for message in self._messages} - {""}  # the only ones that are read, if any
        self.bus_names: Sequence[str] | None = None  # by number; by default a bus is named by its number
        self._numbers: set[int] = set()  # of the buses of the recording
        self._wanted = None if wanted is None else dict.fromkeys(wanted)
        self._source = source
        self._by_key = {(message.bus, message.key): message for message in self._messages}
        groups = [message for message in reversed(self._messages) if message.j1939]
        self._by_group = {(message.bus, _parameter_group(message.key)): message for message in groups}
        self._senders: dict[tuple[str, str], set[tuple[int, int]]] = {}  # by bus and name of the message
        self._transport = Transport()
        self._unknown: Counter[int] = Counter()
        self._shared = SharedStamps()
        self._frames = self._read = self._joined = 0
        self._sampled: set[str] = set()
        self._short: Counter[str] = Counter()  # frames that end before a signal, by name of the message
        self._met: set[str] = set()  # of these buses
        self._collected: dict[tuple[str, int], _Collected] = {}  # of the current piece, by bus and key of the message

    @property
    def left_out(self) -> dict[str, str]:
        """Signals of the databases that are not numbers, with the reason."""
        return {name: reason for message in self._messages for name, reason in message.left_out.items()}

    @property
    def names(self) -> list[str]:
        """The names of the databases' signals."""
        return [field.name for message in self._messages for field in message.fields]

    def empty(self, name: str) -> Signal | None:
        """Return a signal without samples by name; None if no message has it."""
        if is_identifier_signal(name):
            return self._identifiers.empty(name)
        sender = obd.sender_of(name)
        for message in [*self._messages, *([] if sender is None else [obd.message(sender)])]:
            for field in message.fields:
                if field.name == name:
                    return Signal(name, np.empty(0), np.empty(0), field.unit, message.name)
        return None

    def list_buses(self, pieces: Iterable[np.ndarray]) -> None:
        """Note which buses the frames are of; if several, names of identifiers' signals begin with the bus."""
        for frames in pieces:
            self._numbers.update(np.unique(frames["bus"]).tolist())
        self._identifiers.several = len(self._numbers) > 1

    def unit_of(self, name: str) -> str:
        """The unit of a signal by name; empty if it has none."""
        found = self.empty(name)
        return "" if found is None else found.unit

    def decode(self, frames: np.ndarray) -> dict[str, Signal]:
        """Return the signals in frames by name, only those with a sample.

        Frames are sorted by time, and two calls never share a stamp.
        """
        if not len(frames):
            return {}
        self._identifiers.bus_names = self.bus_names
        return self._decode_messages(frames) | self._identifiers.add(frames)

    def _decode_messages(self, frames: np.ndarray) -> dict[str, Signal]:
        if self._buses:
            self._numbers.update(np.unique(frames["bus"]).tolist())
            frames = frames[[self._bus_of(number) is not None for number in frames["bus"].tolist()]]
            if not len(frames):
                return {}
        self._frames += len(frames)
        self._collected = {}
        packets = []
        for bus, key, rows in by_identifier(frames):
            message = self._message_of(bus, key)
            packed = bool(self._by_group) and is_packet(key)
            if packed:
                packets.append(rows)
            if message is not None:
                self._take_frames(message, key, rows, frames)
            elif obd.is_sender(key):
                self._take_replies(key, rows, frames)
            elif not packed and not obd.is_request(key):
                self._unknown[key] += len(rows)
        if packets:
            for joined in self._transport.join_j1939(frames[np.sort(np.concatenate(packets))]):
                self._take_joined(self._group_of(joined.bus, joined.key), joined, [joined.data])
        self._transport.expire(frames["time_s"][-1])
        found: dict[str, Signal] = {}
        for message, fields, parts, joined_messages in self._collected.values():
            needed = max((field.bits.end for field in fields if not field.conditions), default=0)
            short = sum(int((frames["length"][rows] < needed).sum()) for rows in parts)
            if short and not message.j1939:  # where messages may be shorter than described
                self._short[message.name] += short
            found |= samples_of(message.name, fields, frames, parts, joined_messages, self._shared)
        self._sampled |= set(found)
        return found

    def completed(self, found: dict[str, Signal]) -> dict[str, Signal]:
        """Add the wanted signals that have no sample here."""
        missing = (self.empty(name) for name in self._wanted or () if name not in found)
        return found | {signal.name: signal for signal in missing if signal is not None}

    def _bus_of(self, number: int) -> str | None:
        """The bus of the databases with this number in the recording; "" without named buses, None for no such bus."""
        if not self._buses:
            return ""
        name = self._name_of(number)
        for bus in self._buses:
            if bus == name or (name.isdigit() and bus.lower().removeprefix("can").strip() == name):
                self._met.add(bus)
                return bus
        return None

    def _name_of(self, number: int) -> str:
        return str(number) if self.bus_names is None else self.bus_names[number]

    def _message_of(self, number: int, key: int) -> Message | None:
        message = self._by_key.get((self._bus_of(number) or "", key))
        return self._group_of(number, key) if message is None and key & EXTENDED else message

    def _group_of(self, number: int, key: int) -> Message | None:
        return self._by_group.get((self._bus_of(number) or "", _parameter_group(key)))

    def _message_of_packets(self, key: int, start: bytes) -> Message | None:
        """Return the message of packets that were left out, by its identifier and first byte."""
        if obd.is_sender(key):
            return obd.message(key) if obd.is_reply(start) else None
        found = (self._by_group.get((bus, _parameter_group(key))) for bus in self._buses or {""})
        return next((message for message in found if message is not None), None)

    def _wanted_of(self, message: Message) -> list[Field]:
        return [field for field in message.fields if self._wanted is None or field.name in self._wanted]

    def _collected_of(self, message: Message) -> _Collected | None:
        """Return the collected frames of a message; None if none of its signals is wanted."""
        key = message.bus, message.key
        if key not in self._collected and (fields := self._wanted_of(message)):
            self._collected[key] = _Collected(message, fields, [], [])
        return self._collected.get(key)

    def _take_frames(self, message: Message, key: int, rows: np.ndarray, frames: np.ndarray) -> None:
        self._read += len(rows)
        collected = self._collected_of(message) if len(rows) else None
        if collected is not None:
            self._met_sender(message, key, int(frames["bus"][rows[0]]))
            collected.rows.append(rows)

    def _met_sender(self, message: Message, key: int, number: int) -> None:
        senders = self._senders.setdefault((message.bus, message.name), set())
        senders.add((key, number))
        names = sorted({self._name_of(bus) for _, bus in senders})
        if len(names) > 1 and not message.bus and self._by_key.get(("", message.key)) is message:
            example = " ".join(f"{name}=car.dbc" for name in names[:2])
            raise ValueError(
                f"Message {message.name} of {self._source} is on {len(names)} buses, {' and '.join(names[:5])}; their "
                f"samples are never joined. Say of which bus a database is, for one of them or for each: "
                f"databases={{{names[0]!r}: 'car.dbc'}}, or on the command line --dbc {example}."
            )

    def _take_joined(self, message: Message | None, joined: JoinedMessage, parts: list[bytes]) -> None:
        """Take a joined message, in parts that are decoded separately."""
        if message is None or not parts:
            self._unknown[joined.key] += joined.packets
            return
        self._read += joined.packets
        collected = self._collected_of(message)
        if collected is not None:
            self._joined += joined.packets if joined.packets > 1 else 0
            self._met_sender(message, joined.key, joined.bus)
            collected.joined.extend(joined._replace(data=part) for part in parts)

    def _take_replies(self, key: int, rows: np.ndarray, frames: np.ndarray) -> None:
        """Take the frames of a control unit: replies with one parameter or several, in one frame or several."""
        sent = frames["data"][rows]
        single, segment = obd.replies(sent), are_segments(sent, frames["length"][rows])
        several = single & obd.hold_more(sent)
        message = obd.message(key)
        self._take_frames(message, key, rows[single & ~several], frames)
        replies = [
            JoinedMessage(time_s, key, bus, data[1 : 1 + data[0]], 1)
            for time_s, _, bus, data in each_frame(frames[rows[several]])
        ]
        if segment.any():
            replies += self._transport.join_diagnostics(frames[rows])
        for joined in replies:
            self._take_joined(message, joined, obd.parameters(joined.data))
        unknown = int((~single & ~segment).sum())
        if unknown:
            self._unknown[key] += unknown

    def finish(self, *, others: bool) -> None:
        """End the recording: warn of frames that were not decoded and of signals without a sample.

        If no frame could be decoded and there are no ``others`` among the recording's signals, ValueError is raised.
        """
        self._identifiers.finish()
        self._transport.finish()
        broken: Counter[int] = Counter()
        for (key, start), packets in self._transport.broken.items():
            message = self._message_of_packets(key, start)
            if message is None:
                self._unknown[key] += packets
            elif self._wanted_of(message):
                broken[key] += packets
        remarks = (self._absent_buses(others), self._unread_frames(others), self._broken_messages(broken))
        for text in chain(*remarks, self._short_frames(), self._silent_signals(), self._several_senders()):
            warnings.warn(text, stacklevel=2)
        self._shared.warn(self._source)

    def _absent_buses(self, others: bool) -> Iterator[str]:
        absent = sorted(self._buses - self._met)
        if absent:
            present = ", ".join(map(self._name_of, sorted(self._numbers)))
            text = (
                f"{self._source} has no frame on the bus {', '.join(absent)}; it has {present}. Check the names of "
                f"buses in databases= (--dbc)."
            )
            if not self._met and not others:
                raise ValueError(text)
            yield text

    def _short_frames(self) -> Iterator[str]:
        if self._short:
            shown = ", ".join(f"{name} {count:,}" for name, count in self._short.most_common(5))
            yield (
                f"{self._short.total():,} of the {self._frames:,} frames of {self._source} end before signals of their "
                f"message ({shown}), which have no sample there. {self._help}"
            )

    def _silent_signals(self) -> Iterator[str]:
        silent = sorted(
            name
            for name in self._wanted or ()
            if name not in self._sampled and not is_identifier_signal(name) and self.empty(name) is not None
        )
        if silent:
            yield f"{self._source} has no sample of {listed(silent)}. {self._help}"

    def _several_senders(self) -> Iterator[str]:
        for (_, name), senders in self._senders.items():
            if len(senders) > 1:
                shown = ", ".join(f"{digits_of(key)} on bus {self._name_of(bus)}" for key, bus in sorted(senders)[:5])
                several = f"{len(senders)} senders ({shown})"
                yield f"Message {name} of {self._source} has {several}. Their samples are joined."

    @property
    def _help(self) -> str:
        if self._with_databases:
            return "Check that the database belongs to this vehicle and bus."
        return "Pass the vehicle's database: databases='car.dbc', or on the command line --dbc car.dbc."

    def _unread_frames(self, others: bool) -> Iterator[str]:
        if self._identifiers.sampled:
            return
        unread = self._unknown.total()
        most = _most(self._unknown)
        if unread and not self._read and not others:
            raise ValueError(
                f"None of the {unread:,} frames of {self._source} is in a database; the most frequent identifiers are "
                f"{most}. {self._help} Without a database, identifiers have signals after two tenths of a second."
            )
        if unread and (self._wanted is None or not self._read):
            share = f"{unread / self._frames:.1%}" if unread < self._frames else "All"
            yield (
                f"{share} of the {self._frames:,} frames of {self._source} are in no database; the most frequent "
                f"identifiers are {most}. {self._help}"
            )

    def _broken_messages(self, broken: Counter[int]) -> Iterator[str]:
        left_out = broken.total()
        packets = left_out + self._joined
        if left_out:
            yield (
                f"{left_out / packets:.1%} of the {packets:,} packets of longer messages in {self._source} belong to "
                f"incomplete messages ({_most(broken)}), which are left out. Record with a logger that loses no frame."
            )

    def check(self, others: Collection[str]) -> None:
        """Refuse a wanted signal that is neither in the databases nor among the ``others`` of the recording."""
        for name in self._wanted or ():
            if name in others or self.empty(name) is not None:
                continue
            if name in self.left_out:
                raise ValueError(
                    f"Signal {name!r} of {self._source} has {self.left_out[name]}; a signal is a number of 64 bits at "
                    f"most. Leave it out."
                )
            raise ValueError(self._unknown_signal(name, others))

    def _unknown_signal(self, name: str, others: Collection[str]) -> str:
        known = [*others, *self.names]
        if known:
            where = " and ".join(["the databases"] * bool(self.names) + [self._source] * bool(others))
            more = "" if self._with_databases else f" If frames hold it: {self._help}"
            return f"Signal {name!r} is not among the {len(known)} of {where}. {nearest(name, known)}{more}"
        databases = "in databases without signals" if self._with_databases else "without a database"
        help_ = nearest(name, obd.names()) if name.startswith("obd_") else self._help
        return (
            f"Signal {name!r} of {self._source} is unknown {databases}; only those of on-board diagnostics and of "
            f"identifiers are known, such as 'obd_engine_speed', '0x123.period' and '0x18FEDF00.byte3'. {help_}"
        )


# --- identifiers ----------------------------------------------------------------------------------------


def _most(counts: Counter[int]) -> str:
    return ", ".join(f"{digits_of(key)} ({count:,})" for key, count in counts.most_common(5))


def _parameter_group(key: int) -> int:
    """Return the parameter group number (SAE J1939-21): 18 bits, without a destination address."""
    group = key >> 8 & 0x3FFFF
    return group if group >> 8 & 0xFF >= 0xF0 else group & 0x3FF00
