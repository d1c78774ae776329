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
import re
from dataclasses import dataclass, replace

from anomalyvae.tables.layout import (
    SEPARATORS,
    SIGN,
    NoTableError,
    Record,
    best_table,
    no_table,
    numeric_columns,
    readable,
    records_of,
    refuse_joined,
    refuse_one_column,
    refuse_spaces,
    table_of,
)  # fmt: skip

HEAD = 1 << 18  # bytes that show the dialect
_NO_TEXT = {
    b"\x1f\x8b": "compressed (gzip)",
    b"PK\x03\x04": "a ZIP archive or a workbook of a spreadsheet",
    b"\xd0\xcf\x11\xe0": "a workbook of an older spreadsheet",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF file",
    b"<html": "a web page",
    b"<!DOCTYPE": "a web page",
    b"<table": "a table of a web page",
    b"<?xml": "an XML file",
}
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECIMALS = re.compile(SIGN + r"\d*([.,])\d+([eE][+-]?\d+)?\s*$")
_THOUSANDS = re.compile(SIGN + r"[1-9]\d{0,2}([.,]\d{3})+\s*$")
_LINE_END = r"(?:\r\n|\n|\r)"
_SECTIONS = re.compile(
    rf"(?:^|\r)\[column names\]\s*{_LINE_END}([^\r\n]*).*?(?:^|\r)\[data\][ \t]*{_LINE_END}",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written."""

    encoding: str
    separator: str
    decimal: str  # "." or ","; empty if the first lines do not show it
    names: tuple[str, ...]  # of the columns, in the order of the cells in a row
    units: tuple[str, ...]  # empty where there is none
    begin: int  # how many bytes come before the first row
    line: int  # the number of its line
    complete: bool  # whether a row of values has been seen; without one, later lines may change all of this


def find_dialect(
    head: bytes,
    source: str,
    *,
    sep: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
) -> Dialect:
    """Find how a CSV file is written, from its beginning, whole lines; ``source`` names it in errors.

    Raises ValueError if there is no header, or if the lines can be read in two ways; the message names the option that
    decides.
    """
    if sep is not None and len(sep) != 1:
        raise ValueError(f"Got the separator {sep!r}, expected one character such as ';'. Correct sep= (--sep).")
    if decimal not in (None, ".", ","):
        raise ValueError(f"Got the decimal mark {decimal!r}, expected '.' or ','. Correct decimal= (--decimal).")
    kind = next((kind for magic, kind in _NO_TEXT.items() if head.startswith(magic)), None)
    if kind is not None:
        raise ValueError(f"{source} is {kind}, expected a CSV file. Unpack it, or export it as CSV.")
    codec, mark = encoding_of(head, encoding, source)
    text = _decode(head[mark:], codec, source)
    if sections := _SECTIONS.search(text):
        return _of_sections(sections, text, codec, mark)
    known, skipped, lines = _named_separator(text)
    named = sep or known
    marks = [named] if named else [mark for mark in SEPARATORS if mark in text] or [","]
    records = {mark: list(records_of(text[skipped:], mark, lines)) for mark in marks}
    first = next(iter(records.values()))
    if all(record.is_blank for record in first):
        raise NoTableError(f"{source} has no header line; the first line of a CSV file names its columns. Add it.")
    table = best_table([table_of(*some) for some in records.items()], source)
    if table is not None and len(table.names) == 1:
        if not named:
            refuse_spaces(text[skipped:], source)
        refuse_one_column(table, named, source)
    if table is not None and not named:
        refuse_joined(table, source)
    if table is None:
        raise no_table(records, source)
    names = [readable(name) for name in table.names]
    before = text[: skipped + table.last.end]
    return Dialect(
        encoding=codec,
        separator=table.separator,
        decimal=decimal or _decimal_of(table.rows, table.separator, source),
        names=tuple(names),
        units=tuple(readable(unit) for unit in table.units),
        begin=mark + len(before.encode(codec, "surrogateescape")),
        line=1 + len(re.findall(_LINE_END, before)),
        complete=table.has_values,
    )


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
    begin, line = mark + len(before.encode(codec, "surrogateescape")), 1 + len(re.findall(_LINE_END, before))
    return Dialect(
        encoding=codec, separator=" ", decimal=".", names=(*names, *trailing), units=(*units, *trailing),
        begin=begin, line=line, complete=True,
    )  # fmt: skip


def with_decimal(dialect: Dialect, cells: list[list[str]], source: str) -> Dialect:
    """Return the dialect with the decimal mark that more rows show, if none has shown it so far."""
    if dialect.decimal:
        return dialect
    rows = [Record(row, 0, 0) for row in cells if len(row) == len(dialect.names)]
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
    for codec, halves in (("utf-16-le", some[1::2]), ("utf-16-be", some[::2])):
        if len(some) > 3 and halves.count(0) > 0.6 * len(halves) and some.count(0) < 1.3 * halves.count(0):
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


def _named_separator(text: str) -> tuple[str | None, int, int]:
    """Return the separator that the line ``sep=;`` names, and the length and the number of such lines."""
    match = re.match(r'"?sep=(.)"?[ ;,]*(\r\n|\n|\r)', text, re.IGNORECASE)
    return (None, 0, 0) if match is None else (match[1], match.end(), 1)


# --- decimal mark ---------------------------------------------------------------------------------------


def _decimal_of(rows: list[Record], separator: str, source: str) -> str:
    """Return the decimal mark that cells show; empty if none does."""
    sure: dict[str, tuple[Record, str]] = {}
    open_: dict[str, tuple[Record, str]] = {}
    numeric = numeric_columns(rows, len(rows[0].cells)) if rows else []
    for row in rows:
        for cell in (row.cells[index] for index in numeric):
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
