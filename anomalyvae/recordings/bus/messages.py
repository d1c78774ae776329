"""Messages in CAN databases (DBC, ARXML, KCD, SYM): the identifier, and the bits of the signals."""

from __future__ import annotations

import codecs
import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anomalyvae.lazy import not_installed
from anomalyvae.options import Databases, database_files
from anomalyvae.recordings.bus.frames import EXTENDED
from anomalyvae.untrusted import listed

MOST_JOINED = 1785  # bytes of a J1939 message in packets
_MOST_BYTES = 64  # in a frame of CAN FD
_SUFFIXES = (".dbc", ".arxml", ".kcd", ".sym")


class Bits(NamedTuple):
    """The bits of a number in a frame."""

    byte: int  # the first byte
    skip: int  # bits to skip: the lowest of that byte, or with big_endian the highest
    length: int
    big_endian: bool = False
    signed: bool = False
    floating: bool = False

    @property
    def end(self) -> int:
        """The number of bytes that a frame needs to hold it."""
        return self.byte + (self.skip + self.length + 7) // 8

    def raw(self, data: np.ndarray) -> np.ndarray:
        """Return the bits of each frame as uint64; ``data``, of shape (n, width), has at least 8 bytes after them."""
        n, width = data.shape
        word = np.ndarray((n,), ">u8" if self.big_endian else "<u8", data, self.byte, (width,)).astype(np.uint64)
        over = self.skip + self.length - 64  # bits in a ninth byte
        if over <= 0:
            word >>= np.uint64(-over if self.big_endian else self.skip)
        else:
            ninth = data[:, self.byte + 8].astype(np.uint64)
            if self.big_endian:
                word = word << np.uint64(over) | ninth >> np.uint64(8 - over)
            else:
                word = word >> np.uint64(self.skip) | ninth << np.uint64(64 - self.skip)
        return word & np.uint64((1 << self.length) - 1)

    def numbers(self, raw: np.ndarray) -> np.ndarray:
        """Return raw bits as numbers in float64, not yet scaled."""
        if self.floating:
            return raw.astype(f"u{self.length // 8}").view(f"f{self.length // 8}").astype(np.float64)
        if self.signed:
            sign = np.uint64(1 << (self.length - 1))
            return ((raw ^ sign) - sign).view(np.int64).astype(np.float64)
        return raw.astype(np.float64)


Ranges = tuple[tuple[int, int], ...]  # from a first to a last number, both included


class Field(NamedTuple):
    """A signal of a message: ``numbers * scale + offset``."""

    name: str
    unit: str
    bits: Bits
    scale: float = 1.0
    offset: float = 0.0
    conditions: tuple[tuple[Bits, Ranges], ...] = ()  # multiplexers, and the raw values they must have
    missing_from: int | None = None  # raw values from here on mean "no value"


class Message(NamedTuple):
    """A message: the signals of the frames with one identifier."""

    bus: str  # "" for any bus
    name: str
    key: int  # the identifier, with EXTENDED if it has 29 bits
    j1939: bool
    fields: tuple[Field, ...]
    left_out: dict[str, str]  # signals that are not numbers, with the reason


def load_messages(databases: Databases) -> list[Message]:
    """Read databases; the first message of a bus with an identifier is kept.

    Signals with a name that is not unique in the databases of a bus are renamed ``Message.Signal``; names that several
    buses have begin with the bus, ``can0.Signal``. Errors name the file and the line. A warning names conversions in
    ARXML files that are not linear or have several segments.
    """
    first: dict[tuple[str, int], Message] = {}
    hidden: list[str] = []
    for bus, file in database_files(databases):
        path = Path(file)
        for message in _messages_of(path):
            message = message._replace(bus=bus)
            if first.setdefault((bus, message.key), message) != message:
                hidden.append(f"{message.name} of {path.name} by {first[bus, message.key].name}")
    if hidden:
        warnings.warn(
            f"{len(hidden)} messages of the databases are hidden by others with their identifier, which come first: "
            f"{listed(hidden)}. If they are on different buses, say of which "
            f"bus each database is: databases={{'can0': 'car.dbc'}}, or on the command line --dbc can0=car.dbc.",
            stacklevel=2,
        )
    buses = dict.fromkeys(bus for bus, _ in first)
    named = [message for bus in buses for message in _renamed([m for m in first.values() if m.bus == bus])]
    return _with_buses(named) if len(buses) > 1 else named


def _messages_of(path: Path) -> tuple[Message, ...]:
    """Return the messages of a database, at least one; warn of conversions that are not followed."""
    if not path.is_file():
        raise FileNotFoundError(
            f"The database {path} is not a file. Check the path of the DBC, ARXML, KCD or SYM file."
        )
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(
            f"The database {path} has none of the suffixes {', '.join(_SUFFIXES)}. Export it as one of these."
        )
    state = path.stat()
    messages, remarks = _load(path, state.st_mtime_ns, state.st_size)
    if not messages:
        raise ValueError(
            f"The database {path} describes no message. Check that the file is whole, or leave it out: a bus is also "
            "read without a database."
        )
    if remarks:
        warnings.warn(
            f"The database {path} has conversions that cannot be followed exactly ({'; '.join(remarks)}); linear ones "
            "with one segment can. Compare the signals with those of another tool.",
            stacklevel=3,
        )
    return messages


@lru_cache(maxsize=16)
def _load(path: Path, changed_ns: int, size: int) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """Return the messages of a database, and cantools' remarks on conversions that it does not follow."""
    try:
        from cantools.database import can, load_file, load_string
    except ImportError as error:
        raise not_installed(error, "reading databases of a bus", "anomalyvae[logs]") from error
    try:
        with _remarks() as remarks:
            kind = path.suffix.lower()[1:]
            if kind in ("dbc", "sym"):
                database = load_string(_text_of(path), kind, strict=False)
            else:  # XML says its encoding
                database = load_file(path, strict=False)
    except Exception as error:  # cantools raises errors of any type
        line = _line_of(path, str(error))
        raise ValueError(
            f"The database {path} cannot be read{line} ({' '.join(str(error).split())[:300]}). "
            f"{'Correct that line' if line or 'line' in str(error) else 'Correct the file, or export it again'}."
        ) from error
    if not isinstance(database, can.Database):
        raise ValueError(f"{path} is a database of diagnostics, not of messages. Pass a DBC, ARXML or KCD file.")
    for message in database.messages:
        for signal in message.signals:
            if signal.start < 0 or signal.length < 1:
                raise ValueError(
                    f"The database {path} gives signal {signal.name} of {message.name} {signal.length} bits from bit "
                    f"{signal.start}. Correct that line."
                )
    return tuple(_message(message) for message in database.messages), tuple(dict.fromkeys(remarks))


@contextmanager
def _remarks() -> Iterator[list[str]]:
    """Collect cantools' remarks on conversions that it does not follow, and keep them from standard error."""
    found: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if "segments" in text or "not yet implemented" in text:
                found.append(text.split(".")[0])

    logger, listener = logging.getLogger("cantools.database.can.formats.arxml"), Listener()
    before, propagate = logger.level, logger.propagate
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(listener)
        logger.setLevel(before)
        logger.propagate = propagate


def _text_of(path: Path) -> str:
    """Return the text of a database in UTF-8; what is not UTF-8 in it, as in older files, is read as cp1252."""
    data = path.read_bytes()
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    text = data.decode("utf-16" if wide else "utf-8-sig", "replace" if wide else "cp1252")
    return text.replace("\r\n", "\n")


def _as_cp1252(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    part = error.object[error.start : error.end]
    return "".join(bytes([byte]).decode("cp1252", "replace") for byte in part), error.end


codecs.register_error("cp1252", _as_cp1252)


def _line_of(path: Path, error: str) -> str:
    """Return the line of a database that an error quotes, if the error does not give it."""
    if "line" in error:
        return ""
    quoted = [text.strip(' "') for text in error.splitlines()]
    lines = _text_of(path).splitlines()
    for number, line in enumerate(lines, 1):
        if any(len(text) > 4 and line.startswith(text) for text in quoted):
            return f" at line {number}"
    return ""


def _message(message: Any) -> Message:
    key = message.frame_id | (EXTENDED if message.is_extended_frame else 0)
    j1939 = message.protocol == "j1939" and message.is_extended_frame
    signals = {signal.name: signal for signal in message.signals if signal.is_multiplexer}
    fields: list[Field] = []
    left_out = {}
    for signal in message.signals:
        reason = _why_not(signal, message, MOST_JOINED if j1939 else _MOST_BYTES)
        if reason:
            left_out[signal.name] = reason
        else:
            fields.append(_field(signal, signals, j1939))
    return Message("", message.name, key, j1939, tuple(_with_own_names(fields)), left_out)


def _with_own_names(fields: list[Field]) -> list[Field]:
    """Rename signals of a message that share a name.

    Those on different pages of a multiplexer, in the same unit, are one signal, of which a frame has one sample. All
    others of that name get the place of their first bit: ``Level@byte2.bit0``.
    """
    groups: dict[str, list[Field]] = {}
    for field in fields:
        groups.setdefault(field.name, []).append(field)
    merged = {
        name
        for name, group in groups.items()
        if all(a.unit == b.unit and _never_together(a, b) for a, b in combinations(group, 2))
    }
    named = [field._replace(name=f"{field.name}@byte{field.bits.byte}.bit{field.bits.skip}") for field in fields]
    return [field if field.name in merged else other for field, other in zip(fields, named, strict=True)]


def _never_together(a: Field, b: Field) -> bool:
    """Whether a multiplexer separates two fields."""
    return any(
        bits == other and not any(low <= last and first <= high for low, high in ranges for first, last in others)
        for bits, ranges in a.conditions
        for other, others in b.conditions
    )


def _why_not(signal: Any, message: Any, most: int) -> str:
    if message.is_container:
        return "a place in a container of messages"
    if signal.length > 64 or (signal.is_float and signal.length not in (16, 32, 64)):
        return f"{signal.length} bits{' as a float' if signal.is_float else ''}"
    if _bits(signal).end > most:
        return f"bytes after the {most:,} that a message can have"
    return ""


def _bits(signal: Any) -> Bits:
    big = signal.byte_order == "big_endian"
    byte, bit = divmod(signal.start, 8)
    return Bits(byte, 7 - bit if big else bit, signal.length, big, signal.is_signed, signal.is_float)


def _field(signal: Any, signals: dict[str, Any], j1939: bool) -> Field:
    bits = _bits(signal)
    conditions: list[tuple[Bits, Ranges]] = []
    child = signal
    while child.multiplexer_ids is not None and len(conditions) < len(signals):
        parent = signals[child.multiplexer_signal]
        conditions.append((_bits(parent), _ranges(child.multiplexer_ids)))
        child = parent
    # In two's complement the highest raw values are small negative numbers.
    missing = _missing_from(signal, bits) if j1939 and not signal.is_float and not signal.is_signed else None
    return Field(
        signal.name, signal.unit or "", bits, float(signal.scale), float(signal.offset), tuple(conditions), missing
    )


def _ranges(numbers: Iterable[int]) -> Ranges:
    """Return integers as ranges.

    Examples
    --------
    >>> _ranges([4, 1, 2, 7])
    ((1, 2), (4, 4), (7, 7))
    """
    ranges: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return tuple(ranges)


def _missing_from(signal: Any, bits: Bits) -> int | None:
    """Return the first raw value that is "error" or "not available" in J1939, and beyond the signal's range, if any."""
    if bits.length == 1:
        return None
    special = {2: 2}.get(bits.length, 1)  # how many of the highest values are not numbers
    if bits.length % 8 == 0:
        special = 2 << (bits.length - 8)
    end = 1 << bits.length
    first, least, most = end - special, signal.minimum, signal.maximum
    if least is not None and most is not None and least < most and signal.scale:
        bound = most if signal.scale > 0 else least
        beyond = math.floor((bound - signal.offset) / signal.scale + 1e-6) + 1
        first = max(first, beyond)
    return first if first < end else None


def _renamed(messages: list[Message]) -> list[Message]:
    """Give every signal a unique name."""
    short = Counter(name for message in messages for name in _names(message))
    long = Counter(f"{message.name}.{name}" for message in messages for name in _names(message))

    def name_of(message: Message, name: str) -> str:
        if short[name] == 1:
            return name
        if long[f"{message.name}.{name}"] == 1:
            return f"{message.name}.{name}"
        return f"{message.name}({message.key & ~EXTENDED:#x}).{name}"

    return [_with_names(message, name_of) for message in messages]


def _names(message: Message) -> list[str]:
    return [*dict.fromkeys(field.name for field in message.fields), *message.left_out]


def _with_buses(messages: list[Message]) -> list[Message]:
    """Put the bus before names that several buses have."""
    buses = Counter(name for _, name in {(message.bus, name) for message in messages for name in _names(message)})

    def name_of(message: Message, name: str) -> str:
        return f"{message.bus}.{name}" if buses[name] > 1 else name

    return [_with_names(message, name_of) for message in messages]


def _with_names(message: Message, name_of: Callable[[Message, str], str]) -> Message:
    return message._replace(
        fields=tuple(field._replace(name=name_of(message, field.name)) for field in message.fields),
        left_out={name_of(message, name): reason for name, reason in message.left_out.items()},
    )
