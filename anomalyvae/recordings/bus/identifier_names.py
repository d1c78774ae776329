"""Names of the signals that a bus has without a database; see :mod:`anomalyvae.recordings.bus.identifiers`."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from anomalyvae.recordings.bus.frames import EXTENDED, digits_of

UNKNOWN = "unknown.identifiers"
MOST_FREQUENT = "unknown.most_frequent"
_NUMBER = r"[\d.]+(?:e[+-]\d+)?"
_NAME = re.compile(
    r"(?:(?P<bus>.+)\.)?0x(?P<digits>[01][0-9A-F]{7}|[0-7][0-9A-F]{2})"
    r"\.(?P<kind>period|jitter|frames|length|changes|byte(?:[0-5]?\d|6[0-3])"
    rf"(?:\.change|\.change_above\({_NUMBER}\)|_outside\({_NUMBER}-{_NUMBER}\))?"
    rf"|gap_outside\({_NUMBER}-{_NUMBER}\)"
    r"|unlike\((?:[0-9A-F]{2}|\?\?){0,64}\+?\))"
)
_UNITS = {"period": "s", "jitter": "%", "frames": "1/s", UNKNOWN: "%"}


class SignalName(NamedTuple):
    """The name of a signal in its parts; ``str`` joins them."""

    bus: str  # empty for the only one
    key: int  # the identifier, with EXTENDED
    kind: str  # such as "byte3.change"

    def __str__(self) -> str:
        return f"{self.bus}{'.' if self.bus else ''}{digits_of(self.key)}.{self.kind}"

    @property
    def limits(self) -> tuple[float, float]:
        """The limits in the name."""
        found = re.search(rf"\((?:({_NUMBER})-)?({_NUMBER})\)", self.kind)
        assert found is not None  # noqa: S101
        return float(found[1] or 0), float(found[2])

    @property
    def pattern(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of ``unlike``: the bytes, which of them are given, and whether a frame may have each length."""
        text = self.kind[len("unlike(") : -1]
        each = re.findall("..", text.removesuffix("+"))
        given = np.array([byte != "??" for byte in each], dtype=bool)
        fits = np.zeros(65, dtype=bool)
        fits[len(each) : None if "+" in text else len(each) + 1] = True
        return np.array([0 if byte == "??" else int(byte, 16) for byte in each], dtype=np.uint8), given, fits

    @property
    def byte(self) -> int | None:
        """The number of the byte that it is of."""
        found = re.match(r"byte(\d+)", self.kind)
        return int(found[1]) if found else None


def parse_name(name: str) -> SignalName | None:
    """Return the parts of the name of an identifier's signal; None for another name.

    Examples
    --------
    >>> parse_name("can1.0x123.byte3.change")
    SignalName(bus='can1', key=291, kind='byte3.change')
    """
    found = _NAME.fullmatch(name)
    if not found:
        return None
    key = int(found["digits"], 16) | (EXTENDED if len(found["digits"]) == 8 else 0)
    return SignalName(found["bus"] or "", key, found["kind"])


def is_identifier_signal(name: str) -> bool:
    """Whether a signal is one that needs no database."""
    return name in (UNKNOWN, MOST_FREQUENT) or parse_name(name) is not None


def unit_of(kind: str) -> str:
    """The unit of a kind of signal."""
    return "%" if kind.endswith(")") else _UNITS.get(kind, "")
