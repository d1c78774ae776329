"""Text logs of CAN buses: ASC (Vector), TRC (PEAK) and candump.

Every line is a frame, or known to hold none (comments, events, error and remote frames), or refused, or counted in a
warning. A last line without its end may be cut and is left out.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Generator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from anomalyvae.recordings.bus.frames import FD_LENGTHS, FRAME

_ROWS = 1 << 15  # frames of a piece
_LONGEST_LINE = 1 << 16
_DECIMAL = re.compile(r"-?\d+(?:[.,]\d+)?", re.ASCII)

Frame = tuple[float, int, bool, int, bytes]  # stamp, identifier, whether it has 29 bits, bus, data
_SKIPPED = ""


class Parser:
    """Reads the lines of a log, one after the other."""

    start_s = 0.0  # of unix time; 0 if the header gives none
    number = 0  # of the last frame; 0 if frames are not numbered
    buses: list[str] | None = None  # their names, if they have some

    def frame(self, line: str) -> Frame | str:
        """A frame, or why a line is none: ``_SKIPPED``, or what to count it as."""
        raise NotImplementedError


def text_frames(path: Path) -> tuple[float, list[str] | None, Generator[np.ndarray, None, None]]:
    """Return a log's start in seconds of unix time (0: none), the names of its buses, and its frames in pieces.

    Stamps count from the start; without one, they are those of the file. ValueError names the line that cannot be read.
    """
    parser = PARSERS[path.suffix.lower()]()
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        lines = _numbered(path, file)
        for number, line in lines:  # the header: up to the first frame
            if isinstance(_parsed(path, parser, number, line), tuple):
                break
    return parser.start_s, parser.buses, _pieces(path, parser)


def _numbered(path: Path, file: Any) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), ""), 1):
        if len(line) == _LONGEST_LINE:
            raise _unreadable(path, number, f"more than {_LONGEST_LINE:,} characters")
        if line.endswith("\n"):
            yield number, line


def _unreadable(path: Path, number: int, what: str) -> ValueError:
    return ValueError(
        f"{path} cannot be read as {path.suffix[1:].upper()} in line {number:,}: {what}. Repair the file, or export it "
        f"again."
    )


def _parsed(path: Path, parser: Parser, number: int, line: str) -> Frame | str:
    try:
        return parser.frame(line)
    except ValueError as error:
        raise _unreadable(path, number, str(error)) from error


def _pieces(path: Path, parser: Parser) -> Generator[np.ndarray, None, None]:
    frames: list[Frame] = []
    odd = lost = last = 0
    first = (0, "")
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in _numbered(path, file):
            found = _parsed(path, parser, number, line)
            lost += max(parser.number - last - 1, 0) if last else 0
            last = parser.number
            if isinstance(found, tuple):
                frames.append(found)
                if len(frames) == _ROWS:
                    yield as_array(frames)
                    frames = []
            elif found:
                odd, first = odd + 1, first if odd else (number, line.strip()[:80])
    if odd:
        warnings.warn(
            f"{odd:,} lines of {path} are of an unknown kind and left out; the first is line {first[0]:,}: "
            f"{first[1]!r}. Export the log again if they hold frames.",
            stacklevel=2,
        )
    if lost:
        warnings.warn(
            f"{lost:,} frames are missing in {path}: the numbers of its frames have gaps. Its logger lost them, or "
            "lines were removed. Export the log again if that was not on purpose.",
            stacklevel=2,
        )
    yield as_array(frames)


def as_array(rows: list[Frame]) -> np.ndarray:
    """Return frames as ``FRAME``."""
    frames = np.zeros(len(rows), dtype=FRAME)
    if rows:
        time_s, identifiers, extended, buses, data = zip(*rows, strict=True)
        frames["time_s"], frames["id"], frames["bus"] = time_s, identifiers, buses
        frames["extended"] = np.array(extended) | (frames["id"] > 0x7FF)
        frames["length"] = [len(each) for each in data]
        frames["data"] = np.frombuffer(b"".join(each.ljust(64, b"\0") for each in data), dtype=np.uint8).reshape(-1, 64)
    return frames


def _integer(text: str, base: int = 10) -> int:
    """Return an integer without a sign; unlike ``int``, refuse underscores."""
    if not text.isascii() or not text.isalnum():
        raise ValueError(f"{text!r}, where an integer is expected")
    return int(text, base)


def _identifier(text: str, base: int = 16) -> int:
    number = _integer(text, base)
    if number > 0x1FFFFFFF:
        raise ValueError(f"the identifier {text} has more than 29 bits")
    return number


def _bus(text: str) -> int:
    number = _integer(text)
    if number > 0xFFFF:
        raise ValueError(f"the bus {text}, where a number of at most {0xFFFF} is expected")
    return number


def _bytes(words: list[str], count: int, base: int = 16) -> bytes:
    """Return the bytes of a frame; ValueError if they are not as many as it says."""
    if len(words) != count or count > 64:
        raise ValueError(f"{len(words)} bytes of data, where the line says {count} (64 at most)")
    if base == 16 and all(len(word) == 2 for word in words):
        return bytes.fromhex(" ".join(words))
    return bytes(_integer(word, base) for word in words)


def _number(text: str) -> float:
    """Return a number, with a point or a comma."""
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"{text!r}, where a number is expected")
    return float(text.replace(",", "."))


# --- ASC ------------------------------------------------------------------------------------------------

_STAMP = r"\s*(-?\d+(?:[.,]\d+)?)\s+"
_ASC_FRAME = re.compile(
    _STAMP + r"(\d+)\s+([0-9A-Fa-f]+)(x?)\s+(?:Rx|Tx|TxRq)\s+(?:r\b.*|d\s+([0-9A-Fa-f]{1,2})\b(.*))$"
)
_ASC_FD = re.compile(
    _STAMP + r"CANFD\s+(\d+)\s+(?:Rx|Tx|TxRq)\s+([0-9A-Fa-f]+)(x?)\s+(?:[A-Za-z_]\S*\s+)?[01]\s+[01]\s+"
    r"([0-9A-Fa-f]{1,2})\s+(\d+)(.*)"
)
_ASC_NAMED = re.compile(
    _STAMP + r"(?:\d+\s+(\S+)\s+(?:Rx|Tx|TxRq)\s+[dr]\s|CANFD\s+\d+\s+(?:Rx|Tx|TxRq)\s+(\S+)\s+[01]\s+[01]\s)"
)
_ASC_HEADER = re.compile(r"\s*(?:$|//|(?:date|base|begin|end|no|internal)\b)", re.IGNORECASE)
_ASC_NO_DATA = re.compile(
    r".*Start of measurement|" + _STAMP + r"(?:(?:CANFD\s+)?\d+\s+(?:(?:Rx|Tx)\s+)?)?"
    r"(?:ErrorFrame|OverloadFrame|Statistic|Status|J1939TP)",
    re.IGNORECASE,
)
_ASC_DATA = re.compile(
    r".*(?:\s(?:Rx|Tx|TxRq)\s+[dr]\s|\bCANFD\s+\d|\bCANXL\b)|" + _STAMP + r"\d+\s+[0-9A-Fa-f]+x?\s",
)
_ASC_EVENT = re.compile(_STAMP + "[A-Za-z:]")
_TRAILER = {"Length", "BitCount", "ID"}
_MONTHS = (
    "jan|ene|gen|janv feb|fév|fev|févr mar|mär|mrz|mars|maa|mrt apr|avr|abr may|mai|mag|mei jun|juin|giu jul|juil|lug "
    "aug|aoû|ago|août sep|set|sept oct|okt|ott nov dec|dez|déc|dic"
)


class _Asc(Parser):
    """Vector's text format; the header's lines may be missing."""

    base = 16

    def frame(self, line: str) -> Frame | str:
        if found := _ASC_FRAME.match(line):
            stamp, bus, identifier, extended, code, rest = found.groups()
            if code is None:
                return _SKIPPED  # a remote frame
            words = rest.split()
            count = min(int(FD_LENGTHS[min(int(code, self.base), 15)]), 8)
            data = list(takewhile(lambda word: word not in _TRAILER, words))
            if len(data) > count:
                raise ValueError(f"{len(data)} bytes of data, where the line says {count}")
            return self._made(stamp, identifier, extended, bus, _bytes(data, len(data), self.base))
        if found := _ASC_FD.match(line):
            stamp, bus, identifier, extended, code, length, rest = found.groups()
            coded, count = int(FD_LENGTHS[min(int(code, 16), 15)]), int(length)
            if not count and coded:
                return _SKIPPED  # a remote frame
            if count != coded and not (count == 8 < coded):
                raise ValueError(f"a data length code of {code} and {length} bytes of data, which do not agree")
            return self._made(stamp, identifier, extended, bus, _bytes(rest.split()[:count], count, self.base))
        if _ASC_HEADER.match(line):
            return self._header(line)
        if _ASC_NO_DATA.match(line):
            return _SKIPPED
        named = _ASC_NAMED.match(line)
        if named and not re.fullmatch("[0-9A-Fa-f]+x?", name := named[2] or named[3]):
            raise ValueError(
                f"{name!r} is the name of a message, where a number is expected; export the log with numeric "
                f"identifiers (CANalyzer: not symbolic)"
            )
        if _ASC_DATA.match(line):
            raise ValueError(f"{line.strip()[:80]!r} is not a frame")
        return _SKIPPED if _ASC_EVENT.match(line) else line

    def _made(self, stamp: str, identifier: str, extended: str, bus: str, data: bytes) -> Frame:
        return _number(stamp), _identifier(identifier, self.base), bool(extended), _bus(bus), data

    def _header(self, line: str) -> str:
        words = line.split()
        kind = words[0].lower() if words else ""
        if kind == "base":
            self.base = 10 if "dec" in words else 16
            if "relative" in words:
                raise ValueError(
                    "its stamps count from the line before, not from the start; export it with 'timestamps absolute'"
                )
        elif kind == "date" and not self.start_s:
            self.start_s = _asc_date(" ".join(words[2:]))
        return _SKIPPED


def _asc_date(text: str) -> float:
    """Return the moment of ``Sep 30 03:06:13.191 pm 2017``, as if in UTC; 0 if it cannot be read."""
    found = re.fullmatch(r"(\S+) (\d+) (\d+):(\d+):(\d+)(?:[.,](\d{1,6}))? ?([aApP][mM])? ?(\d{4})", text)
    if not found:
        return 0.0
    month, day, hour, minute, second, part, half, year = found.groups()
    number = next(
        (n for n, names in enumerate(_MONTHS.split(" "), 1) if month.lower().strip(".") in names.split("|")), 0
    )
    hours = int(hour) % 12 + 12 * (half.lower() == "pm") if half else int(hour)
    try:
        micros = int((part or "0").ljust(6, "0"))
        return datetime(int(year), number, int(day), hours, int(minute), int(second), micros, tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


# --- TRC ------------------------------------------------------------------------------------------------

_TRC_1 = re.compile(
    r"\s*(\d+)\)\s+(-?\d+(?:[.,]\d+)?)\s+(?:(?:(\d{1,2})\s+)?(Rx|Tx|Warng|Error)\s+)?"
    r"([0-9A-Fa-f]{4}|[0-9A-Fa-f]{8})\s+(?:-\s+)?(\d{1,2})(?:\s+(.*))?$"
)
_TRC_READ = ("1.0", "1.1", "1.2", "1.3", "2.0", "2.1")
_TRC_NO_DATA = {"RR", "ST", "EC", "ER", "EV"}


class _Trc(Parser):
    """PEAK's text format, which numbers the frames. In versions 1.x a line shows which columns it has."""

    version = ""
    columns: Sequence[str] = ()

    def frame(self, line: str) -> Frame | str:
        text = line.strip()
        if text.startswith(";"):
            return self._header(text)
        if not text:
            return _SKIPPED
        return self._second(text) if self.version.startswith("2") else self._first(text)

    def _first(self, text: str) -> Frame | str:
        found = _TRC_1.match(text)
        if not found:
            version = f"version {self.version}" if self.version else "no version, so that 1.0 to 1.3 is expected"
            raise ValueError(
                f"{text[:80]!r} is not a frame (the file has {version}); convert it to 2.1 with PEAK-Converter"
            )
        number, stamp, bus, kind, identifier, length, rest = found.groups()
        self.number = int(number)
        words = (rest or "").split()
        if kind in ("Warng", "Error") or identifier.upper() == "FFFFFFFF" or words[:1] == ["RTR"]:
            return _SKIPPED
        return self._made(stamp, identifier, bus or "1", _bytes(words, int(length)))

    def _second(self, text: str) -> Frame | str:
        words = text.split(maxsplit=len(self.columns) - 1)
        values = dict(zip(self.columns, words, strict=False))
        kind, number = values.get("T", ""), values.get("N", "")
        self.number = int(number) if number.isdecimal() else 0
        if kind in _TRC_NO_DATA:
            return _SKIPPED
        if kind not in ("DT", "FD", "FB", "FE", "BI") or len(words) < len(self.columns) - 1:
            raise ValueError(f"{text[:80]!r} is not a frame; convert it to 2.1 with PEAK-Converter")
        data = values.get("D", "").split()
        if "l" in values:
            count = _integer(values["l"])
        else:
            code = _integer(values["L"])  # some tools write the number of bytes
            count = len(data) if len(data) == code else int(FD_LENGTHS[min(code, 15)])
            count = min(count, 8) if kind == "DT" else count
        return self._made(values["O"], values["I"], values.get("B", "1"), _bytes(data, count))

    def _made(self, stamp: str, identifier: str, bus: str, data: bytes) -> Frame:
        return _number(stamp) / 1000, _identifier(identifier), len(identifier) > 4, _bus(bus), data

    def _header(self, text: str) -> str:
        name, _, value = text[1:].partition("=")
        if name == "$FILEVERSION":
            self.version = value.strip()
            if self.version not in _TRC_READ:
                raise ValueError(
                    f"version {self.version} of TRC, where {', '.join(_TRC_READ)} can be read; convert it with "
                    f"PEAK-Converter"
                )
            if self.version.startswith("2") and not self.columns:
                self.columns = ["N", "O", "T", "I", "d", "l", "D"]
        elif name == "$STARTTIME" and not self.start_s:
            try:
                self.start_s = (datetime(1899, 12, 30, tzinfo=UTC) + timedelta(days=_number(value))).timestamp()
            except (ValueError, OverflowError):
                self.start_s = 0.0
        elif name == "$COLUMNS":
            self.columns = [column.strip() for column in value.split(",")]
            if not {"O", "T", "I", "D"} <= set(self.columns) or not {"l", "L"} & set(self.columns):
                raise ValueError(f"columns {value}, among which O, T, I, D, and l or L are expected")
        return _SKIPPED


# --- candump --------------------------------------------------------------------------------------------

_CANDUMP = re.compile(
    r"\s*\(([^)]+)\)\s+(\S+)\s+([0-9A-Fa-f]{3}|[0-9A-Fa-f]{8})#(?:#([0-9A-Fa-f]))?"
    r"([0-9A-Fa-f.]*|[Rr][0-9A-Fa-f]{0,2})(?:_[0-9A-Fa-f])?(?:\s+[RT])?\s*$"
)
_CANDUMP_SHOWN = re.compile(
    r"\s*\(([^)]+)\)\s+(\S+)\s+(?:(?:RX|TX)\s+\S\s+\S\s+)?([0-9A-Fa-f]{3}|[0-9A-Fa-f]{8})\s+\[(\d+)\]\s+"
    r"(remote request|(?:[0-9A-Fa-f]{2}(?:\s+|$))*)(?:'.*'|ERRORFRAME)?\s*$"
)
_ERROR_FRAME = 0x20000000


class _Candump(Parser):
    """Files of candump -L, and what candump shows with time stamps."""

    def __init__(self) -> None:
        self.buses: list[str] = []

    def frame(self, line: str) -> Frame | str:
        if found := _CANDUMP.match(line):
            stamp, bus, identifier, _, data = found.groups()
            if data[:1] in ("R", "r"):
                return _SKIPPED
            sent = bytes.fromhex(data.replace(".", ""))
        elif found := _CANDUMP_SHOWN.match(line):
            stamp, bus, identifier, length, data = found.groups()
            if data.startswith("remote"):
                return _SKIPPED
            sent = _bytes(data.split(), int(length))
        elif not line.strip() or line.lstrip().startswith("#"):
            return _SKIPPED
        else:
            raise ValueError(
                f"{line.strip()[:60]!r}, where a candump log has lines such as '(1436509052.249713) can0 "
                f"123#11223344'; record it with candump -L, or export it as ASC"
            )
        if int(identifier, 16) & _ERROR_FRAME and len(identifier) == 8:
            return _SKIPPED
        if len(identifier) == 3 and int(identifier, 16) > 0x7FF:
            raise ValueError(f"the identifier {identifier} of 3 digits has more than 11 bits")
        if len(sent) > 64 or (found.re is _CANDUMP and found[4] is None and len(sent) > 8):
            raise ValueError(f"{len(sent)} bytes of data, more than a frame has")
        return self._seconds(stamp), _identifier(identifier), len(identifier) > 3, self._bus(bus), sent

    def _seconds(self, stamp: str) -> float:
        if "-" in stamp.lstrip("-"):  # candump -t A
            return datetime.fromisoformat(stamp).replace(tzinfo=UTC).timestamp()
        return _number(stamp)

    def _bus(self, name: str) -> int:
        if name not in self.buses:
            self.buses.append(name)
        return self.buses.index(name)


PARSERS: dict[str, type[Parser]] = {".log": _Candump, ".asc": _Asc, ".trc": _Trc}
