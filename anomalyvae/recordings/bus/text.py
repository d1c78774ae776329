"""The lines of text logs of CAN frames: ASC (Vector), TRC (PEAK) and candump.

Every line is a frame, a known line without data (header, comment, error or remote frame, statistics), or an error. So a
dialect that is not known here is refused by line, and never read in part.

References
----------
Vector Informatik, CAN ASC Logging Files Format; PEAK-System, PEAK CAN TRC File Format, versions 1.0 to 2.1; candump of
can-utils.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import dropwhile
from pathlib import Path
from typing import NamedTuple

import pandas as pd

_LONGEST_LINE = 1 << 16
_FD_LENGTHS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 32, 48, 64)  # bytes, by data length code
_EXTENDED_DIGITS = 4  # an identifier with more hexadecimal digits has 29 bits
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_OTHER_MONTHS = {"mär": 3, "mrz": 3, "mai": 5, "okt": 10, "dez": 12}
_ASC_DATE = re.compile(
    r"\S+\s+(\w+)\s+(\d+)\s+(\d+):(\d+):(\d+)(?:[.,](\d{1,6})\d*)?\s*(am|pm)?\s+(\d{4})", re.IGNORECASE
)
_ASC_FRAME = re.compile(
    r"(?P<stamp>-?\d+[.,]\d+)\s+(?P<bus>\d+)\s+(?P<id>\w+)\s+(?:Rx|Tx|TxRq)\s+"
    r"(?:(?P<remote>r)\b.*|d\s+(?P<code>[0-9a-f]{1,2})\b(?P<data>.*))",
    re.IGNORECASE,
)
_ASC_FD_FRAME = re.compile(
    r"(?P<stamp>-?\d+[.,]\d+)\s+CANFD\s+(?P<bus>\d+)\s+(?:Rx|Tx|TxRq)\s+(?P<id>\w+)\s+(?:(?P<name>\S*[^\s\d]\S*)\s+)?"
    r"[01]\s+[01]\s+[0-9a-f]\s+(?P<count>\d+)\b(?P<data>.*)",
    re.IGNORECASE,
)
_ASC_DIRECTION = re.compile(r"\s(?:Rx|Tx|TxRq)\s", re.IGNORECASE)
_ASC_NO_FRAME = re.compile(
    r"-?\d+[.,]\d+\s+(?:CANFD\s+)?\d+\s+(?:(?:Rx|Tx)\s+)?(?:ErrorFrame|J1939TP|Statistic)"
    r"|-?\d+[.,]\d+\s+(?:L\d+|Li|LIN|Fr|ETH|AFDX|M\d+|SV:|CAN\s+\d+\s+Status)",
    re.IGNORECASE,
)
_TRC_1 = re.compile(
    r"\d+\)\s+(?P<stamp>\d+(?:[.,]\d+)?)\s+(?:(?P<bus>\d{1,2})\s+)?(?:(?P<kind>[A-Za-z]\w+)\s+)?"
    r"(?P<id>[0-9A-Fa-f]{8}|[0-9A-Fa-f]{4})\s+(?:-\s+)?(?P<count>\d)\b(?P<data>.*)"
)
_TRC_VERSIONS = ("1.0", "1.1", "1.2", "1.3", "2.0", "2.1")
_TRC_FRAMES = {"DT", "FD", "FB", "FE", "BI"}
_TRC_OTHERS = {"RR", "ER", "ST", "EC", "EV"}
_CANDUMP = re.compile(
    r"\((?P<stamp>\d+\.\d+)\)\s+(?P<bus>\S+)\s+(?P<id>[0-9A-Fa-f]{3}|[0-9A-Fa-f]{8})#"
    r"(?:(?P<remote>R[0-9A-Fa-f]?)|(?:#[0-9A-Fa-f])?(?P<data>(?:[0-9A-Fa-f]{2}\.?)*)(?:_[0-9A-Fa-f])?)(?:\s+[RT])?"
)


class Frame(NamedTuple):
    """A frame with data."""

    time_s: float
    id: int
    extended: bool
    bus: str  # as the file names it
    data: bytes


class Lines:
    """The lines of a text file, counted and stripped. A last line without an end may be cut, and is left out."""

    def __init__(self, path: Path) -> None:
        self._file = path.open(encoding="utf-8", errors="replace")
        self.number = 0

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(_LONGEST_LINE)
        self.number += 1
        if len(line) == _LONGEST_LINE:
            raise ValueError(f"a line of more than {_LONGEST_LINE:,} characters")
        if not line.endswith("\n"):
            raise StopIteration
        return line.strip()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


Text = tuple[pd.Timestamp | None, Iterator[Frame]]  # the moment of stamp zero, and the frames


def asc_frames(lines: Lines, path: Path) -> Text:
    """Read an ASC log."""
    start: pd.Timestamp | None = None
    base, head = 16, []
    for line in lines:
        word = line.lower()
        if word.startswith("date"):
            start = _asc_date(line[4:])
        elif word.startswith("base"):
            base = 10 if re.match(r"base\s+dec", word) else 16
            if "timestamps relative" in " ".join(word.split()):
                raise ValueError(
                    f"The stamps of {path} count from the line before, not from the start. Export it with 'timestamps "
                    f"absolute'."
                )
        elif line and line[0] in "-0123456789":
            head = [line]
            break
    return start, (frame for part in (head, lines) for line in part for frame in _asc_frame(line, base))


def _asc_frame(line: str, base: int) -> Iterator[Frame]:
    found = _ASC_FRAME.fullmatch(line) or _ASC_FD_FRAME.fullmatch(line)
    if found is None or _ASC_NO_FRAME.match(line):
        if found is None and _ASC_DIRECTION.search(line) and not _ASC_NO_FRAME.match(line):
            raise ValueError(f"{line[:80]!r} is no frame of a known form")
        return
    parts = found.groupdict()
    if parts.get("remote"):
        return
    digits = parts["id"]
    extended = digits[-1:] in "xX"
    try:
        identifier = int(digits.rstrip("xX"), base)
    except ValueError:
        raise ValueError(
            f"{digits!r} is the name of a message in place of its identifier; export the log with numeric identifiers"
        ) from None
    count = int(parts["count"]) if "count" in parts else min(int(parts["code"], base), 8)
    data = bytearray()
    for byte in parts["data"].split()[:count]:
        if not re.fullmatch(r"[0-9a-fA-F]{1,3}", byte) or int(byte, base) > 255:
            break  # a frame may be shown with fewer bytes, before its length in bits
        data.append(int(byte, base))
    if "count" in parts and not count:
        return  # a remote frame
    yield Frame(_number(parts["stamp"]), identifier, extended, parts["bus"], bytes(data))


def _asc_date(text: str) -> pd.Timestamp | None:
    found = _ASC_DATE.match(text.strip())
    if found is None:
        return None
    month, day, hour, minute, second, fraction, half, year = found.groups()
    name = month.lower()[:3].replace("\ufffd", "ä")
    number = _MONTHS.index(name) + 1 if name in _MONTHS else _OTHER_MONTHS.get(name)
    if number is None:
        return None
    hours = int(hour) % 12 + 12 * (half.lower() == "pm") if half else int(hour)
    try:
        moment = datetime(int(year), number, int(day), hours, int(minute), int(second))
    except ValueError:
        return None
    return pd.Timestamp(moment + timedelta(microseconds=int((fraction or "").ljust(6, "0"))), tz="UTC")


def trc_frames(lines: Lines, path: Path) -> Text:
    """Read a TRC log, of version 1.0 if it names none."""
    start, columns, head = None, [], []
    for line in lines:
        key, _, value = line.partition("=")
        if key == ";$FILEVERSION" and value.strip() not in _TRC_VERSIONS:
            raise ValueError(
                f"version {value.strip()} of the format is unknown, expected {', '.join(_TRC_VERSIONS)}; convert the "
                "file with PEAK-Converter"
            )
        if key == ";$STARTTIME":
            days = pd.Timedelta(_number(value), unit="D")
            start = (pd.Timestamp("1899-12-30", tz="UTC") + days).round("us")
        elif key == ";$COLUMNS":
            columns = value.strip().split(",")
        elif line and not line.startswith(";"):
            head = [line]
            break
    read = _trc_2_row(columns) if columns else _trc_1_row
    return start, (frame for part in (head, lines) for line in part for frame in read(line))


def _trc_1_row(line: str) -> Iterator[Frame]:
    if not line or line.startswith(";"):
        return
    found = _TRC_1.fullmatch(line)
    if found is None:
        if re.match(r"\d+\)\s+\S+\s+(?:\d+\s+)?(?!Rx|Tx)[A-Za-z]\w+\s", line):
            return  # an error or a warning
        raise ValueError(f"{line[:80]!r} is no frame of the versions 1.0 to 1.3; convert the file with PEAK-Converter")
    kind, digits, data = found["kind"], found["id"], found["data"].split()
    if kind not in (None, "Rx", "Tx") or (kind is None and digits == "FFFFFFFF") or data[:1] == ["RTR"]:
        return
    yield _trc_frame(line, found["stamp"], digits, found["bus"], data, int(found["count"]))


def _trc_2_row(columns: list[str]) -> Callable[[str], Iterator[Frame]]:
    place = {name: number for number, name in enumerate(columns)}
    missing = [name for name in "OTI" if name not in place] + ([] if {"l", "L"} & place.keys() else ["L"])
    if missing:
        raise ValueError(f"$COLUMNS lacks {', '.join(missing)}; convert the file with PEAK-Converter")
    length = place["l" if "l" in place else "L"]

    def read(line: str) -> Iterator[Frame]:
        if not line or line.startswith(";"):
            return
        cells = line.split(maxsplit=len(columns) - 1)
        kind = cells[place["T"]] if len(cells) > place["T"] else ""
        if kind in _TRC_OTHERS:
            return
        if kind not in _TRC_FRAMES or len(cells) <= length:
            raise ValueError(f"{line[:80]!r} is no row of the columns {','.join(columns)}")
        data = cells[place["D"]].split() if "D" in place and len(cells) > place["D"] else []
        bus = cells[place["B"]] if "B" in place else None
        yield _trc_frame(line, cells[place["O"]], cells[place["I"]], bus, data, int(cells[length]))

    return read


def _trc_frame(line: str, stamp: str, digits: str, bus: str | None, data: list[str], count: int) -> Frame:
    if len(data) != count and (count > 15 or len(data) != _FD_LENGTHS[count]):
        raise ValueError(f"{line[:80]!r} has {len(data)} bytes, but its length says {count}")
    sent = bytes(int(byte, 16) for byte in data)
    return Frame(_number(stamp) / 1000, int(digits, 16), len(digits) > _EXTENDED_DIGITS, bus or "1", sent)


def candump_frames(lines: Lines, path: Path) -> Text:
    """Read what ``candump -L`` writes."""
    first = next(dropwhile(lambda line: not line, lines), "")
    if not _CANDUMP.fullmatch(first):
        raise ValueError(
            f"{path} begins with {first[:60]!r}; a candump log has lines such as '(1436509052.249713) can0 "
            f"123#11223344'. Record it with candump -L, or export it as ASC."
        )
    return None, (frame for part in ([first], lines) for line in part for frame in _candump_frame(line))


def _candump_frame(line: str) -> Iterator[Frame]:
    if not line:
        return
    found = _CANDUMP.fullmatch(line)
    if found is None:
        raise ValueError(f"{line[:80]!r} is no frame of candump -L")
    identifier = int(found["id"], 16)
    if found["remote"] or (len(found["id"]) > _EXTENDED_DIGITS and identifier & 0x20000000):
        return  # a remote frame, or an error frame (the flag CAN_ERR_FLAG)
    data = bytes.fromhex(found["data"].replace(".", ""))
    yield Frame(float(found["stamp"]), identifier, len(found["id"]) > _EXTENDED_DIGITS, found["bus"], data)


def _number(text: str) -> float:
    """A number, with a point or a comma."""
    return float(text.replace(",", "."))
