"""Text of cells becomes numbers, and cells that say that a value is missing become missing.

- A number may have a sign (``+``, ``-`` or the minus ``−``), decimals, an exponent, and spaces around it. ``0x1F`` is a
  whole number; ``inf`` is infinite.
- Thousands separators are refused: ``1,234`` may also be 1.234.
- A cell is missing if it is empty or one of `MISSING`, in any case; in a column of text only if it is one of
  `MISSING_TEXT`, since ``error`` may be a level there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc

from anomalyvae.tables.names import is_unit

# What pandas reads as missing from a CSV.
MISSING_TEXT = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
MISSING = {
    *(text.casefold() for text in MISSING_TEXT), "-", "--", "---", "–", "—", "?", "??", ".", "*", "n.a.", "nil",
    "nodata", "no data", "no_data", "missing", "none", "void", "invalid", "not available", "unavailable", "n/v", "err",
    "error", "fehler", "ungültig", "k.a.", "bad", "nat", "#value!", "#div/0!", "#ref!", "#num!", "#name?", "#null!",
    "undefined", "unknown", "(null)", "<null>", "[null]", "\\n",
    "#nv", "#wert!", "#zahl!", "#bezug!", "#n/d", "#nombre!", "#valeur!", "#valor!", "#¡valor!", "#¡num!", "#¡ref!",
}  # fmt: skip
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity)|0x[0-9a-f]+", re.IGNORECASE | re.ASCII)
_EXACT_UP_TO = 2**53  # float64 cannot hold every larger whole number
_HEX = "^0x[0-9a-f]+$"
_THOUSANDS = re.compile(
    r"[+-]?\d{1,3}([., '’\xa0\u2009\u202f]\d{3})+([.,]\d+)?|[+-]?\d*[.,]\d+"
    r"|[+-]?\d{1,2}(,\d\d)+,\d{3}(\.\d+)?|[+-]?\d*\.\d*[dD][+-]\d+"  # Indian; Fortran's exponent
)
_WITH_UNIT = re.compile(r"[+-]?\d+(?:[.,]\d+)?(?:\s+(\S+)|\s?([%°€$]\S*))")
# As spreadsheets write them, in English, German, French, Spanish, Italian, Portuguese and Dutch.
_TRUE = ("true", "wahr", "vrai", "verdadero", "vero", "verdadeiro", "waar")
_FALSE = ("false", "falsch", "faux", "falso", "onwaar")


def is_number(cell: str, decimal: str = "") -> bool:
    """Return whether a cell is a number with this decimal mark."""
    return _NUMBER.fullmatch(_plain(cell, decimal)) is not None


def is_missing(cell: str | None, more: Iterable[str] = ()) -> bool:
    """Return whether a cell of numbers says that its value is missing."""
    return cell is None or cell.strip().casefold() in MISSING or cell.strip() in set(more)


def like_number(cell: str) -> bool:
    """Return whether a cell is a number in any way of writing it, with a unit or not."""
    cell = cell.strip().lstrip("='\"$€£").rstrip("'\"").strip()  # '1 and ="1" make text of a number in a spreadsheet
    if is_number(cell) or _THOUSANDS.fullmatch(cell):
        return True
    match = _WITH_UNIT.fullmatch(cell)
    return match is not None and is_unit(match[1] or match[2])


def _plain(cell: str, decimal: str) -> str:
    cell = cell.strip().replace("−", "-")
    return cell.replace(".", "?").replace(",", ".") if decimal == "," else cell


def numbers_in_text(
    cells: pa.ChunkedArray, *, decimal: str = "", missing: Iterable[str] = (), words: bool = False
) -> pa.ChunkedArray:
    """Return text as numbers if every cell is a number or missing (or, with ``words``, true or false), else as it is.

    Whole numbers that float64 cannot hold are int64.
    """
    if len(cells) > 100 and is_text(_numbers(cells[:100], decimal, missing, words).type):
        return cells  # a failing cast is slow: most text fails here
    return _numbers(cells, decimal, missing, words)


def _numbers(cells: pa.ChunkedArray, decimal: str, missing: Iterable[str], words: bool) -> pa.ChunkedArray:
    if missing:
        cells = pc.if_else(pc.is_in(pc.utf8_trim_whitespace(cells), pa.array([*missing])), None, cells)
    if decimal != "," and (numbers := _cast(cells)) is not None:
        return numbers
    text = pc.utf8_lower(pc.replace_substring(pc.utf8_trim_whitespace(cells), "−", "-"))
    text = pc.if_else(pc.is_in(text, _markers()), None, text)
    if decimal == ",":
        text = pc.replace_substring(pc.replace_substring(text, ".", "?"), ",", ".")
    if words:
        text = pc.if_else(pc.is_in(text, pa.array(_TRUE)), "1", text)
        text = pc.if_else(pc.is_in(text, pa.array(_FALSE)), "0", text)
    if pc.any(pc.match_substring_regex(text, _HEX)).as_py():
        text = pa.chunked_array([pa.array([_without_hex(cell) for cell in text.to_pylist()], pa.string())])
    numbers = _cast(text)
    return cells if numbers is None else numbers


def _without_hex(cell: str | None) -> str | None:
    return str(int(cell, 16)) if cell is not None and re.fullmatch(_HEX, cell) else cell


def _cast(cells: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Return text as float64, or as int64 if it is whole and large; None if it is not numbers."""
    try:
        numbers = cells.cast(pa.float64())
    except pa.ArrowInvalid:
        return None
    ends = pc.min_max(numbers).as_py()
    if ends["max"] is None or not _EXACT_UP_TO <= max(-ends["min"], ends["max"]) < 2**63:
        return numbers
    try:
        return cells.cast(pa.int64())
    except pa.ArrowInvalid:
        return numbers


def truths_in_text(cells: pa.ChunkedArray, *, missing: Iterable[str]) -> pa.ChunkedArray:
    """Return text as booleans if every cell is true, false, 1, 0 or missing, else as it is."""
    text = marked_missing(cells, missing)
    try:
        return pc.utf8_lower(pc.utf8_trim_whitespace(text)).cast(pa.bool_())
    except pa.ArrowInvalid:
        return cells


@cache
def _markers() -> pa.Array:
    return pa.array(sorted(MISSING))  # imports pandas


def marked_missing(cells: pa.ChunkedArray, missing: Iterable[str]) -> pa.ChunkedArray:
    """Return text in which the cells are missing that would be in a column of numbers."""
    text = pc.utf8_trim_whitespace(cells)
    skip = pc.or_(pc.is_in(pc.utf8_lower(text), _markers()), pc.is_in(text, pa.array([*missing, ""])))
    return pc.if_else(skip, None, cells)


def without_missing_text(cells: pa.ChunkedArray, missing: Iterable[str]) -> pa.ChunkedArray:
    """Return text in which the cells that say so are missing."""
    return pc.if_else(pc.is_in(cells, pa.array([*MISSING_TEXT, *missing])), None, cells)


def encoded(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the bytes of a file, of which each was taken for a character."""
    if not pa.types.is_binary(cells.type):
        return cells
    text = cells.cast(pa.string())
    if pc.all(pc.string_is_ascii(text)).as_py() is not False:
        return cells
    found = [None if cell is None else cell.encode("latin-1") for cell in text.to_pylist()]
    return pa.chunked_array([pa.array(found, pa.binary())])


def decoded(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return bytes as text; cells that are not UTF-8 are in the code page of Windows."""
    if not pa.types.is_binary(cells.type):
        return cells
    try:
        return cells.cast(pa.string())
    except pa.ArrowInvalid:
        text = [None if cell is None else text_of(cell) for cell in cells.to_pylist()]
        return pa.chunked_array([pa.array(text, pa.string())])


def text_of(cell: bytes) -> str:
    """Return bytes as text."""
    try:
        return cell.decode()
    except UnicodeDecodeError:
        return cell.decode("cp1252", "replace")


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column holds text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
