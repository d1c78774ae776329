"""How a CSV file is written, found from its first lines: encoding, separator, decimal mark, header and units.

- **Encoding.** A byte order mark, otherwise UTF-16 if every other byte is zero, otherwise UTF-8, where cells that are
  not UTF-8 are in the code page of Windows (cp1252).
- **Separator.** The first line ``sep=;`` names it. Otherwise it is the comma, semicolon, tab or bar that gives rows of
  one width with cells that hold no other separator.
- **Header.** The lines before the table (a preamble, comments) are passed over. The header is the line of text above
  the first row with numbers. A line of units below it, and more such text below that, is not a row.
- **VBO.** A file with the sections ``[column names]`` and ``[data]`` has spaces between its cells, and times of day as
  ``hhmmss.ss``.
- **Decimal mark.** A comma if cells such as ``0,5`` show it, a point if cells such as ``0.5`` do. Cells that may be
  thousands as well, such as ``1,234``, do not count.

What these lines leave open is refused, with the option that decides.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from anomalyvae.tables.cells import is_missing, text_of
from anomalyvae.tables.names import is_unit, place_of_time

HEAD = 1 << 18  # bytes that show the dialect
_RECORDS = 250  # that show it
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SIGN = r"^\s*[+\-−]?"
_VALUE = re.compile(
    _SIGN + r"(\d[\d.,'\s]*([eE][+-]?\d+)?|[.,]\d+([eE][+-]?\d+)?|0x[0-9a-fA-F]+|inf|nan|true|false)\s*$"
    r"|\d:\d\d|\d{4}-\d\d-\d\d|\d{1,2}[-./ ]\w{1,3}[-./ ]\d{2,4}|\d{4}/\d\d/\d\d",
    re.IGNORECASE,
)
_DECIMALS = re.compile(_SIGN + r"\d*([.,])\d+([eE][+-]?\d+)?\s*$")
_THOUSANDS = re.compile(_SIGN + r"[1-9]\d{0,2}([.,]\d{3})+\s*$")
_JOINED = re.compile(r"\d\s*[;|\t]\s*[+\-−]?[\d.,]")
_SECTIONS = re.compile(
    r"^\[column names\]\s*\n(.*?)\r?\n.*?^\[data\][ \t]*\r?\n", re.IGNORECASE | re.DOTALL | re.MULTILINE
)
_COMMENT = ("#", "//", "%", "!")


class NoTableError(ValueError):
    """The lines are no table with a header, or not yet."""


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written.

    Attributes
    ----------
    encoding, separator : str
    decimal : str
        ``"."``, ``","``, or empty if the first lines do not show it.
    names, units : tuple of str
        Of the columns, in the order of the cells in a row. Empty if there is none.
    begin, line : int
        The first row: how many bytes come before it, and the number of its line.
    complete : bool
        Whether a row of values has been seen; without one, later lines may change all of this.
    """

    encoding: str
    separator: str
    decimal: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    begin: int
    line: int
    complete: bool


@dataclass(frozen=True)
class _Record:
    cells: list[str]
    end: int  # its place in the text
    line: int  # its first line, from 1

    @property
    def is_blank(self) -> bool:
        return not any(cell.strip(" \t\0\xa0") for cell in self.cells)

    @property
    def is_comment(self) -> bool:
        return self.cells[0].lstrip().startswith(_COMMENT)


@dataclass(frozen=True)
class _Table:
    """The table that a separator shows."""

    separator: str
    header: _Record
    names: list[str]
    units: list[str]
    last: _Record  # the last record before the rows
    rows: list[_Record]
    score: float
    has_values: bool


def find_dialect(
    head: bytes,
    source: str,
    *,
    sep: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
) -> Dialect:
    """Find how a CSV file is written.

    Parameters
    ----------
    head : bytes
        The beginning of the file, whole lines.
    source : str
        How errors name the file.
    sep, decimal, encoding : str, optional
        What is known already.

    Raises
    ------
    ValueError
        There is no header, or the lines leave something open; the message names the option that decides.
    """
    if sep is not None and len(sep) != 1:
        raise ValueError(f"Got the separator {sep!r}, expected one character such as ';'. Correct sep= (--sep).")
    if decimal not in (None, ".", ","):
        raise ValueError(f"Got the decimal mark {decimal!r}, expected '.' or ','. Correct decimal= (--decimal).")
    codec, mark = encoding_of(head, encoding, source)
    text = _decode(head[mark:], codec, source)
    if sections := _SECTIONS.search(text):
        return _of_sections(sections, text, codec, mark)
    known, skipped, lines = _named_separator(text)
    named = sep or known
    marks = [named] if named else [mark for mark in _SEPARATORS if mark in text] or [","]
    records = {mark: list(_records(text[skipped:], mark, lines)) for mark in marks}
    first = next(iter(records.values()))
    if all(record.is_blank for record in first):
        raise NoTableError(f"{source} has no header line; the first line of a CSV file names its columns. Add it.")
    table = _best([_table_of(*some) for some in records.items()], source)
    if table is not None and len(table.names) == 1 and not named:
        _refuse_spaces(text[skipped:], source)
    if table is not None and not named:
        _refuse_joined(table, source)
    if table is None:
        raise _no_table(records, source)
    names = [_readable(name) for name in table.names]
    before = text[: skipped + table.last.end]
    return Dialect(
        encoding=codec,
        separator=table.separator,
        decimal=decimal or _decimal_of(table.rows, table.separator, source),
        names=tuple(names),
        units=tuple(_readable(unit) for unit in table.units),
        begin=mark + len(before.encode(codec, "surrogateescape")),
        line=1 + len(re.findall(r"\r\n|\n|\r", before)),
        complete=table.has_values,
    )


def is_value(cell: str) -> bool:
    """Return whether a cell looks like a number, a truth value, a date or a time."""
    return _VALUE.search(cell) is not None


def is_no_row(cells: list[str], names: list[str]) -> bool:
    """Return whether a line is empty, a comment, or the header again."""
    if not any(cell.strip(" \t\0\xa0") for cell in cells):
        return True
    return (cells[0].startswith("#") and len(cells) != len(names)) or [cell.strip() for cell in cells] == names


def _of_sections(sections: re.Match[str], text: str, codec: str, mark: int) -> Dialect:
    """Return the dialect of a VBO file: sections, of which the last has rows with spaces between their cells."""
    names = [name.strip() for name in sections[1].split()]
    before = text[: sections.end()]
    first = text[sections.end() :].splitlines()[:1]
    trailing = [""] * (first != [] and len(first[0].split(" ")) == len(names) + 1 and first[0].endswith(" "))
    units = ["hhmmss" if name.casefold() == "time" else "" for name in names]
    return Dialect(
        encoding=codec, separator=" ", decimal=".", names=(*names, *trailing), units=(*units, *trailing),
        begin=mark + len(before.encode(codec, "surrogateescape")), line=1 + before.count("\n"), complete=True,
    )  # fmt: skip


def with_decimal(dialect: Dialect, cells: list[list[str]], source: str) -> Dialect:
    """Return the dialect with the decimal mark that more rows show, if none has shown it so far."""
    if dialect.decimal:
        return dialect
    rows = [_Record(row, 0, 0) for row in cells if len(row) == len(dialect.names)]
    return replace(dialect, decimal=_decimal_of(rows, dialect.separator, source))


# --- text -----------------------------------------------------------------------------------------------


def encoding_of(head: bytes, given: str | None, source: str) -> tuple[str, int]:
    """Return the encoding, and the number of bytes of the byte order mark."""
    marks = [(codec, len(mark)) for mark, codec in _BOMS if head.startswith(mark)]
    if given is not None:
        try:
            codec = codecs.lookup(given).name
        except LookupError:
            raise ValueError(
                f"Got the encoding {given!r} for {source}, expected one such as utf-8, utf-16 or cp1252. Correct "
                f"encoding= (--encoding)."
            ) from None
        if marks and codec in ("utf-16", "utf-32", "utf-8-sig", marks[0][0]):
            return marks[0]
        return {"utf-16": "utf-16-le", "utf-32": "utf-32-le", "utf-8-sig": "utf-8"}.get(codec, codec), 0
    if marks:
        return marks[0]
    some = head[:4096]
    for codec, places in (("utf-16-le", some[1::2]), ("utf-16-be", some[::2])):
        if len(some) > 3 and places.count(0) > 0.6 * len(places) and some.count(0) < 1.3 * places.count(0):
            return codec, 0
    return "utf-8", 0


def _decode(head: bytes, codec: str, source: str) -> str:
    """Return the head as text. Bytes that are not UTF-8 stay, so that lengths in bytes are right."""
    width = {"utf-16": 2, "utf-32": 4}.get(codec[:6], 1)
    head = head[: len(head) - len(head) % width]
    try:
        return head.decode(codec, "surrogateescape" if codec == "utf-8" else "strict")
    except UnicodeDecodeError as error:
        if error.end >= len(head) - 4:  # a character that the end of the head cuts
            return head[: error.start].decode(codec, "replace")
        raise ValueError(
            f"{source} is not in the encoding {codec}: byte {error.start} cannot be read. Pass encoding= "
            f"(--encoding), such as cp1252."
        ) from error


def _readable(text: str) -> str:
    return text_of(text.encode("utf-8", "surrogateescape")).strip()


def _named_separator(text: str) -> tuple[str | None, int, int]:
    """Return the separator that the line ``sep=;`` names, and the length and the number of such lines."""
    match = re.match(r'"?sep=(.)"?[ ;,]*(\r\n|\n|\r)', text, re.IGNORECASE)
    return (None, 0, 0) if match is None else (match[1], match.end(), 1)


def _records(text: str, separator: str, lines: int) -> Iterator[_Record]:
    place, line = 0, 1

    def physical() -> Iterator[str]:
        nonlocal place
        for match in re.finditer(r"[^\r\n]*(\r\n|\n|\r)|[^\r\n]+\Z", text):
            place = match.end()
            yield match[0]

    reader = csv.reader(physical(), delimiter=separator)
    try:
        for count, cells in enumerate(reader):
            yield _Record(cells, place, lines + line)
            line = reader.line_num + 1
            if count == _RECORDS:
                return
    except csv.Error:  # a field of 128 KB: no table
        return


# --- table ----------------------------------------------------------------------------------------------


def _table_of(separator: str, records: list[_Record]) -> _Table | None:
    """Return the table that a separator shows; None if rows differ in width."""
    used = [record for record in records if not record.is_blank and not record.is_comment]
    used = used or [record for record in records if not record.is_blank]
    if not used:
        return None
    width = _width(used)
    begin = next((i for i, record in enumerate(used) if abs(len(record.cells) - width) <= 1), 0)
    numeric = _numeric_places(used[begin + 1 :], width)
    start = next((i for i in range(begin, len(used)) if _is_row(used[i], width, numeric)), len(used))
    if (start == begin and not _counts(used[begin]) and numeric) or (begin and width == 1):
        return None
    place = _header_place(records, used, begin, start, numeric) if numeric else begin
    header = used[place]
    if place and 2 * sum(is_value(cell) for cell in header.cells) >= len(header.cells):
        return None
    names = _names(header, width, used[place + 1 :])
    if names is None:
        return None
    rows = used[place + 1 :]
    units, last = [""] * len(names), header
    if rows and _is_units(rows[0], numeric):
        units = [cell.strip().strip("[]()") for cell in (*rows[0].cells, *units)][: len(names)]
        described = 1 + next((i for i, row in enumerate(rows[1:]) if _is_row(row, width, numeric)), 0)
        last, rows = rows[described - 1], rows[described:]
    fitting = [row for row in rows if len(row.cells) == len(names)]
    if len(fitting) < 0.8 * len(rows):
        return None
    clean = [_is_clean(cell, separator) for row in (header, *fitting) for cell in row.cells]
    score = len(names) * sum(clean) / len(clean) * (len(fitting) + 1) / (len(rows) + 1)
    if not all(clean[: len(header.cells)]):
        score /= 2
    return _Table(separator, header, names, units, last, fitting, score, bool(numeric and fitting))


def _width(used: list[_Record]) -> int:
    """Return the usual number of cells of the last records: a preamble comes before."""
    return Counter(len(record.cells) for record in used[len(used) // 2 :]).most_common(1)[0][0]


def _numeric_places(records: list[_Record], width: int) -> list[int]:
    """Return the columns in which half of the last cells that are not missing are values, or more."""
    tail = [record.cells for record in records if len(record.cells) == width]
    tail = tail[len(tail) // 2 :]
    places = []
    for place in range(width):
        filled = [cells[place] for cells in tail if not is_missing(cells[place])]
        if filled and sum(is_value(cell) for cell in filled) * 2 >= len(filled):
            places.append(place)
    return places


def _is_row(record: _Record, width: int, numeric: list[int]) -> bool:
    """Return whether most columns of values hold values, or all of them nothing."""
    if len(record.cells) != width or not numeric:
        return False
    cells = [record.cells[place] for place in numeric if not is_missing(record.cells[place])]
    return not cells or 2 * sum(is_value(cell) for cell in cells) > len(cells)


def _counts(record: _Record) -> bool:
    """Return whether a header numbers its columns, as pandas does if they have no names."""
    cells = [cell.strip() for cell in record.cells]
    return any(cells == [str(i + first) for i in range(len(cells))] for first in (0, 1)) or (
        cells[0] == "" and cells[1:] == [str(i) for i in range(len(cells) - 1)] and len(cells) > 1
    )


def _header_place(records: list[_Record], used: list[_Record], begin: int, start: int, numeric: list[int]) -> int:
    """Return the place of the header in the lines of text above the first row."""
    if start == begin:  # a header of numbers
        return begin
    blank = [record.line for record in records if record.is_blank and record.line < used[start - 1].line]
    after = [i for i in range(begin, start) if not blank or used[i].line > blank[-1]]
    named = [i for i in after if all(map(str.strip, used[i].cells)) and not _is_units(used[i], numeric)]
    timed = [i for i in after if place_of_time([_bare(cell) for cell in used[i].cells]) is not None]
    if timed:
        return timed[-1]
    return after[0] if after[0] in named or not named else named[-1]


def _bare(cell: str) -> str:
    return re.split(r"[\[(]", cell)[0].strip() or cell


def _names(header: _Record, width: int, rows: list[_Record]) -> list[str] | None:
    """Return the names of all cells of a row; a trailing separator gives a last one without a name."""
    names = list(header.cells)
    if not rows or len(names) == width:
        return names
    if len(names) == width - 1 and all(not row.cells[-1].strip() for row in rows if len(row.cells) == width):
        return [*names, ""]
    if len(names) == width + 1 and not names[-1].strip():
        return names[:-1]
    return None


def _is_units(record: _Record, numeric: list[int]) -> bool:
    """Return whether a line below the header holds units."""
    cells = [record.cells[place] for place in numeric if place < len(record.cells)]
    filled = [cell for cell in cells if cell.strip()]
    if not filled or any(is_value(cell) and cell.strip() != "1" for cell in filled):
        return False
    return 2 * sum(is_unit(cell) and cell.strip() not in ("-", "1") for cell in filled) > len(filled) or (
        any(is_unit(cell) and not is_missing(cell) for cell in filled) and all(map(is_unit, filled))
    )


def _is_clean(cell: str, separator: str) -> bool:
    """Return whether a cell holds no separator that may have been meant to end it."""
    others = [other for other in _SEPARATORS if other != separator and other in cell.strip()]
    return not others or (others == [","] and is_value(cell))


def _best(tables: list[_Table | None], source: str) -> _Table | None:
    """Return the table with the most clean cells in a row; refuse if two are as good.

    A table has one column only if no separator gives it more.
    """
    several = sorted((table for table in tables if table and len(table.names) > 1), key=lambda table: -table.score)
    if len(several) > 1 and several[1].score > 0.9 * several[0].score:
        first, second = (_SEPARATORS.get(table.separator, table.separator) for table in several[:2])
        raise ValueError(
            f"{source} may have the {first} or the {second} between its cells: line {several[0].header.line} is "
            f"{_shown(several[0].header)}. Pass sep= (--sep) to say which."
        )
    return several[0] if several else (tables[0] if None not in tables else None)


def _no_table(records: dict[str, list[_Record]], source: str) -> ValueError:
    """Return the error for lines that are no table with a header."""
    separator = max(records, key=lambda sep: sum(len(record.cells) for record in records[sep]))
    used = [record for record in records[separator] if not record.is_blank and not record.is_comment]
    width = _width(used)
    if _is_row(used[0], width, _numeric_places(used, width)):
        return ValueError(
            f"{source} has no header line: line {used[0].line} holds values ({_shown(used[0])}) where the names of the "
            f"columns are expected. Add a line with their names."
        )
    header = used[0]
    other = next((record for record in used[1:] if len(record.cells) != len(header.cells)), header)
    return NoTableError(
        f"{source} cannot be read as CSV: line {header.line} has {len(header.cells)} cells ({_shown(header)}), and "
        f"line {other.line} has {len(other.cells)} ({_shown(other)}). Repair the file, or pass sep= (--sep) if the "
        f"cells are not separated by the {_SEPARATORS.get(separator, repr(separator))}."
    )


def _refuse_joined(table: _Table, source: str) -> None:
    """Refuse cells that are numbers with another separator between them."""
    cells = [cell for row in table.rows for cell in row.cells]
    joined = [cell for cell in cells if _JOINED.search(cell) and not _is_clean(cell, table.separator)]
    if len(joined) > 0.2 * len(cells):
        raise ValueError(
            f"{source} has cells such as {joined[0]!r} if the {_SEPARATORS.get(table.separator, table.separator)} "
            f"separates them. Pass sep= (--sep) to say what does, or repair the header."
        )


def _refuse_spaces(text: str, source: str) -> None:
    """Refuse a table of one column that would have several of numbers if spaces separated its cells."""
    table = _table_of(" ", list(_records(text, " ", 0)))
    if table is not None and table.has_values and len(table.names) > 1:
        raise ValueError(
            f"{source} has one column, but would have {len(table.names)} columns if spaces separated its cells "
            f"({_shown(table.header)}). Pass sep= (--sep) ' ' if they do, or ',' if not."
        )


def _shown(record: _Record) -> str:
    cells = ", ".join(repr(_readable(cell)[:20]) for cell in record.cells[:4])
    return cells + (", …" if len(record.cells) > 4 else "")


# --- decimal mark ---------------------------------------------------------------------------------------


def _decimal_of(rows: list[_Record], separator: str, source: str) -> str:
    """Return the decimal mark that cells show; empty if none does."""
    sure: dict[str, tuple[_Record, str]] = {}
    open_: dict[str, tuple[_Record, str]] = {}
    places = _numeric_places(rows, len(rows[0].cells)) if rows else []
    for row in rows:
        for cell in (row.cells[place] for place in places):
            if match := _DECIMALS.match(cell):
                (open_ if _THOUSANDS.match(cell) else sure).setdefault(match[1], (row, cell))
    if len(sure) == 2:
        (first, cell), (second, other) = sure["."], sure[","]
        raise ValueError(
            f"{source} has cells with a decimal point ({cell.strip()!r} in line {first.line}) and with a decimal comma "
            f"({other.strip()!r} in line {second.line}). Pass decimal= (--decimal) to say which one it is."
        )
    if sure:
        return next(iter(sure))
    doubtful = open_.get(",") or (open_.get(".") if separator == ";" else None)
    if doubtful and separator != ",":
        row, cell = doubtful
        raise ValueError(
            f"{source} has the cell {cell.strip()!r} in line {row.line}, which may have decimals or thousands. Pass "
            f"decimal= (--decimal) '.' or ',' to say which mark begins the decimals."
        )
    return "." if open_ and "." in open_ else ""
