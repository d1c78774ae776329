"""Names of columns: units in them, names that mean time, and the nearest known name."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Hashable, Iterable

TIME_NAMES = ("time_s", "time", "timestamp", "t", "datetime", "date_time", "unix_time", "epoch")
# What loggers call it, the better first: Torque's device time has milliseconds, its GPS time has not.
_LOGGERS = (
    "device time", "time since start", "seconds elapsed", "elapsed time", "elapsed", "seconds", "milliseconds",
    "date time", "log time", "local time", "utc time", "gps time", "utc", "yyyy-mo-dd hh-mi-ss sss", "zeit",
    "zeitstempel",
)  # fmt: skip
PER_SECOND: dict[str, float] = {
    "s": 1, "ms": 1_000, "us": 1_000_000, "µs": 1_000_000, "ns": 1_000_000_000, "min": 1 / 60, "h": 1 / 3600,
}  # fmt: skip
OR_EXCLUDE = ", or leave them out by exclude= (--exclude)"  # a remedy of `refuse_repeated`, for files
_SPELLED = {
    "sec": "s", "secs": "s", "second": "s", "seconds": "s", "msec": "ms", "millisecond": "ms", "milliseconds": "ms",
    "usec": "us", "microsecond": "us", "microseconds": "us", "μs": "us", "nsec": "ns", "nanosecond": "ns",
    "nanoseconds": "ns", "minutes": "min", "hours": "h", "hour": "h", "unix time": "s", "day": "d", "days": "d",
}  # fmt: skip
_LETTERS = set("smhdgltLVAWJNKCFTΩ%°‰-1")  # units of one letter: an A is an ampere, an a is none
_SYMBOLS = {
    "sec", "second", "seconds", "min", "minutes", "hr", "hours", "hz", "rpm", "meters", "meter", "mi", "miles", "ft",
    "feet", "in", "inch", "gal", "liters", "lb", "lbs", "mph", "kmh", "kph", "kn", "knots", "deg", "degree", "degrees",
    "rad", "°c", "degc", "celsius", "°f", "degf", "pa", "bar", "psi", "inhg", "mmhg", "volt", "volts", "amp", "amps",
    "ah", "wh", "hp", "ps", "nm", "n·m", "cd", "lx", "lux", "lm", "db", "dba", "dbm", "gauss", "ohm", "va", "ppm",
    "ppb", "rev", "bit", "byte", "bytes", "unix time",
}  # fmt: skip
_PREFIXED = re.compile(
    r"(da|[ynpuµμmcdhkMGT])(s|m|g|l|L|V|A|W|Wh|Ah|Hz|N|Nm|Pa|bar|J|T|rad|ohm|Ω|B|bit|cd|lm|lx|mol|m/h|rpm|h)"
)


def split_unit(header: str) -> tuple[str, str]:
    """Split ``name [unit]``, ``name (unit)`` or ``time in ms``; an index, as in ``wheel [0]``, belongs to the name.

    What stands in parentheses is a unit only if it looks like one.

    Examples
    --------
    >>> split_unit("speed [m/s]"), split_unit("wheel [0]")
    (('speed', 'm/s'), ('wheel [0]', ''))
    >>> split_unit("Speed (OBD)(km/h)"), split_unit("Speed (OBD)"), split_unit("Time since start in ms ")
    (('Speed (OBD)', 'km/h'), ('Speed (OBD)', ''), ('Time since start', 'ms'))
    """
    if match := re.fullmatch(r"(.*\S)\s+\[([^\[\]]*[^\[\]\d\s][^\[\]]*)\]\s*", header):
        return match[1].strip(), match[2].strip()
    match = re.fullmatch(r"(.*\S)\s*\(([^()]+)\)\s*", header)
    if match and is_unit(match[2]) and (match[2] != "min" or index_of_time([match[1]]) is not None):
        return match[1].strip(), match[2].strip()
    match = re.fullmatch(r"(.*\S)\s+in\s+(\w+)\s*", header)
    if match and time_unit(match[2]) in PER_SECOND and match[2].casefold() != "h":
        return match[1].strip(), match[2].strip()
    return header.strip(), ""


def is_unit(text: str) -> bool:
    """Return whether text looks like a unit of measurement.

    Examples
    --------
    >>> [text for text in ("km/h", "m/s²", "1/min", "Meters/second", "OBD", "GPS", "x", "speed", "3") if is_unit(text)]
    ['km/h', 'm/s²', '1/min', 'Meters/second']
    """
    text = text.strip().strip("[]()").strip()
    if not text or text.isdigit():
        return False
    if text.casefold() in _SYMBOLS:
        return True
    return all(map(_is_symbol, re.split(r"[/*·×⋅ ]+", re.sub(r"\s+per\s+", "/", text))))


def _is_symbol(part: str) -> bool:
    if re.fullmatch(r"10*|U", part):
        return True
    part = re.sub(r"(\^?[-−]?[0-9]+|[²³⁻¹]+)$", "", part)
    return part in _LETTERS or part.casefold() in _SYMBOLS or _PREFIXED.fullmatch(part) is not None


def time_unit(text: str) -> str:
    """Return the usual symbol of a unit of time; other text as it is."""
    plain = text.strip()
    return _SPELLED.get(plain.casefold(), plain)


def index_of_time(names: list[str]) -> int | None:
    """Return the index of the column whose name, without its unit, is that of a time column; None if there is none."""
    folded = [name.strip().casefold() for name in names]
    short = [re.sub(r"_(s|ms|us|ns)$", "", name) for name in folded]
    for wanted in TIME_NAMES:
        for index, name in enumerate(folded):
            if wanted in (name, short[index]):
                return index
    spaced = [re.sub(r"[\s_]+", " ", name) for name in short]
    return next((spaced.index(wanted) for wanted in _LOGGERS if wanted in spaced), None)


def refuse_repeated(names: Iterable[Hashable], source: object, remedy: str = "") -> None:
    """Raise ValueError if a column name comes twice; ``source`` has them, ``remedy`` goes on from "Rename them"."""
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(
                f"{source} has {count} columns named {name!r}; names must be distinct. Rename them{remedy}."
            )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the sentence to end an error with after an unknown name.

    Examples
    --------
    >>> nearest("sped_mps", ["speed_mps", "acc_x_g"])
    "Did you mean 'speed_mps'?"
    >>> nearest("torque", ["speed_mps", "acc_x_g"])
    "Use one of 'speed_mps', 'acc_x_g'."
    """
    names = list(known)
    by_folded = {candidate.casefold(): candidate for candidate in reversed(names)}
    close = difflib.get_close_matches(name.casefold(), list(by_folded), n=1)
    if close:
        return f"Did you mean {by_folded[close[0]]!r}?"
    if not names:
        return "There are none."
    shown = ", ".join(repr(candidate) for candidate in names[:12])
    return f"Use one of {shown}{', …' if len(names) > 12 else ''}."
