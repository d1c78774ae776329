"""Text that comes from files, and may hold anything: printed, listed, put into spreadsheets, and read as JSON."""

import json
import math
import unicodedata
from collections.abc import Iterable
from typing import Any

_FORMULA = (*"=+-@\t\r\n'", *"\uff1d\uff0b\uff0d\uff20")  # how formulas begin; the last are wide forms of = + - @
_LONGEST = 1 << 26  # bytes of a JSON text: 64 MB


def printable(text: str, lines: bool = False) -> str:
    r"""A text that cannot control a terminal: control and format characters are written as ``\x1b``.

    Format characters are invisible, such as those that turn the direction of writing. ``lines=True`` keeps the ends of
    lines and tabs.

    Examples
    --------
    >>> print(printable("speed\x1b[2J"))
    speed\x1b[2J
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in " \u00a0" or (lines and c in "\n\t") else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    if unicodedata.category(character) == "Zs":  # other spaces
        return character
    return character.encode("unicode_escape").decode()


def listed(names: Iterable[object], shown: int = 5) -> str:
    """The first names, for a message, and how many more there are.

    Examples
    --------
    >>> listed("abcdefg")
    'a, b, c, d, e and 2 more'
    """
    every = [str(name) for name in names]
    more = f" and {len(every) - shown} more" if len(every) > shown else ""
    return ", ".join(every[:shown]) + more


def spreadsheet_text(cell: Any) -> Any:
    """A cell that no spreadsheet runs: an apostrophe precedes text that begins like a formula. Others stay.

    Examples
    --------
    >>> spreadsheet_text("=1+1"), spreadsheet_text(-1.5)
    ("'=1+1", -1.5)
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def from_spreadsheet(cell: str) -> str:
    """The reverse of `spreadsheet_text`."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell


def read_json(text: str | bytes, longest: int = _LONGEST) -> Any:
    """Read JSON that means one thing only.

    Raises ValueError for text that is not UTF-8 or not JSON, longer than ``longest`` bytes (64 MB), or nested too
    deeply; for a key that occurs twice, and for numbers that are not finite.
    """
    if len(text) > longest:
        raise ValueError(f"{len(text):,} bytes of JSON, expected at most {longest:,}")
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        return json.loads(decoded, object_pairs_hook=distinct, parse_constant=_constant, parse_float=_number)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object from its keys and values; ValueError for a key that occurs twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in found if names.count(name) > 1)!r} occurs twice")
    return found


def _constant(text: str) -> Any:
    raise ValueError(f"the number {text}, expected a finite one")


def _number(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _constant(text)
