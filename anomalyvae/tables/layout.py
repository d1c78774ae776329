"""Which separator makes a table of the first lines of a CSV file, and where in it header, units and rows are.

The rules are in :mod:`anomalyvae.tables.dialect`.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from anomalyvae.tables.cells import is_missing, text_of
from anomalyvae.tables.names import index_of_time, is_unit

_RECORDS = 250  # that show it
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
SIGN = r"^\s*[+\-−]?"
_VALUE = re.compile(
    SIGN + r"(\d[\d.,'\s]*([eE][+-]?\d+)?|[.,]\d+([eE][+-]?\d+)?|0x[0-9a-fA-F]+|inf|nan|true|false)\s*$"
    r"|\d:\d\d|\d{4}-\d\d-\d\d|\d{1,2}[-./ ]\w{1,3}[-./ ]\d{2,4}|\d{4}/\d\d/\d\d",
    re.IGNORECASE,
)
_JOINED = re.compile(r"\d\s*[;|\t]\s*[+\-−]?[\d.,]")
_SEVERAL = re.compile(r"\s*[+\-−]?\d[\d.]*([eE][+-]?\d+)?(\s+|\s*[~^!&#@]\s*)[+\-−]?[\d.]")  # numbers
_COMMENT = ("#", "//", "%", "!")


class NoTableError(ValueError):
    """The lines are no table with a header, or not yet."""


@dataclass(frozen=True)
class Record:
    """A record of CSV: its cells, and where it is."""

    cells: list[str]
    end: int  # its offset in the text
    line: int  # its first line, from 1

    @property
    def is_blank(self) -> bool:
        """Whether it has no text."""
        return not any(cell.strip(" \t\0\xa0") for cell in self.cells)

    @property
    def is_comment(self) -> bool:
        """Whether it begins as a comment does."""
        return self.cells[0].lstrip().startswith(_COMMENT)


@dataclass(frozen=True)
class Table:
    """The table that a separator shows."""

    separator: str
    header: Record
    names: list[str]
    units: list[str]
    last: Record  # the last record before the rows
    rows: list[Record]
    score: float
    has_values: bool


def is_value(cell: str) -> bool:
    """Return whether a cell looks like a number, a truth value, a date or a time."""
    return _VALUE.search(cell) is not None


def readable(text: str) -> str:
    """Return text of the head without spaces around it, its bytes that are not UTF-8 as those of cp1252."""
    return text_of(text.encode("utf-8", "surrogateescape")).strip().strip("\ufeff")  # in the middle of joined files


def records_of(text: str, separator: str, lines: int) -> Iterator[Record]:
    """Yield the first records of a text; ``lines`` come before it."""
    offset, line = 0, 1

    def physical() -> Iterator[str]:
        nonlocal offset
        for match in re.finditer(r"[^\r\n]*(\r\n|\n|\r)|[^\r\n]+\Z", text):
            offset = match.end()
            yield match[0]

    reader = csv.reader(physical(), delimiter=separator)
    try:
        for count, cells in enumerate(reader):
            yield Record(cells, offset, lines + line)
            line = reader.line_num + 1
            if count == _RECORDS:
                return
    except csv.Error:  # a field of 128 KB: no table
        return


def table_of(separator: str, records: list[Record]) -> Table | None:
    """Return the table that a separator shows; None if rows differ in width."""
    used = [record for record in records if not record.is_blank and not record.is_comment]
    used = used or [record for record in records if not record.is_blank]
    if not used:
        return None
    width = _width(used)
    begin = next((i for i, record in enumerate(used) if abs(len(record.cells) - width) <= 1), 0)
    numeric = numeric_columns(used[begin + 1 :], width)
    start = next((i for i in range(begin, len(used)) if _is_row(used[i], width, numeric)), len(used))
    if (start == begin and not _counts(used[begin]) and numeric) or (begin and width == 1):
        return None
    index = _header_index(records, used, begin, start, numeric) if numeric else begin
    header = used[index]
    if index and 2 * sum(is_value(cell) for cell in header.cells) >= len(header.cells):
        return None
    names = _names(header, width, used[index + 1 :])
    if names is None:
        return None
    rows = used[index + 1 :]
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
    return Table(separator, header, names, units, last, fitting, score, bool(numeric and fitting))


def _width(used: list[Record]) -> int:
    """Return the usual number of cells of the last records: a preamble comes before."""
    return Counter(len(record.cells) for record in used[len(used) // 2 :]).most_common(1)[0][0]


def numeric_columns(records: list[Record], width: int) -> list[int]:
    """Return the columns in which half of the last cells that are not missing are values, or more."""
    tail = [record.cells for record in records if len(record.cells) == width]
    tail = tail[len(tail) // 2 :]
    indices = []
    for index in range(width):
        filled = [cells[index] for cells in tail if not is_missing(cells[index])]
        if filled and sum(is_value(cell) for cell in filled) * 2 >= len(filled):
            indices.append(index)
    return indices


def _is_row(record: Record, width: int, numeric: list[int]) -> bool:
    """Return whether most columns of values hold values, or all of them nothing."""
    if len(record.cells) != width or not numeric:
        return False
    cells = [record.cells[index] for index in numeric if not is_missing(record.cells[index])]
    return not cells or 2 * sum(is_value(cell) for cell in cells) > len(cells)


def _counts(record: Record) -> bool:
    """Return whether a header numbers its columns, as pandas does if they have no names."""
    cells = [cell.strip() for cell in record.cells]
    return any(cells == [str(i + first) for i in range(len(cells))] for first in (0, 1)) or (
        cells[0] == "" and cells[1:] == [str(i) for i in range(len(cells) - 1)] and len(cells) > 1
    )


def _header_index(records: list[Record], used: list[Record], begin: int, start: int, numeric: list[int]) -> int:
    """Return the index of the header in the lines of text above the first row."""
    if start == begin:  # a header of numbers
        return begin
    blank = [record.line for record in records if record.is_blank and record.line < used[start - 1].line]
    after = [i for i in range(begin, start) if not blank or used[i].line > blank[-1]]
    named = [i for i in after if all(map(str.strip, used[i].cells)) and not _is_units(used[i], numeric)]
    timed = [i for i in after if index_of_time([_bare(cell) for cell in used[i].cells]) is not None]
    if timed:
        return timed[-1]
    return after[0] if after[0] in named or not named else named[-1]


def _bare(cell: str) -> str:
    return re.split(r"[\[(]", cell)[0].strip() or cell


def _names(header: Record, width: int, rows: list[Record]) -> list[str] | None:
    """Return the names of all cells of a row; a trailing separator gives a last one without a name."""
    names = list(header.cells)
    if not rows or len(names) == width:
        return names
    if len(names) == width - 1 and all(not row.cells[-1].strip() for row in rows if len(row.cells) == width):
        return [*names, ""]
    if len(names) == width + 1 and not names[-1].strip():
        return names[:-1]
    return None


def _is_units(record: Record, numeric: list[int]) -> bool:
    """Return whether a line below the header holds units."""
    cells = [record.cells[index] for index in numeric if index < len(record.cells)]
    filled = [cell for cell in cells if cell.strip()]
    if not filled or any(is_value(cell) and cell.strip() != "1" for cell in filled):
        return False
    return 2 * sum(is_unit(cell) and cell.strip() not in ("-", "1") for cell in filled) > len(filled) or (
        any(is_unit(cell) and not is_missing(cell) for cell in filled) and all(map(is_unit, filled))
    )


def _is_clean(cell: str, separator: str) -> bool:
    """Return whether a cell holds no separator that may have been meant to end it."""
    others = [other for other in SEPARATORS if other != separator and other in cell.strip()]
    return not others or (others == [","] and is_value(cell))


def best_table(tables: list[Table | None], source: str) -> Table | None:
    """Return the table with the most clean cells in a row; refuse if two are as good.

    A table has one column only if no separator gives it more.
    """
    several = sorted((table for table in tables if table and len(table.names) > 1), key=lambda table: -table.score)
    if len(several) > 1 and several[1].score > 0.9 * several[0].score:
        first, second = (SEPARATORS.get(table.separator, table.separator) for table in several[:2])
        raise ValueError(
            f"{source} may have the {first} or the {second} between its cells: line {several[0].header.line} is "
            f"{_shown(several[0].header)}. Pass sep= (--sep) to say which."
        )
    return several[0] if several else (tables[0] if None not in tables else None)


def no_table(records: dict[str, list[Record]], source: str) -> ValueError:
    """Return the error for lines that are no table with a header."""
    separator = max(records, key=lambda sep: sum(len(record.cells) for record in records[sep]))
    used = [record for record in records[separator] if not record.is_blank and not record.is_comment]
    width = _width(used)
    if _is_row(used[0], width, numeric_columns(used, width)):
        return ValueError(
            f"{source} has no header line: line {used[0].line} holds values ({_shown(used[0])}) where the names of the "
            f"columns are expected. Add a line with their names."
        )
    header = used[0]
    other = next((record for record in used[1:] if len(record.cells) != len(header.cells)), header)
    return NoTableError(
        f"{source} cannot be read as CSV: line {header.line} has {len(header.cells)} cells ({_shown(header)}), and "
        f"line {other.line} has {len(other.cells)} ({_shown(other)}). Repair the file, or pass sep= (--sep) if the "
        f"cells are not separated by the {SEPARATORS.get(separator, repr(separator))}."
    )


def refuse_joined(table: Table, source: str) -> None:
    """Refuse cells that are numbers with another separator between them."""
    cells = [cell for row in table.rows for cell in row.cells]
    joined = [cell for cell in cells if _JOINED.search(cell) and not _is_clean(cell, table.separator)]
    if len(joined) > 0.2 * len(cells):
        raise ValueError(
            f"{source} has cells such as {joined[0]!r} if the {SEPARATORS.get(table.separator, table.separator)} "
            f"separates them. Pass sep= (--sep) to say what does, or repair the header."
        )


def refuse_one_column(table: Table, named: str | None, source: str) -> None:
    """Refuse a table of one column whose cells or header show that something else separates several."""
    cells = [row.cells[0] for row in table.rows]
    shown = next((cell for cell in cells if _SEVERAL.match(cell)), "")
    if 2 * sum(_SEVERAL.match(cell) is not None for cell in cells) <= len(cells):
        others = [other for other in SEPARATORS if other != table.separator]
        shown = table.header.cells[0] if named and any(other in table.header.cells[0] for other in others) else ""
    if shown:
        raise ValueError(
            f"{source} has one column if {SEPARATORS.get(table.separator, repr(table.separator))}s separate its cells, "
            f"but {readable(shown)[:40]!r} looks like several. Pass sep= (--sep) to say what separates them."
        )


def refuse_spaces(text: str, source: str) -> None:
    """Refuse a table of one column that would have several of numbers if spaces separated its cells."""
    table = table_of(" ", list(records_of(text, " ", 0)))
    if table is not None and table.has_values and len(table.names) > 1:
        raise ValueError(
            f"{source} has one column, but would have {len(table.names)} columns if spaces separated its cells "
            f"({_shown(table.header)}). Pass sep= (--sep) ' ' if they do, or ',' if not."
        )


def _shown(record: Record) -> str:
    cells = ", ".join(repr(readable(cell)[:20]) for cell in record.cells[:4])
    return cells + (", …" if len(record.cells) > 4 else "")
